use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::control::ControlOptions;
use crate::control::scripted::{Asked, Say, Scripted, problem};
use crate::ids::Revision;
use crate::map::Freshness;

/// A whole map as a control node writes it.
pub(crate) fn map_at(generation: u64, revision: u64) -> String {
    format!(
        r#"{{"generation":{generation},"revision":{revision},"cluster_id":"c","key_hash":"xxh64","shard_hash":"jump","num_shards":1,
        "replication_factor":1,"nodes":{{"d1":{{"addr":"h:{revision}","zone":null,"rack":null,"status":"alive"}}}},
        "shards":[{{"epoch":{revision},"primary":"d1","replicas":[],"in_sync":["d1"]}}]}}"#
    )
}

/// A change of the only shard, whose epoch it makes the revision.
pub(crate) fn change(revision: u64) -> String {
    format!(
        r#"{{"revision":{revision},"changes":[{{"type":"shard","id":0,"epoch":{revision},"primary":"d1","replicas":[],
        "learners":[],"in_sync":["d1"],"in_sync_version":1,"status":"active","size_bytes":null,"vectors":null,"revision":{revision}}}]}}"#
    )
    .replace('\n', "")
}

pub(crate) fn changes(revision: u64) -> Say {
    Say::Json(200, format!(r#"{{"revision":{revision},"events":[{}]}}"#, change(revision)))
}

pub(crate) fn no_changes(revision: u64) -> Say {
    Say::Json(200, format!(r#"{{"revision":{revision},"events":[]}}"#))
}

fn event(name: &str, revision: u64, data: &str) -> String {
    format!("event: {name}\nid: {revision}\ndata: {data}\n\n")
}

fn bookmark(revision: u64) -> String {
    event("bookmark", revision, &format!(r#"{{"revision":{revision}}}"#))
}

/// Streams that a test feeds: each that was opened, with what it was asked.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<Vec<Opened>>>);

/// What was asked, and what to say.
type Opened = (String, UnboundedSender<String>);

impl Streams {
    pub(crate) fn open(&self, asked: &Asked) -> Say {
        let (sender, pieces) = unbounded_channel();
        self.0.lock().unwrap().push((asked.target.clone(), sender));
        Say::Stream(pieces)
    }

    fn tell(&self, piece: &str) {
        let streams = self.0.lock().unwrap();
        streams.last().unwrap().1.send(piece.to_owned()).unwrap();
    }

    fn end_all(&self) {
        for (_, sender) in self.0.lock().unwrap().iter_mut() {
            *sender = unbounded_channel().0;
        }
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(target, _)| target.clone()).collect()
    }
}

fn quick() -> FollowOptions {
    FollowOptions {
        silence_ms: 30_000,
        steady_ms: 0,
        stream_failures: 2,
        long_poll_ms: 1_000,
        poll_every_ms: 20,
        back_after_ms: 600_000,
    }
}

struct Followed {
    cache: MapCache,
    _task: AbortOnDropHandle<()>,
}

fn follow(node: &Scripted, options: FollowOptions) -> Followed {
    let mut control = ControlOptions::new(vec![node.addr.to_string()]);
    control.attempt_timeout_ms = 500;
    control.deadline_ms = 1_000;
    let (control, cache) = (ControlClient::new(control).unwrap(), MapCache::new());
    let task = follow_map_by(options, control, cache.clone(), CancellationToken::new());
    Followed { cache, _task: AbortOnDropHandle::new(tokio::spawn(task)) }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

impl Followed {
    fn revision(&self) -> Option<Revision> {
        self.cache.version().map(|version| version.revision)
    }

    fn freshness(&self) -> Freshness {
        self.cache.freshness()
    }

    async fn until_at(&self, revision: u64) {
        until(&format!("revision {revision}, and not {:?}", self.freshness()), || {
            self.revision() == Some(Revision(revision))
        })
        .await;
    }
}

#[tokio::test]
async fn a_stream_is_resumed_where_it_broke_off_and_shows_how_fresh_the_map_is() {
    let streams = Streams::default();
    let feed = streams.clone();
    let node = Scripted::start(move |asked| match asked.path() {
        "/v1/map" => Say::Json(200, map_at(1, 10)),
        "/v1/watch" if asked.wants_stream() => feed.open(asked),
        _ => problem(404, "not_found"),
    })
    .await;
    let followed = follow(&node, quick());
    until("a stream", || streams.asked().len() == 1).await;
    assert_eq!(followed.freshness().way, Some(Way::Poll), "so far it was read");
    streams.tell(&event("change", 11, &change(11)));
    followed.until_at(11).await;
    until("the way", || followed.freshness().way == Some(Way::Stream)).await;
    let fresh = followed.freshness();
    assert!(fresh.current_ms_ago.is_some_and(|ago| ago < 10_000) && fresh.last_error.is_none(), "{fresh:?}");
    assert_eq!(fresh.version, followed.cache.version());
    streams.end_all();
    until("another stream", || streams.asked().len() == 2).await;
    assert!(followed.freshness().last_error.is_some_and(|error| error.contains("stream")));
    streams.tell(&bookmark(12));
    followed.until_at(12).await;
    until("no error", || followed.freshness().last_error.is_none()).await;
    assert_eq!(streams.asked(), ["/v1/watch?from=10", "/v1/watch?from=11"]);
    assert_eq!(node.asked_for("/v1/map").len(), 1, "nothing is read twice");
}

#[tokio::test]
async fn where_streams_can_not_be_opened_the_map_is_followed_by_long_polls() {
    let (change_now, changed) = tokio::sync::watch::channel(false);
    let node = Scripted::start(move |asked| match asked.path() {
        "/v1/map" => Say::Json(200, map_at(1, 10)),
        "/v1/watch" if asked.wants_stream() => problem(502, "no_streams"),
        "/v1/watch" if asked.target.contains("wait_ms=0") => no_changes(10),
        "/v1/watch" if asked.target.contains("from=10&") => Say::When(changed.clone(), Box::new(changes(11))),
        "/v1/watch" => Say::Silence,
        _ => problem(404, "not_found"),
    })
    .await;
    let followed = follow(&node, quick());
    let polls =
        || node.asked_for("/v1/watch").into_iter().filter(|asked| asked.target.contains("wait_ms=1000"));
    until("a long poll", || polls().next().is_some()).await;
    assert_eq!(followed.revision(), Some(Revision(10)));
    change_now.send_replace(true);
    followed.until_at(11).await;
    assert_eq!(followed.freshness().way, Some(Way::LongPoll));
    let shard = followed.cache.get().unwrap().shard(crate::ids::ShardId(0)).unwrap().epoch;
    assert_eq!(shard, crate::ids::Epoch(11));
    until("the next long poll", || polls().any(|asked| asked.target.contains("from=11&"))).await;
    assert_eq!(node.asked_for("/v1/map").len(), 1, "the map is read once");
}

#[tokio::test]
async fn streams_that_a_proxy_holds_back_are_given_up() {
    let streams = Streams::default();
    let feed = streams.clone();
    let node = Scripted::start(move |asked| match asked.path() {
        "/v1/map" => Say::Json(200, map_at(1, 10)),
        "/v1/watch" if asked.wants_stream() => feed.open(asked),
        "/v1/watch" if asked.target.contains("from=10&") => changes(11),
        "/v1/watch" => no_changes(11),
        _ => problem(404, "not_found"),
    })
    .await;
    let followed = follow(&node, FollowOptions { silence_ms: 100, ..quick() });
    until("long polls", || followed.freshness().way == Some(Way::LongPoll)).await;
    followed.until_at(11).await;
    until("streams given up", || streams.asked().len() == 2).await;
}

#[tokio::test]
async fn streams_that_break_again_and_again_are_given_up_though_they_tell_something() {
    let node = Scripted::start(move |asked| match asked.path() {
        "/v1/map" => Say::Json(200, map_at(1, 10)),
        "/v1/watch" if asked.wants_stream() => {
            let (sender, pieces) = unbounded_channel();
            sender.send(bookmark(10)).unwrap();
            Say::Stream(pieces)
        }
        "/v1/watch" => Say::When(tokio::sync::watch::channel(true).1, Box::new(no_changes(12))),
        _ => problem(404, "not_found"),
    })
    .await;
    let followed = follow(&node, FollowOptions { steady_ms: 5_000, ..quick() });
    followed.until_at(12).await;
    let streams = || node.asked_for("/v1/watch").into_iter().filter(Asked::wants_stream).count();
    let polls = || node.asked_for("/v1/watch").len() - streams();
    until("long polls instead", || polls() > 5).await;
    assert_eq!(streams(), 2);
}

#[tokio::test]
async fn where_there_are_no_long_polls_either_the_map_is_polled_by_its_tag() {
    for status in [400, 404, 501] {
        let revision = Arc::new(AtomicU32::new(10));
        let now = revision.clone();
        let node = Scripted::start(move |asked| match asked.path() {
            "/v1/map"
                if now.load(Ordering::Relaxed) == 10 && asked.if_none_match.as_deref() == Some("\"t10\"") =>
            {
                Say::Tagged(304, "\"t10\"", String::new())
            }
            "/v1/map" if now.load(Ordering::Relaxed) == 10 => Say::Tagged(200, "\"t10\"", map_at(1, 10)),
            "/v1/map" => Say::Json(200, map_at(1, 11)),
            _ => problem(status, "not_here"),
        })
        .await;
        let followed = follow(&node, quick());
        let tagged = || node.asked_for("/v1/map").into_iter().filter(|asked| asked.if_none_match.is_some());
        until("polls with the tag", || tagged().count() > 5).await;
        let fresh = followed.freshness();
        assert_eq!((fresh.way, followed.revision()), (Some(Way::Poll), Some(Revision(10))));
        assert!(fresh.last_error.is_none(), "that nothing changed says that the map is current: {fresh:?}");
        revision.store(11, Ordering::Relaxed);
        followed.until_at(11).await;
    }
}

#[tokio::test]
async fn it_comes_back_to_streams_when_they_work_again() {
    let (streams, work) = (Streams::default(), Arc::new(AtomicBool::new(false)));
    let (feed, works) = (streams.clone(), work.clone());
    let node = Scripted::start(move |asked| match asked.path() {
        "/v1/map" => Say::Json(200, map_at(1, 10)),
        "/v1/watch" if asked.wants_stream() && works.load(Ordering::Relaxed) => feed.open(asked),
        "/v1/watch" if asked.wants_stream() => problem(404, "not_found"),
        "/v1/watch" => no_changes(10),
        _ => problem(404, "not_found"),
    })
    .await;
    let followed = follow(&node, FollowOptions { back_after_ms: 50, ..quick() });
    until("long polls", || followed.freshness().way == Some(Way::LongPoll)).await;
    work.store(true, Ordering::Relaxed);
    until("a stream", || streams.asked().len() == 1).await;
    streams.tell(&event("change", 11, &change(11)));
    followed.until_at(11).await;
    until("the way", || followed.freshness().way == Some(Way::Stream)).await;
}

#[tokio::test]
async fn streams_are_not_blamed_while_no_control_node_answers() {
    let (streams, up) = (Streams::default(), Arc::new(AtomicBool::new(true)));
    let (feed, is_up) = (streams.clone(), up.clone());
    let node = Scripted::start(move |asked| match asked.path() {
        _ if !is_up.load(Ordering::Relaxed) => problem(503, "starting"),
        "/v1/map" => Say::Json(200, map_at(1, 10)),
        "/v1/watch" if asked.wants_stream() => feed.open(asked),
        _ => no_changes(10),
    })
    .await;
    let followed = follow(&node, quick());
    until("a stream", || streams.asked().len() == 1).await;
    up.store(false, Ordering::Relaxed);
    streams.end_all();
    let failed = || node.asked_for("/v1/watch").into_iter().filter(Asked::wants_stream).count();
    until("streams that fail", || failed() >= 5).await;
    assert!(followed.freshness().last_error.is_some());
    up.store(true, Ordering::Relaxed);
    until("a stream again, and no long poll", || streams.asked().len() == 2).await;
    streams.tell(&bookmark(11));
    followed.until_at(11).await;
}

#[tokio::test]
async fn a_compacted_revision_makes_the_map_be_read_whole_also_that_of_a_restored_cluster() {
    let restored = Arc::new(AtomicBool::new(false));
    let (streams, is_restored) = (Streams::default(), restored.clone());
    let feed = streams.clone();
    let node = Scripted::start(move |asked| match (asked.path(), is_restored.load(Ordering::Relaxed)) {
        ("/v1/map", false) => Say::Json(200, map_at(1, 10)),
        ("/v1/map", true) => Say::Json(200, map_at(2, 4_294_967_306)),
        ("/v1/watch", true) if asked.target.contains("from=10") => problem(410, "compacted"),
        ("/v1/watch", _) if asked.wants_stream() => feed.open(asked),
        _ => problem(404, "not_found"),
    })
    .await;
    let followed = follow(&node, quick());
    until("a stream", || streams.asked().len() == 1).await;
    restored.store(true, Ordering::Relaxed);
    streams.end_all();
    followed.until_at(4_294_967_306).await;
    assert_eq!(followed.cache.get().unwrap().generation, 2);
    until("a stream from there", || streams.asked().len() == 2).await;
    assert!(streams.asked()[1].ends_with("from=4294967306"));
}

#[tokio::test]
async fn an_event_that_can_not_be_read_is_left_behind_by_reading_the_map() {
    let streams = Streams::default();
    let (feed, revision) = (streams.clone(), Arc::new(AtomicU32::new(10)));
    let now = revision.clone();
    let node = Scripted::start(move |asked| match asked.path() {
        "/v1/map" => Say::Json(200, map_at(1, u64::from(now.load(Ordering::Relaxed)))),
        "/v1/watch" if asked.wants_stream() => feed.open(asked),
        _ => problem(404, "not_found"),
    })
    .await;
    let followed = follow(&node, FollowOptions { steady_ms: 60_000, stream_failures: 9, ..quick() });
    until("a stream", || streams.asked().len() == 1).await;
    revision.store(11, Ordering::Relaxed);
    streams.tell(&event("change", 11, r#"{"revision":"eleven"}"#));
    followed.until_at(11).await;
    until("a stream from there", || streams.asked().len() == 2).await;
    assert!(streams.asked()[1].ends_with("from=11"));
}
