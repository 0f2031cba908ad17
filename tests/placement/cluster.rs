//! A cluster as an operator would describe it, from which the state is made by the commands that make one in service.
//!
//! The golden scripts of this folder and `benches/placement.rs` share it, so that what is measured is what is tested: a plan
//! from the replicated state and from what heartbeats said.

use std::collections::BTreeMap;

use ruvector_cluster::client::ids::{Epoch, Incarnation, NodeId, Revision, ShardId, Thousandths};
use ruvector_cluster::client::wire::{
    HeartbeatRequest, HeldShard, InSyncMember, InSyncProposal, MigrationKind, Move, PatchNodeRequest, Report,
};
use ruvector_cluster::metadata::{
    COMMAND_VERSION, Change, Command, Envelope, MAX_BATCH, Metadata, Register, Settings, Wish, apply,
};
use ruvector_cluster::placement::Planned;
use ruvector_cluster::soft::Soft;

/// When the state's last command was applied, in milliseconds since 1970.
pub(crate) const NOW_MS: u64 = 1_000_000_000;

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Alive and schedulable.
    Up,
    /// An operator empties it.
    Draining,
    /// An operator said that it will be away.
    Maintenance,
    /// Down, since [`NOW_MS`].
    Down,
    /// The same, and an operator empties it.
    DownAndDraining,
}

impl Condition {
    fn is_down(self) -> bool {
        matches!(self, Self::Down | Self::DownAndDraining)
    }
}

/// A data node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) zone: Option<String>,
    pub(crate) rack: Option<String>,
    pub(crate) capacity: Thousandths,
    pub(crate) capacity_bytes: Option<u64>,
    pub(crate) condition: Condition,
    /// Gossip tells that it is alive.
    pub(crate) heard: bool,
}

impl Node {
    /// Alive, with a capacity of 1.
    pub(crate) fn new(name: &str, rack: &str) -> Self {
        let rack = Some(rack.to_owned()).filter(|rack| !rack.is_empty());
        Self {
            name: name.to_owned(),
            zone: None,
            rack,
            capacity: Thousandths::ONE,
            capacity_bytes: None,
            condition: Condition::Up,
            heard: false,
        }
    }
}

/// A shard and what each of its copies is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shard {
    /// Places in [`Cluster::nodes`]; the primary first. None before the first assignment.
    pub(crate) copies: Vec<usize>,
    /// Nodes that are replicas and say that they lost their copy.
    pub(crate) lost: Vec<usize>,
    /// Bytes of one copy.
    pub(crate) size_bytes: u64,
    /// Reads a second, which the primary is told to serve.
    pub(crate) reads_per_s: Thousandths,
    /// Writes a second, which each copy takes.
    pub(crate) writes_per_s: Thousandths,
}

/// The description.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) replication_factor: u32,
}

/// Applies commands one after the other.
struct Log {
    metadata: Metadata,
    index: u64,
}

impl Log {
    fn apply(&mut self, command: Command) {
        self.index += 1;
        let envelope = Envelope { version: COMMAND_VERSION, actor: "test".to_owned(), key: None, command };
        let applied = apply(&mut self.metadata, self.index, NOW_MS, &envelope);
        applied.outcome.result.expect("what describes a cluster is sound");
    }

    fn coordinate(&mut self, changes: Vec<Change>) {
        for batch in changes.chunks(MAX_BATCH) {
            self.apply(Command::Coordinate { changes: batch.to_vec() });
        }
    }
}

impl Cluster {
    /// `nodes` in `racks`, which hold no copy of `shards` yet. Names sort as the nodes do.
    pub(crate) fn empty(shards: usize, nodes: usize, racks: usize) -> Self {
        let node = |number: usize| Node::new(&format!("n{number:05}"), &format!("r{:03}", number % racks));
        Self {
            nodes: (0..nodes).map(node).collect(),
            shards: vec![Shard::default(); shards],
            replication_factor: 3,
        }
    }

