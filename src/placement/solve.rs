//! From a problem to steps: restore the rules, level copies, level primaries.

use super::forced::{self, Unplaced};
use super::hashed;
use super::layout::Layout;
use super::level::{self, level_copies, too_few, too_many};
use super::primaries::{self, level_primaries};
use super::problem::{Action, NodeIndex, Problem, ShardUse, Step, Tolerance};
use super::shares::Shares;

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
    /// No plan that restores the rules and levels copies as far has fewer moves.
    pub(crate) lower_bound: u64,
    /// What stays as it is although a rule wants otherwise.
    pub(crate) unplaced: Unplaced,
}

/// Restores the rules, and puts copies where each shard's order of nodes wants them.
pub(crate) fn solve_by_orders(problem: &Problem, orders: &[Vec<NodeIndex>]) -> Solution {
    let mut layout = Layout::new(problem);
    let before = layout.count.clone();
    let unplaced = forced::force(&mut layout);
    let lower_bound = copies_moved(&layout);
    hashed::follow(&mut layout, orders);
    told(layout, before, lower_bound, unplaced)
}

/// Solves `problem`; without `levelling` only rules are restored.
pub(crate) fn solve(problem: &Problem, levelling: Option<Levelling>) -> Solution {
    let mut layout = Layout::new(problem);
    let before = layout.count.clone();
    let unplaced = forced::force(&mut layout);
    let mut lower_bound = copies_moved(&layout);
    if let Some(levelling) = levelling {
        let shares = Shares::of_copies(problem, &layout.caps, &layout.count);
        if has_new(problem) || level::is_uneven(&layout, &shares, levelling.start.upto_thousandths) {
            let upto = levelling.stop.upto_thousandths;
            let replaced = |node: usize| before[node].saturating_sub(layout.count[node]);
            let giving = |node: usize| match problem.nodes[node].usage.gives() {
                true => before[node].saturating_sub(shares.high(node, upto)),
                false => replaced(node),
            };
            let uneven = (0..before.len()).any(|node| {
                too_many(&layout, &shares, node, upto) > 0 || too_few(&layout, &shares, node, upto) > 0
            });
            if uneven && !has_new(problem) {
                lower_bound = lower_bound.max((0..before.len()).map(giving).sum());
            }
            level_copies(&mut layout, &shares, upto);
            // A copy that came by levelling may be the first that can lead in place of a node in maintenance.
            let is_open = |id: &usize| problem.shards[*id].usage == ShardUse::Open;
            (0..problem.shards.len())
                .filter(is_open)
                .for_each(|id| forced::leave_maintenance(&mut layout, id));
        }
        let shares = Shares::of_primaries(problem, &layout.count, &layout.primaries);
        if has_new(problem) || primaries::is_uneven(&layout, &shares, levelling.start.upto_thousandths) {
            level_primaries(&mut layout, &shares, levelling.stop.upto_thousandths);
        }
    }
    told(layout, before, lower_bound, unplaced)
}

fn told(layout: Layout<'_>, before: Vec<u64>, lower_bound: u64, unplaced: Unplaced) -> Solution {
    let is_new = |id: &usize| layout.is_new(*id) && !layout.copies[*id].is_empty();
    let assigned = (0..layout.copies.len()).filter(is_new);
    let assigned =
        assigned.map(|id| (id, layout.copies[id].iter().map(|copy| copy.node).collect())).collect();
    let lower_bound = lower_bound.min(copies_moved(&layout));
    Solution { assigned, before, lower_bound, unplaced, steps: layout.steps }
}

/// Steps so far that are more than a hand-over.
fn copies_moved(layout: &Layout<'_>) -> u64 {
    layout.steps.iter().filter(|step| !matches!(step.action, Action::Promote { .. })).count() as u64
}

fn has_new(problem: &Problem) -> bool {
    problem.shards.iter().any(|shard| shard.usage == ShardUse::Unassigned)
}
