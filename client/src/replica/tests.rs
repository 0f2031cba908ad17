//! The rules one by one, then random schedules of everything at once.

mod coordinator;
mod fill;
mod learner;
mod lost;
mod migration;
mod schedule;
mod world;

use super::event::*;
use super::store::ReplicaStore;
use super::tests::world::*;
use super::wire::{Answer, Request};
use super::*;
use crate::wire::{AssignedMigration, Assignment, MigrationKind, Phase};

fn opened(nodes: usize, copies: usize) -> World {
    let mut world = World::new(nodes, copies);
    world.run(500);
    assert_eq!(world.serving(), [node("n1")]);
    world
}

fn position(epoch: u64, n: u64) -> Position {
    Position { epoch: Epoch(epoch), n }
}

fn written(epoch: u64, n: u64) -> Option<Reply> {
    Some(Reply::Written { position: position(epoch, n) })
}

#[test]
fn a_founding_shard_answers_nothing_before_its_set_is_accepted() {
    let mut world = World::new(3, 3);
    world.names().iter().for_each(|name| world.install(name));
    world.heartbeat(&node("n1"));
    let early = world.put(&node("n1"), "k", "v");
    for _ in 0..100 {
        world.names().iter().for_each(|name| world.complete_store(name));
        let pass = |message: &Message| !matches!(message, Message::Report { .. });
        while let Some(at) = world.messages.iter().position(pass) {
            let message = world.messages.remove(at);
            world.deliver(message);
        }
    }
    assert_eq!(world.serving(), []);
    assert_eq!(world.reply(early), None);
    assert!(world.coordinator.founding);
    world.run(500);
    assert_eq!(world.reply(early).cloned(), written(1, 1));
}

#[test]
fn a_founding_primary_opens_without_a_copy_that_never_answers() {
    let mut world = World::new(3, 3);
    world.crash(&node("n3"), 0);
    world.run(3_000);
    assert_eq!(world.serving(), [node("n1")]);
    assert_eq!(world.coordinator.in_sync.len(), 2);
}

#[test]
fn a_write_is_acknowledged_and_readable_only_once_all_in_sync_copies_have_it_on_disk() {
    let mut world = opened(3, 3);
    let (n1, n3) = (node("n1"), node("n3"));
    let ticket = world.put(&n1, "k", "v");
    let read = world.read(&n1, "k");
    for _ in 0..20 {
        while let Some(message) = world.messages.pop() {
            world.deliver(message);
        }
        world.complete_store(&n1);
        world.complete_store(&node("n2"));
    }
    assert_eq!(world.reply(ticket), None);
    assert_eq!(world.nodes[&n1].store.get("k").unwrap(), None, "home is last");
    assert!(matches!(world.reply(read), Some(Reply::ReadAt { .. })), "reads go on meanwhile");
    assert!(!world.nodes[&n3].queue.is_empty());
    world.run(0);
    assert_eq!(world.reply(ticket).cloned(), written(1, 1));
    assert_eq!(world.contents().len(), 1);
}

#[test]
fn a_primary_without_lease_holds_then_refuses_and_never_answers() {
    let mut world = opened(3, 3);
    let n1 = node("n1");
    let under_way = world.put(&n1, "k", "v");
    world.step(&n1, Event::LeaseLost);
    let held = world.read(&n1, "k");
    while let Some(message) = world.messages.pop() {
        world.deliver(message);
        world.names().iter().for_each(|name| world.complete_store(name));
    }
    assert_eq!(world.reply(under_way), Some(&Reply::Refused(Refusal::OutcomeUnknown)));
    assert_eq!(world.reply(held), None);
    world.tick(world.limits.hold_ms);
    assert_eq!(world.reply(held), Some(&Reply::Refused(Refusal::Unavailable)));
    assert!(!world.nodes[&n1].replica.as_ref().unwrap().confirms_read(Epoch(1), world.now_ms));
}

/// Delivers everything but reports, and lets disks work, without installing anything.
fn settle_without_reports(world: &mut World) {
    for _ in 0..50 {
        let pass = |message: &Message| !matches!(message, Message::Report { .. });
        while let Some(at) = world.messages.iter().position(pass) {
            let message = world.messages.remove(at);
            world.deliver(message);
        }
        world.names().iter().for_each(|name| world.complete_store(name));
    }
}

