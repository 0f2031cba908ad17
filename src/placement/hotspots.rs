//! What carries more load than its share, and what is done about it.
//!
//! The answer is read off what load levelling would do now, so that the two can't contradict each other.

use ruvector_cluster_client::ids::{NodeId, Thousandths};
use ruvector_cluster_client::wire::{HotNode, HotShard, Hotspots, MigrationKind};

use super::build::{Built, Source};
use super::layout::Layout;
use super::loads::{COOL_DOWN_MS, Loads, NodeLoads, counts};
use super::plan::by_policy;
use super::problem::{Action, NodeIndex, Step, Tolerance, Why};
use super::solve::{Levelling, OnLoad, solve_with_load};
use crate::load::SUSTAINED_MS;
use crate::metadata::{Metadata, MigrationRow};
use crate::soft::{Now, Soft};

/// Most shards, and most nodes, that are told.
const MAX_TOLD: usize = 1_000;

/// Less than a request a second makes no shard hot, whatever the others do.
const LEAST_LOAD: u64 = 1_000;

const MORE_THAN_A_NODE: &str = "is more than any node's share: spread its keys over more shards, serve reads from replicas, or \
    give its node more capacity";

/// What is hot now. Pure; the same state gives the same answer.
pub fn hotspots(metadata: &Metadata, soft: &Soft, now: Now) -> Hotspots {
    let policy = metadata.policy();
    let now_ms = now.wall_ms.max(metadata.log_time_ms());
    let built = Built::of(Source { metadata, soft, policy, now_ms, assume_draining: None });
    let loads = Loads::of(&built.problem, &built.nodes, &built.shards, soft);
    let layout = Layout::new(&built.problem);
    let Some(loads) = loads.map(|loads| loads.resting(metadata, &built.shards, now_ms)) else {
        return Hotspots::default();
    };
    let Some(nodes) = NodeLoads::of(&layout, &loads) else { return Hotspots::default() };
    let within = Tolerance {
        upto_thousandths: policy.stop_imbalance.min(policy.start_imbalance).0.clamp(1_000, 2_000),
    };
    let start = Tolerance { upto_thousandths: policy.start_imbalance.0.clamp(1_000, 2_000) };
    let by = by_policy(policy, &loads, within);
    let solution =
        solve_with_load(&built.problem, Some(Levelling { start, stop: within }), OnLoad::Level(by));
    let steps = solution.steps.into_iter().filter(|step| step.why == Why::LevelLoad).collect();
    let view = View {
        metadata,
        built: &built,
        loads: &loads,
        nodes: &nodes,
        steps,
        waits: waits(metadata, soft, now),
    };
    Hotspots { shards: view.shards(policy.hot_factor.0), nodes: view.nodes(by.start) }
}

/// Why nothing is moved for load at the moment, to be put behind what will be.
fn waits(metadata: &Metadata, soft: &Soft, now: Now) -> String {
    if !metadata.policy().enabled {
        ", once the policy's `enabled` is true or an operator asks by POST /v1/rebalance".to_owned()
    } else if metadata.paused() {
        ", once balancing is resumed by POST /v1/rebalance/resume".to_owned()
    } else if !soft.load_watch.may_level(now.boot_ms) {
        format!(
            ", once load has been uneven for {} s; POST /v1/rebalance does not wait",
            SUSTAINED_MS / 1_000
        )
    } else {
        String::new()
    }
}

struct View<'a> {
    metadata: &'a Metadata,
    built: &'a Built,
    loads: &'a Loads,
    nodes: &'a NodeLoads,
    /// What load levelling would do next.
    steps: Vec<Step>,
    waits: String,
}

