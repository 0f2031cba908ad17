//! What a data node is to hold: long poll, or a stream.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use http::{HeaderMap, header};
use ruvector_cluster_client::ids::{NodeId, Revision};
use ruvector_cluster_client::wire::AssignmentsResponse;
use tokio::sync::watch;

use super::answer;
use super::app::{App, Permit};
use super::error::{ApiError, Code};
use super::extract::{Params, node_id};
use crate::metadata::{Metadata, view};

/// `GET /v1/nodes/{id}/assignments`.
pub(super) async fn assignments(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.only(&["since", "wait_ms", "delta", "consistency"])?;
    let ask = Ask { node: node_id(&id)?, delta: params.switch("delta")? };
    let since = Revision(params.integer("since")?.unwrap_or(0));
    let wait = params.wait()?;
    let permit = app.limits.stream()?;
    let state = app.read(&params).await?;
    ask.answer(&state, since)?;
    if wants_stream(&headers) {
        return Ok(stream(app, ask, since, permit));
    }
    let state = app.wait_until(wait, |state| ask.is_news(state, since)).await;
    let body = ask.answer(&state, since)?;
    answer::ok(body.revision, &body)
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    accepts.is_some_and(|accepts| accepts.contains("text/event-stream"))
}

struct Ask {
    node: NodeId,
    delta: bool,
}

impl Ask {
    /// Whether an asker who knows `since` is to be answered at once. A state behind `since` has no news.
    fn is_news(&self, state: &Metadata, since: Revision) -> bool {
        match state.node(&self.node) {
            _ if since == Revision(0) => true,
            Some(row) => row.assignments_revision > since,
            None => state.revision() >= since,
        }
    }

    fn answer(&self, state: &Metadata, since: Revision) -> Result<AssignmentsResponse, ApiError> {
        let unknown =
            || ApiError::new(Code::NotFound, format!("there is no data node {}: register it", self.node));
        let delta = self.delta && since > Revision(0) && since <= state.revision();
        if !delta {
            return view::assignments(state, &self.node).ok_or_else(unknown);
        }
        match view::assignments_since(state, &self.node, since) {
            Ok(answer) => answer.ok_or_else(unknown),
            Err(compacted) => {
                Err(ApiError::new(Code::Compacted, format!("{compacted}: ask without `delta`")))
            }
        }
    }
}

struct Following {
    app: Arc<App>,
    ask: Ask,
    state: watch::Receiver<Arc<Metadata>>,
    told: Revision,
    first: bool,
    _permit: Permit,
}

fn stream(app: Arc<App>, ask: Ask, since: Revision, permit: Permit) -> Response {
    let state = app.state.clone();
    let following = Following { app, ask, state, told: since, first: true, _permit: permit };
    Sse::new(events(following)).keep_alive(KeepAlive::default()).into_response()
}

fn events(following: Following) -> impl Stream<Item = Result<Event, Infallible>> {
    futures::stream::unfold(following, |mut following| async move {
        let body = following.next().await?;
        let event = Event::default().event("assignments").id(body.revision.to_string());
        let event = event.json_data(&body).ok()?;
        Some((Ok(event), following))
    })
}

impl Following {
    /// The next answer; None ends the stream: the node was deleted, its changes are compacted, or we stop.
    async fn next(&mut self) -> Option<AssignmentsResponse> {
        loop {
            let state = self.state.borrow_and_update().clone();
            let behind = state.revision() < self.told;
            if !behind && (self.first || self.ask.is_news(&state, self.told)) {
                let body = self.ask.answer(&state, self.told).ok()?;
                self.first = false;
                self.told = body.revision;
                return Some(body);
            }
            tokio::select! {
                changed = self.state.changed() => changed.ok()?,
                () = self.app.shutdown.cancelled() => return None,
            }
        }
    }
}
