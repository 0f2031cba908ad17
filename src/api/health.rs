//! How the cluster does, and how this process does.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_client::wire::{Health, HealthReason, HealthStatus, Member, MemberRole};
use ruvector_cluster_raft::{Phase, REMOVED};
use serde_json::json;
use tokio::time::Instant;

use super::answer::{self, Answer};
use super::app::App;
use super::error::{ApiError, Code};
use super::extract::{Consistency, Params};
use super::members;
use crate::metadata::{Metadata, NodeRow};
use crate::metrics::Levels;
use crate::soft::HeardOf;

/// A voter that the leader has not heard of for so long counts as gone. Many heartbeats.
const VOTER_GONE_MS: u64 = 1_500;

/// Between two looks while waiting: what is waited for is seldom a change of the state alone.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A ready control node is at most so many log entries behind what it knows to be committed.
const READY_LAG_ENTRIES: u64 = 1_000;

/// `GET /v1/health`: 200 whatever the status; without a leader that is `unavailable`.
pub(super) async fn health(State(app): State<Arc<App>>, params: Params) -> Answer {
    params.only(&["wait_for", "wait_ms", "consistency"])?;
    let wanted = match params.text("wait_for").filter(|w| !w.is_empty()) {
        None => None,
        Some("healthy") => Some(HealthStatus::Healthy),
        Some("degraded") => Some(HealthStatus::Degraded),
        Some(other) => {
            return Err(ApiError::malformed(format!(
                "query parameter `wait_for` is `healthy` or `degraded`, not {other:?}"
            )));
        }
    };
    let (wait, consistency) = (params.wait()?, params.consistency()?);
    let _permit = app.limits.stream()?;
    let deadline = Instant::now() + wait;
    loop {
        let (revision, health) = look(&app, consistency).await?;
        let met = wanted.is_none_or(|wanted| health.status <= wanted);
        if met || Instant::now() >= deadline || app.shutdown.is_cancelled() {
            return answer::ok(revision, &health);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(
    app: &Arc<App>,
    consistency: Consistency,
) -> Result<(ruvector_cluster_client::ids::Revision, Health), ApiError> {
    if consistency == Consistency::Linearizable {
        let answered = async {
            app.node.read_index().await?;
            members::as_leader_knows(app).await
        };
        let members = match answered.await {
            Ok(members) => members,
            Err(error) => {
                let state = app.published();
                let mut health = assess(&state, None, &[], &app.coordinator.heard_of());
                health.status = HealthStatus::Unavailable;
                let detail = format!("the control cluster does not answer: {error}");
                let code = if is_removed(app) { "removed" } else { "no_leader" };
                health.reasons.insert(0, reason(code, detail));
                return Ok((state.revision(), health));
            }
        };
        let state = app.published();
        let health = assess(&state, leader(app), &members, &app.coordinator.heard_of());
        return Ok((state.revision(), health));
    }
    let state = app.published();
    let mut health = assess(&state, leader(app), &members::members(app), &app.coordinator.heard_of());
    if is_removed(app) {
        health.status = HealthStatus::Unavailable;
        health.reasons.insert(0, reason("removed", REMOVED.to_owned()));
    }
    Ok((state.revision(), health))
}

fn is_removed(app: &App) -> bool {
    *app.node.removed().borrow()
}

fn leader(app: &App) -> Option<NodeId> {
    app.node.leadership().borrow().leader.as_ref().and_then(|leader| NodeId::new(&leader.name).ok())
}

fn reason(code: &str, detail: String) -> HealthReason {
    HealthReason { code: code.to_owned(), detail }
}

/// What the state, the voters' last contacts and this control node's gossip say. Pure.
fn assess(state: &Metadata, leader: Option<NodeId>, members: &[Member], heard_of: &HeardOf) -> Health {
    let shards = state.shard_counts();
    let down: Vec<&NodeRow> = state.nodes().filter(|row| row.is_down()).collect();
    let total_nodes = state.num_nodes() as u64;
    let healthy_nodes = total_nodes.saturating_sub(down.len() as u64);
    let names = |rows: &[&NodeRow]| rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>().join(", ");
    let heard: Vec<&NodeRow> = down.iter().copied().filter(|row| heard_of.has(row)).collect();
    let voters: Vec<&Member> = members.iter().filter(|m| m.role == MemberRole::Voter).collect();
    let is_gone = |m: &&&Member| {
        leader.as_ref() != Some(&m.id) && m.last_contact_ms.is_some_and(|ms| ms > VOTER_GONE_MS)
    };
    let gone: Vec<&str> = voters.iter().filter(is_gone).map(|m| m.id.as_str()).collect();
    let spare = (voters.len().saturating_sub(1)) / 2;
    let mut reasons = Vec::new();
    let mut status = HealthStatus::Healthy;
    let mut add = |worst: HealthStatus, code: &str, detail: String| {
        status = status.max(worst);
        reasons.push(reason(code, detail));
    };
    if state.founded().is_none() {
        add(HealthStatus::Unavailable, "not_founded", "the cluster has not been founded yet".into());
    } else if leader.is_none() {
        add(HealthStatus::Unavailable, "no_leader", "no control node is known to lead".into());
    }
    if let Some(restored) = state.restored().filter(|restored| restored.suspended) {
        let detail = format!(
            "restored from a backup of revision {}: nothing is served until the data nodes are back ({total_nodes} are known) \
             and POST /v1/cluster/resume says so; `{{\"dry_run\": true}}` tells who is missing",
            restored.backup_revision
        );
        add(HealthStatus::Unavailable, "suspended", detail);
    }
    if shards.unavailable > 0 {
        let detail = format!("{} shards have no in-sync copy on an alive node", shards.unavailable);
        add(HealthStatus::Unavailable, "shards_unavailable", detail);
    }
    if shards.unassigned > 0 {
        let detail = format!("{} shards have no opened primary yet", shards.unassigned);
        add(HealthStatus::Unavailable, "shards_unassigned", detail);
    }
    if shards.degraded > 0 {
        let detail =
            format!("{} shards have fewer in-sync copies on alive nodes than wanted", shards.degraded);
        add(HealthStatus::Degraded, "shards_degraded", detail);
    }
    if !down.is_empty() {
        add(HealthStatus::Degraded, "nodes_down", format!("data nodes down: {}", names(&down)));
    }
    if !heard.is_empty() {
        let detail = format!(
            "data nodes that this cluster's leader does not hear while others do: {}; their copies are not rebuilt meanwhile; \
             drain or delete them to rebuild",
            names(&heard)
        );
        add(HealthStatus::Degraded, "heard_by_others", detail);
    }
    if !gone.is_empty() {
        let detail = format!("control nodes that the leader does not hear: {}", gone.join(", "));
        add(HealthStatus::Degraded, "control_nodes_gone", detail);
    }
    let failures_tolerated = u64::try_from(spare.saturating_sub(gone.len())).unwrap_or(0);
    Health { status, reasons, healthy_nodes, total_nodes, shards, leader, failures_tolerated }
}

/// `GET /livez`: this process works, whatever the cluster does.
pub(super) async fn livez(State(app): State<Arc<App>>) -> Answer {
    answer::ok(app.published().revision(), &json!({ "status": "ok" }))
}

/// `GET /readyz`: this control node knows a leader and is not far behind.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Answer {
    let unready = |detail: String| Err(ApiError::new(Code::Unready, detail));
    if app.shutdown.is_cancelled() {
        return unready("this control node is stopping".into());
    }
    if is_removed(&app) {
        return Err(ApiError::removed());
    }
    let state = app.published();
    if state.founded().is_none() {
        let why = match &*app.node.phase().borrow() {
            Phase::Waiting { why } => format!(": {why}"),
            Phase::Running => String::new(),
        };
        return unready(format!("the cluster has not been founded yet{why}"));
    }
    let status = app.node.status();
    let Some(leader) = app.node.leadership().borrow().leader.clone() else {
        return unready("no leader is known".into());
    };
    let lag = status.committed.unwrap_or(0).saturating_sub(status.applied);
    if lag > READY_LAG_ENTRIES {
        return unready(format!("{lag} log entries are committed and not applied here yet"));
    }
    answer::ok(state.revision(), &json!({ "status": "ready", "leader": leader.name, "lag_entries": lag }))
}

/// `GET /version`.
pub(super) async fn version(State(app): State<Arc<App>>) -> Answer {
    let body = json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "wire_version": ruvector_cluster_raft::transport::WIRE_VERSION,
        "command_version": crate::metadata::COMMAND_VERSION,
    });
    answer::ok(app.published().revision(), &body)
}

