//! One shard copy's side of replication, ownership and migration, as a pure step function.
//!
//! The contract is PacificA's (Lin et al., 2008): the coordinator names, for each epoch of a shard, a primary and an in-sync
//! set; everything else the copies settle among themselves. A [`Replica`] is told what happens ([`event::Event`]) and says
//! what is to be done ([`event::Effect`]); it does no I/O and reads no clock, so a model checker and a simulation run
//! the very code that serves. docs/protocol.md tells the same for authors of other data nodes.
//!
//! What holds, in the order in which the rest depends on it:
//! 1. An epoch is on disk before anything is answered under it; a lower one is refused.
//! 2. A copy takes a write only right after the one before it. So two logs that share a position are equal up to there.
//! 3. A primary gives each position once, and serves only after every required copy has become equal to its own.
//! 4. A write is acknowledged, and readable at home, only when every copy of every in-sync set that may be
//!    committed has it on disk. What was read can't vanish, since whoever is promoted is in sync.
//! 5. A primary answers only with lease, epoch and copy in order at the time of the answer.
//! 6. A copy that is being filled is not full until its content is again what its log makes; only full copies count.
//! 7. A copy is made only as learner copy or while founding, and deleted only when retiring at an epoch not below its own.
//!
//! Caveats: time has to be that of a clock which runs on while the machine is suspended. The shell must carry out
//! store actions in order. A primary keeps the writes of its slowest copy in memory, within [`Limits`].

mod assigned;
mod clients;
mod compare;
mod copy;
pub mod digest;
mod encoding;
pub mod event;
mod fill;
mod follow;
mod in_sync;
mod lead;
mod limits;
pub mod memory;
mod peer;
mod reporting;
mod seat;
pub mod store;
pub mod tail;
pub mod wire;

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeId, Position, ShardId};
use crate::wire::{NodeAddr, Report, Role};
use copy::CopyState;
use event::{Effect, Event, Reply};
use lead::Lead;
pub use limits::Limits;
use seat::Seat;
use store::{StoreAction, StoreResult, StoreState};
use wire::{Alignment, Answer, OwnRange, Request};

/// A vector's id, as far as the replica is concerned.
pub type Key = Arc<str>;

/// A value; opaque to the replica.
pub type Value = bytes::Bytes;

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);
    )*};
}

numbers! {
    /// Whom to answer: chosen by the shell, unique among what it waits for.
    Ticket,
    /// A request sent to another copy; counted by the replica.
    CallId,
    /// A store action; counted by the replica.
    OpId,
    /// A report; counted by the replica.
    ReportId
}

/// What to do once a store action is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Then {
    Nothing,
    /// This epoch, which is to be led, is adopted now.
    Lead(Epoch),
    /// Tell a copy to become equal, with what was read.
    Align {
        node: NodeId,
        expect: Position,
        common: Position,
    },
    /// Give the chunk that was read, or what it has that the asker doesn't.
    GiveChunk {
        ticket: Ticket,
        epoch: Epoch,
        have: Option<Box<OwnRange>>,
    },
    /// Tell the source what was read.
    CompareOwn,
    RangeFilled,
}

/// A store action under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Op {
    id: OpId,
    /// The copy's last position once it is done.
    last: Position,
    then: Then,
    /// Answers that rest on it.
    answers: Vec<(Ticket, Answer)>,
}

/// Where effects gather during a step, and what numbers them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Out {
    effects: Vec<Effect>,
    counted: u64,
    now_ms: u64,
}

impl Out {
    fn next(&mut self) -> u64 {
        self.counted += 1;
        self.counted
    }

    fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.push(Effect::Reply { ticket, reply });
    }

    fn send(&mut self, to: NodeAddr, request: Request) -> CallId {
        let call = CallId(self.next());
        self.push(Effect::Send { call, to, request });
        call
    }

    fn report(&mut self, body: Report) -> ReportId {
        let report = ReportId(self.next());
        self.push(Effect::Report { report, body });
        report
    }
}

/// A copy's standing, for heartbeats and people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// As assigned; `None` when the shard is not assigned here.
    pub role: Option<Role>,
    /// The highest epoch known, at least 0.
    pub epoch: Epoch,
    /// The last write on disk of a full copy; (0, 0) of one that is not, as it could not be trusted with anything.
    pub position: Position,
    /// There is a copy.
    pub held: bool,
    /// There is one that is being filled, of which nothing can be told yet.
    pub filling: bool,
    /// It serves as primary.
    pub serving: bool,
}

