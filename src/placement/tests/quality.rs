//! How good plans are, against the exact oracle and the lower bound.

use proptest::prelude::*;

use super::super::bound::Marks;
use super::super::forced::force;
use super::super::layout::Layout;
use super::super::level::Targets;
use super::super::problem::{Action, Copies, Copy, NodeSpec, NodeUse, Problem, ShardSpec, ShardUse};
use super::super::shares::Shares;
use super::super::solve::{Levelling, Solution, solve};
use super::oracle::{Quality, best};
use super::{carry_out, cases, counts};

fn copyings(solution: &Solution) -> u64 {
    let copies = |action| matches!(action, Action::Move { .. } | Action::Add { .. });
    solution.steps.iter().filter(|step| copies(step.action)).count() as u64
}

/// What each node has to hold in the end; a node that only gives keeps its share.
fn marks(problem: &Problem) -> Vec<Marks> {
    let mut layout = Layout::new(problem);
    force(&mut layout);
    let shares = Shares::of_copies(problem, &layout.caps, &layout.count);
    let targets = Targets::of(&layout, &shares, 1_000);
    let nodes = targets.marks.iter().enumerate();
    nodes
        .map(|(node, marks)| match problem.nodes[node].usage {
            NodeUse::Full => Marks { low: layout.count[node].min(shares.ceil(node)), ..*marks },
            _ => *marks,
        })
        .collect()
}

fn quality(problem: &Problem, marks: &[Marks], copyings: u64) -> Quality {
    let outside = |(count, marks): (&u64, &Marks)| {
        (count.saturating_sub(marks.high) + marks.low.saturating_sub(*count)) as i64
    };
    let uneven = counts(problem).iter().zip(marks).map(outside).sum();
    Quality { uneven, copyings: copyings as i64 }
}

prop_compose! {
    fn clusters()(
        nodes in prop::collection::vec((1_u64..4, 0_usize..4, 0_u8..16), 2..9),
        zones in 1_usize..3,
        replication_factor in 1_usize..4,
        shards in prop::collection::vec(prop::collection::vec(0_usize..1_000, 3), 1..14),
    ) -> Problem {
        let nodes: Vec<NodeSpec> = nodes.into_iter().map(|(weight, rack, usage)| NodeSpec {
            weight: weight * 500,
            rack,
            usage: match usage {
                0 => NodeUse::Full,
                1 => NodeUse::Away,
                2 => NodeUse::Draining,
                3 => NodeUse::Dead,
                _ => NodeUse::Open,
            },
            free_bytes: None,
        }).collect();
        let shards = shards.into_iter().map(|draws| {
            let mut copies = Copies::new();
            for node in draws.into_iter().map(|draw| draw % nodes.len()).take(replication_factor) {
                if copies.iter().all(|copy| copy.node != node) {
                    copies.push(Copy { node, in_sync: true });
                }
            }
            ShardSpec { usage: ShardUse::Open, copies, has_primary: true, idle: Vec::new(), barred: Vec::new(), bytes: 1 }
        }).collect();
        Problem { nodes, zone_of_rack: (0..4).map(|rack| rack % zones).collect(), zones, shards, replication_factor }
    }
}

proptest! {
    #![proptest_config(cases(512))]

    /// As even as can be with as few copyings as can be.
    #[test]
    fn plans_are_as_good_as_the_exact_oracle_says_they_can_be(mut problem in clusters()) {
        let marks = marks(&problem);
        let solution = solve(&problem, Some(Levelling::FULL));
        let exact = best(&problem, &marks);
        prop_assert_eq!(exact.is_none(), !solution.unplaced.is_empty());
        if let Some(exact) = exact {
            carry_out(&mut problem, &solution);
            prop_assert_eq!(quality(&problem, &marks, copyings(&solution)), exact);
            prop_assert!(solution.lower_bound <= copyings(&solution));
        }
    }
}
