//! Levelling of bytes: after all else, within the rules and the counts, and at no cost to load.

use proptest::prelude::*;

use super::super::layout::Layout;
use super::super::level_load::{LoadLevelling, MAX_STEPS, What};
use super::super::loads::{Loads, NodeLoads};
use super::super::problem::{Action, NodeUse, Problem, ShardUse, Step, Tolerance, Why};
use super::super::solve::{Levelling, OnLoad, Solution, solve, solve_all};
use super::load::{START, STOP, are_counts_missed, by, hottest, unevenness, zipf};
use super::{carry_out, cases, counts, node, problems, settled};

const GIB: u64 = 1 << 30;

/// As the coordinator plans, where sizes are known.
fn plan(problem: &Problem, loads: Option<&Loads>, start: u64) -> Solution {
    let tolerance = |upto_thousandths| Tolerance { upto_thousandths };
    let levelling = Levelling { start: tolerance(START), stop: tolerance(STOP) };
    let bytes = Loads::of_bytes(problem);
    let on_load = loads.map_or(OnLoad::Idle, |loads| OnLoad::Level(by(loads, STOP)));
    let what = What::Bytes { beside: loads };
    let of = |bytes| LoadLevelling { what, hot_factor: u64::MAX, ..by(bytes, start) };
    let on_bytes = bytes.as_ref().map_or(OnLoad::Nothing, |bytes| OnLoad::Level(of(bytes)));
    solve_all(problem, Some(levelling), on_load, on_bytes)
}

/// The node with the most bytes over the mean, in thousandths.
fn fullest(problem: &Problem) -> u64 {
    Loads::of_bytes(problem).map_or(0, |bytes| hottest(problem, &bytes))
}

/// Plans and carries out until nothing is left to do; how many steps that took.
fn spread(problem: &mut Problem, loads: Option<&Loads>) -> usize {
    let mut steps = 0;
    for _ in 0..32 {
        let solution = plan(problem, loads, STOP);
        assert!(solution.steps.len() <= MAX_STEPS);
        assert!(solution.steps.iter().all(|step| step.why == Why::LevelBytes), "{:?}", solution.steps);
        if solution.steps.is_empty() {
            return steps;
        }
        steps += solution.steps.len();
        carry_by_exchange(problem, &solution, loads);
    }
    panic!("it does not come to rest: {steps} steps");
}

/// Carries out, and checks what must hold between one exchange and the next. A step that went alone was once taken for half of the
/// exchange behind it, whose other half then went alone.
fn carry_by_exchange(problem: &mut Problem, solution: &Solution, loads: Option<&Loads>) {
    let mut steps = &solution.steps[..];
    while let Some(first) = steps.first() {
        let halves = 1 + usize::from(steps.get(1).is_some_and(|second| comes_back(first, second)));
        let (exchange, rest) = steps.split_at(halves);
        steps = rest;
        let was_missed = are_counts_missed(problem);
        let before = loads.and_then(|loads| NodeLoads::of(&Layout::new(problem), loads));
        let part = Solution { steps: exchange.to_vec(), assigned: Vec::new(), ..solution.clone() };
        carry_out(problem, &part);
        assert!(was_missed || !are_counts_missed(problem), "{exchange:?}");
        let after = loads.and_then(|loads| NodeLoads::of(&Layout::new(problem), loads));
        for (before, after) in before.iter().zip(&after) {
            for place in 0..problem.nodes.len() {
                let (was, is) = (before.factor(place), after.factor(place));
                assert!(is <= STOP || is <= was, "{was} to {is} on {place}: {exchange:?}");
            }
        }
    }
}

fn comes_back(first: &Step, second: &Step) -> bool {
    matches!(
        (first.action, second.action),
        (Action::Move { from, to }, Action::Move { from: other, to: back }) if (from, to) == (back, other)
    )
}

/// Eight nodes in four racks; sizes from 16 GiB down to 1, the biggest shards led by few nodes.
fn skewed(shards: usize) -> Problem {
    let mut problem = settled(shards, (0..8).map(|place| node(1_000, place % 4)).collect());
    let mut order: Vec<usize> = (0..shards).collect();
    order.sort_by_key(|shard| (problem.shards[*shard].copies[0].node, *shard));
    for (rank, shard) in order.into_iter().enumerate() {
        problem.shards[shard].bytes = GIB * (16 / (1 + 16 * rank as u64 / shards as u64));
    }
    problem
}

