use serde::{Deserialize, Serialize};

use super::{MigrationKind, Phase};
use crate::ids::{Epoch, Incarnation, MigrationId, NodeId, Revision, ShardId};

/// What a node is for one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes writes, answers linearizable reads.
    Primary,
    /// A full copy.
    Replica,
    /// A copy that is being filled.
    Learner,
    /// A copy to delete.
    Retiring,
}

/// One copy of an assigned shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CopyInfo {
    /// Its node.
    pub node: NodeId,
    /// The node's address.
    pub addr: String,
    /// The node's run.
    pub incarnation: Incarnation,
    /// What it is.
    pub role: Role,
    /// Committed down.
    pub down: bool,
}

/// A node and its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeAddr {
    /// Its name.
    pub node: NodeId,
    /// Its address.
    pub addr: String,
}

/// The active migration of an assigned shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AssignedMigration {
    /// Its id, to be named in reports.
    pub id: MigrationId,
    /// Its phase.
    pub phase: Phase,
    /// What it does.
    pub kind: MigrationKind,
    /// In-sync copy to pull chunks from.
    pub source: Option<NodeAddr>,
    /// Copy to fill, or that takes the primaryship.
    pub target: Option<NodeAddr>,
}

/// One shard of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Assignment {
    /// The shard.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// From the first assignment until the primary's first accepted in-sync set.
    pub founding: bool,
    /// What this node is.
    pub role: Role,
    /// Version of `in_sync`.
    pub in_sync_version: u64,
    /// The in-sync set.
    pub in_sync: Vec<NodeId>,
    /// All copies but retiring ones; for a retiring row that of this node is in it too.
    pub copies: Vec<CopyInfo>,
    /// The active migration.
    pub migration: Option<AssignedMigration>,
}

/// `GET /v1/nodes/{id}/assignments`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AssignmentsResponse {
    /// Ignored when lower than one that is held.
    pub generation: u64,
    /// What to name as `since` next, and as `installed_revision` once in force.
    pub revision: Revision,
    /// The node.
    pub node: NodeId,
    /// Its current run; another one than the asker's: register again.
    pub incarnation: Incarnation,
    /// `assignments` is the whole set.
    pub full: bool,
    /// Ascending by shard.
    pub assignments: Vec<Assignment>,
    /// With `full: false`: shards that went.
    pub removed: Vec<ShardId>,
}

/// Member of a proposed in-sync set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InSyncMember {
    /// The node.
    pub node: NodeId,
    /// Its run, as the primary knows it.
    pub incarnation: Incarnation,
}

/// The in-sync set that a primary proposes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InSyncProposal {
    /// The version that the primary saw.
    pub if_version: u64,
    /// The whole set, the primary included.
    pub members: Vec<InSyncMember>,
}

/// What a node says of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Report {
    /// The shard.
    pub shard: ShardId,
    /// The epoch that the node knows.
    pub epoch: Epoch,
    /// The migration that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationId>,
    /// The phase that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The node's part of the phase is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
    /// Soft: bytes copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_done: Option<u64>,
    /// Soft: bytes to copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Number of the copy's last write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// `gap` and `no_answer` put the migration back to preparing; others (`damaged_chunks`) abort it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The retiring copy is deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
    /// The copy is missing or unreadable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// The primary's in-sync set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_sync_set: Option<InSyncProposal>,
}

impl Report {
    /// A report that says nothing yet of `shard`.
    pub fn new(shard: ShardId, epoch: Epoch) -> Self {
        Self {
            shard,
            epoch,
            migration: None,
            phase: None,
            done: false,
            bytes_done: None,
            bytes_total: None,
            position: None,
            error: None,
            retired: false,
            lost: false,
            in_sync_set: None,
        }
    }
}

/// `POST /v1/nodes/{id}/reports`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReportsRequest {
    /// From the registration.
    pub incarnation: Incarnation,
    /// Each taken or refused alone.
    pub reports: Vec<Report>,
}

/// Answer to one report.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReportResult {
    /// Committed (of bytes alone: taken).
    pub accepted: bool,
    /// `stale_epoch`, `stale_phase`, `stale_incarnation`, `stale_version`, or another code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Answer to reports, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReportsResponse {
    /// Of the map.
    pub revision: Revision,
    /// In order.
    pub results: Vec<ReportResult>,
}
