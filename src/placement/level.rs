//! Evens out copies with the fewest moves.
//!
//! Think of nodes as places and of each copy as a way from its node to every node that may take it. A node above its high mark
//! has too many, one below its low mark too few; the nodes between may take one up to their share rounded up, and give one down
//! to their share rounded down, at no harm. A plan is a flow from the nodes with too many to those with too few, which may pass
//! through that slack; it costs the copies that end where they were not before.
//!
//! What costs nothing comes first: copies that are fresh, or that change places with another of their shard. Then direct ways:
//! out of the fullest nodes, then into the emptiest. What is left is blocked by zones, racks or room, and goes by the cheapest chain of moves ([`super::chain`]). From
//! where no chain leads anywhere, none ever will, since a later one can neither enter nor leave what was reached.
//!
//! Each move or chain takes one copy from a node that has too many or gives one to a node that has too few, and makes no other
//! node uneven: so what is uneven falls with each, and the work ends.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::bound::Marks;
use super::chain;
use super::layout::{Counting, Layout};
use super::problem::NodeIndex;
use super::shares::Shares;

/// What each node may come to hold, by the shares.
#[derive(Debug)]
pub(crate) struct Targets<'s> {
    pub(crate) shares: &'s Shares,
    /// Beyond these a node is uneven.
    pub(crate) marks: Vec<Marks>,
    /// Down to these a node may give, though it is even.
    keep: Vec<u64>,
    /// Up to these a node may take, though it is even.
    fill: Vec<u64>,
}

impl<'s> Targets<'s> {
    pub(crate) fn of(layout: &Layout<'_>, shares: &'s Shares, upto_thousandths: u64) -> Self {
        let nodes = 0..layout.count.len();
        let marks = nodes.clone().map(|node| Marks {
            low: if layout.takes(node) { shares.low(node, upto_thousandths) } else { 0 },
            high: match layout.problem.nodes[node].usage.gives() {
                true => shares.high(node, upto_thousandths),
                false => u64::MAX,
            },
        });
        let keep = nodes.clone().map(|node| match layout.takes(node) {
            true => shares.floor(node),
            // A node that can't take copies is bounded by what it has: below its share it would lower that share.
            false => shares.ceil(node),
        });
        let fill = nodes.map(|node| if layout.takes(node) { shares.ceil(node) } else { 0 });
        Self { shares, marks: marks.collect(), keep: keep.collect(), fill: fill.collect() }
    }

    /// Whether any node is outside of its marks.
    pub(crate) fn are_missed(&self, layout: &Layout<'_>) -> bool {
        let nodes = layout.count.iter().zip(&self.marks);
        nodes.into_iter().any(|(count, marks)| *count > marks.high || *count < marks.low)
    }
}

/// Nodes that may take copies: by rack, the emptiest for its share first.
#[derive(Debug, Default)]
struct Sinks {
    nodes: Vec<BTreeSet<(i128, NodeIndex)>>,
    racks: BTreeSet<(i128, usize)>,
}

impl Sinks {
    fn change(&mut self, rack: usize, change: impl FnOnce(&mut BTreeSet<(i128, NodeIndex)>) -> bool) {
        let before = self.nodes[rack].first().map(|(excess, _)| (*excess, rack));
        change(&mut self.nodes[rack]);
        let now = self.nodes[rack].first().map(|(excess, _)| (*excess, rack));
        if before != now {
            if let Some(key) = before {
                self.racks.remove(&key);
            }
            self.racks.extend(now);
        }
    }

    /// The emptiest that may take `shard`'s copy from `from`.
    fn sink(&self, layout: &Layout<'_>, shard: usize, from: NodeIndex) -> Option<NodeIndex> {
        self.racks.iter().find_map(|(_, rack)| {
            if !layout.is_spread_in(shard, *rack, Some(from), Counting::All) {
                return None;
            }
            self.nodes[*rack]
                .iter()
                .map(|(_, node)| *node)
                .find(|node| layout.may_take(shard, *node) && layout.may_inherit(shard, from, *node))
        })
    }
}

/// Levelling under way.
#[derive(Debug)]
pub(crate) struct Level<'l, 'a, 's> {
    pub(crate) layout: &'l mut Layout<'a>,
    pub(crate) targets: &'s Targets<'s>,
    /// Shards of each node that may be touched.
    pub(crate) held: Vec<Vec<usize>>,
    /// Those among them that the plan changes already, each at least once; some may have left.
    pub(crate) changed: Vec<Vec<usize>>,
    /// Shards with where from and where to, in order.
    pub(crate) moved: Vec<(usize, NodeIndex, NodeIndex)>,
    /// Copies above high marks, and those missing below low marks.
    pub(crate) too_many: u64,
    pub(crate) too_few: u64,
    over: BTreeSet<(Reverse<i128>, NodeIndex)>,
    under: Sinks,
    slack: Sinks,
    /// Those that may give, the fullest first.
    spare: BTreeSet<(Reverse<i128>, NodeIndex)>,
}

