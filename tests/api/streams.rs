//! Watches and long polls: nothing is missed, nothing told twice.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::http::Answer;
use crate::{Served, call, call_with};

/// One server-sent event.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    name: String,
    id: u64,
    data: Value,
}

/// The first `count` events of a stream.
async fn events(served: &Served, path: &str, headers: &[(&str, &str)], count: usize) -> Vec<Event> {
    let url = format!("{}{path}", served.api.base());
    let mut request = served.api.http().get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut stream, mut text, mut events) = (response.bytes_stream(), String::new(), Vec::new());
    while events.len() < count {
        text.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if let (Some(name), Some(id), Some(data)) = (field("event:"), field("id:"), field("data:")) {
                let (name, id) = (name.to_owned(), id.parse().unwrap());
                events.push(Event { name, id, data: serde_json::from_str(data).unwrap() });
            }
            text = rest.to_owned();
        }
    }
    events.truncate(count);
    events
}

async fn label(served: &Served, node: &str, value: u32) -> u64 {
    let body = json!({"labels": {"turn": value.to_string()}});
    let answer = call(&served.api, "PATCH", &format!("/v1/nodes/{node}"), Some(body), 200).await;
    answer.number("x-cluster-revision").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_and_long_polls_tell_everything_once() {
    let served = Served::start().await;
    a_watch_begins_with_the_map_and_resumes(&served).await;
    what_is_compacted_is_gone(&served).await;
    an_idle_watch_is_told_so(&served).await;
    a_watch_without_streams_is_a_long_poll(&served).await;
    a_long_poll_tells_much_in_parts(&served).await;
    assignments_are_told_when_they_change(&served).await;
    a_long_poll_without_news_waits(&served).await;
}

async fn a_watch_begins_with_the_map_and_resumes(served: &Served) {
    let first = events(served, "/v1/watch", &[], 1).await.remove(0);
    assert_eq!((first.name.as_str(), first.data["revision"].as_u64()), ("snapshot", Some(first.id)));
    assert_eq!(first.data["shards"].as_array().unwrap().len(), 8);
    let mut revisions = Vec::new();
    for turn in 0..5 {
        revisions.push(label(served, "d1", turn).await);
    }
    let told = events(served, &format!("/v1/watch?from={}", first.id), &[], 5).await;
    assert_eq!(told.iter().map(|e| e.id).collect::<Vec<_>>(), revisions);
    for (event, turn) in told.iter().zip(0..) {
        assert_eq!(event.name, "change");
        assert_eq!(event.data["revision"].as_u64(), Some(event.id));
        let change = &event.data["changes"][0];
        assert_eq!((&change["type"], &change["id"]), (&json!("node"), &json!("d1")));
        assert_eq!(change["labels"]["turn"], json!(i32::to_string(&turn)), "as it was at that revision");
    }
    let last_seen = told[2].id.to_string();
    let resumed = events(served, "/v1/watch", &[("last-event-id", &last_seen)], 2).await;
    assert_eq!(resumed, told[3..]);
    // A browser that reconnects asks with its first URL.
    let again = format!("/v1/watch?from={}", first.id);
    let resumed = events(served, &again, &[("last-event-id", &last_seen)], 2).await;
    assert_eq!(resumed, told[3..], "nothing is told twice");
}

async fn what_is_compacted_is_gone(served: &Served) {
    let answer = call(&served.api, "GET", "/v1/watch?from=0", None, 410).await;
    assert_eq!(answer.body["code"], "compacted");
}

async fn an_idle_watch_is_told_so(served: &Served) {
    let revision = served.revision().await;
    let bookmark = events(served, &format!("/v1/watch?from={revision}"), &[], 1).await.remove(0);
    assert_eq!((bookmark.name.as_str(), bookmark.id), ("bookmark", revision));
}

const JSON: (&str, &str) = ("accept", "application/json");

async fn poll(served: &Served, from: u64, wait_ms: u64, status: u16) -> Answer {
    let path = format!("/v1/watch?from={from}&wait_ms={wait_ms}");
    call_with(&served.api, "GET", &path, &[JSON], None, status).await
}

async fn a_watch_without_streams_is_a_long_poll(served: &Served) {
    let begin = served.revision().await;
    let revisions = [label(served, "d1", 100).await, label(served, "d1", 101).await];
    let told = poll(served, begin, 20_000, 200).await;
    let streamed = events(served, &format!("/v1/watch?from={begin}"), &[], 2).await;
    let streamed: Vec<_> = streamed.into_iter().map(|event| event.data).collect();
    assert_eq!(told.body["events"], json!(streamed), "the very events of a stream");
    assert_eq!(told.body["revision"].as_u64(), Some(revisions[1]));
    assert_eq!(told.number("x-cluster-revision"), Some(revisions[1]));

    let waiting = poll(served, revisions[1], 20_000, 200);
    let (told, revision) = tokio::join!(waiting, label(served, "d1", 102));
    assert_eq!(told.body["events"].as_array().unwrap().len(), 1, "woken by the change");
    assert_eq!(told.body["events"][0]["revision"].as_u64(), Some(revision));

    let begun = Instant::now();
    let told = poll(served, revision, 200, 200).await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!((&told.body["events"], told.body["revision"].as_u64()), (&json!([]), Some(revision)));

    assert_eq!(poll(served, 0, 20_000, 410).await.body["code"], "compacted");
    call_with(&served.api, "GET", "/v1/watch?wait_ms=5", &[JSON], None, 400).await;
    call_with(&served.api, "GET", "/v1/watch?from=1&wait_ms=x", &[JSON], None, 400).await;
    // A client whose header is lost on the way is told, rather than made to wait for a stream's end.
    call(&served.api, "GET", "/v1/watch?from=1&wait_ms=5", None, 400).await;
}

async fn a_long_poll_tells_much_in_parts(served: &Served) {
    let begin = served.revision().await;
    let mut revisions = Vec::new();
    for turn in 0..300 {
        revisions.push(label(served, "d1", 1_000 + turn).await);
    }
    let (mut from, mut told, mut parts) = (begin, Vec::new(), 0);
    while from < revisions[299] {
        let part = poll(served, from, 0, 200).await;
        let events = part.body["events"].as_array().unwrap();
        assert!(events.len() <= 256);
        told.extend(events.iter().map(|event| event["revision"].as_u64().unwrap()));
        from = part.body["revision"].as_u64().unwrap();
        parts += 1;
    }
    assert_eq!((told, parts), (revisions, 2), "everything once, in order");
}

async fn assignments_are_told_when_they_change(served: &Served) {
    let api = &served.api;
    let now = call(api, "GET", "/v1/nodes/d1/assignments", None, 200).await;
    let since = now.body["revision"].as_u64().unwrap();
    let path = format!("/v1/nodes/d1/assignments?since={since}&wait_ms=20000&delta=true");
    let waiting = async { call(api, "GET", &path, None, 200).await };
    let shards = call(api, "GET", "/v1/shards?node=d1", None, 200).await;
    let change = async {
        let shards = shards.body["shards"].as_array().unwrap();
        let replicated =
            shards.iter().find(|s| s["replicas"].as_array().is_some_and(|r| !r.is_empty())).unwrap();
        let body = json!({"shard": replicated["id"], "to": replicated["replicas"][0]});
        call(api, "POST", "/v1/migrations", Some(body), 202).await;
        replicated["id"].clone()
    };
    let (answer, shard) = tokio::join!(waiting, change);
    assert_eq!(answer.body["full"], false);
    assert!(answer.body["revision"].as_u64().unwrap() > since);
    let told: Vec<_> =
        answer.body["assignments"].as_array().unwrap().iter().map(|a| a["shard"].clone()).collect();
    assert_eq!(told, [shard]);

    let headers = [("accept", "text/event-stream")];
    let streamed = events(served, "/v1/nodes/d2/assignments", &headers, 1).await.remove(0);
    assert_eq!((streamed.name.as_str(), &streamed.data["full"]), ("assignments", &json!(true)));
    assert_eq!(streamed.data["revision"].as_u64(), Some(streamed.id));
}

async fn a_long_poll_without_news_waits(served: &Served) {
    let api = &served.api;
    let wait = Duration::from_millis(300);
    // Whatever the migration before changes has changed once two answers agree.
    for _ in 0..100 {
        let now = call(api, "GET", "/v1/nodes/d3/assignments", None, 200).await;
        let since = now.body["revision"].as_u64().unwrap();
        let started = Instant::now();
        let path = format!("/v1/nodes/d3/assignments?since={since}&wait_ms={}", wait.as_millis());
        let answer = call(api, "GET", &path, None, 200).await;
        if started.elapsed() >= wait {
            assert_eq!(answer.body["assignments"], now.body["assignments"]);
            assert_eq!(answer.body["full"], true);
            return;
        }
        assert_ne!(answer.body["assignments"], now.body["assignments"], "answered early without news");
    }
    panic!("the assignments never came to rest");
}
