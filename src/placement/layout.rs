//! Where copies stand while a plan is made.
//!
//! Every change goes through [`Layout::put`], [`Layout::take`], [`Layout::relocate`] or [`Layout::promote`], so that the counts
//! stay true. Nothing here is a step yet: what is to be done follows from where copies stood and where they stand in the end
//! ([`super::steps`]), so that nothing is ever moved twice, or moved and brought back.
//!
//! A copy is *fresh* where its shard had none before: to move it on costs nothing more.

use super::caps::Caps;
use super::problem::{Copies, Copy, NodeIndex, Problem, ShardUse, Why};

/// Which copies of a shard count for the rule on zones and racks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// All, those on nodes that are emptied too.
    All,
    /// Those that stay.
    Staying,
}

/// What has its share of a shard's copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowd {
    /// The rack.
    Rack,
    /// The zone, though not the rack.
    Zone,
}

/// The state of a plan in the making.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    pub(crate) problem: &'a Problem,
    pub(crate) caps: Caps,
    /// By shard; the primary first.
    pub(crate) copies: Vec<Copies>,
    /// Copies on each node.
    pub(crate) count: Vec<u64>,
    /// Primaries on each node.
    pub(crate) primaries: Vec<u64>,
    /// Idle copies that are to go.
    pub(crate) dropped: Vec<(usize, NodeIndex)>,
    /// Shards that were changed for their load or their bytes and for nothing else, in the order of the changes.
    pub(crate) for_load: Vec<(usize, Why)>,
    /// From where to where the last of these went, if nothing came back for it.
    pub(crate) went_alone: Option<(NodeIndex, NodeIndex)>,
    /// Bytes that each node may take; none when unlimited.
    free_bytes: Vec<Option<u64>>,
    /// Shards that get their first copies here.
    pub(crate) new: Vec<usize>,
    touched: Vec<usize>,
    is_touched: Vec<bool>,
}

impl<'a> Layout<'a> {
    pub(crate) fn new(problem: &'a Problem) -> Self {
        let nodes = problem.nodes.len();
        let mut count = vec![0; nodes];
        let mut primaries = vec![0; nodes];
        let mut new = Vec::new();
        for (number, shard) in problem.shards.iter().enumerate() {
            if shard.usage == ShardUse::Unassigned {
                new.push(number);
            }
            shard.copies.iter().for_each(|copy| count[copy.node] += 1);
            if let Some(primary) = shard.copies.first().filter(|_| shard.has_primary) {
                primaries[primary.node] += 1;
            }
        }
        Self {
            problem,
            caps: Caps::of(problem),
            copies: problem.shards.iter().map(|shard| shard.copies.clone()).collect(),
            count,
            primaries,
            dropped: Vec::new(),
            for_load: Vec::new(),
            went_alone: None,
            free_bytes: problem.nodes.iter().map(|node| node.free_bytes).collect(),
            new,
            touched: Vec::new(),
            is_touched: vec![false; problem.shards.len()],
        }
    }

    /// Whether new copies may be put on `node` at all.
    pub(crate) fn takes(&self, node: NodeIndex) -> bool {
        let spec = &self.problem.nodes[node];
        spec.usage.takes() && spec.weight > 0
    }

    /// Whether `node` has room for the shard's bytes, and is not still deleting an earlier copy of it.
    pub(crate) fn has_room(&self, shard: usize, node: NodeIndex) -> bool {
        let spec = &self.problem.shards[shard];
        self.free_bytes[node].is_none_or(|free| free >= spec.bytes) && !spec.barred.contains(&node)
    }

    /// Copies as they stand before any change, with the room that a plan leaves.
    pub(crate) fn with_room(problem: &'a Problem, free_bytes: &[Option<u64>]) -> Self {
        Self { free_bytes: free_bytes.to_vec(), ..Self::new(problem) }
    }

    /// Bytes that each node may take; none when unlimited.
    pub(crate) fn free_bytes(&self) -> &[Option<u64>] {
        &self.free_bytes
    }

    /// Whether a copy of `shard` in `rack` would keep the rule on zones and racks, once `leaving` has left.
    pub(crate) fn is_spread_in(
        &self,
        shard: usize,
        rack: usize,
        leaving: Option<NodeIndex>,
        counting: Counting,
    ) -> bool {
        self.crowd_in(shard, rack, leaving, counting).is_none()
    }

