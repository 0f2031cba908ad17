//! Evens out primaries by hand-overs to in-sync copies, directly or along the shortest chain of nodes.
//!
//! From where no chain leads to a node that can take (or give) one, none ever will: such nodes are closed for good.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

use super::layout::Layout;
use super::problem::{NodeIndex, ShardUse};
use super::shares::Shares;

/// Which way a chain of hand-overs is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From a node that has too many primaries.
    Giving,
    /// To a node that has too few.
    Taking,
}

/// A hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    shard: usize,
    from: NodeIndex,
    to: NodeIndex,
}

/// Whether primaries lie outside of `upto_thousandths` of the shares.
pub(crate) fn are_uneven(layout: &Layout<'_>, shares: &Shares, upto_thousandths: u64) -> bool {
    let nodes = 0..layout.count.len();
    nodes.filter(|node| layout.problem.nodes[*node].usage.leads()).any(|node| {
        layout.primaries[node] > shares.high(node, upto_thousandths)
            || layout.primaries[node] < shares.low(node, upto_thousandths)
    })
}

/// Hands primaries over until no node is uneven beyond `upto_thousandths`, or none that is can be helped.
pub(crate) fn level_primaries(layout: &mut Layout<'_>, shares: &Shares, upto_thousandths: u64) {
    let mut level = Level::of(layout, shares, upto_thousandths);
    for way in [Way::Giving, Way::Taking] {
        // Each round makes primaries more even, or closes a node.
        while let Some(node) = level.worst(way) {
            match level.chain(node, way) {
                Ok(links) => level.hand_over(&links),
                Err(reached) => level.close(reached),
            }
        }
    }
}

struct Level<'l, 'a, 's> {
    layout: &'l mut Layout<'a>,
    shares: &'s Shares,
    upto: u64,
    /// Shards of each node whose primaryship may change.
    held: Vec<Vec<usize>>,
    over: BTreeSet<(Reverse<i128>, NodeIndex)>,
    under: BTreeSet<(i128, NodeIndex)>,
    is_closed: Vec<bool>,
}

impl<'l, 'a, 's> Level<'l, 'a, 's> {
    fn of(layout: &'l mut Layout<'a>, shares: &'s Shares, upto: u64) -> Self {
        let nodes = layout.count.len();
        let mut held = vec![Vec::new(); nodes];
        for (shard, copies) in layout.copies.iter().enumerate() {
            match layout.problem.shards[shard].usage {
                ShardUse::Open | ShardUse::Unassigned => {
                    copies.iter().for_each(|copy| held[copy.node].push(shard));
                }
                ShardUse::Pinned | ShardUse::Unavailable => {}
            }
        }
        let (over, under, is_closed) = (BTreeSet::new(), BTreeSet::new(), vec![false; nodes]);
        let mut level = Self { layout, shares, upto, held, over, under, is_closed };
        (0..nodes).for_each(|node| level.enter(node));
        level
    }

    fn leads(&self, node: NodeIndex) -> bool {
        self.layout.problem.nodes[node].usage.leads()
    }

    fn excess(&self, node: NodeIndex) -> i128 {
        self.shares.excess(node, self.layout.primaries[node])
    }

    fn enter(&mut self, node: NodeIndex) {
        if !self.leads(node) || self.is_closed[node] {
            return;
        }
        if self.layout.primaries[node] > self.shares.high(node, self.upto) {
            self.over.insert((Reverse(self.excess(node)), node));
        }
        if self.layout.primaries[node] < self.shares.low(node, self.upto) {
            self.under.insert((self.excess(node), node));
        }
    }

    fn leave(&mut self, node: NodeIndex) {
        self.over.remove(&(Reverse(self.excess(node)), node));
        self.under.remove(&(self.excess(node), node));
    }

    /// The fullest of those that have too many, or the emptiest of those that have too few.
    fn worst(&self, way: Way) -> Option<NodeIndex> {
        match way {
            Way::Giving => self.over.first().map(|(_, node)| *node),
            Way::Taking => self.under.first().map(|(_, node)| *node),
        }
    }

    fn close(&mut self, reached: Vec<NodeIndex>) {
        for node in reached {
            self.leave(node);
            self.is_closed[node] = true;
        }
    }

    fn hand_over(&mut self, links: &[Link]) {
        for link in links {
            self.leave(link.from);
            self.leave(link.to);
            self.layout.promote(link.shard, link.to);
            self.enter(link.from);
            self.enter(link.to);
        }
    }

    /// The shortest chain from `start` to a node that can take one (or, taking, to it from one that can give). Else all nodes that
    /// were reached.
    fn chain(&self, start: NodeIndex, way: Way) -> Result<Vec<Link>, Vec<NodeIndex>> {
        // By node: the shard that leads there, and the node before.
        let mut reached: Vec<Option<(usize, NodeIndex)>> = vec![None; self.layout.count.len()];
        let mut queue = VecDeque::from([start]);
        let mut seen = vec![start];
        while let Some(node) = queue.pop_front() {
            let mut best: Option<(i128, NodeIndex)> = None;
            for shard in self.held[node].iter().copied() {
                self.each_neighbour(shard, node, way, |next| {
                    if next == start || reached[next].is_some() || self.is_closed[next] {
                        return;
                    }
                    reached[next] = Some((shard, node));
                    seen.push(next);
                    queue.push_back(next);
                    let (is_end, worth) = match way {
                        Way::Giving => {
                            (self.layout.primaries[next] < self.shares.ceil(next), self.excess(next))
                        }
                        Way::Taking => {
                            (self.layout.primaries[next] > self.shares.floor(next), -self.excess(next))
                        }
                    };
                    if is_end && best.is_none_or(|best| (worth, next) < best) {
                        best = Some((worth, next));
                    }
                });
            }
            if let Some((_, end)) = best {
                return Ok(links(&reached, start, end, way));
            }
        }
        Err(seen)
    }

    /// The nodes to which the primaryship of `shard` can go from `node` (giving), or from which it can come there (taking).
    fn each_neighbour(&self, shard: usize, node: NodeIndex, way: Way, mut each: impl FnMut(NodeIndex)) {
        let Some((primary, others)) = self.layout.copies[shard].split_first() else { return };
        match way {
            Way::Giving if primary.node == node => {
                let heirs = others.iter().filter(|copy| copy.in_sync && self.leads(copy.node));
                heirs.for_each(|copy| each(copy.node));
            }
            Way::Taking if primary.node != node && self.leads(primary.node) => {
                if others.iter().any(|copy| copy.node == node && copy.in_sync) {
                    each(primary.node);
                }
            }
            Way::Giving | Way::Taking => {}
        }
    }
}

fn links(reached: &[Option<(usize, NodeIndex)>], start: NodeIndex, end: NodeIndex, way: Way) -> Vec<Link> {
    let mut links = Vec::new();
    let mut node = end;
    // Each step goes one node back, and no node is reached from a later one.
    while let Some((shard, before)) = reached[node].filter(|_| node != start) {
        links.push(match way {
            Way::Giving => Link { shard, from: before, to: node },
            Way::Taking => Link { shard, from: node, to: before },
        });
        node = before;
    }
    links
}