/// Moves copies until no node is uneven, or none that is can be helped. `may_chain`: by chains that cost more than one copy too.
pub(crate) fn level_copies(layout: &mut Layout<'_>, targets: &Targets<'_>, may_chain: bool) {
    let mut level = Level::of(layout, targets);
    level.reaim_fresh();
    if level.is_uneven() && !level.layout.touched().is_empty() {
        chain::level_by_chains(&mut level, 0);
    }
    level.give();
    level.receive();
    if level.is_uneven() {
        chain::level_by_chains(&mut level, if may_chain { u32::MAX } else { 1 });
    }
}

impl<'l, 'a, 's> Level<'l, 'a, 's> {
    pub(crate) fn of(layout: &'l mut Layout<'a>, targets: &'s Targets<'s>) -> Self {
        let nodes = layout.count.len();
        let racks = layout.problem.zone_of_rack.len();
        let mut held = vec![Vec::new(); nodes];
        for (shard, copies) in layout.copies.iter().enumerate().filter(|(id, _)| layout.is_movable(*id)) {
            copies.iter().for_each(|copy| held[copy.node].push(shard));
        }
        let sinks = || Sinks { nodes: vec![BTreeSet::new(); racks], racks: BTreeSet::new() };
        let mut level = Self {
            layout,
            targets,
            held,
            changed: vec![Vec::new(); nodes],
            moved: Vec::new(),
            too_many: 0,
            too_few: 0,
            over: BTreeSet::new(),
            under: sinks(),
            slack: sinks(),
            spare: BTreeSet::new(),
        };
        (0..nodes).for_each(|node| level.enter(node));
        for place in 0..level.layout.touched().len() {
            level.note_changed(level.layout.touched()[place]);
        }
        level
    }

    fn note_changed(&mut self, shard: usize) {
        if self.layout.is_movable(shard) {
            self.layout.copies[shard].iter().for_each(|copy| self.changed[copy.node].push(shard));
        }
    }

    fn is_uneven(&self) -> bool {
        self.too_many > 0 || self.too_few > 0
    }

    /// Nodes that have too many, the fullest first.
    pub(crate) fn too_full(&self) -> Vec<NodeIndex> {
        let mut full: Vec<NodeIndex> =
            (0..self.layout.count.len()).filter(|node| self.is_over(*node)).collect();
        full.sort_by_key(|node| (Reverse(self.excess(*node)), *node));
        full
    }

    fn excess(&self, node: NodeIndex) -> i128 {
        self.targets.shares.excess(node, self.layout.count[node])
    }

    pub(crate) fn is_over(&self, node: NodeIndex) -> bool {
        self.layout.count[node] > self.targets.marks[node].high
    }

    pub(crate) fn is_under(&self, node: NodeIndex) -> bool {
        self.layout.count[node] < self.targets.marks[node].low
    }

    /// Whether the node may take one more without becoming uneven.
    pub(crate) fn has_slack(&self, node: NodeIndex) -> bool {
        self.layout.count[node] < self.targets.fill[node]
    }

    /// Whether the node may give one without becoming uneven.
    pub(crate) fn is_spare(&self, node: NodeIndex) -> bool {
        self.layout.problem.nodes[node].usage.gives() && self.layout.count[node] > self.targets.keep[node]
    }

    fn enter(&mut self, node: NodeIndex) {
        let (count, marks, excess) = (self.layout.count[node], self.targets.marks[node], self.excess(node));
        self.too_many += count.saturating_sub(marks.high);
        self.too_few += marks.low.saturating_sub(count);
        let rack = self.layout.problem.nodes[node].rack;
        if self.is_over(node) {
            self.over.insert((Reverse(excess), node));
        }
        if self.is_spare(node) {
            self.spare.insert((Reverse(excess), node));
        }
        if self.is_under(node) {
            self.under.change(rack, |nodes| nodes.insert((excess, node)));
        } else if self.has_slack(node) {
            self.slack.change(rack, |nodes| nodes.insert((excess, node)));
        }
    }

    fn leave(&mut self, node: NodeIndex) {
        let (count, marks, excess) = (self.layout.count[node], self.targets.marks[node], self.excess(node));
        self.too_many -= count.saturating_sub(marks.high);
        self.too_few -= marks.low.saturating_sub(count);
        let rack = self.layout.problem.nodes[node].rack;
        self.over.remove(&(Reverse(excess), node));
        self.spare.remove(&(Reverse(excess), node));
        if self.is_under(node) {
            self.under.change(rack, |nodes| nodes.remove(&(excess, node)));
        } else if self.has_slack(node) {
            self.slack.change(rack, |nodes| nodes.remove(&(excess, node)));
        }
    }

