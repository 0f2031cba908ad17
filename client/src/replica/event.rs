//! What goes into a replica and what it asks for: the seam between deciding and doing.

use super::store::{StoreAction, StoreResult};
use super::wire::{Answer, Request};
use super::{CallId, Key, OpId, ReportId, Ticket, Value};
use crate::ids::{Epoch, NodeId, Position};
use crate::wire::{Assignment, NodeAddr, Report};

/// Something happened to a shard's copy. The time at which it did is passed beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The node installed this assignment of the shard. Assignments come in the order of their revisions.
    Assigned(Box<Assignment>),
    /// The shard left the node's assignments. The copy is kept.
    Unassigned,
    /// The node's lease lasts until this time on the clock of `now_ms`; the agent has already checked that
    /// assignments as new as the grant are installed. Extends only.
    LeaseUntil(u64),
    /// The node has no lease any more (it registers again, or the process was suspended).
    LeaseLost,
    /// A client, or a node on its behalf, wants to write or read.
    Client {
        /// Where the reply goes.
        ticket: Ticket,
        /// The epoch that the asker routed by, when it knows one; a lower one than the copy's is refused.
        epoch: Option<Epoch>,
        /// What is wanted.
        operation: Operation,
    },
    /// A client went away; a request of it that was not begun is dropped.
    ClientGone(Ticket),
    /// A request of another copy's node arrived.
    Request {
        /// Where the answer goes.
        ticket: Ticket,
        /// Who sent it.
        from: NodeId,
        /// What it says.
        request: Request,
    },
    /// The answer to an [`Effect::Send`].
    Answer {
        /// The call that it answers.
        call: CallId,
        /// What it says.
        answer: Answer,
    },
    /// An [`Effect::Send`] came to nothing, or its outcome is unknown.
    CallFailed(CallId),
    /// An [`Effect::Store`] was carried out, and what it changed is on disk.
    Stored {
        /// Which one. They complete in the order in which they were asked for.
        op: OpId,
        /// What came of it.
        result: StoreResult,
    },
    /// What came of an [`Effect::Report`].
    Reported {
        /// Which one.
        report: ReportId,
        /// The coordinator's word on it.
        outcome: ReportOutcome,
    },
    /// Time passed. To be given every 100 ms or oftener while the shard is assigned.
    Tick,
}

/// What a client wants of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Put a value (`Some`) or delete the key (`None`).
    Write {
        /// The key.
        key: Key,
        /// Its new value; `None` deletes it.
        value: Option<Value>,
    },
    /// Read from the primary's store; see [`Reply::ReadAt`].
    Read,
}

/// The coordinator's word on a report.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReportOutcome {
    /// Committed.
    Accepted,
    /// Refused with this code, having changed nothing.
    Refused(String),
    /// No answer, 503 or 504: it may still be committed.
    Unknown,
}

/// Something that the shell is to do. Effects are carried out in their order; only stores need wait for one another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Carry out a store action, in order, and say [`Event::Stored`] once it is on disk.
    Store {
        /// To be named in the event.
        op: OpId,
        /// What to do.
        action: StoreAction,
    },
    /// Send a request to the node of another copy of the shard.
    Send {
        /// To be named in [`Event::Answer`] or [`Event::CallFailed`]. A call that the replica gave up is ignored.
        call: CallId,
        /// The node, and its address as assigned.
        to: NodeAddr,
        /// What to send.
        request: Request,
    },
    /// Answer an [`Event::Request`].
    Answer {
        /// Of the request.
        ticket: Ticket,
        /// The answer.
        answer: Answer,
    },
    /// Answer an [`Event::Client`]. Each gets exactly one reply, unless [`Event::ClientGone`] came first.
    Reply {
        /// Of the request.
        ticket: Ticket,
        /// The reply.
        reply: Reply,
    },
    /// Report to the coordinator, and say [`Event::Reported`].
    Report {
        /// To be named in the event.
        report: ReportId,
        /// The report.
        body: Report,
    },
}

/// Reply to a client's request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The write is on disk on every in-sync copy.
    Written {
        /// Its epoch and number.
        position: Position,
    },
    /// Read from the store now, then ask `Replica::confirms_read` with this epoch; only
    /// if it says yes may the value be answered, else the request is given to the replica again.
    ReadAt {
        /// The epoch to name.
        epoch: Epoch,
    },
    /// Nothing was done, except where it says so.
    Refused(Refusal),
}

/// Why a client's request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The asker routed by an older epoch than this one; it should refresh its map. Nothing was done.
    StaleEpoch(Epoch),
    /// This copy is not the primary; `primary` is, as far as is known here: hand the request on. Nothing was done.
    NotPrimary {
        /// The epoch of that knowledge.
        epoch: Epoch,
        /// Who is.
        primary: Option<NodeAddr>,
    },
    /// The primary could not serve in time. Nothing was done.
    Unavailable,
    /// The write was begun and may or may not take effect.
    OutcomeUnknown,
}