    fn id(&self, node: usize) -> NodeId {
        NodeId::new(&self.nodes[node].name).expect("names are legal")
    }

    /// The place of the node of that name.
    pub(crate) fn place_of(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// The node comes to be so. Primaries that go down are replaced, as the coordinator would before it plans anything.
    pub(crate) fn set_condition(&mut self, place: usize, condition: Condition) {
        self.nodes[place].condition = condition;
        let is_up = |node: &usize| !self.nodes[*node].condition.is_down();
        for copies in self.shards.iter_mut().map(|shard| &mut shard.copies) {
            let heir = copies.iter().position(is_up);
            if let Some(heir) = heir.filter(|_| !is_up(&copies[0])) {
                copies.swap(0, heir);
            }
        }
    }

    /// The node comes back without what it held. Others lead what it led.
    pub(crate) fn wipe(&mut self, place: usize) {
        for shard in self.shards.iter_mut().filter(|shard| shard.copies.contains(&place)) {
            shard.copies.retain(|node| *node != place);
            shard.lost.push(place);
        }
    }

    /// The replicated state, made by commands, and what the nodes' heartbeats said.
    pub(crate) fn state(&self) -> (Metadata, Soft) {
        let mut log = Log { metadata: Metadata::new(), index: 0 };
        log.apply(Command::Found {
            cluster_id: "c".to_owned(),
            settings: Settings {
                num_shards: u32::try_from(self.shards.len()).expect("shards are numbered by u32"),
                replication_factor: self.replication_factor,
                failure_timeout_ms: 5_000,
                lease_ms: 4_000,
                heartbeat_interval_ms: 1_000,
            },
        });
        for place in 0..self.nodes.len() {
            log.apply(self.registration(place));
        }
        self.assign(&mut log);
        for (place, node) in self.nodes.iter().enumerate() {
            self.condition(&mut log, place, node);
        }
        (log.metadata, self.soft())
    }

    fn registration(&self, place: usize) -> Command {
        let node = &self.nodes[place];
        Command::Register(Register {
            node: self.id(place),
            addr: format!("{}:1", node.name),
            store_id: format!("store-{}", node.name),
            zone: node.zone.clone(),
            rack: node.rack.clone(),
            labels: BTreeMap::new(),
            capacity: None,
            capacity_bytes: node.capacity_bytes,
            accept_data_loss: false,
            lease_over_of: None,
            if_match: None,
        })
    }

    fn assign(&self, log: &mut Log) {
        let mut led: Vec<Vec<Report>> = vec![Vec::new(); self.nodes.len()];
        let mut lost = led.clone();
        let mut changes = Vec::new();
        for (id, shard) in (0..).map(ShardId).zip(&self.shards) {
            let Some((primary, replicas)) = shard.copies.split_first() else { continue };
            changes.push(Change::Assign {
                shard: id,
                if_epoch: Epoch(0),
                primary: self.id(*primary),
                replicas: replicas.iter().chain(&shard.lost).map(|node| self.id(*node)).collect(),
            });
            let member = |node: &usize| InSyncMember { node: self.id(*node), incarnation: Incarnation(1) };
            let members = shard.copies.iter().chain(&shard.lost).map(member).collect();
            let opened = InSyncProposal { if_version: 1, members };
            led[*primary].push(Report { in_sync_set: Some(opened), ..Report::new(id, Epoch(1)) });
            for node in &shard.lost {
                lost[*node].push(Report { lost: true, ..Report::new(id, Epoch(1)) });
            }
        }
        log.coordinate(changes);
        let said = led.into_iter().enumerate().chain(lost.into_iter().enumerate());
        for (place, reports) in said.filter(|(_, reports)| !reports.is_empty()) {
            log.apply(Command::Reports { node: self.id(place), incarnation: Incarnation(1), reports });
        }
    }

    fn condition(&self, log: &mut Log, place: usize, node: &Node) {
        let id = self.id(place);
        if node.capacity != Thousandths::ONE {
            let patch = PatchNodeRequest { capacity: Some(node.capacity), ..PatchNodeRequest::default() };
            log.apply(Command::PatchNode { node: id.clone(), if_match: None, patch });
        }
        let wish = |wish| Command::SetIntent { node: id.clone(), if_match: None, wish };
        match node.condition {
            Condition::Up => {}
            Condition::Draining => log.apply(wish(Wish::Drain)),
            Condition::DownAndDraining => {
                log.apply(wish(Wish::Drain));
                log.coordinate(vec![Change::Down { node: id.clone(), incarnation: Incarnation(1) }]);
            }
            Condition::Maintenance => log.apply(wish(Wish::Maintain { duration_ms: 3_600_000 })),
            Condition::Down => {
                log.coordinate(vec![Change::Down { node: id.clone(), incarnation: Incarnation(1) }]);
            }
        }
    }

    fn soft(&self) -> Soft {
        let mut held: Vec<Vec<HeldShard>> = vec![Vec::new(); self.nodes.len()];
        for (id, shard) in (0..).map(ShardId).zip(&self.shards) {
            for (place, node) in shard.copies.iter().enumerate() {
                held[*node].push(HeldShard {
                    id,
                    epoch: Epoch(1),
                    position: 1,
                    size_bytes: shard.size_bytes,
                    reads_per_s: if place == 0 { shard.reads_per_s } else { Thousandths(0) },
                    writes_per_s: shard.writes_per_s,
                    ..HeldShard::default()
                });
            }
        }
        let mut soft = Soft::default();
        for (place, shards) in held.into_iter().enumerate() {
            let beat = HeartbeatRequest {
                incarnation: Incarnation(1),
                installed_revision: Revision(0),
                partial: false,
                shards,
                disk_free_bytes: None,
            };
            soft.observe_heartbeat(&self.id(place), &beat, NOW_MS);
        }
        let heard = self.nodes.iter().enumerate().filter(|(_, node)| node.heard);
        soft.heard_of = heard.map(|(place, node)| (self.id(place), format!("store-{}", node.name))).collect();
        soft
    }

    /// The cluster once everything planned is done. Answers what each move did wrong, if anything, in sentences.
    pub(crate) fn carry_out(&mut self, planned: &Planned) -> Vec<String> {
        let places: BTreeMap<NodeId, usize> =
            (0..self.nodes.len()).map(|node| (self.id(node), node)).collect();
        for (shard, copies) in &planned.assigned {
            self.shards[shard.0 as usize].copies = copies.iter().map(|node| places[node]).collect();
        }
        let wrong = planned.plan.moves.iter().filter_map(|step| self.carry_out_one(step, &places).err());
        wrong.collect()
    }

    fn carry_out_one(&mut self, step: &Move, places: &BTreeMap<NodeId, usize>) -> Result<(), String> {
        let place = |node: &Option<NodeId>| node.as_ref().map(|node| places[node]);
        let (from, to) = (place(&step.from), place(&step.to));
        let Shard { copies, lost, .. } = &mut self.shards[step.shard.0 as usize];
        lost.retain(|node| Some(*node) != to && Some(*node) != from);
        let has = |node: Option<usize>, copies: &[usize]| copies.iter().position(|copy| Some(*copy) == node);
        let (given, taken) = (has(from, copies), has(to, copies));
        match (step.kind, given, taken, to) {
            (MigrationKind::Move, Some(given), None, Some(to)) => copies[given] = to,
            (MigrationKind::Promote, Some(0), Some(taken), _) => copies.swap(0, taken),
            (MigrationKind::Add, None, None, Some(to)) => copies.push(to),
            (MigrationKind::Remove, Some(given), None, None) if given > 0 => {
                copies.remove(given);
            }
            _ => return Err(format!("this can't be done with copies on {copies:?}: {step:?}")),
        }
        Ok(())
    }
}
