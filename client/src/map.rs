//! The shard map as a client holds it: one immutable map, replaced whole, never by an older one.
//!
//! Invariant: (generation, revision) of the held map never falls. A change event is applied to a copy, so that whoever
//! holds a map sees one state.
//! Caveat: the map may be behind the cluster; the epoch that goes with each data request makes that harmless.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::watch;

use crate::hashing;
use crate::ids::{NodeId, Revision, ShardId};
use crate::wire::{
    MapNode, MapShard, Node, NodeStatus, Route, RouteNode, Shard, ShardMap, WatchChange, WatchEvent,
};

/// The cached map; cloning is cheap and shares it.
#[derive(Clone, Debug)]
pub struct MapCache {
    held: Arc<watch::Sender<Option<Arc<ShardMap>>>>,
}

impl Default for MapCache {
    fn default() -> Self {
        Self { held: Arc::new(watch::channel(None).0) }
    }
}

impl MapCache {
    /// No map yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The map, if one was read.
    pub fn get(&self) -> Option<Arc<ShardMap>> {
        self.held.borrow().clone()
    }

    /// Follows the map; the value is what [`MapCache::get`] returns.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<ShardMap>>> {
        self.held.subscribe()
    }

    /// Takes `map` unless it is older than the held one; says whether it did.
    pub fn install(&self, map: ShardMap) -> bool {
        self.held.send_if_modified(|held| {
            let newer =
                held.as_ref().is_none_or(|h| (h.generation, h.revision) < (map.generation, map.revision));
            if newer {
                *held = Some(Arc::new(map));
            }
            newer
        })
    }

    /// Applies the changes of one revision to the held map; says whether there was a map that is older than they are.
    pub fn apply(&self, event: &WatchEvent) -> bool {
        self.held.send_if_modified(|held| match held {
            Some(map) if map.revision < event.revision => {
                // A copy is made only when somebody still reads the old one.
                let map = Arc::make_mut(map);
                for change in &event.changes {
                    apply_change(map, change);
                }
                map.revision = event.revision;
                true
            }
            Some(_) | None => false,
        })
    }

    /// Notes that nothing changed up to `revision`.
    pub fn bookmark(&self, revision: Revision) {
        self.apply(&WatchEvent { revision, changes: Vec::new() });
    }

    /// Where `key` belongs by the held map.
    pub fn route(&self, key: &str) -> Option<Route> {
        let map = self.get()?;
        let shard = hashing::shard_of_key(key, map.num_shards);
        let row = map.shards.get(shard.0 as usize)?;
        let place = |id: &NodeId| Some(RouteNode { id: id.clone(), addr: map.nodes.get(id)?.addr.clone() });
        Some(Route {
            key: key.to_owned(),
            shard,
            epoch: row.epoch,
            primary: row.primary.as_ref().and_then(place),
            replicas: row.replicas.iter().filter_map(place).collect(),
            generation: map.generation,
            revision: map.revision,
        })
    }
}

/// A shard of the map.
pub fn shard_of(map: &ShardMap, shard: ShardId) -> Option<&MapShard> {
    map.shards.get(shard.0 as usize)
}

fn apply_change(map: &mut ShardMap, change: &WatchChange) {
    match change {
        WatchChange::Shard(shard) => {
            if let Some(row) = map.shards.get_mut(shard.id.0 as usize) {
                *row = map_shard(shard);
            }
        }
        WatchChange::Node(node) => {
            map.nodes.insert(node.id.clone(), map_node(node));
        }
        WatchChange::NodeRemoved { id } => {
            map.nodes.remove(id);
        }
        WatchChange::Migration(_) | WatchChange::Policy { .. } | WatchChange::Other => {}
    }
}

fn map_shard(shard: &Shard) -> MapShard {
    MapShard {
        epoch: shard.epoch,
        primary: shard.primary.clone(),
        replicas: shard.replicas.clone(),
        in_sync: shard.in_sync.clone(),
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
