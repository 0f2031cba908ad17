use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Time;
use crate::ids::{Epoch, Incarnation, NodeId, Revision, ShardId, Thousandths};

/// What an operator wishes of a data node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// May take copies.
    #[default]
    Schedulable,
    /// Is being emptied.
    Draining,
    /// Is empty, and stays so.
    Drained,
    /// Is expected to be away: copies are not rebuilt meanwhile, primaries are handed over.
    Maintenance,
}

/// How a data node does: the committed verdict, or the leader's suspicion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// Its lease runs, or is assumed to.
    Alive,
    /// Heartbeats are late; soft, seen by the leader only.
    Suspect,
    /// Committed: its lease ran out.
    Down,
}

/// A data node as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// `host:port` where it answers.
    pub addr: String,
    /// Its data directory's random id.
    pub store_id: String,
    /// Failure domain above racks.
    pub zone: Option<String>,
    /// Failure domain above nodes.
    pub rack: Option<String>,
    /// Free text of the operator's.
    pub labels: BTreeMap<String, String>,
    /// Share of copies relative to other nodes.
    pub capacity: Thousandths,
    /// Bytes that it may hold.
    pub capacity_bytes: Option<u64>,
    /// `suspect` only where the leader says so.
    pub status: NodeStatus,
    /// The operator's wish.
    pub intent: Intent,
    /// Its run.
    pub incarnation: Incarnation,
    /// Shards of which it holds a copy or is to hold one (primary, replica, learner copy), ascending.
    pub shards: Vec<ShardId>,
    /// How many of them it leads.
    pub primaries: u64,
    /// Soft: bytes of all copies that it reported.
    pub size_bytes: Option<u64>,
    /// Soft: when the leader last heard of it.
    pub last_heartbeat: Option<Time>,
    /// Soft: whether gossip tells that it is alive, with the store that it is registered with. Of a node that is down: the leader
    /// doesn't hear it and others do, so its copies are not rebuilt meanwhile.
    #[serde(default)]
    pub heard_by_gossip: Option<bool>,
    /// Of the row.
    pub revision: Revision,
}

/// `PUT /v1/nodes/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// `host:port` where the node answers.
    pub addr: String,
    /// Random, written with the data directory; 1 to 64 characters of the alphabet of node ids.
    pub store_id: String,
    /// Failure domain above racks.
    #[serde(default)]
    pub zone: Option<String>,
    /// Failure domain above nodes.
    #[serde(default)]
    pub rack: Option<String>,
    /// Free text.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Share of copies relative to other nodes; absent keeps what the node has, else 1.
    #[serde(default)]
    pub capacity: Option<Thousandths>,
    /// Bytes that it may hold.
    #[serde(default)]
    pub capacity_bytes: Option<u64>,
    /// Lets another store take the name although in-sync last copies are lost with the old one.
    #[serde(default)]
    pub accept_data_loss: bool,
}

/// Answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterResponse {
    /// The node's row.
    pub node: Node,
    /// To be sent with heartbeats and reports.
    pub incarnation: Incarnation,
    /// How long a granted lease lasts.
    pub lease_ms: u64,
    /// How often to send heartbeats.
    pub heartbeat_interval_ms: u64,
    /// Raised by a restore; lower ones are refused by data nodes.
    pub generation: u64,
    /// Of the map.
    pub revision: Revision,
    /// Grants count once assignments of this revision are installed.
    pub assigned_revision: Revision,
}

/// One copy held, in a heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeldShard {
    /// The shard.
    pub id: ShardId,
    /// Epoch of the copy's last write.
    pub epoch: Epoch,
    /// Number of the copy's last write; 0 for none.
    pub position: u64,
    /// Bytes on disk.
    #[serde(default)]
    pub size_bytes: u64,
    /// Vectors held.
    #[serde(default)]
    pub vectors: u64,
    /// Reads per second since the last heartbeat.
    #[serde(default)]
    pub reads_per_s: Thousandths,
    /// Writes per second since the last heartbeat.
    #[serde(default)]
    pub writes_per_s: Thousandths,
    /// The copy is being filled: its content may be any mixture, and `position` is 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub filling: bool,
}

/// `POST /v1/nodes/{id}/heartbeat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatRequest {
    /// From the registration.
    pub incarnation: Incarnation,
    /// Revision of the assignments that are in force.
    pub installed_revision: Revision,
    /// `shards` are only those that changed.
    #[serde(default)]
    pub partial: bool,
    /// All copies held, assigned or not.
    #[serde(default)]
    pub shards: Vec<HeldShard>,
    /// Free bytes of the data directory's file system.
    #[serde(default)]
    pub disk_free_bytes: Option<u64>,
}

/// Answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatResponse {
    /// The lease's length, counted by the node from when it sent the heartbeat.
    pub lease_ms: u64,
    /// The grant counts once assignments of this revision are installed.
    pub assigned_revision: Revision,
    /// As in the registration.
    pub generation: u64,
    /// Of the map.
    pub revision: Revision,
    /// The next heartbeat is to list all copies.
    pub want_all: bool,
}

/// `PATCH /v1/nodes/{id}`: absent fields stay. An empty `zone` or `rack` clears it; `labels` replaces all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchNodeRequest {
    /// Share of copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Thousandths>,
    /// Failure domain above racks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Failure domain above nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}
