//! What is explained of nodes agrees with the rules, told once more and differently, and with every plan.

use proptest::prelude::*;

use super::super::caps::Caps;
use super::super::layout::{Counting, Crowd, Layout};
use super::super::problem::{Action, Copies, Copy, NodeSpec, NodeUse, Problem, Why};
use super::super::solve::{Levelling, solve};
use super::super::standing::{Places, Standing, standing};
use super::{cases, node, problems, settled};

/// So many copies that stay are in the rack and in the zone of `node`, with `copies`.
fn around(
    problem: &Problem,
    copies: &[usize],
    node: usize,
    counts: impl Fn(NodeUse) -> bool,
) -> (usize, usize) {
    let zone = |node: usize| problem.zone_of_rack[problem.nodes[node].rack];
    let counted = || copies.iter().copied().filter(|other| counts(problem.nodes[*other].usage));
    let in_rack = counted().filter(|other| problem.nodes[*other].rack == problem.nodes[node].rack).count();
    (in_rack, counted().filter(|other| zone(*other) == zone(node)).count())
}

/// Whether `to` may have a copy of `shard` instead of that on `from`, or, without one, besides: by docs/placement.md's hard rules.
fn may_have(problem: &Problem, shard: usize, from: Option<usize>, to: usize) -> bool {
    let caps = Caps::of(problem);
    let (spec, taker) = (&problem.shards[shard], &problem.nodes[to]);
    let takes = taker.usage == NodeUse::Open && taker.weight > 0;
    let has_room = taker.free_bytes.is_none_or(|free| free >= spec.bytes) && !spec.barred.contains(&to);
    let is_held = spec.copies.iter().any(|copy| copy.node == to) || spec.idle.contains(&to);
    let stays = |usage: NodeUse| !matches!(usage, NodeUse::Draining | NodeUse::Dead);
    let before: Vec<usize> = spec.copies.iter().map(|copy| copy.node).collect();
    let mut after: Vec<usize> = before.iter().copied().filter(|node| Some(*node) != from).collect();
    after.push(to);
    let fits = |all: bool| {
        let (in_rack, in_zone) = around(problem, &after, to, |usage| all || stays(usage));
        in_rack <= caps.rack && in_zone <= caps.zone
    };
    let is_fit = match from {
        None => before.len() < problem.replication_factor && fits(false),
        Some(from) => match problem.nodes[from].usage {
            NodeUse::Maintenance | NodeUse::Away => false,
            NodeUse::Draining | NodeUse::Dead => fits(false),
            NodeUse::Open | NodeUse::Full => {
                // A copy that is one too many where it is may go wherever those that stay allow it.
                let (in_rack, in_zone) = around(problem, &before, from, stays);
                fits(!(in_rack > caps.rack || in_zone > caps.zone))
            }
        },
    };
    takes && has_room && !is_held && is_fit
}

fn places(problem: &Problem, shard: usize, to: usize) -> Places {
    let copies = problem.shards[shard].copies.iter().map(|copy| copy.node);
    Places {
        instead_of: copies.filter(|from| may_have(problem, shard, Some(*from), to)).collect(),
        is_missing: may_have(problem, shard, None, to),
    }
}

