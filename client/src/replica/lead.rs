//! The primary of one epoch: it makes the in-sync copies equal to itself, then orders writes and sends them out.
//!
//! Invariants: nothing is served before every required copy is equal (`opened`); a write is stored at home only when
//! every required copy has it on disk; positions are given once, so an epoch that this process did not begin is never led, and
//! none is given before the epoch is on disk (`adopted`). Copies are asked meanwhile by a log that is on disk: should the adoption
//! come to nothing, whoever adopts the epoch next asks the same. Nothing is aligned and no copy opened before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mutants::{Mutant, is_on};

use super::copy::CopyState;
use super::in_sync::InSync;
use super::peer::{Peer, PeerState};
use super::seat::Seat;
use super::tail::Tail;
use super::wire::{Request, Write};
use super::{Key, Limits, Ticket, Value};
use crate::ids::{Epoch, MigrationId, NodeId, Position};
use crate::wire::{Phase, Role};

/// A write under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pending {
    pub(super) position: Position,
    pub(super) size_bytes: usize,
    /// Nobody waits any more when `None`.
    pub(super) ticket: Option<Ticket>,
    pub(super) until_ms: u64,
}

/// What a primary knows in one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lead {
    pub(super) epoch: Epoch,
    /// The epoch is adopted on disk, so that no other life of this process begins it again.
    pub(super) adopted: bool,
    /// All required copies were equal to this one: requests are served.
    pub(super) opened: bool,
    /// The primaryship is being given away and nothing is answered any more.
    pub(super) handed: bool,
    /// The home copy's position when the epoch began.
    base: Position,
    /// The last position given to a write.
    pub(super) assigned: Position,
    /// Writes of this epoch, gapless up to `assigned`; those not stored at home, and older ones for slower copies.
    buffer: VecDeque<Write>,
    buffer_bytes: usize,
    /// Writes not yet answered, ascending.
    pub(super) pending: VecDeque<Pending>,
    pending_bytes: usize,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    /// The migration whose target was last dealt with anew.
    prepared: Option<MigrationId>,
    pub(super) in_sync: InSync,
}

impl Lead {
    pub(super) fn new(seat: &Seat, home: Position) -> Self {
        Self {
            epoch: seat.epoch,
            adopted: false,
            opened: false,
            handed: false,
            base: home,
            assigned: home,
            buffer: VecDeque::new(),
            buffer_bytes: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            peers: BTreeMap::new(),
            prepared: None,
            in_sync: InSync::new(seat),
        }
    }

    /// Whom to deal with: what is required, replicas that could become in sync, the target of a migration.
    pub(super) fn follow(&mut self, seat: &Seat, node: &NodeId, now_ms: u64) {
        let phases = [Phase::Preparing, Phase::Copying, Phase::Admitting];
        let preparing = seat.migration.as_ref().filter(|migration| migration.phase == Phase::Preparing);
        let preparing = preparing.map(|migration| migration.id);
        // The target's copy is made anew then, perhaps where one was that is known here.
        let begins_anew = preparing.is_some() && preparing != self.prepared;
        self.prepared = preparing;
        let mut peers = BTreeMap::new();
        for (other, member) in seat.copies.iter().filter(|(other, _)| *other != node) {
            let required = self.in_sync.requires(other);
            let target = seat.migration_to(other, &phases).is_some();
            let replica = matches!(member.role, Role::Replica | Role::Primary);
            if !(required || (!member.down && (replica || target))) {
                continue;
            }
            let is_known = |peer: &Peer| peer.incarnation == member.incarnation && !(target && begins_anew);
            let known = self.peers.remove(other).filter(is_known);
            let mut peer = known.unwrap_or_else(|| Peer::new(member.at.clone(), member.incarnation, now_ms));
            peer.at.clone_from(&member.at);
            peer.down = member.down;
            peer.learner = member.role == Role::Learner;
            peers.insert(other.clone(), peer);
        }
        self.peers = peers;
    }

    /// The epoch is on disk. Nobody but this copy has been slow so far.
    pub(super) fn on_adopted(&mut self, now_ms: u64) {
        self.adopted = true;
        for peer in self.peers.values_mut() {
            peer.unsettled_since_ms = now_ms;
        }
    }

