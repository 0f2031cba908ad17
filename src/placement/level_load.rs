//! Evens out load, and after it bytes, after copies and primaries are even by number, and within what that leaves free.
//!
//! While the most loaded node carries more than the stopping threshold times its share, it gives load away, the cheapest means
//! first: primaryships are handed over, which copies nothing; then copies go. Shards that are hot themselves go last, unless little comes of
//! moving their neighbours away, which disturbs less. Where a node has no copy or primaryship to spare by number, one comes back in exchange.
//!
//! Let a plan's unevenness be the sum over nodes of load squared over weight, which is least where every node carries load by its
//! weight. A change is made only where that falls by more than the change costs ([`HAND_OVER_COST`], [`COPY_COST`]). So it ends;
//! no change is ever undone by a later one; and what noise could bring is not worth its cost. Besides, a shard is touched once in
//! a plan at most, and never where the plan touches it for another reason, and a plan has at most [`MAX_STEPS`] such steps.
//!
//! Bytes are levelled like load that is written only, by copies alone; and no change brings a node's load above the stopping
//! threshold, or raises it where it is above. So load and bytes do not undo each other for ever: what nodes of one weight
//! carry beyond that threshold, squared and summed, falls by each change for load and rises by none for bytes.
//!
//! Caveats: one change at a time, the best at hand: no optimum is promised. Among takers of copies only the least loaded are looked
//! at. A shard that alone carries more than a node's share stays the node's excess.

use super::bound::Marks;
use super::layout::{Counting, Layout};
use super::level::Targets;
use super::loads::{ALL, Loads, NodeLoads};
use super::problem::{NodeIndex, ShardUse, Why};
use super::shares::Shares;

/// Most steps of one plan that level load and bytes; what is left comes with the next.
pub(crate) const MAX_STEPS: usize = 64;

/// Most nodes that are looked at in vain.
const MAX_CLOSED: usize = 64;

/// What a hand-over must bring, as a part of a node's mean share (of the load, over that of the capacity).
const HAND_OVER_COST: i128 = 10_000;

/// What a copying must bring.
const COPY_COST: i128 = 1_000;

/// A hot shard goes before its neighbours where that brings more than so many times as much: else they would all have to go.
const HOT_WORTH: i128 = 4;

/// Of what goes in an exchange at least so little must not come back: a fifth.
const LEAST_NET: i128 = 5;

/// Copies of a node that may leave it: the most loaded so many of each class.
const GIVEN: usize = 48;

/// Nodes that may take copies: the least loaded so many of all, and of the giver's rack, where the rule on racks never hinders.
const TAKERS: (usize, usize) = (20, 8);

/// Copies looked at on each side of the one that fits an exchange best.
const LOOKED_AT: usize = 6;

/// The same for bytes, which don't fluctuate: many shards are as large as each other, so that the first ones say little of the others.
const LOOKED_AT_FOR_BYTES: usize = 4 * LOOKED_AT;

/// What is levelled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What<'a> {
    /// Requests.
    Load,
    /// Bytes, told as [`Loads::of_bytes`] does.
    Bytes {
        /// Requests, which are to stay even; none while there are none.
        beside: Option<&'a Loads>,
    },
}

impl What<'_> {
    fn why(self) -> Why {
        match self {
            Self::Load => Why::LevelLoad,
            Self::Bytes { .. } => Why::LevelBytes,
        }
    }

    fn looked_at(self) -> usize {
        match self {
            Self::Load => LOOKED_AT,
            Self::Bytes { .. } => LOOKED_AT_FOR_BYTES,
        }
    }
}

/// What to level, and how far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadLevelling<'a> {
    /// What it is.
    pub(crate) what: What<'a>,
    /// How loaded shards are.
    pub(crate) loads: &'a Loads,
    /// Nothing is levelled while no node carries more thousandths of its share.
    pub(crate) start: u64,
    /// Levelled until none does.
    pub(crate) stop: u64,
    /// A shard is hot from so many thousandths of the mean on.
    pub(crate) hot_factor: u64,
    /// How even copies and primaries stay by number, in thousandths.
    pub(crate) upto: u64,
}

