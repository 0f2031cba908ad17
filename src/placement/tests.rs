//! The solver on small and random problems: rules kept, fewest moves, stable under repetition and order.

mod bytes;
mod hashing;
mod load;
mod oracle;
mod promises;
mod quality;
mod standing;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::caps::Caps;
use super::problem::{Action, Blocked, Copies, Copy, NodeSpec, NodeUse, Problem, ShardSpec, ShardUse, Why};
use super::solve::{Levelling, Solution, solve};

/// So many random cases; `CASES` multiplies them.
fn cases(number: u32) -> ProptestConfig {
    let times: u32 = std::env::var("CASES").map_or(1, |times| times.parse().unwrap());
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(number * times) }
}

/// The same ones each time; `SEED` chooses others.
fn same_cases(number: u32) -> ProptestConfig {
    let seed = std::env::var("SEED").map_or(4, |seed| seed.parse().unwrap());
    ProptestConfig { rng_seed: RngSeed::Fixed(seed), ..cases(number) }
}

fn node(weight: u64, rack: usize) -> NodeSpec {
    NodeSpec { weight, rack, usage: NodeUse::Open, free_bytes: None }
}

fn unassigned() -> ShardSpec {
    ShardSpec {
        usage: ShardUse::Unassigned,
        copies: Copies::new(),
        has_primary: false,
        idle: Vec::new(),
        barred: Vec::new(),
        bytes: 1,
    }
}

fn fresh(shards: usize, nodes: Vec<NodeSpec>) -> Problem {
    let racks = nodes.iter().map(|node| node.rack + 1).max().unwrap_or(0);
    Problem {
        nodes,
        zone_of_rack: vec![0; racks],
        zones: 1,
        shards: vec![unassigned(); shards],
        replication_factor: 3,
    }
}

