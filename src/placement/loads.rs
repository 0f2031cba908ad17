//! How loaded shards and nodes are.
//!
//! A shard's load is what its primary told: its reads and its writes, in thousandths of a request a second, of each the lower of
//! two averages ([`crate::load`]). Every copy has all writes, and the primary answers the reads: a node's load is the sum of its
//! copies' writes and of its primaries' reads. It is told as a share of what all nodes carry that can give and take, against the
//! node's share of their capacity; so 1,000 thousandths is the mean.
//!
//! Bytes are told in the same way: each copy has the bytes of its shard, as if they were its writes, and nobody reads.
//!
//! Both are scaled to 32 binary places, so that products of two loads and a weight stay far below 2^127.

use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::Phase;

use super::build::place_of;
use super::layout::Layout;
use super::problem::{NodeIndex, NodeSpec, Problem, ShardSpec};
use crate::metadata::Metadata;
use crate::soft::Soft;

/// So long after a migration of a shard, load moves it no more by itself: its rates are known anew, and nothing swings.
pub const COOL_DOWN_MS: u64 = 300_000;

/// Binary places of a share of the load or of the capacity.
const PLACES: u32 = 32;

/// All of the load, or of the capacity.
pub(crate) const ALL: i128 = 1 << PLACES;

/// Below so many thousandths of a request a second a node's mean load is nothing that could be levelled.
const LEAST_MEAN: u128 = 1_000;

/// Below so many bytes a node on average they count as even. A disk that could fill up holds hundreds of times as much; and a
/// tenth of that is copied in a second or two, so that small clusters would be shuffled for nothing anyone notices.
const LEAST_MEAN_BYTES: u128 = 1 << 30;

/// Of each shard, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loads {
    /// Answered by the primary, thousandths a second.
    pub(crate) reads: Vec<u64>,
    /// Carried out by every copy, thousandths a second.
    pub(crate) writes: Vec<u64>,
    /// Moved or handed over a moment ago.
    pub(crate) rests: Vec<bool>,
}

impl Loads {
    /// What is known of the problem's shards; none while no shard has any load.
    pub(crate) fn of(problem: &Problem, nodes: &[NodeId], shards: &[ShardId], soft: &Soft) -> Option<Self> {
        if soft.nodes.values().all(|said| said.load.shards.is_empty()) {
            return None;
        }
        let none = || vec![0; shards.len()];
        let mut loads = Self { reads: none(), writes: none(), rests: vec![false; shards.len()] };
        let mut is_primarys = vec![false; shards.len()];
        for (id, said) in &soft.nodes {
            let Ok(node) = nodes.binary_search(id) else { continue };
            for (shard, load) in &said.load.shards {
                let Some(place) = place_of(shards, *shard) else { continue };
                let first = problem.shards[place].copies.first();
                let is_own = first.is_some_and(|copy| copy.node == node);
                // An old primary's averages wait there until the new one is heard.
                if is_own || !is_primarys[place] {
                    loads.reads[place] = load.reads.sure();
                    loads.writes[place] = load.writes.sure();
                    is_primarys[place] |= is_own;
                }
            }
        }
        Some(loads)
    }

    /// The bytes of the problem's shards, as writes; none while nodes hold hardly any.
    pub(crate) fn of_bytes(problem: &Problem) -> Option<Self> {
        let count = |node: NodeIndex| counts(&problem.nodes[node]);
        let nodes = (0..problem.nodes.len()).filter(|node| count(*node)).count() as u128;
        let held = |shard: &ShardSpec| {
            let copies = shard.copies.iter().filter(|copy| count(copy.node)).count();
            u128::from(shard.bytes) * copies as u128
        };
        let (shards, all) = (problem.shards.len(), problem.shards.iter().map(held).sum::<u128>());
        (all >= LEAST_MEAN_BYTES * nodes).then(|| Self {
            reads: vec![0; shards],
            writes: problem.shards.iter().map(|shard| shard.bytes).collect(),
            rests: vec![false; shards],
        })
    }

    /// Shards whose last migration ended less than [`COOL_DOWN_MS`] ago are left alone.
    pub(crate) fn resting(self, metadata: &Metadata, shards: &[ShardId], now_ms: u64) -> Self {
        let mut rests = self.rests;
        for row in metadata.migrations().filter(|row| row.phase == Phase::Done) {
            if now_ms < row.updated_ms.saturating_add(COOL_DOWN_MS)
                && let Some(place) = place_of(shards, row.shard)
            {
                rests[place] = true;
            }
        }
        Self { rests, ..self }
    }

    /// Load of a shard's copy.
    pub(crate) fn of_copy(&self, shard: usize, leads: bool) -> u64 {
        self.writes[shard].saturating_add(if leads { self.reads[shard] } else { 0 })
    }
}

/// Whether the node's load counts, and can be changed.
pub(crate) fn counts(node: &NodeSpec) -> bool {
    node.usage.gives() && node.weight > 0
}