prop_compose! {
    /// With room, copies that fell out, and copies that are being deleted, besides.
    fn hard_problems()(
        problem in problems(),
        rooms in prop::collection::vec(0_u64..4, 14),
        draws in prop::collection::vec((0_usize..40, 0_usize..14), 60),
        weightless in 0_usize..40,
    ) -> Problem {
        let mut problem = problem;
        for (spec, room) in problem.nodes.iter_mut().zip(rooms) {
            spec.free_bytes = Some(room).filter(|room| *room < 2);
        }
        if let Some(spec) = problem.nodes.get_mut(weightless) {
            spec.weight = 0;
        }
        let nodes = problem.nodes.len();
        for (shard, (draw, at)) in problem.shards.iter_mut().zip(draws) {
            let node = at % nodes;
            let is_free = shard.copies.iter().all(|copy| copy.node != node);
            match draw {
                0..5 if is_free => shard.barred.push(node),
                5..10 if is_free => shard.idle.push(node),
                _ => {}
            }
        }
        problem
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn a_node_may_take_a_copy_exactly_where_the_rules_allow_it(problem in hard_problems()) {
        let layout = Layout::new(&problem);
        for shard in 0..problem.shards.len() {
            for to in 0..problem.nodes.len() {
                let expected = places(&problem, shard, to);
                match standing(&layout, shard, to) {
                    Standing::Fits(found) => prop_assert_eq!(found, expected, "shard {} to {}", shard, to),
                    found => prop_assert!(expected.is_none(), "shard {} to {}: {:?}", shard, to, found),
                }
            }
        }
    }

    /// Room apart, which a plan counts as if what leaves were gone at once.
    #[test]
    fn what_a_plan_copies_goes_where_it_may(problem in problems()) {
        let layout = Layout::new(&problem);
        let solution = solve(&problem, Some(Levelling::FULL));
        let is_stuck = |shard: usize| solution.unplaced.iter().any(|(of, _)| *of == shard);
        let copied = |action: Action| match action {
            Action::Move { from, to } => Some((Some(from), to)),
            Action::Add { to } => Some((None, to)),
            Action::Remove { .. } | Action::Promote { .. } => None,
        };
        for step in solution.steps.iter().filter(|step| step.why != Why::Readmit && !is_stuck(step.shard)) {
            let Some((from, to)) = copied(step.action) else { continue };
            // Where several copies of a shard change at once, each counts on the others.
            let changes = solution.steps.iter().filter(|other| other.shard == step.shard);
            if changes.filter(|other| !matches!(other.action, Action::Promote { .. })).count() > 1 {
                continue;
            }
            let found = standing(&layout, step.shard, to);
            let fits = match &found {
                Standing::Fits(places) => from.map_or(places.is_missing, |from| places.instead_of.contains(&from)),
                _ => false,
            };
            prop_assert!(fits, "{:?}: {:?}", step, found);
        }
    }
}

#[test]
fn each_rule_that_is_in_the_way_has_its_name() {
    let mut nodes: Vec<NodeSpec> = (0..3).map(|rack| node(1_000, rack)).collect();
    nodes.extend([node(1_000, 2), node(1_000, 3), node(1_000, 4), node(0, 5)]);
    let mut problem = settled(1, nodes);
    problem.zone_of_rack = vec![0; 6];
    let copies = [0, 1, 2].map(|node| Copy { node, in_sync: true });
    problem.shards[0].copies = Copies::from_iter(copies);
    problem.nodes[4].free_bytes = Some(0);
    problem.shards[0].barred = vec![5];
    let found = |problem: &Problem, to: usize| standing(&Layout::new(problem), 0, to);
    let instead_of =
        |nodes: &[usize]| Standing::Fits(Places { instead_of: nodes.to_vec(), is_missing: false });
    assert_eq!(found(&problem, 0), Standing::Holds);
    assert_eq!(found(&problem, 3), instead_of(&[2]), "only the copy in its own rack");
    assert_eq!(found(&problem, 4), Standing::NoRoom);
    assert_eq!(found(&problem, 5), Standing::Deleting);
    assert_eq!(found(&problem, 6), Standing::Closed);
    problem.shards[0].barred.clear();
    assert_eq!(found(&problem, 5), instead_of(&[0, 1, 2]), "any copy: its rack has none");
    problem.shards[0].idle = vec![5];
    assert_eq!(found(&problem, 5), Standing::Idle);
    problem.shards[0].idle.clear();
    problem.nodes[2].usage = NodeUse::Maintenance;
    assert_eq!(found(&problem, 3), Standing::Crowded(Crowd::Rack));
    for node in 0..3 {
        problem.nodes[node].usage = NodeUse::Maintenance;
    }
    assert_eq!(found(&problem, 5), Standing::NoGiver);
    // A zone for each of the copies' racks, and racks enough in them.
    for node in [0, 2] {
        problem.nodes[node].usage = NodeUse::Open;
    }
    problem.zone_of_rack = vec![0, 1, 2, 0, 1, 2];
    problem.zones = 3;
    assert_eq!(found(&problem, 5), Standing::Crowded(Crowd::Zone));
    let rack = problem.nodes[5].rack;
    let crowd = Layout::new(&problem).crowd_in(0, rack, None, Counting::Staying);
    assert_eq!(crowd, Some(Crowd::Zone));
}
