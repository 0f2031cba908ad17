//! A shard that moved a moment ago is not levelled again, whoever leads; what restores a rule never waits.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::{ShardId, Thousandths};
use ruvector_cluster_client::wire::{Intent, MigrationKind, Phase};

use super::settled;
use super::world::{World, id};
use crate::metadata::Wish;

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
fn a_drain_waits_for_no_cool_down() {
    let mut world = joined();
    world.wish("d7", Wish::Drain);
    world.run_ms(30_000);
    assert_eq!(world.metadata.node(&id("d7")).unwrap().intent, Intent::Drained);
    world.assert_whole();
}
