//! What other data nodes ask.

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use ruvector_cluster_client::copies::Outcome;
use ruvector_cluster_client::ids::ShardId;
use ruvector_cluster_client::replica::wire::{Answer, Write};

use super::App;
use crate::peers::{Found, Message, ReadCall, SearchCall, WriteCall, WriteOutcomes};
use crate::shards;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/shards/{id}/messages", post(message))
        .route("/shards/{id}/writes", post(writes))
        .route("/shards/{id}/reads", post(reads))
        .route("/search", post(search))
}

async fn message(State(app): State<App>, Path(shard): Path<u32>, Json(body): Json<Message>) -> Json<Answer> {
    Json(app.shards.message(ShardId(shard), body.from, body.request).await)
}

async fn writes(
    State(app): State<App>,
    Path(shard): Path<u32>,
    Json(call): Json<WriteCall>,
) -> Json<WriteOutcomes> {
    Json(app.shards.write(ShardId(shard), call.epoch, call.writes).await)
}

async fn reads(
    State(app): State<App>,
    Path(shard): Path<u32>,
    Json(call): Json<ReadCall>,
) -> Json<Outcome<Write>> {
    Json(shards::read(&app.shards, ShardId(shard), call.epoch, call.key).await)
}

async fn search(State(app): State<App>, Json(call): Json<SearchCall>) -> Json<Vec<Outcome<Vec<Found>>>> {
    Json(app.gateway.search_here(call.shards, call.vector.into(), call.k).await)
}
