//! Steps that restore a rule: what is surplus goes, what stands on nodes that are emptied or dead is replaced, what is missing
//! is added, what shares a rack without need is spread, and primaries leave nodes that will be away.

use super::layout::{Counting, Layout};
use super::problem::{Blocked, NodeIndex, NodeUse, ShardUse, Why};

/// What could not be restored.
pub(crate) type Unplaced = Vec<(usize, Blocked)>;

/// Restores the rules, shards with the fewest in-sync copies that answer first.
pub(crate) fn force(layout: &mut Layout<'_>) -> Unplaced {
    let mut unplaced = Vec::new();
    let nodes = &layout.problem.nodes;
    let safety = |id: &usize| {
        let shard = &layout.problem.shards[*id];
        shard.copies.iter().filter(|copy| copy.in_sync && nodes[copy.node].usage.is_up()).count()
    };
    let mut order: Vec<usize> = (0..layout.problem.shards.len()).collect();
    order.sort_by_cached_key(safety);
    for shard in order {
        match layout.problem.shards[shard].usage {
            ShardUse::Pinned => {}
            ShardUse::Unavailable => unplaced.push((shard, Blocked::Unavailable)),
            ShardUse::Unassigned => unplaced.extend(add_missing(layout, shard).map(|why| (shard, why))),
            ShardUse::Open => {
                remove_surplus(layout, shard);
                let replaced = replace_bad(layout, shard);
                let added = add_missing(layout, shard);
                let spread = spread(layout, shard);
                remove_idle(layout, shard);
                leave_maintenance(layout, shard);
                unplaced.extend(replaced.or(added).or(spread).map(|why| (shard, why)));
            }
        }
    }
    unplaced
}

/// Where a copy may go: by the rule on the way if possible, else by the rule at the end.
fn taker(layout: &Layout<'_>, shard: usize, leaving: Option<NodeIndex>) -> Option<NodeIndex> {
    let clean = layout.taker(shard, leaving, Counting::All);
    clean.or_else(|| layout.taker(shard, leaving, Counting::Staying))
}

/// Why no node takes a copy of `shard`.
fn why_not(layout: &Layout<'_>, shard: usize, leaving: Option<NodeIndex>) -> Blocked {
    let nodes = 0..layout.problem.nodes.len();
    let free: Vec<_> = nodes
        .filter(|node| layout.problem.nodes[*node].usage.keeps() && layout.problem.nodes[*node].weight > 0)
        .filter(|node| !layout.has(shard, *node))
        .collect();
    let full = |node: &&NodeIndex| {
        layout.problem.nodes[**node].usage == NodeUse::Full || !layout.has_room(shard, **node)
    };
    let spread = |node: &&NodeIndex| layout.is_spread(shard, **node, leaving, Counting::Staying);
    if free.iter().filter(spread).any(|node| full(&node)) {
        return Blocked::NoRoom;
    }
    if free.iter().filter(|node| layout.takes(**node)).count() > 0 {
        return Blocked::SpreadRule;
    }
    Blocked::TooFewNodes
}

fn remove_surplus(layout: &mut Layout<'_>, shard: usize) {
    while layout.copies[shard].len() > layout.problem.replication_factor.max(1) {
        let worth = |copy: &super::problem::Copy| {
            let spec = &layout.problem.nodes[copy.node];
            let spread = layout.is_spread(shard, copy.node, Some(copy.node), Counting::Staying);
            (
                spec.usage != NodeUse::Dead,
                spec.usage.keeps(),
                copy.in_sync,
                spread,
                std::cmp::Reverse(layout.load(copy.node)),
            )
        };
        let Some(worst) = layout.copies[shard].iter().skip(1).min_by_key(|copy| worth(copy)) else { return };
        let from = worst.node;
        layout.take(shard, from, Why::Surplus);
    }
}

