//! A shard's nodes, their disks, the network between them and the coordinator, advanced one small step at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::coordinator::Coordinator;
use crate::ids::{Epoch, NodeId, Position, ShardId};
use crate::replica::event::*;
use crate::replica::memory::{MemoryCopy, MemoryStore};
use crate::replica::store::{ReplicaStore, StoreAction};
use crate::replica::wire::{Answer, Request};
use crate::replica::*;
use crate::wire::Report;

pub(super) const LEASE_MS: u64 = 3_000;

pub(super) struct Node {
    pub(super) replica: Option<Replica>,
    pub(super) store: MemoryStore,
    pub(super) queue: VecDeque<(OpId, StoreAction)>,
    pub(super) installed: u64,
    incarnation: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Message {
    Request { from: NodeId, run: u64, call: CallId, to: NodeId, request: Request },
    Answer { to: NodeId, run: u64, call: CallId, answer: Answer },
    Failed { to: NodeId, run: u64, call: CallId },
    Report { from: NodeId, run: u64, id: ReportId, body: Report },
    Outcome { to: NodeId, run: u64, id: ReportId, outcome: ReportOutcome },
}

struct Asked {
    at: NodeId,
    from: NodeId,
    run: u64,
    call: CallId,
}

/// A client's request that waits for its reply.
pub(super) struct Waiting {
    at: NodeId,
    key: String,
    value: Option<Value>,
    began: Position,
}

pub(super) struct World {
    pub(super) now_ms: u64,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) coordinator: Coordinator,
    pub(super) messages: Vec<Message>,
    granted: BTreeMap<NodeId, u64>,
    /// Peers' tickets: whom to answer.
    asked: BTreeMap<Ticket, Asked>,
    tickets: u64,
    /// Clients' requests that wait for a reply.
    pub(super) waiting: BTreeMap<Ticket, Waiting>,
    pub(super) replies: Vec<(NodeId, Ticket, Reply)>,
    /// Of each key: what was acknowledged or read, at its highest.
    pub(super) seen: BTreeMap<String, (Position, Option<Value>)>,
    answered_by: BTreeMap<Epoch, NodeId>,
    pub(super) acknowledged: usize,
    pub(super) reads: usize,
    pub(super) limits: Limits,
    /// Of requests for chunks and their answers, as JSON.
    pub(super) filling_bytes: usize,
}

pub(super) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

impl World {
    pub(super) fn new(nodes: usize, copies: usize) -> Self {
        let names: Vec<NodeId> = (1..=nodes).map(|i| node(&format!("n{i}"))).collect();
        let limits = Limits { chunk_bytes: 16, batch: 3, window: 8, ..Limits::default() };
        let mut world = Self {
            now_ms: 10_000,
            nodes: BTreeMap::new(),
            coordinator: Coordinator::new(&names, copies),
            messages: Vec::new(),
            granted: BTreeMap::new(),
            asked: BTreeMap::new(),
            tickets: 0,
            waiting: BTreeMap::new(),
            replies: Vec::new(),
            seen: BTreeMap::new(),
            answered_by: BTreeMap::new(),
            acknowledged: 0,
            reads: 0,
            limits,
            filling_bytes: 0,
        };
        for name in names {
            let replica = Replica::new(name.clone(), ShardId(0), world.limits.clone(), None);
            let store = MemoryStore::default();
            let queue = VecDeque::new();
            world.granted.insert(name.clone(), world.now_ms);
            world
                .nodes
                .insert(name, Node { replica: Some(replica), store, queue, installed: 0, incarnation: 1 });
        }
        world
    }