    /// Where a copy more of `shard` in `rack` would be one too many, once `leaving` has left.
    pub(crate) fn crowd_in(
        &self,
        shard: usize,
        rack: usize,
        leaving: Option<NodeIndex>,
        counting: Counting,
    ) -> Option<Crowd> {
        let (in_rack, in_zone) = self.others(shard, rack, leaving, counting);
        if in_rack >= self.caps.rack {
            Some(Crowd::Rack)
        } else {
            (in_zone >= self.caps.zone).then_some(Crowd::Zone)
        }
    }

    /// A quick look: whether any two copies share a rack or zone, where that may be one too many.
    pub(crate) fn may_be_crowded(&self, shard: usize) -> bool {
        let copies = &self.copies[shard];
        let rack = |copy: &Copy| self.problem.nodes[copy.node].rack;
        let share = |one: &Copy, other: &Copy| {
            let (one, other) = (rack(one), rack(other));
            let zones = &self.problem.zone_of_rack;
            (self.caps.rack < copies.len() && one == other)
                || (self.caps.zone < copies.len() && zones[one] == zones[other])
        };
        copies
            .iter()
            .enumerate()
            .any(|(place, one)| copies[place + 1..].iter().any(|other| share(one, other)))
    }

    /// How many of the two rules, on racks and on zones, the copy on `node` breaks among those that stay.
    pub(crate) fn crowding(&self, shard: usize, node: NodeIndex) -> usize {
        let rack = self.problem.nodes[node].rack;
        let (in_rack, in_zone) = self.others(shard, rack, Some(node), Counting::Staying);
        usize::from(in_rack >= self.caps.rack) + usize::from(in_zone >= self.caps.zone)
    }

    /// Copies in the rack and in its zone, but for the one on `leaving`.
    fn others(
        &self,
        shard: usize,
        rack: usize,
        leaving: Option<NodeIndex>,
        counting: Counting,
    ) -> (usize, usize) {
        let zone = self.problem.zone_of_rack[rack];
        let (mut in_rack, mut in_zone) = (0, 0);
        for other in self.copies[shard].iter().map(|copy| copy.node).filter(|other| Some(*other) != leaving) {
            let spec = &self.problem.nodes[other];
            if counting == Counting::All || spec.usage.keeps() {
                in_rack += usize::from(spec.rack == rack);
                in_zone += usize::from(self.problem.zone_of_rack[spec.rack] == zone);
            }
        }
        (in_rack, in_zone)
    }

    /// The same for a copy on `node`.
    pub(crate) fn is_spread(
        &self,
        shard: usize,
        node: NodeIndex,
        leaving: Option<NodeIndex>,
        counting: Counting,
    ) -> bool {
        self.is_spread_in(shard, self.problem.nodes[node].rack, leaving, counting)
    }

    /// Whether `node` has a copy of `shard` (or an idle one).
    pub(crate) fn has(&self, shard: usize, node: NodeIndex) -> bool {
        self.copies[shard].iter().any(|copy| copy.node == node)
            || self.problem.shards[shard].idle.contains(&node)
    }

    /// Whether `node` has a full copy of `shard`.
    pub(crate) fn stands_on(&self, shard: usize, node: NodeIndex) -> bool {
        self.copies[shard].iter().any(|copy| copy.node == node)
    }

    /// Whether the rules let a copy of `shard` go to `to`, zones and racks apart.
    pub(crate) fn may_take(&self, shard: usize, to: NodeIndex) -> bool {
        self.takes(to) && !self.has(shard, to) && self.has_room(shard, to)
    }

    /// Whether the shard may keep the copy on `node` after all, where the plan had taken it away and the room that it
    /// filled is still there; the node need take none for that.
    pub(crate) fn may_keep(&self, shard: usize, node: NodeIndex) -> bool {
        let spec = &self.problem.shards[shard];
        let has_room = self.free_bytes[node].is_none_or(|free| free >= spec.bytes);
        self.problem.nodes[node].usage.keeps()
            && self.had(shard, node)
            && !self.stands_on(shard, node)
            && has_room
    }

    /// Whether the shard gets its first copies here, which cost nothing.
    pub(crate) fn is_new(&self, shard: usize) -> bool {
        self.problem.shards[shard].usage == ShardUse::Unassigned
    }

    /// Whether the shard may be touched at all.
    pub(crate) fn is_movable(&self, shard: usize) -> bool {
        match self.problem.shards[shard].usage {
            ShardUse::Open | ShardUse::Unassigned => true,
            ShardUse::Pinned | ShardUse::Unavailable => false,
        }
    }

