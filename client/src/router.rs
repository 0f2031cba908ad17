//! Routing by the cached map: from a key to its shard, from a shard to the nodes that may answer for it.
//!
//! A [`Router`] never asks the control nodes on a request's path: it answers from the map that [`watch`](crate::watch)
//! keeps fresh. Whoever was refused by a data node (a stale epoch, not the primary) waits for a newer map by
//! [`Router::refresh`], bounded: however many wait, one request for it is under way at most, and all are woken by its answer.

mod refresh;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::control::ControlClient;
use crate::ids::{Revision, ShardId};
use crate::map::{self, Freshness, MapCache, Routed};
use crate::watch::{FollowOptions, follow_map_by};
use crate::wire::{NodeStatus, RouteNode};
use refresh::{Demand, refresh_on_demand};

/// Routes by a map that tasks of its own keep fresh. Cloning is cheap; the tasks end with the last clone.
#[derive(Clone, Debug)]
pub struct Router {
    cache: MapCache,
    demand: Arc<Demand>,
    _tasks: Arc<[AbortOnDropHandle<()>; 2]>,
}

impl Router {
    /// Starts to follow the map; must be called within a tokio runtime.
    pub fn start(control: ControlClient, shutdown: CancellationToken) -> Self {
        Self::start_by(FollowOptions::default(), control, shutdown)
    }

    /// As [`Router::start`], by other bounds.
    pub fn start_by(options: FollowOptions, control: ControlClient, shutdown: CancellationToken) -> Self {
        let (cache, demand) = (MapCache::new(), Arc::new(Demand::default()));
        let follow = follow_map_by(options, control.clone(), cache.clone(), shutdown.clone());
        let refresh = refresh_on_demand(control, cache.clone(), demand.clone(), shutdown);
        let tasks = [tokio::spawn(follow), tokio::spawn(refresh)].map(AbortOnDropHandle::new);
        Self { cache, demand, _tasks: Arc::new(tasks) }
    }

    /// The cache that is kept fresh.
    pub fn cache(&self) -> &MapCache {
        &self.cache
    }

    /// How old the map may be, and why.
    pub fn freshness(&self) -> Freshness {
        self.cache.freshness()
    }

    /// Where `key` belongs; `None` until a map was read. Takes no lock and allocates nothing.
    #[inline]
    pub fn route(&self, key: &str) -> Option<Routed> {
        self.cache.route(key)
    }

    /// The shard of `key`; `None` until a map was read.
    pub fn shard_of_key(&self, key: &str) -> Option<ShardId> {
        self.cache.load().map(|map| map.shard_of_key(key))
    }

    /// The primary of `shard`, unless it has none or that is committed down.
    pub fn primary(&self, shard: ShardId) -> Option<RouteNode> {
        let map = self.cache.load()?;
        let primary = map::shard_of(&map, shard)?.primary()?;
        primary.to_wire().filter(|_| primary.status() != Some(NodeStatus::Down))
    }

    /// Waits until the map is newer than `seen`, at most `wait_ms`; says whether it is. Asks nobody for it.
    pub async fn newer_than(&self, seen: Option<Revision>, wait_ms: u64) -> bool {
        let mut held = self.cache.subscribe();
        let newer = |version: &Option<map::MapVersion>| version.map(|version| version.revision) > seen;
        let waited = tokio::time::timeout(Duration::from_millis(wait_ms), held.wait_for(newer)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// As [`Router::newer_than`], and has it asked for: for whoever was refused by a data node that knows of a newer epoch
    /// than the map of revision `seen`.
    pub async fn refresh(&self, seen: Option<Revision>, wait_ms: u64) -> bool {
        let _wanted = self.demand.wants_newer_than(seen);
        self.newer_than(seen, wait_ms).await
    }
}
