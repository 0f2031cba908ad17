//! The rows as clients see them, and what a change of them tells watchers.

use std::collections::BTreeMap;

use super::rows::{MigrationRow, NodeRow, Rows, ShardRow};
use crate::clock::{Clock, SystemClock};
use crate::ids::{MigrationId, NodeId, Revision, ShardId, Thousandths};
use crate::wire::{
    ClusterView, HeldShard, Intent, LeaderInfo, MapNode, MapShard, Member, MemberRole, Migration, Node,
    NodeStatus, Shard, ShardMap, ShardStatus, Time, WatchChange, WatchEvent,
};

/// There is never a restore.
pub(super) const GENERATION: u64 = 1;

/// As they were told last, without soft fields; each with the revision of its last change.
#[derive(Default)]
pub(super) struct Views {
    shards: BTreeMap<ShardId, Shard>,
    nodes: BTreeMap<NodeId, Node>,
    migrations: BTreeMap<MigrationId, Migration>,
}

pub(super) fn now() -> Time {
    let ms = i64::try_from(SystemClock.wall_ms()).unwrap_or(0);
    Time::from_timestamp_millis(ms).unwrap_or_default()
}

/// Puts `new`, which has the held one's revision, in its place if it is another; it then has the revision `at`.
fn renew<K: Ord, V: Clone + PartialEq>(
    held: &mut BTreeMap<K, V>,
    key: K,
    make: impl Fn(Revision) -> V,
    revision_of: impl Fn(&V) -> Revision,
    at: Revision,
) -> Option<V> {
    if let Some(old) = held.get(&key)
        && *old == make(revision_of(old))
    {
        return None;
    }
    let new = make(at);
    held.insert(key, new.clone());
    Some(new)
}

impl Rows {
    /// Renews the views; gives back what that is to watchers.
    pub(super) fn refresh(&mut self) -> WatchEvent {
        let (mut views, at) = (std::mem::take(&mut self.views), self.revision);
        let mut changes = Vec::new();
        for (row, id) in self.shards.iter().zip(0..) {
            let make = |revision| self.view_of_shard(ShardId(id), row, revision);
            let new = renew(&mut views.shards, ShardId(id), make, |view| view.revision, at);
            changes.extend(new.map(WatchChange::Shard));
        }
        for (id, row) in &self.nodes {
            let make = |revision| self.view_of_node(id, row, revision);
            let new = renew(&mut views.nodes, id.clone(), make, |view| view.revision, at);
            changes.extend(new.map(WatchChange::Node));
        }
        for row in &self.migrations {
            let make = |revision| view_of_migration(row, revision);
            let new = renew(&mut views.migrations, row.id, make, |view| view.revision, at);
            changes.extend(new.map(WatchChange::Migration));
        }
        self.views = views;
        WatchEvent { revision: at, changes }
    }

    fn view_of_shard(&self, id: ShardId, row: &ShardRow, revision: Revision) -> Shard {
        Shard {
            id,
            epoch: row.epoch,
            primary: row.primary.clone().filter(|_| !row.founding),
            replicas: row.replicas.clone(),
            learners: row.learners.clone(),
            in_sync: row.in_sync.clone(),
            in_sync_version: row.version,
            status: self.status_of(row),
            size_bytes: None,
            vectors: None,
            revision,
        }
    }

    fn status_of(&self, row: &ShardRow) -> ShardStatus {
        let Some(primary) = row.primary.as_ref().filter(|_| !row.founding) else {
            return ShardStatus::Unassigned;
        };
        let full = |id: &&NodeId| self.is_alive(id) && !row.learners.contains(id);
        let count = row.in_sync.iter().filter(full).count();
        if row.lost || !self.is_alive(primary) {
            ShardStatus::Unavailable
        } else if count < self.options.replication_factor as usize {
            ShardStatus::Degraded
        } else if row.migration.is_some() {
            ShardStatus::Migrating
        } else {
            ShardStatus::Active
        }
    }

    fn view_of_node(&self, id: &NodeId, row: &NodeRow, revision: Revision) -> Node {
        let rows = || self.shards.iter().zip(0..);
        let (said, leads) = (&row.said, rows().filter(|(shard, _)| shard.leads(id)));
        Node {
            id: id.clone(),
            addr: said.addr.clone(),
            store_id: said.store_id.clone(),
            zone: said.zone.clone(),
            rack: said.rack.clone(),
            labels: said.labels.clone(),
            capacity: said.capacity.unwrap_or(Thousandths::ONE),
            capacity_bytes: said.capacity_bytes,
            status: if row.down { NodeStatus::Down } else { NodeStatus::Alive },
            intent: Intent::Schedulable,
            incarnation: row.incarnation,
            shards: rows()
                .filter(|(shard, _)| Self::holds(shard, id))
                .map(|(_, shard)| ShardId(shard))
                .collect(),
            primaries: leads.count() as u64,
            size_bytes: None,
            last_heartbeat: None,
            heard_by_gossip: None,
            revision,
        }
    }

