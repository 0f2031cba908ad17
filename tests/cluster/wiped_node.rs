//! A data node wiped and started under its old name: it loses its in-sync seats, no shard is promoted onto its emptiness,
//! and it is filled again.

use std::collections::{BTreeMap, BTreeSet};

use ruvector_cluster::client::ids::{Epoch, NodeId, ShardId};
use ruvector_cluster::client::wire::{Node, Shard, WatchChange};

use crate::support::{ControlCluster, DEADLINE, DataNode, Options, Watcher, wait_for};

/// Vectors written before.
const VECTORS: u16 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_loses_its_seats_and_is_never_promoted_empty() {
    let cluster = ControlCluster::start_with(Options::default().shards(8)).await;
    let mut nodes: Vec<DataNode> =
        ["d1", "d2", "d3"].iter().map(|name| DataNode::start(&cluster, name, None)).collect();
    cluster.wait_for_healthy(3).await;
    for n in 0..VECTORS {
        let vector = [f32::from(n), 1.0, 2.0, 3.0];
        wait_for("a write", DEADLINE, async || nodes[1].write(&format!("v{n}"), vector).await).await;
    }
    let wiped: NodeId = nodes[0].name().parse().unwrap();
    let old: Node = cluster.any().get_as("/v1/nodes/d1").await.unwrap();
    let before = cluster.map().await;
    assert!(before.shards.iter().all(|shard| shard.in_sync.contains(&wiped)));

    let watcher = Watcher::start(&cluster).await;
    nodes[0].kill();
    nodes[0].wipe();
    nodes[0].spawn();
    let replaced = wait_for("the new store to be registered", DEADLINE, async || {
        let node: Node = cluster.any().get_as("/v1/nodes/d1").await?;
        if node.store_id == old.store_id { Err(format!("{node:?}")) } else { Ok(node) }
    })
    .await;
    assert!(replaced.incarnation > old.incarnation);
    cluster.wait_for_healthy(3).await;
    let end = cluster.map().await.revision;

    // As the watch tells it: from the revision of the new store on, the node has a seat only where it was a learner copy first.
    let seen = watcher.up_to(end).await;
    let mut is_replaced = false;
    let mut refilled: BTreeSet<ShardId> = BTreeSet::new();
    let mut shards: BTreeMap<ShardId, Shard> = BTreeMap::new();
    for event in &seen.events {
        for change in &event.changes {
            match change {
                WatchChange::Node(node) if node.id == wiped => is_replaced |= node.store_id != old.store_id,
                WatchChange::Shard(shard) => {
                    shards.insert(shard.id, shard.clone());
                }
                _ => {}
            }
        }
        if !is_replaced {
            continue;
        }
        for shard in shards.values() {
            let is_in_sync = shard.in_sync.contains(&wiped);
            if shard.learners.contains(&wiped) && !is_in_sync {
                refilled.insert(shard.id);
            }
            let is_filled = refilled.contains(&shard.id);
            assert!(is_filled || !is_in_sync, "{}: an empty store in sync: {shard:?}", event.revision);
            let leads = shard.primary.as_ref() == Some(&wiped);
            assert!(is_filled || !leads, "{}: an empty store leads: {shard:?}", event.revision);
        }
    }
    assert!(is_replaced, "the watch did not tell of the new store");
    assert_eq!(refilled.len(), 8, "not every shard was copied again: {refilled:?}");

    // What it was given back is whole: it serves alone what the others no longer can.
    nodes[1].kill();
    nodes[2].kill();
    wait_for("the refilled node to lead every shard", DEADLINE, async || {
        let map = cluster.map().await;
        let leads = map.shards.iter().filter(|shard| shard.primary.as_ref() == Some(&wiped)).count();
        if leads == 8 { Ok(()) } else { Err(format!("{leads} of 8")) }
    })
    .await;
    for n in 0..VECTORS {
        let found = wait_for("a read", DEADLINE, async || nodes[0].read(&format!("v{n}")).await).await;
        assert_eq!(found, [f32::from(n), 1.0, 2.0, 3.0]);
    }
    assert!(cluster.map().await.shards.iter().all(|shard| shard.epoch > Epoch(1)));
}
