//! Clients' requests: each waits here, first come first served, until it can be begun, is refused, or its time is over.

use super::event::{Effect, Operation, Refusal, Reply};
use super::{Replica, Ticket};
use crate::ids::{Epoch, Position};
use crate::wire::{Phase, Role};

/// A request that was not begun.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    ticket: Ticket,
    epoch: Option<Epoch>,
    operation: Operation,
    until_ms: u64,
}

/// What is to be done with requests at present.
enum Stance {
    Serve,
    Wait,
    Refuse(Refusal),
}

impl Replica {
    pub(super) fn on_client(&mut self, ticket: Ticket, epoch: Option<Epoch>, operation: Operation) {
        let known = self.known_epoch();
        let refusal = match epoch {
            Some(epoch) if epoch < known => Refusal::StaleEpoch(known),
            _ if self.held.len() >= self.limits.held => Refusal::Unavailable,
            _ => {
                let until_ms = self.out.now_ms.saturating_add(self.limits.hold_ms);
                self.held.push_back(Held { ticket, epoch, operation, until_ms });
                return;
            }
        };
        self.out.reply(ticket, Reply::Refused(refusal));
    }

    pub(super) fn on_client_gone(&mut self, ticket: Ticket) {
        self.held.retain(|held| held.ticket != ticket);
        let pending = self.lead.iter_mut().flat_map(|lead| &mut lead.pending);
        pending.filter(|p| p.ticket == Some(ticket)).for_each(|pending| pending.ticket = None);
    }

    /// The highest epoch that this copy knows of.
    pub(super) fn known_epoch(&self) -> Epoch {
        let assigned = self.seat.as_ref().map_or(Epoch(0), |seat| seat.epoch);
        self.copy.as_ref().map_or(assigned, |copy| copy.adopted.max(assigned))
    }

    /// Whether requests may be answered as primary now.
    pub(super) fn has_authority(&self) -> bool {
        let lead = self.lead.as_ref().filter(|lead| lead.opened && !lead.handed);
        lead.is_some_and(|lead| lead.epoch == self.known_epoch()) && self.has_lease(self.out.now_ms)
    }

    fn stance(&self) -> Stance {
        let Some(seat) = &self.seat else {
            let epoch = self.known_epoch();
            return Stance::Refuse(Refusal::NotPrimary { epoch, primary: None });
        };
        if seat.role == Role::Primary {
            let serves = self.has_authority() && seat.hand_over_from(&self.node).is_none();
            return if serves { Stance::Serve } else { Stance::Wait };
        }
        let awaited = seat.migration_to(&self.node, &[Phase::HandingOver]).is_some();
        if awaited || self.known_epoch() > seat.epoch {
            // Whoever hands over has been told already, or a peer knows of a newer assignment: ours is on its way.
            return Stance::Wait;
        }
        Stance::Refuse(Refusal::NotPrimary { epoch: seat.epoch, primary: seat.primary().cloned() })
    }

    /// Begins, refuses or goes on holding each request.
    pub(super) fn release_held(&mut self) {
        let (stance, known, now_ms) = (self.stance(), self.known_epoch(), self.out.now_ms);
        for held in std::mem::take(&mut self.held) {
            let ahead = held.epoch.is_some_and(|epoch| epoch > known);
            match &stance {
                Stance::Refuse(refusal) if !ahead => {
                    self.out.reply(held.ticket, Reply::Refused(refusal.clone()));
                }
                Stance::Serve if !ahead && self.begin(&held) => {}
                _ if now_ms >= held.until_ms => {
                    self.out.reply(held.ticket, Reply::Refused(Refusal::Unavailable));
                }
                _ => self.held.push_back(held),
            }
        }
    }

    /// False when there is no room for another write.
    fn begin(&mut self, held: &Held) -> bool {
        let Some(lead) = &mut self.lead else { return false };
        match &held.operation {
            Operation::Read => self.out.reply(held.ticket, Reply::ReadAt { epoch: lead.epoch }),
            Operation::Write { key, value } if lead.has_room(&self.limits) => {
                let until_ms = self.out.now_ms.saturating_add(self.limits.hold_ms);
                lead.assign(held.ticket, key.clone(), value.clone(), until_ms);
            }
            Operation::Write { .. } => return false,
        }
        true
    }

    /// Answers the writes that are on disk everywhere, if this is still the primary, and gives up on late ones.
    pub(super) fn answer_writes(&mut self) {
        let authority = self.has_authority();
        let durable = self.copy.as_ref().map_or(Position::default(), |copy| copy.durable);
        let Some(lead) = &mut self.lead else { return };
        for done in lead.take_stored(durable, &self.node) {
            let unknown = Reply::Refused(Refusal::OutcomeUnknown);
            let reply = if authority { Reply::Written { position: done.position } } else { unknown };
            if let Some(ticket) = done.ticket {
                self.out.push(Effect::Reply { ticket, reply });
            }
        }
        let now_ms = self.out.now_ms;
        for late in lead.pending.iter_mut().filter(|pending| now_ms >= pending.until_ms) {
            if let Some(ticket) = late.ticket.take() {
                self.out.reply(ticket, Reply::Refused(Refusal::OutcomeUnknown));
            }
        }
    }

    /// Stops being primary, if it is: what is under way may or may not take effect.
    pub(super) fn step_down(&mut self) {
        let pending = self.lead.take().map(|lead| lead.pending).unwrap_or_default();
        for ticket in pending.into_iter().filter_map(|pending| pending.ticket) {
            self.out.reply(ticket, Reply::Refused(Refusal::OutcomeUnknown));
        }
    }
}
