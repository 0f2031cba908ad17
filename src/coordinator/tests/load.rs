//! Load that heartbeats tell, and what is moved for it.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::{NodeId, ShardId, Thousandths};
use ruvector_cluster_client::wire::{Explanation, MigrationKind};

use super::super::{Scope, decide, explain};
use super::world::TICK_MS;
use super::{World, id, settled};
use crate::load::{LONG_MS, SUSTAINED_MS};
use crate::metadata::{Change, Command, NewMigration};
use crate::placement::{COOL_DOWN_MS, hotspots};

fn migrations(world: &World) -> Vec<NewMigration> {
    let asked = world.decided.iter().filter_map(|change| match change {
        Change::Migrate(asked) => Some(asked.clone()),
        _ => None,
    });
    asked.collect()
}

/// Each node's load over the mean, in thousandths.
fn factors(world: &World) -> BTreeMap<NodeId, u64> {
    let mut load: BTreeMap<NodeId, u64> = world.nodes.keys().map(|node| (node.clone(), 0)).collect();
    for shard in world.metadata.shards() {
        let (reads, writes) = world.load.get(&shard.id).copied().unwrap_or_default();
        for node in shard.full_copies() {
            let is_primary = shard.primary.as_ref() == Some(node);
            *load.get_mut(node).unwrap() += writes + if is_primary { reads } else { 0 };
        }
    }
    let all: u64 = load.values().sum();
    let nodes = load.len() as u64;
    load.into_iter().map(|(node, load)| (node, load * 1_000 * nodes / all.max(1))).collect()
}

fn hottest(world: &World) -> u64 {
    factors(world).into_values().max().unwrap()
}

/// The same on every shard.
fn even(world: &mut World, reads: u64, writes: u64) {
    world.load = (0..64).map(|shard| (ShardId(shard), (reads, writes))).collect();
}

/// Zipf's law with exponent 1, the shards of `d1` the most loaded of all.
fn skew(world: &mut World) {
    let mut shards: Vec<(bool, ShardId)> =
        world.metadata.shards().map(|shard| (shard.primary.as_ref() != Some(&id("d1")), shard.id)).collect();
    shards.sort();
    let load = |rank: u64| 1_000_000 / rank;
    world.load = (1..).zip(shards).map(|(rank, (_, shard))| (shard, (load(rank), load(rank)))).collect();
}

/// Seconds of load that varies by a tenth up and down.
fn run_with_noise(world: &mut World, seconds: u64) {
    let steady = world.load.clone();
    for second in 0..seconds {
        for (shard, (reads, writes)) in &steady {
            let draw =
                (second + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(shard.0) * 7_919);
            let noise = 900 + (draw ^ (draw >> 29)) % 201;
            world.load.insert(*shard, (reads * noise / 1_000, writes * noise / 1_000));
        }
        world.run_ms(1_000);
    }
    world.load = steady;
}

#[test]
fn a_burst_that_is_over_within_the_long_window_moves_nothing() {
    let mut world = settled();
    even(&mut world, 10_000, 10_000);
    world.run_ms(SUSTAINED_MS + LONG_MS);
    let led = world.metadata.shards().filter(|shard| shard.primary == Some(id("d1"))).map(|shard| shard.id);
    for shard in led.collect::<Vec<_>>() {
        world.load.insert(shard, (100_000, 10_000));
    }
    world.run_ms(LONG_MS - 5_000);
    let now = world.now();
    let hot = hotspots(&world.metadata, &world.soft, now);
    assert_eq!(hot.nodes.first().map(|node| node.id.clone()), Some(id("d1")), "it is seen: {hot:?}");
    even(&mut world, 10_000, 10_000);
    world.run_ms(3 * SUSTAINED_MS);
    assert_eq!(world.decided, []);
}

