//! Evens out primaries by hand-overs to in-sync copies, directly or along the shortest chain of nodes.

use std::collections::VecDeque;

use super::layout::Layout;
use super::problem::{NodeIndex, Why};
use super::shares::Shares;

/// Which way a chain of hand-overs is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From a node that has too many primaries.
    Giving,
    /// To a node that has too few.
    Taking,
}

/// Whether primaries lie outside of `upto_thousandths` of the shares.
pub(crate) fn is_uneven(layout: &Layout<'_>, shares: &Shares, upto_thousandths: u64) -> bool {
    let nodes = 0..layout.count.len();
    nodes.filter(|node| layout.problem.nodes[*node].usage.leads()).any(|node| {
        layout.primaries[node] > shares.high(node, upto_thousandths)
            || layout.primaries[node] < shares.low(node, upto_thousandths)
    })
}

/// Hands primaries over until no node is uneven beyond `upto_thousandths`, or none that is can be helped.
pub(crate) fn level_primaries(layout: &mut Layout<'_>, shares: &Shares, upto_thousandths: u64) {
    let nodes = layout.count.len();
    let leads = |node: &NodeIndex| layout.problem.nodes[*node].usage.leads();
    let leaders: Vec<NodeIndex> = (0..nodes).filter(leads).collect();
    let mut given_up = vec![false; nodes];
    // Each hand-over makes primaries more even, and between two of them each node is given up once at most.
    for _ in 0..layout.problem.shards.len().saturating_add(1).saturating_mul(nodes + 1) {
        let excess =
            |node: &NodeIndex| (shares.excess(*node, layout.primaries[*node]), std::cmp::Reverse(*node));
        let open = || leaders.iter().copied().filter(|node| !given_up[*node]);
        let over = open()
            .filter(|node| layout.primaries[*node] > shares.high(*node, upto_thousandths))
            .max_by_key(excess);
        let under = open()
            .filter(|node| layout.primaries[*node] < shares.low(*node, upto_thousandths))
            .min_by_key(excess);
        let (node, way) = match (over, under) {
            (Some(node), _) => (node, Way::Giving),
            (None, Some(node)) => (node, Way::Taking),
            (None, None) => return,
        };
        if hand_over(layout, shares, node, way) {
            given_up.fill(false);
        } else {
            given_up[node] = true;
        }
    }
}

/// Finds the nearest node that can take from (or give to) `start` by hand-overs, and does them.
fn hand_over(layout: &mut Layout<'_>, shares: &Shares, start: NodeIndex, way: Way) -> bool {
    // By node: the shard that leads there, and the node before.
    let mut reached: Vec<Option<(usize, NodeIndex)>> = vec![None; layout.count.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        let mut ends = Vec::new();
        for (shard, next) in neighbours(layout, node, way) {
            if next == start || reached[next].is_some() {
                continue;
            }
            reached[next] = Some((shard, node));
            let is_end = match way {
                Way::Giving => layout.primaries[next] < shares.ceil(next),
                Way::Taking => layout.primaries[next] > shares.floor(next),
            };
            if is_end {
                ends.push(next);
            }
            queue.push_back(next);
        }
        let excess = |node: &NodeIndex| (shares.excess(*node, layout.primaries[*node]), *node);
        let end = match way {
            Way::Giving => ends.into_iter().min_by_key(excess),
            Way::Taking => ends.into_iter().max_by_key(excess),
        };
        if let Some(end) = end {
            carry_out(layout, &reached, start, end, way);
            return true;
        }
    }
    false
}

fn carry_out(
    layout: &mut Layout<'_>,
    reached: &[Option<(usize, NodeIndex)>],
    start: NodeIndex,
    end: NodeIndex,
    way: Way,
) {
    let mut node = end;
    // Each step goes one node back, and no node is reached from a later one.
    while let Some((shard, before)) = reached[node].filter(|_| node != start) {
        let to = match way {
            Way::Giving => node,
            Way::Taking => before,
        };
        layout.promote(shard, to, Why::LevelPrimaries);
        node = before;
    }
}

/// Shards whose primaryship can go from `node` to another (giving), or come to it from another (taking), with that other node.
fn neighbours(layout: &Layout<'_>, node: NodeIndex, way: Way) -> Vec<(usize, NodeIndex)> {
    let leads = |node: NodeIndex| layout.problem.nodes[node].usage.leads();
    let mut found = Vec::new();
    for shard in layout.movable[node].iter().copied() {
        let copies = &layout.copies[shard];
        let Some(primary) = copies.first() else { continue };
        match way {
            Way::Giving if primary.node == node => {
                let heirs = copies[1..].iter().filter(|copy| copy.in_sync && leads(copy.node));
                found.extend(heirs.map(|copy| (shard, copy.node)));
            }
            Way::Taking if primary.node != node && leads(primary.node) => {
                let is_heir = copies[1..].iter().any(|copy| copy.node == node && copy.in_sync);
                found.extend(is_heir.then_some((shard, primary.node)));
            }
            Way::Giving | Way::Taking => {}
        }
    }
    found
}
