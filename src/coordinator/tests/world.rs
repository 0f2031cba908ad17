//! A cluster in one thread: the state, one leader's soft state, and data nodes that do at once whatever they are assigned.

use std::collections::{BTreeMap, BTreeSet};

use ruvector_cluster_client::ids::{Incarnation, MigrationId, NodeId, Revision, ShardId, Thousandths};
use ruvector_cluster_client::wire::{
    HeartbeatRequest, HeldShard, InSyncMember, InSyncProposal, PatchNodeRequest, Phase, RebalancePolicy,
    Report, Role,
};

use super::super::driver::observe_heartbeat;
use super::super::{Now, Scope, Soft, decide};
use crate::liveness::Grant;
use crate::metadata::{
    Answer, COMMAND_VERSION, Change, Command, Envelope, Metadata, Register, Rejection, Settings, ShardRow,
    Wish, apply, view,
};

pub(super) const TICK_MS: u64 = 250;

/// A data node, as far as the coordinator sees one.
#[derive(Clone, Debug)]
pub(super) struct DataNode {
    pub(super) incarnation: Incarnation,
    pub(super) runs: bool,
    /// Holds its part of migrations back.
    pub(super) idles: bool,
    pub(super) held: BTreeSet<ShardId>,
}

pub(super) struct World {
    pub(super) metadata: Metadata,
    pub(super) soft: Soft,
    pub(super) nodes: BTreeMap<NodeId, DataNode>,
    pub(super) now_ms: u64,
    /// Bytes of shards' copies; 10 where none are given.
    pub(super) sizes: BTreeMap<ShardId, u64>,
    /// Heartbeats list no copies.
    pub(super) tells_no_sizes: bool,
    /// Reads and writes that the primaries of shards answer, thousandths a second.
    pub(super) load: BTreeMap<ShardId, (u64, u64)>,
    index: u64,
    /// What the leader decided and was applied, in order.
    pub(super) decided: Vec<Change>,
    /// What was refused: deciding and applying should agree.
    pub(super) refused: Vec<String>,
}

pub(super) fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

impl World {
    pub(super) fn founded(num_shards: u32, replication_factor: u32) -> Self {
        let mut world = Self {
            metadata: Metadata::new(),
            soft: Soft::default(),
            nodes: BTreeMap::new(),
            now_ms: 1_000_000,
            sizes: BTreeMap::new(),
            tells_no_sizes: false,
            load: BTreeMap::new(),
            index: 0,
            decided: Vec::new(),
            refused: Vec::new(),
        };
        let settings = Settings {
            num_shards,
            replication_factor,
            failure_timeout_ms: 5_000,
            lease_ms: 4_000,
            heartbeat_interval_ms: 1_000,
        };
        world.apply(Command::Found { cluster_id: "c".to_owned(), settings });
        world.lead();
        world
    }

    /// Another leader takes over: nothing soft is left.
    pub(super) fn lead(&mut self) {
        self.soft = Soft::default();
        let nodes = self.metadata.nodes().map(|row| (&row.id, row.incarnation));
        self.soft.liveness.begin_leading(self.now_ms, 4_000, 1_000, nodes);
    }

    pub(super) fn apply(&mut self, command: Command) -> Answer {
        self.outcome(command).expect("the command as a whole is sound")
    }

    pub(super) fn refuses(&mut self, command: Command) -> Rejection {
        self.outcome(command).expect_err("the command as a whole is refused")
    }

    fn outcome(&mut self, command: Command) -> Result<Answer, Rejection> {
        self.index += 1;
        let envelope = Envelope { version: COMMAND_VERSION, actor: "test".to_owned(), key: None, command };
        apply(&mut self.metadata, self.index, self.now_ms, &envelope).outcome.result
    }

    pub(super) fn join(&mut self, name: &str, rack: &str) {
        let node = id(name);
        let answer = self.apply(Command::Register(Register {
            node: node.clone(),
            addr: format!("{name}:1"),
            store_id: format!("store-{name}"),
            zone: None,
            rack: Some(rack.to_owned()).filter(|rack| !rack.is_empty()),
            labels: BTreeMap::new(),
            capacity: None,
            capacity_bytes: None,
            accept_data_loss: false,
            lease_over_of: None,
            if_match: None,
        }));
        let Answer::Registered { node: row } = answer else { panic!("a registration answers with the row") };
        let data = DataNode { incarnation: row.incarnation, runs: true, idles: false, held: BTreeSet::new() };
        let known = self.nodes.entry(node).or_insert(data);
        known.incarnation = row.incarnation;
        known.runs = true;
    }

    /// All control nodes are lost; a new cluster begins from `backup`, and the data nodes find it.
    pub(super) fn restore(&mut self, backup: &Metadata) {
        self.metadata = backup.restored_as("again").unwrap().unwrap();
        self.index = self.metadata.revision().0;
        self.lead();
        let running = self.nodes.iter().filter(|(_, data)| data.runs).map(|(node, _)| node.clone());
        for node in running.collect::<Vec<_>>() {
            self.join(node.as_str(), "");
        }
    }

