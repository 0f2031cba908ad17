//! Learners, and a node that the cluster does without.

use http::Method;
use ruvector_cluster::client::control::Call;
use ruvector_cluster::client::wire::{ClusterView, MemberRole};
use ruvector_cluster::{Cluster, ClusterConfig, ClusterError};
use serde_json::Value;

use crate::support::{DEADLINE, wait_for};
use crate::{Places, settled};

async fn view(cluster: &Cluster) -> ClusterView {
    cluster.client().unwrap().send(&Call::get("/v1/cluster")).await.unwrap().body
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_beyond_max_voters_stay_learners_and_read_from_their_replica() {
    let places = Places::new(3);
    let config = |node| ClusterConfig {
        max_voters: 2,
        seeds: vec![places.addr(0), places.addr(1)],
        ..places.config(node)
    };
    let voters = settled([config(0), config(1)]).await;
    let joined = settled([config(2)]).await;
    let learner = &joined[0];
    let members = view(learner).await.members;
    let roles: Vec<(&str, MemberRole)> = members.iter().map(|m| (m.id.as_str(), m.role)).collect();
    let (voter, third) = (MemberRole::Voter, MemberRole::Learner);
    assert_eq!(roles, [("node-1", voter), ("node-2", voter), ("node-3", third)]);
    assert!(!learner.is_leader().await);
    // Its replica answers, also linearizable reads.
    let key = "a key";
    assert_eq!(learner.get_shard_for_key(key).unwrap(), voters[0].get_shard_for_key(key).unwrap());
    assert_eq!(learner.nodes().await.unwrap().len(), 3);
    assert_eq!(learner.health().await.unwrap().failures_tolerated, 0);
    for cluster in joined.iter().chain(&voters) {
        cluster.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_ends_its_own_cluster_and_no_other() {
    let places = Places::new(3);
    let clusters = settled((0..3).map(|node| places.config(node))).await;
    let call = Call::write(Method::DELETE, "/v1/members/node-3", &serde_json::json!({})).unwrap();
    let client = clusters[0].client().unwrap();
    client.send::<Value>(&call).await.unwrap();
    wait_for("the removed node to have ended", DEADLINE, async || match clusters[2].health().await {
        Err(ClusterError::Failed(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(matches!(clusters[2].stop().await, Err(ClusterError::Failed(_))));
    clusters[2].stop().await.unwrap();
    for cluster in &clusters[..2] {
        assert_eq!(view(cluster).await.members.len(), 2);
        cluster.nodes().await.unwrap();
    }
    for cluster in &clusters[..2] {
        cluster.stop().await.unwrap();
    }
}