/// What a shard carries, as a share, and its number.
type Amount = (i128, usize);

/// A change, and what it is worth beyond its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    worth: i128,
    shard: usize,
    to: NodeIndex,
    /// What comes back.
    back: Option<usize>,
}

/// How a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    HandOver,
    Copy,
}

/// Which of a node's shards go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Neighbours,
    Hot,
}

/// Whether some node carries more than `start` of its share.
pub(crate) fn is_uneven(layout: &Layout<'_>, levelling: &LoadLevelling<'_>) -> bool {
    let nodes = 0..layout.problem.nodes.len();
    NodeLoads::of(layout, levelling.loads)
        .is_some_and(|of| nodes.clone().any(|node| of.factor(node) > levelling.start))
}

/// Levels load where that may begin; answers whether it may.
pub(crate) fn level_load(layout: &mut Layout<'_>, levelling: &LoadLevelling<'_>) -> bool {
    let begins = is_uneven(layout, levelling);
    if begins && let Some(mut level) = LevelLoad::of(layout, levelling) {
        match levelling.what {
            What::Load => level.run(Means::HandOver),
            What::Bytes { .. } => {}
        }
        level.run(Means::Copy);
    }
    begins
}

struct LevelLoad<'l, 'a, 'o> {
    layout: &'l mut Layout<'a>,
    levelling: &'o LoadLevelling<'o>,
    nodes: NodeLoads,
    /// What must stay even meanwhile.
    beside: Option<(&'o Loads, NodeLoads)>,
    /// Shards of each node that may be changed, ascending.
    held: Vec<Vec<usize>>,
    copies: Vec<Marks>,
    primaries: Vec<Marks>,
    /// From so much on a shard is hot, thousandths a second.
    hot_from: u128,
}

impl<'l, 'a, 'o> LevelLoad<'l, 'a, 'o> {
    fn of(layout: &'l mut Layout<'a>, levelling: &'o LoadLevelling<'o>) -> Option<Self> {
        let problem = layout.problem;
        let nodes = NodeLoads::of(layout, levelling.loads)?;
        let beside = match levelling.what {
            What::Bytes { beside: Some(loads) } => NodeLoads::of(layout, loads).map(|nodes| (loads, nodes)),
            What::Bytes { beside: None } | What::Load => None,
        };
        let shares = Shares::of_copies(problem, &layout.caps, &layout.count);
        let marks = Targets::of(layout, &shares, levelling.upto).marks.into_iter().enumerate();
        // Below its share a node that can't take copies would lower that share, and raise those of all others.
        let least = |node| if layout.takes(node) { 0 } else { shares.ceil(node) };
        let copies = marks.map(|(node, marks)| Marks { low: marks.low.max(least(node)), ..marks }).collect();
        let shares = Shares::of_primaries(problem, &layout.count, &layout.primaries);
        let mark =
            |node| Marks { low: shares.low(node, levelling.upto), high: shares.high(node, levelling.upto) };
        let primaries = (0..problem.nodes.len()).map(mark).collect();
        let all: u128 =
            (0..problem.shards.len()).map(|shard| u128::from(levelling.loads.of_copy(shard, true))).sum();
        let hot_from =
            all.saturating_mul(levelling.hot_factor.into()) / (1_000 * problem.shards.len().max(1) as u128);
        let mut held = vec![Vec::new(); problem.nodes.len()];
        for (shard, copies) in
            layout.copies.iter().enumerate().filter(|(id, _)| is_free(layout, levelling, *id))
        {
            copies.iter().for_each(|copy| held[copy.node].push(shard));
        }
        Some(Self { layout, levelling, nodes, beside, held, copies, primaries, hot_from })
    }

