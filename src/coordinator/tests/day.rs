//! A day of a cluster: nodes join, leave, die, come back and change their weight, and shards change their sizes each hour.
//!
//! The bound. After each event let `L` be the fewest copyings that level copies fully from there (`placement::bound`). The
//! coordinator stops levelling within `stop_imbalance`, so that an event costs about its `L` at most; what it leaves uneven counts
//! for the next event's. So the day's copyings are at most the sum of all `L`, and in an hour without an event there are none.

use ruvector_cluster_client::ids::{ShardId, Thousandths};
use ruvector_cluster_client::wire::MigrationKind;

use super::settled;
use super::world::{TICK_MS, World, id};
use crate::metadata::Wish;
use crate::placement::{PlanOptions, plan};

/// What happens in an hour.
enum Event {
    Quiet,
    Joins(&'static str, &'static str),
    Weighs(&'static str, u64),
    Drains(&'static str),
    EndsDrain(&'static str),
    Dies(&'static str),
}

use Event::{Dies, Drains, EndsDrain, Joins, Quiet, Weighs};

const DAY: [Event; 24] = [
    Quiet,
    Joins("d7", "r1"),
    Quiet,
    Weighs("d2", 2_000),
    Quiet,
    Drains("d4"),
    Quiet,
    Quiet,
    Joins("d8", "r2"),
    Quiet,
    Dies("d5"),
    Quiet,
    // The one that died: its copies are elsewhere by now.
    Joins("d5", "r2"),
    Quiet,
    EndsDrain("d4"),
    Quiet,
    Weighs("d2", 1_000),
    Weighs("d7", 500),
    Quiet,
    Quiet,
    Joins("d9", "r3"),
    Joins("d10", "r1"),
    Dies("d1"),
    Quiet,
];

const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;

/// An event has been dealt with so long after it: the grace of a node that died, the moves, and a cool-down.
const DEALT_WITH_MS: u64 = 10 * MINUTE_MS;

impl World {
    /// Sizes as they are in that hour.
    fn turn_hour(&mut self, hour: u64) {
        let mixed = |shard: u32| (u64::from(shard) + 1).wrapping_mul(hour + 7).wrapping_mul(0x9e37_79b9) >> 7;
        self.sizes = (0..64).map(|shard| (ShardId(shard), 1_000 + mixed(shard) % 9_000)).collect();
    }

    /// Copies begun so far, and hand-overs alone.
    fn begun(&self) -> (u64, u64) {
        let copies = |kind: MigrationKind| matches!(kind, MigrationKind::Move | MigrationKind::Add);
        let count =
            |is_copy: bool| self.metadata.migrations().filter(|row| copies(row.kind) == is_copy).count();
        (count(true) as u64, count(false) as u64)
    }

    /// The fewest copyings from here to copies that are levelled fully, `after_ms` from now.
    fn fewest(&self, after_ms: u64) -> u64 {
        let policy = self.metadata.policy();
        let options = PlanOptions::for_operator(self.now_ms + after_ms, policy);
        plan(&self.metadata, &self.soft, policy, &options).lower_bound_moves
    }

    /// Lets it happen; the fewest copyings that it calls for.
    fn happen(&mut self, event: &Event) -> u64 {
        match event {
            Quiet => {}
            Joins(name, rack) => {
                self.join(name, rack);
                // One that comes back is alive only once it is heard.
                while !self.metadata.is_alive(&id(name)) {
                    self.run_ms(TICK_MS);
                }
            }
            Weighs(name, capacity) => self.weigh(name, Thousandths(*capacity)),
            Drains(name) => self.wish(name, Wish::Drain),
            EndsDrain(name) => self.wish(name, Wish::EndDrain),
            Dies(name) => {
                self.kill(name);
                self.run_ms(6_000);
                assert!(!self.metadata.is_alive(&id(name)), "its lease ran out");
                return self.fewest(self.metadata.policy().down_grace_ms);
            }
        }
        self.fewest(0)
    }
}

#[test]
fn a_day_moves_no_more_than_its_events_call_for_and_nothing_in_quiet_hours() {
    let mut world = settled();
    let (began, _) = world.begun();
    let (mut fewest, mut events) = (0, 0);
    for (hour, event) in (0..).zip(&DAY) {
        let ends_ms = world.now_ms + HOUR_MS;
        world.turn_hour(hour);
        let before = world.begun();
        if matches!(event, Quiet) {
            while world.now_ms < ends_ms {
                world.pass_ms(MINUTE_MS);
            }
            assert_eq!(world.begun(), before, "something moved in hour {hour}");
            continue;
        }
        let called_for = world.happen(event);
        let calm_ms = world.now_ms + DEALT_WITH_MS;
        while world.now_ms < calm_ms {
            world.settle_within(1_000);
            world.pass_ms(10_000);
        }
        world.assert_whole();
        let after = world.begun();
        while world.now_ms < ends_ms {
            world.pass_ms(MINUTE_MS);
        }
        assert_eq!(world.begun(), after, "something moved again in hour {hour}");
        let (copies, hand_overs) = (after.0 - before.0, after.1 - before.1);
        println!("hour {hour}: {copies} copies, at least {called_for} level fully; {hand_overs} hand-overs");
        fewest += called_for;
        events += 1;
        assert!(hand_overs <= 64, "{hand_overs} primaries were handed over in hour {hour}");
    }
    let copies = world.begun().0 - began;
    println!("{events} events: {copies} copies, bound {fewest}");
    assert!(copies > 0 && copies <= fewest, "{copies} copies, and the bound is {fewest}");
    assert!(world.metadata.migrations().all(|row| row.error.is_none()), "something was aborted");
}
