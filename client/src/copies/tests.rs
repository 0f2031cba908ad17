//! That the shell does its part: nodes over stores in memory, on virtual time.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::agent::ShardHost;
use crate::ids::Incarnation;
use crate::replica::store::{StoreAction, StoreResult};
use crate::wire::Role;
use world::{Net, Node, SHARD, assignment, handing_over};

/// A lease that outlives the test.
const LONG_MS: u64 = 1_000_000;

/// A node that is primary of an open shard, alone.
async fn alone() -> Node {
    let mut node = Node::start(1, &Net::default(), Arc::new(TokioSpawn)).await;
    node.install(Some(assignment(1, 1, 1, true))).await.unwrap();
    node.grant(LONG_MS);
    let report = node.report().await;
    assert!(report.2.in_sync_set.is_some(), "{report:?}");
    node.accept(&report).await;
    assert!(matches!(node.write("first", None).await, Outcome::Done { .. }));
    node
}

/// The primary and the replica of an open shard.
async fn pair() -> (Node, Node) {
    let net = Net::default();
    let mut primary = Node::start(1, &net, Arc::new(TokioSpawn)).await;
    let mut replica = Node::start(2, &net, Arc::new(TokioSpawn)).await;
    primary.install(Some(assignment(1, 2, 1, true))).await.unwrap();
    replica.install(Some(assignment(2, 2, 1, true))).await.unwrap();
    primary.grant(LONG_MS);
    let report = primary.report().await;
    assert_eq!(report.2.in_sync_set.as_ref().unwrap().members.len(), 2, "{report:?}");
    primary.accept(&report).await;
    (primary, replica)
}

#[tokio::test(start_paused = true)]
async fn a_write_is_on_disk_on_both_copies_when_it_is_acknowledged() {
    let (primary, replica) = pair().await;
    let Outcome::Done { epoch, body } = primary.write("k", None).await else { panic!("not acknowledged") };
    assert_eq!((epoch, body), (Epoch(1), Position { epoch: Epoch(1), n: 1 }));
    for node in [&primary, &replica] {
        assert_eq!(node.disk().await.state.tail.last(), body);
    }
    assert_eq!(primary.read("k").await, Outcome::Done { epoch, body: Some("v".into()) });
    let elsewhere = replica.write("k", None).await;
    assert!(matches!(&elsewhere, Outcome::NotPrimary { primary: Some(at), .. } if at.addr == "d1:1"));
    let held = primary.copies.held();
    assert_eq!((held[0].position, held[0].vectors, held[0].size_bytes), (1, 1, 10));
}

