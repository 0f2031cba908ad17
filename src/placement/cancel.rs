//! Takes back copyings that turned out not to be needed.
//!
//! Levelling finds one move or chain after the other, each the cheapest at its time, and counts a copy that returns to where it
//! stood as costing nothing rather than as one copying less. So more may be copied in the end than had to be. Here such a copy is
//! taken back on trial; if moves that cost nothing make the nodes as even again as they were, it stays there, else all is as before.
//!
//! In words of flows: cycles of negative cost are cancelled one by one (Klein 1967; Ahuja, Magnanti, Orlin: Network Flows, section
//! 9.6). Caveat: only those are looked for in which nothing is copied that was not copied before. Each saves one copying, so it ends.

use super::chain;
use super::layout::{Counting, Layout};
use super::level::{Level, Targets};
use super::problem::NodeIndex;

/// Most trials of one plan: each may look at every shard that the plan changes.
const MAX_TRIALS: usize = 2_000;

/// After so many in vain, one after the other, what is above the bound is taken for needed.
const MAX_VAIN: usize = 64;

/// Copyings of shards that had copies before.
pub(crate) fn copyings(layout: &Layout<'_>) -> u64 {
    let of_shard = |shard: usize| {
        layout.copies[shard].iter().filter(|copy| layout.is_fresh(shard, copy.node)).count() as u64
    };
    let touched = layout.touched().iter().copied().filter(|shard| !layout.is_new(*shard));
    touched.map(of_shard).sum()
}

/// Takes back up to `most` copyings, with every node as even as it is.
pub(crate) fn take_back(layout: &mut Layout<'_>, targets: &Targets<'_>, most: u64) {
    let mut level = Level::of(layout, targets);
    let (mut left, mut trials, mut vain) = (most, 0, 0);
    let mut is_news = true;
    while std::mem::take(&mut is_news) {
        for place in 0..level.layout.touched().len() {
            let shard = level.layout.touched()[place];
            for (from, to) in returns(level.layout, shard) {
                if left == 0 || trials == MAX_TRIALS || vain == MAX_VAIN {
                    return;
                }
                trials += 1;
                vain += 1;
                if try_back(&mut level, shard, from, to) {
                    left -= 1;
                    vain = 0;
                    is_news = true;
                    break;
                }
            }
        }
    }
}

/// From where to where copies of the shard may return.
fn returns(layout: &Layout<'_>, shard: usize) -> Vec<(NodeIndex, NodeIndex)> {
    if layout.is_new(shard) || !layout.is_movable(shard) {
        return Vec::new();
    }
    let gives = |node: NodeIndex| layout.problem.nodes[node].usage.gives();
    let copies = layout.copies[shard].iter().map(|copy| copy.node);
    let fresh = copies.filter(|node| layout.is_fresh(shard, *node) && gives(*node));
    let fits = |from: NodeIndex, to: NodeIndex| {
        layout.may_keep(shard, to)
            && layout.may_inherit(shard, from, to)
            && layout.is_spread(shard, to, Some(from), Counting::All)
    };
    let had = || layout.problem.shards[shard].copies.iter().map(|copy| copy.node);
    fresh.flat_map(|from| had().filter(move |to| fits(from, *to)).map(move |to| (from, to))).collect()
}

fn try_back(level: &mut Level<'_, '_, '_>, shard: usize, from: NodeIndex, to: NodeIndex) -> bool {
    let (too_many, too_few) = (level.too_many, level.too_few);
    let began = level.moved.len();
    level.shift_shard(shard, from, to);
    chain::level_by_chains(level, 0);
    if level.too_many <= too_many && level.too_few <= too_few {
        return true;
    }
    for (shard, from, to) in level.moved.split_off(began).into_iter().rev() {
        level.shift_shard(shard, to, from);
    }
    level.moved.truncate(began);
    false
}
