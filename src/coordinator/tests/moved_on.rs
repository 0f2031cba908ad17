//! A decision that took a while, on a state that moved on meanwhile: only what it touches is void.

use std::collections::BTreeSet;

use ruvector_cluster_client::ids::ShardId;
use ruvector_cluster_client::wire::MigrationKind;

use super::super::decide::still_meant;
use super::super::{Scope, decide};
use super::settled;
use super::world::{World, id};
use crate::metadata::{Answer, Change, Command, NewMigration};

/// What can wait, decided now.
fn planned(world: &mut World) -> (ruvector_cluster_client::ids::Revision, Command) {
    world.soft.observe_state(&world.metadata, world.now_ms);
    let now = world.now();
    let mut decision = decide(&world.metadata, &world.soft, now, Scope::Patient);
    assert_eq!(decision.commands.len(), 1);
    (world.metadata.revision(), decision.commands.remove(0))
}

fn shards(command: &Command) -> BTreeSet<ShardId> {
    let Command::Coordinate { changes } = command else { panic!("the leader coordinates") };
    let shard = |change: &Change| match change {
        Change::Migrate(ask) => ask.shard,
        other => panic!("nothing else is due: {other:?}"),
    };
    changes.iter().map(shard).collect()
}

#[test]
fn of_a_plan_that_took_long_only_the_moves_that_the_state_moved_on_from_are_void() {
    let mut world = settled();
    world.set_policy(|policy| {
        (policy.max_in_per_node, policy.max_out_per_node, policy.max_migrations) = (8, 8, 8);
    });
    world.join("d7", "r1");
    let (base, command) = planned(&mut world);
    let meant = shards(&command);
    assert_eq!(meant.len(), 8);
    // Meanwhile an operator moves the first, and the primary of others dies.
    let first = *meant.iter().next().unwrap();
    let to = world.metadata.shard(first).unwrap().replicas[0].clone();
    let ask = NewMigration {
        shard: first,
        kind: Some(MigrationKind::Promote),
        from: None,
        to: Some(to),
        if_epoch: None,
        reason: "asked".to_owned(),
    };
    world.apply(Command::Migrate { migrations: vec![ask], plan: None });
    let dead = world.metadata.shard(*meant.iter().nth(1).unwrap()).unwrap().primary.clone().unwrap();
    world.kill(dead.as_str());
    while world.metadata.is_alive(&dead) {
        urgent_round(&mut world);
    }
    let is_touched = |shard: &ShardId| world.metadata.shard(*shard).unwrap().revision > base;
    let touched: BTreeSet<ShardId> = meant.iter().copied().filter(is_touched).collect();
    assert!(touched.contains(&first) && touched.len() > 1 && touched.len() < 8, "{touched:?}");
    // Unfiltered, each of those is refused by itself, and nothing else is.
    let unfiltered = world.metadata.clone();
    let Answer::Coordinated { changes: results } = world.apply(command.clone()) else {
        panic!("answered so")
    };
    let Command::Coordinate { changes } = &command else { panic!("the leader coordinates") };
    for (change, result) in changes.iter().zip(&results) {
        let Change::Migrate(ask) = change else { panic!("nothing else is due") };
        if !touched.contains(&ask.shard) {
            assert!(result.is_ok(), "{ask:?}: {result:?}");
        }
    }
    assert!(results.iter().any(Result::is_err), "{results:?}");
    let left = still_meant(command, base, &unfiltered).unwrap();
    assert_eq!(shards(&left), &meant - &touched);
}

#[test]
fn a_plan_of_which_nothing_is_left_is_not_proposed() {
    let mut world = settled();
    world.join("d7", "r1");
    let (base, command) = planned(&mut world);
    world.run_ms(60_000);
    assert!(world.copies()[6] > 0);
    let moved = still_meant(command, base, &world.metadata);
    assert_eq!(moved, None, "all of it has happened");
    assert_eq!(world.metadata.copies_of(&id("d7")), world.copies()[6]);
}

/// A round of what can't wait alone.
fn urgent_round(world: &mut World) {
    world.tick_in(Scope::Urgent);
}

/// A pause was answered, and then the plan that was being made began its moves.
#[test]
fn no_move_of_an_older_plan_begins_after_a_pause_or_under_another_policy() {
    let mut world = settled();
    world.join("d7", "r1");
    let (base, command) = planned(&mut world);
    assert!(still_meant(command.clone(), base, &world.metadata).is_some());
    world.apply(Command::SetPaused { paused: true });
    assert_eq!(still_meant(command.clone(), base, &world.metadata), None);
    world.apply(Command::SetPaused { paused: false });
    world.set_policy(|policy| policy.enabled = false);
    assert_eq!(still_meant(command, base, &world.metadata), None);
}
