//! What an assignment sets in motion, and what a new primary does with the answers of the other copies.

use super::lead::Lead;
use super::peer::{Learned, PeerState};
use super::seat::Seat;
use super::store::StoreAction;
use super::tail::TailEntry;
use super::wire::{Alignment, Answer};
use super::{CallId, Key, OpId, Replica, Then};
use crate::ids::{Epoch, NodeId, Position};
use crate::wire::{Assignment, Phase, Role};

impl Replica {
    pub(super) fn on_assigned(&mut self, assignment: Assignment) {
        let seat = Seat::new(assignment);
        if self.seat.as_ref().is_some_and(|held| held.epoch > seat.epoch) {
            return;
        }
        let same_epoch = self.seat.as_ref().is_some_and(|held| held.epoch == seat.epoch);
        let (epoch, role, founding) = (seat.epoch, seat.role, seat.founding);
        let in_sync = seat.in_sync.contains(&self.node);
        let prepares = seat.migration_to(&self.node, &[Phase::Preparing]).is_some();
        self.frozen_until_ms = match (seat.hand_over_from(&self.node), self.frozen_until_ms) {
            (Some(_), Some(frozen)) if same_epoch => Some(frozen),
            (Some(_), _) => Some(self.granted_until_ms),
            (None, _) => None,
        };
        self.seat = Some(seat);
        if role == Role::Retiring {
            return self.retire(epoch);
        }
        // After a loss this may be older than what is committed: the copy that was lost may just have been admitted. Not so
        // where the filling begins anew, since nobody is admitted without having told that it is full.
        let is_news = epoch > self.lost_upto;
        let fills = role == Role::Learner && !in_sync && (is_news || prepares);
        if self.copy.is_none() && ((founding && is_news) || fills) {
            self.store(StoreAction::Create, Then::Nothing);
        }
        if self.copy.as_ref().is_some_and(|copy| copy.adopted < epoch) {
            self.step_down();
            self.fill = None;
            // An epoch that was adopted before is not begun again: positions under it may have been given.
            // What is not on disk yet must not be told as this epoch's log: another life of this process might not have it.
            let is_at_rest = self.ops.is_empty();
            let then = if role == Role::Primary { Then::Lead(epoch) } else { Then::Nothing };
            self.store(StoreAction::Adopt(epoch), then);
            if role == Role::Primary && is_at_rest {
                self.begin_to_lead();
            }
        }
        if let (Some(lead), Some(seat)) = (&mut self.lead, &self.seat) {
            lead.in_sync.learn(seat);
            lead.follow(seat, &self.node, self.out.now_ms);
        }
    }

    /// Deletes the copy, unless it belongs to a later epoch than this verdict.
    fn retire(&mut self, epoch: Epoch) {
        if self.copy.as_ref().is_some_and(|copy| copy.adopted <= epoch) {
            self.step_down();
            self.fill = None;
            self.store(StoreAction::Delete, Then::Nothing);
        }
    }

    pub(super) fn on_unassigned(&mut self) {
        self.step_down();
        self.fill = None;
        self.seat = None;
        self.frozen_until_ms = None;
    }

    /// Reconciliation begins; the adoption of the epoch may be on its way to disk.
    fn begin_to_lead(&mut self) {
        let (Some(seat), Some(copy)) = (&self.seat, &self.copy) else { return };
        let mut lead = Lead::new(seat, copy.last());
        lead.follow(seat, &self.node, self.out.now_ms);
        self.lead = Some(lead);
        if !copy.full {
            // Only an operator who accepts data loss makes a half-filled copy primary; what it has now is the shard.
            self.store(StoreAction::EndFill, Then::Nothing);
        }
    }

    /// The epoch is adopted on disk.
    pub(super) fn on_adopted(&mut self, epoch: Epoch) {
        let still = |seat: &&Seat| seat.epoch == epoch && seat.role == Role::Primary;
        if self.seat.as_ref().filter(still).is_none()
            || self.copy.as_ref().is_none_or(|copy| copy.adopted != epoch)
        {
            return;
        }
        if self.lead.is_none() {
            self.begin_to_lead();
        }
        if let Some(lead) = &mut self.lead {
            lead.on_adopted(self.out.now_ms);
        }
    }

    pub(super) fn on_call_failed(&mut self, call: CallId) {
        if self.is_fill_call(call) {
            return self.on_fill_failed();
        }
        let peers = self.lead.iter_mut().flat_map(|lead| lead.peers.values_mut());
        for peer in peers.filter(|peer| peer.call.is_some_and(|(waiting, _)| waiting == call)) {
            peer.failed(self.out.now_ms, &self.limits);
        }
    }

    pub(super) fn on_answer(&mut self, call: CallId, answer: Answer) {
        if self.is_fill_call(call) {
            return self.on_fill_answer(answer);
        }
        let Some(lead) = &mut self.lead else { return };
        let waits = |node: &&NodeId| {
            let peer = lead.peers.get(*node);
            peer.and_then(|peer| peer.call).is_some_and(|(waiting, _)| waiting == call)
        };
        let Some(node) = lead.peers.keys().find(waits).cloned() else { return };
        let Some(mut peer) = lead.peers.remove(&node) else { return };
        let learned =
            peer.learn(lead.epoch, answer, self.out.now_ms, &self.limits, |position| lead.reaches(position));
        lead.peers.insert(node.clone(), peer);
        match learned {
            Learned::Progress => {}
            Learned::Deposed => self.step_down(),
            Learned::Differs { last, common, tail } => self.on_differs(&node, last, common, &tail),
        }
    }

    /// A copy differs from this one after `common`: what this one has of the keys in question is read.
    fn on_differs(&mut self, node: &NodeId, expect: Position, common: Position, theirs: &[TailEntry]) {
        let (Some(lead), Some(copy)) = (&mut self.lead, &self.copy) else { return };
        let Some(peer) = lead.peers.get_mut(node) else { return };
        if common.n < copy.tail.floor.n || common.n > copy.last().n {
            peer.unfit |= common.n < copy.tail.floor.n;
            return peer.probe(self.out.now_ms, self.limits.retry_ms);
        }
        let ours = copy.tail.entries_after(common);
        let mut keys: Vec<Key> = ours.chain(theirs).map(|entry| entry.key.clone()).collect();
        keys.sort();
        keys.dedup();
        let then = Then::Align { node: node.clone(), expect, common };
        let home = copy.last();
        let op = self.store(StoreAction::ReadKeys(keys), then);
        if let Some(peer) = self.lead.as_mut().and_then(|lead| lead.peers.get_mut(node)) {
            // What is written from here on is kept for it.
            peer.acked = home;
            peer.state = PeerState::Reading(op);
        }
    }

    /// The keys are read: the copy is told to become equal to this one as of then.
    pub(super) fn align_peer(&mut self, op: OpId, node: &NodeId, mut alignment: Alignment) {
        let (Some(lead), Some(copy)) = (&mut self.lead, &self.copy) else { return };
        let reading = lead.peers.get_mut(node).filter(|peer| peer.state == PeerState::Reading(op));
        let Some(peer) = reading else { return };
        if copy.tail.floor.n > alignment.common.n {
            return peer.probe(self.out.now_ms, self.limits.retry_ms);
        }
        let until = |entry: &&TailEntry| entry.position.n <= alignment.last.n;
        alignment.tail = copy.tail.entries_after(alignment.common).take_while(until).cloned().collect();
        peer.state = PeerState::Align(Box::new(alignment));
    }
}
