//! A copy that is being filled: it pulls range after range while the stream of forwards runs, and only what it lacks.
//!
//! What an earlier filling, or an earlier life, left in the copy is compared (`compare`), so that a filling that begins anew
//! (after a gap, a restart, a rise of the epoch) goes on where it was, without having to remember where that is.
//!
//! Why it ends equal to the source. Let V(k, x) be what the primary's log makes of key k up to position x. Writes after `base`
//! are forwarded, and applied here in order; a chunk doesn't replace them. A source is at `at`, not before `base`, and has
//! V(k, at). Say that entry L(k), perhaps none, was read here when the copy was at p, and that it is the source's:
//! - k was forwarded between `base` and p: then L(k) is V(k, p), and what is forwarded after p makes it V(k, last).
//! - else, k is forwarded after p: the last of that is V(k, last).
//! - else k was not written between `base` and `last`, and the filling ends only when `last` is not before `at`: then
//!   V(k, at) = V(k, base) = V(k, last).
//!
//! So of an answer that says `same` too, `at` counts, and it does not matter how long ago L(k) was read in this stream, nor how
//! late the answer is. What was read in another stream says nothing. Of tombstones nothing is told, and those that
//! stay from an earlier stream hinder no chunk (their stamp is not of this stream) and go at the end.
//!
//! Bounds: one request, one read, two ranges being stored. Either side reads a chunk's bytes at a time, whatever the other has:
//! where the source's part of a range is larger, its answer ends earlier, and where it is smaller, with the range.

use std::collections::VecDeque;

use super::compare::{Damaged, Own};
use super::copy::Stream;
use super::digest::Digest;
use super::store::StoreAction;
use super::wire::{Answer, Chunk, Request, SameRun};
use super::{CallId, Key, OpId, Replica, Then};
use crate::ids::Position;
use crate::wire::{NodeAddr, Phase, Role};

/// While so many ranges are being stored, no other is asked for.
const MAX_STORING: usize = 2;
/// So many requests that come to nothing, and the next leaves out what is there: the source may not know how to compare.
const MAX_UNANSWERED: u32 = 3;
/// So many damaged answers one after the other are no accident any more.
const MAX_DAMAGED: u32 = 3;

/// How far the filling over one stream is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fill {
    stream: Stream,
    /// The last key of the ranges that are, or are about to be, equal to the source; `None` at the beginning.
    after: Option<Key>,
    /// All ranges are.
    all_ranges: bool,
    own: Own,
    call: Option<(CallId, u64)>,
    /// The last request said what is here.
    told: bool,
    /// The ranges that are being stored, by the last action of each, with their bytes.
    storing: VecDeque<(OpId, u64)>,
    /// The furthest that a source was when it read: until the stream is past it, the copy may have writes of
    /// ranges that it has not been forwarded.
    sources_at: Position,
    quiet_until_ms: u64,
    unanswered: u32,
    damaged: u32,
    bytes_done: u64,
    source_bytes: Option<u64>,
}

impl Fill {
    /// Bytes of the ranges that are equal to the source, on disk.
    pub(super) fn bytes_done(&self) -> u64 {
        self.bytes_done
    }

    /// Bytes that the source has, as it last said; what is done, once that is all.
    pub(super) fn bytes_total(&self) -> Option<u64> {
        let is_all = self.all_ranges && self.storing.is_empty();
        if is_all { Some(self.bytes_done) } else { self.source_bytes.map(|bytes| bytes.max(self.bytes_done)) }
    }

    /// Whether what its source answers is damaged again and again.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged >= MAX_DAMAGED
    }
}

impl Replica {
    pub(super) fn begin_fill(&mut self, stream: Stream) {
        let is_blank = self.copy.as_ref().is_some_and(|copy| copy.blank);
        self.filled_bytes = None;
        self.fill = Some(Fill {
            stream,
            after: None,
            all_ranges: false,
            own: if is_blank { Own::Nothing } else { Own::Unread },
            call: None,
            told: false,
            storing: VecDeque::new(),
            sources_at: stream.base,
            quiet_until_ms: 0,
            unanswered: 0,
            damaged: 0,
            bytes_done: 0,
            source_bytes: None,
        });
    }

