//! Nodes that take copies, the least loaded first: for those copies that must go somewhere, whatever the shares.
//!
//! Of equals the one whose turn it is by a fixed mixing of numbers, which differs from round to round: so the shards of one node
//! share their other copies with all racks and nodes. When the node is lost, all of these rebuild it together; and when another joins,
//! each node finds a shard that the newcomer may take.

use std::collections::BTreeSet;

use super::layout::{Counting, Layout};
use super::problem::NodeIndex;

/// Scale of a node's load: copies a thousandth of weight.
const LOAD_SCALE: u128 = 1 << 60;

/// What takers are ordered by: load, then turn.
type Rank = (u128, u64);

/// The takers of a layout, to be told of each change of a node's count.
#[derive(Debug)]
pub(crate) struct Takers {
    /// By rack, the least loaded first.
    nodes: Vec<BTreeSet<(Rank, NodeIndex)>>,
    /// The first rank in each rack that has takers.
    racks: BTreeSet<(Rank, usize)>,
    /// Under which each node stands.
    rank: Vec<Rank>,
}

/// How full `node` would be with one copy more, for its weight.
pub(crate) fn load(layout: &Layout<'_>, node: NodeIndex) -> u128 {
    scaled(layout.count[node] + 1, layout.problem.nodes[node].weight)
}

/// Primaries for its weight, with one more.
pub(crate) fn primary_load(layout: &Layout<'_>, node: NodeIndex) -> u128 {
    scaled(layout.primaries[node] + 1, layout.problem.nodes[node].weight)
}

/// A number that differs by node and round, and is the same whenever it is asked for (the finaliser of splitmix64).
fn turn(node: NodeIndex, copies: u64) -> u64 {
    let seed = (node as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ copies;
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn scaled(copies: u64, weight: u64) -> u128 {
    u128::from(copies) * LOAD_SCALE / u128::from(weight.max(1))
}

impl Takers {
    pub(crate) fn of(layout: &Layout<'_>) -> Self {
        let mut takers = Self {
            nodes: vec![BTreeSet::new(); layout.problem.zone_of_rack.len()],
            racks: BTreeSet::new(),
            rank: vec![(0, 0); layout.count.len()],
        };
        for node in 0..layout.count.len() {
            takers.tell(layout, node);
        }
        takers
    }

    /// The node's count changed.
    pub(crate) fn tell(&mut self, layout: &Layout<'_>, node: NodeIndex) {
        if !layout.takes(node) {
            return;
        }
        let rack = layout.problem.nodes[node].rack;
        let first = |takers: &Self| takers.nodes[rack].first().map(|(rank, _)| (*rank, rack));
        let before = first(self);
        self.nodes[rack].remove(&(self.rank[node], node));
        self.rank[node] = (load(layout, node), turn(node, layout.count[node]));
        self.nodes[rack].insert((self.rank[node], node));
        let now = first(self);
        if before != now {
            if let Some(key) = before {
                self.racks.remove(&key);
            }
            self.racks.extend(now);
        }
    }

    /// The least loaded node that may take a copy of `shard`, once `leaving` has left.
    pub(crate) fn taker(
        &self,
        layout: &Layout<'_>,
        shard: usize,
        leaving: Option<NodeIndex>,
        counting: Counting,
    ) -> Option<NodeIndex> {
        self.racks.iter().find_map(|(_, rack)| {
            if !layout.is_spread_in(shard, *rack, leaving, counting) {
                return None;
            }
            let inherits = |node: NodeIndex| leaving.is_none_or(|from| layout.may_inherit(shard, from, node));
            let may = |node: &NodeIndex| {
                !layout.has(shard, *node) && layout.has_room(shard, *node) && inherits(*node)
            };
            self.nodes[*rack].iter().map(|(_, node)| *node).find(may)
        })
    }
}