#[test]
fn a_lower_epoch_is_refused_and_the_refused_primary_stops_answering() {
    let mut world = opened(3, 3);
    let (n1, n2) = (node("n1"), node("n2"));
    world.coordinator.expire(&n1);
    world.install(&n2);
    let ticket = world.put(&n1, "k", "v");
    settle_without_reports(&mut world);
    assert_eq!(world.reply(ticket), Some(&Reply::Refused(Refusal::OutcomeUnknown)));
    assert!(!world.nodes[&n1].replica.as_ref().unwrap().status().serving);
    assert_eq!(world.nodes[&n2].store.state().unwrap().unwrap().adopted, Epoch(2));
}

#[test]
fn a_new_primary_asks_the_others_while_it_adopts_its_epoch_and_answers_only_afterwards() {
    let mut world = opened(3, 3);
    let (n1, n2) = (node("n1"), node("n2"));
    world.coordinator.expire(&n1);
    world.install(&n2);
    world.heartbeat(&n2);
    let adopts = |message: &Message| {
        matches!(message, Message::Request { request: Request::Adopt { epoch: Epoch(2), .. }, .. })
    };
    assert!(world.messages.iter().any(adopts), "it asks at once");
    let ticket = world.put(&n2, "k", "v");
    for _ in 0..50 {
        settle_without(&mut world, &n2);
        world.tick(10);
    }
    assert!(!world.nodes[&n2].replica.as_ref().unwrap().status().serving, "its own adoption is under way");
    assert_eq!(world.reply(ticket), None);
    world.run(3_000);
    assert!(matches!(world.reply(ticket), Some(Reply::Written { .. })));
}

#[test]
fn a_slow_adoption_throws_no_healthy_copy_out() {
    let mut world = opened(3, 3);
    let (n1, n2, n3) = (node("n1"), node("n2"), node("n3"));
    // A write that only n3 has, which therefore has to be aligned.
    world.put(&n1, "k", "v");
    let to_n3 = |message: &Message| matches!(message, Message::Request { to, .. } if *to == node("n3"));
    let at = world.messages.iter().position(to_n3).unwrap();
    let message = world.messages.remove(at);
    world.messages.clear();
    world.deliver(message);
    world.complete_store(&n3);
    world.messages.clear();
    world.coordinator.expire(&n1);
    for name in [&n2, &n3] {
        world.install(name);
        world.heartbeat(name);
    }
    for _ in 0..150 {
        settle_without(&mut world, &n2);
        world.tick(100);
        world.heartbeat(&n2);
        world.heartbeat(&n3);
    }
    world.complete_store(&n2);
    let proposed = world.messages.iter().find_map(|message| match message {
        Message::Report { from, body, .. } if *from == n2 => body.in_sync_set.as_ref(),
        _ => None,
    });
    let members: Vec<&NodeId> = proposed.unwrap().members.iter().map(|member| &member.node).collect();
    assert_eq!(members, [&n2, &n3], "the copy that waits to be aligned stays");
}

/// Delivers everything but reports, and lets all disks but one work.
fn settle_without(world: &mut World, slow: &NodeId) {
    for _ in 0..20 {
        let pass = |message: &Message| !matches!(message, Message::Report { .. });
        while let Some(at) = world.messages.iter().position(pass) {
            let message = world.messages.remove(at);
            world.deliver(message);
        }
        world.names().iter().filter(|name| *name != slow).for_each(|name| world.complete_store(name));
    }
}

