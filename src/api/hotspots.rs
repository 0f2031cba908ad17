//! Hot spots: what carries more load than its share, and what is done about it.

use std::sync::Arc;

use axum::extract::State;

use super::answer;
use super::app::App;
use super::error::ApiError;
use super::extract::Params;
use crate::placement;
use crate::soft::Now;

/// `GET /v1/hotspots`. Only the leader hears of load, so there is no stale answer.
pub(super) async fn hotspots(State(app): State<Arc<App>>, params: Params) -> answer::Answer {
    params.only(&[])?;
    let state = app.read_linearizable().await?;
    let soft = app.soft().ok_or_else(ApiError::no_leader)?;
    let now = Now { boot_ms: app.clock.boot_ms(), wall_ms: app.clock.wall_ms() };
    let from = state.clone();
    let hotspots = app.plan(move || placement::hotspots(&from, &soft, now)).await?;
    answer::ok(state.revision(), &hotspots)
}
