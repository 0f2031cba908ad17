//! The hashed strategies: their order, under the same hard rules.

use proptest::prelude::*;
use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::Strategy as Hashed;

use super::super::hashed::Orders;
use super::super::problem::{Action, Copies, Copy, NodeSpec, NodeUse, Problem, ShardSpec, ShardUse};
use super::super::solve::{Solution, solve_by_orders};
use super::{carry_out, counts, fresh, node, problems, same_cases, settled, worst_crowding};

const HASHED: [Hashed; 2] = [Hashed::Ketama, Hashed::Jump];

fn names(problem: &Problem) -> Vec<NodeId> {
    (0..problem.nodes.len()).map(|number| NodeId::new(&format!("d{number:04}")).unwrap()).collect()
}

fn ids(problem: &Problem) -> Vec<ShardId> {
    (0..).map(ShardId).take(problem.shards.len()).collect()
}

/// The plan where all nodes registered at once, so that the last name is the youngest.
fn solve_hashed(problem: &Problem, strategy: Hashed) -> Solution {
    let (names, ids) = (names(problem), ids(problem));
    let orders = Orders::of(problem, &names, &vec![0; names.len()], &ids, strategy).unwrap();
    solve_by_orders(problem, &orders)
}

fn settle_hashed(problem: &mut Problem, strategy: Hashed) -> Solution {
    let solution = solve_hashed(problem, strategy);
    carry_out(problem, &solution);
    assert_eq!(solve_hashed(problem, strategy).steps, [], "planning a plan's result gives none");
    solution
}

fn moves(solution: &Solution) -> Vec<(usize, usize)> {
    let ends = |action| match action {
        Action::Move { from, to } => Some((from, to)),
        Action::Promote { .. } | Action::Add { .. } | Action::Remove { .. } => None,
    };
    solution.steps.iter().filter_map(|step| ends(step.action)).collect()
}

#[test]
fn hashed_placement_keeps_the_rules_and_its_own_order() {
    for strategy in HASHED {
        let mut problem = settled(40, (0..6).map(|number| node(1_000, number % 3)).collect());
        let (names, ids) = (names(&problem), ids(&problem));
        let before = problem.clone();
        let orders = Orders::of(&before, &names, &[0; 6], &ids, strategy).unwrap();
        let solution = settle_hashed(&mut problem, strategy);
        assert!(!solution.steps.is_empty());
        assert!((0..40).all(|shard| worst_crowding(&problem, shard) == 0));
        let first = |shard: usize| orders.order(shard).next().unwrap();
        assert!((0..40).all(|shard| problem.shards[shard].copies[0].node == first(shard)));
    }
}

#[test]
fn every_order_meets_every_usable_node() {
    for strategy in HASHED {
        let mut problem = fresh(20, vec![node(1_000, 0); 7]);
        problem.nodes[0].weight = 1;
        problem.nodes[2].usage = NodeUse::Draining;
        problem.nodes[4].weight = 0;
        let (names, ids) = (names(&problem), ids(&problem));
        let orders = Orders::of(&problem, &names, &[0; 7], &ids, strategy).unwrap();
        for shard in 0..20 {
            let mut met: Vec<_> = orders.order(shard).collect();
            met.sort_unstable();
            met.dedup();
            assert_eq!(met, [0, 1, 3, 5, 6]);
        }
        let nobody = fresh(1, Vec::new());
        let orders = Orders::of(&nobody, &[], &[], &ids[..1], strategy).unwrap();
        assert_eq!(orders.order(0).next(), None);
    }
    assert!(Orders::of(&fresh(1, Vec::new()), &[], &[], &[], Hashed::Balanced).is_none());
}

/// Racks apart, which hashing knows nothing of; and with one copy a shard, since where two draws of one shard come to a newcomer,
/// a third is asked for.
#[test]
fn a_newcomer_draws_copies_only_to_itself_and_a_leaver_gives_only_its_own() {
    for strategy in HASHED {
        let mut problem = fresh(900, vec![node(1_000, 0); 9]);
        problem.replication_factor = 1;
        settle_hashed(&mut problem, strategy);
        problem.nodes.push(node(1_000, 0));
        let joined = moves(&settle_hashed(&mut problem, strategy));
        // Its share is 90.
        assert!((60..=120).contains(&joined.len()), "{strategy:?}: {}", joined.len());
        assert!(joined.iter().all(|(_, to)| *to == 9), "{strategy:?}: {joined:?}");
        // Not the youngest: the buckets after it keep their numbers.
        problem.nodes[4].usage = NodeUse::Draining;
        let held = counts(&problem)[4];
        let left = moves(&settle_hashed(&mut problem, strategy));
        assert_eq!(left.len() as u64, held, "{strategy:?}");
        assert!(left.iter().all(|(from, _)| *from == 4), "{strategy:?}: {left:?}");
        assert_eq!(counts(&problem)[4], 0);
    }
}