    pub(super) fn step(&mut self, name: &NodeId, event: Event) {
        let now_ms = self.now_ms;
        let node = self.nodes.get_mut(name).unwrap();
        let run = node.incarnation;
        let Some(replica) = &mut node.replica else { return };
        let effects = replica.step(now_ms, event);
        for effect in effects {
            match effect {
                Effect::Store { op, action } => {
                    self.nodes.get_mut(name).unwrap().queue.push_back((op, action))
                }
                Effect::Send { call, to, request } => {
                    let from = name.clone();
                    self.messages.push(Message::Request { from, run, call, to: to.node, request });
                }
                Effect::Answer { ticket, answer } => {
                    let asked = self.asked.remove(&ticket).expect("an answer to a request that waits");
                    let Asked { from: to, run, call, .. } = asked;
                    self.messages.push(Message::Answer { to, run, call, answer });
                }
                Effect::Reply { ticket, reply } => self.on_reply(name, ticket, reply),
                Effect::Report { report, body } => {
                    self.messages.push(Message::Report { from: name.clone(), run, id: report, body });
                }
            }
        }
    }

    fn on_reply(&mut self, name: &NodeId, ticket: Ticket, reply: Reply) {
        let waited = self.waiting.remove(&ticket).expect("one reply to each request");
        let Waiting { key, value, began, .. } = waited;
        match &reply {
            Reply::Written { position } => {
                self.answered(name, position.epoch);
                self.acknowledged += 1;
                let seen = self.seen.entry(key).or_default();
                assert!(
                    *position > began,
                    "a write is later than what was seen before it: {position:?} {began:?}"
                );
                if *position > seen.0 {
                    *seen = (*position, value);
                }
            }
            Reply::ReadAt { epoch } => {
                let node = &self.nodes[name];
                let found = last_write(&node.store.copy().unwrap(), &key);
                if node.replica.as_ref().unwrap().confirms_read(*epoch, self.now_ms) {
                    self.answered(name, *epoch);
                    self.reads += 1;
                    let deleted = key.starts_with('d') && found.1.is_none();
                    let seen = self.seen.entry(key).or_default();
                    assert!(deleted || found.0 >= began, "a read goes back: {found:?} before {began:?}");
                    if found.0 > seen.0 {
                        *seen = found;
                    }
                }
            }
            Reply::Refused(_) => {}
        }
        self.replies.push((name.clone(), ticket, reply));
    }

    fn answered(&mut self, name: &NodeId, epoch: Epoch) {
        let by = self.answered_by.entry(epoch).or_insert_with(|| name.clone());
        assert_eq!(by, name, "one primary answers under {epoch}");
        let newest = self.answered_by.keys().next_back().copied();
        assert_eq!(newest, Some(epoch), "{name} answers under an epoch that is over");
    }

