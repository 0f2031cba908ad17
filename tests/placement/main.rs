//! Placement as an operator sees it: a cluster in, a plan out.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod cluster;
mod explain;
mod golden;

use cluster::{Cluster, Condition, NOW_MS};
use ruvector_cluster::client::wire::RebalancePolicy;
use ruvector_cluster::placement::{PlanOptions, Planned, planned};

fn plan(cluster: &Cluster) -> Planned {
    let policy = RebalancePolicy { down_grace_ms: 0, ..RebalancePolicy::default() };
    let (metadata, soft) = cluster.state();
    planned(&metadata, &soft, &policy, &PlanOptions::for_operator(NOW_MS, &policy))
}

#[test]
fn the_same_cluster_told_in_any_order_gets_the_same_plan() {
    let mut cluster = Cluster::empty(200, 12, 4);
    let first = plan(&cluster);
    assert_eq!(cluster.carry_out(&first).first(), None);
    cluster.set_condition(3, Condition::Down);
    cluster.set_condition(7, Condition::Draining);
    let planned = plan(&cluster);
    assert!(planned.plan.moves.len() > 50);
    let mut reversed = cluster.clone();
    reversed.nodes.reverse();
    let last = reversed.nodes.len() - 1;
    for copy in reversed.shards.iter_mut().flat_map(|shard| &mut shard.copies) {
        *copy = last - *copy;
    }
    assert_eq!(plan(&reversed).plan.moves, planned.plan.moves);
}
