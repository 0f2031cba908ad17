//! Plans in the domain's words.

use std::collections::BTreeSet;

use ruvector_cluster_client::ids::{NodeId, ShardId, Thousandths};
use ruvector_cluster_client::wire::{Balance, MigrationKind, Move, Plan, RebalancePolicy, Strategy};

use super::build::{Built, Source};
use super::hashed::Orders;
use super::level_load::{LoadLevelling, What};
use super::loads::Loads;
use super::problem::{Action, Problem, Step, Tolerance, Why};
use super::solve::{Levelling, OnLoad, Solution, solve_all, solve_by_orders};
use super::words::Words;
use crate::metadata::Metadata;
use crate::soft::Soft;

/// Most shards that a plan says it can't place; the rest is the same in kind.
const MAX_INFEASIBLE: usize = 1_000;

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An operator asked: copies are levelled fully.
    Operator,
    /// The coordinator's own: levelled between the policy's thresholds.
    Automatic {
        /// Levelling began and has not reached its stopping threshold.
        levelling: bool,
        /// Levelling of bytes did.
        levelling_bytes: bool,
    },
}

/// What a plan does about load that lies unevenly. Where that is nothing more, bytes are levelled in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadMoves {
    /// Nothing: it is only told whether load is beyond the starting threshold.
    Watched,
    /// Levelled to the stopping threshold where nothing else is to be done, by shards that have not moved lately.
    Settled,
    /// Levelled to the stopping threshold after all else, whatever has moved lately.
    All,
}

/// How far a plan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All the way. A shard may have several moves, one after another.
    Whole,
    /// Each shard's first move alone: what can be queued at once.
    FirstOfEachShard,
}

/// What a plan may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Milliseconds since 1970; compared with log time.
    pub now_ms: u64,
    /// What it is for.
    pub purpose: Purpose,
    /// How copies are placed.
    pub strategy: Strategy,
    /// What it does about load. The hashed strategies do nothing.
    pub load: LoadMoves,
    /// Which of the moves.
    pub extent: Extent,
    /// At most so many moves of these; those that restore a rule come first.
    pub max_moves: Option<u32>,
    /// Taken as draining, to see whether a drain could finish.
    pub assume_draining: Option<NodeId>,
}

impl PlanOptions {
    /// For an operator's rebalance, by the policy's strategy.
    pub fn for_operator(now_ms: u64, policy: &RebalancePolicy) -> Self {
        Self {
            now_ms,
            purpose: Purpose::Operator,
            strategy: policy.strategy,
            load: LoadMoves::All,
            extent: Extent::Whole,
            max_moves: None,
            assume_draining: None,
        }
    }

    fn on_load<'a>(&self, policy: &RebalancePolicy, loads: Option<&'a Loads>, of: Levelling) -> OnLoad<'a> {
        let Some(loads) = loads else { return OnLoad::Idle };
        let watched = by_policy(policy, loads, of.stop);
        let levelled = LoadLevelling { start: watched.stop, ..watched };
        match self.load {
            LoadMoves::Watched => OnLoad::Watch(watched),
            LoadMoves::Settled => OnLoad::Level(levelled),
            LoadMoves::All => OnLoad::LevelToo(levelled),
        }
    }

    /// The same for bytes. They don't fluctuate, so that nothing is waited for.
    fn on_bytes<'a>(
        &self,
        policy: &RebalancePolicy,
        (bytes, loads): (Option<&'a Loads>, Option<&'a Loads>),
        of: Levelling,
    ) -> OnLoad<'a> {
        let Some(bytes) = bytes else { return OnLoad::Nothing };
        let by = by_policy(policy, bytes, of.stop);
        // No shard is too hot to go first.
        let begins = LoadLevelling { what: What::Bytes { beside: loads }, hot_factor: u64::MAX, ..by };
        let goes_on = LoadLevelling { start: begins.stop, ..begins };
        match (self.purpose, self.load) {
            (_, LoadMoves::All) => OnLoad::LevelToo(goes_on),
            (Purpose::Automatic { levelling_bytes: true, .. }, _) => OnLoad::Level(goes_on),
            (Purpose::Automatic { levelling_bytes: false, .. }, _) => OnLoad::Level(begins),
            (Purpose::Operator, LoadMoves::Watched | LoadMoves::Settled) => OnLoad::Nothing,
        }
    }

    fn levelling(&self, policy: &RebalancePolicy) -> Option<Levelling> {
        let tolerance = |value: Thousandths| Tolerance { upto_thousandths: value.0.clamp(1_000, 2_000) };
        let stop = tolerance(policy.stop_imbalance.min(policy.start_imbalance));
        match self.purpose {
            Purpose::Operator => Some(Levelling { start: Tolerance::NONE, stop: Tolerance::NONE }),
            Purpose::Automatic { .. } if !policy.enabled => None,
            Purpose::Automatic { levelling: true, .. } => Some(Levelling { start: stop, stop }),
            Purpose::Automatic { levelling: false, .. } => {
                Some(Levelling { start: tolerance(policy.start_imbalance), stop })
            }
        }
    }
}

