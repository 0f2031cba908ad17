//! Sizes that heartbeats tell, and what is moved for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::{MigrationKind, Move, Strategy};

use super::super::decide::plan_options;
use super::super::explain;
use super::world::TICK_MS;
use super::{World, id, settled};
use crate::metadata::{Change, NewMigration};
use crate::placement::{COOL_DOWN_MS, PlanOptions, planned};

const GIB: u64 = 1 << 30;

fn migrations(world: &World) -> Vec<NewMigration> {
    let asked = world.decided.iter().filter_map(|change| match change {
        Change::Migrate(asked) => Some(asked.clone()),
        _ => None,
    });
    asked.collect()
}

/// From 16 GiB down to 1, the shards of `d1` the biggest of all.
fn skew(world: &mut World) {
    let mut shards: Vec<(bool, ShardId)> =
        world.metadata.shards().map(|shard| (shard.primary.as_ref() != Some(&id("d1")), shard.id)).collect();
    shards.sort();
    let bytes = |rank: u64| GIB * (16 / (1 + rank / 8));
    world.sizes = (0..).zip(shards).map(|(rank, (_, shard))| (shard, bytes(rank))).collect();
}

/// The node with the most bytes over the mean, in thousandths.
fn fullest(world: &World) -> u64 {
    let mut bytes: BTreeMap<NodeId, u64> = BTreeMap::new();
    for shard in world.metadata.shards() {
        for node in shard.full_copies() {
            *bytes.entry(node.clone()).or_default() += world.sizes[&shard.id];
        }
    }
    let all: u64 = bytes.values().sum();
    bytes.values().max().unwrap() * 1_000 / all * world.nodes.len() as u64
        + bytes.values().max().unwrap() * 1_000 % all * world.nodes.len() as u64 / all
}

/// So many moves for bytes the coordinator would make now.
fn meant(world: &World) -> usize {
    let options = plan_options(&world.metadata, &world.soft, world.now());
    let planned = planned(&world.metadata, &world.soft, world.metadata.policy(), &options);
    assert!(planned.plan.moves.iter().all(|step| step.reason.contains("bytes")), "{:?}", planned.plan.moves);
    assert_eq!(planned.for_load, planned.plan.moves.len());
    planned.for_load
}

#[test]
fn bytes_are_levelled_by_exchanges_to_the_stopping_threshold_and_then_nothing_moves_any_more() {
    for most in [2, 8] {
        let mut world = settled();
        world.set_policy(|policy| policy.max_migrations = most);
        skew(&mut world);
        let before = fullest(&world);
        assert!(before > 1_150, "{before}");
        let (copies, primaries) = (world.copies(), world.primaries());
        // Nothing is waited for.
        world.run_ms(2_000);
        assert!(!migrations(&world).is_empty());
        world.settle();
        let asked = migrations(&world);
        println!("{before} -> {} by {} moves", fullest(&world), asked.len());
        assert!(fullest(&world) <= 1_050, "{before} to {}", fullest(&world));
        assert!(asked.iter().all(|asked| asked.kind == Some(MigrationKind::Move)), "{asked:?}");
        assert!(asked.iter().all(|asked| asked.reason.contains("bytes")), "{asked:?}");
        assert!(asked.len() <= 64, "{} migrations", asked.len());
        world.assert_whole();
        let near =
            |one: &[u64], other: &[u64]| one.iter().zip(other).all(|(one, other)| one.abs_diff(*other) <= 1);
        assert!(near(&world.copies(), &copies), "{:?}", world.copies());
        assert!(near(&world.primaries(), &primaries), "{:?}", world.primaries());
        world.decided.clear();
        world.run_ms(3 * COOL_DOWN_MS);
        assert_eq!(world.decided, []);
    }
}