    /// Asks for the next range, or ends the filling.
    pub(super) fn pump_fill(&mut self) {
        let source = self.fill_source();
        let (Some(fill), Some(copy)) = (&mut self.fill, &self.copy) else { return };
        let now_ms = self.out.now_ms;
        if fill.call.is_some_and(|(_, sent_ms)| now_ms >= sent_ms.saturating_add(self.limits.silence_ms)) {
            fill.call = None;
            fill.unanswered = fill.unanswered.saturating_add(1);
        }
        if fill.call.is_some() || fill.storing.len() >= MAX_STORING || now_ms < fill.quiet_until_ms {
            return;
        }
        if fill.all_ranges {
            if fill.storing.is_empty() && copy.last().n >= fill.sources_at.n {
                self.filled_bytes = Some(fill.bytes_done);
                self.fill = None;
                self.store(StoreAction::EndFill, Then::Nothing);
            }
            return;
        }
        let Some(to) = source else { return };
        let (after, max_bytes) = (fill.after.clone(), self.limits.chunk_bytes);
        match &fill.own {
            Own::Reading(_) => {}
            Own::Unread => {
                let op =
                    self.store(StoreAction::ReadChunk { after, until: None, max_bytes }, Then::CompareOwn);
                if let Some(fill) = &mut self.fill {
                    fill.own = Own::Reading(op);
                }
            }
            own @ (Own::Read(_) | Own::Nothing) => {
                let Stream { epoch, base } = fill.stream;
                let have = if fill.unanswered < MAX_UNANSWERED { own.told() } else { None };
                fill.told = have.is_some();
                let request = Request::Chunk { epoch, base, after, max_bytes, have };
                fill.call = Some((self.out.send(to, request), now_ms));
            }
        }
    }

    /// A learner copy pulls from where its migration says and when; a replica that was dropped pulls from its primary.
    fn fill_source(&self) -> Option<NodeAddr> {
        let seat = self.seat.as_ref()?;
        let source = match seat.role {
            Role::Learner => {
                let copying = seat.migration_to(&self.node, &[Phase::Copying, Phase::Admitting])?;
                copying.source.as_ref().or_else(|| seat.primary())
            }
            Role::Replica => seat.primary(),
            Role::Primary | Role::Retiring => None,
        };
        source.filter(|source| source.node != self.node).cloned()
    }

    pub(super) fn is_fill_call(&self, call: CallId) -> bool {
        self.fill.as_ref().and_then(|fill| fill.call).is_some_and(|(waiting, _)| waiting == call)
    }

    pub(super) fn on_fill_failed(&mut self) {
        self.fill_call_ends();
        if let Some(fill) = &mut self.fill {
            fill.unanswered = fill.unanswered.saturating_add(1);
        }
    }

    fn fill_call_ends(&mut self) {
        if let Some(fill) = &mut self.fill {
            fill.call = None;
            fill.quiet_until_ms = self.out.now_ms.saturating_add(self.limits.retry_ms);
        }
    }

    pub(super) fn on_fill_answer(&mut self, answer: Answer) {
        self.fill_call_ends();
        let Some(fill) = &mut self.fill else { return };
        let in_stream = fill.stream.epoch;
        let taken = match answer {
            Answer::Chunk { epoch, chunk, same, digest } if epoch == in_stream => {
                self.take_chunk(chunk, &same, digest)
            }
            Answer::Same { epoch, upto, at, total_bytes } if epoch == in_stream => {
                let same = fill.told.then(|| fill.own.same(upto.as_ref())).ok_or(Damaged).flatten();
                same.map(|bytes| self.range_taken(Vec::new(), upto, at, bytes, total_bytes))
            }
            Answer::Differs { epoch } if epoch == in_stream => {
                fill.told.then(|| fill.own.differs()).ok_or(Damaged).flatten()
            }
            // Anything else is asked again later; a rise of the epoch ends this stream.
            _ => return,
        };
        let Some(fill) = &mut self.fill else { return };
        fill.unanswered = 0;
        match taken {
            Ok(()) => (fill.damaged, fill.quiet_until_ms) = (0, 0),
            Err(Damaged) => fill.damaged = fill.damaged.saturating_add(1),
        }
    }