#[test]
fn a_member_that_may_have_been_admitted_is_waited_for_until_the_version_moves() {
    let mut world = opened(3, 3);
    let (n1, n3) = (node("n1"), node("n3"));
    world.crash(&n3, 0);
    world.put(&n1, "k", "v");
    world.run(3_000);
    assert!(!world.coordinator.in_sync.contains(&n3));
    world.restart(&n3);
    world.install(&n3);
    world.install(&n1);
    let (at, report) = loop {
        settle_without_reports(&mut world);
        world.tick(50);
        let set = |m: &Message| matches!(m, Message::Report { body, .. } if body.in_sync_set.is_some());
        if let Some(at) = world.messages.iter().position(set) {
            break (at, world.messages[at].clone());
        }
    };
    world.messages.remove(at);
    // It is lost for the primary, but arrives when n3 has died again.
    world.lose(report.clone());
    settle_without_reports(&mut world);
    world.crash(&n3, 0);
    let ticket = world.put(&n1, "k", "w");
    for _ in 0..15 {
        settle_without_reports(&mut world);
        for report in std::mem::take(&mut world.messages) {
            world.lose(report);
        }
        world.tick(100);
    }
    assert_eq!(world.reply(ticket), None);
    world.deliver(report);
    assert!(world.coordinator.in_sync.contains(&n3));
    world.run(4_000);
    assert!(!world.coordinator.in_sync.contains(&n3));
    assert_eq!(world.reply(ticket).cloned(), written(1, 2));
}

#[test]
fn an_in_sync_copy_is_never_emptied() {
    let mut world = opened(2, 2);
    let replica = world.nodes.get_mut(&node("n2")).unwrap().replica.as_mut().unwrap();
    let request = Request::Open { epoch: Epoch(1), base: position(0, 0) };
    let effects = replica.step(world.now_ms, Event::Request { ticket: Ticket(9), from: node("n1"), request });
    let answer = Answer::NotYet { epoch: Epoch(1) };
    assert_eq!(effects, [Effect::Answer { ticket: Ticket(9), answer }]);
}

#[test]
fn a_read_that_was_begun_is_not_confirmed_once_the_primaryship_is_given_away() {
    let mut world = opened(2, 2);
    let n1 = node("n1");
    world.coordinator.migrate(MigrationKind::Promote, &node("n2"), None);
    let confirms =
        |world: &World| world.nodes[&n1].replica.as_ref().unwrap().confirms_read(Epoch(1), world.now_ms);
    assert!(confirms(&world));
    world.install(&n1);
    assert!(!confirms(&world));
}

#[test]
fn a_copy_that_fails_while_founding_is_not_made_anew_on_an_assignment_that_may_be_old() {
    let mut world = opened(2, 2);
    let n2 = node("n2");
    let mut old = world.coordinator.assignment(&n2).unwrap();
    old.founding = true;
    let ticket = world.put(&node("n1"), "k", "v");
    while let Some(message) = world.messages.pop() {
        world.deliver(message);
    }
    let (op, _) = world.nodes.get_mut(&n2).unwrap().queue.pop_front().unwrap();
    world.step(&n2, Event::Stored { op, result: store::StoreResult::Failed });
    world.step(&n2, Event::Assigned(Box::new(old)));
    assert!(world.nodes[&n2].queue.is_empty());
    assert_eq!(world.reply(ticket), None);
}

#[test]
fn a_client_of_an_older_epoch_is_told_the_newer_one() {
    let mut world = opened(2, 2);
    world.crash(&node("n1"), 0);
    world.restart(&node("n1"));
    world.run(500);
    let replica = world.nodes.get_mut(&node("n1")).unwrap().replica.as_mut().unwrap();
    let event = Event::Client { ticket: Ticket(7), epoch: Some(Epoch(1)), operation: Operation::Read };
    let effects = replica.step(world.now_ms, event);
    let reply = Reply::Refused(Refusal::StaleEpoch(Epoch(2)));
    assert!(effects.contains(&Effect::Reply { ticket: Ticket(7), reply }), "{effects:?}");
}

#[test]
fn a_replica_names_the_primary() {
    let mut world = opened(3, 3);
    let ticket = world.put(&node("n2"), "k", "v");
    let Some(Reply::Refused(Refusal::NotPrimary { primary: Some(primary), .. })) = world.reply(ticket) else {
        panic!("{:?}", world.reply(ticket));
    };
    assert_eq!(primary.node, node("n1"));
}

