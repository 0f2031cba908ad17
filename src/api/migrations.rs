//! Migrations: started, listed, waited for, cancelled.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use http::StatusCode;
use ruvector_cluster_client::ids::{MigrationId, Revision};
use ruvector_cluster_client::wire::{MigrateRequest, Phase};

use super::answer::{self, Page};
use super::app::App;
use super::error::{ApiError, Code};
use super::extract::{Consistency, NoBody, Params, Write, shard_id};
use super::forward;
use super::soft;
use crate::metadata::{Answer, Command, Metadata, NewMigration, Rejection, RejectionCode, ShardRow};
use crate::placement;

/// `POST /v1/migrations`: answers the migration as it was queued, also to a repeated request, while its row is
/// kept.
pub(super) async fn start(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<MigrateRequest>,
) -> answer::Answer {
    params.only(&[])?;
    let state = app.read_linearizable().await?;
    let rejection = match App::earlier(&state, write.key.as_ref())? {
        Some(_) => None,
        None => unfit(&app, &state, &write.body)?,
    };
    let (revision, answer) = match rejection {
        Some(rejection) => app.refuse(write.key, rejection).await?,
        None => app.propose(write.key, queue(write.body)).await?,
    };
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

fn queue(MigrateRequest { shard, to, from, if_epoch }: MigrateRequest) -> Command {
    let reason = "asked for by an operator".to_owned();
    let migration = NewMigration { shard, kind: None, from, to: Some(to), if_epoch, reason };
    Command::Migrate { migrations: vec![migration], plan: None }
}

/// Where the target has no room, or its rack has its share: what the replicated state doesn't know. The rest it refuses itself, as
/// far as anything else is wrong.
fn unfit(app: &App, state: &Metadata, asked: &MigrateRequest) -> Result<Option<Rejection>, ApiError> {
    let soft = app.soft().ok_or_else(ApiError::no_leader)?;
    let is_asked = |row: &&ShardRow| {
        let is_at_rest = row.migration.is_none() && !row.founding && !row.lost;
        is_at_rest && asked.if_epoch.is_none_or(|epoch| epoch == row.epoch)
    };
    let Some(row) = state.shard(asked.shard).filter(is_asked) else { return Ok(None) };
    let Some(from) = asked.from.as_ref().or(row.primary.as_ref()) else { return Ok(None) };
    let now_ms = app.clock.wall_ms();
    let why = placement::objection(state, &soft, state.policy(), now_ms, (row, from, &asked.to));
    Ok(why.map(|detail| Rejection { code: RejectionCode::Invalid, detail }))
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
    let migration = soft::migration_now(&app, row);
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
    answer::json(StatusCode::ACCEPTED, revision, &soft::migration_now(&app, row))
}