/// `GET /metrics`.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let text = app.metrics.encode(&levels(&app)).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
    let mut response = Body::from(text).into_response();
    let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

fn levels(app: &App) -> Levels {
    let (state, status) = (app.published(), app.node.status());
    let nodes_down = state.nodes().filter(|row| row.is_down()).count() as u64;
    let heard_of = app.coordinator.heard_of();
    let heard_by_others = state.nodes().filter(|row| row.is_down() && heard_of.has(row)).count() as u64;
    let gossip = app.gossip.as_ref().map(|seen| {
        let seen = seen.borrow();
        (seen.control.len() as u64, seen.data.len() as u64)
    });
    let (gossip_control, gossip_data) = gossip.unwrap_or_default();
    Levels {
        term: app.node.leadership().borrow().term,
        leads: app.leads(),
        committed: status.committed.unwrap_or(0),
        applied: status.applied,
        log_syncs: status.written.syncs,
        log_entries: status.written.entries,
        revision: state.revision().0,
        members: app.node.members().len() as u64,
        nodes_alive: (state.num_nodes() as u64).saturating_sub(nodes_down),
        nodes_down,
        heard_by_others,
        gossip_control,
        gossip_data,
        shards: state.shard_counts(),
        active_migrations: state.active_migrations().count() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(name: &str, last_contact_ms: Option<u64>) -> Member {
        Member {
            id: NodeId::new(name).unwrap(),
            raft_id: 1,
            role: MemberRole::Voter,
            client_url: String::new(),
            peer_url: String::new(),
            matched: None,
            last_contact_ms,
        }
    }

    #[test]
    fn a_voter_that_is_not_heard_leaves_fewer_failures_to_tolerate() {
        let leader = || Some(NodeId::new("a").unwrap());
        let all = [voter("a", None), voter("b", Some(20)), voter("c", Some(30))];
        assert_eq!(assess(&Metadata::new(), leader(), &all, &HeardOf::default()).failures_tolerated, 1);
        let less = [voter("a", None), voter("b", Some(20)), voter("c", Some(60_000))];
        let health = assess(&Metadata::new(), leader(), &less, &HeardOf::default());
        assert_eq!(health.failures_tolerated, 0);
        assert!(health.reasons.iter().any(|r| r.code == "control_nodes_gone" && r.detail.contains('c')));
    }

    #[test]
    fn before_it_is_founded_the_cluster_is_unavailable() {
        let health = assess(&Metadata::new(), None, &[], &HeardOf::default());
        assert_eq!(health.status, HealthStatus::Unavailable);
        assert_eq!(health.reasons[0].code, "not_founded");
    }
}
