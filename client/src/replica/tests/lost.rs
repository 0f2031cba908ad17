//! Copies that are missing, or fail.

use super::world::*;
use super::*;

#[test]
fn a_missing_copy_is_reported_lost_and_not_made_anew() {
    let mut world = opened(3, 3);
    let n2 = node("n2");
    world.crash(&n2, 0);
    world.nodes.get_mut(&n2).unwrap().store.delete().unwrap();
    world.restart(&n2);
    world.install(&n2);
    let lost = |m: &Message| matches!(m, Message::Report { body, .. } if body.lost);
    assert!(world.messages.iter().any(lost), "{:?}", world.messages);
    assert_eq!(world.nodes[&n2].store.copy(), None);
}

/// The primary takes a write, and the store of `replica` fails at it.
fn fail_a_write_at(world: &mut World, replica: &NodeId) {
    world.put(&node("n1"), "k", "v");
    while let Some(message) = world.messages.pop() {
        world.deliver(message);
    }
    let (op, _) = world.nodes.get_mut(replica).unwrap().queue.pop_front().unwrap();
    world.step(replica, Event::Stored { op, result: store::StoreResult::Failed });
}

#[test]
fn a_copy_that_fails_is_reported_lost() {
    let mut world = opened(3, 3);
    fail_a_write_at(&mut world, &node("n2"));
    assert!(world.messages.iter().any(|m| matches!(m, Message::Report { body, .. } if body.lost)));
    assert!(world.messages.iter().any(|m| matches!(m, Message::Answer { answer: Answer::NoCopy, .. })));
}

/// Both waited for each other until the migration was given up: the primary took the copy for the one that it had known, and the
/// copy waited to be begun with.
#[test]
fn a_primary_that_learns_late_of_a_lost_copy_begins_anew_with_its_successor() {
    let mut world = opened(2, 2);
    let (n1, n2) = (node("n1"), node("n2"));
    fail_a_write_at(&mut world, &n2);
    world.nodes.get_mut(&n2).unwrap().store.delete().unwrap();
    // The primary has not heard of it when the new copy answers.
    for _ in 0..100 {
        while let Some(message) = world.messages.pop() {
            world.deliver(message);
        }
        world.install(&n2);
        world.names().iter().for_each(|name| world.complete_store(name));
        world.heartbeat(&n2);
        world.tick(10);
    }
    assert!(world.coordinator.migration.is_some() && world.nodes[&n1].installed < world.coordinator.revision);
    world.run(1_000);
    assert!(world.coordinator.in_sync.contains(&n2), "{:?}", world.coordinator.migration);
    assert_eq!(world.contents().len(), 1);
}

#[test]
fn a_learner_copy_that_fails_while_it_may_have_been_admitted_is_made_anew_only_for_a_new_filling() {
    let world = opened(2, 1);
    let (n1, n2) = (node("n1"), node("n2"));
    let target = world.coordinator.assignment(&n1).unwrap().copies[0].clone();
    let target = NodeAddr { node: n2.clone(), addr: target.addr };
    let learner = |version, phase| {
        let kind = MigrationKind::Add;
        let id = crate::ids::MigrationId(1);
        let migration = AssignedMigration { id, phase, kind, source: None, target: Some(target.clone()) };
        let of_primary = world.coordinator.assignment(&n1).unwrap();
        Event::Assigned(Box::new(Assignment {
            role: Role::Learner,
            in_sync_version: version,
            migration: Some(migration),
            ..of_primary
        }))
    };
    let creates = |effects: &[Effect]| {
        effects.iter().any(|effect| matches!(effect, Effect::Store { action: StoreAction::Create, .. }))
    };
    let found = store::StoreState { adopted: Epoch(1), full: true, ..Default::default() };
    let mut replica = Replica::new(n2, ShardId(0), Limits::default(), Some(found));
    let gap = |effect: &Effect| match effect {
        Effect::Report { report, body } if body.error.as_deref() == Some("gap") => Some(*report),
        _ => None,
    };
    let effects = replica.step(0, learner(1, Phase::Admitting));
    let report = effects.iter().find_map(gap).expect("a copy without a stream tells so");
    let request = Request::Adopt { epoch: Epoch(2), marks: vec![position(0, 0)] };
    let effects = replica.step(0, Event::Request { ticket: Ticket(1), from: n1.clone(), request });
    let op = effects.iter().find_map(|effect| match effect {
        Effect::Store { op, .. } => Some(*op),
        _ => None,
    });
    let failed = Event::Stored { op: op.unwrap(), result: store::StoreResult::Failed };
    assert!(!creates(&replica.step(0, failed)));
    assert!(!creates(&replica.step(0, learner(2, Phase::Admitting))));
    let effects = replica.step(5_000, Event::Reported { report, outcome: ReportOutcome::Accepted });
    assert!(effects.iter().any(|effect| gap(effect).is_some()), "one that failed tells so too: {effects:?}");
    let effects = replica.step(5_000, learner(2, Phase::Preparing));
    assert!(creates(&effects), "{effects:?}");
}