    pub(super) fn client(&mut self, name: &NodeId, key: &str, operation: Operation) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        if self.nodes[name].replica.is_none() {
            return ticket;
        }
        let began = self.seen.get(key).map(|seen| seen.0).unwrap_or_default();
        let value = match &operation {
            Operation::Write { value, .. } => value.clone(),
            Operation::Read => None,
        };
        self.waiting.insert(ticket, Waiting { at: name.clone(), key: key.to_owned(), value, began });
        self.step(name, Event::Client { ticket, epoch: None, operation });
        ticket
    }

    pub(super) fn put(&mut self, name: &NodeId, key: &str, value: &str) -> Ticket {
        let value = Some(Value::from(value.to_owned()));
        self.client(name, key, Operation::Write { key: key.into(), value })
    }

    pub(super) fn delete(&mut self, name: &NodeId, key: &str) -> Ticket {
        self.client(name, key, Operation::Write { key: key.into(), value: None })
    }

    pub(super) fn read(&mut self, name: &NodeId, key: &str) -> Ticket {
        self.client(name, key, Operation::Read)
    }

    pub(super) fn reply(&self, ticket: Ticket) -> Option<&Reply> {
        self.replies.iter().find(|(_, replied, _)| *replied == ticket).map(|(_, _, reply)| reply)
    }

    /// Carries out the oldest store action of a node.
    pub(super) fn complete_store(&mut self, name: &NodeId) {
        let node = self.nodes.get_mut(name).unwrap();
        let Some((op, action)) = node.queue.pop_front() else { return };
        let result = node.store.carry_out(&action).unwrap();
        self.step(name, Event::Stored { op, result });
    }

    pub(super) fn deliver(&mut self, message: Message) {
        self.filling_bytes += match &message {
            Message::Request { request: request @ Request::Chunk { .. }, .. } => json_bytes(request),
            Message::Answer {
                answer: answer @ (Answer::Chunk { .. } | Answer::Same { .. } | Answer::Differs { .. }),
                ..
            } => json_bytes(answer),
            _ => 0,
        };
        match message {
            Message::Request { from, run, call, to, request } => {
                if self.nodes[&to].replica.is_none() {
                    return self.messages.push(Message::Failed { to: from, run, call });
                }
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                self.asked.insert(ticket, Asked { at: to.clone(), from: from.clone(), run, call });
                self.step(&to, Event::Request { ticket, from, request });
            }
            Message::Answer { to, run, call, answer } => {
                if self.nodes[&to].incarnation == run {
                    self.step(&to, Event::Answer { call, answer });
                }
            }
            Message::Failed { to, run, call } => {
                if self.nodes[&to].incarnation == run {
                    self.step(&to, Event::CallFailed(call));
                }
            }
            Message::Report { from, run, id, body } => {
                let outcome = match self.coordinator.report(&from, run, &body) {
                    Ok(()) => ReportOutcome::Accepted,
                    Err(code) => ReportOutcome::Refused(code.to_owned()),
                };
                self.messages.push(Message::Outcome { to: from, run, id, outcome });
            }
            Message::Outcome { to, run, id, outcome } => {
                if self.nodes[&to].incarnation == run {
                    self.step(&to, Event::Reported { report: id, outcome });
                }
            }
        }
    }

    /// Loses a message; whoever waits for its answer learns that there is none.
    pub(super) fn lose(&mut self, message: Message) {
        match message {
            Message::Request { from: to, run, call, .. } | Message::Answer { to, run, call, .. } => {
                self.messages.push(Message::Failed { to, run, call });
            }
            Message::Report { from: to, run, id, .. } | Message::Outcome { to, run, id, .. } => {
                self.messages.push(Message::Outcome { to, run, id, outcome: ReportOutcome::Unknown });
            }
            failed @ Message::Failed { .. } => self.messages.push(failed),
        }
    }

    pub(super) fn install(&mut self, name: &NodeId) {
        let revision = self.coordinator.revision;
        let node = self.nodes.get_mut(name).unwrap();
        if node.replica.is_none() || node.installed == revision {
            return;
        }
        node.installed = revision;
        let event =
            self.coordinator.assignment(name).map_or(Event::Unassigned, |a| Event::Assigned(Box::new(a)));
        self.step(name, event);
    }

    /// A heartbeat and its answer, at once; refused to a node that is behind or down.
    pub(super) fn heartbeat(&mut self, name: &NodeId) {
        if self.nodes[name].replica.is_none() || self.nodes[name].installed != self.coordinator.revision {
            return;
        }
        if self.coordinator.down.contains(name) {
            return self.coordinator.alive(name);
        }
        let handing =
            self.coordinator.migration.as_ref().is_some_and(|m| m.phase == crate::wire::Phase::HandingOver);
        if !(handing && *name == self.coordinator.primary) {
            self.granted.insert(name.clone(), self.now_ms);
        }
        self.step(name, Event::LeaseUntil(self.now_ms + LEASE_MS));
    }

    /// The verdict on a node whose lease has run out.
    pub(super) fn expire(&mut self, name: &NodeId) {
        let over = self.now_ms >= self.granted[name] + LEASE_MS * 105 / 100;
        if over && !self.coordinator.down.contains(name) {
            self.coordinator.expire(name);
        }
    }

    pub(super) fn crash(&mut self, name: &NodeId, stored: usize) {
        for _ in 0..stored {
            let node = self.nodes.get_mut(name).unwrap();
            if let Some((_, action)) = node.queue.pop_front() {
                node.store.carry_out(&action).unwrap();
            }
        }
        let node = self.nodes.get_mut(name).unwrap();
        node.replica = None;
        node.queue.clear();
        node.incarnation = u64::MAX;
        self.waiting.retain(|_, waiting| waiting.at != *name);
        // Connections to the dead process break.
        let (broken, rest) =
            std::mem::take(&mut self.asked).into_iter().partition(|(_, asked)| asked.at == *name);
        self.asked = rest;
        for (_, Asked { from: to, run, call, .. }) in <BTreeMap<Ticket, Asked>>::into_iter(broken) {
            self.messages.push(Message::Failed { to, run, call });
        }
    }

    pub(super) fn restart(&mut self, name: &NodeId) {
        if self.nodes[name].replica.is_some() {
            return;
        }
        self.coordinator.register(name);
        let incarnation = self.coordinator.incarnations[name];
        let node = self.nodes.get_mut(name).unwrap();
        let found = node.store.state().unwrap();
        node.replica = Some(Replica::new(name.clone(), ShardId(0), self.limits.clone(), found));
        node.incarnation = incarnation;
        node.installed = 0;
        self.granted.insert(name.clone(), self.now_ms);
    }

    /// Time passes everywhere.
    pub(super) fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        for name in self.names() {
            self.step(&name, Event::Tick);
        }
    }

    pub(super) fn names(&self) -> Vec<NodeId> {
        self.nodes.keys().cloned().collect()
    }

    pub(super) fn serving(&self) -> Vec<NodeId> {
        let serves = |node: &Node| node.replica.as_ref().is_some_and(|replica| replica.status().serving);
        self.nodes.iter().filter(|(_, node)| serves(node)).map(|(name, _)| name.clone()).collect()
    }

    /// Runs without faults until nothing is under way, then for `ms` of time.
    pub(super) fn run(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        loop {
            for _ in 0..10_000 {
                let queued = self.names().into_iter().find(|name| !self.nodes[name].queue.is_empty());
                let behind = self.names().into_iter().find(|name| {
                    let node = &self.nodes[name];
                    node.replica.is_some() && node.installed != self.coordinator.revision
                });
                if !self.messages.is_empty() {
                    let message = self.messages.remove(0);
                    self.deliver(message);
                } else if let Some(name) = queued {
                    self.complete_store(&name);
                } else if let Some(name) = behind {
                    self.install(&name);
                } else {
                    break;
                }
            }
            self.check();
            if self.now_ms >= until {
                return;
            }
            self.names().iter().for_each(|name| self.heartbeat(name));
            self.names().iter().for_each(|name| self.expire(name));
            self.tick(100);
        }
    }

    /// Whatever was acknowledged or read is on the disk of every copy that may be promoted.
    pub(super) fn check(&self) {
        if self.coordinator.founding {
            return;
        }
        for name in &self.coordinator.in_sync {
            let copy = self.nodes[name].store.copy().expect("an in-sync copy exists");
            for (key, seen) in &self.seen {
                let found = last_write(&copy, key);
                let deleted = key.starts_with('d') && found.1.is_none();
                assert!(deleted || found.0 >= seen.0, "{name} lacks {seen:?} of {key}, it has {found:?}");
                if found.0 == seen.0 {
                    assert_eq!(found.1, seen.1, "{key} at {name}");
                }
            }
        }
    }

    /// The contents of all in-sync copies.
    pub(super) fn contents(&self) -> BTreeSet<Vec<(String, Value)>> {
        let copies = self.coordinator.in_sync.iter().map(|name| self.nodes[name].store.copy().unwrap());
        let values = |copy: MemoryCopy| {
            assert!(copy.state.full);
            copy.writes.values().map(|w| (w.key.to_string(), w.value.clone().unwrap())).collect()
        };
        copies.map(values).collect()
    }
}

fn json_bytes(message: &impl serde::Serialize) -> usize {
    serde_json::to_string(message).unwrap().len()
}

/// The last write of a key: a deleted one is found in the log.
fn last_write(copy: &MemoryCopy, key: &str) -> (Position, Option<Value>) {
    let stored = copy.writes.get(key).map(|write| (write.position, write.value.clone()));
    let logged = copy.state.tail.entries.iter().rev().find(|entry| &*entry.key == key);
    stored.or(logged.map(|entry| (entry.position, None))).unwrap_or_default()
}
