//! Placement by hashing, as baselines: each shard has an order of nodes, and its copies stand on the first that the hard rules
//! allow. Nothing is levelled: what hashing leaves uneven stays so.
//!
//! `ketama` is libketama's ring with the capacities as weights. `jump` draws buckets by jump consistent hash (Lamping and Veach,
//! 2014), draw after draw for copy after copy. Its buckets are all registered nodes, the oldest first: a newcomer is the last
//! bucket, to which alone the hash moves shards; and who is being emptied, or dead, keeps its bucket and is passed over, so that
//! only what stood there moves. Removing its row gives the buckets after it new numbers, and moves what they hold: jump hash
//! can't lose a bucket in the middle. A node of half the capacity of the largest turns down half of its draws.
//!
//! Orders are told as far as they are asked for: nearly always some nodes more than there are copies.

use std::iter;

use ruvector_cluster_client::hashing::{Ring, hash_of_key, jump_hash};
use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::Strategy;

use super::caps::is_usable;
use super::layout::{Counting, Layout};
use super::problem::{NodeIndex, Problem};

/// Draws of buckets before the rest is taken in turn: enough that this hardly ever happens.
const MAX_DRAWS: u32 = 128;

/// Each shard's order of nodes.
#[derive(Debug)]
pub(crate) struct Orders<'a> {
    shards: &'a [ShardId],
    hashing: Hashing,
}

#[derive(Debug)]
enum Hashing {
    /// Ring over the usable nodes, and which these are.
    Ketama(Ring, Vec<NodeIndex>),
    Jump(Buckets),
}

/// What `jump` draws from.
#[derive(Debug)]
struct Buckets {
    /// The oldest first, each with its weight if it is usable.
    nodes: Vec<(NodeIndex, Option<u64>)>,
    /// The largest weight.
    heaviest: u64,
}

impl<'a> Orders<'a> {
    /// By `strategy`; none for [`Strategy::Balanced`]. `joined_ms` tells by node when it first registered.
    pub(crate) fn of(
        problem: &Problem,
        nodes: &[NodeId],
        joined_ms: &[u64],
        shards: &'a [ShardId],
        strategy: Strategy,
    ) -> Option<Self> {
        let usable = (0..nodes.len()).filter(|node| is_usable(&problem.nodes[*node]));
        let hashing = match strategy {
            Strategy::Balanced => return None,
            Strategy::Ketama => {
                let usable: Vec<NodeIndex> = usable.collect();
                let weighted = usable.iter().map(|node| (&nodes[*node], problem.nodes[*node].weight));
                Hashing::Ketama(Ring::weighted(weighted), usable)
            }
            Strategy::Jump => Hashing::Jump(Buckets::of(problem, joined_ms)),
        };
        Some(Self { shards, hashing })
    }

    /// The order of the shard of that number. A node may come more than once.
    pub(crate) fn order(&self, shard: usize) -> Box<dyn Iterator<Item = NodeIndex> + '_> {
        let shard = self.shards[shard];
        match &self.hashing {
            Hashing::Ketama(ring, usable) => {
                Box::new(ring.places_from(&shard.to_string()).map(|place| usable[place]))
            }
            Hashing::Jump(buckets) => Box::new(buckets.order(shard)),
        }
    }
}

impl Buckets {
    fn of(problem: &Problem, joined_ms: &[u64]) -> Self {
        let weight =
            |node: NodeIndex| Some(problem.nodes[node].weight).filter(|_| is_usable(&problem.nodes[node]));
        let mut nodes: Vec<_> = (0..problem.nodes.len()).map(|node| (node, weight(node))).collect();
        nodes.sort_by_key(|(node, _)| (joined_ms.get(*node), *node));
        let heaviest = problem.nodes.iter().map(|node| node.weight).max().unwrap_or(0);
        Self { nodes, heaviest }
    }