/// Carries a solution out, checking the rules on the way.
fn carry_out(problem: &mut Problem, solution: &Solution) {
    for (shard, copies) in &solution.assigned {
        let shard = &mut problem.shards[*shard];
        shard.copies = copies.iter().map(|node| Copy { node: *node, in_sync: true }).collect();
        shard.usage = ShardUse::Open;
        shard.has_primary = true;
    }
    for step in &solution.steps {
        let before = worst_crowding(problem, step.shard);
        let answered = answering(problem, step.shard);
        let shard = &mut problem.shards[step.shard];
        assert_eq!(shard.usage, ShardUse::Open, "only open shards change");
        match step.action {
            Action::Move { from, to } => {
                assert!(!shard.idle.contains(&to), "an idle copy is filled where it is: {step:?}");
                let copy = shard.copies.iter_mut().find(|copy| copy.node == from).expect("the giver has it");
                *copy = Copy { node: to, in_sync: true };
            }
            Action::Add { to } => {
                shard.idle.retain(|node| *node != to);
                shard.copies.push(Copy { node: to, in_sync: true });
            }
            Action::Remove { from } => {
                shard.idle.retain(|node| *node != from);
                assert_ne!(shard.copies[0].node, from, "the primary stays");
                let is_full_copy = shard.copies.iter().any(|copy| copy.node == from);
                assert!(!is_full_copy || shard.copies.len() > problem.replication_factor, "{step:?}");
                shard.copies.retain(|copy| copy.node != from);
            }
            Action::Promote { from, to } => {
                assert_eq!(shard.copies[0].node, from);
                let place =
                    shard.copies.iter().position(|copy| copy.node == to).expect("the heir has a copy");
                assert!(shard.copies[place].in_sync, "only in-sync copies lead");
                shard.copies.swap(0, place);
            }
        }
        let mut nodes: Vec<_> = shard.copies.iter().map(|copy| copy.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        assert_eq!(nodes.len(), shard.copies.len(), "one copy a node");
        match step.action {
            Action::Move { to, .. } | Action::Add { to } if step.why != Why::Readmit => {
                assert!(problem.nodes[to].usage.takes() && problem.nodes[to].weight > 0, "{step:?}");
            }
            Action::Move { .. } | Action::Add { .. } | Action::Remove { .. } | Action::Promote { .. } => {}
        }
        assert!(answering(problem, step.shard) >= answered.min(1), "the last in-sync copy stays: {step:?}");
        assert!(worst_crowding(problem, step.shard) <= before, "no step crowds a rack: {step:?}");
    }
}

/// In-sync copies of a shard on nodes that answer.
fn answering(problem: &Problem, shard: usize) -> usize {
    let answers = |copy: &&Copy| copy.in_sync && problem.nodes[copy.node].usage.is_up();
    problem.shards[shard].copies.iter().filter(answers).count()
}

/// Copies beyond what zones and racks may hold, among nodes that keep theirs.
fn worst_crowding(problem: &Problem, shard: usize) -> usize {
    let caps = Caps::of(problem);
    let mut in_rack = vec![0_usize; problem.zone_of_rack.len()];
    let mut in_zone = vec![0_usize; problem.zones];
    for copy in &problem.shards[shard].copies {
        let spec = &problem.nodes[copy.node];
        if spec.usage.keeps() {
            in_rack[spec.rack] += 1;
            in_zone[problem.zone_of_rack[spec.rack]] += 1;
        }
    }
    let over = |held: &[usize], cap: usize| held.iter().map(|count| count.saturating_sub(cap)).sum::<usize>();
    over(&in_rack, caps.rack) + over(&in_zone, caps.zone)
}

fn counts(problem: &Problem) -> Vec<u64> {
    let mut counts = vec![0; problem.nodes.len()];
    for copy in problem.shards.iter().flat_map(|shard| &shard.copies) {
        counts[copy.node] += 1;
    }
    counts
}

fn primaries(problem: &Problem) -> Vec<u64> {
    let mut counts = vec![0; problem.nodes.len()];
    for shard in problem.shards.iter().filter(|shard| !shard.copies.is_empty()) {
        counts[shard.copies[0].node] += 1;
    }
    counts
}

fn settled(shards: usize, nodes: Vec<NodeSpec>) -> Problem {
    let mut problem = fresh(shards, nodes);
    let solution = solve(&problem, Some(Levelling::FULL));
    assert!(solution.steps.is_empty() && solution.unplaced.is_empty(), "{:?}", solution.unplaced);
    carry_out(&mut problem, &solution);
    problem
}

fn settle(problem: &mut Problem) -> Solution {
    let solution = solve(problem, Some(Levelling::FULL));
    carry_out(problem, &solution);
    let again = solve(problem, Some(Levelling::FULL));
    assert_eq!(again.steps, [], "planning a plan's result gives none");
    solution
}

#[test]
fn first_copies_are_even_and_in_different_racks() {
    let problem =
        settled(64, vec![node(1_000, 0), node(1_000, 0), node(1_000, 1), node(1_000, 1), node(1_000, 2)]);
    // The one node of the third rack must hold a copy of each shard.
    assert_eq!(counts(&problem), [32, 32, 32, 32, 64]);
    let primaries = primaries(&problem);
    assert!(primaries.iter().all(|count| (12..=13).contains(count)), "{primaries:?}");
}

#[test]
fn a_newcomer_gets_its_share_and_nothing_moves_between_the_others() {
    let mut problem = settled(64, vec![node(1_000, 0); 5]);
    problem.nodes.push(node(1_000, 0));
    let solution = settle(&mut problem);
    let moves: Vec<_> = solution.steps.iter().filter(|step| step.why == Why::Level).collect();
    assert_eq!(moves.len(), 32);
    assert_eq!(solution.lower_bound, 32);
    assert!(moves.iter().all(|step| matches!(step.action, Action::Move { to: 5, .. })));
    assert_eq!(counts(&problem), [32; 6]);
    assert!(primaries(&problem).iter().all(|count| (10..=11).contains(count)));
}

#[test]
fn a_drained_node_is_emptied_with_one_move_a_copy() {
    let mut problem = settled(
        60,
        vec![node(1_000, 0), node(1_000, 1), node(1_000, 2), node(1_000, 0), node(1_000, 1), node(1_000, 2)],
    );
    problem.nodes[0].usage = NodeUse::Draining;
    let solution = settle(&mut problem);
    assert_eq!(counts(&problem)[0], 0);
    let moves = solution.steps.iter().filter(|step| matches!(step.action, Action::Move { .. })).count();
    assert_eq!(moves as u64, 30);
    assert_eq!(solution.lower_bound, 30);
}

#[test]
fn what_can_not_be_placed_is_reported_and_stays() {
    let mut problem = settled(8, vec![node(1_000, 0); 3]);
    problem.nodes[1].usage = NodeUse::Draining;
    let solution = solve(&problem, Some(Levelling::FULL));
    assert_eq!(solution.unplaced.len(), 8);
    assert!(solution.unplaced.iter().all(|(_, why)| *why == Blocked::TooFewNodes));
    assert!(solution.steps.iter().all(|step| matches!(step.action, Action::Promote { .. })));
    problem.nodes[1].usage = NodeUse::Open;
    problem.nodes[2].usage = NodeUse::Dead;
    problem.nodes.push(NodeSpec { usage: NodeUse::Full, ..node(1_000, 0) });
    assert!(solve(&problem, None).unplaced.iter().all(|(_, why)| *why == Blocked::NoRoom));
}

#[test]
fn fewer_nodes_than_copies_wanted_get_one_each() {
    let mut problem = fresh(4, vec![node(1_000, 0), node(1_000, 1)]);
    let solution = solve(&problem, Some(Levelling::FULL));
    assert_eq!(solution.unplaced.len(), 4);
    carry_out(&mut problem, &solution);
    assert_eq!(counts(&problem), [4, 4]);
    problem.nodes.push(node(1_000, 1));
    let solution = settle(&mut problem);
    assert_eq!(solution.steps.iter().filter(|step| step.why == Why::Missing).count(), 4);
    assert_eq!(counts(&problem), [4, 4, 4]);
}

#[test]
fn a_new_rack_draws_the_copies_that_share_one() {
    let mut problem = settled(30, vec![node(1_000, 0), node(1_000, 0), node(1_000, 1), node(1_000, 1)]);
    problem.zone_of_rack.push(0);
    problem.nodes.push(node(1_000, 2));
    let solution = settle(&mut problem);
    assert_eq!(solution.steps.iter().filter(|step| step.why == Why::Spread).count(), 30);
    assert!((0..30).all(|shard| worst_crowding(&problem, shard) == 0));
}

#[test]
fn a_lost_copy_is_readmitted_where_it_was() {
    let mut problem = settled(6, vec![node(1_000, 0); 4]);
    let lost = problem.shards[2].copies.pop().unwrap().node;
    problem.shards[2].idle.push(lost);
    let solution = settle(&mut problem);
    assert_eq!(solution.steps.len(), 1);
    assert_eq!((solution.steps[0].action, solution.steps[0].why), (Action::Add { to: lost }, Why::Readmit));
}

/// The copy that was to fill the idle one went to a node that had too few, and the idle one was forgotten until the next plan.
#[test]
fn an_idle_copy_that_levelling_passes_over_goes_in_the_same_plan() {
    let mut problem = settled(6, vec![node(1_000, 0); 4]);
    // Three nodes hold 3 copies, d two, and one more is to be filled on c.
    let copies = [[0, 1], [0, 1], [2, 0], [2, 1], [2, 3], [0, 3]];
    for (shard, nodes) in problem.shards.iter_mut().zip(copies) {
        shard.copies = nodes.map(|node| Copy { node, in_sync: true }).into_iter().collect();
    }
    problem.replication_factor = 2;
    problem.shards[5].copies.truncate(1);
    problem.shards[5].idle.push(2);
    let solution = settle(&mut problem);
    let actions: Vec<_> = solution.steps.iter().map(|step| step.action).collect();
    assert!(
        actions.contains(&Action::Add { to: 3 }) && actions.contains(&Action::Remove { from: 2 }),
        "{actions:?}"
    );
}

/// Found by the simulation, seed 200028: the copy that left was to move onto the idle one, which is refused, over and over.
#[test]
fn a_copy_that_is_levelled_away_does_not_move_onto_an_idle_one_that_is_filled_again() {
    let mut problem = settled(6, vec![node(1_000, 0); 4]);
    // a holds five copies; one of them leaves for d, and the shard's missing one is filled again on c.
    let copies = [[0, 1], [0, 1], [0, 2], [0, 3], [1, 2], [0, 2]];
    for (shard, nodes) in problem.shards.iter_mut().zip(copies) {
        shard.copies = nodes.map(|node| Copy { node, in_sync: true }).into_iter().collect();
    }
    problem.replication_factor = 2;
    for shard in 0..6 {
        let mut problem = problem.clone();
        let idle = problem.shards[shard].copies.pop().unwrap().node;
        problem.shards[shard].idle.push(idle);
        settle(&mut problem);
    }
}

#[test]
fn maintenance_moves_primaries_and_no_copy() {
    let mut problem = settled(12, vec![node(1_000, 0); 4]);
    problem.nodes[3].usage = NodeUse::Maintenance;
    let solution = settle(&mut problem);
    assert!(!solution.steps.is_empty());
    assert!(solution.steps.iter().all(|step| matches!(step.action, Action::Promote { .. })));
    assert_eq!(primaries(&problem), [4, 4, 4, 0]);
}

#[test]
fn dead_nodes_copies_are_replaced_the_shards_in_danger_first() {
    let mut problem = settled(40, vec![node(1_000, 0); 6]);
    for (id, shard) in problem.shards.iter_mut().enumerate() {
        let nodes = if id % 4 == 0 { [2, 0, 1] } else { [4, id % 2, 2 + id % 2] };
        shard.copies = nodes.map(|node| Copy { node, in_sync: true }).into_iter().collect();
    }
    for dead in [0, 1] {
        problem.nodes[dead].usage = NodeUse::Dead;
    }
    let left = |problem: &Problem, shard: usize| {
        problem.shards[shard].copies.iter().filter(|copy| copy.node > 1).count()
    };
    let solution = solve(&problem, None);
    let safety: Vec<_> = solution.steps.iter().map(|step| left(&problem, step.shard)).collect();
    assert!(safety.is_sorted() && safety.contains(&1) && safety.contains(&2), "{safety:?}");
    settle(&mut problem);
    assert_eq!(counts(&problem)[..2], [0, 0]);
}

#[test]
fn levelling_waits_for_the_starting_threshold_and_stops_at_the_other() {
    use super::problem::Tolerance;
    let mut problem = settled(1_000, vec![node(1_000, 0); 10]);
    problem.nodes.push(node(1_000, 0));
    let tolerance = |upto_thousandths| Tolerance { upto_thousandths };
    let levelling = Levelling { start: tolerance(1_100), stop: tolerance(1_050) };
    let solution = solve(&problem, Some(levelling));
    carry_out(&mut problem, &solution);
    let counts = counts(&problem);
    // The share is 272.7: nodes within 5 % of it are left alone.
    assert!(counts.iter().all(|count| (259..=286).contains(count)), "{counts:?}");
    assert!(solve(&problem, Some(levelling)).steps.is_empty());
    let narrower = Levelling { start: tolerance(1_000), stop: tolerance(1_000) };
    assert!(!solve(&problem, Some(narrower)).steps.is_empty());
}

prop_compose! {
    fn nodes()(nodes in prop::collection::vec((1_u64..4, 0_usize..6, 0_u8..12), 1..14)) -> Vec<NodeSpec> {
        nodes.into_iter().map(|(weight, rack, usage)| NodeSpec {
            weight: weight * 500,
            rack,
            usage: match usage {
                0 => NodeUse::Full,
                1 => NodeUse::Maintenance,
                2 => NodeUse::Away,
                3 => NodeUse::Draining,
                4 => NodeUse::Dead,
                _ => NodeUse::Open,
            },
            free_bytes: None,
        }).collect()
    }
}

prop_compose! {
    fn problems()(
        nodes in nodes(),
        zones in 1_usize..4,
        replication_factor in 1_usize..5,
        shards in prop::collection::vec(prop::collection::vec(0_usize..1_000, 1..5), 0..60),
    ) -> Problem {
        let shards = shards.into_iter().map(|draws| {
            let mut copies = Copies::new();
            let is_one_idle = draws.iter().sum::<usize>().is_multiple_of(4);
            for draw in draws {
                let node = draw % nodes.len();
                if copies.iter().all(|copy| copy.node != node) {
                    copies.push(Copy { node, in_sync: copies.is_empty() || draw % 3 > 0 });
                }
            }
            // The primary answers; else the shard is nobody's to move.
            let usage = match copies.iter().position(|copy| copy.in_sync && nodes[copy.node].usage.is_up()) {
                Some(place) => { copies.swap(0, place); ShardUse::Open }
                None => ShardUse::Unavailable,
            };
            let fell_out = if is_one_idle && copies.len() > 1 { copies.pop() } else { None };
            let idle = fell_out.into_iter().map(|copy| copy.node).collect();
            ShardSpec { usage, copies, has_primary: true, idle, barred: Vec::new(), bytes: 1 }
        }).collect();
        Problem { nodes, zone_of_rack: (0..6).map(|rack| rack % zones).collect(), zones, shards, replication_factor }
    }
}

/// Found by the model checker: such a plan was refused by apply, and made again at once, until the copy was deleted.
#[test]
fn a_node_that_still_deletes_a_copy_is_not_planned_to_take_another() {
    let mut problem = fresh(1, vec![node(1_000, 0), node(1_000, 1), node(1_000, 2)]);
    problem.replication_factor = 2;
    let copies = Copies::from_iter([Copy { node: 0, in_sync: true }]);
    problem.nodes[2].usage = NodeUse::Dead;
    problem.shards[0] =
        ShardSpec { usage: ShardUse::Open, copies, has_primary: true, barred: vec![1], ..unassigned() };
    let solution = solve(&problem, Some(Levelling::FULL));
    assert_eq!(solution.steps, vec![]);
    assert_eq!(solution.unplaced, vec![(0, Blocked::NoRoom)]);
    problem.shards[0].barred.clear();
    assert_eq!(solve(&problem, Some(Levelling::FULL)).steps.len(), 1);
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn plans_keep_the_rules_and_planning_again_gives_nothing(mut problem in problems()) {
        let wanted = problem.replication_factor;
        // Where a copy that is out of sync goes, its node may be the best to be filled anew: but only once it is gone.
        let is_final = problem.shards.iter().all(|shard| shard.copies.iter().all(|copy| copy.in_sync));
        let solution = solve(&problem, Some(Levelling::FULL));
        let data_moves = solution.steps.iter().filter(|step| !matches!(step.action, Action::Promote { .. })).count();
        prop_assert!(solution.lower_bound <= data_moves as u64);
        carry_out(&mut problem, &solution);
        let unplaced: Vec<usize> = solution.unplaced.iter().map(|(shard, _)| *shard).collect();
        for (id, shard) in problem.shards.iter().enumerate() {
            if shard.usage == ShardUse::Open && !unplaced.contains(&id) {
                prop_assert_eq!(shard.copies.len(), wanted);
                prop_assert!(shard.copies.iter().all(|copy| problem.nodes[copy.node].usage.keeps()));
            }
        }
        let again = solve(&problem, Some(Levelling::FULL));
        if is_final {
            prop_assert_eq!(again.steps, vec![]);
        } else {
            carry_out(&mut problem, &again);
            prop_assert_eq!(solve(&problem, Some(Levelling::FULL)).steps, vec![]);
        }
    }

    #[test]
    fn first_assignments_are_even_by_weight_and_spread(nodes in nodes(), shards in 1_usize..80) {
        let mut problem = fresh(shards, nodes);
        let solution = solve(&problem, Some(Levelling::FULL));
        prop_assert!(solution.steps.is_empty());
        carry_out(&mut problem, &solution);
        prop_assert_eq!(solve(&problem, Some(Levelling::FULL)).steps, vec![]);
        for shard in 0..shards {
            prop_assert_eq!(worst_crowding(&problem, shard), 0);
        }
    }
}
