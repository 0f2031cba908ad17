//! Placement by hashing, as baselines: each shard has an order of nodes, and its copies stand on the first that the hard rules
//! allow. Nothing is levelled: what hashing leaves uneven stays so.

use ruvector_cluster_client::hashing::{Ring, hash_of_key, jump_hash};
use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::Strategy;

use super::caps::is_usable;
use super::layout::{Counting, Layout};
use super::problem::{NodeIndex, Problem};

/// Draws for each node before the rest is taken in order of names: enough that this hardly ever happens.
const DRAWS_PER_NODE: usize = 8;

/// Each shard's order of usable nodes; none for [`Strategy::Balanced`].
pub(crate) fn orders(
    problem: &Problem,
    nodes: &[NodeId],
    shards: &[ShardId],
    strategy: Strategy,
) -> Option<Vec<Vec<NodeIndex>>> {
    let usable: Vec<NodeIndex> = (0..nodes.len()).filter(|node| is_usable(&problem.nodes[*node])).collect();
    match strategy {
        Strategy::Balanced => None,
        Strategy::Ketama => {
            let ring = Ring::new(usable.iter().map(|node| &nodes[*node]));
            let order = |shard: &ShardId| {
                let names = ring.nodes_from(&shard.to_string());
                names.into_iter().filter_map(|name| nodes.binary_search(name).ok()).collect()
            };
            Some(shards.iter().map(order).collect())
        }
        Strategy::Jump => Some(shards.iter().map(|shard| jump_order(*shard, &usable)).collect()),
    }
}

fn jump_order(shard: ShardId, usable: &[NodeIndex]) -> Vec<NodeIndex> {
    let buckets = u32::try_from(usable.len()).unwrap_or(u32::MAX);
    let mut order: Vec<NodeIndex> = Vec::with_capacity(usable.len());
    let draws = if buckets == 0 { 0 } else { usable.len() * DRAWS_PER_NODE };
    for draw in 0..draws {
        let bucket = jump_hash(hash_of_key(&format!("{shard}/{draw}")), buckets) as usize;
        if !order.contains(&usable[bucket]) {
            order.push(usable[bucket]);
        }
    }
    order.extend(usable.iter().filter(|node| !order.contains(node)).copied().collect::<Vec<_>>());
    order
}

/// Moves copies to where the orders want them.
pub(crate) fn follow(layout: &mut Layout<'_>, orders: &[Vec<NodeIndex>]) {
    for (shard, order) in
        orders.iter().enumerate().filter(|(shard, _)| layout.is_movable(*shard)).collect::<Vec<_>>()
    {
        let wanted = wanted(layout, shard, order);
        // Each round moves one copy to a wanted place and none away from one.
        for _ in 0..wanted.len() {
            let Some((from, to)) = next_move(layout, shard, &wanted) else { break };
            layout.relocate(shard, from, to);
        }
    }
}

/// Gives primaryship to the first of each order that can lead.
pub(crate) fn lead(layout: &mut Layout<'_>, orders: &[Vec<NodeIndex>]) {
    for (shard, order) in orders.iter().enumerate() {
        let may_lead = |node: &&NodeIndex| {
            let has_in_sync = layout.copies[shard].iter().any(|copy| copy.node == **node && copy.in_sync);
            has_in_sync && layout.problem.nodes[**node].usage.leads()
        };
        let heir = order.iter().find(may_lead).copied();
        if let Some(heir) = heir.filter(|heir| layout.is_movable(shard) && !layout.leads(shard, *heir)) {
            layout.promote(shard, heir);
        }
    }
}

/// The first nodes of the order on which copies keep the rules on zones and racks.
fn wanted(layout: &Layout<'_>, shard: usize, order: &[NodeIndex]) -> Vec<NodeIndex> {
    let problem = layout.problem;
    let mut wanted: Vec<NodeIndex> = Vec::new();
    for node in order.iter().copied() {
        let rack = problem.nodes[node].rack;
        let in_rack = wanted.iter().filter(|other| problem.nodes[**other].rack == rack).count();
        let zone = |node: NodeIndex| problem.zone_of_rack[problem.nodes[node].rack];
        let in_zone = wanted.iter().filter(|other| zone(**other) == zone(node)).count();
        let has_copy = layout.copies[shard].iter().any(|copy| copy.node == node);
        let may =
            has_copy || (layout.takes(node) && layout.has_room(shard, node) && !layout.has(shard, node));
        if may
            && in_rack < layout.caps.rack
            && in_zone < layout.caps.zone
            && wanted.len() < layout.caps.copies
        {
            wanted.push(node);
        }
    }
    wanted
}

fn next_move(layout: &Layout<'_>, shard: usize, wanted: &[NodeIndex]) -> Option<(NodeIndex, NodeIndex)> {
    let stays = |node: NodeIndex| wanted.contains(&node) || !layout.problem.nodes[node].usage.gives();
    let leaving = || layout.copies[shard].iter().map(|copy| copy.node).filter(|node| !stays(*node));
    let missing = wanted.iter().copied().filter(|node| !layout.has(shard, *node));
    let fits = |from: NodeIndex, to: NodeIndex| layout.is_spread(shard, to, Some(from), Counting::All);
    missing.flat_map(|to| leaving().map(move |from| (from, to))).find(|(from, to)| fits(*from, *to))
}
