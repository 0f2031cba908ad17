//! From a problem to steps: restore the rules, level copies, level primaries.

use super::bound::lower_bound;
use super::cancel;
use super::forced::{self, Unplaced};
use super::hashed::{self, Orders};
use super::layout::Layout;
use super::level::{Targets, level_copies};
use super::level_load::{LoadLevelling, is_uneven, level_load};
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

/// What is done about load, or about bytes.
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
    /// Bytes that each node may take beside what the plan puts there; none when unlimited.
    pub(crate) left_bytes: Vec<Option<u64>>,
    /// What copies and primaries were measured by; none where nothing is levelled.
    pub(crate) measure: Option<Measure>,
    /// Whether load is uneven by the starting threshold; not looked at where something else is uneven.
    pub(crate) is_load_uneven: Option<bool>,
}

/// What a plan measures nodes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measure {
    /// Shares of all copies.
    pub(crate) copies: Shares,
    /// Shares of all primaries.
    pub(crate) primaries: Shares,
    /// Whether copies are levelled in this plan: some node was outside of the thresholds for a start.
    pub(crate) is_begun: bool,
}

/// Restores the rules, and puts copies where each shard's order of nodes wants them.
pub(crate) fn solve_by_orders(problem: &Problem, orders: &Orders<'_>) -> Solution {
    let mut layout = Layout::new(problem);
    let before = layout.count.clone();
    let unplaced = forced::force(&mut layout);
    let lower_bound = lower_bound(&layout, &before, None);
    hashed::follow(&mut layout, orders);
    forced::remove_idle(&mut layout);
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
    solve_all(problem, levelling, on_load, OnLoad::Nothing)
}

/// The same, and what is to be done about bytes, where load needs nothing.
pub(crate) fn solve_all(
    problem: &Problem,
    levelling: Option<Levelling>,
    on_load: OnLoad<'_>,
    on_bytes: OnLoad<'_>,
) -> Solution {
    let mut layout = Layout::new(problem);
    let before = layout.count.clone();
    let mut unplaced = forced::force(&mut layout);
    let levelled = levelling.map(|levelling| level(&mut layout, &before, levelling, &mut unplaced));
    forced::remove_idle(&mut layout);
    settle_primaries(&mut layout);
    forced::leave_maintenance(&mut layout);
    let mut measure = None;
    if let Some((levelling, (copies, is_begun))) = levelling.zip(levelled) {
        let shares = Shares::of_primaries(problem, &layout.count, &layout.primaries);
        let (start, stop) = (levelling.start.upto_thousandths, levelling.stop.upto_thousandths);
        if !layout.new.is_empty() || primaries::are_uneven(&layout, &shares, start) {
            level_primaries(&mut layout, &shares, stop);
        }
        measure = Some(Measure { copies, primaries: shares, is_begun });
    }
    let begun = levelling.zip(measure.as_ref().filter(|measure| measure.is_begun));
    let marks = begun.and_then(|(levelling, measure)| {
        let targets = Targets::of(&layout, &measure.copies, levelling.stop.upto_thousandths);
        (!targets.are_missed(&layout)).then_some(targets.marks)
    });
    let lower_bound = lower_bound(&layout, &before, marks.as_deref());
    let is_load_uneven = level_carried(&mut layout, on_load, true);
    // What was to be levelled and is as before can't be helped.
    let is_load_settled = is_load_uneven == Some(false) || matches!(on_load, OnLoad::Level(_));
    level_carried(&mut layout, on_bytes, is_load_settled);
    let solution = told(layout, before, measure, lower_bound, unplaced);
    Solution { is_load_uneven, ..solution }
}

/// Levels what copies carry, as far as that is wanted and may be now. Answers whether it is uneven by the starting threshold; none
/// where that was not looked at.
fn level_carried(layout: &mut Layout<'_>, on: OnLoad<'_>, may_begin: bool) -> Option<bool> {
    let is_settled = may_begin && layout.is_as_before();
    match on {
        OnLoad::Idle => Some(false),
        OnLoad::Watch(of) if is_settled => Some(is_uneven(layout, &of)),
        OnLoad::Level(of) if is_settled => Some(level_load(layout, &of)),
        OnLoad::LevelToo(of) => {
            level_load(layout, &of);
            None
        }
        OnLoad::Nothing | OnLoad::Watch(_) | OnLoad::Level(_) => None,
    }
}

/// Levels copies where that may begin. Answers the shares that they are measured by, and whether it began.
fn level(
    layout: &mut Layout<'_>,
    before: &[u64],
    levelling: Levelling,
    unplaced: &mut Unplaced,
) -> (Shares, bool) {
    let problem = layout.problem;
    let stop = levelling.stop.upto_thousandths;
    let mut shares = Shares::of_copies(problem, &layout.caps, &layout.count);
    let begins = Targets::of(layout, &shares, levelling.start.upto_thousandths).are_missed(layout);
    if !begins && layout.new.is_empty() {
        return (shares, false);
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
    let targets = Targets::of(layout, &shares, stop);
    if !targets.are_missed(layout) {
        let needed = lower_bound(layout, before, Some(&targets.marks));
        let most = cancel::copyings(layout).saturating_sub(needed);
        if most > 0 {
            cancel::take_back(layout, &targets, most);
        }
    }
    (shares, true)
}

fn told(
    layout: Layout<'_>,
    before: Vec<u64>,
    measure: Option<Measure>,
    lower_bound: u64,
    unplaced: Unplaced,
) -> Solution {
    let assigned = layout.new.iter().copied().filter(|id| !layout.copies[*id].is_empty());
    let assigned =
        assigned.map(|id| (id, layout.copies[id].iter().map(|copy| copy.node).collect())).collect();
    let steps = steps(&layout, &before, measure.as_ref().map(|measure| &measure.copies));
    let left_bytes = layout.free_bytes().to_vec();
    Solution { steps, assigned, before, lower_bound, unplaced, left_bytes, measure, is_load_uneven: None }
}