impl View<'_> {
    fn shards(&self, hot_factor: u64) -> Vec<HotShard> {
        let specs = &self.built.problem.shards;
        let load = |place: usize| self.loads.of_copy(place, true);
        let all: u128 = (0..specs.len()).map(|place| u128::from(load(place))).sum();
        let factor = |place: usize| {
            let over_mean = u128::from(load(place)) * 1_000 * specs.len() as u128 / all.max(1);
            u64::try_from(over_mean).unwrap_or(u64::MAX)
        };
        let is_hot = |place: &usize| load(*place) >= LEAST_LOAD && factor(*place) >= hot_factor;
        let mut hot: Vec<usize> = (0..specs.len()).filter(is_hot).collect();
        hot.sort_by_key(|place| (std::cmp::Reverse(load(*place)), *place));
        hot.truncate(MAX_TOLD);
        let told = |place: usize| HotShard {
            id: self.built.shards[place],
            primary: self.metadata.shard(self.built.shards[place]).and_then(|row| row.primary.clone()),
            load: Thousandths(load(place)),
            factor: Thousandths(factor(place)),
            advice: self.of_shard(place),
        };
        hot.into_iter().map(told).collect()
    }

    fn nodes(&self, start: u64) -> Vec<HotNode> {
        let specs = &self.built.problem.nodes;
        let is_hot = |node: &NodeIndex| counts(&specs[*node]) && self.nodes.factor(*node) >= start.max(1_001);
        let mut hot: Vec<NodeIndex> = (0..specs.len()).filter(is_hot).collect();
        hot.sort_by_key(|node| (std::cmp::Reverse(self.nodes.factor(*node)), *node));
        hot.truncate(MAX_TOLD);
        let told = |node: NodeIndex| HotNode {
            id: self.built.nodes[node].clone(),
            load: Thousandths(self.nodes.told(node)),
            factor: Thousandths(self.nodes.factor(node)),
            advice: self.of_node(node),
        };
        hot.into_iter().map(told).collect()
    }

    fn name(&self, node: NodeIndex) -> &NodeId {
        &self.built.nodes[node]
    }

    fn of_shard(&self, place: usize) -> String {
        let id = self.built.shards[place];
        let row = self.metadata.shard(id);
        if let Some(migration) = row.and_then(|row| row.migration).and_then(|id| self.metadata.migration(id))
        {
            return under_way(migration);
        }
        if self.is_more_than_a_node(place) {
            return format!("this shard alone {MORE_THAN_A_NODE}");
        }
        let waits = &self.waits;
        if let Some(step) = self.steps.iter().find(|step| step.shard == place) {
            return match step.action {
                Action::Promote { to, .. } => format!("its primaryship goes to {}{waits}", self.name(to)),
                Action::Move { from, to } => {
                    format!("its copy on {} goes to {}{waits}", self.name(from), self.name(to))
                }
                Action::Add { .. } | Action::Remove { .. } => format!("its copies change{waits}"),
            };
        }
        let spec = &self.built.problem.shards[place];
        let Some(primary) = spec.copies.first().map(|copy| copy.node) else {
            return "it has no copy".to_owned();
        };
        let (name, carries) = (self.name(primary), Thousandths(self.nodes.factor(primary)));
        if self.leaves(primary).next().is_some() {
            return format!("its neighbours on {name} move away{waits}");
        }
        if carries.0 <= self.metadata.policy().start_imbalance.0 {
            return format!(
                "{name} carries {carries} times its share and bears it: nothing needs to be done"
            );
        }
        if self.loads.rests[place] {
            return format!("it moved less than {} s ago and is left alone until then", COOL_DOWN_MS / 1_000);
        }
        format!("{name} carries {carries} times its share, and {}", NO_MOVE)
    }

    fn of_node(&self, node: NodeIndex) -> String {
        let active = self.metadata.active_migrations();
        let own = active.filter(|row| row.from.as_ref() == Some(self.name(node))).count();
        let next = self.leaves(node).count();
        if own > 0 {
            return format!("{own} of its copies and primaryships are on their way to other nodes");
        }
        if next > 0 {
            return format!("{next} of its copies and primaryships go to other nodes{}", self.waits);
        }
        let specs = self.built.problem.shards.iter().enumerate();
        let led = specs.filter(|(_, spec)| spec.copies.first().is_some_and(|copy| copy.node == node));
        let hottest = led.map(|(place, _)| place).max_by_key(|place| self.loads.of_copy(*place, true));
        match hottest.filter(|place| self.is_more_than_a_node(*place)) {
            Some(place) => format!("shard {} alone {MORE_THAN_A_NODE}", self.built.shards[place]),
            None => NO_MOVE.to_owned(),
        }
    }

    /// Steps by which `node` gives something away.
    fn leaves(&self, node: NodeIndex) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |step| match step.action {
            Action::Move { from, .. } | Action::Promote { from, .. } | Action::Remove { from } => {
                from == node
            }
            Action::Add { .. } => false,
        })
    }

    /// Whether the shard's primary alone would be more than the share of the biggest node.
    fn is_more_than_a_node(&self, place: usize) -> bool {
        let nodes = self.built.problem.nodes.iter().zip(&self.nodes.weight);
        let biggest = nodes.filter(|(node, _)| counts(node)).map(|(_, weight)| *weight).max();
        biggest.is_some_and(|weight| self.nodes.share(self.loads.of_copy(place, true)) > weight)
    }
}

const NO_MOVE: &str = "no move within the rules on racks, room and even numbers of copies is worth its cost now: add a node, \
    or raise the capacity of nodes that can bear more";

fn under_way(row: &MigrationRow) -> String {
    let name = |node: &Option<NodeId>| node.as_ref().map_or_else(String::new, ToString::to_string);
    let (from, to, id) = (name(&row.from), name(&row.to), row.id);
    match row.kind {
        MigrationKind::Promote => format!("its primaryship is going to {to} (migration {id})"),
        MigrationKind::Move => format!("its copy on {from} is going to {to} (migration {id})"),
        MigrationKind::Add => format!("a copy is being made on {to} (migration {id})"),
        MigrationKind::Remove => format!("its copy on {from} is being removed (migration {id})"),
    }
}
