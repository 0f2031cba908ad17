//! What a map says of a shard, of a node, and of where a key goes: borrowed, so that nothing is copied or allocated.

use std::ops::Deref;
use std::sync::Arc;

use super::compact::CompactMap;
use super::places::Place;
use super::row::{Head, Seat};
use crate::ids::{Epoch, NodeId, Revision, ShardId};
use crate::wire::{MapNode, NodeStatus, Route, RouteNode};

/// A shard of a map.
#[derive(Clone, Copy, Debug)]
pub struct ShardView<'a> {
    /// Its number.
    pub id: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    map: &'a CompactMap,
    head: Head,
    seats: &'a [Seat],
}

impl<'a> ShardView<'a> {
    #[inline]
    pub(super) fn new(map: &'a CompactMap, id: ShardId, head: Head, seats: &'a [Seat]) -> Self {
        Self { id, epoch: head.epoch, map, head, seats }
    }

    /// Who takes its writes.
    #[inline]
    pub fn primary(&self) -> Option<NodeView<'a>> {
        let seat = self.seats.first().filter(|_| self.head.has_primary)?;
        self.node(*seat)
    }

    /// The full copies other than the primary, in order.
    pub fn replicas(&self) -> impl Iterator<Item = NodeView<'a>> + use<'a> {
        let (shard, full) = (*self, usize::from(self.head.full));
        let seats = &self.seats[usize::from(self.head.has_primary)..full];
        seats.iter().filter_map(move |seat| shard.node(*seat))
    }

    /// The in-sync set, the primary first.
    pub fn in_sync(&self) -> impl Iterator<Item = NodeView<'a>> + use<'a> {
        let shard = *self;
        let seats = self.seats.iter().filter(|seat| seat.is_in_sync());
        seats.filter_map(move |seat| shard.node(*seat))
    }

    #[inline]
    fn node(&self, seat: Seat) -> Option<NodeView<'a>> {
        self.map.place(seat.place()).map(NodeView::new)
    }
}

/// A node of a map.
#[derive(Clone, Copy, Debug)]
pub struct NodeView<'a> {
    /// Its name.
    pub id: &'a NodeId,
    place: &'a Place,
}

impl<'a> NodeView<'a> {
    #[inline]
    pub(super) fn new(place: &'a Place) -> Self {
        Self { id: &place.id, place }
    }

    /// `host:port` where it answers; none for a node that was deleted.
    #[inline]
    pub fn addr(&self) -> Option<&'a str> {
        self.place.addr.as_deref()
    }

    /// Its committed status; none for a node that was deleted.
    #[inline]
    pub fn status(&self) -> Option<NodeStatus> {
        self.place.addr.as_ref().map(|_| self.place.status)
    }

    /// Failure domain above racks.
    pub fn zone(&self) -> Option<&'a str> {
        self.place.zone()
    }

    /// Failure domain above nodes.
    pub fn rack(&self) -> Option<&'a str> {
        self.place.rack()
    }

    pub(super) fn to_map_node(self) -> Option<MapNode> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let (zone, rack) = (owned(self.zone()), owned(self.rack()));
        Some(MapNode { addr: self.addr()?.to_owned(), zone, rack, status: self.status()? })
    }

    /// Owned, of a node that can be reached by its address.
    pub fn to_wire(&self) -> Option<RouteNode> {
        Some(RouteNode { id: self.id.clone(), addr: self.addr()?.to_owned() })
    }
}

/// A map that is read: it stays as it is while this is held. To be dropped soon, and not kept across waits; whoever keeps a map
/// for longer takes it by [`MapCache::get`](super::MapCache::get).
#[derive(Debug)]
pub struct MapGuard(pub(super) arc_swap::Guard<Arc<CompactMap>>);

impl Deref for MapGuard {
    type Target = CompactMap;
    #[inline]
    fn deref(&self) -> &CompactMap {
        &self.0
    }
}

/// Where a key goes by one map.
#[derive(Debug)]
pub struct Routed {
    map: MapGuard,
    shard: ShardId,
    epoch: Epoch,
}

impl Routed {
    #[inline]
    pub(super) fn new(map: MapGuard, key: &str) -> Option<Self> {
        let shard = map.shard_of_key(key);
        let epoch = map.shard(shard)?.epoch;
        Some(Self { map, shard, epoch })
    }

    /// The key's shard.
    #[inline]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The shard's epoch, which goes with each request.
    #[inline]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The shard, with its copies.
    #[inline]
    pub fn view(&self) -> Option<ShardView<'_>> {
        self.map.shard(self.shard)
    }

    /// Who takes its writes, if there is such a node.
    #[inline]
    pub fn primary(&self) -> Option<NodeView<'_>> {
        self.view()?.primary().filter(|node| node.addr().is_some())
    }

    /// The full copies other than the primary, in order.
    pub fn replicas(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.view().into_iter().flat_map(|shard| shard.replicas()).filter(|node| node.addr().is_some())
    }

    /// The in-sync set, the primary first.
    pub fn in_sync(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.view().into_iter().flat_map(|shard| shard.in_sync())
    }

    /// As in the map.
    pub fn generation(&self) -> u64 {
        self.map.generation
    }

    /// As in the map.
    pub fn revision(&self) -> Revision {
        self.map.revision
    }

    /// Owned, as `GET /v1/route` answers.
    pub fn to_wire(&self, key: &str) -> Route {
        Route {
            key: key.to_owned(),
            shard: self.shard,
            epoch: self.epoch,
            primary: self.primary().and_then(|node| node.to_wire()),
            replicas: self.replicas().filter_map(|node| node.to_wire()).collect(),
            generation: self.generation(),
            revision: self.revision(),
        }
    }
}