/// What load levelling goes by: it keeps what is even by number as even as `upto` has it.
pub(crate) fn by_policy<'a>(
    policy: &RebalancePolicy,
    loads: &'a Loads,
    upto: Tolerance,
) -> LoadLevelling<'a> {
    let within = |value: Thousandths| value.0.max(1_000);
    let stop = within(policy.stop_imbalance.min(policy.start_imbalance));
    LoadLevelling {
        what: What::Load,
        loads,
        start: within(policy.start_imbalance),
        stop,
        hot_factor: policy.hot_factor.0,
        upto: upto.upto_thousandths,
    }
}

/// A plan, and the first copies of shards that have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Moves of copies that exist.
    pub plan: Plan,
    /// Shards without copies: theirs, the primary first. Ascending by shard.
    pub assigned: Vec<(ShardId, Vec<NodeId>)>,
    /// Whether copies or primaries are being levelled.
    pub is_levelling: bool,
    /// How many of the moves, from the front, restore a rule.
    pub forced: usize,
    /// How many of the moves, from the back, level load or bytes.
    pub for_load: usize,
    /// Whether bytes are being levelled.
    pub is_levelling_bytes: bool,
    /// Watched: whether load is beyond the starting threshold. Else whether something is done about it. None where something
    /// else comes first.
    pub is_load_uneven: Option<bool>,
}

/// The plan from this state. Pure; the same state gives the same plan.
pub fn plan(metadata: &Metadata, soft: &Soft, policy: &RebalancePolicy, options: &PlanOptions) -> Plan {
    planned(metadata, soft, policy, options).plan
}

/// The plan from this state, with the first assignments.
pub fn planned(metadata: &Metadata, soft: &Soft, policy: &RebalancePolicy, options: &PlanOptions) -> Planned {
    Drawn::of(metadata, soft, policy, options).told(metadata, soft, policy, options)
}

/// A plan in numbers, and the problem that it solves.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) built: Built,
    pub(super) solution: Solution,
    /// None where nothing is levelled.
    pub(super) levelling: Option<Levelling>,
    /// None while no shard has any load.
    pub(super) loads: Option<Loads>,
}

impl Drawn {
    pub(super) fn of(
        metadata: &Metadata,
        soft: &Soft,
        policy: &RebalancePolicy,
        options: &PlanOptions,
    ) -> Self {
        let assume_draining = options.assume_draining.as_ref();
        let built = Built::of(Source { metadata, soft, policy, now_ms: options.now_ms, assume_draining });
        let levelling = options.levelling(policy);
        let joined_ms: Vec<u64> = metadata.nodes().map(|row| row.joined_ms).collect();
        let orders = levelling.and_then(|_| {
            Orders::of(&built.problem, &built.nodes, &joined_ms, &built.shards, options.strategy)
        });
        let loads = Loads::of(&built.problem, &built.nodes, &built.shards, soft);
        let bytes = Loads::of_bytes(&built.problem).filter(|_| built.are_sizes_known);
        let resting = |loads: Loads| match options.load {
            LoadMoves::Watched | LoadMoves::Settled => loads.resting(metadata, &built.shards, options.now_ms),
            LoadMoves::All => loads,
        };
        let (loads, bytes) = (loads.map(resting), bytes.map(resting));
        let on = |upto| {
            let carried = (bytes.as_ref(), loads.as_ref());
            (options.on_load(policy, carried.1, upto), options.on_bytes(policy, carried, upto))
        };
        let (on_load, on_bytes) = levelling.map_or((OnLoad::Nothing, OnLoad::Nothing), on);
        let solution = match &orders {
            Some(orders) => solve_by_orders(&built.problem, orders),
            None => solve_all(&built.problem, levelling, on_load, on_bytes),
        };
        Self { built, solution, levelling, loads }
    }

    pub(super) fn told(
        &self,
        metadata: &Metadata,
        soft: &Soft,
        policy: &RebalancePolicy,
        options: &PlanOptions,
    ) -> Planned {
        let Self { built, solution, .. } = self;
        let steps = chosen(&solution.steps, options);
        let assigned = solution.assigned.iter().map(|(shard, copies)| {
            (built.shards[*shard], copies.iter().map(|node| built.nodes[*node].clone()).collect())
        });
        let most = match options.purpose {
            Purpose::Operator => MAX_INFEASIBLE,
            // It is made every second, and nobody reads there what stays.
            Purpose::Automatic { .. } => 0,
        };
        let words = Words { metadata, soft, policy, now_ms: options.now_ms, built };
        Planned {
            plan: Plan {
                base_revision: metadata.revision(),
                moves: steps.iter().map(|step| built.told(step)).collect(),
                before: balance(&built.problem, &solution.before),
                after: balance(&built.problem, &after(solution, &steps)),
                lower_bound_moves: solution.lower_bound,
                infeasible: words.infeasible(solution, most),
            },
            assigned: assigned.collect(),
            is_levelling: steps.iter().any(|step| !step.why.is_forced() && !step.why.is_for_load()),
            for_load: steps.iter().rev().take_while(|step| step.why.is_for_load()).count(),
            is_levelling_bytes: steps.iter().any(|step| step.why == Why::LevelBytes),
            is_load_uneven: match options.load {
                LoadMoves::Watched => solution.is_load_uneven,
                LoadMoves::Settled | LoadMoves::All => {
                    let is_levelled = steps.iter().any(|step| step.why == Why::LevelLoad);
                    solution.is_load_uneven.map(|_| is_levelled)
                }
            },
            forced: steps.iter().take_while(|step| step.why.is_forced()).count(),
        }
    }
}