    /// Relieves the most loaded nodes until none is left that can be.
    fn run(&mut self, means: Means) {
        let mut is_closed = vec![false; self.layout.problem.nodes.len()];
        let mut closed = 0;
        while closed < MAX_CLOSED {
            let ranked = self.nodes.ranked(self.layout);
            let Some(from) = ranked.iter().copied().find(|node| !is_closed[*node]) else { return };
            if self.nodes.factor(from) <= self.levelling.stop {
                return;
            }
            let best = |class| match means {
                Means::HandOver => self.best_hand_over(from, class),
                Means::Copy => self.best_copy(from, class, &ranked),
            };
            let (neighbour, hot) = (best(Class::Neighbours), best(Class::Hot));
            let is_too_slow =
                |hot: &Change| neighbour.is_none_or(|other| hot.worth > HOT_WORTH * other.worth);
            match hot.filter(is_too_slow).or(neighbour) {
                Some(change)
                    if self.layout.for_load.len() + usize::from(change.back.is_some()) < MAX_STEPS =>
                {
                    self.make(from, change, means);
                }
                Some(_) => return,
                None => {
                    is_closed[from] = true;
                    closed += 1;
                }
            }
        }
    }

    /// The order tells which steps are an exchange: two neighbours, the second the way back of the first. So behind a step that
    /// went alone an exchange begins with the half that goes the same way.
    fn make(&mut self, from: NodeIndex, change: Change, means: Means) {
        let there = (change.shard, from, change.to);
        let back = change.back.map(|shard| (shard, change.to, from));
        let is_misleading = self.layout.went_alone == Some((change.to, from));
        self.layout.went_alone = back.is_none().then_some((from, change.to));
        let halves = if is_misleading { [back, Some(there)] } else { [Some(there), back] };
        for (shard, from, to) in halves.into_iter().flatten() {
            let amount = self.amount(shard, from, means);
            if let Some((loads, nodes)) = &mut self.beside {
                let amount = nodes.share(loads.of_copy(shard, self.layout.leads(shard, from)));
                nodes.shift(from, to, amount);
            }
            match means {
                Means::HandOver => self.layout.promote(shard, to),
                Means::Copy => self.layout.relocate(shard, from, to),
            }
            self.layout.for_load.push((shard, self.levelling.what.why()));
            self.nodes.shift(from, to, amount);
        }
    }

    /// What leaves `node` with the shard's primaryship or copy, as a share.
    fn amount(&self, shard: usize, node: NodeIndex, means: Means) -> i128 {
        self.nodes.share(match means {
            Means::HandOver => self.levelling.loads.reads[shard],
            Means::Copy => self.levelling.loads.of_copy(shard, self.layout.leads(shard, node)),
        })
    }

    /// What steps must bring together.
    fn cost(&self, means: Means, steps: i128) -> i128 {
        let part = match means {
            Means::HandOver => HAND_OVER_COST,
            Means::Copy => COPY_COST,
        };
        steps * ALL / (i128::from(self.nodes.counted) * part)
    }

    /// What is gained beyond the cost, where `given` goes one way and `returned`, if anything, the other.
    fn worth(
        &self,
        (from, to): (NodeIndex, NodeIndex),
        given: i128,
        returned: Option<i128>,
        means: Means,
    ) -> Option<i128> {
        let (amount, steps) = (given - returned.unwrap_or(0), 1 + i128::from(returned.is_some()));
        // Twice the ideal only changes the nodes' places; noise of a tenth must not make that look worth its cost.
        let is_swap = 4 * amount > 7 * self.nodes.ideal(from, to);
        // Noise of a tenth makes two shards that are equally loaded look as different as this.
        let is_noise = returned.is_some() && LEAST_NET * amount < given;
        let worth = self.nodes.gain(from, to, amount) - self.cost(means, steps);
        (amount > 0 && !is_swap && !is_noise && worth > 0).then_some(worth)
    }