    /// Whether the shard had a full copy on `node` before the plan.
    pub(crate) fn had(&self, shard: usize, node: NodeIndex) -> bool {
        self.problem.shards[shard].copies.iter().any(|copy| copy.node == node)
    }

    /// Whether the copy on `node` is where the plan put it: to move it on costs nothing more.
    pub(crate) fn is_fresh(&self, shard: usize, node: NodeIndex) -> bool {
        !self.had(shard, node)
    }

    /// Whether the copy on `from` may come to `to` as far as primaryship goes. That of a copy which comes where one was before the
    /// plan goes there first, so it must be able to lead.
    pub(crate) fn may_inherit(&self, shard: usize, from: NodeIndex, to: NodeIndex) -> bool {
        if self.is_new(shard) || !self.leads(shard, from) {
            return true;
        }
        let copies = &self.problem.shards[shard].copies;
        let is_origin = copies.first().is_some_and(|copy| copy.node == to);
        let before = copies.iter().find(|copy| copy.node == to);
        before.is_none_or(|copy| is_origin || (copy.in_sync && self.problem.nodes[to].usage.leads()))
    }

    /// Whether the shard's primary is on `node`.
    pub(crate) fn leads(&self, shard: usize, node: NodeIndex) -> bool {
        self.copies[shard].first().is_some_and(|copy| copy.node == node)
    }

    /// Whether every copy stands where it stood, and leads where it led.
    pub(crate) fn is_as_before(&self) -> bool {
        let is_unchanged = |shard: &usize| self.copies[*shard] == self.problem.shards[*shard].copies;
        self.dropped.is_empty() && self.touched.iter().all(is_unchanged)
    }

    /// Shards that were changed, in the order in which that began.
    pub(crate) fn touched(&self) -> &[usize] {
        &self.touched
    }

    /// Whether the shard is among them.
    pub(crate) fn is_touched(&self, shard: usize) -> bool {
        self.is_touched[shard]
    }

    /// A copy goes from one node to another, and what it was goes with it.
    pub(crate) fn relocate(&mut self, shard: usize, from: NodeIndex, to: NodeIndex) {
        let Some(place) = self.copies[shard].iter().position(|copy| copy.node == from) else { return };
        let before = self.problem.shards[shard].copies.iter().find(|copy| copy.node == to);
        self.copies[shard][place] = before.copied().unwrap_or(Copy { node: to, in_sync: true });
        if place == 0 && (self.problem.shards[shard].has_primary || self.is_new(shard)) {
            self.primaries[from] -= 1;
            self.primaries[to] += 1;
        }
        self.uncount(shard, from);
        self.recount(shard, to);
    }

    /// One copy more.
    pub(crate) fn put(&mut self, shard: usize, to: NodeIndex) {
        if self.copies[shard].is_empty() && self.is_new(shard) {
            self.primaries[to] += 1;
        }
        self.copies[shard].push(Copy { node: to, in_sync: true });
        self.recount(shard, to);
    }

    /// One copy less; not the primary.
    pub(crate) fn take(&mut self, shard: usize, from: NodeIndex) {
        if let Some(place) = self.copies[shard].iter().skip(1).position(|copy| copy.node == from) {
            self.copies[shard].remove(place + 1);
            self.uncount(shard, from);
        }
    }

    /// An idle copy goes.
    pub(crate) fn drop_idle(&mut self, shard: usize, node: NodeIndex) {
        self.dropped.push((shard, node));
        self.touch(shard);
    }

    /// Primaryship goes to another copy.
    pub(crate) fn promote(&mut self, shard: usize, to: NodeIndex) {
        let Some(place) = self.copies[shard].iter().position(|copy| copy.node == to) else { return };
        let from = self.copies[shard][0].node;
        self.copies[shard].swap(0, place);
        self.primaries[from] -= 1;
        self.primaries[to] += 1;
        self.touch(shard);
    }

    fn touch(&mut self, shard: usize) {
        if !self.is_touched[shard] {
            self.is_touched[shard] = true;
            self.touched.push(shard);
        }
    }

    fn recount(&mut self, shard: usize, node: NodeIndex) {
        let bytes = self.problem.shards[shard].bytes;
        self.free_bytes[node] = self.free_bytes[node].map(|free| free.saturating_sub(bytes));
        self.count[node] += 1;
        self.touch(shard);
    }

    fn uncount(&mut self, shard: usize, node: NodeIndex) {
        let bytes = self.problem.shards[shard].bytes;
        self.free_bytes[node] = self.free_bytes[node].map(|free| free.saturating_add(bytes));
        self.count[node] -= 1;
        self.touch(shard);
    }
}
