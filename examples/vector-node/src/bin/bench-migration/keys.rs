//! The keys of the run, what they are for, and what was promised of each.
//!
//! Every shard has as many keys as every other, all written once before anything is measured. Of these, some are written
//! again and again by the load, one by the writer of a shard that moves, some by the clients whose history is judged; the
//! rest never change, so that a search for one of them has one right answer.
//!
//! A value carries its version, which no other write of the key has. A key has one write under way at a time, those of the
//! history apart; once the outcome of one is unknown, the load writes it no more.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ruvector_cluster_client::hashing::shard_of_key;
use ruvector_cluster_client::ids::ShardId;
use serde_json::{Value, json};

/// Components of each vector.
pub(crate) const DIMENSIONS: usize = 128;
/// Keys of a shard for the clients whose history is judged.
const JUDGED: usize = 8;
/// One key in so many is written by the load.
const LIVE_IN: usize = 10;

/// A key by its place.
pub(crate) type KeyIndex = usize;

/// How far the writes of a key are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    /// The highest acknowledged.
    pub(crate) acknowledged: u32,
    /// The highest sent.
    pub(crate) attempted: u32,
    /// Sent, with an outcome that nobody knows.
    pub(crate) unknown: Vec<u32>,
    busy: bool,
}

impl Versions {
    /// Whether a read may find `version` that was called when `before` stood, and returned at these.
    pub(crate) fn allow(&self, before: u32, version: u32) -> bool {
        (before..=self.attempted).contains(&version) || self.unknown.contains(&version)
    }
}

/// All keys.
pub(crate) struct Keys {
    names: Vec<String>,
    per_shard: usize,
    versions: Mutex<Vec<Versions>>,
}

