//! What can be asked of the replicated state, and what it answers.
//!
//! A command is checked and carried out by [`super::apply`] alone, the same way on each control node. Whatever depends on a
//! clock, on soft state or on chance is decided by the proposer and stands in the command. An outcome is deterministic: a
//! [`Rejection`] is part of the state machine's answer, not an error of it.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::{Epoch, Incarnation, MigrationId, NodeId, Revision, ShardId, Thousandths};
use ruvector_cluster_client::wire::{
    MigrationKind, PatchNodeRequest, Phase, Plan, RebalancePolicy, Report, ReportResult,
};
use serde::{Deserialize, Serialize};

use super::settings::Settings;

/// One log entry's content: a command and who asks, with the key under which it takes effect once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Format of the command; a control node refuses to apply one that it does not know, and stops.
    pub version: u32,
    /// `coordinator`, `node:<id>` or `client`.
    pub actor: String,
    /// Idempotency-Key of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<RequestKey>,
    /// What is asked.
    pub command: Command,
}

/// An Idempotency-Key and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    /// As sent by the client; 1 to 256 bytes.
    pub key: String,
    /// XXH64 of method, path and body in hexadecimal: the same key with another fingerprint is refused.
    pub fingerprint: String,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Command {
    /// The cluster's first command; refused when it has one.
    Found {
        /// Random, fixed.
        cluster_id: String,
        /// What was agreed at bootstrap.
        settings: Settings,
    },
    /// A data node's process starts, or registers again.
    Register(Register),
    /// An operator edits a node.
    PatchNode {
        /// The node.
        node: NodeId,
        /// Refused when the row is at another revision.
        if_match: Option<Revision>,
        /// Absent fields stay.
        patch: PatchNodeRequest,
    },
    /// An operator removes a node that holds nothing.
    DeleteNode {
        /// The node.
        node: NodeId,
        /// Refused when the row is at another revision.
        if_match: Option<Revision>,
    },
    /// An operator wishes something of a node.
    SetIntent {
        /// The node.
        node: NodeId,
        /// Refused when the row is at another revision.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_match: Option<Revision>,
        /// What.
        wish: Wish,
    },
    /// What the leader decided in one tick. Each change is checked and refused alone.
    Coordinate {
        /// In order.
        changes: Vec<Change>,
    },
    /// What one data node reported in one request. Each is checked and refused alone.
    Reports {
        /// The reporter.
        node: NodeId,
        /// Its run.
        incarnation: Incarnation,
        /// In order.
        reports: Vec<Report>,
    },
    /// An operator (or a rebalance he asked for) starts migrations. Each is checked and refused alone.
    Migrate {
        /// In order.
        migrations: Vec<NewMigration>,
        /// The plan that they carry out, where a repeat of the request is to be told the same. Changes nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<Plan>,
    },
    /// An operator cancels a migration.
    CancelMigration {
        /// Which.
        migration: MigrationId,
        /// Refused when the row is at another revision.
        if_match: Option<Revision>,
    },
    /// An operator gives up what only other copies have.
    ForcePrimary {
        /// The shard.
        shard: ShardId,
        /// Becomes primary, alone in sync.
        node: NodeId,
    },
    /// An operator sets the policy.
    SetPolicy {
        /// The whole of it.
        policy: RebalancePolicy,
        /// Refused when the policy is at another revision.
        if_match: Option<Revision>,
    },
    /// An operator stops or lets go the coordinator's own migrations.
    SetPaused {
        /// Whether they are stopped.
        paused: bool,
    },
    /// After a restore an operator says that the data nodes are back: each shard is led by whoever has the most of it.
    Resume(Resume),
    /// The proposer, by what it alone knows, finds the request impossible: refused, so that a repeat of it is told the same.
    Refuse {
        /// Why.
        rejection: Rejection,
    },
}

/// A data node's registration (API.md, "register").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Its name.
    pub node: NodeId,
    /// Where it answers.
    pub addr: String,
    /// Its data directory's id.
    pub store_id: String,
    /// Failure domain above racks.
    pub zone: Option<String>,
    /// Failure domain above nodes.
    pub rack: Option<String>,
    /// Free text.
    pub labels: BTreeMap<String, String>,
    /// Absent: what the node has, else 1.
    pub capacity: Option<Thousandths>,
    /// Bytes that it may hold.
    pub capacity_bytes: Option<u64>,
    /// Lets last copies be lost.
    pub accept_data_loss: bool,
    /// For another store under a taken name: the leader has waited the lease of this incarnation out. Apply refuses when the
    /// incarnation is another by then.
    pub lease_over_of: Option<Incarnation>,
    /// Refused when the row is at another revision, or there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<Revision>,
}