    /// Moves the copy of `shard` that stands at `place` of what `from` holds.
    fn shift(&mut self, from: NodeIndex, place: usize, to: NodeIndex) {
        let shard = self.held[from].swap_remove(place);
        let is_news = !self.layout.is_touched(shard);
        self.leave(from);
        self.leave(to);
        self.layout.relocate(shard, from, to);
        self.enter(from);
        self.enter(to);
        self.held[to].push(shard);
        self.moved.push((shard, from, to));
        if is_news {
            self.note_changed(shard);
        } else {
            self.changed[to].push(shard);
        }
    }

    /// Moves the copy of `shard` from one node to another.
    pub(crate) fn shift_shard(&mut self, shard: usize, from: NodeIndex, to: NodeIndex) {
        if let Some(place) = self.held[from].iter().position(|held| *held == shard) {
            self.shift(from, place, to);
        }
    }

    /// Where a copy that `from` has too many of may go: to a node that has too few; or, where there are not so many of these,
    /// to one that has place.
    fn sink(&self, shard: usize, from: NodeIndex) -> Option<NodeIndex> {
        let under = self.under.sink(self.layout, shard, from);
        let may_rest = self.too_many > self.too_few;
        under.or_else(|| self.slack.sink(self.layout, shard, from).filter(|_| may_rest))
    }

    /// Copies that the plan put somewhere go elsewhere where that is better: it costs nothing.
    fn reaim_fresh(&mut self) {
        for place in 0..self.layout.touched().len() {
            let shard = self.layout.touched()[place];
            if self.too_many == 0 && self.too_few == 0 {
                return;
            }
            if !self.layout.is_movable(shard) {
                continue;
            }
            let fresh: Vec<NodeIndex> = self.layout.copies[shard].iter().map(|copy| copy.node).collect();
            for from in fresh.into_iter().filter(|node| self.layout.problem.nodes[*node].usage.gives()) {
                let to = match (self.layout.is_fresh(shard, from), self.is_over(from), self.is_spare(from)) {
                    (true, true, _) => self.sink(shard, from),
                    (true, false, true) => self.under.sink(self.layout, shard, from),
                    _ => None,
                };
                if let Some(to) = to {
                    self.shift_shard(shard, from, to);
                }
            }
        }
    }

    /// Nodes that have too many give them away, the fullest first.
    fn give(&mut self) {
        while let Some((_, from)) = self.over.first().copied() {
            // Whatever does not fit now will not later: places only fill up meanwhile. Replicas first, which cost no hand-over.
            for leads in [false, true] {
                let mut place = 0;
                while self.is_over(from) && place < self.held[from].len() {
                    let shard = self.held[from][place];
                    let may_go = self.layout.leads(shard, from) == leads;
                    match self.sink(shard, from).filter(|_| may_go) {
                        Some(to) => self.shift(from, place, to),
                        None => place += 1,
                    }
                }
            }
            if self.is_over(from) {
                self.over.remove(&(Reverse(self.excess(from)), from));
            }
        }
    }

    /// Nodes that have too few are given, the emptiest first, by the fullest.
    fn receive(&mut self) {
        let mut lacking: Vec<(i128, NodeIndex)> = self.under.nodes.iter().flatten().copied().collect();
        lacking.sort_unstable();
        // By giver: how far its shards were looked through for the taker at hand.
        let mut looked = vec![(false, 0); self.layout.count.len()];
        for (_, to) in lacking {
            let mut asked = Vec::new();
            let mut exhausted = Vec::new();
            while self.is_under(to)
                && let Some(key @ (_, from)) = self.spare.first().copied()
            {
                asked.push(from);
                match self.next_for(to, from, &mut looked[from]) {
                    Some(place) => self.shift(from, place, to),
                    None => {
                        self.spare.remove(&key);
                        exhausted.push(from);
                    }
                }
            }
            asked.into_iter().for_each(|from| looked[from] = (false, 0));
            let spare = exhausted.into_iter().filter(|from| self.is_spare(*from));
            let spare: Vec<_> = spare.map(|from| (Reverse(self.excess(from)), from)).collect();
            self.spare.extend(spare);
        }
    }

    /// Place of the next shard of `from` that fits `to`: replicas first, primaries after.
    fn next_for(&self, to: NodeIndex, from: NodeIndex, looked: &mut (bool, usize)) -> Option<usize> {
        let rack = self.layout.problem.nodes[to].rack;
        loop {
            let (leads, place) = *looked;
            let Some(shard) = self.held[from].get(place).copied() else {
                if leads {
                    return None;
                }
                *looked = (true, 0);
                continue;
            };
            let fits = self.layout.leads(shard, from) == leads
                && self.layout.may_take(shard, to)
                && self.layout.may_inherit(shard, from, to)
                && self.layout.is_spread_in(shard, rack, Some(from), Counting::All);
            if fits {
                return Some(place);
            }
            looked.1 += 1;
        }
    }
}