    /// Opens the epoch once it is adopted on disk and every required copy is equal to this one.
    pub(super) fn try_open(&mut self, node: &NodeId) {
        if self.adopted && !self.opened && !self.in_sync.founding {
            let required = self.in_sync.required();
            let all_equal = required.iter().filter(|n| *n != node).all(|n| self.is_equal(n));
            self.opened = all_equal || is_on(Mutant::NoReconciliation);
        }
    }

    fn is_equal(&self, node: &NodeId) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.is_settled() && peer.acked.n >= self.base.n)
    }

    /// Whether one more write may be under way.
    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        self.pending.len() < limits.window && self.pending_bytes < limits.window_bytes
    }

    /// Gives a client's write the next position.
    pub(super) fn assign(&mut self, ticket: Ticket, key: Key, value: Option<Value>, until_ms: u64) {
        let position = Position { epoch: self.epoch, n: self.assigned.n + 1 };
        let write = Write { position, key, value };
        let size_bytes = write.size_bytes();
        self.assigned = position;
        self.buffer_bytes += size_bytes;
        self.pending_bytes += size_bytes;
        self.buffer.push_back(write);
        self.pending.push_back(Pending { position, size_bytes, ticket: Some(ticket), until_ms });
    }

    /// The writes that every required copy has and that home lacks after `stored`.
    pub(super) fn committed_after(&self, stored: Position, node: &NodeId) -> Vec<Write> {
        let is_hasty = is_on(Mutant::AckBeforeReplicas) || is_on(Mutant::ReadableBeforeReplicas);
        let upto = if is_hasty { self.assigned.n } else { self.replicated_upto(node) };
        let is_next = |write: &&Write| write.position.n > stored.n && write.position.n <= upto;
        self.buffer.iter().filter(is_next).cloned().collect()
    }

    /// The number up to which every required copy but home has all writes.
    fn replicated_upto(&self, node: &NodeId) -> u64 {
        let acked =
            |other: &NodeId| self.peers.get(other).filter(|peer| peer.is_settled()).map(|p| p.acked.n);
        let required = self.in_sync.required();
        let others = required.iter().filter(|other| *other != node);
        others.map(|other| acked(other).unwrap_or(0)).min().unwrap_or(self.assigned.n)
    }

    /// Takes what is now on disk at home and on all required copies from the writes under way.
    pub(super) fn take_stored(&mut self, durable: Position, node: &NodeId) -> Vec<Pending> {
        let is_early = is_on(Mutant::ReadableBeforeReplicas);
        let upto = if is_early { durable.n.min(self.replicated_upto(node)) } else { durable.n };
        let done = self.pending.partition_point(|pending| pending.position.n <= upto);
        let done: Vec<Pending> = self.pending.drain(..done).collect();
        self.pending_bytes -= done.iter().map(|pending| pending.size_bytes).sum::<usize>();
        done
    }

    /// Forgets writes that every copy has which streams or is about to, and the oldest ones when slow copies keep too
    /// many.
    pub(super) fn trim(&mut self, stored: Position, limits: &Limits) {
        let joined = self.peers.values().filter(|peer| peer.state != PeerState::Probe);
        let acked = joined.map(|peer| peer.acked.n).min().unwrap_or(u64::MAX);
        while let Some(oldest) = self.buffer.front() {
            let many = self.buffer.len() > 2 * limits.window || self.buffer_bytes > 2 * limits.window_bytes;
            if oldest.position.n > stored.n || !(many || oldest.position.n <= acked) {
                break;
            }
            self.buffer_bytes -= oldest.size_bytes();
            self.buffer.pop_front();
        }
    }

    /// Whether the buffer has all writes after `position`.
    pub(super) fn reaches(&self, position: Position) -> bool {
        let kept = self.buffer.front().map_or(self.assigned.n, |oldest| oldest.position.n - 1);
        (kept..=self.assigned.n).contains(&position.n)
    }

    fn batch_after(&self, position: Position, limits: &Limits) -> Vec<Write> {
        let mut bytes = 0;
        let fits = |write: &&Write| {
            let room = bytes < limits.batch_bytes;
            bytes += write.size_bytes();
            room
        };
        let next = self.buffer.partition_point(|write| write.position.n <= position.n);
        self.buffer.range(next..).take(limits.batch).take_while(fits).cloned().collect()
    }

    /// The request that is due to `node`, if any. `home` is this copy.
    pub(super) fn next_request(
        &mut self,
        node: &NodeId,
        home: &CopyState,
        now_ms: u64,
        limits: &Limits,
    ) -> Option<Request> {
        let required = self.in_sync.requires(node);
        let peer = self.peers.get(node)?;
        if peer.call.is_some() || peer.down || now_ms < peer.quiet_until_ms {
            return None;
        }
        let (request, state) = match &peer.state {
            PeerState::Reading(_) => return None,
            PeerState::Stream if !self.reaches(peer.acked) => (None, Some(PeerState::Probe)),
            PeerState::Stream => {
                let writes = self.batch_after(peer.acked, limits);
                let poll = !peer.full && now_ms >= peer.sent_ms.saturating_add(limits.poll_ms);
                let is_due = poll || !writes.is_empty();
                (is_due.then(|| Request::forward(self.epoch, peer.acked, writes)), None)
            }
            PeerState::Align(alignment) => (Some(Request::align(self.epoch, (**alignment).clone())), None),
            PeerState::Probe | PeerState::Opening(_) if peer.is_to_fill(required) => {
                if !self.adopted {
                    return None;
                }
                let base = self.assigned;
                (Some(Request::Open { epoch: self.epoch, base }), Some(PeerState::Opening(base)))
            }
            PeerState::Probe | PeerState::Opening(_) if peer.unfit => return None,
            PeerState::Probe | PeerState::Opening(_) => {
                let marks = self.marks(&home.tail);
                (Some(Request::Adopt { epoch: self.epoch, marks }), Some(PeerState::Probe))
            }
        };
        if let (Some(state), Some(peer)) = (state, self.peers.get_mut(node)) {
            if let PeerState::Opening(base) = state {
                peer.acked = base;
            }
            peer.state = state;
        }
        request
    }

    /// This log in short, with the writes under way.
    fn marks(&self, home: &Tail) -> Vec<Position> {
        let mut marks = home.marks();
        if self.assigned != home.last() {
            if marks.len() > 1 && marks.last().is_some_and(|mark| mark.epoch == self.epoch) {
                marks.pop();
            }
            marks.push(self.assigned);
        }
        marks
    }

    /// The in-sync set that this primary wants. `stored` is what home has or is about to have.
    pub(super) fn desired(
        &self,
        node: &NodeId,
        stored: Position,
        now_ms: u64,
        limits: &Limits,
    ) -> BTreeSet<NodeId> {
        let fit = |other: &NodeId| self.peers.get(other).is_some_and(|peer| peer.is_fit(now_ms, limits));
        let caught_up = |other: &NodeId| self.peers.get(other).is_some_and(|peer| peer.acked.n >= stored.n);
        let stay = self.in_sync.set().iter().filter(|other| *other == node || fit(other));
        stay.chain(self.in_sync.joining.iter().filter(|other| caught_up(other))).cloned().collect()
    }

    /// Whether a founding shard's copies of `desired` are all there.
    pub(super) fn is_founded_by(&self, desired: &BTreeSet<NodeId>, node: &NodeId) -> bool {
        desired.iter().all(|other| other == node || self.is_equal(other))
    }

    /// Chooses the copies that writes wait for although they are not in sync yet.
    pub(super) fn choose_joining(&mut self, seat: &Seat, now_ms: u64, limits: &Limits) {
        let admits = |node: &NodeId| match seat.copies.get(node).map(|member| member.role) {
            Some(Role::Replica) => true,
            Some(Role::Learner) => seat.migration_to(node, &[Phase::Admitting]).is_some(),
            Some(Role::Primary | Role::Retiring) | None => false,
        };
        let fits = |peer: &Peer| peer.is_settled() && peer.is_fit(now_ms, limits);
        let outside = self.peers.iter().filter(|(node, _)| !self.in_sync.set().contains(*node));
        let joining = outside.filter(|(node, peer)| self.opened && fits(peer) && admits(node));
        self.in_sync.joining = joining.map(|(node, _)| node.clone()).collect();
    }
}
