//! `POST /v1/cluster/resume`: an operator says that a restored cluster's data nodes are back.

use std::sync::Arc;

use axum::extract::State;
use ruvector_cluster_client::ids::{NodeId, Revision};
use ruvector_cluster_client::wire::{ResumeRequest, ResumeResponse};

use super::answer::{self, Answer};
use super::app::{App, founded};
use super::error::ApiError;
use super::extract::{Params, Write};
use crate::coordinator::{ResumePlan, plan_resume};
use crate::metadata::{Choice, Command, Metadata, Rejection, RejectionCode, Resume};

/// Shards that are named in an answer.
const NAMED: usize = 100;

/// Decides who leads what by what the data nodes told, and ends the suspension. Of a cluster that serves it changes nothing.
///
/// Large clusters take several commands. Until the last one nothing is served, so that a resume that is cut short is
/// repeated as a whole. A repeat of one that took effect under its key is told the same revision, and empty lists. A refusal
/// is not remembered, since it rests on what was not heard yet.
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<ResumeRequest>,
) -> Answer {
    params.only(&[])?;
    let state = app.read_linearizable().await?;
    if let Some((revision, _)) = App::earlier(&state, write.key.as_ref())? {
        return told(&state, revision, &ResumePlan::default());
    }
    let ResumeRequest { dry_run, without, accept_data_loss } = write.body;
    let (fence, plan) = if state.is_suspended() {
        let (leadership, soft) = app.coordinator.heard().ok_or_else(ApiError::no_leader)?;
        (Some(leadership), plan_resume(&state, &soft, &without.into_iter().collect()))
    } else if write.key.is_some() {
        // Changes nothing, and is remembered.
        (None, ResumePlan::default())
    } else {
        return told(&state, state.revision(), &ResumePlan::default());
    };
    if dry_run {
        return told(&state, state.revision(), &plan);
    }
    if let Some(refusal) = refusal(&plan).filter(|_| !accept_data_loss) {
        return Err(refusal.into());
    }
    let batches = plan.batches();
    let (mut key, mut revision) = (write.key, state.revision());
    for (place, choices) in (1..).zip(&batches) {
        let last = place == batches.len();
        let command = Command::Resume(Resume {
            heard: plan.heard.clone(),
            without: plan.without.clone(),
            accept_data_loss,
            choices: choices.to_vec(),
            last,
        });
        let key = if last { key.take() } else { None };
        (revision, _) = app.propose_as("client".to_owned(), key, fence, command).await?;
    }
    told(&app.published(), revision, &plan)
}

/// Why the cluster is not to be resumed without more being said.
fn refusal(plan: &ResumePlan) -> Option<Rejection> {
    if !plan.missing.is_empty() {
        let names: Vec<&str> = plan.missing.iter().take(NAMED).map(NodeId::as_str).collect();
        let detail = format!(
            "{} data nodes have not told yet what they hold: {}. Wait for them, name in `without` those that will not come \
             back, or set accept_data_loss",
            plan.missing.len(),
            names.join(", ")
        );
        return Some(Rejection { code: RejectionCode::NodesMissing, detail });
    }
    let first = plan.unheld.first()?;
    let detail = format!(
        "nobody holds a full copy of shard {first} and {} more: bring their nodes back, or set accept_data_loss",
        plan.unheld.len() - 1
    );
    Some(Rejection { code: RejectionCode::LastCopy, detail })
}

fn told(state: &Metadata, revision: Revision, plan: &ResumePlan) -> Answer {
    let led = plan.choices.iter().filter(|choice| matches!(choice, Choice::Lead { .. })).count();
    let body = ResumeResponse {
        suspended: state.is_suspended(),
        generation: founded(state)?.generation,
        revision,
        heard: plan.heard.iter().map(|heard| heard.node.clone()).collect(),
        missing: plan.missing.clone(),
        led: led as u64,
        unheld: plan.unheld.iter().take(NAMED).copied().collect(),
        unheld_total: plan.unheld.len() as u64,
    };
    answer::ok(revision, &body)
}
