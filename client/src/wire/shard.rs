use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::{NodeStatus, Time};
use crate::hashing::{KEY_HASH, SHARD_HASH};
use crate::ids::{Epoch, MigrationId, NodeId, Revision, ShardId};

/// How a shard does; of several, the worst that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardStatus {
    /// Has no opened primary yet.
    Unassigned,
    /// All copies in sync on alive nodes.
    Active,
    /// Fewer than replication_factor copies in sync on alive nodes.
    Degraded,
    /// Has a migration, and all its copies.
    Migrating,
    /// No in-sync copy that could be primary is alive.
    Unavailable,
}

/// A shard as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its number.
    pub id: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Who takes its writes.
    pub primary: Option<NodeId>,
    /// Full copies other than the primary, in order.
    pub replicas: Vec<NodeId>,
    /// Copies that are being filled.
    pub learners: Vec<NodeId>,
    /// The primary and whoever has every acknowledged write.
    pub in_sync: Vec<NodeId>,
    /// Raised with every change of `in_sync`.
    pub in_sync_version: u64,
    /// Derived from the above and the nodes' verdicts.
    pub status: ShardStatus,
    /// Soft: bytes of the primary's copy.
    pub size_bytes: Option<u64>,
    /// Soft: vectors of the primary's copy.
    pub vectors: Option<u64>,
    /// Of the row.
    pub revision: Revision,
}

/// A node in a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteNode {
    /// Its name.
    pub id: NodeId,
    /// Its address.
    pub addr: String,
}

/// `GET /v1/route`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The key asked for.
    pub key: String,
    /// Its shard.
    pub shard: ShardId,
    /// The shard's epoch.
    pub epoch: Epoch,
    /// Who takes its writes.
    pub primary: Option<RouteNode>,
    /// Other full copies.
    pub replicas: Vec<RouteNode>,
    /// As in the map.
    pub generation: u64,
    /// As in the map.
    pub revision: Revision,
}

/// `POST /v1/route`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRequest {
    /// The keys, in any order.
    pub keys: Vec<String>,
}

/// Answer to `POST /v1/route`, in the keys' order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteResponse {
    /// Of the map.
    pub revision: Revision,
    /// In order.
    pub routes: Vec<Route>,
}

/// A node in the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapNode {
    /// Its address.
    pub addr: String,
    /// Failure domain above racks.
    pub zone: Option<String>,
    /// Failure domain above nodes.
    pub rack: Option<String>,
    /// `alive` or `down`.
    pub status: NodeStatus,
}

/// A shard in the map; its id is its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapShard {
    /// Its epoch.
    pub epoch: Epoch,
    /// Who takes its writes.
    pub primary: Option<NodeId>,
    /// Other full copies.
    pub replicas: Vec<NodeId>,
    /// The in-sync set.
    pub in_sync: Vec<NodeId>,
}

fn known_key_hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    known(deserializer, KEY_HASH)
}

fn known_shard_hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    known(deserializer, SHARD_HASH)
}

/// Whoever routed by another function than the cluster's would ask the wrong nodes, and never notice.
fn known<'de, D: Deserializer<'de>>(deserializer: D, ours: &str) -> Result<String, D::Error> {
    let named = String::deserialize(deserializer)?;
    if named == ours {
        return Ok(named);
    }
    let why = format!("the map is hashed by {named:?}, which this version does not know: use a newer client");
    Err(serde::de::Error::custom(why))
}

/// `GET /v1/map`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMap {
    /// Raised by a restore. A map of a lower (generation, revision) than the one held is ignored.
    pub generation: u64,
    /// The published revision.
    pub revision: Revision,
    /// The cluster's.
    pub cluster_id: String,
    /// [`KEY_HASH`]: a map that names another one is not understood.
    #[serde(deserialize_with = "known_key_hash")]
    pub key_hash: String,
    /// [`SHARD_HASH`]: a map that names another one is not understood.
    #[serde(deserialize_with = "known_shard_hash")]
    pub shard_hash: String,
    /// Fixed at bootstrap.
    pub num_shards: u32,
    /// Copies wanted of each shard.
    pub replication_factor: u32,
    /// All registered data nodes.
    pub nodes: BTreeMap<NodeId, MapNode>,
    /// By shard id.
    pub shards: Vec<MapShard>,
}

/// What a migration does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MigrationKind {
    /// A copy goes from one node to another, with its primaryship if it has it.
    Move,
    /// Primaryship goes to an in-sync copy.
    Promote,
    /// One copy more.
    Add,
    /// One copy less.
    Remove,
}

/// How far a migration is (DESIGN.md, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for a slot.
    Queued,
    /// Target makes an empty copy; the primary begins to forward writes to it.
    Preparing,
    /// Target pulls what it lacks.
    Copying,
    /// Every write waits for the target; the primary proposes the in-sync set with it.
    Admitting,
    /// The old primary's lease for the shard is no longer extended.
    HandingOver,
    /// Ended well.
    Done,
    /// Ended without effect.
    Aborted,
}

impl Phase {
    /// As JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Copying => "copying",
            Self::Admitting => "admitting",
            Self::HandingOver => "handing_over",
            Self::Done => "done",
            Self::Aborted => "aborted",
        }
    }

    /// Whether the migration has ended.
    pub fn is_ended(self) -> bool {
        match self {
            Self::Done | Self::Aborted => true,
            Self::Queued | Self::Preparing | Self::Copying | Self::Admitting | Self::HandingOver => false,
        }
    }
}

/// A migration as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Counted from 1.
    pub id: MigrationId,
    /// The shard that moves.
    pub shard: ShardId,
    /// What it does.
    pub kind: MigrationKind,
    /// Who gives the copy or the primaryship.
    pub from: Option<NodeId>,
    /// Who takes it.
    pub to: Option<NodeId>,
    /// The shard's epoch that the migration works under.
    pub epoch: Epoch,
    /// How far it is.
    pub phase: Phase,
    /// Why it was started.
    pub reason: String,
    /// Soft: bytes copied.
    pub bytes_done: Option<u64>,
    /// Soft: bytes to copy.
    pub bytes_total: Option<u64>,
    /// Soft: expected time to the end of copying.
    pub eta_ms: Option<u64>,
    /// Why it was aborted, or was last put back.
    pub error: Option<String>,
    /// Log time.
    pub created_at: Time,
    /// Log time.
    pub updated_at: Time,
    /// Of the row.
    pub revision: Revision,
}

/// `POST /v1/migrations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrateRequest {
    /// The shard.
    pub shard: ShardId,
    /// Who takes the copy.
    pub to: NodeId,
    /// Who gives it; absent: the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NodeId>,
    /// Refused when the epoch is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_epoch: Option<Epoch>,
}

/// `POST /v1/shards/{id}/force-primary`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForcePrimaryRequest {
    /// Who becomes primary, alone in sync.
    pub node: NodeId,
    /// Must be true: writes that only other copies have are given up.
    pub accept_data_loss: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_is_hashed_otherwise_is_not_understood() {
        let map = |key_hash, shard_hash| {
            format!(
                r#"{{"generation":1,"revision":1,"cluster_id":"c","key_hash":"{key_hash}","shard_hash":"{shard_hash}",
                "num_shards":1,"replication_factor":1,"nodes":{{}},"shards":[]}}"#
            )
        };
        let read = |text: String| serde_json::from_str::<ShardMap>(&text);
        assert!(read(map("xxh64", "jump")).is_ok());
        for other in [map("xxh3", "jump"), map("xxh64", "maglev")] {
            let why = read(other).unwrap_err().to_string();
            assert!(why.contains("use a newer client"), "{why}");
        }
    }
}
