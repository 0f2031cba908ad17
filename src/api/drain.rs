//! Whether a drain can finish: a plan in which the node is draining moves every one of its copies. Where it does not, an operator
//! is told what each other node lacks, how many bytes are missing, and what would help.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::{Intent, Plan};

use crate::metadata::{Metadata, NodeRow, Rejection, RejectionCode, ShardRow};
use crate::placement::{self, LoadMoves, PlanOptions, Room};
use crate::soft::Soft;

/// Most shards, and most nodes of a kind, that a refusal lists.
const MAX_LISTED: usize = 20;

/// What draining `node` takes; `now_ms` is milliseconds since 1970.
///
/// # Errors
/// `NotFound` for an unknown node, and `Invalid` with reasons when copies have nowhere to go.
pub(super) fn plan(state: &Metadata, soft: &Soft, node: &NodeId, now_ms: u64) -> Result<Plan, Rejection> {
    if state.node(node).is_none() {
        let detail = format!("there is no data node {node}");
        return Err(Rejection { code: RejectionCode::NotFound, detail });
    }
    let policy = state.policy();
    let options = PlanOptions {
        assume_draining: Some(node.clone()),
        load: LoadMoves::Watched,
        ..PlanOptions::for_operator(now_ms, policy)
    };
    let plan = placement::plan(state, soft, policy, &options);
    let leaving = plan.moves.iter().filter(|step| step.from.as_ref() == Some(node)).map(|step| step.shard);
    let leaving: BTreeSet<ShardId> = leaving.collect();
    let held = state.shards_of(node).filter_map(|shard| state.shard(shard));
    let stays = |row: &&ShardRow| !leaving.contains(&row.id) && row.migration.is_none();
    let stuck: Vec<&ShardRow> = held.filter(stays).collect();
    if stuck.is_empty() {
        return Ok(plan);
    }
    let detail = Shortage::of(state, soft, node, &plan, &stuck).told();
    Err(Rejection { code: RejectionCode::Invalid, detail })
}

/// Why another node takes no copy of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    Full,
    Crowded,
    Emptied,
    Maintenance,
    Down,
    Weightless,
    Deleting,
    Holds,
}

impl Obstacle {
    /// What nodes do against which it stands.
    fn told(self) -> &'static str {
        match self {
            Self::Full => "could take copies were they not full, below disk_watermark",
            Self::Crowded => "have room, and stand where enough copies are already",
            Self::Emptied => "are being emptied",
            Self::Maintenance => "are in maintenance",
            Self::Down => "are down",
            Self::Weightless => "have capacity 0",
            Self::Deleting => "are deleting an older copy",
            Self::Holds => "have a copy already",
        }
    }
}

/// What stands against a node.
#[derive(Clone, Copy, Debug, Default)]
struct Against {
    shards: usize,
    bytes: u64,
}

/// Copies that have nowhere to go, and what stands against each node that might take them.
struct Shortage<'a> {
    state: &'a Metadata,
    draining: &'a NodeId,
    stuck: &'a [&'a ShardRow],
    /// Shards of which no in-sync copy answers.
    silent: Vec<ShardId>,
    /// Shards that are being opened or failed over.
    busy: Vec<ShardId>,
    /// Of all others, by what and by node.
    against: BTreeMap<Obstacle, BTreeMap<&'a NodeId, Against>>,
    /// How many those are, and their bytes.
    homeless: Against,
    /// Bytes that the nodes that are full could still take.
    room: BTreeMap<&'a NodeId, u64>,
}

