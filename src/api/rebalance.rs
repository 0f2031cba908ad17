//! Plans and the policy that they follow.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use ruvector_cluster_client::wire::{Plan, RebalancePolicy, RebalanceRequest};
use serde_json::json;

use super::answer::{self, Answer};
use super::app::App;
use super::error::ApiError;
use super::extract::{NoBody, Params, Write};
use crate::metadata::{Command, MAX_BATCH, NewMigration};
use crate::placement::{self, PlanOptions};

/// `POST /v1/rebalance`: the plan, and with it, unless it is a dry run, the migrations that carry it out, queued.
///
/// A plan of more moves than a command may have takes several; the key is that of the first. To repeat the others is
/// harmless, since a shard has one migration at a time.
pub(super) async fn rebalance(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<RebalanceRequest>,
) -> Answer {
    params.only(&[])?;
    let state = app.read_linearizable().await?;
    let soft = app.soft().ok_or_else(ApiError::no_leader)?;
    let policy = state.policy();
    let options = PlanOptions {
        max_moves: write.body.max_moves,
        strategy: write.body.strategy.unwrap_or(policy.strategy),
        ..PlanOptions::for_operator(app.clock.wall_ms(), policy)
    };
    let plan: Plan = placement::plan(&state, &soft, policy, &options);
    if write.body.dry_run {
        return answer::ok(state.revision(), &plan);
    }
    let mut key = write.key;
    let mut revision = state.revision();
    for moves in plan.moves.chunks(MAX_BATCH) {
        let migrations = moves.iter().map(|planned| NewMigration {
            shard: planned.shard,
            kind: Some(planned.kind),
            from: planned.from.clone(),
            to: planned.to.clone(),
            if_epoch: state.shard(planned.shard).map(|row| row.epoch),
            reason: planned.reason.clone(),
        });
        let command = Command::Migrate { migrations: migrations.collect() };
        (revision, _) = app.propose(key.take(), command).await?;
    }
    answer::json(StatusCode::ACCEPTED, revision, &plan)
}

/// `GET /v1/rebalance/policy`.
pub(super) async fn policy(State(app): State<Arc<App>>, params: Params) -> Answer {
    params.only(&["consistency"])?;
    let state = app.read(&params).await?;
    answer::tagged(state.policy_revision(), answer::ok(state.revision(), state.policy()))
}

/// `PUT /v1/rebalance/policy`.
pub(super) async fn set_policy(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<RebalancePolicy>,
) -> Answer {
    params.only(&[])?;
    let command = Command::SetPolicy { policy: write.body, if_match: write.if_match };
    let (revision, _) = app.propose(write.key, command).await?;
    let state = app.published();
    answer::tagged(state.policy_revision(), answer::ok(revision, state.policy()))
}

/// `POST /v1/rebalance/pause`.
pub(super) async fn pause(State(app): State<Arc<App>>, params: Params, write: Write<NoBody>) -> Answer {
    set_paused(&app, &params, write, true).await
}

/// `POST /v1/rebalance/resume`.
pub(super) async fn resume(State(app): State<Arc<App>>, params: Params, write: Write<NoBody>) -> Answer {
    set_paused(&app, &params, write, false).await
}

async fn set_paused(app: &App, params: &Params, write: Write<NoBody>, paused: bool) -> Answer {
    params.only(&[])?;
    let (revision, _) = app.propose(write.key, Command::SetPaused { paused }).await?;
    answer::ok(revision, &json!({ "paused": paused, "revision": revision }))
}