    pub(super) fn shard_view(&self, id: ShardId) -> Option<Shard> {
        let mut view = self.views.shards.get(&id)?.clone();
        let primary = view.primary.as_ref().and_then(|primary| self.nodes.get(primary));
        let held = primary.and_then(|row| row.held.get(&id));
        view.size_bytes = held.map(|held| held.size_bytes);
        view.vectors = held.map(|held| held.vectors);
        Some(view)
    }

    pub(super) fn node_view(&self, id: &NodeId) -> Option<Node> {
        let (mut view, row) = (self.views.nodes.get(id)?.clone(), self.nodes.get(id)?);
        view.size_bytes = row.heard_at.map(|_| row.held.values().map(|held| held.size_bytes).sum());
        view.last_heartbeat = row.heard_at;
        Some(view)
    }

    pub(super) fn migration_view(&self, id: MigrationId) -> Option<Migration> {
        let mut view = self.views.migrations.get(&id)?.clone();
        let bytes = self.migration(id)?.bytes;
        view.bytes_done = bytes.map(|bytes| bytes.0);
        view.bytes_total = bytes.map(|bytes| bytes.1);
        Some(view)
    }

    pub(super) fn held_by(&self, node: &NodeId) -> Vec<HeldShard> {
        self.nodes.get(node).iter().flat_map(|row| row.held.values().copied()).collect()
    }

    pub(super) fn installed_at(&self, node: &NodeId) -> Revision {
        self.nodes.get(node).map_or(Revision(0), |row| row.installed)
    }

    pub(super) fn map(&self) -> ShardMap {
        let nodes = self.nodes.iter().map(|(id, row)| {
            let status = if row.down { NodeStatus::Down } else { NodeStatus::Alive };
            let (addr, zone, rack) = (row.said.addr.clone(), row.said.zone.clone(), row.said.rack.clone());
            (id.clone(), MapNode { addr, zone, rack, status })
        });
        let shards = self.shards.iter().map(|row| MapShard {
            epoch: row.epoch,
            primary: row.primary.clone().filter(|_| !row.founding),
            replicas: row.replicas.clone(),
            in_sync: row.in_sync.clone(),
        });
        ShardMap {
            generation: GENERATION,
            revision: self.revision,
            cluster_id: "test".to_owned(),
            key_hash: "xxh64".to_owned(),
            shard_hash: "jump".to_owned(),
            num_shards: self.options.num_shards,
            replication_factor: self.options.replication_factor,
            nodes: nodes.collect(),
            shards: shards.collect(),
        }
    }

    /// One control node, which leads. `at` is where it was asked.
    pub(super) fn cluster(&self, at: &str) -> ClusterView {
        let url = format!("http://{at}");
        // A name of that alphabet.
        let id = NodeId::new("n1").ok();
        ClusterView {
            cluster_id: "test".to_owned(),
            generation: GENERATION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leader: id.clone().map(|id| LeaderInfo { id, url: url.clone() }),
            term: 1,
            revision: self.revision,
            members: id.into_iter().map(|id| member(id, &url)).collect(),
            num_shards: self.options.num_shards,
            replication_factor: self.options.replication_factor,
            lease_ms: self.options.lease_ms,
            suspended: false,
            state_hash: None,
        }
    }
}

fn member(id: NodeId, url: &str) -> Member {
    Member {
        id,
        raft_id: 1,
        role: MemberRole::Voter,
        client_url: url.to_owned(),
        peer_url: url.to_owned(),
        matched: None,
        last_contact_ms: Some(0),
    }
}

fn view_of_migration(row: &MigrationRow, revision: Revision) -> Migration {
    Migration {
        id: row.id,
        shard: row.shard,
        kind: row.kind,
        from: row.from.clone(),
        to: row.to.clone(),
        epoch: row.epoch,
        phase: row.phase,
        reason: "the test wants it".to_owned(),
        bytes_done: None,
        bytes_total: None,
        eta_ms: None,
        error: row.error.clone(),
        created_at: row.created_at,
        updated_at: row.updated_at,
        revision,
    }
}
