//! What the client asked of each shard, so that it can be told which node that fell on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use ruvector_cluster_client::hashing::shard_of_key;
use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_client::wire::ShardMap;

/// Answered requests by shard, since the beginning.
#[derive(Debug)]
pub(crate) struct Asked {
    reads: Vec<AtomicU64>,
    writes: Vec<AtomicU64>,
}

/// The same at one time.
pub(crate) struct Counts(Vec<(u64, u64)>);

impl Asked {
    /// Nothing yet.
    pub(crate) fn new(num_shards: u32) -> Self {
        let zeros = || (0..num_shards).map(|_| AtomicU64::new(0)).collect();
        Self { reads: zeros(), writes: zeros() }
    }

    fn shard(&self, key: &str) -> usize {
        let count = u32::try_from(self.reads.len()).unwrap_or(u32::MAX);
        shard_of_key(key, count).0 as usize
    }

    /// One read.
    pub(crate) fn read(&self, key: &str) {
        self.reads[self.shard(key)].fetch_add(1, Ordering::Relaxed);
    }

    /// One write.
    pub(crate) fn wrote(&self, key: &str) {
        self.writes[self.shard(key)].fetch_add(1, Ordering::Relaxed);
    }

    /// A search, which reads every shard.
    pub(crate) fn searched(&self) {
        self.reads.iter().for_each(|reads| {
            reads.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// As it is now.
    pub(crate) fn counts(&self) -> Counts {
        let both = self.reads.iter().zip(&self.writes);
        Counts(
            both.map(|(reads, writes)| (reads.load(Ordering::Relaxed), writes.load(Ordering::Relaxed)))
                .collect(),
        )
    }
}

impl Counts {
    /// What fell on each of `nodes` since `before`: reads on primaries, writes on every copy.
    pub(crate) fn by_node(&self, before: &Counts, map: &ShardMap, nodes: &[NodeId]) -> BTreeMap<NodeId, u64> {
        let mut loads: BTreeMap<NodeId, u64> = nodes.iter().map(|node| (node.clone(), 0)).collect();
        for ((now, before), shard) in self.0.iter().zip(&before.0).zip(&map.shards) {
            let (reads, writes) = (now.0 - before.0, now.1 - before.1);
            for node in shard.primary.iter().chain(&shard.replicas) {
                let reads = if shard.primary.as_ref() == Some(node) { reads } else { 0 };
                *loads.entry(node.clone()).or_default() += reads + writes;
            }
        }
        loads
    }
}

/// How much is on the node with the most, and how much on the mean node.
pub(crate) struct Spread {
    /// The node with the most.
    pub(crate) fullest: NodeId,
    /// What it has.
    pub(crate) most: u64,
    /// What the node with the least has.
    pub(crate) least: u64,
    /// The most over the mean.
    pub(crate) factor: f64,
}

impl Spread {
    /// None where there is nothing.
    pub(crate) fn of(loads: &BTreeMap<NodeId, u64>) -> Option<Self> {
        let (fullest, most) = loads.iter().max_by_key(|(_, load)| **load)?;
        let least = *loads.values().min()?;
        let sum: u64 = loads.values().sum();
        let factor = *most as f64 * loads.len() as f64 / sum as f64;
        (sum > 0).then(|| Self { fullest: fullest.clone(), most: *most, least, factor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn the_fullest_node_is_told_against_the_mean() {
        let loads = BTreeMap::from([(id("a"), 30), (id("b"), 10), (id("c"), 20)]);
        let spread = Spread::of(&loads).unwrap();
        assert_eq!((spread.fullest, spread.most, spread.least, spread.factor), (id("a"), 30, 10, 1.5));
        assert!(Spread::of(&BTreeMap::new()).is_none());
        assert!(Spread::of(&BTreeMap::from([(id("a"), 0)])).is_none());
    }

    #[test]
    fn what_is_asked_counts_for_its_shard() {
        let asked = Asked::new(4);
        let before = asked.counts();
        asked.read("a");
        asked.wrote("a");
        asked.searched();
        let now = asked.counts();
        let sums = now.0.iter().zip(&before.0).map(|(now, before)| now.0 + now.1 - before.0 - before.1);
        let mut sums: Vec<u64> = sums.collect();
        sums.sort_unstable();
        assert_eq!(sums, [1, 1, 1, 3]);
    }
}
