//! Levelling begins above one threshold and ends at another; a shard that moved a moment ago is not levelled again, whoever leads.
//! What restores a rule waits for neither.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::{ShardId, Thousandths};
use ruvector_cluster_client::wire::{Intent, MigrationKind, Phase};

use super::super::explain;
use super::settled;
use super::world::{World, id};
use crate::metadata::view::time;
use crate::metadata::{MigrationRow, Wish};

const COOL_DOWN_MS: u64 = 60_000;

/// A newcomer has just got its share.
fn joined() -> World {
    let mut world = settled();
    world.join("d7", "r1");
    world.settle();
    world.decided.clear();
    world
}

#[test]
fn a_shard_that_was_levelled_is_not_levelled_again_for_a_minute_whoever_leads() {
    let mut world = joined();
    // All that d7 got would go back at once.
    world.weigh("d7", Thousandths(100));
    for _ in 0..20 {
        world.run_ms(5_000);
        world.lead();
    }
    world.settle();
    world.assert_whole();
    assert!(world.copies()[6] <= 4, "{:?}", world.copies());
    let mut last: BTreeMap<ShardId, u64> = BTreeMap::new();
    let mut again = 0;
    for row in world.metadata.migrations().filter(|row| row.kind == MigrationKind::Move) {
        assert_eq!(row.phase, Phase::Done);
        if let Some(ended_ms) = last.insert(row.shard, row.updated_ms) {
            assert!(row.created_ms >= ended_ms + COOL_DOWN_MS, "shard {} moved again too early", row.shard);
            again += 1;
        }
    }
    assert!(again >= 15, "{again}: nothing was moved twice, so that nothing was tested");
}

#[test]
fn a_shard_that_cools_down_says_until_when() {
    let mut world = joined();
    world.weigh("d7", Thousandths(100));
    let now = world.now();
    let mut cooling = 0;
    for shard in (0..64).map(ShardId) {
        let told = explain(&world.metadata, Some(&world.soft), now, shard).unwrap();
        let Some(why) = told.waits.iter().find(|why| why.code == "cool_down") else { continue };
        assert_eq!(told.next[0].from, Some(id("d7")));
        let moved = |row: &&MigrationRow| row.shard == shard && row.kind == told.next[0].kind;
        let ended_ms = world.metadata.migrations().filter(moved).map(|row| row.updated_ms).max().unwrap();
        let until = time(ended_ms + COOL_DOWN_MS).format("%H:%M:%SZ").to_string();
        assert!(why.detail.contains(&until), "{until} is not in: {}", why.detail);
        cooling += 1;
    }
    assert!(cooling >= 15, "{cooling}");
}

#[test]
fn a_drain_waits_for_no_cool_down() {
    let mut world = joined();
    world.wish("d7", Wish::Drain);
    world.run_ms(30_000);
    assert_eq!(world.metadata.node(&id("d7")).unwrap().intent, Intent::Drained);
    world.assert_whole();
}

#[test]
fn levelling_begins_above_the_start_and_goes_on_to_the_stop() {
    let mut world = settled();
    // Of its rack's 64 copies d4 is due 30.5 and has 32: within start_imbalance, beyond stop_imbalance or nearly.
    world.weigh("d1", Thousandths(1_100));
    world.run_ms(120_000);
    assert_eq!(world.decided, [], "it is even enough");
    // Due 27.8, it has 1.15 times that. One copy less would be below the start; it goes on to the stop, 1.05 times.
    world.weigh("d1", Thousandths(1_300));
    world.settle();
    world.assert_whole();
    assert_eq!((world.copies()[0], world.copies()[3]), (35, 29));
    world.decided.clear();
    world.run_ms(120_000);
    assert_eq!(world.decided, [], "it is at rest");
}

#[test]
fn with_levelling_off_rules_are_restored_and_nothing_is_evened_out() {
    let mut world = settled();
    world.set_policy(|policy| policy.enabled = false);
    world.join("d7", "r1");
    world.weigh("d2", Thousandths(3_000));
    world.run_ms(120_000);
    assert_eq!(world.decided, []);
    world.wish("d4", Wish::Drain);
    world.settle();
    world.assert_whole();
    assert_eq!(world.copies()[3], 0);
}
