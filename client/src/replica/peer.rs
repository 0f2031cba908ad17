//! Another copy of the shard, as its primary sees it: one request at a time, and what is known of its progress.

use super::wire::{Alignment, Answer};
use super::{CallId, Limits, OpId};
use crate::ids::{Epoch, Incarnation, Position};
use crate::wire::NodeAddr;

/// What is to be sent to the copy next, or what its answer is awaited to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum PeerState {
    /// Unknown: it is asked to adopt the epoch and to say what it has.
    Probe,
    /// The keys in which it differs are being read at home.
    Reading(OpId),
    /// It is told to become equal.
    Align(Box<Alignment>),
    /// It is told that it will be filled, from this base on.
    Opening(Position),
    /// It takes the stream of writes.
    Stream,
}

/// One copy's progress under one epoch of this primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) at: NodeAddr,
    pub(super) incarnation: Incarnation,
    pub(super) down: bool,
    /// It has no claim to a full copy yet: a migration's target that is not in sync.
    pub(super) learner: bool,
    pub(super) state: PeerState,
    /// What it has on disk, once it streams; before, what it will have when it begins to.
    pub(super) acked: Position,
    pub(super) full: bool,
    /// It can't be made equal by keys; it is to be filled once nothing requires it.
    pub(super) unfit: bool,
    pub(super) call: Option<(CallId, u64)>,
    /// When the first request was sent that has had no answer since.
    pub(super) silent_since_ms: Option<u64>,
    /// Since when it has not been streaming.
    pub(super) unsettled_since_ms: u64,
    pub(super) quiet_until_ms: u64,
    pub(super) sent_ms: u64,
}

/// What an answer means for the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// The peer's state has changed, or nothing has.
    Progress,
    /// There is a higher epoch: this primary is none any more.
    Deposed,
    /// It has this much in common and these keys differ, to be read at home.
    Differs { last: Position, common: Position, tail: Vec<super::tail::TailEntry> },
}

impl Peer {
    pub(super) fn new(at: NodeAddr, incarnation: Incarnation, now_ms: u64) -> Self {
        Self {
            at,
            incarnation,
            down: false,
            learner: false,
            state: PeerState::Probe,
            acked: Position::default(),
            full: false,
            unfit: false,
            call: None,
            silent_since_ms: None,
            unsettled_since_ms: now_ms,
            quiet_until_ms: 0,
            sent_ms: now_ms,
        }
    }

    /// Whether its acknowledgements count.
    pub(super) fn is_settled(&self) -> bool {
        self.full && self.state == PeerState::Stream
    }

    /// Whether it has left requests unanswered for too long.
    pub(super) fn is_silent(&self, now_ms: u64, limits: &Limits) -> bool {
        self.silent_since_ms.is_some_and(|since| now_ms >= since.saturating_add(limits.silence_ms))
    }

    /// Whether it may stay in the in-sync set.
    pub(super) fn is_fit(&self, now_ms: u64, limits: &Limits) -> bool {
        let settling = now_ms < self.unsettled_since_ms.saturating_add(limits.settle_ms);
        !self.down && !self.unfit && !self.is_silent(now_ms, limits) && (self.is_settled() || settling)
    }

    /// Whether it has to be filled instead of asked; not while it is `required`, since that would empty a seat's copy.
    pub(super) fn is_to_fill(&self, required: bool) -> bool {
        !required && (self.unfit || (self.learner && !self.full))
    }

    pub(super) fn sent(&mut self, call: CallId, now_ms: u64) {
        self.call = Some((call, now_ms));
        self.sent_ms = now_ms;
        self.silent_since_ms.get_or_insert(now_ms);
    }

    pub(super) fn failed(&mut self, now_ms: u64, limits: &Limits) {
        self.call = None;
        self.quiet_until_ms = now_ms.saturating_add(limits.retry_ms);
        if self.state != PeerState::Stream {
            self.state = PeerState::Probe;
        }
    }

    /// Starts over with it.
    pub(super) fn probe(&mut self, now_ms: u64, wait_ms: u64) {
        if self.is_settled() {
            self.unsettled_since_ms = now_ms;
        }
        self.state = PeerState::Probe;
        self.quiet_until_ms = now_ms.saturating_add(wait_ms);
    }

    fn streams(&mut self, last: Position, full: bool) {
        self.state = PeerState::Stream;
        self.acked = last;
        self.full = full;
        self.unfit &= !full;
    }

    /// Takes an answer to the outstanding request. `reachable` tells whether the writes after a position are in the
    /// primary's buffer.
    pub(super) fn learn(
        &mut self,
        epoch: Epoch,
        answer: Answer,
        now_ms: u64,
        limits: &Limits,
        reachable: impl Fn(Position) -> bool,
    ) -> Learned {
        if answer == Answer::Damaged {
            // It is sent again, but a copy that nothing reaches intact counts as silent.
            self.failed(now_ms, limits);
            return Learned::Progress;
        }
        self.call = None;
        self.silent_since_ms = None;
        match answer {
            Answer::StaleEpoch { epoch: higher } if higher > epoch => return Learned::Deposed,
            Answer::Adopted { epoch: adopted, last, full, common, tail } if adopted == epoch => {
                return self.adopted(last, full, common, tail, reachable);
            }
            Answer::Have { epoch: adopted, last, full } if adopted == epoch => {
                match &self.state {
                    PeerState::Opening(base) if *base == last => self.streams(last, full),
                    PeerState::Align(alignment) if alignment.last == last => self.streams(last, full),
                    PeerState::Stream if last >= self.acked => {
                        self.streams(last, full);
                        // From now on it counts for nothing; as it was in sync once, it has to be filled again.
                        self.unfit |= !full && !self.learner;
                    }
                    _ => self.probe(now_ms, limits.retry_ms),
                }
            }
            _ => self.probe(now_ms, limits.retry_ms),
        }
        Learned::Progress
    }

    fn adopted(
        &mut self,
        last: Position,
        full: bool,
        common: Option<Position>,
        tail: Vec<super::tail::TailEntry>,
        reachable: impl Fn(Position) -> bool,
    ) -> Learned {
        match common {
            Some(common) if full && common == last && tail.is_empty() && reachable(last) => {
                self.streams(last, true);
                Learned::Progress
            }
            Some(common) if full => Learned::Differs { last, common, tail },
            _ => {
                self.full = false;
                self.unfit = true;
                self.state = PeerState::Probe;
                Learned::Progress
            }
        }
    }
}