#[test]
fn reconciliation_takes_back_what_the_new_primary_does_not_have() {
    let mut world = opened(3, 3);
    let (n1, n2, n3) = (node("n1"), node("n2"), node("n3"));
    let first = world.put(&n1, "a", "1");
    world.run(0);
    assert_eq!(world.reply(first).cloned(), written(1, 1));
    // Only n3 gets the next writes; n1 dies, and n2, which has none of them, becomes primary.
    world.put(&n1, "a", "2");
    world.put(&n1, "b", "2");
    for _ in 0..20 {
        let to_n3 = |m: &Message| matches!(m, Message::Request { to, .. } if *to == node("n3"));
        let from_n3 = |m: &Message| matches!(m, Message::Answer { .. });
        while let Some(at) = world.messages.iter().position(|m| to_n3(m) || from_n3(m)) {
            let message = world.messages.remove(at);
            world.deliver(message);
        }
        world.complete_store(&n3);
    }
    assert_eq!(world.nodes[&n3].store.copy().unwrap().state.tail.last(), position(1, 3));
    world.messages.clear();
    world.crash(&n1, 0);
    world.run(5_000);
    assert_eq!(world.serving(), [n2]);
    let found = world.nodes[&n3].store.get("a").unwrap();
    assert_eq!(found, Some(Value::from("1")));
    assert_eq!(world.nodes[&n3].store.get("b").unwrap(), None);
    assert_eq!(world.contents().len(), 1);
}

#[test]
fn a_silent_copy_is_dropped_after_a_second_and_caught_up_when_it_is_back() {
    let mut world = opened(3, 3);
    let (n1, n3) = (node("n1"), node("n3"));
    world.crash(&n3, 0);
    let ticket = world.put(&n1, "k", "v");
    world.run(800);
    assert_eq!(world.reply(ticket), None);
    world.run(600);
    assert_eq!(world.reply(ticket).cloned(), written(1, 1));
    assert!(!world.coordinator.in_sync.contains(&n3));
    world.restart(&n3);
    world.run(1_000);
    assert!(world.coordinator.in_sync.contains(&n3));
    assert_eq!(world.contents().len(), 1);
}

#[test]
fn a_dropped_copy_catches_up_and_is_admitted_under_writes_without_pause() {
    let mut world = opened(3, 3);
    let (n1, n3) = (node("n1"), node("n3"));
    world.crash(&n3, 0);
    world.put(&n1, "k", "v");
    world.run(2_000);
    assert!(!world.coordinator.in_sync.contains(&n3));
    world.restart(&n3);
    for i in 0..400 {
        world.put(&n1, &format!("k{}", i % 7), &format!("v{i}"));
        world.names().iter().for_each(|name| world.install(name));
        world.names().iter().for_each(|name| world.heartbeat(name));
        let message = (!world.messages.is_empty()).then(|| world.messages.remove(0));
        message.into_iter().for_each(|message| world.deliver(message));
        world.names().iter().for_each(|name| world.complete_store(name));
        if i % 4 == 0 {
            world.tick(5);
        }
    }
    assert!(world.coordinator.in_sync.contains(&n3));
}

#[test]
fn a_copy_committed_down_is_dropped_at_once() {
    let mut world = opened(3, 3);
    let n3 = node("n3");
    world.crash(&n3, 0);
    world.coordinator.expire(&n3);
    world.run(0);
    assert!(!world.coordinator.in_sync.contains(&n3));
}

#[test]
fn a_copy_that_missed_more_than_is_remembered_is_filled_by_chunks() {
    let mut world = opened(3, 3);
    let (n1, n3) = (node("n1"), node("n3"));
    world.put(&n1, "d-gone", "x");
    world.run(0);
    world.crash(&n3, 0);
    world.run(5_000);
    world.delete(&n1, "d-gone");
    for i in 0..tail::TAIL_ENTRIES + 10 {
        world.put(&n1, &format!("k{}", i % 50), &format!("v{i}"));
        world.run(0);
    }
    world.restart(&n3);
    world.put(&n1, "during", "x");
    world.run(10_000);
    assert!(world.coordinator.in_sync.contains(&n3));
    assert_eq!(world.contents().len(), 1);
    assert_eq!(world.nodes[&n3].store.get("d-gone").unwrap(), None);
}

