//! What placement's numbers stand for, in words: names, places, times, and what is missing where a copy has no place.
//!
//! Codes are stable; sentences are for a person at three in the morning, so they name nodes and figures. Lists are cut.

use std::collections::BTreeSet;
use std::fmt::Write;

use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_client::wire::{Infeasible, Intent, RebalancePolicy};

use super::build::{Built, is_mass_failure};
use super::caps::is_usable;
use super::layout::{Counting, Crowd, Layout};
use super::problem::{Action, Blocked, Copy, NodeIndex, NodeUse};
use super::solve::Solution;
use super::standing::{Standing, must_leave, places, standing};
use crate::metadata::view::time;
use crate::metadata::{Metadata, NodeRow, Verdict};
use crate::soft::Soft;

/// Most nodes that a sentence names; the rest is counted.
const MAX_NAMED: usize = 4;

/// The code of a node that is down while others hear it.
pub(super) const HEARD_BY_OTHERS: &str = "heard_by_others";

/// What that comes to.
const HEARD_MEANS: &str = "its copies are not rebuilt while that lasts; drain or delete it to rebuild them";

/// A code and what it means here.
pub(super) type Said = (&'static str, String);

/// What is needed to speak of a problem.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) soft: &'a Soft,
    pub(super) policy: &'a RebalancePolicy,
    pub(super) now_ms: u64,
    pub(super) built: &'a Built,
}

