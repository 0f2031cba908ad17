//! Plans and the policy that they follow.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use ruvector_cluster_client::ids::Revision;
use ruvector_cluster_client::wire::{Plan, RebalancePolicy, RebalanceRequest};
use serde_json::json;

use super::answer;
use super::app::App;
use super::error::ApiError;
use super::extract::{NoBody, Params, Write};
use crate::metadata::{Answer, Command, MAX_BATCH, NewMigration};
use crate::placement::{self, Extent, PlanOptions};

/// `POST /v1/rebalance`: the plan, and with it, unless it is a dry run, the migrations that carry it out, queued.
///
/// A dry run tells the whole way. What is queued is one move a shard, since a shard has one migration at a time, and at most
/// [`MAX_BATCH`] at once; the answer has those that were queued, and what is left is planned by the next request. A repeat
/// is told the same plan: it is remembered with the outcome.
pub(super) async fn rebalance(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<RebalanceRequest>,
) -> answer::Answer {
    params.only(&[])?;
    let state = app.read_linearizable().await?;
    if let Some(earlier) = App::earlier(&state, write.key.as_ref())? {
        return queued(earlier, None);
    }
    let RebalanceRequest { dry_run, max_moves, strategy } = write.body;
    let soft = app.soft().ok_or_else(ApiError::no_leader)?;
    let policy = state.policy();
    let planned_from = state.clone();
    let whole = PlanOptions {
        max_moves,
        strategy: strategy.unwrap_or(policy.strategy),
        ..PlanOptions::for_operator(app.clock.wall_ms(), policy)
    };
    let plan = async |options: PlanOptions| {
        app.plan(move || placement::plan(&planned_from, &soft, planned_from.policy(), &options)).await
    };
    if dry_run {
        return answer::ok(state.revision(), &plan(whole).await?);
    }
    let most = u32::try_from(MAX_BATCH).unwrap_or(u32::MAX);
    let max_moves = Some(max_moves.map_or(most, |max| max.min(most)));
    let options = PlanOptions { extent: Extent::FirstOfEachShard, max_moves, ..whole };
    let plan: Plan = plan(options).await?;
    let migrations = plan.moves.iter().map(|planned| NewMigration {
        shard: planned.shard,
        kind: Some(planned.kind),
        from: planned.from.clone(),
        to: planned.to.clone(),
        if_epoch: state.shard(planned.shard).map(|row| row.epoch),
        reason: planned.reason.clone(),
    });
    let command = Command::Migrate {
        migrations: migrations.collect(),
        plan: write.key.is_some().then(|| plan.clone()),
    };
    queued(app.propose(write.key, command).await?, Some(plan))
}

/// The plan with those of its moves that were queued. `planned` is asked where none is remembered.
fn queued((revision, answer): (Revision, Answer), planned: Option<Plan>) -> answer::Answer {
    let Answer::Migrations { started, plan } = answer else {
        return Err(ApiError::unexpected("a rebalance"));
    };
    let mut plan = plan.or(planned).ok_or_else(|| ApiError::unexpected("a rebalance"))?;
    let moves = plan.moves.into_iter().zip(&started);
    plan.moves = moves.filter(|(_, started)| started.is_ok()).map(|(planned, _)| planned).collect();
    answer::json(StatusCode::ACCEPTED, revision, &plan)
}

/// `GET /v1/rebalance/policy`.
pub(super) async fn policy(State(app): State<Arc<App>>, params: Params) -> answer::Answer {
    params.only(&["consistency"])?;
    let state = app.read(&params).await?;
    answer::tagged(state.policy_revision(), answer::ok(state.revision(), state.policy()))
}

/// `PUT /v1/rebalance/policy`.
pub(super) async fn set_policy(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<RebalancePolicy>,
) -> answer::Answer {
    params.only(&[])?;
    let command = Command::SetPolicy { policy: write.body.clone(), if_match: write.if_match };
    let (revision, Answer::Policy { revision: of_policy }) = app.propose(write.key, command).await? else {
        return Err(ApiError::unexpected("a policy"));
    };
    answer::tagged(of_policy, answer::ok(revision, &write.body))
}

/// `POST /v1/rebalance/pause`.
pub(super) async fn pause(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<NoBody>,
) -> answer::Answer {
    set_paused(&app, &params, write, true).await
}

/// `POST /v1/rebalance/resume`.
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<NoBody>,
) -> answer::Answer {
    set_paused(&app, &params, write, false).await
}

async fn set_paused(app: &App, params: &Params, write: Write<NoBody>, paused: bool) -> answer::Answer {
    params.only(&[])?;
    let (revision, _) = app.propose(write.key, Command::SetPaused { paused }).await?;
    answer::ok(revision, &json!({ "paused": paused, "revision": revision }))
}