#[test]
fn large_shards_change_places_with_small_ones_until_no_node_has_more_than_its_share() {
    for shards in [96, 256, 1_000] {
        let mut problem = skewed(shards);
        let (before, held) = (fullest(&problem), counts(&problem));
        assert!(before > 1_300, "{before}");
        let steps = spread(&mut problem, None);
        let after = fullest(&problem);
        println!("{shards} shards: {before} -> {after} by {steps} steps");
        assert!(after <= STOP, "{before} to {after}");
        assert!(steps <= shards, "{steps} steps");
        let even = held.iter().zip(counts(&problem)).all(|(was, is)| was.abs_diff(is) <= 1 + was / 20);
        assert!(even && !are_counts_missed(&problem), "{:?}", counts(&problem));
        assert_eq!(plan(&problem, None, START).steps, []);
    }
}

#[test]
fn bytes_lie_by_capacity_and_begin_to_be_levelled_above_the_starting_threshold() {
    let mut problem = settled(96, vec![node(1_000, 0), node(1_000, 0), node(2_000, 0), node(2_000, 0)]);
    problem.shards.iter_mut().for_each(|shard| shard.bytes = 4 * GIB);
    assert_eq!(plan(&problem, None, STOP).steps, []);
    let led = |problem: &Problem, shard: usize| problem.shards[shard].copies[0].node == 0;
    for shard in (0..96).filter(|shard| led(&problem, *shard)).collect::<Vec<_>>() {
        problem.shards[shard].bytes = 6 * GIB;
    }
    let between = fullest(&problem);
    assert!((STOP + 1..=START).contains(&between), "{between}");
    assert_eq!(plan(&problem, None, START).steps, []);
    assert!(!plan(&problem, None, STOP).steps.is_empty());
}

#[test]
fn load_that_is_even_stays_so_and_a_hot_node_gets_no_hotter() {
    for shards in [96, 256] {
        let mut problem = skewed(shards);
        // As much of both for each shard: an exchange that counts allow is none for load, or next to none.
        let mut loads = zipf(shards, (0, 0), |_| 0);
        for shard in 0..shards {
            loads.reads[shard] = 90_000 + 7_919 * shard as u64 % 20_000;
            loads.writes[shard] = 45_000 + 104_729 * shard as u64 % 10_000;
        }
        assert!(hottest(&problem, &loads) <= STOP, "{}", hottest(&problem, &loads));
        let before = fullest(&problem);
        let steps = spread(&mut problem, Some(&loads));
        println!("{shards} shards with load: {before} -> {} by {steps} steps", fullest(&problem));
        assert!(steps > 0 && fullest(&problem) <= START, "{before} to {}", fullest(&problem));
        assert!(hottest(&problem, &loads) <= STOP, "{}", hottest(&problem, &loads));
        assert_eq!(plan(&problem, Some(&loads), START).steps, []);
        // One shard's reads are more than a node's share: load can't be evened out, and bytes still are.
        let mut problem = skewed(shards);
        loads.reads[shards - 1] = 500_000_000;
        let hot = hottest(&problem, &loads);
        let solution = plan(&problem, Some(&loads), STOP);
        assert!(solution.steps.iter().any(|step| step.why == Why::LevelLoad), "that comes first");
        assert!(solution.steps.iter().all(|step| step.why == Why::LevelLoad), "and alone");
        for _ in 0..32 {
            let solution = plan(&problem, Some(&loads), STOP);
            carry_by_exchange(&mut problem, &solution, Some(&loads));
        }
        assert_eq!(plan(&problem, Some(&loads), STOP).steps, []);
        assert!(hottest(&problem, &loads) <= hot && fullest(&problem) < before);
    }
}