/// Its copy was surplus, and to be filled anew at once: with the primaryship before it was filled.
#[test]
fn a_copy_that_is_out_of_sync_is_not_handed_the_primaryship_where_the_hash_wants_it() {
    for strategy in HASHED {
        let mut problem = fresh(40, vec![node(1_000, 0); 2]);
        problem.replication_factor = 1;
        for shard in &mut problem.shards {
            let copies = [Copy { node: 1, in_sync: true }, Copy { node: 0, in_sync: false }];
            *shard = ShardSpec {
                usage: ShardUse::Open,
                copies: Copies::from_iter(copies),
                has_primary: true,
                ..shard.clone()
            };
        }
        let solution = solve_hashed(&problem, strategy);
        let is_hand_over = |action| matches!(action, Action::Promote { .. });
        assert!(!solution.steps.iter().any(|step| is_hand_over(step.action)), "{strategy:?}");
        carry_out(&mut problem, &solution);
        // The next plan follows the hash.
        assert!(settle_hashed(&mut problem, strategy).steps.len() > 10, "{strategy:?}");
    }
}

#[test]
fn the_oldest_node_is_the_first_bucket_whatever_its_name() {
    let problem = fresh(300, vec![node(1_000, 0); 6]);
    let (names, ids) = (names(&problem), ids(&problem));
    let firsts = |problem: &Problem, names: &[NodeId], joined_ms: &[u64]| -> Vec<usize> {
        let orders = Orders::of(problem, names, joined_ms, &ids, Hashed::Jump).unwrap();
        (0..300).map(|shard| orders.order(shard).next().unwrap()).collect()
    };
    let mut five = problem.clone();
    five.nodes.pop();
    let before = firsts(&five, &names[1..], &[7; 5]);
    // The newcomer's name is the lowest.
    let after = firsts(&problem, &names, &[9, 7, 7, 7, 7, 7]);
    let moved = before.iter().zip(&after).filter(|(before, after)| **before + 1 != **after);
    let to: Vec<usize> = moved.map(|(_, after)| *after).collect();
    assert!(to.len() > 20 && to.iter().all(|node| *node == 0), "{to:?}");
}

#[test]
fn twice_the_capacity_draws_about_twice_the_copies() {
    for strategy in HASHED {
        let mut problem = fresh(2_000, vec![node(1_000, 0); 20]);
        problem.replication_factor = 1;
        problem.nodes[..10].iter_mut().for_each(|node| node.weight = 2_000);
        settle_hashed(&mut problem, strategy);
        let heavy: u64 = counts(&problem)[..10].iter().sum();
        // Two thirds of 2,000.
        assert!((1_230..=1_430).contains(&heavy), "{strategy:?}: {heavy}");
    }
}

proptest! {
    #![proptest_config(same_cases(96))]

    #[test]
    fn hashed_plans_keep_the_rules_on_any_cluster(mut problem in problems()) {
        // Where a copy that is out of sync or idle goes, its node may be the best to be filled anew: but only once it is gone.
        let is_whole = |shard: &ShardSpec| shard.idle.is_empty() && shard.copies.iter().all(|copy| copy.in_sync);
        let is_final = problem.shards.iter().all(is_whole);
        for strategy in HASHED {
            let solution = solve_hashed(&problem, strategy);
            carry_out(&mut problem, &solution);
            let unplaced: Vec<usize> = solution.unplaced.iter().map(|(shard, _)| *shard).collect();
            for (id, shard) in problem.shards.iter().enumerate() {
                if shard.usage == ShardUse::Open && !unplaced.contains(&id) {
                    prop_assert_eq!(shard.copies.len(), problem.replication_factor);
                    let keeps = |node: usize| -> &NodeSpec { &problem.nodes[node] };
                    prop_assert!(shard.copies.iter().all(|copy| keeps(copy.node).usage.keeps()));
                }
            }
            if is_final {
                prop_assert_eq!(solve_hashed(&problem, strategy).steps, vec![]);
            }
        }
    }
}
