//! Where copies stand while a plan is made, and the steps that led there.
//!
//! Every change goes through [`Layout::put`], [`Layout::take`] or [`Layout::promote`], so that counts and ordered sets stay
//! true. A step that only moves on what an earlier step of the same plan put there rewrites that step instead.

use std::collections::BTreeSet;

use super::caps::Caps;
use super::problem::{Action, Copy, NodeIndex, Problem, ShardUse, Step, Why};

/// Scale of a node's load: copies a thousandth of weight.
const LOAD_SCALE: u128 = 1 << 60;

/// Which copies of a shard count for the rule on zones and racks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// All: so that the rule also holds on the way.
    All,
    /// Those that stay: where the way can't be kept clean.
    Staying,
}

/// The state of a plan in the making.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    pub(crate) problem: &'a Problem,
    pub(crate) caps: Caps,
    /// By shard; the primary first.
    pub(crate) copies: Vec<Vec<Copy>>,
    /// Copies on each node.
    pub(crate) count: Vec<u64>,
    /// Primaries on each node.
    pub(crate) primaries: Vec<u64>,
    /// Shards of each node that may be touched.
    pub(crate) movable: Vec<BTreeSet<usize>>,
    /// Bytes that each node may take; none when unlimited.
    free_bytes: Vec<Option<u64>>,
    /// Nodes that take copies, by rack, the least loaded first.
    takers: Vec<BTreeSet<(u128, NodeIndex)>>,
    /// The least load in each rack that has takers.
    racks: BTreeSet<(u128, usize)>,
    pub(crate) steps: Vec<Step>,
    last_step: Vec<Option<usize>>,
}

impl<'a> Layout<'a> {
    pub(crate) fn new(problem: &'a Problem) -> Self {
        let nodes = problem.nodes.len();
        let mut count = vec![0; nodes];
        let mut primaries = vec![0; nodes];
        let mut movable = vec![Vec::new(); nodes];
        for (id, shard) in problem.shards.iter().enumerate() {
            for copy in &shard.copies {
                count[copy.node] += 1;
                if shard.usage == ShardUse::Open {
                    movable[copy.node].push(id);
                }
            }
            if let Some(primary) = shard.copies.first().filter(|_| shard.has_primary) {
                primaries[primary.node] += 1;
            }
        }
        let mut layout = Self {
            problem,
            caps: Caps::of(problem),
            copies: problem.shards.iter().map(|shard| shard.copies.clone()).collect(),
            count,
            primaries,
            movable: movable.into_iter().map(BTreeSet::from_iter).collect(),
            free_bytes: problem.nodes.iter().map(|node| node.free_bytes).collect(),
            takers: vec![BTreeSet::new(); problem.zone_of_rack.len()],
            racks: BTreeSet::new(),
            steps: Vec::new(),
            last_step: vec![None; problem.shards.len()],
        };
        for node in 0..nodes {
            if layout.takes(node) {
                let load = layout.load(node);
                layout.takers[problem.nodes[node].rack].insert((load, node));
            }
        }
        for rack in 0..problem.zone_of_rack.len() {
            layout.racks.extend(layout.takers[rack].first().map(|(load, _)| (*load, rack)));
        }
        layout
    }

    /// Whether new copies may be put on `node` at all.
    pub(crate) fn takes(&self, node: NodeIndex) -> bool {
        let spec = &self.problem.nodes[node];
        spec.usage.takes() && spec.weight > 0
    }

    /// How full `node` would be with one copy more, for its weight.
    pub(crate) fn load(&self, node: NodeIndex) -> u128 {
        u128::from(self.count[node] + 1) * LOAD_SCALE / u128::from(self.problem.nodes[node].weight.max(1))
    }

    /// Primaries for its weight, with one more.
    pub(crate) fn primary_load(&self, node: NodeIndex) -> u128 {
        u128::from(self.primaries[node] + 1) * LOAD_SCALE / u128::from(self.problem.nodes[node].weight.max(1))
    }

    /// Whether `node` has room for the shard's bytes, and is not still deleting an earlier copy of it.
    pub(crate) fn has_room(&self, shard: usize, node: NodeIndex) -> bool {
        let spec = &self.problem.shards[shard];
        self.free_bytes[node].is_none_or(|free| free >= spec.bytes) && !spec.barred.contains(&node)
    }

    /// Whether a copy of `shard` on `node` would keep the rule on zones and racks, once `leaving` has left.
    pub(crate) fn is_spread(
        &self,
        shard: usize,
        node: NodeIndex,
        leaving: Option<NodeIndex>,
        counting: Counting,
    ) -> bool {
        let rack = self.problem.nodes[node].rack;
        let zone = self.problem.zone_of_rack[rack];
        let (mut in_rack, mut in_zone) = (0, 0);
        for other in self.copies[shard].iter().map(|copy| copy.node).filter(|other| Some(*other) != leaving) {
            let spec = &self.problem.nodes[other];
            if counting == Counting::All || spec.usage.keeps() {
                in_rack += usize::from(spec.rack == rack);
                in_zone += usize::from(self.problem.zone_of_rack[spec.rack] == zone);
            }
        }
        in_rack < self.caps.rack && in_zone < self.caps.zone
    }

    /// Whether `node` has a copy of `shard` (or an idle one).
    pub(crate) fn has(&self, shard: usize, node: NodeIndex) -> bool {
        self.copies[shard].iter().any(|copy| copy.node == node)
            || self.problem.shards[shard].idle.contains(&node)
    }

