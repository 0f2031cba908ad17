//! Keeps a [`MapCache`] fresh: reads the map, then follows `GET /v1/watch`, and resumes where a stream broke off.
//!
//! Every turn of the loop begins from what is held, so nothing is lost when a stream ends: it is resumed from the held
//! revision at another control node, or, where that is compacted or can't be followed, the map is read again. While no
//! stream can be opened the map is polled. A map is better read stale than not at all, since the data nodes' epochs
//! fence whoever holds an old one; so reads here are stale reads.

mod sse;

use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::control::{Answered, Backoff, Body, Call, ControlClient, ControlError, ExchangeError, StaleReads};
use crate::ids::Revision;
use crate::map::MapCache;
use crate::wire::{ShardMap, WatchBookmark, WatchEvent};

pub use sse::{Event, EventReader};

/// A stream that says nothing for so long, not even a bookmark, is taken for dead.
const SILENCE_MS: u64 = 30_000;

/// Why a stream was left.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the stream broke")]
    Broken(#[source] ExchangeError),
    #[error("the stream ended")]
    Ended,
    #[error("the stream said nothing for {SILENCE_MS} ms")]
    Silent,
    #[error("an event could not be read: {0}")]
    Malformed(String),
}

/// Follows the map into `cache` until `shutdown`.
pub async fn follow_map(control: ControlClient, cache: MapCache, shutdown: CancellationToken) {
    let work = async {
        let mut backoff = Backoff::new(50, 2_000);
        loop {
            let before = cache.get().map(|map| map.revision);
            let left = turn(&control, &cache).await;
            if cache.get().map(|map| map.revision) > before {
                backoff = Backoff::new(50, 2_000);
            }
            tracing::debug!(error = %left, "following the map begins again");
            tokio::time::sleep(Duration::from_millis(backoff.next_ms())).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// Reads the map where there is none or its revision is compacted, then follows one stream to its end.
async fn turn(control: &ControlClient, cache: &MapCache) -> WatchError {
    let Some(map) = cache.get() else {
        return match read_map(control, cache).await {
            Ok(()) => stream(control, cache).await,
            Err(error) => error.into(),
        };
    };
    let error = stream(control, cache).await;
    let unmoved = cache.get().is_some_and(|now| now.revision == map.revision);
    if unmoved || matches!(&error, WatchError::Control(ControlError::Refused(_)) | WatchError::Malformed(_)) {
        // Also the way to learn of a restored cluster, whose generation no event carries.
        if let Err(error) = read_map(control, cache).await {
            return error.into();
        }
    }
    error
}

async fn read_map(control: &ControlClient, cache: &MapCache) -> Result<(), ControlError> {
    cache.install(control.map(StaleReads::Allowed).await?);
    Ok(())
}

async fn stream(control: &ControlClient, cache: &MapCache) -> WatchError {
    // Another control node each time: the one that failed may be the preferred one.
    let from = cache.get().map_or(Revision(0), |map| map.revision);
    let mut last = WatchError::Ended;
    for offset in 0..control.coordinators() {
        let call = Call::get("/v1/watch").query("from", from).at(control.preferred() + offset);
        match control.open_stream(&call).await {
            Ok(Answered { body, .. }) => return read_events(body, cache).await,
            Err(error @ ControlError::Refused(_)) => return error.into(),
            Err(error) => last = error.into(),
        }
    }
    last
}

async fn read_events(mut bytes: Body, cache: &MapCache) -> WatchError {
    let mut reader = EventReader::default();
    loop {
        let chunk = match tokio::time::timeout(Duration::from_millis(SILENCE_MS), bytes.next()).await {
            Err(_) => return WatchError::Silent,
            Ok(None) => return WatchError::Ended,
            Ok(Some(Err(error))) => return WatchError::Broken(error),
            Ok(Some(Ok(chunk))) => chunk,
        };
        let events = match reader.push(&chunk) {
            Ok(events) => events,
            Err(error) => return WatchError::Malformed(error.to_string()),
        };
        for event in events {
            if let Err(error) = take_event(&event, cache) {
                return WatchError::Malformed(format!("{}: {error}", event.name));
            }
        }
    }
}

fn take_event(event: &Event, cache: &MapCache) -> Result<(), serde_json::Error> {
    match event.name.as_str() {
        "change" => {
            cache.apply(&serde_json::from_str::<WatchEvent>(&event.data)?);
        }
        "snapshot" => {
            cache.install(serde_json::from_str::<ShardMap>(&event.data)?);
        }
        "bookmark" => cache.bookmark(serde_json::from_str::<WatchBookmark>(&event.data)?.revision),
        // A newer control node may say more.
        _ => {}
    }
    Ok(())
}
