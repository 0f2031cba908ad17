//! Deciding and applying in a closed loop with data nodes that do at once what they are assigned.

mod bytes;
mod cool_down;
mod day;
mod load;
mod moved_on;
mod resume;
mod throttle;
mod world;

use ruvector_cluster_client::ids::{ShardId, Thousandths};
use ruvector_cluster_client::wire::{Intent, MigrationKind, Phase, ShardStatus};

use crate::metadata::{Change, Command, Wish};
use world::{TICK_MS, World, id};

/// 64 shards on six nodes in three racks, at rest.
fn settled() -> World {
    let mut world = World::founded(64, 3);
    for (name, rack) in [("d1", "r1"), ("d2", "r2"), ("d3", "r3"), ("d4", "r1"), ("d5", "r2"), ("d6", "r3")] {
        world.join(name, rack);
    }
    world.settle();
    world.assert_whole();
    world.decided.clear();
    world
}

#[test]
fn new_shards_are_assigned_by_one_plan_once_no_node_joins_any_more() {
    let mut world = World::founded(64, 3);
    for (name, rack) in [("d1", "r1"), ("d2", "r2"), ("d3", "r3"), ("d4", "r1"), ("d5", "r2")] {
        world.join(name, rack);
        world.run_ms(1_000);
        assert_eq!(world.decided, [], "nodes still join");
    }
    world.settle();
    world.assert_whole();
    assert_eq!(world.decided.len(), 64, "nothing but the first assignments");
    // The third node of three racks holds a copy of each shard.
    assert_eq!(world.copies(), [32, 32, 64, 32, 32]);
    assert!(world.primaries().iter().all(|count| (12..=13).contains(count)), "{:?}", world.primaries());
}

#[test]
fn nodes_that_keep_joining_delay_the_first_assignment_by_ten_seconds_at_most() {
    let mut world = World::founded(8, 3);
    for number in 0..12 {
        world.join(&format!("d{number:02}"), "");
        world.run_ms(1_000);
    }
    assert!(world.decided.iter().any(|change| matches!(change, Change::Assign { .. })));
}

#[test]
fn a_newcomer_gets_its_share_and_nothing_moves_between_the_others() {
    let mut world = settled();
    world.join("d7", "r1");
    world.settle();
    world.assert_whole();
    let moved = world.decided.iter().filter_map(|change| match change {
        Change::Migrate(ask) if ask.kind == Some(MigrationKind::Move) => Some(ask.to.clone()),
        _ => None,
    });
    assert!(moved.clone().all(|to| to == Some(id("d7"))));
    // Rack r1 holds one copy of each shard, now on three nodes; levelling stops within 5 % of the share.
    let copies = world.copies();
    assert!((20..=22).contains(&copies[6]) && copies.iter().sum::<u64>() == 192, "{copies:?}");
    assert!(world.ended(Phase::Aborted).is_empty());
}

#[test]
fn a_dead_node_fails_over_by_its_lease_and_is_rebuilt_after_the_grace() {
    let mut world = settled();
    let led = world.metadata.primaries_of(&id("d1"));
    world.kill("d1");
    world.run_ms(4_200 - TICK_MS);
    assert_eq!(world.decided, [], "its lease runs");
    world.run_ms(2 * TICK_MS);
    assert_eq!(world.metadata.primaries_of(&id("d1")), 0);
    let failovers = world.decided.iter().filter(|change| matches!(change, Change::Failover { .. })).count();
    assert_eq!(failovers as u64, led);
    world.run_ms(29_000);
    let migrates = |world: &World| world.decided.iter().any(|change| matches!(change, Change::Migrate(_)));
    assert!(!migrates(&world), "its copies are expected back");
    world.settle();
    world.assert_whole();
    assert_eq!(world.copies()[0], 0);
    assert_eq!(world.copies()[3], 64, "the other node of its rack holds its copies");
}

