//! The nodes of a map, by small integers.
//!
//! Whoever has a copy has a place, also one that the registry does not (or no longer) know. A place is never given to
//! another node while the map lives on; the map is built anew when those that stand empty become many.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::NodeId;
use crate::wire::{MapNode, NodeStatus};

/// Places that are copied together when one of them changes.
const CHUNK: usize = 64;

/// A node, and where it is. One line of the processor's cache has it.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Place {
    pub(super) id: NodeId,
    /// None where the registry has no such node.
    pub(super) addr: Option<Arc<str>>,
    pub(super) status: NodeStatus,
    domains: Option<Arc<Domains>>,
}

/// Where nodes fail together.
#[derive(Debug)]
struct Domains {
    zone: Option<String>,
    rack: Option<String>,
}

impl Place {
    fn new(id: NodeId, at: Option<MapNode>) -> Self {
        let Some(MapNode { addr, zone, rack, status }) = at else {
            return Self { id, addr: None, status: NodeStatus::Down, domains: None };
        };
        let named = zone.is_some() || rack.is_some();
        let domains = named.then(|| Arc::new(Domains { zone, rack }));
        Self { id, addr: Some(addr.into()), status, domains }
    }

    pub(super) fn zone(&self) -> Option<&str> {
        self.domains.as_ref()?.zone.as_deref()
    }

    pub(super) fn rack(&self) -> Option<&str> {
        self.domains.as_ref()?.rack.as_deref()
    }

    fn bytes(&self) -> usize {
        let counts = 2 * size_of::<usize>();
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
        let domains = |of: &Arc<Domains>| counts + size_of::<Domains>() + text(&of.zone) + text(&of.rack);
        let texts = self.id.as_str().len() + self.addr.as_ref().map_or(0, |addr| addr.len());
        size_of::<Self>() + 2 * counts + texts + self.domains.as_ref().map_or(0, domains)
    }
}

/// All places. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Places {
    chunks: Arc<[Arc<[Place]>]>,
    /// Only whoever changes the map, or asks for a node by name, looks here.
    index: Arc<BTreeMap<NodeId, u32>>,
    known: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self { chunks: Arc::new([]), index: Arc::default(), known: 0 }
    }
}

impl Places {
    /// Of the registry's nodes.
    pub(super) fn new(nodes: BTreeMap<NodeId, MapNode>) -> Self {
        let mut index = BTreeMap::new();
        let mut places = Vec::with_capacity(nodes.len());
        for ((id, at), place) in nodes.into_iter().zip(0..) {
            index.insert(id.clone(), place);
            places.push(Place::new(id, Some(at)));
        }
        let chunks = places.chunks(CHUNK).map(Arc::from).collect();
        Self { chunks, known: places.len(), index: Arc::new(index) }
    }

    #[inline]
    pub(super) fn get(&self, place: u32) -> Option<&Place> {
        let place = place as usize;
        self.chunks.get(place / CHUNK)?.get(place % CHUNK)
    }

    pub(super) fn of(&self, id: &NodeId) -> Option<u32> {
        self.index.get(id).copied()
    }

    /// The place of `id`; a new one where it has none.
    pub(super) fn intern(&mut self, id: &NodeId) -> u32 {
        if let Some(place) = self.of(id) {
            return place;
        }
        let place = self.index.len();
        let node = Place::new(id.clone(), None);
        match self.chunks.last() {
            Some(last) if last.len() < CHUNK => {
                let longer: Arc<[Place]> = last.iter().cloned().chain([node]).collect();
                if let Some(last) = Arc::make_mut(&mut self.chunks).last_mut() {
                    *last = longer;
                }
            }
            Some(_) | None => self.chunks = self.chunks.iter().cloned().chain([Arc::from([node])]).collect(),
        }
        // A seat has 31 bits for it: more names than that do not fit into memory.
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        Arc::make_mut(&mut self.index).insert(id.clone(), place);
        place
    }

    /// Says where a node is, or that the registry has it no longer.
    pub(super) fn set(&mut self, id: &NodeId, at: Option<MapNode>) {
        let place = match (self.of(id), &at) {
            (Some(place), _) => place,
            (None, Some(_)) => self.intern(id),
            (None, None) => return,
        };
        let (chunk, within) = (place as usize / CHUNK, place as usize % CHUNK);
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(chunk);
        let Some(held) = chunk.and_then(|chunk| Arc::make_mut(chunk).get_mut(within)) else { return };
        match (held.addr.is_some(), at.is_some()) {
            (false, true) => self.known += 1,
            (true, false) => self.known -= 1,
            (true, true) | (false, false) => {}
        }
        *held = Place::new(held.id.clone(), at);
    }

    /// The registry's nodes, by name.
    pub(super) fn known(&self) -> impl Iterator<Item = &Place> {
        self.index.values().filter_map(|place| self.get(*place).filter(|place| place.addr.is_some()))
    }

    pub(super) fn known_count(&self) -> usize {
        self.known
    }

    /// Places of nodes that the registry does not have.
    pub(super) fn empty_count(&self) -> usize {
        self.index.len() - self.known
    }

    /// Bytes that they take, what the allocator adds apart; the index is counted as if it were full to two thirds.
    pub(super) fn bytes(&self) -> usize {
        let places: usize = self.index.values().filter_map(|at| self.get(*at)).map(Place::bytes).sum();
        places + self.index.len() * (size_of::<NodeId>() + size_of::<u32>()) * 3 / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_line_of_the_cache() {
        assert_eq!(size_of::<Place>(), 64);
    }
}