/// A point in time, to the second.
pub(super) fn at(ms: u64) -> String {
    time(ms).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `one` of something, or so many.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// When rebuilding begins again, where so many nodes went down at once that it waits.
pub(super) fn held_until_ms(metadata: &Metadata, policy: &RebalancePolicy, now_ms: u64) -> Option<u64> {
    if !is_mass_failure(metadata, policy, now_ms) {
        return None;
    }
    let end = |node: &NodeRow| match node.verdict {
        Verdict::Down { since_ms } => Some(since_ms.saturating_add(policy.mass_failure_hold_ms)),
        Verdict::Alive => None,
    };
    let mut ends: Vec<u64> = metadata.nodes().filter_map(end).filter(|end_ms| *end_ms > now_ms).collect();
    ends.sort_unstable();
    // The later, the fewer nodes count.
    let first = ends.partition_point(|end_ms| is_mass_failure(metadata, policy, *end_ms));
    ends.get(first).copied()
}

impl<'a> Words<'a> {
    pub(super) fn name(&self, node: NodeIndex) -> &'a NodeId {
        &self.built.nodes[node]
    }

    pub(super) fn row(&self, node: NodeIndex) -> Option<&'a NodeRow> {
        self.metadata.node(self.name(node))
    }

    /// Some nodes' names, cut.
    pub(super) fn names(&self, nodes: &[NodeIndex]) -> String {
        let named: Vec<&str> = nodes.iter().take(MAX_NAMED).map(|node| self.name(*node).as_str()).collect();
        let others = nodes.len() - named.len();
        match named.split_last() {
            None => "none".to_owned(),
            Some(_) if others > 0 => format!("{} and {others} more", named.join(", ")),
            Some((last, [])) => (*last).to_owned(),
            Some((last, first)) => format!("{} and {last}", first.join(", ")),
        }
    }

    /// The node's rack, with its zone where there are several.
    pub(super) fn rack(&self, node: NodeIndex) -> String {
        let Some(row) = self.row(node) else { return "its rack".to_owned() };
        let rack =
            row.rack.as_ref().map_or("the nodes without a rack".to_owned(), |rack| format!("rack {rack}"));
        if self.built.problem.zones > 1 { format!("{rack} of {}", self.zone(node)) } else { rack }
    }

    /// The node's zone.
    pub(super) fn zone(&self, node: NodeIndex) -> String {
        let zone = self.row(node).and_then(|row| row.zone.as_ref());
        zone.map_or("the nodes without a zone".to_owned(), |zone| format!("zone {zone}"))
    }

    /// When the copies of a node that is down begin to be replaced; none where that is not by time alone: in maintenance, and
    /// while others hear the node.
    pub(super) fn replaced_from_ms(&self, row: &NodeRow) -> Option<u64> {
        let Verdict::Down { since_ms } = row.verdict else { return None };
        let grace_over_ms = since_ms.saturating_add(self.policy.down_grace_ms);
        let held_until_ms = held_until_ms(self.metadata, self.policy, self.now_ms).unwrap_or(0);
        let is_by_time = row.intent != Intent::Maintenance && !self.soft.is_heard_by_others(row);
        is_by_time.then_some(grace_over_ms.max(held_until_ms))
    }

    /// What the node's use is, where it is not simply open.
    pub(super) fn use_of(&self, node: NodeIndex) -> Option<Said> {
        let spec = &self.built.problem.nodes[node];
        let row = self.row(node)?;
        let down = match row.verdict {
            Verdict::Down { since_ms } => format!("is down since {}", at(since_ms)),
            Verdict::Alive => String::new(),
        };
        let until =
            row.maintenance_until_ms.map_or(String::new(), |until_ms| format!(" until {}", at(until_ms)));
        Some(match spec.usage {
            NodeUse::Dead => ("down", format!("{down}, for good as far as placement goes")),
            NodeUse::Away if row.intent != Intent::Maintenance && self.soft.is_heard_by_others(row) => {
                (HEARD_BY_OTHERS, format!("{down}, but other nodes hear it: {HEARD_MEANS}"))
            }
            NodeUse::Away => match self.replaced_from_ms(row) {
                None => ("away", format!("{down}, in maintenance{until}")),
                Some(from_ms) => ("down", format!("{down}; its copies are rebuilt from {} on", at(from_ms))),
            },
            NodeUse::Maintenance => ("away", format!("is in maintenance{until}")),
            NodeUse::Draining if row.intent == Intent::Drained => ("draining", "is drained".to_owned()),
            NodeUse::Draining => ("draining", "is being drained".to_owned()),
            NodeUse::Open | NodeUse::Full if spec.weight == 0 => ("no_capacity", "has capacity 0".to_owned()),
            NodeUse::Full => ("full", self.full(row)),
            NodeUse::Open => return None,
        })
    }

    fn full(&self, row: &NodeRow) -> String {
        let held = self.soft.nodes.get(&row.id).map_or(0, |said| said.size_bytes());
        let capacity = row.capacity_bytes.unwrap_or(0);
        let watermark = self.policy.disk_watermark;
        format!(
            "holds {held} of its {capacity} bytes, and takes no copy from {watermark} of them on (disk_watermark)"
        )
    }

    /// What keeps a copy of `shard` from `node`, zones and racks apart; none where nothing does.
    pub(super) fn closed(&self, layout: &Layout<'_>, shard: usize, node: NodeIndex) -> Option<Said> {
        match standing(layout, shard, node) {
            Standing::Closed => self.use_of(node),
            Standing::Deleting => {
                Some(("deleting_copy", "is still deleting an earlier copy of this shard".to_owned()))
            }
            Standing::NoRoom => {
                let left = layout.free_bytes()[node].unwrap_or(0);
                let needed = self.built.problem.shards[shard].bytes;
                Some(("no_room", format!("has {left} bytes left and the copy needs {needed}")))
            }
            Standing::Holds
            | Standing::Idle
            | Standing::Crowded(_)
            | Standing::NoGiver
            | Standing::Fits(_) => None,
        }
    }

    /// The copies that fill up the rack or zone of `node`, but for one that leaves.
    pub(super) fn crowd(
        &self,
        layout: &Layout<'_>,
        shard: usize,
        node: NodeIndex,
        (crowd, leaving): (Crowd, Option<NodeIndex>),
    ) -> String {
        let problem = layout.problem;
        let rack = |node: NodeIndex| problem.nodes[node].rack;
        let is_there = |other: &NodeIndex| match crowd {
            Crowd::Rack => rack(*other) == rack(node),
            Crowd::Zone => problem.zone_of_rack[rack(*other)] == problem.zone_of_rack[rack(node)],
        };
        let there: Vec<NodeIndex> =
            layout.copies[shard].iter().map(|copy| copy.node).filter(is_there).collect();
        let there: Vec<NodeIndex> = there.into_iter().filter(|other| Some(*other) != leaving).collect();
        let (place, most) = match crowd {
            Crowd::Rack => (self.rack(node), layout.caps.rack),
            Crowd::Zone => (self.zone(node), layout.caps.zone),
        };
        let copies = counted(most as u64, "copy", "copies");
        format!("{place} has the {copies} that it may have, on {}", self.names(&there))
    }

    /// What stays as it is although a rule wants otherwise; of the first `most` shards.
    pub(super) fn infeasible(&self, solution: &Solution, most: usize) -> Vec<Infeasible> {
        let unplaced = &solution.unplaced[..most.min(solution.unplaced.len())];
        self.stuck(solution, unplaced)
    }

    /// Why copies of these shards have no place, and what would give them one.
    pub(super) fn stuck(&self, solution: &Solution, unplaced: &[(usize, Blocked)]) -> Vec<Infeasible> {
        if unplaced.is_empty() {
            return Vec::new();
        }
        // What the plan does with these shards is done, and what is left is looked at. Room is what the plan leaves already.
        let mut layout = Layout::with_room(&self.built.problem, &solution.left_bytes);
        let shards: BTreeSet<usize> = unplaced.iter().map(|(shard, _)| *shard).collect();
        for step in solution.steps.iter().filter(|step| shards.contains(&step.shard)) {
            let copies = &mut layout.copies[step.shard];
            match step.action {
                Action::Move { from, to } => {
                    let moved = |copy: &mut Copy| copy.node = if copy.node == from { to } else { copy.node };
                    copies.iter_mut().for_each(moved);
                }
                Action::Add { to } => copies.push(Copy { node: to, in_sync: true }),
                Action::Remove { from } => copies.retain(|copy| copy.node != from),
                Action::Promote { .. } => {}
            }
        }
        unplaced.iter().map(|(shard, blocked)| self.told(&layout, *shard, *blocked)).collect()
    }

    fn told(&self, layout: &Layout<'_>, shard: usize, blocked: Blocked) -> Infeasible {
        let (code, detail) = match blocked {
            Blocked::TooFewNodes => ("too_few_nodes", self.too_few_nodes(layout, shard)),
            Blocked::NoRoom => ("no_room", self.no_room(layout, shard)),
            Blocked::SpreadRule => ("spread_rule", self.spread_rule(layout, shard)),
            Blocked::Unavailable => ("unavailable", self.unavailable(shard)),
        };
        Infeasible { shard: self.built.shards[shard], code: code.to_owned(), detail }
    }

    fn too_few_nodes(&self, layout: &Layout<'_>, shard: usize) -> String {
        let nodes = 0..layout.problem.nodes.len();
        let wanted = counted(layout.problem.replication_factor as u64, "copy is", "copies are");
        let usable = nodes.clone().filter(|node| is_usable(&layout.problem.nodes[*node])).count();
        let all = counted(nodes.len() as u64, "node", "nodes");
        let others = nodes.filter(|node| {
            let may_stay = layout.has(shard, *node) && layout.problem.nodes[*node].usage.keeps();
            !may_stay && self.use_of(*node).is_some()
        });
        let mut text = format!("{wanted} wanted, and {usable} of {all} can hold one");
        let list = self.listed(others.filter_map(|node| Some((node, self.use_of(node)?))));
        if !list.is_empty() {
            write!(text, ": {list}").ok();
        }
        text
    }

    fn no_room(&self, layout: &Layout<'_>, shard: usize) -> String {
        let fits = |node: &NodeIndex| self.has_place(layout, shard, *node);
        let others = (0..layout.problem.nodes.len()).filter(fits);
        let list = self.listed(others.filter_map(|node| Some((node, self.closed(layout, shard, node)?))));
        let bytes = counted(self.built.problem.shards[shard].bytes, "byte", "bytes");
        format!("no node on which zones and racks allow the copy ({bytes}) takes it: {list}")
    }

    fn spread_rule(&self, layout: &Layout<'_>, shard: usize) -> String {
        let nodes = || 0..layout.problem.nodes.len();
        let takers = nodes().filter(|node| layout.may_take(shard, *node));
        let leaving = self.leaving(layout, shard);
        let mut racks: Vec<(usize, String)> = Vec::new();
        let mut named = Vec::new();
        for node in takers {
            let rack = layout.problem.nodes[node].rack;
            let crowd = layout.crowd_in(shard, rack, leaving, Counting::Staying);
            let is_new = racks.iter().all(|(other, _)| *other != rack);
            named.push(node);
            if let Some(crowd) = crowd.filter(|_| is_new && racks.len() < MAX_NAMED) {
                let text = self.crowd(layout, shard, node, (crowd, None));
                if racks.iter().all(|(_, other)| *other != text) {
                    racks.push((rack, text));
                }
            }
        }
        let full: Vec<String> = racks.into_iter().map(|(_, text)| text).collect();
        let mut text = format!("{} could take the copy, but {}", self.names(&named), full.join("; "));
        let fits = |node: &NodeIndex| self.has_place(layout, shard, *node);
        let elsewhere = nodes().filter(fits);
        let list = self.listed(elsewhere.filter_map(|node| Some((node, self.closed(layout, shard, node)?))));
        if !list.is_empty() {
            write!(text, ". Elsewhere {list}").ok();
        }
        text
    }

    /// The copy that has to go and can't; none where one is missing.
    fn leaving(&self, layout: &Layout<'_>, shard: usize) -> Option<NodeIndex> {
        let copies = || layout.copies[shard].iter().map(|copy| copy.node);
        let emptied = copies().find(|node| !layout.problem.nodes[*node].usage.keeps());
        let lacks = layout.copies[shard].len() < layout.problem.replication_factor;
        emptied.or_else(|| copies().find(|node| !lacks && must_leave(layout, shard, *node)))
    }

    /// Whether zones and racks allow on `node` the copy that has no place.
    fn has_place(&self, layout: &Layout<'_>, shard: usize, node: NodeIndex) -> bool {
        let places = places(layout, shard, node);
        let leaving = self.leaving(layout, shard);
        !layout.has(shard, node)
            && leaving.map_or(places.is_missing, |leaving| places.instead_of.contains(&leaving))
    }

    fn unavailable(&self, shard: usize) -> String {
        let Some(row) = self.metadata.shard(self.built.shards[shard]) else {
            return "no copy answers".to_owned();
        };
        if row.lost {
            let primary = row.primary.as_ref().map_or("its node", NodeId::as_str);
            return format!("the last copy in sync, on {primary}, was lost");
        }
        let node = |node: &NodeId| self.built.nodes.binary_search(node).ok();
        let in_sync = row.in_sync.iter().filter_map(node);
        let list = self.listed(in_sync.filter_map(|node| Some((node, self.use_of(node)?))));
        format!("no copy in sync answers, so that there is nothing to copy from: {list}")
    }

    /// Nodes by what is wrong with them.
    fn listed(&self, nodes: impl Iterator<Item = (NodeIndex, Said)>) -> String {
        let mut groups: Vec<(&'static str, String, Vec<NodeIndex>)> = Vec::new();
        for (node, (code, text)) in nodes {
            match groups.iter_mut().find(|(of, ..)| *of == code) {
                Some((.., nodes)) => nodes.push(node),
                None => groups.push((code, text, vec![node])),
            }
        }
        let told = |(code, text, nodes): (&str, String, Vec<NodeIndex>)| match nodes[..] {
            [node] => format!("{} {text}", self.name(node)),
            _ => format!("{} {}", self.names(&nodes), of_many(code)),
        };
        groups.into_iter().map(told).collect::<Vec<_>>().join("; ")
    }
}

/// What is wrong with several nodes alike.
fn of_many(code: &str) -> &'static str {
    match code {
        "down" => "are down",
        HEARD_BY_OTHERS => "are down, but other nodes hear them",
        "away" => "are in maintenance",
        "draining" => "are being drained",
        "no_capacity" => "have capacity 0",
        "full" => "are over their disk watermark",
        "no_room" => "have less room left than the copy needs",
        "deleting_copy" => "are still deleting an earlier copy of this shard",
        _ => "take none",
    }
}
