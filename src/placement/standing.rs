//! Whether a node may take a copy of a shard, by the rules that plans keep, and else which of them is in the way.
//!
//! Asks the layout what the solver asks it, so that it can't contradict a plan. What a plan wants stands nowhere here: a node that
//! may take a copy need not get one.

use super::layout::{Counting, Crowd, Layout};
use super::problem::{NodeIndex, NodeUse};

/// How a node stands to a shard's next copy. Of several rules that are in the way the first of this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Has a full copy.
    Holds,
    /// Has a copy that fell out of the shard.
    Idle,
    /// Takes no copy of any shard, as its use and weight say.
    Closed,
    /// Still deletes an earlier copy.
    Deleting,
    /// The copy does not fit.
    NoRoom,
    /// Its rack or zone has its share, and none of the copies there can go for this one.
    Crowded(Crowd),
    /// Nothing is missing, and no copy may leave where it is.
    NoGiver,
    /// May take one.
    Fits(Places),
}

/// What a copy on a node could be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Instead of which copies.
    pub(crate) instead_of: Vec<NodeIndex>,
    /// One of those that are missing.
    pub(crate) is_missing: bool,
}

impl Places {
    pub(crate) fn is_none(&self) -> bool {
        self.instead_of.is_empty() && !self.is_missing
    }
}

/// How `node` stands to a copy of `shard`.
pub(crate) fn standing(layout: &Layout<'_>, shard: usize, node: NodeIndex) -> Standing {
    if layout.stands_on(shard, node) {
        return Standing::Holds;
    }
    if layout.has(shard, node) {
        return Standing::Idle;
    }
    if !layout.takes(node) {
        return Standing::Closed;
    }
    if !layout.may_take(shard, node) {
        let is_deleting = layout.problem.shards[shard].barred.contains(&node);
        return if is_deleting { Standing::Deleting } else { Standing::NoRoom };
    }
    let places = places(layout, shard, node);
    if !places.is_none() {
        return Standing::Fits(places);
    }
    let rack = layout.problem.nodes[node].rack;
    let has_giver = layout.copies[shard].iter().any(|copy| may_leave(layout, copy.node));
    let lacks = layout.copies[shard].len() < layout.problem.replication_factor;
    let crowd = layout.crowd_in(shard, rack, None, Counting::Staying).filter(|_| has_giver || lacks);
    crowd.map_or(Standing::NoGiver, Standing::Crowded)
}

/// What a copy on `node` could be as far as zones and racks go, whatever is wrong with the node itself.
pub(crate) fn places(layout: &Layout<'_>, shard: usize, node: NodeIndex) -> Places {
    let fits = |from: NodeIndex| {
        may_leave(layout, from)
            && is_spread_instead(layout, shard, from, node)
            && layout.may_inherit(shard, from, node)
    };
    let instead_of = layout.copies[shard].iter().map(|copy| copy.node).filter(|from| fits(*from)).collect();
    let lacks = layout.copies[shard].len() < layout.problem.replication_factor;
    Places { instead_of, is_missing: lacks && layout.is_spread(shard, node, None, Counting::Staying) }
}

/// Whether a copy on `node` instead of the one on `from` keeps the rule on zones and racks.
pub(crate) fn is_spread_instead(layout: &Layout<'_>, shard: usize, from: NodeIndex, node: NodeIndex) -> bool {
    let counting = if must_leave(layout, shard, from) { Counting::Staying } else { Counting::All };
    layout.is_spread(shard, node, Some(from), counting)
}

/// Whether a plan may take copies away from `node`.
pub(crate) fn may_leave(layout: &Layout<'_>, node: NodeIndex) -> bool {
    let usage: NodeUse = layout.problem.nodes[node].usage;
    usage.gives() || !usage.keeps()
}

/// Whether a rule wants the copy away from `node`.
pub(crate) fn must_leave(layout: &Layout<'_>, shard: usize, node: NodeIndex) -> bool {
    let usage = layout.problem.nodes[node].usage;
    !usage.keeps() || (usage.gives() && layout.crowding(shard, node) > 0)
}
