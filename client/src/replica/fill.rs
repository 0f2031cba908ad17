//! A copy that is being filled: it pulls chunk after chunk while the stream of forwards runs.

use super::copy::Stream;
use super::store::StoreAction;
use super::wire::{Answer, Request, Write};
use super::{CallId, Key, Replica, Then};
use crate::ids::Position;
use crate::wire::{NodeAddr, Phase, Role};

/// How far the filling over one stream is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fill {
    stream: Stream,
    /// The last key of the ranges that are equal to the source; `None` at the beginning.
    after: Option<Key>,
    /// All ranges are.
    all_ranges: bool,
    call: Option<(CallId, u64)>,
    /// A range is being stored.
    storing: bool,
    /// The furthest that a source was when it read: until the stream is past it, the copy may have writes of
    /// ranges that it has not been forwarded.
    sources_at: Position,
    quiet_until_ms: u64,
    pub(super) bytes_done: u64,
}

impl Replica {
    pub(super) fn begin_fill(&mut self, stream: Stream) {
        self.fill = Some(Fill {
            stream,
            after: None,
            all_ranges: false,
            call: None,
            storing: false,
            sources_at: stream.base,
            quiet_until_ms: 0,
            bytes_done: 0,
        });
    }

    /// Asks for the next range, or ends the filling.
    pub(super) fn pump_fill(&mut self) {
        let source = self.fill_source();
        let (Some(fill), Some(copy)) = (&mut self.fill, &self.copy) else { return };
        let now_ms = self.out.now_ms;
        if fill.call.is_some_and(|(_, sent_ms)| now_ms >= sent_ms.saturating_add(self.limits.silence_ms)) {
            fill.call = None;
        }
        if fill.call.is_some() || fill.storing || now_ms < fill.quiet_until_ms {
            return;
        }
        if fill.all_ranges {
            if copy.last().n >= fill.sources_at.n {
                self.fill = None;
                self.store(StoreAction::EndFill, Then::Nothing);
            }
            return;
        }
        let Some(to) = source else { return };
        let Stream { epoch, base } = fill.stream;
        let max_bytes = self.limits.chunk_bytes;
        let request = Request::Chunk { epoch, base, after: fill.after.clone(), max_bytes };
        fill.call = Some((self.out.send(to, request), now_ms));
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
        if let Some(fill) = &mut self.fill {
            fill.call = None;
            fill.quiet_until_ms = self.out.now_ms.saturating_add(self.limits.retry_ms);
        }
    }

    pub(super) fn on_fill_answer(&mut self, answer: Answer) {
        self.on_fill_failed();
        let Some(fill) = &mut self.fill else { return };
        let stream = fill.stream;
        // Anything else is asked again later; a rise of the epoch ends this stream.
        let Answer::Chunk { epoch, chunk } = answer else { return };
        if epoch != stream.epoch || chunk.after != fill.after {
            return;
        }
        fill.quiet_until_ms = 0;
        fill.storing = true;
        fill.sources_at = fill.sources_at.max(chunk.at);
        fill.after.clone_from(&chunk.upto);
        fill.all_ranges = chunk.upto.is_none();
        let bytes: usize = chunk.writes.iter().map(Write::size_bytes).sum();
        fill.bytes_done += u64::try_from(bytes).unwrap_or(u64::MAX);
        self.store(StoreAction::FillRange { epoch, base: stream.base, chunk }, Then::RangeFilled(stream));
    }

    pub(super) fn on_range_filled(&mut self, stream: Stream) {
        if let Some(fill) = self.fill.as_mut().filter(|fill| fill.stream == stream) {
            fill.storing = false;
        }
    }
}