/// A part of the end of a suspension. Large clusters need several; only the last one lets the cluster serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Who told all that it holds, since it registered with the restored cluster. Refused when one has another run.
    pub heard: Vec<HeardNode>,
    /// Nodes that need not be heard: they won't come back.
    pub without: Vec<NodeId>,
    /// No node needs to be heard, and shards that nobody holds begin anew, empty.
    pub accept_data_loss: bool,
    /// By what the nodes said.
    pub choices: Vec<Choice>,
    /// The cluster serves from here on. Refused while a shard is left that nothing was chosen for.
    pub last: bool,
}

/// A data node in the run in which it was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardNode {
    /// The node.
    pub node: NodeId,
    /// Its run.
    pub incarnation: Incarnation,
}

/// What becomes of one shard at the end of a suspension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "choice")]
pub enum Choice {
    /// The node has the highest position: it leads, alone in sync.
    Lead {
        /// The shard.
        shard: ShardId,
        /// Refused at another epoch.
        if_epoch: Epoch,
        /// Refused unless heard.
        primary: NodeId,
        /// The other copies; caught up by the primary.
        replicas: Vec<NodeId>,
    },
    /// Nobody holds it: it begins anew, empty. Needs `accept_data_loss`, unless it was never opened.
    Found {
        /// The shard.
        shard: ShardId,
        /// Refused at another epoch.
        if_epoch: Epoch,
    },
}

impl Choice {
    /// The shard.
    pub fn shard(&self) -> ShardId {
        match self {
            Self::Lead { shard, .. } | Self::Found { shard, .. } => *shard,
        }
    }
}

/// An operator's wish of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Empty it.
    Drain,
    /// Let it take copies again, if it is being emptied or is empty; else nothing.
    EndDrain,
    /// It will be away.
    Maintain {
        /// For so long, from log time.
        duration_ms: u64,
    },
    /// It is back, if it was in maintenance; else nothing.
    EndMaintenance,
}

/// One decision of the leader's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    /// The node's lease ran out and was waited for. Its primaries with an in-sync copy alive fail over by `Failover` changes beside it.
    Down {
        /// The node.
        node: NodeId,
        /// The run whose lease it was; refused for another.
        incarnation: Incarnation,
    },
    /// The node is heard again, and not behind.
    Alive {
        /// The node.
        node: NodeId,
        /// Its run; refused for another.
        incarnation: Incarnation,
    },
    /// Primaryship goes to an in-sync copy, because the primary is down.
    Failover {
        /// The shard.
        shard: ShardId,
        /// Refused at another epoch.
        if_epoch: Epoch,
        /// Refused unless in sync and alive.
        to: NodeId,
    },
    /// A shard that has no copy gets its first ones (or, founding with none alive, others).
    Assign {
        /// The shard.
        shard: ShardId,
        /// Refused at another epoch.
        if_epoch: Epoch,
        /// Its primary.
        primary: NodeId,
        /// Its replicas.
        replicas: Vec<NodeId>,
    },
    /// The coordinator starts a migration, in `queued`.
    Migrate(NewMigration),
    /// A migration goes on (or back, or ends).
    Step {
        /// Which.
        migration: MigrationId,
        /// Refused at another epoch of the row.
        if_epoch: Epoch,
        /// Refused in another phase.
        if_phase: Phase,
        /// What it does.
        step: Step,
    },
    /// What a node holds and is not assigned is to be deleted. Refused where it is assigned, or not all wanted copies are in sync.
    Retire {
        /// The shard.
        shard: ShardId,
        /// The holder.
        node: NodeId,
        /// The shard's epoch; refused at another.
        if_epoch: Epoch,
    },
    /// A draining node holds nothing any more.
    Drained {
        /// The node.
        node: NodeId,
    },
    /// A maintenance is over (by log time).
    MaintenanceOver {
        /// The node.
        node: NodeId,
    },
}