    fn take_chunk(&mut self, chunk: Chunk, same: &[SameRun], digest: Option<Digest>) -> Result<(), Damaged> {
        let Some(fill) = &mut self.fill else { return Ok(()) };
        let is_intact = digest.is_none_or(|digest| digest == Digest::of_chunk(&chunk, same));
        let is_asked_for = chunk.after == fill.after && (fill.told || same.is_empty());
        if !is_intact || !is_asked_for || !is_range(&chunk) {
            return Err(Damaged);
        }
        let (upto, at, total_bytes) = (chunk.upto.clone(), chunk.at, chunk.total_bytes);
        let (parts, bytes) = fill.own.parts(chunk, same)?;
        self.range_taken(parts, upto, at, bytes, total_bytes);
        Ok(())
    }

    /// The range up to `upto` is as the source has it, once `parts` are stored.
    fn range_taken(
        &mut self,
        parts: Vec<Chunk>,
        upto: Option<Key>,
        at: Position,
        bytes: u64,
        total_bytes: Option<u64>,
    ) {
        let Some(fill) = &mut self.fill else { return };
        let Stream { epoch, base } = fill.stream;
        fill.own.done(upto.as_ref());
        fill.sources_at = fill.sources_at.max(at);
        fill.source_bytes = total_bytes.or(fill.source_bytes);
        fill.all_ranges = upto.is_none();
        fill.after = upto;
        let count = parts.len();
        for (chunk, nth) in parts.into_iter().zip(1..) {
            let then = if nth == count { Then::RangeFilled } else { Then::Nothing };
            let chunk = Chunk { total_bytes: None, ..chunk };
            let op = self.store(StoreAction::FillRange { epoch, base, chunk }, then);
            if let Some(fill) = self.fill.as_mut().filter(|_| nth == count) {
                fill.storing.push_back((op, bytes));
            }
        }
        if let Some(fill) = self.fill.as_mut().filter(|_| count == 0) {
            fill.bytes_done = fill.bytes_done.saturating_add(bytes);
        }
    }

    pub(super) fn on_range_filled(&mut self, op: OpId) {
        let Some(fill) = &mut self.fill else { return };
        if let Some((_, bytes)) = fill.storing.pop_front_if(|(storing, _)| *storing == op) {
            fill.bytes_done = fill.bytes_done.saturating_add(bytes);
        }
    }

    /// What is here of the next range was read. In another stream it says nothing.
    pub(super) fn on_own_read(&mut self, op: OpId, chunk: Chunk) {
        if let Some(fill) = self.fill.as_mut().filter(|fill| fill.own == Own::Reading(op)) {
            fill.own = Own::read(chunk);
        }
    }
}

/// Whether the entries are ascending, within the range. Otherwise a store would be left in doubt.
fn is_range(chunk: &Chunk) -> bool {
    let keys = || chunk.writes.iter().map(|write| &write.key);
    let begins = chunk.after.as_ref().is_none_or(|after| keys().next().is_none_or(|first| after < first));
    let ends = chunk.upto.as_ref().is_none_or(|upto| keys().next_back().is_none_or(|last| last <= upto));
    let moves = chunk.after.as_ref().zip(chunk.upto.as_ref()).is_none_or(|(after, upto)| after < upto);
    begins && ends && moves && keys().is_sorted_by(|a, b| a < b)
}