    /// The least loaded node that may take a copy of `shard`, once `leaving` has left.
    pub(crate) fn taker(
        &self,
        shard: usize,
        leaving: Option<NodeIndex>,
        counting: Counting,
    ) -> Option<NodeIndex> {
        self.racks.iter().find_map(|(_, rack)| {
            let (_, first) = self.takers[*rack].first()?;
            if !self.is_spread(shard, *first, leaving, counting) {
                return None;
            }
            let may = |node: &NodeIndex| !self.has(shard, *node) && self.has_room(shard, *node);
            self.takers[*rack].iter().map(|(_, node)| *node).find(may)
        })
    }

    /// Nodes that take copies, the least loaded of each rack first, racks by their least load.
    pub(crate) fn takers(&self) -> impl Iterator<Item = NodeIndex> {
        self.racks.iter().flat_map(|(_, rack)| self.takers[*rack].iter().map(|(_, node)| *node))
    }

    /// Whether the shard gets its first copies here, which cost nothing.
    pub(crate) fn is_new(&self, shard: usize) -> bool {
        self.problem.shards[shard].usage == ShardUse::Unassigned
    }

    /// Whether moving the shard's copy away from `from` only rewrites the shard's last step.
    pub(crate) fn is_fresh(&self, shard: usize, from: NodeIndex) -> bool {
        let last = self.last_step[shard].map(|step| self.steps[step].action);
        match last {
            Some(Action::Move { to, .. } | Action::Add { to }) => to == from,
            Some(Action::Promote { .. } | Action::Remove { .. }) | None => false,
        }
    }

    /// A copy goes from one node to another.
    pub(crate) fn relocate(&mut self, shard: usize, from: NodeIndex, to: NodeIndex, why: Why) {
        let Some(place) = self.copies[shard].iter().position(|copy| copy.node == from) else { return };
        self.copies[shard][place] = Copy { node: to, in_sync: true };
        self.uncount(shard, from);
        self.recount(shard, to);
        if place == 0 && (self.problem.shards[shard].has_primary || self.is_new(shard)) {
            self.primaries[from] -= 1;
            self.primaries[to] += 1;
        }
        if self.is_new(shard) {
            return;
        }
        if self.is_fresh(shard, from)
            && let Some(step) = self.last_step[shard]
        {
            let step = &mut self.steps[step].action;
            *step = match *step {
                Action::Move { from, .. } => Action::Move { from, to },
                Action::Add { .. } => Action::Add { to },
                other @ (Action::Promote { .. } | Action::Remove { .. }) => other,
            };
            return;
        }
        self.note(shard, Action::Move { from, to }, why);
    }

    /// Whether [`Layout::relocate`] would bring a copy back to where this plan took it from.
    pub(crate) fn undoes(&self, shard: usize, from: NodeIndex, to: NodeIndex) -> bool {
        let last = self.last_step[shard].map(|step| self.steps[step].action);
        self.is_fresh(shard, from) && matches!(last, Some(Action::Move { from: origin, .. }) if origin == to)
    }

    /// One copy more.
    pub(crate) fn put(&mut self, shard: usize, to: NodeIndex, why: Why) {
        if self.copies[shard].is_empty() && self.is_new(shard) {
            self.primaries[to] += 1;
        }
        self.copies[shard].push(Copy { node: to, in_sync: true });
        self.recount(shard, to);
        if !self.is_new(shard) {
            self.note(shard, Action::Add { to }, why);
        }
    }

    /// One copy less; not the primary.
    pub(crate) fn take(&mut self, shard: usize, from: NodeIndex, why: Why) {
        if self.copies[shard].iter().skip(1).any(|copy| copy.node == from) {
            self.copies[shard].retain(|copy| copy.node != from);
            self.uncount(shard, from);
        }
        self.note(shard, Action::Remove { from }, why);
    }

    /// Primaryship goes to another copy.
    pub(crate) fn promote(&mut self, shard: usize, to: NodeIndex, why: Why) {
        let Some(place) = self.copies[shard].iter().position(|copy| copy.node == to) else { return };
        let from = self.copies[shard][0].node;
        self.copies[shard].swap(0, place);
        self.primaries[from] -= 1;
        self.primaries[to] += 1;
        if !self.is_new(shard) {
            self.note(shard, Action::Promote { from, to }, why);
        }
    }

    fn note(&mut self, shard: usize, action: Action, why: Why) {
        self.last_step[shard] = Some(self.steps.len());
        self.steps.push(Step { shard, action, why });
    }

    fn recount(&mut self, shard: usize, node: NodeIndex) {
        self.free_bytes[node] =
            self.free_bytes[node].map(|free| free.saturating_sub(self.problem.shards[shard].bytes));
        self.movable[node].insert(shard);
        self.set_count(node, self.count[node] + 1);
    }

    fn uncount(&mut self, shard: usize, node: NodeIndex) {
        self.free_bytes[node] =
            self.free_bytes[node].map(|free| free.saturating_add(self.problem.shards[shard].bytes));
        self.movable[node].remove(&shard);
        self.set_count(node, self.count[node] - 1);
    }

    fn set_count(&mut self, node: NodeIndex, count: u64) {
        let rack = self.problem.nodes[node].rack;
        let least = |layout: &Self| layout.takers[rack].first().map(|(load, _)| (*load, rack));
        let (before, old_load) = (least(self), self.load(node));
        self.count[node] = count;
        if !self.takes(node) {
            return;
        }
        self.takers[rack].remove(&(old_load, node));
        let load = self.load(node);
        self.takers[rack].insert((load, node));
        if let Some(before) = before {
            self.racks.remove(&before);
        }
        self.racks.extend(least(self));
    }
}