    /// Shards that `node` may give and that are not changed yet.
    fn free(&self, node: NodeIndex) -> impl Iterator<Item = usize> {
        self.held[node].iter().copied().filter(|shard| !self.layout.is_touched(*shard))
    }

    fn class(&self, shard: usize) -> Class {
        let load = u128::from(self.levelling.loads.of_copy(shard, true));
        if load >= self.hot_from { Class::Hot } else { Class::Neighbours }
    }

    /// The hand-over from `from`, or exchange of two, that brings the most.
    fn best_hand_over(&self, from: NodeIndex, class: Class) -> Option<Change> {
        // By taker: what it leads and could hand over to `from`, the least read first.
        let mut backs: Vec<Vec<Amount>> = vec![Vec::new(); self.held.len()];
        for shard in self.free(from) {
            let copies = &self.layout.copies[shard];
            if copies.iter().skip(1).any(|copy| copy.node == from && copy.in_sync) {
                let primary = copies[0].node;
                backs[primary].push((self.amount(shard, primary, Means::HandOver), shard));
            }
        }
        backs.iter_mut().for_each(|backs| backs.sort_unstable());
        let leads = |node: NodeIndex| self.layout.problem.nodes[node].usage.leads();
        let goes = |shard: &usize| self.layout.leads(*shard, from) && self.class(*shard) == class;
        let mut best: Option<Change> = None;
        for shard in self.free(from).filter(goes) {
            let amount = self.amount(shard, from, Means::HandOver);
            for copy in
                self.layout.copies[shard].iter().skip(1).filter(|copy| copy.in_sync && leads(copy.node))
            {
                let to = copy.node;
                let (below, above) = near(&backs[to], amount - self.nodes.ideal(from, to), 1);
                let backs = below.iter().chain(above).map(|(amount, back)| (*amount, Some(*back)));
                let alone = self.may_shift(&self.primaries, &self.layout.primaries, from, to, 1);
                for (returned, back) in backs.chain(alone.then_some((0, None))) {
                    let returned = back.map(|_| returned);
                    let worth = self.worth((from, to), amount, returned, Means::HandOver);
                    best = best.max(worth.map(|worth| Change { worth, shard, to, back }));
                }
            }
        }
        best
    }

    /// Whether `moved` more from one node to the other (negative: back) leaves both even by number, or no more uneven than they are.
    fn may_shift(&self, marks: &[Marks], held: &[u64], from: NodeIndex, to: NodeIndex, moved: i64) -> bool {
        let is_fit = |node: NodeIndex, change: i64| {
            let (before, after) = (held[node], held[node].saturating_add_signed(change));
            (after <= marks[node].high || after <= before) && (after >= marks[node].low || after >= before)
        };
        is_fit(from, -moved) && is_fit(to, moved)
    }

    /// The copy that leaves `from`, perhaps in exchange, that brings the most.
    fn best_copy(&self, from: NodeIndex, class: Class, ranked: &[NodeIndex]) -> Option<Change> {
        let mut given: Vec<Amount> = self
            .free(from)
            .filter(|shard| self.class(*shard) == class)
            .map(|shard| (self.amount(shard, from, Means::Copy), shard))
            .collect();
        given.sort_unstable_by_key(|(amount, shard)| (std::cmp::Reverse(*amount), *shard));
        given.truncate(GIVEN);
        let rack = |node: NodeIndex| self.layout.problem.nodes[node].rack;
        let coolest =
            || ranked.iter().rev().copied().filter(|node| *node != from && self.layout.takes(*node));
        let mut takers: Vec<NodeIndex> = coolest().take(TAKERS.0).collect();
        takers.extend(coolest().filter(|node| rack(*node) == rack(from)).take(TAKERS.1));
        takers.sort_unstable();
        takers.dedup();
        let of_taker = |to| self.best_copy_to(from, to, &given);
        takers.into_iter().filter_map(of_taker).max()
    }

