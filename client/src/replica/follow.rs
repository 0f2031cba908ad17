//! What a copy does when another node asks: adopt, align, be filled, take writes, give chunks.

use mutants::{Mutant, is_on};

use super::copy::{CopyState, Stream};
use super::event::Effect;
use super::store::StoreAction;
use super::wire::{Alignment, Answer, OwnRange, Request, Write};
use super::{Replica, Then, Ticket};
use crate::ids::{Epoch, Position};

impl Replica {
    pub(super) fn on_request(&mut self, ticket: Ticket, request: Request) {
        if !request.is_intact() {
            return self.out.push(Effect::Answer { ticket, answer: Answer::Damaged });
        }
        let Some(copy) = &self.copy else {
            return self.out.push(Effect::Answer { ticket, answer: Answer::NoCopy });
        };
        let epoch = request.epoch();
        if epoch < copy.adopted && !is_on(Mutant::EpochUnchecked) {
            let answer = Answer::StaleEpoch { epoch: copy.adopted };
            return self.answer_when_durable(ticket, answer);
        }
        let answer = match request {
            Request::Adopt { marks, .. } => self.on_adopt(epoch, &marks),
            Request::Align { alignment, .. } => self.on_align(epoch, alignment),
            Request::Open { base, .. } => self.on_open(epoch, base),
            Request::Forward { prev, writes, .. } => self.on_forward(epoch, prev, writes),
            Request::Chunk { base, after, max_bytes, have, .. } => {
                let until = have.as_ref().and_then(|have| have.upto.clone());
                let max_bytes = max_bytes.min(self.limits.chunk_bytes);
                let range = StoreAction::ReadChunk { after, until, max_bytes };
                return self.on_chunk_request(ticket, epoch, base, range, have);
            }
        };
        self.answer_when_durable(ticket, answer);
    }

    /// Answers once every store action asked for so far is on disk, since the answer may rest on any of them.
    fn answer_when_durable(&mut self, ticket: Ticket, answer: Answer) {
        match self.ops.back_mut() {
            Some(op) if !is_on(Mutant::EpochNotStored) => op.answers.push((ticket, answer)),
            Some(_) | None => self.out.push(Effect::Answer { ticket, answer }),
        }
    }

    /// Takes part in `epoch` from now on, which is not below the adopted one.
    fn adopt(&mut self, epoch: Epoch) {
        if self.copy.as_ref().is_some_and(|copy| copy.adopted < epoch) {
            self.step_down();
            self.fill = None;
            self.store(StoreAction::Adopt(epoch), Then::Nothing);
        }
    }

    /// What it has, told under the epoch that was asked under and is adopted.
    fn have(&self, epoch: Epoch) -> Answer {
        let copy = self.copy.as_ref();
        copy.map_or(Answer::NoCopy, |copy| Answer::Have { epoch, last: copy.last(), full: copy.full })
    }

    fn gap(&self) -> Answer {
        let copy = self.copy.as_ref();
        copy.map_or(Answer::NoCopy, |copy| Answer::Gap { epoch: copy.adopted, last: copy.last() })
    }

    fn on_adopt(&mut self, epoch: Epoch, marks: &[Position]) -> Answer {
        self.adopt(epoch);
        let Some(copy) = &mut self.copy else { return Answer::NoCopy };
        let common = copy.tail.common_with(marks);
        let tail = common.map(|common| copy.tail.entries_after(common).cloned().collect());
        copy.aligned |= copy.full && common == Some(copy.last());
        Answer::Adopted { epoch, last: copy.last(), full: copy.full, common, tail: tail.unwrap_or_default() }
    }

    fn on_align(&mut self, epoch: Epoch, alignment: Alignment) -> Answer {
        let Some(copy) = &self.copy else { return Answer::NoCopy };
        if !is_adopted(copy, epoch) || !copy.full || self.lead.is_some() {
            return self.gap();
        }
        // A late repetition must not set back what came after it: it expects what is no longer the case.
        let follows =
            alignment.tail.last().map_or(alignment.common, |entry| entry.position) == alignment.last;
        if copy.last() == alignment.expect && alignment.common.n >= copy.tail.floor.n && follows {
            self.store(StoreAction::Align(alignment), Then::Nothing);
            return self.have(epoch);
        }
        if copy.aligned && copy.last() == alignment.last { self.have(epoch) } else { self.gap() }
    }

    fn on_open(&mut self, epoch: Epoch, base: Position) -> Answer {
        let seat = self.seat.as_ref().filter(|seat| seat.epoch == epoch);
        if seat.is_none_or(|seat| seat.in_sync.contains(&self.node)) || self.lead.is_some() {
            // An in-sync copy is never emptied; whoever knows better has to know it from the coordinator.
            return Answer::NotYet { epoch };
        }
        self.adopt(epoch);
        let Some(copy) = &mut self.copy else { return Answer::NoCopy };
        let stream = Stream { epoch, base };
        if copy.stream == Some(stream) {
            return self.have(epoch);
        }
        if copy.last().epoch == epoch && base.n < copy.last().n {
            return self.gap();
        }
        copy.stream = Some(stream);
        self.begin_fill(stream);
        self.store(StoreAction::BeginFill { base }, Then::Nothing);
        self.have(epoch)
    }

    fn on_forward(&mut self, epoch: Epoch, prev: Position, mut writes: Vec<Write>) -> Answer {
        let Some(copy) = &mut self.copy else { return Answer::NoCopy };
        let last = copy.last();
        let streams = copy.full || copy.stream.is_some_and(|stream| stream.epoch == epoch);
        let chained = (prev.n + 1..).zip(&writes).all(|(n, write)| write.position == Position { epoch, n });
        let follows = if last.epoch == epoch { prev.n <= last.n } else { prev == last };
        if !is_adopted(copy, epoch) || !streams || !chained || !follows || self.lead.is_some() {
            if copy.adopted == epoch && !copy.full {
                // What was missed is lost to this stream; the primary has to open another.
                copy.stream = None;
                self.fill = None;
            }
            return self.gap();
        }
        copy.aligned |= copy.full;
        writes.retain(|write| write.position.n > last.n);
        if !writes.is_empty() {
            self.store(StoreAction::Append(writes), Then::Nothing);
        }
        self.have(epoch)
    }

    fn on_chunk_request(
        &mut self,
        ticket: Ticket,
        epoch: Epoch,
        base: Position,
        range: StoreAction,
        have: Option<Box<OwnRange>>,
    ) {
        let ready = self.copy.as_ref().is_some_and(|copy| {
            let prefix = copy.is_prefix_in(epoch) || (self.lead.is_some() && copy.adopted == epoch);
            prefix && copy.last().n >= base.n
        });
        if !ready {
            return self.answer_when_durable(ticket, Answer::NotYet { epoch });
        }
        self.store(range, Then::GiveChunk { ticket, epoch, have });
    }
}

/// Whether `epoch` is the one that the copy takes part in.
fn is_adopted(copy: &CopyState, epoch: Epoch) -> bool {
    copy.adopted == epoch || (is_on(Mutant::EpochUnchecked) && copy.adopted > epoch)
}
