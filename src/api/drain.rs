//! Whether a drain can finish: a plan in which the node is draining moves every one of its copies.

use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_client::wire::Plan;

use crate::metadata::{Metadata, Rejection, RejectionCode};
use crate::placement::{self, LoadMoves, PlanOptions};
use crate::soft::Soft;

/// Most shards that a refusal lists.
const MAX_LISTED: usize = 20;

/// What draining `node` takes; `now_ms` is milliseconds since 1970.
///
/// # Errors
/// `NotFound` for an unknown node, and `Invalid` with reasons when copies have nowhere to go.
pub(super) fn plan(state: &Metadata, soft: &Soft, node: &NodeId, now_ms: u64) -> Result<Plan, Rejection> {
    if state.node(node).is_none() {
        let detail = format!("there is no data node {node}");
        return Err(Rejection { code: RejectionCode::NotFound, detail });
    }
    let policy = state.policy();
    let options = PlanOptions {
        assume_draining: Some(node.clone()),
        load: LoadMoves::Watched,
        ..PlanOptions::for_operator(now_ms, policy)
    };
    let plan = placement::plan(state, soft, policy, &options);
    let moved = |shard| plan.moves.iter().any(|m| m.shard == shard && m.from.as_ref() == Some(node));
    let migrating = |shard| state.shard(shard).is_some_and(|row| row.migration.is_some());
    let stuck: Vec<_> = state.shards_of(node).filter(|shard| !moved(*shard) && !migrating(*shard)).collect();
    if stuck.is_empty() {
        return Ok(plan);
    }
    let reasons = stuck.iter().take(MAX_LISTED).map(|shard| {
        let why = plan.infeasible.iter().find(|i| i.shard == *shard);
        let why =
            why.map_or("no node may take its copy".to_owned(), |i| format!("{} ({})", i.detail, i.code));
        format!("shard {shard}: {why}")
    });
    let mut reasons: Vec<String> = reasons.collect();
    if stuck.len() > MAX_LISTED {
        reasons.push(format!("and {} more shards", stuck.len() - MAX_LISTED));
    }
    let detail = format!("draining {node} could not finish: {}", reasons.join("; "));
    Err(Rejection { code: RejectionCode::Invalid, detail })
}