#[test]
fn steady_skew_is_spread_primaryships_first_and_then_nothing_moves_any_more() {
    let mut world = settled();
    skew(&mut world);
    assert!(hottest(&world) > 1_800, "{:?}", factors(&world));
    run_with_noise(&mut world, SUSTAINED_MS / 1_000);
    assert_eq!(world.decided, [], "it may be a burst");
    run_with_noise(&mut world, 2 * COOL_DOWN_MS / 1_000);
    let asked = migrations(&world);
    assert!(hottest(&world) < 1_200, "{:?}", factors(&world));
    assert_eq!(asked[0].kind, Some(MigrationKind::Promote));
    assert!(asked.len() <= 96, "{} migrations", asked.len());
    assert!(asked.iter().all(|asked| asked.reason.contains("load")), "{asked:?}");
    world.assert_whole();
    assert!(world.copies().iter().all(|count| (31..=33).contains(count)), "{:?}", world.copies());
    assert!(world.primaries().iter().all(|count| (10..=12).contains(count)), "{:?}", world.primaries());
    world.decided.clear();
    run_with_noise(&mut world, 3 * COOL_DOWN_MS / 1_000);
    assert_eq!(migrations(&world), []);
}

/// Averages began anew at each new primary, so that a shard looked idle once it was handed over.
#[test]
fn what_is_known_of_a_shards_load_goes_with_its_primaryship() {
    let mut world = settled();
    even(&mut world, 40_000, 20_000);
    world.run_ms(6 * LONG_MS);
    let shard = world.metadata.shards().find(|shard| shard.primary == Some(id("d1"))).unwrap().clone();
    let sure = |world: &World, node: &NodeId| {
        world.soft.nodes[node].load.shards.get(&shard.id).map(|load| load.reads.sure())
    };
    assert!(sure(&world, &id("d1")).is_some_and(|reads| reads > 39_000));
    // Its lease runs out, and it is never heard again.
    world.kill("d1");
    world.run_ms(5_000);
    let heir = world.metadata.shard(shard.id).unwrap().primary.clone().unwrap();
    assert_ne!(heir, id("d1"));
    assert!(sure(&world, &heir).is_some_and(|reads| reads > 39_000), "{:?}", sure(&world, &heir));
}

/// What a node told before it died stayed the load of its shards for ever, though nobody asked for them any more.
#[test]
fn a_dead_nodes_load_falls_with_what_the_new_primary_tells() {
    let mut world = settled();
    even(&mut world, 40_000, 20_000);
    world.run_ms(6 * LONG_MS);
    let led = world.metadata.shards().filter(|shard| shard.primary == Some(id("d1"))).map(|shard| shard.id);
    let led: Vec<ShardId> = led.collect();
    world.kill("d1");
    world.load.retain(|shard, _| !led.contains(shard));
    world.run_ms(10 * LONG_MS);
    let sure = |shard: &ShardId| {
        let known = world.soft.nodes.values().filter_map(|said| said.load.shards.get(shard));
        known.map(|load| load.reads.sure()).max().unwrap_or(0)
    };
    assert!(led.iter().all(|shard| sure(shard) < 100), "{:?}", led.iter().map(sure).collect::<Vec<_>>());
}

/// While all slots were taken no plan was made, and after a minute levelling counted as ended.
#[test]
fn levelling_goes_on_while_all_slots_are_taken() {
    let mut world = settled();
    let began_ms = world.now_ms;
    for looked_ms in (0..=SUSTAINED_MS).step_by(10_000) {
        world.soft.load_watch = world.soft.load_watch.seen(true, began_ms + looked_ms);
    }
    world.now_ms += SUSTAINED_MS;
    world.set_policy(|policy| policy.max_migrations = 1);
    let row = world.metadata.shards().next().unwrap().clone();
    let ask = NewMigration {
        shard: row.id,
        kind: Some(MigrationKind::Promote),
        from: None,
        to: Some(row.replicas[0].clone()),
        if_epoch: None,
        reason: "asked".to_owned(),
    };
    world.apply(Command::Migrate { migrations: vec![ask], plan: None });
    let mut watch = world.soft.load_watch;
    for _ in 0..5 {
        world.now_ms += 30_000;
        let decision = decide(&world.metadata, &world.soft, world.now(), Scope::Patient);
        watch = decision.load_watch.unwrap();
        world.soft.load_watch = watch;
    }
    assert!(watch.may_level(world.now_ms));
}