    fn best_copy_to(&self, from: NodeIndex, to: NodeIndex, given: &[Amount]) -> Option<Change> {
        let mut backs: Vec<Amount> = match self.layout.takes(from) {
            true => self.free(to).map(|shard| (self.amount(shard, to, Means::Copy), shard)).collect(),
            false => Vec::new(),
        };
        backs.sort_unstable();
        // Where primaries are even by number, only one that leads comes back for one that leads, whatever the load of others.
        let (led, others): (Vec<_>, Vec<_>) =
            backs.into_iter().partition(|(_, back)| self.layout.leads(*back, to));
        let mut best: Option<Change> = None;
        for (amount, shard) in given.iter().copied().filter(|(_, shard)| self.may_go(*shard, from, to)) {
            let change = |returned: i128, back: Option<usize>| {
                let worth = self.worth((from, to), amount, back.map(|_| returned), Means::Copy)?;
                let fits = back.is_none_or(|back| self.may_go(back, to, from))
                    && self.keeps_counts(from, to, shard, back)
                    && self.keeps_load(from, to, shard, back);
                fits.then_some(Change { worth, shard, to, back })
            };
            let exchange = |(returned, back): &Amount| change(*returned, Some(*back));
            best = best.max(change(0, None));
            for backs in [&led, &others] {
                let wanted = amount - self.nodes.ideal(from, to);
                let (below, above) = near(backs, wanted, self.levelling.what.looked_at());
                // The further from what is wanted, the less it is worth: the first that fits is the best of its side.
                best = best.max(below.iter().rev().find_map(exchange)).max(above.iter().find_map(exchange));
            }
        }
        best
    }

    /// Whether the hard rules let the copy go.
    fn may_go(&self, shard: usize, from: NodeIndex, to: NodeIndex) -> bool {
        self.layout.may_take(shard, to)
            && self.layout.may_inherit(shard, from, to)
            && self.layout.is_spread(shard, to, Some(from), Counting::All)
    }

    fn keeps_counts(&self, from: NodeIndex, to: NodeIndex, shard: usize, back: Option<usize>) -> bool {
        let copies = i64::from(back.is_none());
        let led = |shard: usize, node: NodeIndex| i64::from(self.layout.leads(shard, node));
        let primaries = led(shard, from) - back.map_or(0, |back| led(back, to));
        self.may_shift(&self.copies, &self.layout.count, from, to, copies)
            && self.may_shift(&self.primaries, &self.layout.primaries, from, to, primaries)
    }

    /// Whether what must stay even does.
    fn keeps_load(&self, from: NodeIndex, to: NodeIndex, shard: usize, back: Option<usize>) -> bool {
        self.beside.as_ref().is_none_or(|(loads, nodes)| {
            let load = |shard, node| nodes.share(loads.of_copy(shard, self.layout.leads(shard, node)));
            let amount = load(shard, from) - back.map_or(0, |back| load(back, to));
            let upto = self.levelling.stop;
            nodes.bears(to, amount, upto) && nodes.bears(from, -amount, upto)
        })
    }
}

/// Whether the plan may change the shard for its load, or its bytes.
fn is_free(layout: &Layout<'_>, levelling: &LoadLevelling<'_>, shard: usize) -> bool {
    let spec = &layout.problem.shards[shard];
    spec.usage == ShardUse::Open
        && spec.has_primary
        && !levelling.loads.rests[shard]
        && !layout.is_touched(shard)
}

/// Up to `each` entries below `wanted`, and from it on.
fn near(sorted: &[Amount], wanted: i128, each: usize) -> (&[Amount], &[Amount]) {
    let middle = sorted.partition_point(|(amount, _)| *amount < wanted);
    let first = middle.saturating_sub(each);
    let last = middle.saturating_add(each).min(sorted.len());
    (&sorted[first..middle], &sorted[middle..last])
}