fn replace_bad(layout: &mut Layout<'_>, shard: usize) -> Option<Blocked> {
    let bad: Vec<NodeIndex> = layout.copies[shard]
        .iter()
        .map(|copy| copy.node)
        .filter(|node| !layout.problem.nodes[*node].usage.keeps())
        .collect();
    let mut blocked = None;
    for from in bad {
        let why = match layout.problem.nodes[from].usage {
            NodeUse::Dead => Why::Replace,
            NodeUse::Draining | NodeUse::Open | NodeUse::Full | NodeUse::Maintenance | NodeUse::Away => {
                Why::Drain
            }
        };
        match taker(layout, shard, Some(from)) {
            Some(to) => layout.relocate(shard, from, to, why),
            None => blocked = Some(why_not(layout, shard, Some(from))),
        }
    }
    blocked
}

fn add_missing(layout: &mut Layout<'_>, shard: usize) -> Option<Blocked> {
    let readmitted = |layout: &Layout<'_>, node: &NodeIndex| {
        let usage = layout.problem.nodes[*node].usage;
        usage.keeps()
            && usage.is_up()
            && !layout.copies[shard].iter().any(|copy| copy.node == *node)
            && layout.is_spread(shard, *node, None, Counting::Staying)
    };
    while layout.copies[shard].len() < layout.problem.replication_factor {
        let idle = layout.problem.shards[shard].idle.iter().find(|node| readmitted(layout, node));
        if let Some(node) = idle.copied() {
            layout.put(shard, node, Why::Readmit);
        } else if let Some(to) = taker(layout, shard, None) {
            layout.put(shard, to, Why::Missing);
        } else {
            return Some(why_not(layout, shard, None));
        }
    }
    None
}

/// Moves copies out of zones and racks that hold more than the caps allow.
fn spread(layout: &mut Layout<'_>, shard: usize) -> Option<Blocked> {
    for _ in 0..layout.copies[shard].len() {
        let crowded = |copy: &&super::problem::Copy| {
            let usage = layout.problem.nodes[copy.node].usage;
            usage.gives() && !layout.is_spread(shard, copy.node, Some(copy.node), Counting::Staying)
        };
        let crowd: Vec<NodeIndex> =
            layout.copies[shard].iter().filter(crowded).map(|copy| copy.node).collect();
        if crowd.is_empty() {
            return None;
        }
        // The last copies are replicas, which cost no hand-over; of them the one on the fullest node.
        let primary = layout.copies[shard][0].node;
        let fullest = |node: &NodeIndex| (*node != primary, layout.load(*node), *node);
        let moved =
            |from: &NodeIndex| layout.taker(shard, Some(*from), Counting::Staying).map(|to| (*from, to));
        let mut ranked = crowd;
        ranked.sort_by_key(|node| std::cmp::Reverse(fullest(node)));
        let Some((from, to)) = ranked.iter().find_map(moved) else {
            return Some(why_not(layout, shard, ranked.first().copied()));
        };
        layout.relocate(shard, from, to, Why::Spread);
    }
    None
}

/// Idle copies go once the shard has all that it wants, or where they can't be readmitted.
fn remove_idle(layout: &mut Layout<'_>, shard: usize) {
    let has_all = layout.copies[shard].len() >= layout.problem.replication_factor;
    for node in layout.problem.shards[shard].idle.clone() {
        let is_readmitted = layout.copies[shard].iter().any(|copy| copy.node == node);
        if !is_readmitted && (has_all || !layout.problem.nodes[node].usage.keeps()) {
            layout.take(shard, node, Why::Surplus);
        }
    }
}

/// Primaryship leaves a node that will be away, where an in-sync copy elsewhere can lead.
pub(crate) fn leave_maintenance(layout: &mut Layout<'_>, shard: usize) {
    let Some(primary) = layout.copies[shard].first() else { return };
    if layout.problem.nodes[primary.node].usage != NodeUse::Maintenance {
        return;
    }
    let to = layout.copies[shard]
        .iter()
        .filter(|copy| copy.in_sync && layout.problem.nodes[copy.node].usage.leads())
        .map(|copy| copy.node)
        .min_by_key(|node| (layout.primary_load(*node), *node));
    if let Some(to) = to {
        layout.promote(shard, to, Why::Maintenance);
    }
}