#[test]
fn explain_tells_what_moves_for_load_and_what_that_waits_for() {
    let mut world = settled();
    skew(&mut world);
    world.set_policy(|policy| policy.max_migrations = 1);
    let all = |world: &World| -> Vec<Explanation> {
        let now = world.now();
        (0..64)
            .map(|shard| explain(&world.metadata, Some(&world.soft), now, ShardId(shard)).unwrap())
            .collect()
    };
    let says = |told: &Explanation, code: &str, text: &str| {
        told.waits.iter().any(|why| why.code == code && why.detail.contains(text))
    };
    world.run_ms(LONG_MS);
    let leads =
        |world: &World, shard: ShardId| world.metadata.shard(shard).unwrap().primary == Some(id("d1"));
    let watched = all(&world);
    let mut of_d1 = watched.iter().filter(|told| leads(&world, told.shard));
    assert!(of_d1.all(|told| says(told, "load_watched", "d1 carries ")), "{watched:?}");
    assert!(watched.iter().all(|told| told.next.is_empty()));
    world.nodes.values_mut().for_each(|node| node.idles = true);
    for _ in 0..4 * SUSTAINED_MS / TICK_MS {
        if !world.decided.is_empty() {
            break;
        }
        world.tick();
    }
    let told = all(&world);
    let pending: Vec<&str> =
        told.iter().filter_map(|told| told.pending.as_ref()).map(|row| row.reason.as_str()).collect();
    assert!(pending.len() == 1 && pending[0].contains("load"), "{pending:?}");
    let next: Vec<&Explanation> = told.iter().filter(|told| !told.next.is_empty()).collect();
    assert!(next.len() > 1, "{told:?}");
    for told in next {
        assert!(told.next[0].reason.contains("load"), "{told:?}");
        assert!(says(told, "no_free_slot", "max_migrations"), "{told:?}");
    }
}

/// Only the first half was let in by a throttle, so that no exchange ever began.
#[test]
fn both_halves_of_an_exchange_begin_together_however_slow_copying_may_begin() {
    let mut world = settled();
    // All that is read is read at one replica's expense: what nodes carry are writes, which only copies take along.
    skew(&mut world);
    world.load.values_mut().for_each(|(reads, writes)| (*reads, *writes) = (0, *reads + *writes));
    world.sizes = (0..64).map(|shard| (ShardId(shard), 30_000)).collect();
    world.set_policy(|policy| policy.max_bytes_per_s = 10_000);
    world.run_ms(SUSTAINED_MS + 2 * LONG_MS);
    for _ in 0..(4 * COOL_DOWN_MS).div_ceil(TICK_MS) {
        world.tick();
        let counts = world.copies();
        assert!(counts.iter().all(|count| (30..=34).contains(count)), "{counts:?}");
    }
    let asked = migrations(&world);
    let is_exchange = |two: &[NewMigration]| two[0].from == two[1].to && two[0].to == two[1].from;
    assert!(asked.windows(2).filter(|two| is_exchange(two)).count() >= 2, "{asked:?}");
    world.assert_whole();
}

#[test]
fn a_cluster_that_is_disabled_shows_hot_nodes_and_moves_nothing() {
    let mut world = settled();
    let mut policy = world.metadata.policy().clone();
    policy.enabled = false;
    policy.hot_factor = Thousandths(3_000);
    world.apply(crate::metadata::Command::SetPolicy { policy, if_match: None });
    skew(&mut world);
    world.run_ms(2 * SUSTAINED_MS);
    assert_eq!(world.decided, []);
    let now = world.now();
    let hot = hotspots(&world.metadata, &world.soft, now);
    assert_eq!(hot.nodes[0].id, id("d1"));
    assert!(hot.nodes[0].advice.contains("enabled"), "{hot:?}");
    assert!(hot.shards.iter().all(|shard| shard.factor.0 >= 3_000) && !hot.shards.is_empty(), "{hot:?}");
    assert!(hot.shards.is_sorted_by(|one, other| one.load >= other.load));
}