impl<'a> Shortage<'a> {
    fn of(
        state: &'a Metadata,
        soft: &Soft,
        draining: &'a NodeId,
        plan: &Plan,
        stuck: &'a [&'a ShardRow],
    ) -> Self {
        let now = Room::of(state, soft, state.policy());
        let mut room = BTreeMap::new();
        for node in state.nodes() {
            if let Some(free) = now.left(node) {
                let coming = plan.moves.iter().filter(|step| step.to.as_ref() == Some(&node.id));
                let coming: u64 = coming.fold(0, |sum, step| sum.saturating_add(step.bytes));
                room.insert(&node.id, free.saturating_sub(coming));
            }
        }
        let mut shortage = Self {
            state,
            draining,
            stuck,
            silent: Vec::new(),
            busy: Vec::new(),
            against: BTreeMap::new(),
            homeless: Against::default(),
            room,
        };
        for shard in stuck {
            let size = shard.full_copies().find_map(|copy| soft.held(copy, shard.id));
            shortage.count(shard, size.map_or(0, |held| held.size_bytes));
        }
        shortage
    }

    fn count(&mut self, shard: &ShardRow, bytes: u64) {
        let answers = |node: &NodeId| self.state.is_alive(node);
        if shard.lost || !shard.in_sync.iter().any(answers) {
            return self.silent.push(shard.id);
        }
        if shard.founding || !shard.primary.as_ref().is_some_and(answers) {
            return self.busy.push(shard.id);
        }
        self.homeless.shards += 1;
        self.homeless.bytes = self.homeless.bytes.saturating_add(bytes);
        for node in self.state.nodes().filter(|node| node.id != *self.draining) {
            let against = self
                .against
                .entry(self.obstacle(node, shard, bytes))
                .or_default()
                .entry(&node.id)
                .or_default();
            against.shards += 1;
            against.bytes = against.bytes.saturating_add(bytes);
        }
    }

    fn obstacle(&self, node: &NodeRow, shard: &ShardRow, bytes: u64) -> Obstacle {
        match node.intent {
            _ if shard.role_of(&node.id).is_some() => Obstacle::Holds,
            Intent::Draining | Intent::Drained => Obstacle::Emptied,
            Intent::Maintenance => Obstacle::Maintenance,
            Intent::Schedulable if node.is_down() => Obstacle::Down,
            Intent::Schedulable if node.capacity.0 == 0 => Obstacle::Weightless,
            Intent::Schedulable if self.state.retiring_row(shard.id, &node.id).is_some() => {
                Obstacle::Deleting
            }
            Intent::Schedulable => match self.room.get(&node.id) {
                Some(room) if *room == 0 || *room < bytes => Obstacle::Full,
                // Rules of spreading are all that is left.
                Some(_) | None => Obstacle::Crowded,
            },
        }
    }

    fn told(&self) -> String {
        let held = self.state.shards_of(self.draining).count();
        let mut said = vec![format!(
            "draining {} could not finish: {} of its {held} copies would stay",
            self.draining,
            self.stuck.len()
        )];
        if self.homeless.shards > 0 {
            let Against { shards, bytes } = self.homeless;
            said.push(format!("{shards} of them, of {bytes} bytes, have nowhere to go"));
        }
        said.extend(self.against.iter().map(|(obstacle, nodes)| self.sentence(*obstacle, nodes)));
        if self.state.num_nodes() == 1 {
            said.push("there is no other node".to_owned());
        }
        if !self.silent.is_empty() {
            let shards = listed(self.silent.iter(), self.silent.len());
            said.push(format!(
                "no in-sync copy answers that shard {shards} could be copied from: bring its nodes back"
            ));
        }
        if !self.busy.is_empty() {
            let shards = listed(self.busy.iter(), self.busy.len());
            said.push(format!("shard {shards} is being opened or failed over: ask again in some seconds"));
        }
        let stuck = listed(self.stuck.iter().map(|shard| shard.id), self.stuck.len());
        said.push(format!("what would stay is of shard {stuck}"));
        if self.homeless.shards > 0 {
            said.push(format!("what helps: {}", self.remedies().join("; or ")));
        }
        said.join(". ")
    }

    /// What stands against these nodes.
    fn sentence(&self, obstacle: Obstacle, nodes: &BTreeMap<&NodeId, Against>) -> String {
        let of_shards = |against: &Against| {
            let is_all = against.shards == self.homeless.shards;
            if is_all { String::new() } else { format!(" ({} of them)", against.shards) }
        };
        let plain = |node: &NodeId, against: &Against| format!("{node}{}", of_shards(against));
        let full = |node: &NodeId, against: &Against| {
            let lacking = against.bytes.saturating_sub(self.room.get(node).copied().unwrap_or(0)).max(1);
            format!("{node} (lacks {lacking} bytes for {} of them)", against.shards)
        };
        let crowded = |node: &NodeId, against: &Against| {
            let row = self.state.node(node);
            let place = |name: Option<&String>| name.map_or("none".to_owned(), Clone::clone);
            let zone = place(row.and_then(|row| row.zone.as_ref()));
            let rack = place(row.and_then(|row| row.rack.as_ref()));
            format!("{node} (zone {zone}, rack {rack}; {} of them)", against.shards)
        };
        let tell = |(node, against): (&&NodeId, &Against)| match obstacle {
            Obstacle::Full => full(node, against),
            Obstacle::Crowded => crowded(node, against),
            Obstacle::Emptied
            | Obstacle::Maintenance
            | Obstacle::Down
            | Obstacle::Weightless
            | Obstacle::Deleting
            | Obstacle::Holds => plain(node, against),
        };
        format!("{}: {}", obstacle.told(), listed(nodes.iter().map(tell), nodes.len()))
    }

    fn remedies(&self) -> Vec<String> {
        let nodes = |obstacle| self.against.get(&obstacle).into_iter().flat_map(BTreeMap::keys).copied();
        let mut remedies = Vec::new();
        let first = |obstacle| nodes(obstacle).next();
        if let Some(node) = first(Obstacle::Emptied) {
            remedies.push(format!("DELETE /v1/nodes/{node}/drain"));
        }
        if let Some(node) = first(Obstacle::Maintenance) {
            remedies.push(format!("DELETE /v1/nodes/{node}/maintenance"));
        }
        if let Some(node) = first(Obstacle::Down) {
            remedies.push(format!("start {node} again"));
        }
        if let Some(node) = first(Obstacle::Weightless) {
            remedies.push(format!("PATCH /v1/nodes/{node} with a capacity above 0"));
        }
        if first(Obstacle::Full).is_some() {
            remedies.push("free space on the nodes that are full, or raise disk_watermark".to_owned());
        }
        let crowded: BTreeSet<&str> =
            nodes(Obstacle::Crowded).filter_map(|node| self.state.node(node)?.rack.as_deref()).collect();
        let is_crowded = first(Obstacle::Crowded).is_some();
        let where_to = match crowded.len() {
            0 if is_crowded => " in a rack of its own".to_owned(),
            0 => String::new(),
            racks => format!(" in another rack than {}", listed(crowded.iter(), racks)),
        };
        remedies.push(format!("add a data node{where_to} with room for {} bytes", self.homeless.bytes));
        remedies
    }
}

/// The first of `count` items, and how many more there are.
fn listed<T: Display>(items: impl Iterator<Item = T>, count: usize) -> String {
    let first: Vec<String> = items.take(MAX_LISTED).map(|item| item.to_string()).collect();
    let more = count.saturating_sub(MAX_LISTED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", first.join(", "))
}

#[cfg(test)]
mod tests;
