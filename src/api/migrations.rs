//! Migrations: started, listed, waited for, cancelled.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use http::StatusCode;
use ruvector_cluster_client::ids::{MigrationId, NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::{MigrateRequest, Phase};

use super::answer::{self, Page};
use super::app::App;
use super::error::{ApiError, Code};
use super::extract::{Consistency, NoBody, Params, Write, shard_id};
use super::forward;
use super::soft;
use crate::metadata::{Answer, Command, Metadata, NewMigration, Rejection, RejectionCode};
use crate::placement;
use crate::soft::Soft;

/// `POST /v1/migrations`: answers the migration as it was queued, also to a repeated request, while its row is
/// kept.
pub(super) async fn start(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<MigrateRequest>,
) -> answer::Answer {
    params.only(&[])?;
    let MigrateRequest { shard, to, from, if_epoch } = write.body;
    let reason = "asked for by an operator".to_owned();
    let state = app.read_linearizable().await?;
    if App::earlier(&state, write.key.as_ref())?.is_none() {
        let soft = app.soft().ok_or_else(ApiError::no_leader)?;
        if let Some(rejection) = unfit(&state, &soft, app.clock.wall_ms(), shard, from.as_ref(), &to) {
            return app.refuse(write.key, rejection).await;
        }
    }
    let migration = NewMigration { shard, kind: None, from, to: Some(to), if_epoch, reason };
    let command = Command::Migrate { migrations: vec![migration], plan: None };
    let (revision, answer) = app.propose(write.key, command).await?;
    let started = match answer {
        Answer::Migrations { started, plan: _ } => started.into_iter().next(),
        _ => None,
    };
    let id = started.ok_or_else(|| ApiError::unexpected("a migration"))??;
    let state = app.published();
    let row = state.migration(id).ok_or_else(|| gone(id))?;
    let mut migration = soft::migration(row, None);
    migration.phase = Phase::Queued;
    migration.error = None;
    migration.updated_at = migration.created_at;
    migration.revision = revision;
    answer::json(StatusCode::ACCEPTED, revision, &migration)
}

/// Where the target has no room, or its rack has its share: what the replicated state doesn't know. The rest it refuses itself.
fn unfit(
    state: &Metadata,
    soft: &Soft,
    now_ms: u64,
    shard: ShardId,
    from: Option<&NodeId>,
    to: &NodeId,
) -> Option<Rejection> {
    let row = state.shard(shard).filter(|row| row.migration.is_none())?;
    let from = from.or(row.primary.as_ref())?;
    let detail = placement::objection(state, soft, state.policy(), now_ms, (row, from, to))?;
    Some(Rejection { code: RejectionCode::Invalid, detail })
}

fn gone(id: MigrationId) -> ApiError {
    ApiError::new(Code::Compacted, format!("migration {id} ended and is no longer kept"))
}

/// `GET /v1/migrations`.
pub(super) async fn list(State(app): State<Arc<App>>, params: Params) -> answer::Answer {
    params.only(&["limit", "cursor", "active", "shard", "consistency"])?;
    let page = Page::of(&params)?;
    let after: Option<u64> = page.after_parsed()?;
    let active = params.switch("active")?;
    let shard = params.text("shard").filter(|s| !s.is_empty()).map(shard_id).transpose()?;
    let state = app.read(&params).await?;
    let soft = app.soft();
    let from = MigrationId(after.map_or(0, |after| after.saturating_add(1)));
    let rows = state.migrations_from(from).filter(|row| !active || !row.phase.is_ended());
    let rows = rows.filter(|row| shard.is_none_or(|shard| row.shard == shard));
    let migrations = rows.map(|row| soft::migration(row, soft.as_deref()));
    page.list(state.revision(), "migrations", migrations, |migration| migration.id.to_string())
}

/// `GET /v1/migrations/{id}`: with `wait_ms` it waits for the end here, and asks the leader for what is soft afterwards.
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
) -> answer::Answer {
    params.only(&["wait_ms", "consistency"])?;
    let id = migration_id(&id)?;
    let wait = params.wait()?;
    let mut state = app.read(&params).await?;
    let mut row = state.migration(id).ok_or_else(|| not_found(id))?;
    if !row.phase.is_ended() && !wait.is_zero() {
        let _permit = app.limits.stream()?;
        state =
            app.wait_until(wait, |state| state.migration(id).is_none_or(|row| row.phase.is_ended())).await;
        row = state.migration(id).ok_or_else(|| gone(id))?;
    }
    let linearizable = params.consistency()? == Consistency::Linearizable;
    if linearizable && !row.phase.is_ended() && !app.leads() {
        return Ok(forward::ask_leader(&app, &format!("/v1/migrations/{id}")).await?.into_response());
    }
    let migration = soft::migration(row, app.soft().as_deref());
    answer::tagged(row.revision, answer::ok(state.revision(), &migration))
}

fn not_found(id: MigrationId) -> ApiError {
    ApiError::not_found(format!("migration {id}; ended ones are kept for the last 10,000"))
}

fn migration_id(text: &str) -> Result<MigrationId, ApiError> {
    let refuse = |_| ApiError::malformed(format!("a migration is an integer from 1, not {text:?}"));
    text.parse().map(MigrationId).map_err(refuse)
}

/// `DELETE /v1/migrations/{id}`.
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<NoBody>,
) -> answer::Answer {
    params.only(&[])?;
    let id = migration_id(&id)?;
    let command = Command::CancelMigration { migration: id, if_match: write.if_match };
    let (revision, _): (Revision, _) = app.propose(write.key, command).await?;
    let state = app.published();
    let row = state.migration(id).ok_or_else(|| gone(id))?;
    answer::json(StatusCode::ACCEPTED, revision, &soft::migration(row, app.soft().as_deref()))
}
