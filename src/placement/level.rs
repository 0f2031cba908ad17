//! Evens out copies with the fewest moves: each move takes one copy from a node that has too many, or gives one to a node that
//! has too few, and never makes another node uneven; so the sum of what is uneven falls with each, and the loop ends.

use super::layout::{Counting, Layout};
use super::problem::{NodeIndex, ShardUse, Why};
use super::shares::Shares;

/// Takers tried for one giver before it counts as blocked; in each rack's order of load, so that the best come first.
const MAX_TAKERS: usize = 64;

/// Nodes tried as the middle of a chain.
const MAX_MIDDLES: usize = 32;

/// Whether copies lie outside of `upto_thousandths` of the shares.
pub(crate) fn is_uneven(layout: &Layout<'_>, shares: &Shares, upto_thousandths: u64) -> bool {
    (0..layout.count.len()).any(|node| {
        too_many(layout, shares, node, upto_thousandths) > 0
            || too_few(layout, shares, node, upto_thousandths) > 0
    })
}

/// Copies that must leave `node`.
pub(crate) fn too_many(layout: &Layout<'_>, shares: &Shares, node: NodeIndex, upto_thousandths: u64) -> u64 {
    if !layout.problem.nodes[node].usage.gives() {
        return 0;
    }
    layout.count[node].saturating_sub(shares.high(node, upto_thousandths))
}

/// Copies that must come to `node`.
pub(crate) fn too_few(layout: &Layout<'_>, shares: &Shares, node: NodeIndex, upto_thousandths: u64) -> u64 {
    if !layout.takes(node) {
        return 0;
    }
    shares.low(node, upto_thousandths).saturating_sub(layout.count[node])
}

/// Moves copies until no node is uneven beyond `upto_thousandths`, or none that is can be helped.
pub(crate) fn level_copies(layout: &mut Layout<'_>, shares: &Shares, upto_thousandths: u64) {
    let nodes = layout.count.len();
    let is_settled = layout.problem.shards.iter().all(|shard| shard.usage != ShardUse::Pinned);
    let mut given_up = vec![false; nodes];
    // Each move makes copies more even, and between two of them each node is given up once at most: it ends well before that.
    for _ in 0..layout.count.iter().sum::<u64>().saturating_mul(nodes as u64 + 1) {
        let excess = |node: &NodeIndex| (shares.excess(*node, layout.count[*node]), std::cmp::Reverse(*node));
        let is_over =
            |node: &NodeIndex| !given_up[*node] && too_many(layout, shares, *node, upto_thousandths) > 0;
        let is_under =
            |node: &NodeIndex| !given_up[*node] && too_few(layout, shares, *node, upto_thousandths) > 0;
        let (node, is_moved) = if let Some(from) = (0..nodes).filter(is_over).max_by_key(excess) {
            (from, give(layout, shares, from) || (is_settled && give_by_chain(layout, shares, from)))
        } else if let Some(to) = (0..nodes).filter(is_under).min_by_key(excess) {
            (to, receive(layout, shares, to))
        } else {
            return;
        };
        if is_moved {
            // What moved may have cleared the way for others.
            given_up.fill(false);
        } else {
            given_up[node] = true;
        }
    }
}

/// What moving the copy costs: nothing while it is only planned, else a copying, with a primary also a hand-over.
fn cost(layout: &Layout<'_>, shard: usize, from: NodeIndex) -> u8 {
    let is_planned = layout.is_new(shard) || layout.is_fresh(shard, from);
    let leads = layout.copies[shard].first().is_some_and(|copy| copy.node == from);
    if is_planned { 0 } else { 1 + u8::from(leads) }
}

/// The cheapest shard of `from` that fits `to`.
fn shard_for(layout: &Layout<'_>, from: NodeIndex, to: NodeIndex, except: Option<usize>) -> Option<usize> {
    let fits = |shard: &usize| {
        Some(*shard) != except
            && !layout.has(*shard, to)
            && layout.is_spread(*shard, to, Some(from), Counting::All)
            && layout.has_room(*shard, to)
            && !layout.undoes(*shard, from, to)
    };
    let mut best: Option<(u8, usize)> = None;
    for shard in layout.movable[from].iter().copied() {
        let cost = cost(layout, shard, from);
        if best.is_none_or(|(least, _)| cost < least) && fits(&shard) {
            best = Some((cost, shard));
            // Nothing is cheaper than a copy that is only planned; a replica is the cheapest otherwise.
            if cost == 0 {
                break;
            }
        }
    }
    best.map(|(_, shard)| shard)
}

fn has_place(layout: &Layout<'_>, shares: &Shares, node: NodeIndex) -> bool {
    layout.count[node] < shares.ceil(node)
}

fn give(layout: &mut Layout<'_>, shares: &Shares, from: NodeIndex) -> bool {
    let mut takers: Vec<NodeIndex> = layout.takers().filter(|to| has_place(layout, shares, *to)).collect();
    takers.sort_by_key(|to| (shares.excess(*to, layout.count[*to]), *to));
    let found =
        takers.iter().take(MAX_TAKERS).find_map(|to| Some((shard_for(layout, from, *to, None)?, *to)));
    if let Some((shard, to)) = found {
        layout.relocate(shard, from, to, Why::Level);
    }
    found.is_some()
}

fn receive(layout: &mut Layout<'_>, shares: &Shares, to: NodeIndex) -> bool {
    let spares = |node: &NodeIndex| {
        // A node that can't take copies is bounded by what it has: below its share it would lower that share.
        let keeps = if layout.takes(*node) { shares.floor(*node) } else { shares.ceil(*node) };
        layout.problem.nodes[*node].usage.gives() && layout.count[*node] > keeps
    };
    let mut givers: Vec<NodeIndex> = (0..layout.count.len()).filter(spares).collect();
    givers.sort_by_key(|from| (std::cmp::Reverse(shares.excess(*from, layout.count[*from])), *from));
    let found = givers.iter().find_map(|from| Some((shard_for(layout, *from, to, None)?, *from)));
    if let Some((shard, from)) = found {
        layout.relocate(shard, from, to, Why::Level);
    }
    found.is_some()
}

/// `from` gives to a node in between, which gives another shard to one that has place.
fn give_by_chain(layout: &mut Layout<'_>, shares: &Shares, from: NodeIndex) -> bool {
    let ends: Vec<NodeIndex> =
        layout.takers().filter(|to| has_place(layout, shares, *to)).take(MAX_TAKERS).collect();
    let middles: Vec<NodeIndex> = layout
        .takers()
        .filter(|node| *node != from && layout.problem.nodes[*node].usage.gives() && !ends.contains(node))
        .take(MAX_MIDDLES)
        .collect();
    for middle in middles {
        let Some(first) = shard_for(layout, from, middle, None) else { continue };
        let second = ends.iter().find_map(|to| Some((shard_for(layout, middle, *to, Some(first))?, *to)));
        if let Some((second, to)) = second {
            layout.relocate(second, middle, to, Why::Level);
            layout.relocate(first, from, middle, Why::Level);
            return true;
        }
    }
    false
}
