use serde::{Deserialize, Serialize};

use super::Time;
use crate::ids::{NodeId, Revision, ShardId};

/// A control node's place in the Raft cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// Votes.
    Voter,
    /// Only follows.
    Learner,
}

/// A control node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// The random id of its data directory (53 bits).
    pub raft_id: u64,
    /// Its place.
    pub role: MemberRole,
    /// Where clients reach it.
    pub client_url: String,
    /// Where control nodes reach it.
    pub peer_url: String,
    /// Soft: the last log index known to be on it.
    pub matched: Option<u64>,
    /// Soft: since the leader last heard of it.
    pub last_contact_ms: Option<u64>,
}

/// The leader of the control cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderInfo {
    /// Its name.
    pub id: NodeId,
    /// Where clients reach it.
    pub url: String,
}

/// `GET /v1/cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster's.
    pub cluster_id: String,
    /// Raised by a restore.
    pub generation: u64,
    /// Of this control node's build.
    pub version: String,
    /// None while there is none.
    pub leader: Option<LeaderInfo>,
    /// Raft's.
    pub term: u64,
    /// Published.
    pub revision: Revision,
    /// All control nodes.
    pub members: Vec<Member>,
    /// Fixed at bootstrap.
    pub num_shards: u32,
    /// Copies wanted of each shard.
    pub replication_factor: u32,
    /// Length of a data node's lease.
    pub lease_ms: u64,
    /// It was restored from a backup and serves nothing until `POST /v1/cluster/resume`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// With `?state_hash=true`: a hash of this control node's replicated rows, equal on all at equal revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_hash: Option<String>,
}

/// The worst that holds of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// All shards active, all nodes alive.
    Healthy,
    /// Everything answers, something is missing.
    Degraded,
    /// Some shard, or the control cluster, does not answer.
    Unavailable,
}

/// Why the cluster is not healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReason {
    /// Stable.
    pub code: String,
    /// A sentence.
    pub detail: String,
}

/// Shards by status; each counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardCounts {
    /// All.
    pub total: u64,
    /// All copies in sync.
    pub active: u64,
    /// Copies missing.
    pub degraded: u64,
    /// Moving.
    pub migrating: u64,
    /// Without a live in-sync copy.
    pub unavailable: u64,
    /// Not opened yet.
    pub unassigned: u64,
}

/// `GET /v1/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The worst that holds.
    pub status: HealthStatus,
    /// Why, worst first; empty when healthy.
    pub reasons: Vec<HealthReason>,
    /// Data nodes alive.
    pub healthy_nodes: u64,
    /// Data nodes registered.
    pub total_nodes: u64,
    /// Shards by status.
    pub shards: ShardCounts,
    /// The leading control node.
    pub leader: Option<NodeId>,
    /// How many more control nodes may fail before writes stop.
    pub failures_tolerated: u64,
}

/// `POST /v1/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddMemberRequest {
    /// Its name.
    pub id: NodeId,
    /// Where clients reach it: `http://host:port`. Asked who it is before it is taken in.
    pub client_url: String,
    /// Where control nodes reach it.
    pub peer_url: String,
    /// Whom it replaces.
    #[serde(default)]
    pub replaces: Option<NodeId>,
    /// Is never promoted.
    #[serde(default)]
    pub learner_only: bool,
}

/// `POST /v1/leader/transfer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// Absent: the voter that is furthest.
    #[serde(default)]
    pub to: Option<NodeId>,
}

/// `POST /v1/cluster/resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// Says what would come of it, and changes nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Data nodes that will not come back: they need not be heard.
    #[serde(default)]
    pub without: Vec<NodeId>,
    /// No data node needs to be heard, and shards that nobody holds begin anew, empty.
    #[serde(default)]
    pub accept_data_loss: bool,
}

/// Its answer. A repeat under the same `Idempotency-Key` has the same revision, and empty lists: what was heard is not remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeResponse {
    /// Whether the cluster still serves nothing.
    pub suspended: bool,
    /// Of the restored cluster.
    pub generation: u64,
    /// Of the map.
    pub revision: Revision,
    /// Data nodes that told what they hold since the restore.
    pub heard: Vec<NodeId>,
    /// All others of the restored state that were not left out: they may hold something.
    pub missing: Vec<NodeId>,
    /// Shards that are led by whoever has the most of them.
    pub led: u64,
    /// Shards that nobody holds in full: the first 100.
    pub unheld: Vec<ShardId>,
    /// How many those are.
    pub unheld_total: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Of the command.
    pub revision: Revision,
    /// Counts the events of one command, from 0.
    pub seq: u32,
    /// Log time.
    pub at: Time,
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
    pub migration: Option<crate::ids::MigrationId>,
    /// A sentence.
    pub detail: String,
    /// Who asked: `coordinator`, `node:<id>` or `client`.
    pub actor: String,
}
