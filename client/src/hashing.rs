//! From a key to its shard: XXH64 with seed 0 over the key's UTF-8 bytes, then jump consistent hash.
//!
//! Everyone must compute the same shard for the same key, for ever: a client, a data node, a control node, another
//! language. `tests/data/hash_vectors.json` holds keys with their shards, computed by other implementations.
//! Which nodes hold a shard is never computed from a hash, but read from the map; the [`Ring`] is a placement
//! strategy that control nodes offer, and a baseline to measure against.

mod ring;

pub use ring::Ring;

use twox_hash::XxHash64;

use crate::ids::ShardId;

/// What the map calls [`hash_of_key`].
pub const KEY_HASH: &str = "xxh64";
/// What the map calls [`jump_hash`].
pub const SHARD_HASH: &str = "jump";

/// XXH64 of the key's UTF-8 bytes, seed 0.
pub fn hash_of_key(key: &str) -> u64 {
    XxHash64::oneshot(0, key.as_bytes())
}

/// The shard of `key` among `num_shards`; a `num_shards` of 0 counts as 1.
pub fn shard_of_key(key: &str, num_shards: u32) -> ShardId {
    ShardId(jump_hash(hash_of_key(key), num_shards))
}

/// Jump consistent hash (Lamping and Veach, 2014): a bucket below `buckets`, which changes for 1 in n of the hashes
/// when the n-th bucket is added. 0 `buckets` count as 1.
///
/// Each step needs the one before, so their latency is what a client pays for a key. Here a step stays among doubles, with the
/// same rounding as the published text, which turns each into an integer and back; a test compares the two.
pub fn jump_hash(mut hash: u64, buckets: u32) -> u32 {
    // Adding 2^52 to a double from 1 to below 2^32 rounds it to an integer; taking it away again is exact.
    const ROUND: f64 = (1_u64 << 52) as f64;
    let buckets = f64::from(buckets.max(1));
    // The bucket's number and one more.
    let mut after = 1.0_f64;
    loop {
        hash = hash.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let leap = (1_u64 << 31) as f64 / (hash >> 33).cast_signed().wrapping_add(1) as f64;
        let next = after * leap;
        if next >= buckets {
            // Below 2^32, as a double that was below `buckets` one step ago.
            return (after - 1.0) as u32;
        }
        let (nearest, above) = (next + ROUND - ROUND, next + ROUND - (ROUND - 1.0));
        after = if nearest > next { nearest } else { above };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Vector {
        key: String,
        xxh64: String,
        shard: BTreeMap<String, u32>,
    }

    #[derive(serde::Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[test]
    fn all_published_vectors_hash_to_their_shards() {
        let text = include_str!("../tests/data/hash_vectors.json");
        let file: Vectors = serde_json::from_str(text).unwrap();
        assert_eq!(file.vectors.len(), 131);
        for vector in &file.vectors {
            assert_eq!(hash_of_key(&vector.key).to_string(), vector.xxh64, "{:?}", vector.key);
            assert_eq!(vector.shard.len(), 8);
            for (count, shard) in &vector.shard {
                let found = shard_of_key(&vector.key, count.parse().unwrap());
                assert_eq!(found, ShardId(*shard), "{:?} of {count}", vector.key);
            }
        }
    }

    /// As published.
    fn published_jump_hash(mut key: u64, buckets: u32) -> u32 {
        let (mut b, mut j) = (-1_i64, 0_i64);
        while j < i64::from(buckets) {
            b = j;
            key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
            j = ((b + 1) as f64 * ((1_i64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
        }
        u32::try_from(b).unwrap()
    }

    #[test]
    fn jump_hash_is_the_published_one_to_the_last_bucket() {
        let sizes = [1, 2, 3, 7, 64, 1_000, 65_536, 1_000_000, 1 << 31, u32::MAX];
        let corners = [0, 1, u64::MAX, 1 << 33, (1 << 33) - 1, 0x9E37_79B9_7F4A_7C15];
        let spread = (0..20_000_u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17));
        for hash in spread.chain(corners) {
            for buckets in sizes {
                assert_eq!(
                    jump_hash(hash, buckets),
                    published_jump_hash(hash, buckets),
                    "{hash} of {buckets}"
                );
            }
        }
        assert_eq!(jump_hash(7, 0), 0);
    }

    /// Where the rounding of doubles decides: integers, as some ports take them, come to 48 (docs/hashing.md).
    #[test]
    fn jump_hash_rounds_as_doubles_do() {
        assert_eq!(jump_hash(1_673_232_497_983_283_878, 64), 63);
    }

    #[test]
    fn a_bucket_more_moves_keys_only_into_it() {
        for hash in (0..2_000_u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
            for buckets in 1..40 {
                let (before, after) = (jump_hash(hash, buckets), jump_hash(hash, buckets + 1));
                assert!(after == before || after == buckets, "{hash}: {before} -> {after} of {buckets} + 1");
            }
        }
    }

    #[test]
    fn no_shards_count_as_one() {
        assert_eq!(shard_of_key("vector-123", 0), ShardId(0));
    }
}
