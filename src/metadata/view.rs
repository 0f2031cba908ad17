//! The state as clients see it: rows to the wire's types. Pure; whatever is soft is passed in, or null.

mod assignments;

use chrono::DateTime;
use ruvector_cluster_client::hashing::{KEY_HASH, SHARD_HASH, shard_of_key};
use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_client::wire::{
    Event, MapNode, MapShard, Migration, Node, NodeStatus, Route, RouteNode, Shard, ShardMap, Time,
};

pub use assignments::{Compacted, assignment, assignments, assignments_since};

use super::{EventRow, Metadata, MigrationRow, NodeRow, ShardRow};

/// What only the leader knows of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeSoft {
    /// Its heartbeats are late.
    pub suspect: bool,
    /// Bytes of all copies that it reported.
    pub size_bytes: Option<u64>,
    /// When the leader last heard of it, in milliseconds since 1970.
    pub last_heartbeat_ms: Option<u64>,
    /// Whether gossip tells that it is alive.
    pub heard_by_gossip: Option<bool>,
}

/// What only the leader knows of a shard, from its primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSoft {
    /// Bytes of the primary's copy.
    pub size_bytes: Option<u64>,
    /// Vectors of the primary's copy.
    pub vectors: Option<u64>,
}

/// What only the leader knows of a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MigrationSoft {
    /// Bytes copied.
    pub bytes_done: Option<u64>,
    /// Bytes to copy.
    pub bytes_total: Option<u64>,
    /// Expected time to the end of copying.
    pub eta_ms: Option<u64>,
}

/// Milliseconds since 1970 as the wire's time; what lies beyond its range, as 1970.
pub fn time(ms: u64) -> Time {
    i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or(DateTime::UNIX_EPOCH)
}

/// A node.
pub fn node(state: &Metadata, row: &NodeRow, soft: NodeSoft) -> Node {
    Node {
        id: row.id.clone(),
        addr: row.addr.clone(),
        store_id: row.store_id.clone(),
        zone: row.zone.clone(),
        rack: row.rack.clone(),
        labels: row.labels.clone(),
        capacity: row.capacity,
        capacity_bytes: row.capacity_bytes,
        status: if soft.suspect && !row.is_down() { NodeStatus::Suspect } else { committed_status(row) },
        intent: row.intent,
        incarnation: row.incarnation,
        shards: state.shards_of(&row.id).collect(),
        primaries: state.primaries_of(&row.id),
        size_bytes: soft.size_bytes,
        last_heartbeat: soft.last_heartbeat_ms.map(time),
        heard_by_gossip: soft.heard_by_gossip,
        revision: row.revision,
    }
}

/// A shard.
pub fn shard(state: &Metadata, row: &ShardRow, soft: ShardSoft) -> Shard {
    Shard {
        id: row.id,
        epoch: row.epoch,
        primary: row.primary.clone(),
        replicas: row.replicas.clone(),
        learners: row.learners.clone(),
        in_sync: row.in_sync.clone(),
        in_sync_version: row.in_sync_version,
        status: state.shard_status(row),
        size_bytes: soft.size_bytes,
        vectors: soft.vectors,
        revision: row.revision,
    }
}

/// A migration.
pub fn migration(row: &MigrationRow, soft: MigrationSoft) -> Migration {
    Migration {
        id: row.id,
        shard: row.shard,
        kind: row.kind,
        from: row.from.clone(),
        to: row.to.clone(),
        epoch: row.epoch,
        phase: row.phase,
        reason: row.reason.clone(),
        bytes_done: soft.bytes_done,
        bytes_total: soft.bytes_total,
        eta_ms: soft.eta_ms,
        error: row.error.clone(),
        created_at: time(row.created_ms),
        updated_at: time(row.updated_ms),
        revision: row.revision,
    }
}

/// An event.
pub fn event(row: &EventRow) -> Event {
    Event {
        revision: row.revision,
        seq: row.seq,
        at: time(row.at_ms),
        kind: row.kind.clone(),
        node: row.node.clone(),
        shard: row.shard,
        migration: row.migration,
        detail: row.detail.clone(),
        actor: row.actor.clone(),
    }
}

/// The whole map; none before the cluster is founded.
pub fn map(state: &Metadata) -> Option<ShardMap> {
    let founded = state.founded()?;
    Some(ShardMap {
        generation: founded.generation,
        revision: state.revision(),
        cluster_id: founded.cluster_id.clone(),
        key_hash: KEY_HASH.to_owned(),
        shard_hash: SHARD_HASH.to_owned(),
        num_shards: founded.settings.num_shards,
        replication_factor: founded.settings.replication_factor,
        nodes: state.nodes().map(|row| (row.id.clone(), map_node(row))).collect(),
        shards: state.shards().map(map_shard).collect(),
    })
}

/// A node in the map.
pub fn map_node(row: &NodeRow) -> MapNode {
    MapNode {
        addr: row.addr.clone(),
        zone: row.zone.clone(),
        rack: row.rack.clone(),
        status: committed_status(row),
    }
}

/// A shard in the map.
pub fn map_shard(row: &ShardRow) -> MapShard {
    MapShard {
        epoch: row.epoch,
        primary: row.primary.clone(),
        replicas: row.replicas.clone(),
        in_sync: row.in_sync.clone(),
    }
}

/// Where a key goes; none before the cluster is founded.
pub fn route(state: &Metadata, key: &str) -> Option<Route> {
    let founded = state.founded()?;
    let row = state.shard(shard_of_key(key, founded.settings.num_shards))?;
    let at = |id: &NodeId| state.node(id).map(|node| RouteNode { id: id.clone(), addr: node.addr.clone() });
    Some(Route {
        key: key.to_owned(),
        shard: row.id,
        epoch: row.epoch,
        primary: row.primary.as_ref().and_then(at),
        replicas: row.replicas.iter().filter_map(at).collect(),
        generation: founded.generation,
        revision: state.revision(),
    })
}

fn committed_status(row: &NodeRow) -> NodeStatus {
    if row.is_down() { NodeStatus::Down } else { NodeStatus::Alive }
}
