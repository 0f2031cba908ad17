//! Random schedules: every message may be late, lost or repeated, every node may crash between any two steps, and
//! the coordinator fails over and migrates meanwhile. Seeds make each run repeatable.

use super::world::*;
use crate::wire::MigrationKind;

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

fn act(world: &mut World, random: &mut Random, counter: &mut u64) {
    let names = world.names();
    let name = random.pick(&names).clone();
    match random.below(100) {
        0..45 => deliver_any(world, random),
        45..65 => world.complete_store(&name),
        65..73 => world.install(&name),
        73..83 => {
            *counter += 1;
            let near = if random.below(4) == 0 { name } else { world.coordinator.primary.clone() };
            let i = random.below(4);
            match random.below(6) {
                0 => drop(world.read(&near, &format!("k{i}"))),
                1 => drop(world.delete(&near, &format!("d{i}"))),
                2 => drop(world.put(&near, &format!("d{i}"), &format!("{counter}"))),
                _ => drop(world.put(&near, &format!("k{i}"), &format!("{counter}"))),
            }
        }
        83..90 => world.tick(random.below(60) as u64),
        90..96 => world.heartbeat(&name),
        96 => world.expire(&name),
        97 if random.below(8) == 0 => {
            let stored = random.below(3);
            world.crash(&name, stored);
        }
        98 => world.restart(&name),
        99 if random.below(4) == 0 => migrate(world, random),
        _ => {}
    }
}

fn deliver_any(world: &mut World, random: &mut Random) {
    if world.messages.is_empty() {
        return;
    }
    // Mostly the oldest one, so that things move on.
    let bound = if random.below(3) == 0 { world.messages.len() } else { 1 };
    let message = world.messages.remove(random.below(bound));
    match random.below(30) {
        0 => world.lose(message),
        1 => {
            if matches!(message, Message::Request { .. }) {
                world.messages.push(message.clone());
            }
            world.deliver(message);
        }
        2 => {
            // It arrives, but whoever sent it learns only that the connection broke.
            world.deliver(message.clone());
            if !matches!(message, Message::Failed { .. }) {
                world.lose(message);
            }
        }
        _ => world.deliver(message),
    }
}

fn migrate(world: &mut World, random: &mut Random) {
    let coordinator = &world.coordinator;
    if coordinator.founding {
        return;
    }
    if coordinator.migration.is_some() {
        let cancellable =
            coordinator.migration.as_ref().is_some_and(|m| m.phase != crate::wire::Phase::HandingOver);
        if cancellable && random.below(10) == 0 {
            world.coordinator.abort();
        }
        return;
    }
    let names = world.names();
    let target = random.pick(&names).clone();
    let coordinator = &mut world.coordinator;
    let free = target != coordinator.primary
        && !coordinator.replicas.contains(&target)
        && !coordinator.retiring.contains(&target)
        && !coordinator.down.contains(&target);
    let promotable = target != coordinator.primary && coordinator.in_sync.contains(&target);
    let primary = coordinator.primary.clone();
    if free {
        let copies = coordinator.replicas.len();
        let from = if random.below(2) == 0 { Some(primary) } else { coordinator.replicas.first().cloned() };
        if copies >= 2 {
            coordinator.migrate(MigrationKind::Move, &target, from.as_ref());
        } else {
            coordinator.migrate(MigrationKind::Add, &target, None);
        }
    } else if promotable && !coordinator.down.contains(&target) {
        coordinator.migrate(MigrationKind::Promote, &target, None);
    }
}

fn explore(seed: u64, steps: usize) -> (usize, usize, u64) {
    let mut world = World::new(4, 3);
    let mut random = Random(seed);
    let mut counter = 0;
    for step in 0..steps {
        act(&mut world, &mut random, &mut counter);
        if step % 16 == 0 {
            world.check();
        }
    }
    // Everything heals: nothing acknowledged is gone, one primary serves, and the copies are equal.
    for name in world.names() {
        world.restart(&name);
    }
    world.run(30_000);
    assert_eq!(world.serving().len(), 1, "seed {seed}: {:?}", world.coordinator);
    world.check();
    assert_eq!(world.contents().len(), 1, "seed {seed}");
    let live = world.coordinator.replicas.len() + 1 + world.coordinator.learners.len();
    assert_eq!(world.coordinator.in_sync.len(), live, "seed {seed}: {:?}", world.coordinator);
    let primary = world.coordinator.primary.clone();
    let ticket = world.put(&primary, "k0", "last");
    world.run(0);
    assert!(matches!(world.reply(ticket), Some(super::Reply::Written { .. })), "seed {seed}");
    (world.acknowledged, world.reads, world.coordinator.epoch)
}

#[test]
fn no_schedule_loses_what_was_acknowledged_or_read_or_lets_two_primaries_answer() {
    let (mut acknowledged, mut reads, mut epochs) = (0, 0, 0);
    for seed in 0..150 {
        let (a, r, e) = explore(seed, 3_000);
        acknowledged += a;
        reads += r;
        epochs += e;
    }
    // The schedules are worth something only if they get somewhere.
    assert!(acknowledged > 2_000 && reads > 300 && epochs > 300, "{acknowledged} {reads} {epochs}");
}
