//! Data nodes: registration, heartbeats, reports, and what operators wish of them.

use std::sync::Arc;

use axum::extract::{Path, State};
use ruvector_cluster_client::ids::{NodeId, Revision, check_host_port};
use ruvector_cluster_client::wire::{
    DrainRequest, HeartbeatRequest, MaintenanceRequest, Node, PatchNodeRequest, RegisterRequest,
    RegisterResponse,
};
use serde_json::json;

use super::answer::{self, Page};
use super::app::{App, founded};
use super::drain;
use super::error::ApiError;
use super::extract::{NoBody, Params, Write, node_id};
use super::soft;
use crate::metadata::{Answer, Command, Register, RequestKey, Wish};

/// `GET /v1/nodes`.
pub(super) async fn list(State(app): State<Arc<App>>, params: Params) -> answer::Answer {
    params.only(&["limit", "cursor", "consistency"])?;
    let page = Page::of(&params)?;
    let after: Option<NodeId> = page.after_parsed()?;
    let state = app.read(&params).await?;
    let (soft, boot_ms) = (app.soft(), app.clock.boot_ms());
    let rows = state.nodes().filter(|row| after.as_ref().is_none_or(|after| row.id > *after));
    let nodes = rows.map(|row| soft::node(&state, row, soft.as_deref(), boot_ms));
    page.list(state.revision(), "nodes", nodes, |node| node.id.to_string())
}

/// `GET /v1/nodes/{id}`.
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
) -> answer::Answer {
    params.only(&["consistency"])?;
    let id = node_id(&id)?;
    let state = app.read(&params).await?;
    let row = state.node(&id).ok_or_else(|| ApiError::not_found(format!("data node {id}")))?;
    let node = soft::node_now(&app, &state, row);
    answer::tagged(row.revision, answer::ok(state.revision(), &node))
}

/// `PUT /v1/nodes/{id}`.
pub(super) async fn register(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<RegisterRequest>,
) -> answer::Answer {
    params.only(&[])?;
    let id = node_id(&id)?;
    let body = write.body;
    check_host_port(&body.addr).map_err(|why| ApiError::invalid(format!("field `addr`: {why}")))?;
    let known = app.published();
    let another_store = known.node(&id).is_some_and(|row| row.store_id != body.store_id);
    let lease_over = if another_store { app.coordinator.lease_over(&id) } else { None };
    let (fence, lease_over_of) = lease_over.unzip();
    let command = Command::Register(Register {
        node: id.clone(),
        addr: body.addr,
        store_id: body.store_id,
        zone: body.zone,
        rack: body.rack,
        labels: body.labels,
        capacity: body.capacity,
        capacity_bytes: body.capacity_bytes,
        accept_data_loss: body.accept_data_loss,
        lease_over_of,
        if_match: write.if_match,
    });
    let (revision, answer) = app.propose_as(format!("node:{id}"), write.key, fence, command).await?;
    let Answer::Registered { node: row } = answer else {
        return Err(ApiError::unexpected("a registration"));
    };
    app.coordinator.observe_registration(&row.id, row.incarnation);
    let state = app.published();
    let founded = founded(&state)?;
    let response = RegisterResponse {
        node: soft::node_now(&app, &state, &row),
        incarnation: row.incarnation,
        lease_ms: founded.settings.lease_ms,
        heartbeat_interval_ms: founded.settings.heartbeat_interval_ms,
        generation: founded.generation,
        revision,
        assigned_revision: row.assigned_revision,
    };
    answer::tagged(row.revision, answer::ok(revision, &response))
}

/// `PATCH /v1/nodes/{id}`.
pub(super) async fn patch(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<PatchNodeRequest>,
) -> answer::Answer {
    params.only(&[])?;
    let node = node_id(&id)?;
    let command = Command::PatchNode { node, if_match: write.if_match, patch: write.body };
    let committed = app.propose(write.key, command).await?;
    answer_node(&app, committed)
}

/// `DELETE /v1/nodes/{id}`.
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<NoBody>,
) -> answer::Answer {
    params.only(&[])?;
    let node = node_id(&id)?;
    let (revision, _) =
        app.propose(write.key, Command::DeleteNode { node, if_match: write.if_match }).await?;
    answer::ok(revision, &json!({ "revision": revision }))
}

/// `POST /v1/nodes/{id}/drain`: what it would take with `dry_run`.
pub(super) async fn drain(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<DrainRequest>,
) -> answer::Answer {
    params.only(&[])?;
    let node = node_id(&id)?;
    let state = app.read_linearizable().await?;
    if let Some(earlier) = App::earlier(&state, write.key.as_ref())? {
        return answer_node(&app, earlier);
    }
    let soft = app.soft().ok_or_else(ApiError::no_leader)?;
    let (planned_from, draining, now_ms) = (state.clone(), node.clone(), app.clock.wall_ms());
    let planned = app.plan(move || drain::plan(&planned_from, &soft, &draining, now_ms)).await?;
    if write.body.dry_run {
        return answer::ok(state.revision(), &planned?);
    }
    match planned {
        Ok(_) => wish(&app, node, write.if_match, write.key, Wish::Drain).await,
        Err(rejection) => answer_node(&app, app.refuse(write.key, rejection).await?),
    }
}

/// `DELETE /v1/nodes/{id}/drain`: the node takes copies again. One that is not drained is answered as it is.
pub(super) async fn end_drain(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<NoBody>,
) -> answer::Answer {
    params.only(&[])?;
    wish(&app, node_id(&id)?, write.if_match, write.key, Wish::EndDrain).await
}

/// `POST /v1/nodes/{id}/maintenance`.
pub(super) async fn maintain(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<MaintenanceRequest>,
) -> answer::Answer {
    params.only(&[])?;
    let asked = Wish::Maintain { duration_ms: write.body.duration_ms };
    wish(&app, node_id(&id)?, write.if_match, write.key, asked).await
}

/// `DELETE /v1/nodes/{id}/maintenance`: the node is back. One that is not in maintenance is answered as it is.
pub(super) async fn end_maintenance(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<NoBody>,
) -> answer::Answer {
    params.only(&[])?;
    wish(&app, node_id(&id)?, write.if_match, write.key, Wish::EndMaintenance).await
}

async fn wish(
    app: &App,
    node: NodeId,
    if_match: Option<Revision>,
    key: Option<RequestKey>,
    wish: Wish,
) -> answer::Answer {
    let committed = app.propose(key, Command::SetIntent { node, if_match, wish }).await?;
    answer_node(app, committed)
}

/// The node as it was after the change, also when the request is repeated later.
fn answer_node(app: &App, (revision, answer): (Revision, Answer)) -> answer::Answer {
    let Answer::Node { node: row } = answer else { return Err(ApiError::unexpected("a change of a node")) };
    let node: Node = soft::node_now(app, &app.published(), &row);
    answer::tagged(row.revision, answer::ok(revision, &node))
}

/// `POST /v1/nodes/{id}/heartbeat`.
pub(super) async fn heartbeat(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<HeartbeatRequest>,
) -> answer::Answer {
    params.only(&[])?;
    let node = node_id(&id)?;
    let response = app.coordinator.heartbeat(&node, &write.body).await?;
    answer::ok(response.revision, &response)
}
