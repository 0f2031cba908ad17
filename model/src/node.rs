//! A data node: its disk, its copy's replica, its lease, and who waits for what of it. The shell around the shipped replica, in its
//! shortest form.

use std::collections::{BTreeMap, VecDeque};

use ruvector_cluster_client::agent::Lease;
use ruvector_cluster_client::ids::{Epoch, Incarnation, NodeId, Position, Revision, ShardId};
use ruvector_cluster_client::replica::event::{Effect, Event, Operation, Reply, ReportOutcome};
use ruvector_cluster_client::replica::memory::{MemoryCopy, MemoryStore};
use ruvector_cluster_client::replica::store::{ReplicaStore, StoreAction, StoreResult, StoreState};
use ruvector_cluster_client::replica::wire::{Answer, Request};
use ruvector_cluster_client::replica::{CallId, OpId, Replica, ReportId, Ticket, Value};
use ruvector_cluster_client::wire::{Assignment, HeldShard, Role};

use crate::ghost::{Rule, Seen};
use crate::world::{Message, World};

/// The shard.
pub(crate) const SHARD: ShardId = ShardId(0);

/// The key that is written and read.
pub(crate) const KEY: &str = "k";

/// Who waits for an answer of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Waiter {
    Node {
        from: usize,
        run: Incarnation,
        call: CallId,
    },
    /// A client, with the key, what it writes, and what had been seen when it asked.
    Client {
        key: &'static str,
        value: Option<Value>,
        began: Position,
    },
}

/// A data node.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Node {
    pub(crate) name: NodeId,
    /// 0 while it is off.
    pub(crate) run: Incarnation,
    pub(crate) replica: Option<Replica>,
    /// What is on disk.
    pub(crate) disk: Option<MemoryCopy>,
    /// Which store it is.
    pub(crate) store: u32,
    /// Actions that the store has not carried out yet.
    pub(crate) queue: VecDeque<(OpId, StoreAction)>,
    pub(crate) lease: Lease,
    told_until_ms: u64,
    pub(crate) installed: Revision,
    /// Taken in, not on disk yet.
    installing: Option<Revision>,
    pub(crate) assignment: Option<Assignment>,
    waiters: BTreeMap<Ticket, Waiter>,
    last_ticket: u64,
    /// When, and with which assignments, it last sent a heartbeat.
    pub(crate) beat: (u64, Revision),
}

impl Node {
    /// A node that has never run.
    pub(crate) fn off(at: usize, name: Option<NodeId>) -> Self {
        let name = name.unwrap_or_else(|| unreachable!("n{at} is a legal name"));
        Self {
            name,
            run: Incarnation(0),
            replica: None,
            disk: None,
            store: 0,
            queue: VecDeque::new(),
            lease: Lease::default(),
            told_until_ms: 0,
            installed: Revision(0),
            installing: None,
            assignment: None,
            waiters: BTreeMap::new(),
            last_ticket: 0,
            beat: (0, Revision(0)),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.replica.is_some()
    }

    /// Whether it was told to lead the shard.
    pub(crate) fn leads(&self) -> bool {
        self.is_on() && self.assignment.as_ref().is_some_and(|assignment| assignment.role == Role::Primary)
    }

    /// Its store's id, as it registers.
    pub(crate) fn store_id(&self) -> String {
        format!("{}-{}", self.name, self.store)
    }

    /// What it lists in heartbeats.
    pub(crate) fn held(&self) -> Vec<HeldShard> {
        let status = self.replica.as_ref().map(Replica::status).filter(|status| status.held);
        let held = |status: ruvector_cluster_client::replica::Status| HeldShard {
            id: SHARD,
            epoch: status.position.epoch,
            position: status.position.n,
            ..HeldShard::default()
        };
        status.map(held).into_iter().collect()
    }

    fn wait(&mut self, waiter: Waiter) -> Ticket {
        if self.waiters.is_empty() {
            // Numbers begin anew, so that equal states are equal.
            self.last_ticket = 0;
        }
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.waiters.insert(ticket, waiter);
        ticket
    }

    /// The last write of the key on disk. Nothing is ever deleted here.
    pub(crate) fn found(&self, key: &str) -> Seen {
        let Some(copy) = &self.disk else { return Seen::default() };
        copy.writes
            .get(key)
            .map(|write| Seen { position: write.position, value: write.value.clone() })
            .unwrap_or_default()
    }
}

impl World {
    /// The node's process starts as `run`, with what is on disk.
    pub(crate) fn begin(&mut self, at: usize, run: Incarnation) {
        let limits = self.limits.as_ref().clone();
        let node = self.node(at);
        let found: Option<StoreState> = node.disk.as_ref().map(|copy| copy.state.clone());
        node.replica = Some(Replica::new(node.name.clone(), SHARD, limits, found));
        node.run = run;
        node.lease = Lease::default();
        node.told_until_ms = 0;
        node.installed = Revision(0);
        node.installing = None;
        node.assignment = None;
        node.beat = (0, Revision(0));
    }