/// Those of the steps that the plan is to have, in order.
pub(super) fn chosen(steps: &[Step], options: &PlanOptions) -> Vec<Step> {
    let wanted = options.max_moves.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
    let mut begun = BTreeSet::new();
    let is_startable = |step: &&Step| match options.extent {
        Extent::Whole => true,
        Extent::FirstOfEachShard => begun.insert(step.shard),
    };
    let steps: Vec<Step> = steps.iter().filter(is_startable).copied().collect();
    let mut last = 0;
    while last < steps.len() {
        // Half an exchange would leave copies or primaries uneven by number.
        let both = 1 + usize::from(steps.get(last + 1).is_some_and(|back| back.comes_back_for(&steps[last])));
        if last + both > wanted {
            break;
        }
        last += both;
    }
    steps[..last].to_vec()
}

/// Copies on each node after `steps`.
fn after(solution: &Solution, steps: &[Step]) -> Vec<u64> {
    let mut counts = solution.before.clone();
    let assigned = solution.assigned.iter().flat_map(|(_, copies)| copies);
    assigned.for_each(|node| counts[*node] += 1);
    for step in steps {
        let (from, to) = match step.action {
            Action::Move { from, to } => (Some(from), Some(to)),
            Action::Add { to } => (None, Some(to)),
            Action::Remove { from } => (Some(from), None),
            Action::Promote { .. } => (None, None),
        };
        if let Some(to) = to {
            counts[to] += 1;
        }
        if let Some(from) = from {
            counts[from] = counts[from].saturating_sub(1);
        }
    }
    counts
}

/// How even the copies lie on the nodes that are to hold some.
fn balance(problem: &Problem, counts: &[u64]) -> Balance {
    let nodes = problem.nodes.iter().zip(counts).filter(|(node, _)| node.usage.keeps() && node.weight > 0);
    let nodes: Vec<(u128, u128)> =
        nodes.map(|(node, count)| (u128::from(node.weight), u128::from(*count))).collect();
    let weight: u128 = nodes.iter().map(|(weight, _)| weight).sum();
    let copies: u128 = nodes.iter().map(|(_, count)| count).sum();
    let over_mean = nodes.iter().map(|(own, count)| count * weight * 1_000 / (own * copies.max(1))).max();
    let whole = |value: Option<u128>| u64::try_from(value.unwrap_or(0)).unwrap_or(u64::MAX);
    Balance {
        imbalance: Thousandths(whole(over_mean)),
        max_copies: whole(nodes.iter().map(|(_, count)| *count).max()),
        min_copies: whole(nodes.iter().map(|(_, count)| *count).min()),
    }
}

impl Built {
    pub(super) fn told(&self, step: &Step) -> Move {
        let name = |node: usize| Some(self.nodes[node].clone());
        let bytes = self.problem.shards[step.shard].bytes;
        let (kind, from, to, bytes) = match step.action {
            Action::Move { from, to } => (MigrationKind::Move, name(from), name(to), bytes),
            Action::Promote { from, to } => (MigrationKind::Promote, name(from), name(to), 0),
            Action::Add { to } => (MigrationKind::Add, None, name(to), bytes),
            Action::Remove { from } => (MigrationKind::Remove, name(from), None, 0),
        };
        Move { shard: self.shards[step.shard], kind, from, to, bytes, reason: step.why.sentence().to_owned() }
    }
}

impl Why {
    /// In a sentence, for people.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::Drain => "its node is being drained",
            Self::Maintenance => "its node goes into maintenance",
            Self::Replace => "its node is down for good",
            Self::Missing => "copies are missing",
            Self::Readmit => "a copy on this node is to be filled again",
            Self::Spread => "copies share a zone or rack although others suffice",
            Self::Surplus => "there are more copies than wanted",
            Self::Level => "copies lie unevenly",
            Self::LevelPrimaries => "primaries lie unevenly",
            Self::LevelLoad => "load lies unevenly over the nodes",
            Self::LevelBytes => "bytes lie unevenly over the nodes",
        }
    }
}
