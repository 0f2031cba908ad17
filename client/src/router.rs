//! Routing by the cached map: from a key to its shard, from a shard to the nodes that may answer for it.
//!
//! A [`Router`] never asks the control nodes on a request's path: it answers from the map that [`watch`](crate::watch)
//! keeps fresh. Whoever was refused by a data node (a stale epoch, not the primary) waits for a newer map, bounded.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::control::ControlClient;
use crate::hashing;
use crate::ids::{Revision, ShardId};
use crate::map::{self, MapCache};
use crate::watch::follow_map;
use crate::wire::{NodeStatus, Route, RouteNode, ShardMap};

/// Routes by a map that a task of its own keeps fresh. Cloning is cheap; the task ends with the last clone.
#[derive(Clone, Debug)]
pub struct Router {
    cache: MapCache,
    _follower: Arc<AbortOnDropHandle<()>>,
}

impl Router {
    /// Starts to follow the map; must be called within a tokio runtime.
    pub fn start(control: ControlClient, shutdown: CancellationToken) -> Self {
        let cache = MapCache::new();
        let follower = tokio::spawn(follow_map(control, cache.clone(), shutdown));
        Self { cache, _follower: Arc::new(AbortOnDropHandle::new(follower)) }
    }

    /// The cache that is kept fresh.
    pub fn cache(&self) -> &MapCache {
        &self.cache
    }

    /// Where `key` belongs; `None` until a map was read.
    pub fn route(&self, key: &str) -> Option<Route> {
        self.cache.route(key)
    }

    /// The shard of `key`; `None` until a map was read.
    pub fn shard_of_key(&self, key: &str) -> Option<ShardId> {
        self.cache.get().map(|map| hashing::shard_of_key(key, map.num_shards))
    }

    /// The primary of `shard`, unless it has none or that is committed down.
    pub fn primary(&self, shard: ShardId) -> Option<RouteNode> {
        let map = self.cache.get()?;
        let id = map::shard_of(&map, shard)?.primary.clone()?;
        let node = map.nodes.get(&id)?;
        (node.status != NodeStatus::Down).then(|| RouteNode { id, addr: node.addr.clone() })
    }

    /// Waits until the map is newer than `seen`, at most `wait_ms`; says whether it is.
    pub async fn newer_than(&self, seen: Option<Revision>, wait_ms: u64) -> bool {
        let mut held = self.cache.subscribe();
        let newer = |map: &Option<Arc<ShardMap>>| map.as_ref().map(|m| m.revision) > seen;
        let waited = tokio::time::timeout(Duration::from_millis(wait_ms), held.wait_for(newer)).await;
        matches!(waited, Ok(Ok(_)))
    }
}
