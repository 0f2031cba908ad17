//! From a problem to steps: restore the rules, level copies, level primaries.

use super::bound::lower_bound;
use super::forced::{self, Unplaced};
use super::hashed;
use super::layout::Layout;
use super::level::{Targets, level_copies};
use super::level_load::{LoadLevelling, is_uneven, level_load};
use super::primaries::{self, level_primaries};
use super::problem::{Blocked, NodeIndex, Problem, ShardUse, Step, Tolerance};
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

/// What is done about load.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OnLoad<'a> {
    /// Nothing.
    Nothing,
    /// There is none, so that it lies evenly.
    Idle,
    /// Told whether it is uneven, where nothing else is to be done.
    Watch(LoadLevelling<'a>),
    /// Levelled, where nothing else is to be done.
    Level(LoadLevelling<'a>),
    /// Levelled after all else, by shards that are not changed for anything else.
    LevelToo(LoadLevelling<'a>),
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
    /// Whether load is uneven by the starting threshold; not looked at where something else is uneven.
    pub(crate) is_load_uneven: Option<bool>,
}

/// Restores the rules, and puts copies where each shard's order of nodes wants them.
pub(crate) fn solve_by_orders(problem: &Problem, orders: &[Vec<NodeIndex>]) -> Solution {
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
#[cfg(test)]
pub(crate) fn solve(problem: &Problem, levelling: Option<Levelling>) -> Solution {
    solve_with_load(problem, levelling, OnLoad::Nothing)
}

/// The same, and what is to be done about load.
pub(crate) fn solve_with_load(
    problem: &Problem,
    levelling: Option<Levelling>,
    on_load: OnLoad<'_>,
) -> Solution {
    let mut layout = Layout::new(problem);
    let before = layout.count.clone();
    let mut unplaced = forced::force(&mut layout);
    let levelled = levelling.and_then(|levelling| level(&mut layout, levelling, &mut unplaced));
    settle_primaries(&mut layout);
    forced::leave_maintenance(&mut layout);
    if let Some(levelling) = levelling {
        let shares = Shares::of_primaries(problem, &layout.count, &layout.primaries);
        let (start, stop) = (levelling.start.upto_thousandths, levelling.stop.upto_thousandths);
        if has_new(problem) || primaries::are_uneven(&layout, &shares, start) {
            level_primaries(&mut layout, &shares, stop);
        }
    }
    let marks = levelled.as_ref().and_then(|(shares, upto)| {
        let targets = Targets::of(&layout, shares, *upto);
        (!targets.are_missed(&layout)).then_some(targets.marks)
    });
    let lower_bound = lower_bound(&layout, &before, marks.as_deref());
    let is_settled = layout.touched().is_empty();
    let is_load_uneven = match on_load {
        OnLoad::Idle => Some(false),
        OnLoad::Watch(of) if is_settled => Some(is_uneven(&layout, &of)),
        OnLoad::Level(of) if is_settled => Some(is_uneven(&layout, &of)),
        OnLoad::Nothing | OnLoad::Watch(_) | OnLoad::Level(_) | OnLoad::LevelToo(_) => None,
    };
    match on_load {
        OnLoad::Level(of) if is_settled => level_load(&mut layout, &of),
        OnLoad::LevelToo(of) => level_load(&mut layout, &of),
        OnLoad::Nothing | OnLoad::Idle | OnLoad::Watch(_) | OnLoad::Level(_) => {}
    }
    let solution = told(layout, before, levelled.map(|(shares, _)| shares), lower_bound, unplaced);
    Solution { is_load_uneven, ..solution }
}

/// Levels copies where that may begin. Answers the shares that they were levelled to, and up to which thousandths of these.
fn level(layout: &mut Layout<'_>, levelling: Levelling, unplaced: &mut Unplaced) -> Option<(Shares, u64)> {
    let problem = layout.problem;
    let stop = levelling.stop.upto_thousandths;
    let may_chain = problem.shards.iter().all(|shard| shard.usage != ShardUse::Pinned);
    let mut shares = Shares::of_copies(problem, &layout.caps, &layout.count);
    let begins = Targets::of(layout, &shares, levelling.start.upto_thousandths).are_missed(layout);
    if !begins && !has_new(problem) {
        return None;
    }
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
    let is_new = |id: &usize| layout.is_new(*id) && !layout.copies[*id].is_empty();
    let assigned = (0..layout.copies.len()).filter(is_new);
    let assigned =
        assigned.map(|id| (id, layout.copies[id].iter().map(|copy| copy.node).collect())).collect();
    let steps = steps(&layout, &before, shares.as_ref());
    Solution { steps, assigned, before, lower_bound, unplaced, is_load_uneven: None }
}

fn has_new(problem: &Problem) -> bool {
    problem.shards.iter().any(|shard| shard.usage == ShardUse::Unassigned)
}
