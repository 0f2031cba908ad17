//! The only way in which the state changes: one entry of the log, one command, one outcome.
//!
//! Deterministic: what is decided here depends on the state, the entry's index, its stamp and the command alone. A command is
//! checked before it changes anything; in a batch each change is checked and refused alone, after those before it took
//! effect. Whatever was written is stamped with the entry's index and indexed when the command is through (`commit`), so that
//! writing a row as it was changes nothing, and doing a command twice is harmless.

mod commit;
mod migrations;
mod nodes;
mod registration;
mod remember;
mod reports;
mod resume;
mod seats;
mod shards;
mod tx;

use ruvector_cluster_client::ids::{MigrationId, NodeId, Revision, ShardId};

use super::check::check_applied;
use super::command::{Answer, Change, Command, Envelope, Outcome, Rejection, RejectionCode};
use super::rows;
use super::state::Metadata;
use tx::Tx;

pub(super) use commit::KEPT as KEPT_ENDED;
pub(super) use remember::KEPT as KEPT_REQUESTS;

/// Most changes, migrations or reports of one command (DESIGN.md section 7, "Batches").
pub const MAX_BATCH: usize = 1_000;

/// The version of [`Envelope`] that this build writes, and the highest that it applies.
pub const COMMAND_VERSION: u32 = 1;

/// What came of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// For the proposer.
    pub outcome: Outcome,
    /// Rows to be stored; always the head's, since log time goes on.
    pub rows: Vec<RowChange>,
    /// For watches, ascending within each kind; empty when nothing changed.
    pub changes: Vec<Changed>,
}

/// A row that was written, or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// As in [`Metadata::to_rows`].
    pub key: Vec<u8>,
    /// None: the row went.
    pub value: Option<Vec<u8>>,
}

/// What a command changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// The cluster was founded: all shards are there, unassigned.
    Founded,
    /// A node's row, but for its two revisions of assignments.
    Node(NodeId),
    /// A node went.
    NodeRemoved(NodeId),
    /// A shard's row.
    Shard(ShardId),
    /// A migration's row.
    Migration(MigrationId),
    /// Something in the node's assignments.
    Assignments(NodeId),
    /// The policy, or whether it is paused.
    Policy,
    /// An event was added.
    Event(Revision, u32),
}

/// Applies the entry at `index`, stamped `time_ms` by the leader that proposed it. Entries come once each, ascending.
pub fn apply(state: &mut Metadata, index: u64, time_ms: u64, envelope: &Envelope) -> Applied {
    if !cfg!(debug_assertions) {
        return apply_unchecked(state, index, time_ms, envelope);
    }
    let before = state.clone();
    let applied = apply_unchecked(state, index, time_ms, envelope);
    let violations = check_applied(&before, state, &envelope.command, &applied);
    assert!(violations.is_empty(), "{violations:?} after {envelope:?}");
    applied
}

fn apply_unchecked(state: &mut Metadata, index: u64, time_ms: u64, envelope: &Envelope) -> Applied {
    state.head.log_time_ms = state.head.log_time_ms.max(time_ms);
    if let Some(outcome) = envelope.key.as_ref().and_then(|key| state.earlier_outcome(key)) {
        return Applied { outcome, rows: vec![rows::head(state)], changes: Vec::new() };
    }
    let mut tx = Tx::new(state, Revision(index), &envelope.actor);
    let result = tx.run(envelope);
    let (mut rows, changes) = tx.commit();
    let outcome =
        Outcome { revision: state.head.revision, result: result.map(|answer| as_stored(state, answer)) };
    if let Some(key) = envelope.key.as_ref().filter(|_| is_final(&envelope.command, &outcome)) {
        remember::remember(state, Revision(index), key, &outcome, &mut rows);
    }
    rows.push(rows::head(state));
    Applied { outcome, rows, changes }
}

/// Whether a repeat is told the same. A resume is refused for what was not heard yet, and is to be asked again once it was;
/// and whatever comes before the cluster is founded is refused for that alone, which passes by waiting.
fn is_final(command: &Command, outcome: &Outcome) -> bool {
    match &outcome.result {
        Ok(_) => true,
        Err(rejection) => !matches!(command, Command::Resume(_)) && rejection.code != RejectionCode::Founding,
    }
}