/// Others hear it: what can't wait goes as it does for a dead node, and its copies are not rebuilt while that lasts.
#[test]
fn being_heard_by_others_delays_rebuilding_and_nothing_else() {
    let urgent = |world: &World| {
        let is_urgent = |change: &&Change| matches!(change, Change::Down { .. } | Change::Failover { .. });
        world.decided.iter().filter(is_urgent).cloned().collect::<Vec<Change>>()
    };
    let (mut dead, mut heard) = (settled(), settled());
    heard.soft.heard_of = [(id("d1"), "store-d1".to_owned())].into_iter().collect();
    for world in [&mut dead, &mut heard] {
        world.kill("d1");
        world.run_ms(4_200 + TICK_MS);
    }
    assert!(!urgent(&dead).is_empty());
    assert_eq!(urgent(&dead), urgent(&heard));
    dead.settle_within(40_000);
    heard.run_ms(600_000);
    let migrates = |world: &World| {
        let is_copying = |change: &&Change| matches!(change, Change::Migrate(ask) if ask.kind != Some(MigrationKind::Promote));
        world.decided.iter().filter(is_copying).count()
    };
    assert_eq!((migrates(&heard), heard.copies()[0]), (0, 32));
    assert!(migrates(&dead) > 0);

    // Another store under its name is somebody else.
    heard.soft.heard_of = [(id("d1"), "store-other".to_owned())].into_iter().collect();
    heard.settle();
    heard.assert_whole();
    assert_eq!(heard.copies()[0], 0);
}

#[test]
fn a_node_that_comes_back_in_time_keeps_its_copies() {
    let mut world = settled();
    let copies = world.copies();
    world.kill("d2");
    world.run_ms(8_000);
    assert_eq!(world.metadata.shard_counts().degraded, 32);
    world.join("d2", "r2");
    world.settle();
    // Some are handed over once more, after the cool-down.
    world.run_ms(60_000);
    world.settle();
    world.assert_whole();
    assert_eq!(world.copies(), copies);
    assert!(world.primaries().iter().all(|count| (10..=12).contains(count)), "{:?}", world.primaries());
    let returned = Change::Alive { node: id("d2"), incarnation: world.nodes[&id("d2")].incarnation };
    assert!(world.decided.contains(&returned));
}

#[test]
fn a_drained_node_is_emptied_and_then_said_to_be() {
    let mut world = settled();
    world.wish("d5", Wish::Drain);
    world.settle();
    world.assert_whole();
    assert_eq!(world.metadata.node(&id("d5")).unwrap().intent, Intent::Drained);
    assert_eq!(world.copies()[4], 0);
    assert!(world.nodes[&id("d5")].held.is_empty());
}

#[test]
fn maintenance_hands_primaries_over_moves_no_copy_and_ends_by_itself() {
    let mut world = settled();
    world.wish("d3", Wish::Maintain { duration_ms: 60_000 });
    world.run_ms(20_000);
    assert_eq!(world.primaries()[2], 0);
    world.kill("d3");
    world.run_ms(35_000);
    assert_eq!(world.copies()[2], 32, "not rebuilt meanwhile");
    world.join("d3", "r3");
    world.run_ms(10_000);
    world.settle();
    world.assert_whole();
    assert_eq!(world.metadata.node(&id("d3")).unwrap().intent, Intent::Schedulable);
    assert!(world.primaries()[2] >= 9, "{:?}", world.primaries());
}

#[test]
fn many_nodes_gone_at_once_fail_over_but_are_not_rebuilt_while_it_looks_like_a_partition() {
    let mut world = settled();
    for name in ["d1", "d4", "d2"] {
        world.kill(name);
    }
    world.run_ms(200_000);
    assert_eq!(world.metadata.shard_counts().unavailable, 0);
    assert!(!world.decided.iter().any(|change| matches!(change, Change::Migrate(_))), "rebuilding is held");
    world.run_ms(150_000);
    world.settle();
    assert_eq!(world.copies()[0] + world.copies()[1] + world.copies()[3], 0, "rebuilt after the hold");
    world.assert_whole();
}

#[test]
fn the_last_in_sync_copy_stays_named_until_it_is_back() {
    let mut world = World::founded(4, 2);
    for name in ["d1", "d2"] {
        world.join(name, "");
    }
    world.settle();
    for name in ["d1", "d2"] {
        world.kill(name);
    }
    world.run_ms(10_000);
    assert_eq!(world.metadata.shard_counts().unavailable, 4);
    assert!(world.metadata.shards().all(|shard| shard.primary.is_some() && shard.in_sync.len() == 2));
    world.join("d2", "");
    world.run_ms(2_000);
    assert!(world.metadata.shards().all(|shard| shard.primary == Some(id("d2"))));
    assert_eq!(world.metadata.shard_counts().degraded, 4);
    world.join("d1", "");
    world.settle();
    world.assert_whole();
}

#[test]
fn a_new_leader_goes_on_from_committed_state() {
    let mut world = settled();
    world.join("d7", "r2");
    for _ in 0..40 {
        world.run_ms(500);
        world.lead();
    }
    world.settle();
    world.assert_whole();
    assert!(world.copies()[6] >= 19, "{:?}", world.copies());
    assert!(!world.decided.iter().any(|change| matches!(change, Change::Down { .. })));
}

