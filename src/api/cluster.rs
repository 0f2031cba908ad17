//! The control cluster: who takes part, who leads, what happened.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use ruvector_cluster_client::hashing;
use ruvector_cluster_client::ids::Revision;
use ruvector_cluster_client::wire::ClusterView;

use super::answer::{self, Answer, Page};
use super::app::{App, founded};
use super::error::{ApiError, Code};
use super::extract::{Consistency, Params};
use super::members;
use crate::metadata::{Metadata, view};

/// `GET /v1/cluster`.
pub(super) async fn cluster(State(app): State<Arc<App>>, params: Params) -> Answer {
    params.only(&["consistency", "state_hash"])?;
    let with_hash = params.switch("state_hash")?;
    let state = app.read(&params).await?;
    let founded = founded(&state)?;
    let members = match params.consistency()? {
        Consistency::Linearizable => members::as_leader_knows(&app).await?,
        Consistency::Stale => members::members(&app),
    };
    let leadership = app.node.leadership().borrow().clone();
    let view = ClusterView {
        cluster_id: founded.cluster_id.clone(),
        generation: founded.generation,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        leader: leadership.leader.as_ref().and_then(members::leader_info),
        term: leadership.term,
        revision: state.revision(),
        members,
        num_shards: founded.settings.num_shards,
        replication_factor: founded.settings.replication_factor,
        lease_ms: founded.settings.lease_ms,
        suspended: state.is_suspended(),
        state_hash: with_hash.then(|| state_hash(&state)),
    };
    answer::ok(state.revision(), &view)
}

/// XXH64 over what is replicated, in hexadecimal: equal on all control nodes at equal revision. What goes on without a
/// revision (log time, remembered requests) is left out.
fn state_hash(state: &Metadata) -> String {
    let mut text = String::new();
    for (key, value) in state.to_rows() {
        if key == b"head" || key.starts_with(b"k/") {
            continue;
        }
        for part in [key, value] {
            text.push_str(&String::from_utf8_lossy(&part));
            text.push('\n');
        }
        // Folding as it goes keeps the text short.
        text = format!("{:016x}", hashing::hash_of_key(&text));
    }
    text
}

/// `GET /v1/events`. The cursor is the last event's place, `revision.seq`.
pub(super) async fn events(State(app): State<Arc<App>>, params: Params) -> Answer {
    params.only(&["since", "limit", "cursor", "consistency"])?;
    let page = Page::of(&params)?;
    let after = page.after.as_deref().map(event_cursor).transpose()?;
    let since = match after {
        // The events of the cursor's own revision that follow it are wanted too.
        Some((revision, _)) => Revision(revision.0.saturating_sub(1)),
        None => Revision(params.integer("since")?.unwrap_or(0)),
    };
    let state = app.read(&params).await?;
    let kept_from = state.events_compacted_below();
    if since < kept_from && (since > Revision(0) || after.is_some()) {
        return Err(ApiError::new(
            Code::Compacted,
            format!("events are kept from revision {kept_from} on, not from {since}"),
        ));
    }
    let rows = state.events(since, usize::MAX);
    let rows = rows.filter(|row| after.is_none_or(|after| (row.revision, row.seq) > after));
    let events = rows.map(view::event);
    page.list(state.revision(), "events", events, |event| format!("{}.{}", event.revision, event.seq))
}

fn event_cursor(text: &str) -> Result<(Revision, u32), ApiError> {
    let parsed =
        text.split_once('.').and_then(|(r, seq)| Some((Revision(r.parse().ok()?), seq.parse().ok()?)));
    parsed.ok_or_else(|| ApiError::malformed("query parameter `cursor` is not one that this list gave"))
}

/// `GET /v1/hello`: who this control node is, for others that look for a cluster to found or join.
pub(super) async fn hello(State(app): State<Arc<App>>, params: Params) -> Result<Response, ApiError> {
    params.only(&[])?;
    Ok(answer::json_bytes(StatusCode::OK, app.published().revision(), app.node.hello()))
}
