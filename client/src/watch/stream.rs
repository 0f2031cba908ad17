//! One event stream of `GET /v1/watch`.

use std::time::Duration;

use futures::StreamExt;

use super::{Event, EventReader};
use crate::control::{Answered, Body, Call, ControlClient, ControlError, ExchangeError};
use crate::ids::Revision;
use crate::map::{MapCache, Way};
use crate::wire::{ShardMap, WatchBookmark, WatchEvent};

/// Why a stream was left.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the stream broke")]
    Broken(#[source] ExchangeError),
    #[error("the stream ended")]
    Ended,
    #[error("the stream said nothing for {0} ms")]
    Silent(u64),
    #[error("an event could not be read: {0}")]
    Malformed(String),
}

/// Follows one stream to its end; says whether it told anything. `turn` says whom to ask first.
pub(super) async fn follow(
    control: &ControlClient,
    cache: &MapCache,
    turn: usize,
    silence_ms: u64,
) -> (bool, StreamError) {
    let from = cache.version().map_or(Revision(0), |version| version.revision);
    let first = control.preferred().wrapping_add(turn);
    let mut last = StreamError::Ended;
    for offset in 0..control.coordinators() {
        let call = Call::get("/v1/watch").query("from", from).at(first.wrapping_add(offset));
        match control.open_stream(&call).await {
            Ok(Answered { body, .. }) => return read_events(body, cache, silence_ms).await,
            Err(error @ ControlError::Refused(_)) => return (false, error.into()),
            Err(error) => last = error.into(),
        }
    }
    (false, last)
}

async fn read_events(mut bytes: Body, cache: &MapCache, silence_ms: u64) -> (bool, StreamError) {
    let (mut reader, mut told) = (EventReader::default(), false);
    let silence = Duration::from_millis(silence_ms);
    // Comments that a proxy or a server sends to keep the connection do not say that the map is current.
    let mut last_event = tokio::time::Instant::now();
    loop {
        let chunk = match tokio::time::timeout_at(last_event + silence, bytes.next()).await {
            Err(_) => return (told, StreamError::Silent(silence_ms)),
            Ok(None) => return (told, StreamError::Ended),
            Ok(Some(Err(error))) => return (told, StreamError::Broken(error)),
            Ok(Some(Ok(chunk))) => chunk,
        };
        let events = match reader.push(&chunk) {
            Ok(events) => events,
            Err(error) => return (told, StreamError::Malformed(error.to_string())),
        };
        for event in events {
            if let Err(error) = take_event(&event, cache) {
                return (told, StreamError::Malformed(format!("{}: {error}", event.name)));
            }
            told = true;
            last_event = tokio::time::Instant::now();
        }
    }
}

fn take_event(event: &Event, cache: &MapCache) -> Result<(), serde_json::Error> {
    let revision = match event.name.as_str() {
        "change" => {
            let event = serde_json::from_str::<WatchEvent>(&event.data)?;
            cache.apply(&event);
            event.revision
        }
        "snapshot" => {
            let map = serde_json::from_str::<ShardMap>(&event.data)?;
            let revision = map.revision;
            cache.install(map);
            revision
        }
        "bookmark" => {
            let revision = serde_json::from_str::<WatchBookmark>(&event.data)?.revision;
            cache.bookmark(revision);
            revision
        }
        // A newer control node may say more.
        _ => return Ok(()),
    };
    // A control node that is behind says nothing of what we hold.
    if cache.version().is_some_and(|held| held.revision <= revision) {
        cache.note_current(Way::Stream);
    }
    Ok(())
}