/// An answer shows rows as they are stored, stamped.
fn as_stored(state: &Metadata, answer: Answer) -> Answer {
    match answer {
        Answer::Registered { node } => {
            let node = state.node(&node.id).cloned().unwrap_or(node);
            Answer::Registered { node }
        }
        Answer::Node { node } => {
            let node = state.node(&node.id).cloned().unwrap_or(node);
            Answer::Node { node }
        }
        Answer::Shard { shard } => {
            let shard = state.shard(shard.id).cloned().unwrap_or(shard);
            Answer::Shard { shard }
        }
        Answer::Policy { .. } => Answer::Policy { revision: state.policy_revision() },
        Answer::Done | Answer::Migrations { .. } | Answer::Coordinated { .. } | Answer::Reported { .. } => {
            answer
        }
    }
}

impl Tx<'_> {
    fn run(&mut self, envelope: &Envelope) -> Result<Answer, Rejection> {
        if self.state.founded.is_none() && !matches!(envelope.command, Command::Found { .. }) {
            return Err(reject(RejectionCode::Founding, "the cluster has not been founded yet"));
        }
        self.check_not_suspended(&envelope.command)?;
        let done = |()| Answer::Done;
        match &envelope.command {
            Command::Found { cluster_id, settings } => self.found(cluster_id, settings).map(done),
            Command::Register(register) => self.register(register),
            Command::PatchNode { node, if_match, patch } => self.patch_node(node, *if_match, patch),
            Command::DeleteNode { node, if_match } => self.delete_node(node, *if_match).map(done),
            Command::SetIntent { node, if_match, wish } => self.set_intent(node, *if_match, *wish),
            Command::Coordinate { changes } => {
                bounded(changes.len(), MAX_BATCH, "changes")?;
                Ok(Answer::Coordinated {
                    changes: changes.iter().map(|change| self.change(change)).collect(),
                })
            }
            Command::Reports { node, incarnation, reports } => {
                bounded(reports.len(), MAX_BATCH, "reports")?;
                self.reports(node, *incarnation, reports)
            }
            Command::Migrate { migrations, plan } => {
                bounded(migrations.len(), MAX_BATCH, "migrations")?;
                Ok(Answer::Migrations {
                    started: migrations.iter().map(|ask| self.queue(ask, true)).collect(),
                    plan: plan.clone(),
                })
            }
            Command::CancelMigration { migration, if_match } => self.cancel(*migration, *if_match).map(done),
            Command::ForcePrimary { shard, node } => {
                self.force_primary(*shard, node)?;
                Ok(Answer::Shard { shard: self.shard(*shard)? })
            }
            Command::SetPolicy { policy, if_match } => self.set_policy(policy, *if_match),
            Command::SetPaused { paused } => {
                self.set_paused(*paused);
                Ok(Answer::Done)
            }
            Command::Resume(ask) => self.resume(ask).map(done),
            Command::Refuse { rejection } => Err(rejection.clone()),
        }
    }

    /// One of the leader's decisions.
    fn change(&mut self, change: &Change) -> Result<(), Rejection> {
        match change {
            Change::Down { node, incarnation } => self.down(node, *incarnation),
            Change::Alive { node, incarnation } => self.alive(node, *incarnation),
            Change::Failover { shard, if_epoch, to } => self.failover(*shard, *if_epoch, to),
            Change::Assign { shard, if_epoch, primary, replicas } => {
                self.assign(*shard, *if_epoch, primary, replicas)
            }
            Change::Migrate(ask) => self.queue(ask, false).map(|_| ()),
            Change::Step { migration, if_epoch, if_phase, step } => {
                self.step(*migration, *if_epoch, *if_phase, step)
            }
            Change::Retire { shard, node, if_epoch } => self.retire(*shard, node, *if_epoch),
            Change::Drained { node } => self.drained(node),
            Change::MaintenanceOver { node } => self.maintenance_over(node),
        }
    }
}

fn bounded(count: usize, most: usize, what: &str) -> Result<(), Rejection> {
    if count <= most {
        return Ok(());
    }
    Err(reject(
        RejectionCode::Invalid,
        format!("{count} {what} are too many for one command: at most {most}"),
    ))
}

/// A refusal.
fn reject(code: RejectionCode, detail: impl Into<String>) -> Rejection {
    Rejection { code, detail: detail.into() }
}

/// `If-Match`: the row is still at the revision that was seen.
fn check_match(if_match: Option<Revision>, revision: Revision) -> Result<(), Rejection> {
    match if_match {
        Some(seen) if seen != revision => {
            let detail = format!(
                "header `If-Match` names revision {seen}, and the row is at {revision}: read it again, and repeat with its ETag"
            );
            Err(reject(RejectionCode::PreconditionFailed, detail))
        }
        Some(_) | None => Ok(()),
    }
}