/// An operator's plan does all at once: load first, then bytes, each shard once.
#[test]
fn bytes_stand_behind_load_in_one_plan_and_share_its_number_of_steps() {
    let problem = skewed(256);
    let mut loads = zipf(256, (1, 1), |shard| shard);
    loads.rests = vec![false; 256];
    let bytes = Loads::of_bytes(&problem).unwrap();
    let what = What::Bytes { beside: Some(&loads) };
    let on_bytes = OnLoad::LevelToo(LoadLevelling { what, hot_factor: u64::MAX, ..by(&bytes, STOP) });
    let solution = solve_all(&problem, Some(Levelling::FULL), OnLoad::LevelToo(by(&loads, STOP)), on_bytes);
    let of_load = solution.steps.iter().take_while(|step| step.why == Why::LevelLoad).count();
    assert!(solution.steps[of_load..].iter().all(|step| step.why == Why::LevelBytes));
    assert!(of_load > 0 && solution.steps.len() <= MAX_STEPS, "{of_load} of {}", solution.steps.len());
    let mut shards: Vec<usize> = solution.steps.iter().map(|step| step.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    assert_eq!(shards.len(), solution.steps.len());
}

#[test]
fn below_a_gibibyte_a_node_bytes_count_as_even() {
    let mut problem = skewed(96);
    let bytes: u64 = problem.shards.iter().map(|shard| 3 * shard.bytes).sum();
    let per_node = bytes / 8;
    let shrunk =
        |bytes: u64, to: u64| u64::try_from(u128::from(bytes) * u128::from(to) / u128::from(per_node));
    let sizes: Vec<u64> = problem.shards.iter().map(|shard| shard.bytes).collect();
    let mut sized = |to: u64| {
        for (shard, bytes) in problem.shards.iter_mut().zip(&sizes) {
            shard.bytes = shrunk(*bytes, to).unwrap();
        }
        plan(&problem, None, START).steps.len()
    };
    assert_eq!(sized(GIB - 1), 0);
    assert!(sized(GIB + 1_000) > 0);
}

#[test]
fn a_shard_of_more_than_a_nodes_share_ends_without_thrash() {
    let mut problem = skewed(96);
    problem.shards[17].bytes = 10_000 * GIB;
    let holders = |problem: &Problem| problem.shards[17].copies.clone();
    let held = holders(&problem);
    let steps = spread(&mut problem, None);
    assert!(steps <= 96, "{steps} steps");
    assert_eq!(holders(&problem), held, "wherever it goes, it is as much");
    assert_eq!(plan(&problem, None, START).steps, []);
}

#[test]
fn sizes_beyond_all_measure_overflow_nothing() {
    let mut problem = settled(64, vec![node(1_000, 0); 5]);
    problem.nodes[0].weight = (1 << 49) - 1;
    for huge in [1 << 63, u64::MAX] {
        problem.shards.iter_mut().for_each(|shard| shard.bytes = huge);
        plan(&problem, None, STOP);
        problem.shards[0].bytes = 1;
        plan(&problem, None, STOP);
        problem.shards.iter_mut().skip(1).for_each(|shard| shard.bytes = 1);
        problem.shards[0].bytes = huge;
        plan(&problem, None, STOP);
    }
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn bytes_are_levelled_within_the_rules_the_counts_and_the_load(
        mut problem in problems(),
        draws in prop::collection::vec((0_u64..2_000_000, 0_u64..500_000, 0_u32..37, 0_u8..8), 60),
        is_idle in any::<bool>(),
        room in prop::collection::vec(0_u64..(1 << 39), 14),
    ) {
        for (place, shard) in problem.shards.iter_mut().enumerate() {
            shard.copies.iter_mut().for_each(|copy| copy.in_sync = true);
            shard.usage = if problem.nodes[shard.copies[0].node].usage.is_up() { ShardUse::Open } else { ShardUse::Pinned };
            let draw = draws[place];
            shard.bytes = (1 << draw.2) + draw.0;
        }
        for _ in 0..2 {
            let solution = solve(&problem, Some(Levelling::FULL));
            carry_out(&mut problem, &solution);
        }
        for (node, room) in problem.nodes.iter_mut().zip(&room).filter(|(node, _)| node.usage == NodeUse::Open) {
            node.free_bytes = Some(*room);
        }
        let of = |part: fn(&(u64, u64, u32, u8)) -> u64| draws.iter().map(part).take(problem.shards.len()).collect::<Vec<_>>();
        let loads = Loads { reads: of(|draw| draw.0), writes: of(|draw| draw.1), rests: vec![false; problem.shards.len()] };
        let loads = Some(&loads).filter(|_| !is_idle);
        let bytes = |problem: &Problem| Loads::of_bytes(problem).map_or(0, |bytes| unevenness(problem, &bytes));
        for round in 0.. {
            prop_assert!(round < 64, "it does not come to rest");
            let solution = plan(&problem, loads, STOP);
            if solution.steps.is_empty() {
                break;
            }
            let of_bytes = solution.steps.iter().filter(|step| step.why == Why::LevelBytes).count();
            prop_assert!(of_bytes == 0 || of_bytes == solution.steps.len(), "they come last, and alone");
            if of_bytes == 0 {
                carry_out(&mut problem, &solution);
                continue;
            }
            let (before, held) = (bytes(&problem), counts(&problem));
            let mut free: Vec<Option<u64>> = problem.nodes.iter().map(|node| node.free_bytes).collect();
            for step in &solution.steps {
                let Action::Move { from, to } = step.action else { panic!("bytes go with copies: {step:?}") };
                prop_assert!(problem.nodes[from].usage.gives() && problem.nodes[to].usage.takes());
                let bytes = problem.shards[step.shard].bytes;
                prop_assert!(free[to].is_none_or(|free| free >= bytes), "no room: {:?}", step);
                free[to] = free[to].map(|free| free - bytes);
                free[from] = free[from].map(|free| free + bytes);
            }
            carry_by_exchange(&mut problem, &solution, loads);
            prop_assert!(bytes(&problem) < before, "{} to {}", before, bytes(&problem));
            for (place, node) in problem.nodes.iter().enumerate() {
                prop_assert!(node.usage.gives() || counts(&problem)[place] == held[place]);
            }
        }
    }
}