impl Keys {
    /// `per_shard` keys of each of `shards` shards.
    pub(crate) fn new(shards: u32, per_shard: usize) -> Self {
        let mut by_shard: Vec<Vec<String>> = vec![Vec::new(); shards as usize];
        let mut missing = by_shard.len() * per_shard;
        for n in 0_u64.. {
            if missing == 0 {
                break;
            }
            let name = format!("v{n}");
            let of_shard = &mut by_shard[shard_of_key(&name, shards).0 as usize];
            if of_shard.len() < per_shard {
                of_shard.push(name);
                missing -= 1;
            }
        }
        let names: Vec<String> = by_shard.into_iter().flatten().collect();
        let versions = Mutex::new(vec![Versions::default(); names.len()]);
        Self { names, per_shard, versions }
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    /// How many shards.
    pub(crate) fn shards(&self) -> u32 {
        u32::try_from(self.names.len() / self.per_shard).unwrap_or(u32::MAX)
    }

    /// Its name.
    pub(crate) fn name(&self, key: KeyIndex) -> &str {
        &self.names[key]
    }

    /// Its shard.
    pub(crate) fn shard(&self, key: KeyIndex) -> ShardId {
        ShardId(u32::try_from(key / self.per_shard).unwrap_or(u32::MAX))
    }

    /// The key that the writer of `shard` writes while it moves.
    pub(crate) fn moving(&self, shard: ShardId) -> KeyIndex {
        shard.0 as usize * self.per_shard
    }

    /// The keys of `shard` whose history is judged.
    pub(crate) fn judged(&self, shard: ShardId) -> std::ops::Range<KeyIndex> {
        let first = self.moving(shard) + 1;
        first..first + JUDGED
    }

    /// A key that the load writes, by `choice`.
    pub(crate) fn live(&self, choice: usize) -> KeyIndex {
        let live = self.per_shard / LIVE_IN;
        let (shard, place) = (choice % self.shards() as usize, choice / self.shards() as usize % live);
        shard * self.per_shard + 1 + JUDGED + place
    }

    /// A key that never changes, by `choice`.
    pub(crate) fn still(&self, choice: usize) -> KeyIndex {
        let first = 1 + JUDGED + self.per_shard / LIVE_IN;
        let (shard, place) = (choice % self.shards() as usize, choice / self.shards() as usize);
        shard * self.per_shard + first + place % (self.per_shard - first)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Versions>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is.
    pub(crate) fn versions(&self, key: KeyIndex) -> Versions {
        self.lock()[key].clone()
    }

    /// The next version to write; none while another write is under way, or the outcome of one is unknown.
    pub(crate) fn attempt(&self, key: KeyIndex) -> Option<u32> {
        let versions = &mut self.lock()[key];
        if versions.busy || !versions.unknown.is_empty() {
            return None;
        }
        versions.busy = true;
        versions.attempted += 1;
        Some(versions.attempted)
    }

    /// A version of a judged key, which may have several writes under way.
    pub(crate) fn attempt_judged(&self, key: KeyIndex) -> u32 {
        let versions = &mut self.lock()[key];
        versions.attempted += 1;
        versions.attempted
    }

    /// What came of a write.
    pub(crate) fn settle(&self, key: KeyIndex, version: u32, outcome: Written) {
        let versions = &mut self.lock()[key];
        versions.busy = false;
        match outcome {
            Written::Yes => versions.acknowledged = versions.acknowledged.max(version),
            Written::No => {}
            Written::Unknown => versions.unknown.push(version),
        }
    }
}

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It was acknowledged.
    Yes,
    /// It was refused, and nothing was done.
    No,
    /// It may or may not be there.
    Unknown,
}

/// The vector of a key's version: small exact numbers, the version first.
pub(crate) fn vector_of(name: &str, version: u32) -> Vec<f32> {
    // FNV-1a, then a step of splitmix64 a component.
    let seed = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let component = |place: u64| {
        let mut mixed = seed.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Ten bits: exact as a float and as a decimal.
        ((mixed >> 54) as f32 - 512.0) / 64.0
    };
    let mut vector: Vec<f32> = (0..DIMENSIONS as u64).map(component).collect();
    // Exact below 2^24.
    vector[0] = version as f32;
    vector
}

/// The version that a vector carries, where it is one of the key's.
pub(crate) fn version_of(name: &str, vector: &[f32]) -> Option<u32> {
    let version = *vector.first()? as u32;
    (vector_of(name, version) == vector).then_some(version)
}

/// A point as `POST /v1/vectors` takes it.
pub(crate) fn point(name: &str, version: u32) -> Value {
    json!({"id": name, "vector": vector_of(name, version), "metadata": {"version": version}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_in_their_shards_and_have_one_use() {
        let keys = Keys::new(3, 100);
        assert_eq!((keys.count(), keys.shards()), (300, 3));
        for key in 0..keys.count() {
            assert_eq!(shard_of_key(keys.name(key), 3), keys.shard(key));
        }
        let live: std::collections::BTreeSet<_> = (0..1_000).map(|choice| keys.live(choice)).collect();
        let still: std::collections::BTreeSet<_> = (0..1_000).map(|choice| keys.still(choice)).collect();
        assert_eq!((live.len(), still.len()), (30, 3 * (100 - 9 - 10)));
        let judged = |shard| keys.judged(ShardId(shard));
        for other in (0..3).flat_map(|shard| judged(shard).chain([keys.moving(ShardId(shard))])) {
            assert!(!live.contains(&other) && !still.contains(&other));
        }
        assert!(live.is_disjoint(&still));
    }

    #[test]
    fn a_vector_tells_its_version_and_no_other_keys() {
        let vector = vector_of("v7", 77);
        assert_eq!((version_of("v7", &vector), version_of("v8", &vector)), (Some(77), None));
        let through_json: Vec<f32> = serde_json::from_value(json!(vector)).unwrap();
        assert_eq!(through_json, vector);
    }

    #[test]
    fn a_key_is_written_by_one_at_a_time_and_not_after_an_unknown_outcome() {
        let keys = Keys::new(1, 100);
        assert_eq!(keys.attempt(20), Some(1));
        assert_eq!(keys.attempt(20), None);
        keys.settle(20, 1, Written::Yes);
        assert_eq!(keys.attempt(20), Some(2));
        keys.settle(20, 2, Written::No);
        assert!(keys.versions(20).allow(1, 1) && !keys.versions(20).allow(1, 3));
        assert_eq!(keys.attempt(20), Some(3));
        keys.settle(20, 3, Written::Unknown);
        assert_eq!(keys.attempt(20), None);
        assert!(!keys.versions(20).allow(3, 1) && keys.versions(20).allow(9, 3));
    }
}
