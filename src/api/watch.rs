//! `GET /v1/watch`: every change in order, without gap or duplicate; as a stream, or as a long poll for whom no stream reaches.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use http::{HeaderMap, StatusCode, header};
use ruvector_cluster_client::ids::Revision;
use ruvector_cluster_client::wire::WatchBookmark;
use tokio::sync::watch;

use super::answer::{self, CLUSTER_REVISION};
use super::app::{App, Permit, founded};
use super::error::{ApiError, Code};
use super::extract::Params;
use crate::machine::{ChangeLog, Compacted};
use crate::metadata::Metadata;

/// While nothing happens, the watcher is told so this often; well below what clients take for a dead stream.
const BOOKMARK_EVERY: Duration = Duration::from_secs(5);

/// Events taken from the log at once.
const BATCH: usize = 256;

/// A long poll's answer takes no further event from this length on, in bytes.
const MAX_POLL_BYTES: usize = 1 << 20;

/// `GET /v1/watch`.
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if wants_json(&headers) {
        return poll(app, params).await;
    }
    params.only(&["from", "consistency"])?;
    let permit = app.limits.stream()?;
    // A browser that reconnects repeats its first URL, `from` included, and says in the header how far it came.
    let from = last_event_id(&headers)?.or(params.integer("from")?).map(Revision);
    let mut queue = VecDeque::new();
    let told = match from {
        Some(from) => {
            founded(&app.published())?;
            app.changes.after(from, from, 1).map_err(|c| compacted(from, c))?;
            from
        }
        None => {
            let state = app.read(&params).await?;
            let map = app.map_json(&state)?;
            let map = std::str::from_utf8(&map).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
            queue.push_back(Event::default().event("snapshot").id(state.revision().to_string()).data(map));
            state.revision()
        }
    };
    let state = app.state.clone();
    let watching = Watching { app, state, told, queue, _permit: permit };
    let mut response = Sse::new(events(watching)).keep_alive(KeepAlive::default()).into_response();
    response.headers_mut().insert(CLUSTER_REVISION, told.0.into());
    Ok(response)
}

/// Whoever accepts a stream, if only by not saying otherwise, gets one.
fn wants_json(headers: &HeaderMap) -> bool {
    let (mut json, mut stream) = (false, false);
    for accept in headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
        json |= accept.contains("application/json");
        stream |= accept.contains("text/event-stream");
    }
    json && !stream
}

/// What changed after `from`: at once where something did, else once something does or after the wait.
async fn poll(app: Arc<App>, params: Params) -> Result<Response, ApiError> {
    params.only(&["from", "wait_ms", "consistency"])?;
    params.consistency()?;
    let from = params.integer("from")?.map(Revision).ok_or_else(|| {
        ApiError::malformed(
            "query parameter `from` is missing: it is the revision of the map that you hold, which GET /v1/map tells",
        )
    })?;
    let wait = params.wait()?;
    let _permit = app.limits.stream()?;
    founded(&app.published())?;
    let is_news =
        |state: &Metadata| app.changes.after(from, state.revision(), 1).map_or(true, |news| !news.is_empty());
    let state = app.wait_until(wait, is_news).await;
    let (revision, body) =
        changes_after(&app.changes, from, state.revision()).map_err(|c| compacted(from, c))?;
    Ok(answer::json_bytes(StatusCode::OK, revision, body.into()))
}

/// A [`WatchResponse`](ruvector_cluster_client::wire::WatchResponse) of what happened after `from` up to `published`, or up to where
/// it became too long; and its revision. Events are written once, for all who ask.
fn changes_after(
    changes: &ChangeLog,
    from: Revision,
    published: Revision,
) -> Result<(Revision, Vec<u8>), Compacted> {
    let logged = changes.after(from, published, BATCH)?;
    let mut events = String::new();
    let mut taken = 0;
    for logged in &logged {
        if events.len() >= MAX_POLL_BYTES {
            break;
        }
        if taken > 0 {
            events.push(',');
        }
        events.push_str(logged.json());
        taken += 1;
    }
    // Where there may be more, the next question begins behind the last event that was told.
    let is_all = taken == logged.len() && logged.len() < BATCH;
    let last = logged.get(..taken).and_then(<[_]>::last).map(|logged| logged.revision());
    let told = last.filter(|_| !is_all).unwrap_or(published);
    Ok((told, format!(r#"{{"revision":{told},"events":[{events}]}}"#).into_bytes()))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let id = id.to_str().ok().and_then(|id| id.parse().ok());
    id.map(Some).ok_or_else(|| ApiError::malformed("header `Last-Event-ID` is not a revision"))
}

fn compacted(from: Revision, compacted: Compacted) -> ApiError {
    ApiError::new(
        Code::Compacted,
        format!(
            "changes are kept from revision {} on, not from {from}: read the map again",
            compacted.known_since
        ),
    )
}

struct Watching {
    app: Arc<App>,
    state: watch::Receiver<Arc<Metadata>>,
    told: Revision,
    queue: VecDeque<Event>,
    _permit: Permit,
}

fn events(watching: Watching) -> impl Stream<Item = Result<Event, Infallible>> {
    futures::stream::unfold(watching, |mut watching| async move {
        let event = watching.next().await?;
        Some((Ok(event), watching))
    })
}

impl Watching {
    /// The next event; None ends the stream: we stop, or the watcher fell behind what is kept and asks again to be told so.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            let published = self.state.borrow_and_update().revision();
            if published > self.told {
                let logged = self.app.changes.after(self.told, published, BATCH).ok()?;
                // Revisions that changed nothing to tell of pass without an event.
                self.told = if logged.len() < BATCH { published } else { logged.last()?.revision() };
                self.queue.extend(logged.iter().map(|logged| {
                    Event::default().event("change").id(logged.revision().to_string()).data(logged.json())
                }));
                continue;
            }
            tokio::select! {
                changed = self.state.changed() => changed.ok()?,
                () = self.app.shutdown.cancelled() => return None,
                () = tokio::time::sleep(BOOKMARK_EVERY) => {
                    if published == self.told {
                        return self.bookmark();
                    }
                }
            }
        }
    }

    fn bookmark(&self) -> Option<Event> {
        let event = Event::default().event("bookmark").id(self.told.to_string());
        event.json_data(WatchBookmark { revision: self.told }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_answer_unless_json_alone_is_accepted() {
        for (accept, json) in [
            (None, false),
            (Some("*/*"), false),
            (Some("text/event-stream"), false),
            (Some("application/json"), true),
            (Some("application/json, text/plain;q=0.5"), true),
            (Some("application/json, text/event-stream"), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(wants_json(&headers), json, "{accept:?}");
        }
    }
}