#[test]
fn a_migration_without_progress_is_aborted_and_retried_after_a_wait_that_grows() {
    let mut world = settled();
    world.join("d7", "r3");
    world.nodes.get_mut(&id("d7")).unwrap().idles = true;
    world.run_ms(400_000);
    let aborted = world.ended(Phase::Aborted);
    assert!((4..=16).contains(&aborted.len()), "{aborted:?}");
    world.nodes.get_mut(&id("d7")).unwrap().idles = false;
    world.settle();
    world.assert_whole();
    assert!(world.copies()[6] >= 20, "{:?}", world.copies());
}

#[test]
fn a_hand_over_is_cut_over_when_the_old_primary_is_silent_although_alive() {
    let mut world = settled();
    let shard = world.metadata.shard(ShardId(0)).unwrap().clone();
    let (from, to) = (shard.primary.clone().unwrap(), shard.replicas[0].clone());
    world.nodes.get_mut(&from).unwrap().idles = true;
    world.apply(Command::Migrate {
        migrations: vec![crate::metadata::NewMigration {
            shard: shard.id,
            kind: None,
            from: None,
            to: Some(to.clone()),
            if_epoch: None,
            reason: "asked".to_owned(),
        }],
        plan: None,
    });
    world.run_ms(3_000);
    assert_eq!(world.metadata.shard(shard.id).unwrap().primary, Some(from.clone()), "its lease runs");
    world.run_ms(3_000);
    let after = world.metadata.shard(shard.id).unwrap();
    assert_eq!(after.primary, Some(to));
    assert!(after.epoch > shard.epoch);
    assert!(!world.metadata.node(&from).unwrap().is_down());
}

#[test]
fn what_is_held_and_not_assigned_is_retired_once_the_shard_is_whole() {
    let mut world = settled();
    let shard = world.metadata.shard(ShardId(7)).unwrap();
    let stranger = world.nodes.keys().find(|node| shard.role_of(node).is_none()).unwrap().clone();
    world.nodes.get_mut(&stranger).unwrap().held.insert(ShardId(7));
    world.settle();
    assert!(!world.nodes[&stranger].held.contains(&ShardId(7)));
    assert!(world.decided.iter().any(|change| matches!(change, Change::Retire { shard: ShardId(7), .. })));
}

#[test]
fn nothing_starts_by_itself_while_paused_but_failovers() {
    let mut world = settled();
    world.apply(Command::SetPaused { paused: true });
    world.join("d7", "r1");
    world.kill("d1");
    world.run_ms(60_000);
    assert!(!world.decided.iter().any(|change| matches!(change, Change::Migrate(_))));
    assert!(
        world.metadata.shards().all(|shard| world.metadata.shard_status(shard) != ShardStatus::Unavailable)
    );
    let before = world.revision();
    world.run_ms(5_000);
    assert_eq!(world.revision(), before, "it is at rest");
    world.apply(Command::SetPaused { paused: false });
    world.settle();
    world.assert_whole();
}

/// The brake on mass failure: the same deaths, the same failovers, whether or not it holds rebuilding back.
#[test]
fn the_brake_on_mass_failure_delays_no_failover() {
    let failed_over_ms = |share: u64, names: &[&str]| {
        let mut world = settled();
        world.set_policy(|policy| policy.mass_failure_share = Thousandths(share));
        names.iter().for_each(|name| world.kill(name));
        let began_ms = world.now_ms;
        let led =
            |world: &World| names.iter().map(|name| world.metadata.primaries_of(&id(name))).sum::<u64>();
        assert!(led(&world) > 0);
        while led(&world) > 0 {
            world.run_ms(TICK_MS);
            assert!(world.now_ms < began_ms + 20_000, "primaries are not failed over");
        }
        let took_ms = world.now_ms - began_ms;
        // Beyond the grace, within the hold.
        world.run_ms(100_000);
        let rebuilds = world.decided.iter().any(|change| matches!(change, Change::Migrate(_)));
        (took_ms, rebuilds)
    };
    // Of one rack and another: every shard keeps a copy.
    let (braked_ms, braked) = failed_over_ms(340, &["d1", "d4", "d2"]);
    let (free_ms, free) = failed_over_ms(1_000, &["d1", "d4", "d2"]);
    assert!(!braked, "rebuilding is held back");
    assert!(free, "nothing holds it back");
    assert_eq!(braked_ms, free_ms);
}