#[test]
fn writes_need_both_sets_while_a_proposal_is_unknown() {
    let mut world = opened(3, 3);
    let (n1, n3) = (node("n1"), node("n3"));
    world.crash(&n3, 0);
    world.coordinator.expire(&n3);
    world.install(&n1);
    let at = world.messages.iter().position(|m| matches!(m, Message::Report { .. })).unwrap();
    let report = world.messages.remove(at);
    let ticket = world.put(&n1, "k", "v");
    world.lose(report);
    for _ in 0..50 {
        let pass = |message: &Message| !matches!(message, Message::Report { .. });
        while let Some(at) = world.messages.iter().position(pass) {
            let message = world.messages.remove(at);
            world.deliver(message);
        }
        world.names().iter().for_each(|name| world.complete_store(name));
        world.tick(10);
    }
    assert_eq!(world.reply(ticket), None);
    world.run(2_000);
    assert_eq!(world.reply(ticket).cloned(), written(1, 1));
}

#[test]
fn a_copy_is_kept_when_it_is_told_to_retire_at_an_older_epoch() {
    let mut world = opened(3, 3);
    let n3 = node("n3");
    let mut older = world.coordinator.assignment(&n3).unwrap();
    older.role = Role::Retiring;
    let request = Request::Adopt { epoch: Epoch(2), marks: vec![position(0, 0)] };
    let from = node("n2");
    let replica = world.nodes.get_mut(&n3).unwrap().replica.as_mut().unwrap();
    replica.step(world.now_ms, Event::Request { ticket: Ticket(900), from, request });
    let effects = replica.step(world.now_ms, Event::Assigned(Box::new(older.clone())));
    assert!(!effects.iter().any(|e| matches!(e, Effect::Store { action: StoreAction::Delete, .. })));
    older.epoch = Epoch(2);
    let effects = replica.step(world.now_ms, Event::Assigned(Box::new(older)));
    assert!(effects.iter().any(|e| matches!(e, Effect::Store { action: StoreAction::Delete, .. })));
}

#[test]
fn an_epoch_of_an_earlier_run_is_not_led_again() {
    let world = opened(1, 1);
    let n1 = node("n1");
    let assignment = world.coordinator.assignment(&n1).unwrap();
    let found = world.nodes[&n1].store.state().unwrap();
    let mut replica = Replica::new(n1, ShardId(0), Limits::default(), found);
    let effects = replica.step(world.now_ms, Event::Assigned(Box::new(assignment)));
    replica.step(world.now_ms, Event::LeaseUntil(u64::MAX));
    assert_eq!(effects, []);
    assert!(!replica.status().serving);
}

#[test]
fn a_late_repetition_of_an_alignment_changes_nothing() {
    let mut world = opened(2, 2);
    let (n1, n2) = (node("n1"), node("n2"));
    world.put(&n1, "a", "1");
    world.run(0);
    let alignment = wire::Alignment {
        expect: position(0, 0),
        common: position(0, 0),
        tail: Vec::new(),
        writes: Vec::new(),
        last: position(0, 0),
    };
    let replica = world.nodes.get_mut(&n2).unwrap().replica.as_mut().unwrap();
    let request = Request::align(Epoch(1), alignment);
    let effects = replica.step(world.now_ms, Event::Request { ticket: Ticket(900), from: n1, request });
    let answer = Answer::Gap { epoch: Epoch(1), last: position(1, 1) };
    assert_eq!(effects, [Effect::Answer { ticket: Ticket(900), answer }]);
}

#[test]
fn messages_round_trip_as_json() {
    let write = wire::Write { position: position(1, 2), key: "k".into(), value: Some(Value::from("\u{0}v")) };
    let request =
        Request::Forward { epoch: Epoch(1), prev: position(1, 1), writes: vec![write], digest: None };
    let text = serde_json::to_string(&request).unwrap();
    let expected = r#"{"type":"forward","epoch":1,"prev":{"epoch":1,"n":1},"writes":[{"position":{"epoch":1,"n":2},"key":"k","value":"AHY="}]}"#;
    assert_eq!(text, expected);
    assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
}