/// One shard's copy on this node, or its absence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    node: NodeId,
    shard: ShardId,
    limits: Limits,
    /// A copy was lost under this epoch. What the assignments of up to it say of founding and learner copies may be out of date.
    lost_upto: Epoch,
    seat: Option<Seat>,
    copy: Option<CopyState>,
    granted_until_ms: u64,
    /// The lease that is left while the primaryship is being given away.
    frozen_until_ms: Option<u64>,
    lead: Option<Lead>,
    fill: Option<fill::Fill>,
    /// Bytes of the last filling of this copy that came to its end.
    filled_bytes: Option<u64>,
    held: VecDeque<clients::Held>,
    ops: VecDeque<Op>,
    reports: reporting::Reports,
    out: Out,
}

impl Replica {
    /// The copy of `shard` on `node` as its store was found; `None` where there is none, or none that can be read.
    pub fn new(node: NodeId, shard: ShardId, limits: Limits, found: Option<StoreState>) -> Self {
        Self {
            node,
            shard,
            limits,
            lost_upto: Epoch(0),
            seat: None,
            copy: found.map(CopyState::new),
            granted_until_ms: 0,
            frozen_until_ms: None,
            lead: None,
            fill: None,
            filled_bytes: None,
            held: VecDeque::new(),
            ops: VecDeque::new(),
            reports: reporting::Reports::default(),
            out: Out::default(),
        }
    }

    /// Takes in that `event` happened at `now_ms`, and says what is to be done, in order. `now_ms` never goes back.
    pub fn step(&mut self, now_ms: u64, event: Event) -> Vec<Effect> {
        self.out.now_ms = self.out.now_ms.max(now_ms);
        match event {
            Event::Assigned(assignment) => self.on_assigned(*assignment),
            Event::Unassigned => self.on_unassigned(),
            Event::LeaseUntil(until_ms) => self.granted_until_ms = self.granted_until_ms.max(until_ms),
            Event::LeaseLost => {
                self.granted_until_ms = 0;
                self.frozen_until_ms = self.frozen_until_ms.map(|_| 0);
            }
            Event::Client { ticket, epoch, operation } => self.on_client(ticket, epoch, operation),
            Event::ClientGone(ticket) => self.on_client_gone(ticket),
            Event::Request { ticket, request, .. } => self.on_request(ticket, request),
            Event::Answer { call, answer } => self.on_answer(call, answer),
            Event::CallFailed(call) => self.on_call_failed(call),
            Event::Stored { op, result } => self.on_stored(op, result),
            Event::Reported { report, outcome } => self.on_reported(report, &outcome),
            Event::Tick => {}
        }
        self.advance();
        std::mem::take(&mut self.out.effects)
    }

    /// Whether a value that was read after [`Reply::ReadAt`] named `epoch` may be answered at `now_ms`.
    pub fn confirms_read(&self, epoch: Epoch, now_ms: u64) -> bool {
        let led = self.lead.as_ref().is_some_and(|lead| lead.epoch == epoch);
        led && self.has_authority() && self.has_lease(now_ms)
    }

    /// Its standing.
    pub fn status(&self) -> Status {
        let full = self.copy.as_ref().filter(|copy| copy.full);
        Status {
            role: self.seat.as_ref().map(|seat| seat.role),
            epoch: self.known_epoch(),
            position: full.map_or(Position::default(), |copy| copy.durable),
            held: self.copy.is_some(),
            filling: self.copy.as_ref().is_some_and(|copy| !copy.full),
            serving: self.has_authority(),
        }
    }

    /// The lease as far as this shard is concerned.
    fn lease_until_ms(&self) -> u64 {
        self.frozen_until_ms.unwrap_or(self.granted_until_ms)
    }

    /// Whether what is answered at `now_ms` is answered under a lease.
    fn has_lease(&self, now_ms: u64) -> bool {
        now_ms < self.lease_until_ms() || mutants::is_on(mutants::Mutant::AnswerWithoutLease)
    }

    /// Brings everything forward that the event may have made possible.
    fn advance(&mut self) {
        self.hand_over();
        self.answer_writes();
        let now_ms = self.out.now_ms;
        if let (Some(lead), Some(seat)) = (&mut self.lead, &self.seat) {
            lead.try_open(&self.node);
            lead.choose_joining(seat, now_ms, &self.limits);
        }
        self.release_held();
        self.propose();
        self.store_committed();
        self.pump_peers();
        self.pump_fill();
        self.report();
    }

