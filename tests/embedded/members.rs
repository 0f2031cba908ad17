//! Learners, and a node that the cluster does without.

use ruvector_cluster::client::control::Call;
use ruvector_cluster::client::ids::Thousandths;
use ruvector_cluster::client::wire::{ClusterView, MemberRole, RebalanceRequest};
use ruvector_cluster::{Cluster, ClusterConfig, ClusterError, HealthStatus};

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

/// Three seeds became three voters, whatever `max_voters` said.
#[tokio::test(flavor = "multi_thread")]
async fn founders_beyond_max_voters_join_as_learners() {
    let places = Places::new(3);
    let config = |node| ClusterConfig { max_voters: 1, ..places.config(node) };
    let clusters = settled((0..3).map(config)).await;
    let members = view(&clusters[0]).await.members;
    let voters = members.iter().filter(|member| member.role == MemberRole::Voter).count();
    assert_eq!((members.len(), voters), (3, 1));
    for cluster in &clusters {
        cluster.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_without_a_leader() {
    let places = Places::new(2);
    let clusters = settled([places.config(0), places.config(1)]).await;
    clusters[1].stop().await.unwrap();
    let health = clusters[0].health().await.unwrap();
    assert_eq!(health.status, HealthStatus::Unavailable, "{health:?}");
    assert_eq!(health.reasons[0].code, "no_leader");
    clusters[0].stop().await.unwrap();
}

/// Between two waves of migrations none is active, for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_a_node_joins_is_stable_once_all_has_moved() {
    let places = Places::new(3);
    let config = |node| ClusterConfig {
        seeds: vec![places.addr(0), places.addr(1)],
        num_shards: 48,
        replication_factor: 2,
        ..places.config(node)
    };
    let mut clusters = settled([config(0), config(1)]).await;
    clusters.extend(settled([config(2)]).await);
    let plan = clusters[2].plan(RebalanceRequest { dry_run: true, ..Default::default() }).await.unwrap();
    // By the policy it is levelled below 1.05 times the mean; without the newcomer's copies it would stand at 1.5.
    assert!(plan.before.imbalance <= Thousandths(1_050), "{:?}", plan.before);
    for cluster in &clusters {
        cluster.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_ends_its_own_cluster_and_no_other() {
    let places = Places::new(3);
    let founders =
        |node| ClusterConfig { seeds: vec![places.addr(0), places.addr(1)], ..places.config(node) };
    let clusters = settled([founders(0), founders(1)]).await;
    // The name of another one, on a directory of its own: the cluster refuses it.
    let taken = ClusterConfig { node_id: "node-1".to_owned(), ..founders(2) };
    let third = Cluster::new(taken).await.unwrap();
    third.start().await.unwrap();
    let failed = third.wait_for_stable().await.unwrap_err();
    assert!(matches!(&failed, ClusterError::Failed(_)), "{failed}");
    let why = std::error::Error::source(&failed).and_then(std::error::Error::source).unwrap().to_string();
    assert!(why.contains("node-1 is taken"), "{why}");
    assert!(matches!(third.nodes().await, Err(ClusterError::Failed(_))));
    assert!(matches!(third.stop().await, Err(ClusterError::Failed(_))));
    third.stop().await.unwrap();
    for cluster in &clusters {
        assert_eq!(view(cluster).await.members.len(), 2);
        cluster.nodes().await.unwrap();
    }
    for cluster in &clusters {
        cluster.stop().await.unwrap();
    }
}