    pub(super) fn wish(&mut self, name: &str, wish: Wish) {
        self.apply(Command::SetIntent { node: id(name), if_match: None, wish });
    }

    pub(super) fn set_policy(&mut self, change: impl FnOnce(&mut RebalancePolicy)) {
        let mut policy = self.metadata.policy().clone();
        change(&mut policy);
        self.apply(Command::SetPolicy { policy, if_match: None });
    }

    pub(super) fn weigh(&mut self, name: &str, capacity: Thousandths) {
        let patch = PatchNodeRequest { capacity: Some(capacity), ..PatchNodeRequest::default() };
        self.apply(Command::PatchNode { node: id(name), if_match: None, patch });
    }

    pub(super) fn kill(&mut self, name: &str) {
        self.nodes.get_mut(&id(name)).unwrap().runs = false;
    }

    /// Lets `ms` pass.
    pub(super) fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(TICK_MS) {
            self.tick();
        }
    }

    /// Lets `ms` pass in one round: nodes that run were heard all the time.
    pub(super) fn pass_ms(&mut self, ms: u64) {
        self.now_ms += ms.saturating_sub(TICK_MS);
        self.tick();
    }

    /// Runs until nothing is decided for three seconds, and says how long that took.
    pub(super) fn settle(&mut self) -> u64 {
        self.settle_within(3_000)
    }

    /// Runs until nothing is decided for `calm_ms`, and says how long that took.
    pub(super) fn settle_within(&mut self, calm_ms: u64) -> u64 {
        let began_ms = self.now_ms;
        let mut quiet_ms = 0;
        while quiet_ms < calm_ms {
            assert!(self.now_ms < began_ms + 600_000, "it does not come to rest: {:?}", self.decided.last());
            quiet_ms = if self.tick() == 0 { quiet_ms + TICK_MS } else { 0 };
        }
        self.now_ms - began_ms
    }

    /// One round; how many changes were decided.
    pub(super) fn tick(&mut self) -> usize {
        self.tick_in(Scope::Whole)
    }

    pub(super) fn now(&self) -> Now {
        Now { boot_ms: self.now_ms, wall_ms: self.now_ms }
    }

    pub(super) fn tick_in(&mut self, scope: Scope) -> usize {
        self.now_ms += TICK_MS;
        let names: Vec<NodeId> = self.nodes.keys().cloned().collect();
        for node in &names {
            if self.nodes[node].runs {
                self.beat(node);
                self.work(node);
            }
        }
        self.soft.observe_state(&self.metadata, self.now_ms);
        self.soft.stop_granting(&self.metadata, self.now_ms);
        let now = self.now();
        let decision = decide(&self.metadata, &self.soft, now, scope);
        self.soft.observe_decision(decision.levelling, decision.load_watch);
        let mut decided = 0;
        for command in decision.commands {
            let Command::Coordinate { changes } = command.clone() else { panic!("the leader coordinates") };
            decided += changes.len();
            let Answer::Coordinated { changes: results } = self.apply(command) else {
                panic!("it answers so")
            };
            for (change, result) in changes.iter().zip(results) {
                if let Err(rejection) = result {
                    self.refused.push(format!("{change:?}: {rejection}"));
                }
            }
            self.decided.extend(changes);
            self.check();
        }
        decided
    }

    fn beat(&mut self, node: &NodeId) {
        let data = &self.nodes[node];
        let size_bytes = |shard| self.sizes.get(shard).copied().unwrap_or(10);
        let leads = |shard| self.metadata.shard(shard).is_some_and(|row| row.primary.as_ref() == Some(node));
        let load = |shard| self.load.get(&shard).filter(|_| leads(shard)).copied().unwrap_or_default();
        let told = data.held.iter().filter(|_| !self.tells_no_sizes);
        let held = told.map(|shard| HeldShard {
            id: *shard,
            size_bytes: size_bytes(shard),
            reads_per_s: Thousandths(load(*shard).0),
            writes_per_s: Thousandths(load(*shard).1),
            ..HeldShard::default()
        });
        let request = HeartbeatRequest {
            incarnation: data.incarnation,
            installed_revision: self.metadata.revision(),
            partial: self.tells_no_sizes,
            shards: held.collect(),
            disk_free_bytes: None,
        };
        let now = self.now();
        let (answer, grant) = observe_heartbeat(&self.metadata, &mut self.soft, node, &request, now).unwrap();
        let granted = matches!(grant, Grant::Granted(_)) && !self.metadata.is_suspended();
        assert_eq!(answer.lease_ms > 0, granted);
    }

    /// Does and reports what the node is assigned.
    fn work(&mut self, node: &NodeId) {
        let assigned = view::assignments(&self.metadata, node).unwrap().assignments;
        let roles: Vec<(ShardId, Role)> = assigned.iter().map(|one| (one.shard, one.role)).collect();
        let mut reports = Vec::new();
        for (id, role) in roles {
            let shard = self.metadata.shard(id).unwrap().clone();
            if role == Role::Retiring {
                self.nodes.get_mut(node).unwrap().held.remove(&id);
                reports.push(Report { retired: true, ..Report::new(id, shard.epoch) });
                continue;
            }
            self.nodes.get_mut(node).unwrap().held.insert(id);
            if !self.nodes[node].idles {
                reports.extend(self.migration_report(node, &shard));
            }
            if role == Role::Primary {
                reports.extend(self.in_sync_report(&shard));
            }
        }
        if reports.is_empty() {
            return;
        }
        let incarnation = self.nodes[node].incarnation;
        let answer =
            self.apply(Command::Reports { node: node.clone(), incarnation, reports: reports.clone() });
        let Answer::Reported { results } = answer else { panic!("reports are answered so") };
        for (report, _) in reports.iter().zip(results).filter(|(_, result)| result.accepted) {
            self.soft.observe_report(node, report, self.now_ms);
        }
    }

    fn migration_report(&self, node: &NodeId, shard: &ShardRow) -> Option<Report> {
        let row = self.metadata.migration(shard.migration?)?;
        let (takes, leads) = (row.to.as_ref() == Some(node), shard.primary.as_ref() == Some(node));
        let is_mine = match row.phase {
            Phase::Preparing => (takes && !row.target_ready) || (leads && !row.primary_ready),
            Phase::Copying => takes,
            Phase::HandingOver => leads,
            Phase::Queued | Phase::Admitting | Phase::Done | Phase::Aborted => false,
        };
        is_mine.then(|| Report {
            migration: Some(row.id),
            phase: Some(row.phase),
            done: true,
            ..Report::new(shard.id, row.epoch)
        })
    }

    /// The set that the primary wants: every copy of it that answers.
    fn in_sync_report(&self, shard: &ShardRow) -> Option<Report> {
        let migration = shard.migration.and_then(|id| self.metadata.migration(id));
        let admitted = migration.filter(|row| row.phase == Phase::Admitting).and_then(|row| row.to.as_ref());
        let kept = shard.learners.iter().filter(|learner| shard.in_sync.contains(learner));
        let mut members: Vec<&NodeId> = shard.full_copies().chain(admitted).chain(kept).collect();
        members.retain(|node| self.nodes[*node].runs && self.metadata.is_alive(node));
        members.sort();
        members.dedup();
        if members == shard.in_sync.iter().collect::<Vec<_>>() && !shard.founding {
            return None;
        }
        let member = |node: &&NodeId| InSyncMember {
            node: (*node).clone(),
            incarnation: self.metadata.node(node).unwrap().incarnation,
        };
        let members = members.iter().map(member).collect();
        let set = InSyncProposal { if_version: shard.in_sync_version, members };
        Some(Report {
            migration: migration.map(|row| row.id),
            phase: migration.map(|row| row.phase),
            in_sync_set: Some(set),
            ..Report::new(shard.id, shard.epoch)
        })
    }

    /// What must hold after every command.
    fn check(&self) {
        let racks: BTreeSet<_> =
            self.metadata.nodes().filter(|row| !row.is_down()).map(|row| &row.rack).collect();
        for shard in self.metadata.shards() {
            if racks.len() >= self.metadata.replication_factor() && shard.migration.is_none() {
                let rack = |node: &NodeId| self.metadata.node(node).map(|row| row.rack.clone());
                let used: Vec<_> =
                    shard.full_copies().filter(|node| self.metadata.is_alive(node)).map(rack).collect();
                let different: BTreeSet<_> = used.iter().collect();
                assert_eq!(used.len(), different.len(), "shard {} shares a rack: {used:?}", shard.id);
            }
        }
        let policy = self.metadata.policy();
        let running = self.metadata.active_migrations().filter(|row| row.phase != Phase::Queued);
        assert!(running.count() <= policy.max_migrations as usize);
    }

    pub(super) fn copies(&self) -> Vec<u64> {
        self.nodes.keys().map(|node| self.metadata.copies_of(node)).collect()
    }

    pub(super) fn primaries(&self) -> Vec<u64> {
        self.nodes.keys().map(|node| self.metadata.primaries_of(node)).collect()
    }

    /// Every shard has all its copies in sync on nodes that are alive.
    pub(super) fn assert_whole(&self) {
        let counts = self.metadata.shard_counts();
        assert_eq!(counts.active, counts.total, "{counts:?}");
        assert_eq!(self.refused, Vec::<String>::new());
    }

    pub(super) fn ended(&self, phase: Phase) -> Vec<MigrationId> {
        self.metadata.migrations().filter(|row| row.phase == phase).map(|row| row.id).collect()
    }

    pub(super) fn revision(&self) -> Revision {
        self.metadata.revision()
    }
}
