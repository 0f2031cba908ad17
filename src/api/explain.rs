//! Why a shard is where it is.

use std::sync::Arc;

use axum::extract::{Path, State};

use super::answer;
use super::app::App;
use super::error::ApiError;
use super::extract::{Consistency, Params, shard_id};
use super::shards::no_shard;
use crate::coordinator::{self, Now};

/// `GET /v1/shards/{id}/explain`.
///
/// What data nodes told is the leader's: a linearizable answer has it, a stale one elsewhere says that it has not.
pub(super) async fn explain(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
) -> answer::Answer {
    params.only(&["consistency"])?;
    let id = shard_id(&id)?;
    let state = app.read(&params).await?;
    let soft = app.soft();
    if soft.is_none() && params.consistency()? == Consistency::Linearizable {
        return Err(ApiError::no_leader());
    }
    let now = Now { boot_ms: app.clock.boot_ms(), wall_ms: app.clock.wall_ms() };
    let from = state.clone();
    let explained = app.plan(move || coordinator::explain(&from, soft.as_deref(), now, id)).await?;
    let explained = explained.ok_or_else(|| no_shard(&state, id))?;
    answer::ok(state.revision(), &explained)
}
