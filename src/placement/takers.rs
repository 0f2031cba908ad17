//! Nodes that take copies, the least loaded first: for those copies that must go somewhere, whatever the shares.

use std::collections::BTreeSet;

use super::layout::{Counting, Layout};
use super::problem::NodeIndex;

/// Scale of a node's load: copies a thousandth of weight.
const LOAD_SCALE: u128 = 1 << 60;

/// The takers of a layout, to be told of each change of a node's count.
#[derive(Debug)]
pub(crate) struct Takers {
    /// By rack, the least loaded first.
    nodes: Vec<BTreeSet<(u128, NodeIndex)>>,
    /// The least load in each rack that has takers.
    racks: BTreeSet<(u128, usize)>,
    /// Under which each node stands.
    load: Vec<u128>,
}

/// How full `node` would be with one copy more, for its weight.
pub(crate) fn load(layout: &Layout<'_>, node: NodeIndex) -> u128 {
    scaled(layout.count[node] + 1, layout.problem.nodes[node].weight)
}

/// Primaries for its weight, with one more.
pub(crate) fn primary_load(layout: &Layout<'_>, node: NodeIndex) -> u128 {
    scaled(layout.primaries[node] + 1, layout.problem.nodes[node].weight)
}

fn scaled(copies: u64, weight: u64) -> u128 {
    u128::from(copies) * LOAD_SCALE / u128::from(weight.max(1))
}

impl Takers {
    pub(crate) fn of(layout: &Layout<'_>) -> Self {
        let mut takers = Self {
            nodes: vec![BTreeSet::new(); layout.problem.zone_of_rack.len()],
            racks: BTreeSet::new(),
            load: vec![0; layout.count.len()],
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
        let before = self.nodes[rack].first().copied();
        self.nodes[rack].remove(&(self.load[node], node));
        self.load[node] = load(layout, node);
        self.nodes[rack].insert((self.load[node], node));
        let now = self.nodes[rack].first().copied();
        if before != now {
            self.racks.extend(now.map(|(load, _)| (load, rack)));
            if let Some((load, _)) = before.filter(|(load, _)| now.is_none_or(|(least, _)| least != *load)) {
                self.racks.remove(&(load, rack));
            }
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
