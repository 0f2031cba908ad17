//! Migrations, as the copies see them.

use super::world::*;
use super::*;

#[test]
fn a_learner_copy_is_filled_admitted_and_takes_over_while_requests_are_held_not_failed() {
    let mut world = opened(4, 3);
    let (n1, n4) = (node("n1"), node("n4"));
    for i in 0..30 {
        world.put(&n1, &format!("k{i}"), "before");
        world.run(0);
    }
    world.coordinator.migrate(MigrationKind::Move, &n4, Some(&n1));
    let mut tickets = Vec::new();
    for i in 0..400 {
        let primary = world.coordinator.primary.clone();
        tickets.push(world.put(&primary, &format!("k{}", i % 40), &format!("during{i}")));
        for _ in 0..20 {
            let message = (!world.messages.is_empty()).then(|| world.messages.remove(0));
            message.into_iter().for_each(|message| world.deliver(message));
            world.names().iter().for_each(|name| world.complete_store(name));
        }
        world.names().iter().for_each(|name| world.install(name));
        world.names().iter().for_each(|name| world.heartbeat(name));
        world.tick(10);
        world.check();
    }
    world.run(3_000);
    assert_eq!(world.serving(), [n4]);
    assert_eq!(world.nodes[&n1].store.copy(), None, "the old copy is deleted");
    assert!(world.coordinator.retiring.is_empty());
    assert_eq!(world.contents().len(), 1);
    for ticket in tickets {
        let reply = world.reply(ticket).unwrap();
        let redirected = matches!(reply, Reply::Refused(Refusal::NotPrimary { primary: Some(_), .. }));
        assert!(redirected || matches!(reply, Reply::Written { .. }), "{reply:?}");
    }
}

#[test]
fn the_primaryship_alone_goes_to_an_in_sync_copy() {
    let mut world = opened(3, 3);
    let (n1, n2) = (node("n1"), node("n2"));
    world.coordinator.migrate(MigrationKind::Promote, &n2, None);
    world.install(&n1);
    world.install(&n2);
    let held = world.put(&n1, "k", "v");
    let early = world.put(&n2, "k", "w");
    assert_eq!((world.reply(held), world.reply(early)), (None, None));
    world.run(500);
    assert_eq!(world.serving(), std::slice::from_ref(&n2));
    assert!(matches!(world.reply(held), Some(Reply::Refused(Refusal::NotPrimary { .. }))));
    assert_eq!(world.reply(early).cloned(), written(2, 1));
    assert!(world.coordinator.in_sync.contains(&n1));
}

#[test]
fn a_target_that_restarts_while_copying_begins_again() {
    let mut world = opened(4, 3);
    let (n1, n4) = (node("n1"), node("n4"));
    for i in 0..30 {
        world.put(&n1, &format!("k{i}"), "v");
        world.run(0);
    }
    world.coordinator.migrate(MigrationKind::Add, &n4, None);
    let copying =
        |world: &World| world.coordinator.migration.as_ref().is_some_and(|m| m.phase == Phase::Copying);
    for _ in 0..200 {
        let message = (!world.messages.is_empty()).then(|| world.messages.remove(0));
        message.into_iter().for_each(|message| world.deliver(message));
        world.names().iter().for_each(|name| world.install(name));
        world.names().iter().for_each(|name| world.complete_store(name));
        world.tick(10);
        let filled = world.nodes[&n4].store.copy().is_some_and(|copy| copy.writes.len() > 3);
        if copying(&world) && filled {
            break;
        }
    }
    assert!(copying(&world));
    world.crash(&n4, 1);
    world.put(&n1, "k0", "missed");
    world.run(300);
    world.restart(&n4);
    let state = world.nodes[&n4].store.state().unwrap().unwrap();
    assert!(!state.full);
    world.run(5_000);
    assert!(world.coordinator.in_sync.contains(&n4));
    assert_eq!(world.contents().len(), 1);
}

/// Its primary still requires it then, and so lets it follow instead of filling it: the migration waited for a stream until it was
/// aborted for want of progress.
#[test]
fn a_target_that_restarts_while_its_admission_is_under_way_is_admitted_in_its_next_run() {
    let mut world = opened(4, 3);
    let (n1, n4) = (node("n1"), node("n4"));
    for i in 0..5 {
        world.put(&n1, &format!("k{i}"), "v");
        world.run(0);
    }
    world.coordinator.migrate(MigrationKind::Add, &n4, None);
    let is_admission =
        |message: &Message| matches!(message, Message::Report { body, .. } if body.in_sync_set.is_some());
    let pass = |world: &mut World| {
        while let Some(at) = world.messages.iter().position(|message| !is_admission(message)) {
            let message = world.messages.remove(at);
            world.deliver(message);
        }
        world.names().iter().for_each(|name| world.install(name));
        world.names().iter().for_each(|name| world.complete_store(name));
        world.names().iter().for_each(|name| world.heartbeat(name));
        world.tick(10);
    };
    for _ in 0..500 {
        pass(&mut world);
        if world.messages.iter().any(is_admission) {
            break;
        }
    }
    assert!(world.messages.iter().any(is_admission));
    world.crash(&n4, 0);
    world.restart(&n4);
    (0..50).for_each(|_| pass(&mut world));
    world.run(3_000);
    assert!(world.coordinator.migration.is_none());
    assert!(world.coordinator.in_sync.contains(&n4));
    assert_eq!(world.contents().len(), 1);
}
