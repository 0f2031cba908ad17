//! Shards, routes and the map.

use std::sync::Arc;

use axum::extract::{Path, State};
use http::StatusCode;
use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::{ForcePrimaryRequest, RouteRequest, RouteResponse, ShardStatus};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;

use super::answer::{self, Page};
use super::app::App;
use super::error::{ApiError, Code};
use super::extract::{JsonBody, Params, Write, node_id, shard_id};
use super::soft;
use crate::metadata::{Answer, Command, Metadata, view};

/// Most keys of one `POST /v1/route`.
const MAX_KEYS: usize = 10_000;

/// `GET /v1/shards`.
pub(super) async fn list(State(app): State<Arc<App>>, params: Params) -> answer::Answer {
    params.only(&["limit", "cursor", "node", "status", "consistency"])?;
    let page = Page::of(&params)?;
    let after: Option<u32> = page.after_parsed()?;
    let node = params.text("node").filter(|n| !n.is_empty()).map(node_id).transpose()?;
    let status = params.text("status").filter(|s| !s.is_empty()).map(status_of).transpose()?;
    let state = app.read(&params).await?;
    let soft = app.soft();
    let after = after.map(ShardId);
    let ids: Box<dyn Iterator<Item = ShardId> + Send + '_> = match &node {
        Some(node) => Box::new(shards_of(&state, node)?),
        None => Box::new(state.shards().map(|row| row.id)),
    };
    let rows = ids.filter(|id| after.is_none_or(|after| *id > after)).filter_map(|id| state.shard(id));
    let rows = rows.filter(|row| status.is_none_or(|status| state.shard_status(row) == status));
    let shards = rows.map(|row| soft::shard(&state, row, soft.as_deref()));
    page.list(state.revision(), "shards", shards, |shard| shard.id.to_string())
}

fn shards_of<'s>(
    state: &'s Metadata,
    node: &'s NodeId,
) -> Result<impl Iterator<Item = ShardId> + 's, ApiError> {
    if state.node(node).is_none() {
        return Err(ApiError::not_found(format!("data node {node}")));
    }
    Ok(state.shards_of(node))
}

fn status_of(text: &str) -> Result<ShardStatus, ApiError> {
    let deserializer: StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
    ShardStatus::deserialize(deserializer)
        .map_err(|e| ApiError::malformed(format!("query parameter `status`: {e}")))
}

/// `GET /v1/shards/{id}`.
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
) -> answer::Answer {
    params.only(&["consistency"])?;
    let id = shard_id(&id)?;
    let state = app.read(&params).await?;
    let row = state.shard(id).ok_or_else(|| no_shard(&state, id))?;
    let shard = soft::shard_now(&app, &state, row);
    answer::tagged(row.revision, answer::ok(state.revision(), &shard))
}

pub(super) fn no_shard(state: &Metadata, id: ShardId) -> ApiError {
    ApiError::not_found(format!("shard {id}: there are {}, from 0", state.num_shards()))
}

/// `POST /v1/shards/{id}/force-primary`.
pub(super) async fn force_primary(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<ForcePrimaryRequest>,
) -> answer::Answer {
    params.only(&[])?;
    let id = shard_id(&id)?;
    if !write.body.accept_data_loss {
        return Err(ApiError::invalid(
            "forcing a primary gives up every write that only other copies have: say so with \"accept_data_loss\": true",
        ));
    }
    let command = Command::ForcePrimary { shard: id, node: write.body.node };
    let (revision, Answer::Shard { shard: row }) = app.propose(write.key, command).await? else {
        return Err(ApiError::unexpected("a forced primary"));
    };
    let shard = soft::shard_now(&app, &app.published(), &row);
    answer::tagged(row.revision, answer::ok(revision, &shard))
}

/// `GET /v1/route`.
pub(super) async fn route(State(app): State<Arc<App>>, params: Params) -> answer::Answer {
    params.only(&["key", "consistency"])?;
    let key = params.text("key").ok_or_else(|| ApiError::malformed("query parameter `key` is missing"))?;
    let state = app.read(&params).await?;
    let route = view::route(&state, key).ok_or_else(no_route)?;
    answer::ok(state.revision(), &route)
}

fn no_route() -> ApiError {
    ApiError::new(Code::Internal, "a key has no shard in a cluster that is founded")
}

/// `POST /v1/route`: reads, whatever its method.
pub(super) async fn route_many(
    State(app): State<Arc<App>>,
    params: Params,
    body: JsonBody<RouteRequest>,
) -> answer::Answer {
    params.only(&["consistency"])?;
    let keys = body.0.keys;
    if keys.len() > MAX_KEYS {
        return Err(ApiError::invalid(format!(
            "{} keys are too many for one request: at most {MAX_KEYS}",
            keys.len()
        )));
    }
    let state = app.read(&params).await?;
    let routes = keys.iter().map(|key| view::route(&state, key).ok_or_else(no_route));
    let routes = routes.collect::<Result<_, _>>()?;
    answer::ok(state.revision(), &RouteResponse { revision: state.revision(), routes })
}

/// `GET /v1/map`.
pub(super) async fn map(State(app): State<Arc<App>>, params: Params) -> answer::Answer {
    params.only(&["consistency"])?;
    let state = app.read(&params).await?;
    let json = app.map_json(&state)?;
    let revision = state.revision();
    answer::tagged(revision, Ok(answer::json_bytes(StatusCode::OK, revision, json)))
}
