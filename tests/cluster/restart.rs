//! Control nodes that were away catch up; a cluster that was wholly gone goes on.

use std::time::Duration;

use ruvector_cluster::client::ids::Revision;
use ruvector_cluster::client::wire::{Node, RegisterResponse};
use serde_json::json;

use crate::support::{Api, ControlCluster, DEADLINE, wait_for};

async fn register(api: &Api, name: &str) -> Revision {
    let body = json!({"addr": "127.0.0.1:1", "store_id": format!("store-{name}")});
    let path = format!("/v1/nodes/{name}");
    let answer: RegisterResponse =
        wait_for("a registration", DEADLINE, async || api.put_as(&path, &body).await).await;
    answer.revision
}

/// Waits until control node `node` has applied `revision` itself.
async fn wait_until_applied(cluster: &ControlCluster, node: usize, revision: Revision) {
    wait_for(&format!("n{} to apply {revision}", node + 1), DEADLINE, async || {
        let view = cluster.view(node).await?;
        if view.revision >= revision { Ok(()) } else { Err(format!("at {}", view.revision)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_follower_catches_up_after_its_restart() {
    let mut cluster = ControlCluster::start(3).await;
    let leader = cluster.wait_for_leader().await;
    let follower = (leader + 1) % 3;
    cluster.kill(follower);
    let mut last = Revision(0);
    for n in 0..50 {
        last = register(&cluster.api(leader), &format!("d{n}")).await;
    }
    cluster.spawn(follower);
    wait_until_applied(&cluster, follower, last).await;
    let stale: Node = cluster.api(follower).get_as("/v1/nodes/d49?consistency=stale").await.unwrap();
    assert_eq!(stale.id.as_str(), "d49");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_killed_as_a_whole_goes_on_where_it_was() {
    let mut cluster = ControlCluster::start(3).await;
    let last = register(&cluster.any(), "d1").await;
    let before = cluster.view(0).await.unwrap();
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.spawn(node);
    }
    cluster.wait_for_leader().await;
    for node in 0..3 {
        wait_until_applied(&cluster, node, last).await;
        let after = cluster.view(node).await.unwrap();
        assert_eq!(after.cluster_id, before.cluster_id);
        assert!(after.term > before.term, "{} is no later term than {}", after.term, before.term);
        let found: Node = cluster.api(node).get_as("/v1/nodes/d1").await.unwrap();
        assert_eq!(found.store_id, "store-d1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_leader_hands_over_and_exits_with_0() {
    let mut cluster = ControlCluster::start(3).await;
    let leader = cluster.wait_for_leader().await;
    let status = cluster.process(leader).terminate(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0));
    cluster.forget(leader);
    let successor = cluster.wait_for_leader().await;
    assert_ne!(successor, leader);
    register(&cluster.api(successor), "d1").await;
}
