//! What stands against a move that an operator asks for, by the rules that plans keep and the replicated state alone can't check: it
//! knows no sizes, and a rule on racks that bound it would bind what was decided before a rack was told.

use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_client::wire::RebalancePolicy;

use super::build::{Built, Source};
use super::layout::{Counting, Layout};
use super::problem::{NodeIndex, NodeUse};
use super::standing::{Standing, is_spread_instead, standing};
use super::words::Words;
use crate::metadata::{Metadata, ShardRow};
use crate::soft::Soft;

/// The only shard of the problem.
const SHARD: usize = 0;

/// Why the copy of `shard` on `from` can't move to `to`, and who could take it: `to` has no room for it, or stands in a rack or zone
/// that has its share, while others don't. None where neither holds, whatever else is wrong. `now_ms` is compared with log time.
pub fn objection(
    metadata: &Metadata,
    soft: &Soft,
    policy: &RebalancePolicy,
    now_ms: u64,
    (shard, from, to): (&ShardRow, &NodeId, &NodeId),
) -> Option<String> {
    let source = Source { metadata, soft, policy, now_ms, assume_draining: None };
    let built = Built::of_one(source, shard);
    let words = Words { metadata, soft, policy, now_ms, built: &built };
    let layout = Layout::new(&built.problem);
    let place = |node: &NodeId| built.nodes.binary_search(node).ok();
    let (from, to) = (place(from)?, place(to)?);
    if layout.has(SHARD, to) || !layout.stands_on(SHARD, from) {
        return None;
    }
    let spread = |node: NodeIndex| is_spread_instead(&layout, SHARD, from, node);
    let spec = &built.problem.nodes[to];
    let is_full = spec.usage == NodeUse::Full && spec.weight > 0;
    let why = match standing(&layout, SHARD, to) {
        Standing::Closed if is_full => words.use_of(to).map(|(_, why)| format!("{} {why}", words.name(to))),
        Standing::NoRoom => {
            words.closed(&layout, SHARD, to).map(|(_, why)| format!("{} {why}", words.name(to)))
        }
        _ if spread(to) => None,
        _ => layout
            .crowd_in(SHARD, spec.rack, Some(from), Counting::All)
            .map(|crowd| words.crowd(&layout, SHARD, to, crowd)),
    }?;
    let could: Vec<NodeIndex> =
        (0..built.nodes.len()).filter(|node| layout.may_take(SHARD, *node) && spread(*node)).collect();
    let instead = if could.is_empty() {
        "no other node can take it now".to_owned()
    } else {
        format!("what could take it: {}", words.names(&could))
    };
    Some(format!("{why}; {instead}"))
}
