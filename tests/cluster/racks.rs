//! No two copies of a shard share a rack while racks suffice, at every revision watched.

use std::collections::{BTreeMap, BTreeSet};

use ruvector_cluster::client::ids::{NodeId, Revision, ShardId};
use ruvector_cluster::client::wire::{Health, HealthStatus, Intent, Node, NodeStatus, Shard};
use serde_json::{Value, json};

use crate::support::watch::replay;
use crate::support::{ControlCluster, DEADLINE, Options, ScriptedNode, Watcher, wait_for};

const RACKS: [&str; 3] = ["r1", "r2", "r3"];

/// Shards that have two full copies in one rack.
fn sharing<'a>(
    shards: &'a BTreeMap<ShardId, Shard>,
    nodes: &'a BTreeMap<NodeId, Node>,
) -> impl Iterator<Item = &'a Shard> {
    shards.values().filter(|shard| {
        let mut racks = BTreeSet::new();
        let copies = shard.primary.iter().chain(&shard.replicas);
        !copies.map(|node| nodes[node].rack.as_ref()).all(|rack| racks.insert(rack))
    })
}

async fn wait_for_rest(cluster: &ControlCluster, nodes: u64) -> Revision {
    wait_for("a healthy cluster without migrations", DEADLINE * 2, async || {
        let health: Health = cluster.any().get_as("/v1/health").await?;
        let active = cluster.any().get("/v1/migrations?active=true").await?;
        let idle = active.body["migrations"].as_array().is_some_and(Vec::is_empty);
        let is_at_rest = health.status == HealthStatus::Healthy && health.healthy_nodes == nodes && idle;
        if !is_at_rest {
            return Err(format!("{health:?}, {}", active.body));
        }
        active.number("x-cluster-revision").map(Revision).ok_or_else(|| "no revision".to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_copies_share_a_rack_while_racks_suffice() {
    let cluster = ControlCluster::start_with(Options::default().shards(24)).await;
    let watcher = Watcher::start(&cluster).await;
    let mut nodes = Vec::new();
    for n in 0..6 {
        nodes.push(ScriptedNode::start(&cluster, &format!("d{n}"), Some(RACKS[n % 3])).await);
    }
    wait_for_rest(&cluster, 6).await;

    // A node joins, and takes its share.
    nodes.push(ScriptedNode::start(&cluster, "d6", Some("r1")).await);
    wait_for("the new node to hold copies", DEADLINE, async || {
        let node: Node = cluster.any().get_as("/v1/nodes/d6").await?;
        if node.shards.is_empty() { Err("none yet") } else { Ok(()) }.map_err(str::to_owned)
    })
    .await;
    wait_for_rest(&cluster, 7).await;

    // A node is drained, down to nothing.
    cluster.any().post_as::<Value>("/v1/nodes/d1/drain", &json!({})).await.unwrap();
    wait_for("the drained node to be empty", DEADLINE, async || {
        let node: Node = cluster.any().get_as("/v1/nodes/d1").await?;
        let is_done = node.intent == Intent::Drained && node.shards.is_empty();
        if is_done { Ok(()) } else { Err(format!("{node:?}")) }
    })
    .await;

    // A node dies: its primaries move, and it comes back before anything is rebuilt.
    let silent = &nodes[2];
    silent.fall_silent();
    wait_for("the silent node to be down", DEADLINE, async || {
        let node: Node = cluster.any().get_as("/v1/nodes/d2").await?;
        if node.status == NodeStatus::Down { Ok(()) } else { Err(format!("{node:?}")) }
    })
    .await;
    wait_for("its primaries to move", DEADLINE, async || {
        let map = cluster.map().await;
        let left = map.shards.iter().filter(|shard| shard.primary.as_ref() == Some(silent.id())).count();
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    silent.speak();
    let end = wait_for_rest(&cluster, 7).await;

    let seen = watcher.up_to(end).await;
    assert!(seen.wrong.is_empty(), "{:?}", seen.wrong);
    let (mut revisions, mut placed) = (0, 0);
    replay(&seen, |revision, shards, nodes| {
        let wrong: Vec<&Shard> = sharing(shards, nodes).collect();
        assert!(wrong.is_empty(), "at revision {revision} copies share a rack: {wrong:?}");
        revisions += 1;
        placed = placed.max(shards.values().filter(|shard| shard.replicas.len() == 2).count());
    });
    assert_eq!(placed, 24, "the watch never saw all shards placed");
    assert!(revisions > 30, "only {revisions} revisions were watched");
}

#[test]
fn the_check_sees_two_copies_in_one_rack() {
    let node = |id: &str, rack: &str| -> Node {
        serde_json::from_value(json!({
            "id": id, "addr": "x:1", "store_id": "s", "zone": null, "rack": rack, "labels": {}, "capacity": 1.0,
            "capacity_bytes": null, "status": "alive", "intent": "schedulable", "incarnation": 1, "shards": [],
            "primaries": 0, "size_bytes": null, "last_heartbeat": null, "revision": 1,
        }))
        .unwrap()
    };
    let shard: Shard = serde_json::from_value(json!({
        "id": 0, "epoch": 1, "primary": "a", "replicas": ["b"], "learners": [], "in_sync": ["a", "b"],
        "in_sync_version": 1, "status": "active", "size_bytes": null, "vectors": null, "revision": 1,
    }))
    .unwrap();
    let shards = BTreeMap::from([(shard.id, shard)]);
    let nodes = |rack_of_b: &str| {
        BTreeMap::from([node("a", "r1"), node("b", rack_of_b)].map(|node| (node.id.clone(), node)))
    };
    assert_eq!(sharing(&shards, &nodes("r1")).count(), 1);
    assert_eq!(sharing(&shards, &nodes("r2")).count(), 0);
}