/// How a migration goes on by the leader's decision; what data nodes report goes on by [`Command::Reports`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    /// `queued` goes to its first phase; the slot is taken.
    Start,
    /// The old primary's lease for the shard is over (1.05 leases after its last grant below `taken_revision`), or it is down: the
    /// target becomes primary. Refused unless the target is in sync and alive.
    CutOver,
    /// In `handing_over`, the target is down or no longer in sync: the old primary goes on at a raised epoch.
    TakeBack {
        /// Why.
        error: String,
    },
    /// Before `handing_over`: ended without effect.
    Abort {
        /// Why.
        error: String,
    },
}

/// A migration to start. What `to` and `from` may be is checked at apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMigration {
    /// The shard.
    pub shard: ShardId,
    /// What to do; absent: by API.md's rule for `POST /v1/migrations` (`promote` where `to` is in sync, else `move`).
    pub kind: Option<MigrationKind>,
    /// Who gives; absent: the primary (move, promote).
    pub from: Option<NodeId>,
    /// Who takes.
    pub to: Option<NodeId>,
    /// Refused at another epoch.
    pub if_epoch: Option<Epoch>,
    /// Why, in a sentence.
    pub reason: String,
}

/// What apply answers. The revision is the entry's log index when something changed, else that of the last change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// For `X-Cluster-Revision`.
    pub revision: Revision,
    /// What came of it.
    pub result: Result<Answer, Rejection>,
}

/// What a command that was carried out answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
#[allow(clippy::large_enum_variant, reason = "one a command, and short-lived")]
pub enum Answer {
    /// Nothing but the revision.
    Done,
    /// A registration: the node's row as it then was.
    Registered {
        /// The row.
        node: super::NodeRow,
    },
    /// An edit or a wish: the node's row as it then was.
    Node {
        /// The row.
        node: super::NodeRow,
    },
    /// A forced primary: the shard's row as it then was.
    Shard {
        /// The row.
        shard: super::ShardRow,
    },
    /// The policy was set.
    Policy {
        /// Of its row, as it then was.
        revision: Revision,
    },
    /// Migrations started, or why not, in order.
    Migrations {
        /// In order.
        started: Vec<Result<MigrationId, Rejection>>,
        /// As in the command.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<Plan>,
    },
    /// The leader's changes, or why not, in order.
    Coordinated {
        /// In order.
        changes: Vec<Result<(), Rejection>>,
    },
    /// Reports, in order.
    Reported {
        /// In order.
        results: Vec<ReportResult>,
    },
}

/// A deterministic refusal. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Rejection {
    /// What programs branch on.
    pub code: RejectionCode,
    /// What was wrong, and what to do.
    pub detail: String,
}

/// The codes of refusals; api/error.rs alone knows their HTTP statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectionCode {
    /// The cluster has not been founded yet, or was already.
    Founding,
    /// No such node, shard or migration.
    NotFound,
    /// The row is at another revision.
    PreconditionFailed,
    /// Well formed, not possible.
    Invalid,
    /// The same Idempotency-Key with another body.
    KeyReused,
    /// The old store's lease may still run.
    NodeAlive,
    /// The last in-sync copy would be lost.
    LastCopy,
    /// The node still holds copies.
    HoldsShards,
    /// The shard has a migration already.
    AlreadyMigrating,
    /// The shard's epoch is another.
    StaleEpoch,
    /// The migration's phase is another.
    StalePhase,
    /// The node's run is another.
    StaleIncarnation,
    /// The in-sync set's version is another.
    StaleVersion,
    /// The migration can no longer be cancelled.
    TooLate,
    /// It contradicts the state otherwise.
    Conflict,
    /// The cluster was restored from a backup and waits to be resumed.
    Suspended,
    /// Data nodes have not been heard since the restore.
    NodesMissing,
}

impl RejectionCode {
    /// As it stands in problems and report results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Founding => "founding",
            Self::NotFound => "not_found",
            Self::PreconditionFailed => "precondition_failed",
            Self::Invalid | Self::KeyReused => "invalid",
            Self::NodeAlive => "node_alive",
            Self::LastCopy => "last_copy",
            Self::HoldsShards => "holds_shards",
            Self::AlreadyMigrating => "already_migrating",
            Self::StaleEpoch => "stale_epoch",
            Self::StalePhase => "stale_phase",
            Self::StaleIncarnation => "stale_incarnation",
            Self::StaleVersion => "stale_version",
            Self::TooLate => "too_late",
            Self::Conflict => "conflict",
            Self::Suspended => "suspended",
            Self::NodesMissing => "nodes_missing",
        }
    }
}
