//! The state itself: what is replicated, and the indexes that are derived from it.

use std::sync::Arc;

use ruvector_cluster_client::ids::{Epoch, Incarnation, MigrationId, NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::{RebalancePolicy, Role, ShardCounts, ShardStatus};
use serde::{Deserialize, Serialize};

use super::command::Outcome;
use super::cow::CowMap;
use super::migration::MigrationRow;
use super::node::NodeRow;
use super::settings::Settings;
use super::shard::{RetiringRow, ShardRow};

/// The replicated state. Cloning costs a few pointers; readers hold clones while apply goes on.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    pub(super) founded: Option<Arc<Founded>>,
    pub(super) head: Head,
    pub(super) restored: Option<Arc<Restored>>,
    pub(super) policy: Arc<PolicyRow>,
    pub(super) nodes: CowMap<NodeId, Arc<NodeRow>>,
    pub(super) shards: CowMap<ShardId, ShardEntry>,
    pub(super) retiring: CowMap<(ShardId, NodeId), Arc<RetiringRow>>,
    pub(super) migrations: CowMap<MigrationId, Arc<MigrationRow>>,
    pub(super) remembered: CowMap<Revision, Arc<Remembered>>,
    pub(super) events: CowMap<(Revision, u32), Arc<EventRow>>,
    // Derived from the above.
    pub(super) counts: ShardCounts,
    pub(super) active: CowMap<MigrationId, ()>,
    pub(super) ended: CowMap<(Revision, MigrationId), ()>,
    pub(super) keys: CowMap<Arc<str>, Revision>,
    pub(super) holdings: CowMap<NodeId, Arc<Holdings>>,
}

/// What the cluster was founded with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founded {
    /// Random, fixed.
    pub cluster_id: String,
    /// From 1; raised by a restore from a backup.
    pub generation: u64,
    /// Agreed at bootstrap.
    pub settings: Settings,
    /// Of the founding command; the revision of shards that were never assigned.
    pub revision: Revision,
}

/// That the cluster began from a backup. A row of its own, so that a version that knows nothing of it refuses the state instead
/// of serving from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Nothing is granted, assigned or decided until an operator resumes.
    pub suspended: bool,
    /// No shard is assigned at this epoch or below: what was given before the restore is not above it.
    pub epoch_floor: Epoch,
    /// Of the cluster that the backup was made of.
    pub backup_cluster_id: String,
    /// Of the backup.
    pub backup_revision: Revision,
}

/// Counters, and how far the log came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Log index of the last change.
    pub(super) revision: Revision,
    /// The largest leader's stamp applied, in milliseconds since 1970.
    pub(super) log_time_ms: u64,
    /// Of the migration made last.
    pub(super) last_migration: MigrationId,
    /// The highest run of any deleted node: names that come back go on counting from here.
    pub(super) incarnation_floor: Incarnation,
    /// Events of this revision and below may be gone.
    pub(super) events_compacted_below: Revision,
}

/// The policy's row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PolicyRow {
    pub(super) policy: RebalancePolicy,
    pub(super) paused: bool,
    pub(super) revision: Revision,
}

/// A shard's row with what is derived from it and its nodes' verdicts.
#[derive(Clone, Debug)]
pub(super) struct ShardEntry {
    pub(super) row: Arc<ShardRow>,
    pub(super) status: ShardStatus,
}

/// A request that took effect (or was refused) under an Idempotency-Key, kept under its log index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) key: Arc<str>,
    pub(super) fingerprint: String,
    pub(super) at_ms: u64,
    pub(super) outcome: Outcome,
}

/// Something that happened, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// Of the command.
    pub revision: Revision,
    /// Counts the events of one command, from 0.
    pub seq: u32,
    /// Log time.
    pub at_ms: u64,
    /// Stable, such as `node_down`.
    pub kind: String,
    /// The node that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The shard that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardId>,
    /// The migration that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationId>,
    /// A sentence.
    pub detail: String,
    /// `coordinator`, `node:<id>` or `client`.
    pub actor: String,
}

/// What one node holds, and when its assignment of each shard last changed. Not replicated as such: a control node that
/// starts from rows knows no change before `known_since`, and answers a delta from before it in full.
#[derive(Clone, Debug, Default)]
pub(super) struct Holdings {
    /// By shard; those that went stay as `role: None` for deltas, up to a bound.
    pub(super) held: CowMap<ShardId, Held>,
    /// The same by the revision of the last change.
    pub(super) changed: CowMap<(Revision, ShardId), ()>,
    /// Primaries among them.
    pub(super) primaries: u64,
    /// Primary, replica and learner copies among them.
    pub(super) copies: u64,
    /// Those that went.
    pub(super) gone: u64,
    /// Deltas from this revision on are complete.
    pub(super) known_since: Revision,
}

/// A node's part in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) role: Option<Role>,
    pub(super) changed: Revision,
}

/// The count of shards of that status.
pub(super) fn counts_of(counts: &mut ShardCounts, status: ShardStatus) -> &mut u64 {
    match status {
        ShardStatus::Unassigned => &mut counts.unassigned,
        ShardStatus::Active => &mut counts.active,
        ShardStatus::Degraded => &mut counts.degraded,
        ShardStatus::Migrating => &mut counts.migrating,
        ShardStatus::Unavailable => &mut counts.unavailable,
    }
}