    fn order(&self, shard: ShardId) -> impl Iterator<Item = NodeIndex> {
        let buckets = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let draws = if buckets == 0 { 0 } else { MAX_DRAWS };
        let drawn = (0..draws).filter_map(move |draw| {
            let bucket = jump_hash(hash_of_key(&format!("{shard}/{draw}")), buckets);
            let (node, weight) = self.nodes[bucket as usize];
            weight.filter(|weight| self.accepts(shard, draw, *weight)).map(|_| node)
        });
        let rest = iter::once(()).flat_map(move |()| {
            let start = jump_hash(hash_of_key(&shard.to_string()), buckets) as usize;
            let (before, from) = self.nodes.split_at(start.min(self.nodes.len()));
            from.iter().chain(before).filter(|(_, weight)| weight.is_some()).map(|(node, _)| *node)
        });
        drawn.chain(rest)
    }

    /// Whether a node of that weight takes the draw that met it: so many of them as its weight is of the largest.
    fn accepts(&self, shard: ShardId, draw: u32, weight: u64) -> bool {
        let chance = || u128::from(hash_of_key(&format!("{shard}/{draw}/weight")) >> 32);
        weight == self.heaviest || chance() * u128::from(self.heaviest) < u128::from(weight) << 32
    }
}

/// Moves copies to where the orders want them.
pub(crate) fn follow(layout: &mut Layout<'_>, orders: &Orders<'_>) {
    for shard in 0..layout.copies.len() {
        if !layout.is_movable(shard) {
            continue;
        }
        let wanted = wanted(layout, shard, orders.order(shard));
        // Each round moves one copy to a wanted place and none away from one.
        for _ in 0..wanted.len() {
            let Some((from, to)) = next_move(layout, shard, &wanted) else { break };
            layout.relocate(shard, from, to);
        }
    }
}

/// Gives primaryship to the first of each order that can lead.
pub(crate) fn lead(layout: &mut Layout<'_>, orders: &Orders<'_>) {
    for shard in 0..layout.copies.len() {
        let may_lead = |node: &NodeIndex| {
            let has_in_sync = layout.copies[shard].iter().any(|copy| copy.node == *node && copy.in_sync);
            has_in_sync && layout.problem.nodes[*node].usage.leads()
        };
        let heir = orders.order(shard).find(may_lead);
        if let Some(heir) = heir.filter(|heir| layout.is_movable(shard) && !layout.leads(shard, *heir)) {
            layout.promote(shard, heir);
        }
    }
}

/// The first nodes of the order on which copies keep the rules on zones and racks.
fn wanted(layout: &Layout<'_>, shard: usize, order: impl Iterator<Item = NodeIndex>) -> Vec<NodeIndex> {
    let problem = layout.problem;
    let mut wanted: Vec<NodeIndex> = Vec::with_capacity(layout.caps.copies);
    for node in order {
        if wanted.len() == layout.caps.copies {
            break;
        }
        let rack = problem.nodes[node].rack;
        let in_rack = wanted.iter().filter(|other| problem.nodes[**other].rack == rack).count();
        let zone = |node: NodeIndex| problem.zone_of_rack[problem.nodes[node].rack];
        let in_zone = wanted.iter().filter(|other| zone(**other) == zone(node)).count();
        let has_copy = layout.copies[shard].iter().any(|copy| copy.node == node);
        let may =
            has_copy || (layout.takes(node) && layout.has_room(shard, node) && !layout.has(shard, node));
        if may && in_rack < layout.caps.rack && in_zone < layout.caps.zone && !wanted.contains(&node) {
            wanted.push(node);
        }
    }
    wanted
}

fn next_move(layout: &Layout<'_>, shard: usize, wanted: &[NodeIndex]) -> Option<(NodeIndex, NodeIndex)> {
    let stays = |node: NodeIndex| wanted.contains(&node) || !layout.problem.nodes[node].usage.gives();
    let leaving = || layout.copies[shard].iter().map(|copy| copy.node).filter(|node| !stays(*node));
    let missing = wanted.iter().copied().filter(|node| !layout.has(shard, *node));
    let fits = |from: NodeIndex, to: NodeIndex| {
        layout.is_spread(shard, to, Some(from), Counting::All) && layout.may_inherit(shard, from, to)
    };
    missing.flat_map(|to| leaving().map(move |from| (from, to))).find(|(from, to)| fits(*from, *to))
}