/// What is not known may be anything: so nothing is moved for it.
#[test]
fn nothing_is_levelled_by_bytes_until_the_primary_of_every_shard_has_told_its_size() {
    let mut world = settled();
    skew(&mut world);
    world.tells_no_sizes = true;
    world.lead();
    world.run_ms(10_000);
    assert_eq!(world.decided, [], "a leader that has just begun");
    world.tells_no_sizes = false;
    world.set_policy(|policy| policy.enabled = false);
    world.run_ms(2_000);
    world.set_policy(|policy| policy.enabled = true);
    assert!(meant(&world) > 0);
    let shard = world.metadata.shards().find(|shard| shard.primary == Some(id("d3"))).unwrap().id;
    let heard = world.soft.clone();
    let forget = |world: &mut World, change: fn(&mut crate::soft::SoftNode, ShardId)| {
        world.soft = heard.clone();
        change(Arc::make_mut(world.soft.nodes.get_mut(&id("d3")).unwrap()), shard);
        assert_eq!(meant(world), 0);
    };
    forget(&mut world, |said, shard| assert!(said.held.remove(&shard).is_some()));
    forget(&mut world, |said, _| said.complete = false);
    forget(&mut world, |said, _| said.incarnation.0 -= 1);
    world.soft = heard.clone();
    world.soft.nodes.remove(&id("d3"));
    assert_eq!(meant(&world), 0);
    // What a replica says does not matter.
    world.soft = heard.clone();
    let replica = world.metadata.shard(shard).unwrap().replicas.first().unwrap().clone();
    Arc::make_mut(world.soft.nodes.get_mut(&replica).unwrap()).held.remove(&shard);
    assert!(meant(&world) > 0);
    let incarnation = world.metadata.node(&id("d3")).unwrap().incarnation;
    world.soft = heard;
    world.apply(crate::metadata::Command::Coordinate {
        changes: vec![Change::Down { node: id("d3"), incarnation }],
    });
    let options = plan_options(&world.metadata, &world.soft, world.now());
    let planned = planned(&world.metadata, &world.soft, world.metadata.policy(), &options);
    assert_eq!(planned.for_load, 0, "a node that is down says nothing");
}

#[test]
fn explain_tells_what_moves_for_bytes_and_that_both_halves_begin_together() {
    let mut world = settled();
    skew(&mut world);
    world.set_policy(|policy| policy.max_migrations = 1);
    world.nodes.values_mut().for_each(|node| node.idles = true);
    world.run_ms(2_000);
    let now = world.now();
    let told = (0..64).map(|shard| explain(&world.metadata, Some(&world.soft), now, ShardId(shard)).unwrap());
    let next: Vec<_> = told.filter(|told| !told.next.is_empty()).collect();
    assert!(next.len() > 1, "{next:?}");
    for told in next {
        assert!(told.next[0].reason.contains("bytes"), "{told:?}");
        assert!(!told.waits.is_empty(), "{told:?}");
    }
    world.nodes.values_mut().for_each(|node| node.idles = false);
    world.set_policy(|policy| policy.max_migrations = 8);
    for _ in 0..(2 * COOL_DOWN_MS).div_ceil(TICK_MS) {
        world.tick();
        let counts = world.copies();
        assert!(counts.iter().all(|count| (30..=34).contains(count)), "{counts:?}");
    }
    assert!(fullest(&world) <= 1_100, "{}", fullest(&world));
}

#[test]
fn hashed_strategies_level_no_bytes() {
    let mut world = settled();
    skew(&mut world);
    world.set_policy(|policy| policy.enabled = false);
    world.run_ms(2_000);
    world.set_policy(|policy| policy.enabled = true);
    for (strategy, is_levelled) in
        [(Strategy::Balanced, true), (Strategy::Ketama, false), (Strategy::Jump, false)]
    {
        let options = PlanOptions { strategy, ..plan_options(&world.metadata, &world.soft, world.now()) };
        let plan = planned(&world.metadata, &world.soft, world.metadata.policy(), &options).plan;
        let is_for_bytes = |step: &Move| step.reason.contains("bytes");
        assert_eq!(plan.moves.iter().any(is_for_bytes), is_levelled, "{strategy:?}");
    }
}

#[test]
fn a_shard_that_moved_for_its_bytes_rests_before_it_moves_for_them_again() {
    let mut world = settled();
    skew(&mut world);
    world.run_ms(2_000);
    world.settle();
    let moved: Vec<ShardId> = migrations(&world).iter().map(|asked| asked.shard).collect();
    // Now they are the large ones.
    let bytes = |shard: u32| if moved.contains(&ShardId(shard)) { 64 * GIB } else { GIB };
    world.sizes = (0..64).map(|shard| (ShardId(shard), bytes(shard))).collect();
    let moves_again = |world: &mut World, after_ms: u64| {
        world.set_policy(|policy| policy.enabled = false);
        world.run_ms(after_ms);
        world.set_policy(|policy| policy.enabled = true);
        let options = plan_options(&world.metadata, &world.soft, world.now());
        let plan = planned(&world.metadata, &world.soft, world.metadata.policy(), &options).plan;
        plan.moves.iter().any(|step| moved.contains(&step.shard))
    };
    assert!(!moves_again(&mut world, 2_000) && fullest(&world) > 1_100);
    assert!(moves_again(&mut world, COOL_DOWN_MS));
}
