//! The map in few bytes: immutable, and cheap to change into the next one.
//!
//! Invariant: applying the changes of all revisions up to R to a map gives what reading the map at R gives.
//! Caveat: `in_sync` is a set; it is told in the order of the copies here, and by name in [`CompactMap::to_wire`].

use std::sync::Arc;

use super::places::{Place, Places};
use super::row::{Head, MAX_COPIES, Rows, Seat};
use super::view::{NodeView, ShardView};
use crate::hashing;
use crate::ids::{Epoch, NodeId, Revision, ShardId};
use crate::wire::{MapNode, MapShard, Node, NodeStatus, ShardMap, WatchChange, WatchEvent};

/// Empty places beyond those of the nodes that there are, above which the map is built anew.
const MAX_EMPTY_PLACES: usize = 1_024;

/// Which map one is: ordered by generation, then revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapVersion {
    /// Raised by a restore.
    pub generation: u64,
    /// The published revision.
    pub revision: Revision,
}

/// A shard map as [`wire::ShardMap`](ShardMap) tells it, in about 32 bytes a shard. Cloning shares nearly all.
#[derive(Clone, Debug)]
pub struct CompactMap {
    /// Raised by a restore.
    pub generation: u64,
    /// The published revision.
    pub revision: Revision,
    /// Fixed at bootstrap.
    pub num_shards: u32,
    /// Copies wanted of each shard.
    pub replication_factor: u32,
    named: Arc<Named>,
    places: Places,
    rows: Rows,
    row_count: usize,
    is_read: bool,
}

/// What is said once for a cluster.
#[derive(Debug, Default)]
struct Named {
    cluster_id: String,
    key_hash: String,
    shard_hash: String,
}

impl CompactMap {
    /// No nodes, no shards; what is held before a map was read.
    pub(super) fn empty() -> Self {
        Self {
            generation: 0,
            revision: Revision(0),
            num_shards: 0,
            replication_factor: 0,
            named: Arc::default(),
            places: Places::default(),
            rows: Rows::new(0),
            row_count: 0,
            is_read: false,
        }
    }

    /// Packs a map.
    pub fn from_wire(map: ShardMap) -> Self {
        let named = Named { cluster_id: map.cluster_id, key_hash: map.key_hash, shard_hash: map.shard_hash };
        let mut packed = Self {
            generation: map.generation,
            revision: map.revision,
            num_shards: map.num_shards,
            replication_factor: map.replication_factor,
            named: Arc::new(named),
            places: Places::new(map.nodes),
            rows: Rows::new(map.shards.len()),
            row_count: map.shards.len(),
            is_read: true,
        };
        for (shard, at) in map.shards.iter().zip(0..) {
            packed.set_row(at, shard.epoch, shard.primary.as_ref(), &shard.replicas, &shard.in_sync);
        }
        packed
    }

