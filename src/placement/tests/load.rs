//! Load levelling: within the rules and the counts, by few moves, and once.

use proptest::prelude::*;
use ruvector_cluster_client::wire::RebalancePolicy;

use super::super::layout::Layout;
use super::super::level::Targets;
use super::super::level_load::{LoadLevelling, MAX_STEPS, What};
use super::super::loads::{Loads, NodeLoads};
use super::super::plan::{PlanOptions, chosen};
use super::super::problem::{Action, NodeUse, Problem, ShardUse, Step, Tolerance, Why};
use super::super::shares::Shares;
use super::super::solve::{Levelling, OnLoad, Solution, solve, solve_with_load};
use super::{carry_out, cases, counts, node, primaries, problems, settled};

pub(super) const START: u64 = 1_100;
pub(super) const STOP: u64 = 1_050;

pub(super) fn by(loads: &Loads, start: u64) -> LoadLevelling<'_> {
    LoadLevelling { what: What::Load, loads, start, stop: STOP, hot_factor: 2_000, upto: STOP }
}

/// As the coordinator plans: load only where nothing else is to be done.
fn plan(problem: &Problem, loads: &Loads, start: u64) -> Solution {
    let tolerance = |upto_thousandths| Tolerance { upto_thousandths };
    let levelling = Levelling { start: tolerance(START), stop: tolerance(STOP) };
    solve_with_load(problem, Some(levelling), OnLoad::Level(by(loads, start)))
}

/// Plans and carries out until nothing is left to do; how many steps that took.
fn spread(problem: &mut Problem, loads: &Loads) -> usize {
    let mut steps = 0;
    for _ in 0..32 {
        let solution = plan(problem, loads, STOP);
        assert!(solution.steps.len() <= MAX_STEPS);
        assert!(solution.steps.iter().all(|step| step.why == Why::LevelLoad));
        if solution.steps.is_empty() {
            return steps;
        }
        steps += solution.steps.len();
        carry_out(problem, &solution);
    }
    panic!("it does not come to rest: {steps} steps");
}

/// The most loaded node's load over the mean, in thousandths.
pub(super) fn hottest(problem: &Problem, loads: &Loads) -> u64 {
    let layout = Layout::new(problem);
    NodeLoads::of(&layout, loads)
        .map_or(0, |nodes| (0..problem.nodes.len()).map(|node| nodes.factor(node)).max().unwrap())
}

/// What no plan gets below while counts stay even: the most loaded primary, with as few others as a node must have, and these the
/// least loaded of all; over the mean of the nodes, in thousandths.
fn least(problem: &Problem, loads: &Loads) -> u64 {
    let (shards, nodes, copies) =
        (problem.shards.len(), problem.nodes.len() as u64, problem.replication_factor as u64);
    let all: u64 = (0..shards).map(|shard| loads.reads[shard] + copies * loads.writes[shard]).sum();
    let most = (0..shards).map(|shard| loads.of_copy(shard, true)).max().unwrap();
    let smallest = |values: &[u64], each: u64| -> u64 {
        let mut values = values.to_vec();
        values.sort_unstable();
        let others = (shards as u64 * each / nodes * (2_000 - STOP) / 1_000).saturating_sub(1);
        values.iter().take(others as usize).sum()
    };
    let others = smallest(&loads.writes, copies) + smallest(&loads.reads, 1);
    ((most + others) * nodes * 1_000 / all).max(1_000)
}

/// Zipf's law with exponent 1 over shards, ranked by `rank`: parts of reads and of writes.
pub(super) fn zipf(shards: usize, parts: (u64, u64), rank: impl Fn(usize) -> usize) -> Loads {
    let part = |part: u64| (0..shards).map(|shard| part * 10_000_000 / (1 + rank(shard) as u64)).collect();
    Loads { reads: part(parts.0), writes: part(parts.1), rests: vec![false; shards] }
}

