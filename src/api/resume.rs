//! `POST /v1/cluster/resume`: an operator says that a restored cluster's data nodes are back.

use std::collections::BTreeSet;
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

/// Choices of one command: with names of 64 bytes and seven copies some 300 KiB.
const CHOICES: usize = 500;

/// Shards that are named in an answer.
const NAMED: usize = 100;

/// Decides who leads what by what the data nodes told, and ends the suspension. Of a cluster that serves it changes nothing.
///
/// Large clusters take several commands. Until the last one nothing is served, so that a resume that is cut short is
/// repeated as a whole.
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    params: Params,
    write: Write<ResumeRequest>,
) -> Answer {
    params.only(&[])?;
    let state = app.read_linearizable().await?;
    if App::earlier(&state, write.key.as_ref())?.is_some() || !state.is_suspended() {
        return told(&state, state.revision(), &ResumePlan::default());
    }
    let (leadership, soft) = app.coordinator.heard().ok_or_else(ApiError::no_leader)?;
    let ResumeRequest { dry_run, without, accept_data_loss } = write.body;
    let plan = plan_resume(&state, &soft, &without.iter().cloned().collect::<BTreeSet<NodeId>>());
    if dry_run {
        return told(&state, state.revision(), &plan);
    }
    if let Some(refusal) = refusal(&plan).filter(|_| !accept_data_loss) {
        return app.refuse(write.key, refusal).await;
    }
    let command = |choices: &[_], last| {
        Command::Resume(Resume {
            heard: plan.heard.clone(),
            without: without.clone(),
            accept_data_loss,
            choices: choices.to_vec(),
            last,
        })
    };
    let whole = plan.choices.len().saturating_sub(1) / CHOICES * CHOICES;
    let (first, last) = plan.choices.split_at(whole);
    for choices in first.chunks(CHOICES) {
        app.propose_as("client".to_owned(), None, Some(leadership), command(choices, false)).await?;
    }
    let proposed = app.propose_as("client".to_owned(), write.key, Some(leadership), command(last, true));
    let (revision, _) = proposed.await?;
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