    /// The map as control nodes write it, in-sync sets by name.
    pub fn to_wire(&self) -> ShardMap {
        let id = |node: NodeView<'_>| node.id.clone();
        let row = |shard: ShardView<'_>| {
            let mut in_sync: Vec<NodeId> = shard.in_sync().map(id).collect();
            in_sync.sort_unstable();
            let replicas = shard.replicas().map(id).collect();
            MapShard { epoch: shard.epoch, primary: shard.primary().map(id), replicas, in_sync }
        };
        ShardMap {
            generation: self.generation,
            revision: self.revision,
            cluster_id: self.named.cluster_id.clone(),
            key_hash: self.named.key_hash.clone(),
            shard_hash: self.named.shard_hash.clone(),
            num_shards: self.num_shards,
            replication_factor: self.replication_factor,
            nodes: self.nodes().filter_map(|node| Some((node.id.clone(), node.to_map_node()?))).collect(),
            shards: self.shards().map(row).collect(),
        }
    }

    /// Which map this is.
    pub fn version(&self) -> MapVersion {
        MapVersion { generation: self.generation, revision: self.revision }
    }

    /// The cluster's.
    pub fn cluster_id(&self) -> &str {
        &self.named.cluster_id
    }

    /// The shard of `key`.
    #[inline]
    pub fn shard_of_key(&self, key: &str) -> ShardId {
        hashing::shard_of_key(key, self.num_shards)
    }

    /// A shard.
    #[inline]
    pub fn shard(&self, shard: ShardId) -> Option<ShardView<'_>> {
        let (head, seats) = self.rows.get(shard.0 as usize)?;
        Some(ShardView::new(self, shard, head, seats))
    }

    /// All shards, in order.
    pub fn shards(&self) -> impl Iterator<Item = ShardView<'_>> {
        (0..self.row_count).filter_map(|shard| self.shard(ShardId(u32::try_from(shard).ok()?)))
    }

    /// A registered data node.
    pub fn node(&self, id: &NodeId) -> Option<NodeView<'_>> {
        let place = self.places.get(self.places.of(id)?)?;
        place.addr.is_some().then(|| NodeView::new(place))
    }

    /// All registered data nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.places.known().map(NodeView::new)
    }

    /// How many data nodes are registered.
    pub fn node_count(&self) -> usize {
        self.places.known_count()
    }

    /// Bytes that the map takes, what the allocator adds apart.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.rows.bytes() + self.places.bytes()
    }

    /// Whether a control node wrote it.
    pub(super) fn is_read(&self) -> bool {
        self.is_read
    }

    pub(super) fn place(&self, place: u32) -> Option<&Place> {
        self.places.get(place)
    }

    /// Makes the map that of the event's revision.
    pub(super) fn apply(&mut self, event: &WatchEvent) {
        for change in &event.changes {
            match change {
                WatchChange::Shard(shard) => self.set_row(
                    shard.id.0 as usize,
                    shard.epoch,
                    shard.primary.as_ref(),
                    &shard.replicas,
                    &shard.in_sync,
                ),
                WatchChange::Node(node) => self.places.set(&node.id, Some(map_node(node))),
                WatchChange::NodeRemoved { id } => self.places.set(id, None),
                WatchChange::Migration(_) | WatchChange::Policy { .. } | WatchChange::Other => {}
            }
        }
        self.revision = event.revision;
        if self.places.empty_count() > self.places.known_count() + MAX_EMPTY_PLACES {
            *self = Self::from_wire(self.to_wire());
        }
    }

    fn set_row(
        &mut self,
        shard: usize,
        epoch: Epoch,
        primary: Option<&NodeId>,
        replicas: &[NodeId],
        in_sync: &[NodeId],
    ) {
        if shard >= self.row_count {
            return;
        }
        let full: Vec<&NodeId> = primary.into_iter().chain(replicas).take(MAX_COPIES).collect();
        let others = in_sync.iter().filter(|id| !full.contains(id)).take(MAX_COPIES - full.len());
        let mut seats = Vec::with_capacity(full.len());
        for id in full.iter().copied().chain(others) {
            seats.push(Seat::new(self.places.intern(id), in_sync.contains(id)));
        }
        // Neither is above MAX_COPIES.
        let count = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        let (full, has_primary) = (count(full.len()), primary.is_some());
        let head = Head { epoch, seats: count(seats.len()), full, has_primary };
        self.rows.set(shard, head, &seats);
    }

    /// How many chunks of rows `other` does not share.
    #[cfg(test)]
    pub(super) fn unshared(&self, other: &Self) -> usize {
        self.rows.unshared(&other.rows)
    }
}

fn map_node(node: &Node) -> MapNode {
    let status = match node.status {
        NodeStatus::Down => NodeStatus::Down,
        // The map knows committed verdicts only.
        NodeStatus::Alive | NodeStatus::Suspect => NodeStatus::Alive,
    };
    MapNode { addr: node.addr.clone(), zone: node.zone.clone(), rack: node.rack.clone(), status }
}
