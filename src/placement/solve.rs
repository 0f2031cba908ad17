//! From a problem to steps: restore the rules, level copies, level primaries.

use super::bound::lower_bound;
use super::forced::{self, Unplaced};
use super::hashed::{self, Orders};
use super::layout::Layout;
use super::level::{Targets, level_copies};
use super::primaries::{self, level_primaries};
use super::problem::{Blocked, Problem, ShardUse, Step, Tolerance};
use super::shares::Shares;
use super::steps::{settle_primaries, steps};

/// Rounds of restoring and levelling: what had no room may find some once copies were levelled away.
const MAX_ROUNDS: usize = 4;

/// When levelling begins and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Levelling {
    /// Nothing is levelled while all nodes are within.
    pub(crate) start: Tolerance,
    /// Levelled until all are within.
    pub(crate) stop: Tolerance,
}

impl Levelling {
    /// To the nearest whole copies, whatever it takes.
    #[cfg(test)]
    pub(crate) const FULL: Self = Self { start: Tolerance::NONE, stop: Tolerance::NONE };
}

/// A problem solved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Solution {
    /// In order; those of one shard are to be done one after the other.
    pub(crate) steps: Vec<Step>,
    /// First copies of unassigned shards, the primary first.
    pub(crate) assigned: Vec<(usize, Vec<usize>)>,
    /// Copies on each node before.
    pub(crate) before: Vec<u64>,
    /// No plan that restores the rules and levels copies as far copies less often.
    pub(crate) lower_bound: u64,
    /// What stays as it is although a rule wants otherwise.
    pub(crate) unplaced: Unplaced,
}

/// Restores the rules, and puts copies where each shard's order of nodes wants them.
pub(crate) fn solve_by_orders(problem: &Problem, orders: &Orders<'_>) -> Solution {
    let mut layout = Layout::new(problem);
    let before = layout.count.clone();
    let unplaced = forced::force(&mut layout);
    let lower_bound = lower_bound(&layout, &before, None);
    hashed::follow(&mut layout, orders);
    settle_primaries(&mut layout);
    forced::leave_maintenance(&mut layout);
    hashed::lead(&mut layout, orders);
    told(layout, before, None, lower_bound, unplaced)
}

/// Solves `problem`; without `levelling` only rules are restored.
pub(crate) fn solve(problem: &Problem, levelling: Option<Levelling>) -> Solution {
    let mut layout = Layout::new(problem);
    let before = layout.count.clone();
    let mut unplaced = forced::force(&mut layout);
    let levelled = levelling.and_then(|levelling| level(&mut layout, levelling, &mut unplaced));
    settle_primaries(&mut layout);
    forced::leave_maintenance(&mut layout);
    if let Some(levelling) = levelling {
        let shares = Shares::of_primaries(problem, &layout.count, &layout.primaries);
        let (start, stop) = (levelling.start.upto_thousandths, levelling.stop.upto_thousandths);
        if !layout.new.is_empty() || primaries::are_uneven(&layout, &shares, start) {
            level_primaries(&mut layout, &shares, stop);
        }
    }
    let marks = levelled.as_ref().and_then(|(shares, upto)| {
        let targets = Targets::of(&layout, shares, *upto);
        (!targets.are_missed(&layout)).then_some(targets.marks)
    });
    let lower_bound = lower_bound(&layout, &before, marks.as_deref());
    told(layout, before, levelled.map(|(shares, _)| shares), lower_bound, unplaced)
}

/// Levels copies where that may begin. Answers the shares that they were levelled to, and up to which thousandths of these.
fn level(layout: &mut Layout<'_>, levelling: Levelling, unplaced: &mut Unplaced) -> Option<(Shares, u64)> {
    let problem = layout.problem;
    let stop = levelling.stop.upto_thousandths;
    let mut shares = Shares::of_copies(problem, &layout.caps, &layout.count);
    let begins = Targets::of(layout, &shares, levelling.start.upto_thousandths).are_missed(layout);
    if !begins && layout.new.is_empty() {
        return None;
    }
    let may_chain = problem.shards.iter().all(|shard| shard.usage != ShardUse::Pinned);
    for _ in 0..MAX_ROUNDS {
        level_copies(layout, &Targets::of(layout, &shares, stop), may_chain);
        let (roomless, others): (Unplaced, Unplaced) =
            unplaced.iter().partition(|(_, why)| *why == Blocked::NoRoom);
        let still = forced::force_these(layout, roomless.iter().map(|(shard, _)| *shard).collect());
        let is_settled = still.len() == roomless.len();
        *unplaced = others.into_iter().chain(still).collect();
        if is_settled {
            break;
        }
        shares = Shares::of_copies(problem, &layout.caps, &layout.count);
    }
    Some((shares, stop))
}

fn told(
    layout: Layout<'_>,
    before: Vec<u64>,
    shares: Option<Shares>,
    lower_bound: u64,
    unplaced: Unplaced,
) -> Solution {
    let assigned = layout.new.iter().copied().filter(|id| !layout.copies[*id].is_empty());
    let assigned =
        assigned.map(|id| (id, layout.copies[id].iter().map(|copy| copy.node).collect())).collect();
    let steps = steps(&layout, &before, shares.as_ref());
    Solution { steps, assigned, before, lower_bound, unplaced }
}