#[tokio::test(start_paused = true)]
async fn writes_are_taken_in_the_order_in_which_they_came() {
    let node = alone().await;
    let write =
        |n| Write { position: Position::default(), key: format!("k{n}").as_str().into(), value: None };
    let outcomes = node.copies.write(SHARD, Some(Epoch(1)), (0..200).map(write).collect()).await;
    for (n, outcome) in (2..).zip(outcomes) {
        let position = Position { epoch: Epoch(1), n };
        assert_eq!(outcome, Outcome::Done { epoch: Epoch(1), body: position });
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_without_a_lease() {
    let node = alone().await;
    node.end().await;
    assert_eq!(node.write("k", None).await, Outcome::Unavailable);
    assert_eq!(node.read("first").await, Outcome::Unavailable);
    node.begin(2).await;
    node.grant(LONG_MS);
    assert!(matches!(node.read("first").await, Outcome::Done { body: Some(_), .. }));
}

#[tokio::test(start_paused = true)]
async fn what_was_read_under_a_lease_that_ended_meanwhile_is_not_answered() {
    let node = alone().await;
    let read = |_| async {
        node.end().await;
        Some("of the past")
    };
    assert_eq!(node.copies.read_with(SHARD, None, read).await, Outcome::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_read_is_tried_three_times() {
    let node = alone().await;
    node.end().await;
    node.begin(2).await;
    let tries = AtomicU64::new(0);
    // Each lease ends while the store is read, and the next comes later.
    let reading = node.copies.read_with(SHARD, None, |_| async {
        tries.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(150)).await;
        Some(())
    });
    let granting = async {
        loop {
            tokio::time::sleep(Duration::from_millis(400)).await;
            node.grant(100);
        }
    };
    tokio::select! {
        outcome = reading => assert_eq!(outcome, Outcome::Unavailable),
        () = granting => {}
    }
    assert_eq!(tries.into_inner(), 3);
}

#[tokio::test(start_paused = true)]
async fn reports_of_a_session_that_ended_are_unknown_and_said_again_in_the_next() {
    let mut node = Node::start(1, &Net::default(), Arc::new(TokioSpawn)).await;
    node.install(Some(assignment(1, 1, 1, true))).await.unwrap();
    node.grant(LONG_MS);
    let first = node.report().await;
    assert_eq!(first.0, Incarnation(1));
    node.end().await;
    node.begin(2).await;
    node.grant(LONG_MS);
    let second = node.report().await;
    assert_eq!(second.0, Incarnation(2));
    assert_eq!(second.2.in_sync_set, first.2.in_sync_set);
    node.accept(&first).await;
    assert_eq!(node.write("k", None).await, Outcome::Unavailable, "an answer to the past opens nothing");
    node.accept(&second).await;
    assert!(matches!(node.write("k", None).await, Outcome::Done { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_report_that_finds_no_session_is_unknown_and_said_again() {
    let mut node = Node::start(1, &Net::default(), Arc::new(TokioSpawn)).await;
    node.end().await;
    node.install(Some(assignment(1, 1, 1, true))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.begin(2).await;
    node.grant(LONG_MS);
    assert_eq!(node.report().await.0, Incarnation(2));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_delays_a_write_and_loses_nothing() {
    let node = alone().await;
    node.trouble.is_full.store(true, Ordering::SeqCst);
    let writing = node.write("k", None);
    tokio::pin!(writing);
    let early = tokio::time::timeout(Duration::from_millis(1_200), &mut writing).await;
    assert!(early.is_err(), "acknowledged without space: {early:?}");
    assert!(node.trouble.refused.load(Ordering::SeqCst) >= 2, "it is tried again");
    assert_eq!(node.disk().await.state.tail.last().n, 1);
    node.trouble.is_full.store(false, Ordering::SeqCst);
    assert!(matches!(writing.await, Outcome::Done { .. }));
    assert_eq!(node.disk().await.state.tail.last().n, 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_is_gone_and_its_request_with_it() {
    let node = alone().await;
    node.end().await;
    node.begin(2).await;
    let waited = tokio::time::timeout(Duration::from_millis(300), node.write("left", None)).await;
    assert!(waited.is_err(), "{waited:?}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.grant(LONG_MS);
    assert!(matches!(node.write("stayed", None).await, Outcome::Done { .. }));
    let keys: Vec<String> = node.disk().await.writes.keys().map(ToString::to_string).collect();
    assert_eq!(keys, ["first", "stayed"]);
}

#[tokio::test(start_paused = true)]
async fn assignments_are_acknowledged_once_they_are_in_force() {
    let mut node = alone().await;
    node.install(Some(assignment(1, 1, 7, false))).await.unwrap();
    let (shard, status) = node.copies.statuses().pop().unwrap();
    assert_eq!((shard, status.role, status.epoch), (SHARD, Some(Role::Primary), Epoch(7)));
    assert_eq!(node.write("k", Some(Epoch(1))).await, Outcome::StaleEpoch { epoch: Epoch(7) });
    node.install(None).await.unwrap();
    assert_eq!(node.copies.statuses()[0].1.role, None);
    assert_eq!(node.copies.held().len(), 1, "what is not assigned is kept");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_again_tells_what_it_holds_and_leads_nothing_that_it_led() {
    let left = alone().await.disk().await;
    let mut node = Node::restart(1, &Net::default(), Arc::new(TokioSpawn), Some(left)).await;
    let held = node.copies.held();
    assert_eq!((held.len(), held[0].id, held[0].epoch, held[0].position), (1, SHARD, Epoch(1), 1));
    node.grant(LONG_MS);
    node.install(Some(assignment(1, 1, 1, false))).await.unwrap();
    assert_eq!(node.read("first").await, Outcome::Unavailable);
    node.install(Some(assignment(1, 1, 2, false))).await.unwrap();
    assert_eq!(node.read("first").await, Outcome::Done { epoch: Epoch(2), body: Some("v".into()) });
}

#[tokio::test(start_paused = true)]
async fn an_assignment_comes_before_the_lease_that_goes_with_it() {
    let (mut primary, _replica) = pair().await;
    primary.end().await;
    primary.begin(2).await;
    primary.grant(300);
    primary.trouble.is_full.store(true, Ordering::SeqCst);
    let copies = primary.copies.clone();
    let write = Write { position: Position::default(), key: "k".into(), value: None };
    let writing = tokio::spawn(async move { copies.write(SHARD, None, vec![write]).await });
    // Not at a tick, which would be told of the next lease before the assignment is there: the agent never lets that happen.
    tokio::time::sleep(Duration::from_millis(120)).await;
    // The primaryship is being given away: what is under way may be answered only as long as the lease before lasts.
    primary.grant(LONG_MS);
    primary.install(Some(handing_over(assignment(1, 2, 1, false)))).await.unwrap();
    assert!(primary.copies.statuses()[0].1.serving, "the write is under way");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!primary.copies.statuses()[0].1.serving);
    assert_eq!(writing.await.unwrap(), [Outcome::Unknown]);
}

/// Ends what it is given.
struct Drops;

impl Spawn for Drops {
    fn spawn(&self, _: &str, _: BoxFuture<'static, ()>) {}
}

#[tokio::test(start_paused = true)]
async fn assignments_of_a_shard_whose_task_has_ended_are_not_in_force() {
    let mut node = Node::start(1, &Net::default(), Arc::new(Drops)).await;
    assert!(node.install(Some(assignment(1, 1, 1, true))).await.is_err());
    assert_eq!(node.write("k", None).await, Outcome::Unavailable);
    assert_eq!(node.read("k").await, Outcome::Unavailable);
}

/// Runs everything but what stores.
struct NothingIsStored;

impl Spawn for NothingIsStored {
    fn spawn(&self, what: &str, future: BoxFuture<'static, ()>) {
        if !what.ends_with("store") {
            TokioSpawn.spawn(what, future);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_whose_store_task_has_ended_keeps_nobody_waiting() {
    let mut node = Node::start(1, &Net::default(), Arc::new(NothingIsStored)).await;
    let installed = node.install(Some(assignment(1, 1, 1, true))).await;
    assert!(installed.unwrap_err().0.contains("ended"));
    assert_eq!(node.write("k", None).await, Outcome::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn an_install_that_is_dropped_half_way_forgets_no_shard() {
    let mut node = alone().await;
    let write =
        |n| Write { position: Position::default(), key: format!("k{n}").as_str().into(), value: None };
    // More than a queue holds, so that the install waits for room.
    let copies = node.copies.clone();
    let crowd = copies.write(SHARD, None, (0..5_000).map(write).collect());
    let mut crowd = Box::pin(crowd);
    assert!(crowd.as_mut().now_or_never().is_none());
    assert!(node.install(None).now_or_never().is_none());
    drop(crowd);
    node.end().await;
    node.begin(2).await;
    node.install(None).await.unwrap();
    node.grant(LONG_MS);
    let refused = node.write("k", None).await;
    assert!(matches!(refused, Outcome::NotPrimary { .. } | Outcome::Unavailable), "{refused:?}");
    assert!(node.copies.statuses().iter().all(|(_, status)| status.role.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_was_never_here_is_answered_so() {
    let node = Node::start(1, &Net::default(), Arc::new(TokioSpawn)).await;
    assert_eq!(node.write("k", None).await, Outcome::NotPrimary { epoch: Epoch(0), primary: None });
    let request = Request::Adopt { epoch: Epoch(1), marks: Vec::new() };
    assert_eq!(node.copies.message(SHARD, world::name(2), request).await, Answer::NoCopy);
    assert_eq!(node.copies.size(SHARD), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_has_failed() {
    let node = alone().await;
    node.trouble.panics.store(true, Ordering::SeqCst);
    let store = node.copies.get(SHARD).unwrap().store.clone();
    let actions = || vec![StoreAction::Adopt(Epoch(1)), StoreAction::ReadKeys(Vec::new())];
    let carried = store.carry_out(actions()).await;
    assert_eq!((carried.results, carried.left), (vec![StoreResult::Failed; 2], vec![]));
    node.trouble.is_full.store(true, Ordering::SeqCst);
    let carried = store.carry_out(actions()).await;
    assert_eq!((carried.results, carried.left), (vec![], actions()));
}