fn noisy(loads: &Loads, round: u64) -> Loads {
    let each = |values: &[u64], salt: u64| -> Vec<u64> {
        let noise = |place: usize| {
            let draw = (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(round * 31 + salt);
            900 + (draw ^ (draw >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) % 201
        };
        values.iter().enumerate().map(|(place, value)| value * noise(place) / 1_000).collect()
    };
    Loads { reads: each(&loads.reads, 1), writes: each(&loads.writes, 2), rests: loads.rests.clone() }
}

#[test]
fn zipf_ends_with_the_hottest_node_below_six_fifths_of_the_mean_and_moves_once() {
    for (nodes, racks, shards) in [(8, 8, 256), (9, 3, 256), (10, 5, 512), (10, 3, 1_000)] {
        for parts in [(1, 1), (1, 3), (4, 1), (0, 1), (1, 0)] {
            for scattered in [true, false] {
                let mut problem =
                    settled(shards, (0..nodes).map(|place| node(1_000, place % racks)).collect());
                let mut order: Vec<usize> = (0..shards).collect();
                if scattered {
                    order.sort_by_key(|shard| (shard * 7_919) % shards);
                } else {
                    // The most loaded shards share their primaries.
                    order.sort_by_key(|shard| (problem.shards[*shard].copies[0].node, *shard));
                }
                let mut rank = vec![0; shards];
                order.iter().enumerate().for_each(|(place, shard)| rank[*shard] = place);
                let loads = zipf(shards, parts, |shard| rank[shard]);
                let before = hottest(&problem, &loads);
                let steps = spread(&mut problem, &loads);
                let (after, least) = (hottest(&problem, &loads), least(&problem, &loads));
                println!(
                    "{nodes} nodes {racks} racks {shards} shards, reads:writes {parts:?}, scattered {scattered}: {before} -> {after} (least {least}) by {steps} steps"
                );
                assert!(after < 1_200 * least / 1_000, "{before} to {after}, at least {least}");
                assert!(steps <= shards, "{steps} steps");
                assert_eq!(plan(&problem, &loads, START).steps, []);
                let full = |counts: Vec<u64>| counts.iter().max().unwrap() - counts.iter().min().unwrap();
                assert!(
                    full(primaries(&problem)) <= 2 + primaries(&problem)[0] / 8,
                    "{:?}",
                    primaries(&problem)
                );
                // Where a node stays hot whatever is done, noise may show a step that was not seen, but less and less is left to do.
                let (start, rounds, most) =
                    if after <= STOP { (START, 5, 0) } else { (STOP, 24, shards * 2 / 5) };
                let mut moved = 0;
                for round in 0..rounds {
                    let solution = plan(&problem, &noisy(&loads, round), start);
                    moved += solution.steps.len();
                    carry_out(&mut problem, &solution);
                }
                assert!(moved <= most, "{moved} moves by noise, {after}");
            }
        }
    }
}

#[test]
fn reads_are_spread_by_hand_overs_alone() {
    let mut problem = settled(96, vec![node(1_000, 0); 6]);
    let mut loads = zipf(96, (0, 0), |_| 0);
    for (shard, spec) in problem.shards.iter().enumerate() {
        loads.reads[shard] = if spec.copies[0].node == 2 { 900_000 } else { 300_000 };
    }
    assert!(hottest(&problem, &loads) > 2_000);
    let solution = plan(&problem, &loads, START);
    // One node shares too few shards with the others; what is left there goes with a copy.
    let moves = solution.steps.iter().filter(|step| matches!(step.action, Action::Move { .. })).count();
    assert!(moves <= 2 && solution.steps.len() > 10, "{:?}", solution.steps);
    assert!(solution.steps.iter().take(20).all(|step| matches!(step.action, Action::Promote { .. })));
    carry_out(&mut problem, &solution);
    assert!(hottest(&problem, &loads) <= STOP, "{}", hottest(&problem, &loads));
}

#[test]
fn a_hot_shards_neighbours_go_and_it_stays() {
    let mut problem = settled(24, vec![node(1_000, 0); 6]);
    let mut loads = zipf(24, (0, 0), |_| 0);
    for shard in 0..24 {
        // Some neighbours are worth their moves.
        loads.writes[shard] = if shard % 2 == 0 { 100_000 } else { 300_000 };
    }
    loads.writes[7] = 700_000;
    let holders: Vec<usize> = problem.shards[7].copies.iter().map(|copy| copy.node).collect();
    assert!(hottest(&problem, &loads) > START, "{}", hottest(&problem, &loads));
    let steps = spread(&mut problem, &loads);
    assert!(steps > 0 && hottest(&problem, &loads) <= START, "{} by {steps}", hottest(&problem, &loads));
    let still: Vec<usize> = problem.shards[7].copies.iter().map(|copy| copy.node).collect();
    assert_eq!(still, holders);
}

#[test]
fn a_shard_that_rests_is_left_alone_and_capacity_counts() {
    let mut problem =
        settled(96, vec![node(1_000, 0), node(1_000, 0), node(2_000, 0), node(2_000, 0), node(2_000, 0)]);
    let even = Loads { reads: vec![50_000; 96], writes: vec![50_000; 96], rests: vec![false; 96] };
    assert!(hottest(&problem, &even) < STOP, "copies lie by capacity, and so does load");
    let mut loads = even.clone();
    for (shard, spec) in problem.shards.iter().enumerate().filter(|(_, spec)| spec.copies[0].node == 0) {
        loads.reads[shard] = 400_000;
        loads.rests[shard] = spec.has_primary;
    }
    let solution = plan(&problem, &loads, START);
    assert!(solution.steps.iter().all(|step| !loads.rests[step.shard]));
    loads.rests = vec![false; 96];
    spread(&mut problem, &loads);
    assert!(hottest(&problem, &loads) <= START, "{}", hottest(&problem, &loads));
}

#[test]
fn a_cluster_without_load_or_with_one_node_is_even() {
    let problem = settled(12, vec![node(1_000, 0); 4]);
    let idle = Loads { reads: vec![0; 12], writes: vec![0; 12], rests: vec![false; 12] };
    assert_eq!(plan(&problem, &idle, START).is_load_uneven, Some(false));
    let mut lone = settled(12, vec![node(1_000, 0); 3]);
    lone.nodes[0].usage = NodeUse::Away;
    lone.nodes[1].usage = NodeUse::Away;
    let loads = Loads { reads: vec![9_000_000; 12], ..idle };
    assert_eq!(
        solve_with_load(&lone, Some(Levelling::FULL), OnLoad::LevelToo(by(&loads, STOP)))
            .steps
            .iter()
            .filter(|step| step.why == Why::LevelLoad)
            .count(),
        0
    );
}

#[test]
fn loads_beyond_all_measure_overflow_nothing() {
    let mut problem = settled(64, vec![node(1_000, 0); 5]);
    problem.nodes[0].weight = (1 << 49) - 1;
    let mut loads = Loads { reads: vec![u64::MAX; 64], writes: vec![u64::MAX; 64], rests: vec![false; 64] };
    plan(&problem, &loads, STOP);
    solve_with_load(&problem, Some(Levelling::FULL), OnLoad::LevelToo(by(&loads, 1_000)));
    loads.reads = (0..64).map(|shard| if shard == 0 { u64::MAX } else { 1 }).collect();
    solve_with_load(&problem, Some(Levelling::FULL), OnLoad::LevelToo(by(&loads, 1_000)));
}

/// An operator's `max_moves` cut an exchange in half, and the next plan levelled the half back.
#[test]
fn max_moves_takes_both_halves_of_an_exchange_or_none() {
    let step = |shard, from, to| Step { shard, action: Action::Move { from, to }, why: Why::LevelLoad };
    let alone = Step { why: Why::Level, ..step(0, 2, 3) };
    let steps = [alone, step(1, 0, 1), step(2, 1, 0), step(3, 0, 1)];
    let taken = |max_moves| {
        let policy = RebalancePolicy::default();
        let options = PlanOptions { max_moves: Some(max_moves), ..PlanOptions::for_operator(0, &policy) };
        chosen(&steps, &options).len()
    };
    assert_eq!([0, 1, 2, 3, 4, 9].map(taken), [0, 1, 1, 3, 4, 4]);
}

/// Whether copies lie outside of what levelling by number allows.
pub(super) fn are_counts_missed(problem: &Problem) -> bool {
    let layout = Layout::new(problem);
    let shares = Shares::of_copies(problem, &layout.caps, &layout.count);
    Targets::of(&layout, &shares, STOP).are_missed(&layout)
}

/// What load levelling makes smaller.
pub(super) fn unevenness(problem: &Problem, loads: &Loads) -> i128 {
    let layout = Layout::new(problem);
    let Some(nodes) = NodeLoads::of(&layout, loads) else { return 0 };
    nodes.load.iter().zip(&nodes.weight).map(|(load, weight)| load * load / weight).sum()
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn load_is_levelled_within_the_rules_and_the_counts(
        mut problem in problems(),
        draws in prop::collection::vec((0_u64..2_000_000, 0_u64..500_000, 0_u8..8), 60),
    ) {
        for shard in &mut problem.shards {
            shard.copies.iter_mut().for_each(|copy| copy.in_sync = true);
            shard.usage = if problem.nodes[shard.copies[0].node].usage.is_up() { ShardUse::Open } else { ShardUse::Pinned };
        }
        for _ in 0..2 {
            let solution = solve(&problem, Some(Levelling::FULL));
            carry_out(&mut problem, &solution);
        }
        let of = |part: fn(&(u64, u64, u8)) -> u64| draws.iter().map(part).take(problem.shards.len()).collect::<Vec<_>>();
        let loads = Loads {
            reads: of(|draw| draw.0),
            writes: of(|draw| draw.1),
            rests: draws.iter().map(|draw| draw.2 == 0).take(problem.shards.len()).collect(),
        };
        let (was_missed, mut before) = (are_counts_missed(&problem), unevenness(&problem, &loads));
        let held = counts(&problem);
        for round in 0.. {
            prop_assert!(round < 32, "it does not come to rest");
            let solution = plan(&problem, &loads, STOP);
            if solution.steps.is_empty() {
                break;
            }
            // Carrying it out checks the hard rules.
            carry_out(&mut problem, &solution);
            let after = unevenness(&problem, &loads);
            if solution.steps.iter().all(|step| step.why == Why::LevelLoad) {
                prop_assert!(solution.steps.iter().all(|step| !loads.rests[step.shard]));
                prop_assert!(after < before, "{} to {}", before, after);
            } else {
                // By number something could be done that could not before. That comes first, and alone.
                prop_assert!(solution.steps.iter().all(|step| step.why != Why::LevelLoad));
            }
            before = after;
        }
        prop_assert!(was_missed || !are_counts_missed(&problem));
        for (node, (was, is)) in problem.nodes.iter().zip(held.iter().zip(counts(&problem))) {
            prop_assert!(node.usage.takes() || is <= *was);
            prop_assert!(node.usage.gives() || is == *was);
        }
    }
}