/// How loaded each node is, as shares.
#[derive(Clone, Debug)]
pub(crate) struct NodeLoads {
    /// By node; 0 where it does not count.
    pub(crate) load: Vec<i128>,
    /// By node; at least 1.
    pub(crate) weight: Vec<i128>,
    /// Thousandths a second of all nodes that count.
    total: u128,
    /// How many count.
    pub(crate) counted: u32,
}

impl NodeLoads {
    /// From where copies stand; none where there is nothing to level: no two nodes that count, or hardly any load.
    pub(crate) fn of(layout: &Layout<'_>, loads: &Loads) -> Option<Self> {
        let nodes = &layout.problem.nodes;
        let counted = u32::try_from(nodes.iter().filter(|node| counts(node)).count()).ok()?;
        let mut told = vec![0_u128; nodes.len()];
        for (shard, copies) in layout.copies.iter().enumerate() {
            for (place, copy) in copies.iter().enumerate() {
                told[copy.node] += u128::from(loads.of_copy(shard, place == 0));
            }
        }
        let of_counted = |each: &dyn Fn(NodeIndex) -> u128| -> u128 {
            (0..nodes.len()).filter(|node| counts(&nodes[*node])).map(each).sum()
        };
        let total = of_counted(&|node| told[node]);
        if counted < 2 || total < LEAST_MEAN * u128::from(counted) {
            return None;
        }
        let capacity = of_counted(&|node| u128::from(nodes[node].weight));
        let share = |node: NodeIndex, value: u128, of: u128| {
            if counts(&nodes[node]) { scaled(value, of) } else { 0 }
        };
        let load = (0..nodes.len()).map(|node| share(node, told[node], total)).collect();
        let weight = (0..nodes.len())
            .map(|node| share(node, u128::from(nodes[node].weight), capacity).max(1))
            .collect();
        Some(Self { load, weight, total, counted })
    }

    /// A shard's load as a share.
    pub(crate) fn share(&self, thousandths: u64) -> i128 {
        scaled(u128::from(thousandths), self.total)
    }

    /// The node's load over the mean, both by capacity, in thousandths.
    pub(crate) fn factor(&self, node: NodeIndex) -> u64 {
        u64::try_from(self.load[node] * 1_000 / self.weight[node]).unwrap_or(u64::MAX)
    }

    /// The node's load, thousandths a second.
    pub(crate) fn told(&self, node: NodeIndex) -> u64 {
        let load = u128::try_from(self.load[node]).unwrap_or(0);
        u64::try_from((load * self.total + (1 << (PLACES - 1))) >> PLACES).unwrap_or(u64::MAX)
    }

    /// Whether the node's load stays within `upto` thousandths of its share, or does not rise, where `more` comes.
    pub(crate) fn bears(&self, node: NodeIndex, more: i128, upto: u64) -> bool {
        more <= 0 || (self.load[node] + more) * 1_000 <= i128::from(upto) * self.weight[node]
    }

    /// `amount` goes from one to the other.
    pub(crate) fn shift(&mut self, from: NodeIndex, to: NodeIndex, amount: i128) {
        self.load[from] -= amount;
        self.load[to] += amount;
    }

    /// By how much the sum over all nodes of load squared over weight falls, when `amount` goes from one to the other.
    pub(crate) fn gain(&self, from: NodeIndex, to: NodeIndex, amount: i128) -> i128 {
        let (of_from, of_to) = (self.weight[from], self.weight[to]);
        let falls = of_to * amount * (2 * self.load[from] - amount);
        let rises = of_from * amount * (2 * self.load[to] + amount);
        (falls - rises) / (of_from * of_to)
    }

    /// What is to go from one to the other so that both are equally loaded for their capacity.
    pub(crate) fn ideal(&self, from: NodeIndex, to: NodeIndex) -> i128 {
        let (of_from, of_to) = (self.weight[from], self.weight[to]);
        (self.load[from] * of_to - self.load[to] * of_from) / (of_from + of_to)
    }

    /// Nodes that count, the most loaded for their capacity first.
    pub(crate) fn ranked(&self, layout: &Layout<'_>) -> Vec<NodeIndex> {
        let nodes = &layout.problem.nodes;
        let mut ranked: Vec<NodeIndex> = (0..nodes.len()).filter(|node| counts(&nodes[*node])).collect();
        ranked.sort_by_key(|node| {
            (std::cmp::Reverse((self.load[*node] << PLACES) / self.weight[*node]), *node)
        });
        ranked
    }
}

fn scaled(value: u128, of: u128) -> i128 {
    let share = value.checked_shl(PLACES).unwrap_or(u128::MAX) / of.max(1);
    // More than all is what a shard may have whose copies stand on nodes that don't count.
    i128::try_from(share).unwrap_or(i128::MAX).min(4 * ALL)
}