    /// The node's process ends. Of what its store had not carried out yet, all is, or nothing.
    pub(crate) fn crash(&mut self, at: usize, is_stored: bool) {
        while is_stored && self.take_store_action(at).is_some() {}
        let node = self.node(at);
        node.replica = None;
        node.run = Incarnation(0);
        node.queue.clear();
        node.assignment = None;
        // Connections to the dead process break.
        let waiters = std::mem::take(&mut node.waiters);
        for waiter in waiters.into_values() {
            if let Waiter::Node { from, run, call } = waiter {
                self.call_failed(from, run, call);
            }
        }
    }

    pub(crate) fn tell_lease(&mut self, at: usize) {
        let until_ms = self.nodes[at].lease.until_ms();
        if until_ms > self.nodes[at].told_until_ms {
            self.node(at).told_until_ms = until_ms;
            self.step(at, Event::LeaseUntil(until_ms));
        }
    }

    pub(crate) fn tick_node(&mut self, at: usize) {
        self.step(at, Event::Tick);
    }

    /// Gives the event to the replica, and carries its effects out as far as they are done at once.
    fn step(&mut self, at: usize, event: Event) {
        let now_ms = self.now_ms;
        let Some(replica) = &mut self.node(at).replica else { return };
        for effect in replica.step(now_ms, event) {
            self.carry_out(at, effect);
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let run = self.nodes[at].run;
        match effect {
            Effect::Store { op, action } => self.node(at).queue.push_back((op, action)),
            Effect::Send { call, to, request } => {
                if let Some(to) = self.number_of(&to.node) {
                    self.send(Message::Request { from: at, run, call, to, request });
                }
            }
            Effect::Answer { ticket, answer } => {
                self.check_stored(at, &answer);
                if let Some(Waiter::Node { from, run, call }) = self.node(at).waiters.remove(&ticket) {
                    self.send(Message::Answer { to: from, run, call, answer });
                }
            }
            Effect::Reply { ticket, reply } => self.on_reply(at, ticket, &reply),
            Effect::Report { report, body } => {
                self.send(Message::Report { from: at, run, id: report, body });
            }
        }
    }

    /// What a copy answers under an epoch, it has adopted on disk.
    fn check_stored(&mut self, at: usize, answer: &Answer) {
        let epoch = match answer {
            Answer::Adopted { epoch, .. } | Answer::Have { epoch, .. } | Answer::Gap { epoch, .. } => *epoch,
            Answer::StaleEpoch { epoch } | Answer::Chunk { epoch, .. } => *epoch,
            Answer::Same { epoch, .. } | Answer::Differs { epoch } => *epoch,
            Answer::NotYet { .. } | Answer::NoCopy | Answer::Damaged => return,
        };
        let stored = self.nodes[at].disk.as_ref().map_or(Epoch(0), |copy| copy.state.adopted);
        if stored < epoch {
            let how = format!("node {at} answers under epoch {epoch}, with {stored} on disk");
            self.ghost.broke(Rule::EpochStored, how);
        }
    }

    fn on_reply(&mut self, at: usize, ticket: Ticket, reply: &Reply) {
        let Some(Waiter::Client { key, value, began }) = self.node(at).waiters.remove(&ticket) else {
            return;
        };
        match reply {
            Reply::Written { position } => {
                self.ghost.answered_under(position.epoch, at);
                self.ghost.acknowledged += 1;
                if key == KEY {
                    self.ghost.wrote(began, Seen { position: *position, value });
                }
            }
            Reply::ReadAt { epoch } => {
                let found = self.nodes[at].found(key);
                let now_ms = self.now_ms;
                let confirms = |replica: &Replica| replica.confirms_read(*epoch, now_ms);
                if self.nodes[at].replica.as_ref().is_some_and(confirms) {
                    self.ghost.answered_under(*epoch, at);
                    self.ghost.read(began, found);
                }
            }
            Reply::Refused(_) => {}
        }
    }

    /// A client asks a node to write.
    pub(crate) fn write(&mut self, at: usize, key: &'static str, value: String) {
        let (began, value) = (self.ghost.seen.position, Some(Value::from(value)));
        let waiter = Waiter::Client { key, value: value.clone(), began };
        let ticket = self.node(at).wait(waiter);
        self.step(
            at,
            Event::Client { ticket, epoch: None, operation: Operation::Write { key: key.into(), value } },
        );
    }

    /// A client asks a node to read.
    pub(crate) fn read(&mut self, at: usize) {
        let began = self.ghost.seen.position;
        let ticket = self.node(at).wait(Waiter::Client { key: KEY, value: None, began });
        self.step(at, Event::Client { ticket, epoch: None, operation: Operation::Read });
    }

    /// Another node's request arrives.
    pub(crate) fn ask(&mut self, at: usize, asker: (usize, Incarnation, CallId), request: Request) {
        let (from, run, call) = asker;
        let is_apart = self.apart.is_some_and(|apart| apart == at || apart == from);
        if !self.nodes[at].is_on() || is_apart {
            return self.call_failed(from, run, call);
        }
        let ticket = self.node(at).wait(Waiter::Node { from, run, call });
        let name = self.nodes[from].name.clone();
        self.step(at, Event::Request { ticket, from: name, request });
    }

    pub(crate) fn answered(&mut self, at: usize, run: Incarnation, call: CallId, answer: Answer) {
        if self.nodes[at].run == run {
            self.step(at, Event::Answer { call, answer });
        }
    }

    pub(crate) fn call_failed(&mut self, at: usize, run: Incarnation, call: CallId) {
        if self.nodes[at].run == run {
            self.step(at, Event::CallFailed(call));
        }
    }

    pub(crate) fn reported(&mut self, at: usize, run: Incarnation, id: ReportId, outcome: ReportOutcome) {
        if self.nodes[at].run == run {
            self.step(at, Event::Reported { report: id, outcome });
        }
    }

    /// The oldest action that the store has not carried out is, on disk.
    fn take_store_action(&mut self, at: usize) -> Option<(OpId, StoreResult)> {
        let node = self.node(at);
        let (op, action) = node.queue.pop_front()?;
        let store = MemoryStore::from(node.disk.take());
        let result = store.carry_out(&action).unwrap_or(StoreResult::Failed);
        node.disk = store.copy();
        Some((op, result))
    }

    /// As [`Self::take_store_action`], and the replica is told; whether there was one.
    pub(crate) fn carry_out_store(&mut self, at: usize) -> bool {
        if self.nodes[at].queue.is_empty() {
            return false;
        }
        let Some((op, result)) = self.take_store_action(at) else { return false };
        self.step(at, Event::Stored { op, result });
        self.end_install(at);
        true
    }

    /// The node takes in an assignment of `revision`, newer than what it has.
    pub(crate) fn take_assignment(&mut self, at: usize, revision: Revision, assignment: Option<Assignment>) {
        let node = self.node(at);
        let before = std::mem::replace(&mut node.assignment, assignment.clone());
        node.installing = Some(revision);
        match assignment {
            Some(assignment) if before.as_ref() != Some(&assignment) => {
                self.step(at, Event::Assigned(Box::new(assignment)));
            }
            None if before.is_some() => self.step(at, Event::Unassigned),
            Some(_) | None => {}
        }
        self.end_install(at);
    }

    pub(crate) fn is_installing(&self, at: usize) -> bool {
        self.nodes[at].installing.is_some()
    }

    /// Assignments are in force once what they asked of the store is on disk.
    fn end_install(&mut self, at: usize) {
        if !self.nodes[at].queue.is_empty() {
            return;
        }
        let node = self.node(at);
        if let Some(revision) = node.installing.take() {
            node.installed = revision;
            node.lease.installed(revision);
            self.tell_lease(at);
        }
    }
}
