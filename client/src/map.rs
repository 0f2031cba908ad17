//! The shard map as a client holds it: one immutable map, replaced whole, never by an older one.
//!
//! Readers take the map as it is by an atomic pointer: they wait for nobody, and nobody waits for them. Whoever changes it
//! makes a new one, which shares with the old one what did not change, and puts it in place.
//!
//! Invariants: (generation, revision) of the held map never falls. A change event is applied to a copy, so that whoever
//! holds a map sees one state. A key is routed without a lock and without allocation, the first time in a thread apart.
//! Caveat: the map may be behind the cluster; the epoch that goes with each data request makes that harmless.

mod compact;
mod freshness;
mod places;
mod row;
#[cfg(test)]
mod tests;
mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::ids::{Revision, ShardId};
use crate::wire::{ShardMap, WatchEvent};

pub use compact::{CompactMap, MapVersion};
use freshness::Noted;
pub use freshness::{Freshness, Way};
pub use view::{MapGuard, NodeView, Routed, ShardView};

/// The cached map; cloning is cheap and shares it.
#[derive(Clone, Debug)]
pub struct MapCache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// [`CompactMap::empty`] until `version` says otherwise.
    held: ArcSwap<CompactMap>,
    version: watch::Sender<Option<MapVersion>>,
    /// Held while a map is changed; no reader takes it.
    changing: Mutex<()>,
    noted: Mutex<Noted>,
}

impl Default for MapCache {
    fn default() -> Self {
        let inner = Inner {
            held: ArcSwap::from_pointee(CompactMap::empty()),
            version: watch::channel(None).0,
            changing: Mutex::default(),
            noted: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl MapCache {
    /// No map yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The map, if one was read; it can be kept.
    pub fn get(&self) -> Option<Arc<CompactMap>> {
        let map = self.inner.held.load_full();
        map.is_read().then_some(map)
    }

    /// The map, if one was read, to look something up: cheaper than [`MapCache::get`].
    #[inline]
    pub fn load(&self) -> Option<MapGuard> {
        let map = self.inner.held.load();
        map.is_read().then_some(MapGuard(map))
    }

    /// Which map is held.
    pub fn version(&self) -> Option<MapVersion> {
        self.load().map(|map| map.version())
    }

    /// Follows the map: the value is the version of what [`MapCache::get`] returns, or of an older one.
    pub fn subscribe(&self) -> watch::Receiver<Option<MapVersion>> {
        self.inner.version.subscribe()
    }

    /// Takes `map` unless it is older than the held one; says whether it did.
    pub fn install(&self, map: ShardMap) -> bool {
        let version = MapVersion { generation: map.generation, revision: map.revision };
        if self.version().is_some_and(|held| held >= version) {
            return false;
        }
        self.install_compact(CompactMap::from_wire(map))
    }

    /// As [`MapCache::install`], of a map that is packed already.
    pub fn install_compact(&self, map: CompactMap) -> bool {
        let _changing = self.changing();
        let newer = self.version().is_none_or(|held| held < map.version());
        if newer {
            self.publish(map);
        }
        newer
    }

    /// Applies the changes of one revision to the held map; says whether there was a map that is older than they are.
    pub fn apply(&self, event: &WatchEvent) -> bool {
        self.apply_all(std::slice::from_ref(event), event.revision)
    }

    /// Applies the changes of some revisions, in order, after which nothing else happened up to `revision`; readers see the
    /// last one only. Says whether there was a map that is older.
    pub fn apply_all(&self, events: &[WatchEvent], revision: Revision) -> bool {
        let _changing = self.changing();
        let Some(held) = self.get().filter(|held| held.revision < revision) else { return false };
        let mut map = CompactMap::clone(&held);
        drop(held);
        for event in events {
            if event.revision > map.revision {
                map.apply(event);
            }
        }
        map.revision = map.revision.max(revision);
        self.publish(map);
        true
    }

    /// Notes that nothing changed up to `revision`.
    pub fn bookmark(&self, revision: Revision) {
        self.apply_all(&[], revision);
    }

    /// Where `key` belongs by the held map; none until one was read.
    #[inline]
    pub fn route(&self, key: &str) -> Option<Routed> {
        Routed::new(self.load()?, key)
    }

    /// How old the map may be, and why.
    pub fn freshness(&self) -> Freshness {
        self.noted().freshness(self.version())
    }

    /// Notes that a control node just said that the held map is its own.
    pub(crate) fn note_current(&self, way: Way) {
        *self.noted() = Noted { current: Some((tokio::time::Instant::now(), way)), last_error: None };
    }

    /// Notes why that is not known.
    pub(crate) fn note_error(&self, error: String) {
        self.noted().last_error = Some(error);
    }

    fn publish(&self, map: CompactMap) {
        let version = map.version();
        self.inner.held.store(Arc::new(map));
        // After the map, so that whoever is woken finds it.
        self.inner.version.send_replace(Some(version));
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.inner.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A shard of the map.
pub fn shard_of(map: &CompactMap, shard: ShardId) -> Option<ShardView<'_>> {
    map.shard(shard)
}