    /// Ends the giving away of the primaryship once nothing is under way, or can't be answered any more.
    fn hand_over(&mut self) {
        let handing = self.seat.as_ref().is_some_and(|seat| seat.hand_over_from(&self.node).is_some());
        let over = !self.has_lease(self.out.now_ms);
        if let Some(lead) = self.lead.as_mut().filter(|lead| handing && (over || lead.pending.is_empty())) {
            lead.handed = true;
        }
    }

    fn store_committed(&mut self) {
        let (Some(lead), Some(copy)) = (&mut self.lead, &self.copy) else { return };
        let writes = lead.committed_after(copy.last(), &self.node);
        if !writes.is_empty() {
            self.store(StoreAction::Append(writes), Then::Nothing);
        }
        if let (Some(lead), Some(copy)) = (&mut self.lead, &self.copy) {
            lead.trim(copy.last(), &self.limits);
        }
    }

    fn pump_peers(&mut self) {
        let (Some(lead), Some(copy)) = (&mut self.lead, &self.copy) else { return };
        let now_ms = self.out.now_ms;
        let nodes: Vec<NodeId> = lead.peers.keys().cloned().collect();
        for node in nodes {
            let Some(peer) = lead.peers.get_mut(&node) else { continue };
            if peer.call.is_some_and(|(_, sent)| now_ms >= sent.saturating_add(self.limits.silence_ms)) {
                peer.failed(now_ms, &self.limits);
            }
            let request = lead.next_request(&node, copy, now_ms, &self.limits);
            if let (Some(request), Some(peer)) = (request, lead.peers.get_mut(&node)) {
                let call = self.out.send(peer.at.clone(), request);
                peer.sent(call, now_ms);
            }
        }
    }

    /// Asks the store for `action`, and follows it in what is known of the copy.
    fn store(&mut self, action: StoreAction, then: Then) -> OpId {
        match (&action, &mut self.copy) {
            (StoreAction::Create, copy) => *copy = Some(CopyState::empty()),
            (StoreAction::Delete, copy) => *copy = None,
            (action, Some(copy)) => copy.apply(action),
            (_, None) => {}
        }
        let last = self.copy.as_ref().map_or(Position::default(), CopyState::last);
        let id = OpId(self.out.next());
        self.ops.push_back(Op { id, last, then, answers: Vec::new() });
        self.out.push(Effect::Store { op: id, action });
        id
    }

    fn on_stored(&mut self, id: OpId, result: StoreResult) {
        let Some(op) = self.ops.pop_front_if(|op| op.id == id) else { return };
        if result == StoreResult::Failed {
            self.ops.push_front(op);
            return self.on_copy_lost();
        }
        if let Some(copy) = &mut self.copy {
            copy.durable = op.last;
        }
        for (ticket, answer) in op.answers {
            self.out.push(Effect::Answer { ticket, answer });
        }
        match (op.then, result) {
            (Then::Lead(epoch), _) => self.on_adopted(epoch),
            (Then::Align { node, expect, common }, StoreResult::Writes(writes)) => {
                self.align_peer(
                    id,
                    &node,
                    Alignment { expect, common, tail: Vec::new(), writes, last: op.last },
                );
            }
            (Then::GiveChunk { ticket, epoch, have }, StoreResult::Chunk(chunk)) => {
                let answer = compare::answer(epoch, have.as_deref(), chunk);
                self.out.push(Effect::Answer { ticket, answer });
            }
            (Then::CompareOwn, StoreResult::Chunk(chunk)) => self.on_own_read(id, chunk),
            (Then::RangeFilled, _) => self.on_range_filled(id),
            (Then::Nothing | Then::Align { .. } | Then::GiveChunk { .. } | Then::CompareOwn, _) => {}
        }
    }

    /// The store says that the copy can't be used any more: nothing rests on it from now on, and it is reported.
    fn on_copy_lost(&mut self) {
        self.step_down();
        self.lost_upto = self.known_epoch();
        self.copy = None;
        self.fill = None;
        for op in std::mem::take(&mut self.ops) {
            let chunk = match op.then {
                Then::GiveChunk { ticket, .. } => Some(ticket),
                Then::Nothing | Then::Lead(_) | Then::Align { .. } | Then::CompareOwn | Then::RangeFilled => {
                    None
                }
            };
            for ticket in op.answers.into_iter().map(|(ticket, _)| ticket).chain(chunk) {
                self.out.push(Effect::Answer { ticket, answer: Answer::NoCopy });
            }
        }
    }
}

#[cfg(test)]
mod tests;
