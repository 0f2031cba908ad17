//! What stands against a move that an operator asks for, by the rules that plans keep and the replicated state alone can't check: it
//! knows no sizes, and a rule on racks that bound it would bind what was decided before a rack was told.

use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_client::wire::RebalancePolicy;

use super::build::{Built, Source};
use super::layout::{Counting, Crowd, Layout};
use super::problem::{NodeIndex, NodeUse};
use super::standing::{Standing, is_spread_instead, standing};
use super::words::Words;
use crate::metadata::{Metadata, ShardRow};
use crate::soft::Soft;

/// The only shard of the problem.
const SHARD: usize = 0;

/// Why the copy of `shard` on `from` can't move to `to`, and who could take it: `to` has no room for it, or stands in a rack or zone
/// that has its share while others don't, and `from` stands elsewhere. None where neither holds, whatever else is wrong. `now_ms` is
/// compared with log time.
pub fn objection(
    metadata: &Metadata,
    soft: &Soft,
    policy: &RebalancePolicy,
    now_ms: u64,
    (shard, from, to): (&ShardRow, &NodeId, &NodeId),
) -> Option<String> {
    let source = Source { metadata, soft, policy, now_ms, assume_draining: None };
    let (why, is_about_room) =
        Asked::of(&Built::of_one(source, shard, Some(to)), from, to)?.against(source)?;
    let built = Built::of_one(source, shard, None);
    let could = Asked::of(&built, from, to)?.takers();
    let words = Words { metadata, soft, policy, now_ms, built: &built };
    match could.is_empty() {
        false => Some(format!("{why}; what could take it: {}", words.names(&could))),
        true if is_about_room => Some(format!("{why}; no other node can take it now")),
        // All others break the rule, too, or take nothing.
        true => None,
    }
}

/// A move of the problem's only shard.
struct Asked<'a> {
    built: &'a Built,
    layout: Layout<'a>,
    from: NodeIndex,
    to: NodeIndex,
}

impl<'a> Asked<'a> {
    /// None where it is no move: of an unknown node, of none that has a full copy, or to one that has a copy.
    fn of(built: &'a Built, from: &NodeId, to: &NodeId) -> Option<Self> {
        let place = |node: &NodeId| built.nodes.binary_search(node).ok();
        let asked = Self { built, layout: Layout::new(&built.problem), from: place(from)?, to: place(to)? };
        let is_move = asked.layout.stands_on(SHARD, asked.from) && !asked.layout.has(SHARD, asked.to);
        is_move.then_some(asked)
    }

    /// What stands against it, and whether that is a want of room.
    fn against(&self, Source { metadata, soft, policy, now_ms, .. }: Source<'_>) -> Option<(String, bool)> {
        let words = Words { metadata, soft, policy, now_ms, built: self.built };
        let spec = &self.built.problem.nodes[self.to];
        let named = |(_, why): (&str, String)| (format!("{} {why}", words.name(self.to)), true);
        match standing(&self.layout, SHARD, self.to) {
            Standing::Closed if spec.usage == NodeUse::Full && spec.weight > 0 => {
                words.use_of(self.to).map(named)
            }
            // The replicated state says why itself.
            Standing::Closed | Standing::Deleting | Standing::Holds | Standing::Idle => None,
            Standing::NoRoom => words.closed(&self.layout, SHARD, self.to).map(named),
            Standing::Crowded(_) | Standing::NoGiver | Standing::Fits(_) => {
                let crowd = self.crowd()?;
                Some((words.crowd(&self.layout, SHARD, self.to, (crowd, Some(self.from))), false))
            }
        }
    }

    /// What would have more than its share, and has not now.
    fn crowd(&self) -> Option<Crowd> {
        if is_spread_instead(&self.layout, SHARD, self.from, self.to) {
            return None;
        }
        let rack = |node: NodeIndex| self.built.problem.nodes[node].rack;
        let zone = |node: NodeIndex| self.built.problem.zone_of_rack[rack(node)];
        let crowd = self.layout.crowd_in(SHARD, rack(self.to), Some(self.from), Counting::All)?;
        let stays = match crowd {
            Crowd::Rack => rack(self.from) == rack(self.to),
            Crowd::Zone => zone(self.from) == zone(self.to),
        };
        (!stays).then_some(crowd)
    }

    fn takers(&self) -> Vec<NodeIndex> {
        let takes = |node: &NodeIndex| {
            self.layout.may_take(SHARD, *node) && is_spread_instead(&self.layout, SHARD, self.from, *node)
        };
        (0..self.built.nodes.len()).filter(takes).collect()
    }
}
