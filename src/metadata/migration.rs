//! A migration's replicated row (DESIGN.md section 7).

use ruvector_cluster_client::ids::{Epoch, Incarnation, MigrationId, NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::{MigrationKind, Phase};
use serde::{Deserialize, Serialize};

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MigrationRow {
    /// Counted from 1.
    pub id: MigrationId,
    /// The shard.
    pub shard: ShardId,
    /// What it does.
    pub kind: MigrationKind,
    /// Who gives; none for `add`.
    pub from: Option<NodeId>,
    /// Who takes; none for `remove`.
    pub to: Option<NodeId>,
    /// The shard's epoch that reports must name.
    pub epoch: Epoch,
    /// How far it is.
    pub phase: Phase,
    /// `preparing`: the target made its empty copy.
    pub target_ready: bool,
    /// `preparing`: the primary forwards.
    pub primary_ready: bool,
    /// The target's run since `preparing`; a new one puts the migration back.
    pub target_incarnation: Option<Incarnation>,
    /// The revision at which `handing_over` began to take the primaryship.
    pub taken_revision: Option<Revision>,
    /// How often it was put back to `preparing`.
    pub attempts: u32,
    /// Why it was started.
    pub reason: String,
    /// Whether an operator asked for it (else the coordinator).
    pub by_operator: bool,
    /// Why it was aborted or last put back.
    pub error: Option<String>,
    /// Log time.
    pub created_ms: u64,
    /// Log time when it first began to copy; none for what copies nothing, and in rows of versions that did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// Log time of the last change.
    pub updated_ms: u64,
    /// Of the row.
    pub revision: Revision,
}

impl MigrationRow {
    /// Whether data nodes see it in their assignments: it has begun, and not ended.
    pub fn is_shown(&self) -> bool {
        match self.phase {
            Phase::Preparing | Phase::Copying | Phase::Admitting | Phase::HandingOver => true,
            Phase::Queued | Phase::Done | Phase::Aborted => false,
        }
    }
}
