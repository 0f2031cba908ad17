use std::sync::atomic::{AtomicU32, Ordering};

use tokio::task::JoinSet;

use super::*;
use crate::control::ControlOptions;
use crate::control::scripted::{Asked, Say, Scripted, problem};
use crate::map::Way;
use crate::watch::tests::{Streams, changes, map_at};

/// A router whose stream never tells anything.
async fn router_at(node: &Scripted) -> Router {
    let mut options = ControlOptions::new(vec![node.addr.to_string()]);
    options.attempt_timeout_ms = 500;
    options.deadline_ms = 1_000;
    let control = ControlClient::new(options).unwrap();
    let router = Router::start(control, CancellationToken::new());
    assert!(router.newer_than(None, 10_000).await, "there is a map");
    router
}

fn asked_for_changes(node: &Scripted) -> usize {
    node.asked_for("/v1/watch").iter().filter(|asked| !asked.wants_stream()).count()
}

/// What else is asked than for changes; streams are open and say nothing.
fn silent_stream(streams: &Streams, asked: &Asked) -> Option<Say> {
    match asked.path() {
        "/v1/map" => Some(Say::Json(200, map_at(1, 10))),
        "/v1/watch" if asked.wants_stream() => Some(streams.open(asked)),
        "/v1/watch" => None,
        _ => Some(problem(404, "not_found")),
    }
}

#[tokio::test]
async fn many_who_were_refused_cause_one_request_and_are_all_woken_by_it() {
    let (tell, told) = tokio::sync::watch::channel(false);
    let streams = Streams::default();
    let node = Scripted::start(move |asked| {
        silent_stream(&streams, asked).unwrap_or_else(|| Say::When(told.clone(), Box::new(changes(11))))
    })
    .await;
    let router = router_at(&node).await;
    let seen = Some(Revision(10));
    let mut waiters = JoinSet::new();
    for _ in 0..200 {
        let router = router.clone();
        waiters.spawn(async move { router.refresh(seen, 20_000).await });
    }
    while asked_for_changes(&node) == 0 || waiters.len() < 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(waiters.try_join_next().is_none());
    tell.send_replace(true);
    assert!(waiters.join_all().await.into_iter().all(|newer| newer));
    assert_eq!(asked_for_changes(&node), 1);
    assert_eq!(router.route("k").unwrap().revision(), Revision(11));
    assert!(router.refresh(seen, 0).await, "whoever comes late has it already");
    assert_eq!(asked_for_changes(&node), 1);
    assert_eq!(router.freshness().way, Some(Way::LongPoll));
}

#[tokio::test]
async fn a_refresh_is_bounded_and_says_that_it_brought_nothing() {
    let streams = Streams::default();
    let node = Scripted::start(move |asked| silent_stream(&streams, asked).unwrap_or(Say::Silence)).await;
    let router = router_at(&node).await;
    assert!(!router.refresh(Some(Revision(10)), 100).await);
    assert!(!router.newer_than(Some(Revision(10)), 10).await);
}

#[tokio::test]
async fn a_refresh_that_fails_is_tried_again_while_somebody_waits() {
    let count = AtomicU32::new(0);
    let streams = Streams::default();
    let node = Scripted::start(move |asked| {
        silent_stream(&streams, asked).unwrap_or_else(|| match count.fetch_add(1, Ordering::Relaxed) {
            0 => problem(403, "forbidden"),
            1 => Say::Json(200, r#"{"revision":9,"events":[]}"#.to_owned()),
            _ => changes(11),
        })
    })
    .await;
    let router = router_at(&node).await;
    assert!(router.refresh(Some(Revision(10)), 20_000).await);
    assert_eq!(asked_for_changes(&node), 3);
}

#[tokio::test]
async fn nobody_is_asked_where_nobody_wants_a_newer_map() {
    let streams = Streams::default();
    let node =
        Scripted::start(move |asked| silent_stream(&streams, asked).unwrap_or_else(|| changes(11))).await;
    let router = router_at(&node).await;
    assert!(!router.newer_than(Some(Revision(10)), 50).await);
    assert!(router.refresh(Some(Revision(9)), 50).await);
    assert_eq!(asked_for_changes(&node), 0);
}
