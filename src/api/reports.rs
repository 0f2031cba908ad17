//! What data nodes report. Bytes alone are soft: the leader remembers them, and nothing is proposed.

use std::sync::Arc;

use axum::extract::{Path, State};
use ruvector_cluster_client::wire::{Report, ReportResult, ReportsRequest, ReportsResponse};

use super::answer;
use super::app::App;
use super::error::{ApiError, Code};
use super::extract::{Params, Write, node_id};
use crate::metadata::{Answer, Command, Metadata, NodeRow, RejectionCode};

/// `POST /v1/nodes/{id}/reports`.
pub(super) async fn report(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    params: Params,
    write: Write<ReportsRequest>,
) -> answer::Answer {
    params.only(&[])?;
    let id = node_id(&id)?;
    let ReportsRequest { incarnation, reports } = write.body;
    let state = app.published();
    let row = state.node(&id);
    // Under a key it is for the replicated state to say, which knows whether this is a repeat.
    if row.is_none() && write.key.is_none() {
        return Err(ApiError::not_found(format!("data node {id}")));
    }
    let hard: Vec<Report> = reports.iter().filter(|r| !is_bytes_alone(r)).cloned().collect();
    let (revision, committed) = if hard.is_empty() {
        (state.revision(), Vec::new())
    } else {
        let command = Command::Reports { node: id.clone(), incarnation, reports: hard };
        match app.propose_as(format!("node:{id}"), write.key, None, command).await? {
            (revision, Answer::Reported { results }) => (revision, results),
            _ => return Err(ApiError::unexpected("a list of reports")),
        }
    };
    let mut committed = committed.into_iter();
    let mut results = Vec::with_capacity(reports.len());
    for report in &reports {
        results.push(if is_bytes_alone(report) {
            let refusal = refuse_bytes(&state, row, incarnation, report);
            ReportResult { accepted: refusal.is_none(), code: refusal.map(|c| c.as_str().to_owned()) }
        } else {
            let missing = || ApiError::new(Code::Internal, "a report was not answered");
            committed.next().ok_or_else(missing)?
        });
    }
    app.coordinator.observe_reports(&id, &reports, &results);
    answer::ok(revision, &ReportsResponse { revision, results })
}

/// Whether the report says nothing that is to be committed.
fn is_bytes_alone(report: &Report) -> bool {
    let Report { done, error, retired, lost, in_sync_set, .. } = report;
    !done && error.is_none() && !retired && !lost && in_sync_set.is_none()
}

/// The checks of committed reports, for those that are not.
fn refuse_bytes(
    state: &Metadata,
    row: Option<&NodeRow>,
    incarnation: ruvector_cluster_client::ids::Incarnation,
    report: &Report,
) -> Option<RejectionCode> {
    let Some(row) = row else { return Some(RejectionCode::NotFound) };
    if row.incarnation != incarnation {
        return Some(RejectionCode::StaleIncarnation);
    }
    let Some(shard) = state.shard(report.shard) else { return Some(RejectionCode::NotFound) };
    if shard.epoch != report.epoch {
        return Some(RejectionCode::StaleEpoch);
    }
    let migration = report.migration.and_then(|id| state.migration(id));
    match (report.migration, migration) {
        (Some(_), None) => Some(RejectionCode::NotFound),
        (_, Some(row)) if row.shard != report.shard => Some(RejectionCode::NotFound),
        (_, Some(row)) if report.phase.is_some_and(|phase| phase != row.phase) => {
            Some(RejectionCode::StalePhase)
        }
        _ => None,
    }
}
