//! The keys that clients use: a few of each shard, found by hashing as any client would.
//!
//! *Shared* keys are written by all clients and never deleted, so a linearizability checker can judge them by their values
//! alone. *Own* keys are written and deleted by one client only, so what may be found there at the end is known without one.

use ruvector_cluster_client::hashing::shard_of_key;
use ruvector_cluster_client::ids::ShardId;
use ruvector_cluster_client::replica::Key;

/// A key and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlacedKey {
    /// Its shard.
    pub shard: ShardId,
    /// The key.
    pub key: Key,
    /// The only client that writes it; none for a shared one.
    pub owner: Option<u32>,
}

/// `each` shared keys of every shard, ascending.
#[must_use]
pub fn shared(num_shards: u32, each: usize) -> Vec<PlacedKey> {
    spread("k", None, num_shards, each)
}

/// `each` keys of every shard that belong to client `owner`, ascending.
#[must_use]
pub fn own(num_shards: u32, each: usize, owner: u32) -> Vec<PlacedKey> {
    spread(&format!("own{owner}-"), Some(owner), num_shards, each)
}

fn spread(prefix: &str, owner: Option<u32>, num_shards: u32, each: usize) -> Vec<PlacedKey> {
    let mut left = vec![each; num_shards as usize];
    let mut found = Vec::new();
    let mut n = 0_u64;
    while left.iter().any(|left| *left > 0) {
        let key = format!("{prefix}{n}");
        let shard = shard_of_key(&key, num_shards);
        if let Some(left) = left.get_mut(shard.0 as usize).filter(|left| **left > 0) {
            *left -= 1;
            found.push(PlacedKey { shard, key: key.into(), owner });
        }
        n += 1;
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_has_its_keys() {
        let keys = shared(7, 3);
        assert_eq!(keys.len(), 21);
        assert!(keys.iter().all(|key| shard_of_key(&key.key, 7) == key.shard && key.owner.is_none()));
        assert!((0..7).all(|shard| keys.iter().filter(|key| key.shard.0 == shard).count() == 3));
    }
}
