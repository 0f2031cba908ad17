//! Reports to the coordinator: recomputed from the state at each step, and repeated while what they say still holds.

use std::collections::BTreeMap;

use super::event::ReportOutcome;
use super::fill::Fill;
use super::peer::PeerState;
use super::seat::Seat;
use super::{Replica, ReportId};
use crate::ids::{Epoch, MigrationId};
use crate::wire::{InSyncMember, InSyncProposal, Phase, Report, Role};

/// What a report is about; one of each kind is under way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Lost,
    Retired,
    Done,
    Progress,
    Broken,
}

type About = (Kind, Epoch, Option<(MigrationId, Phase)>);

/// A report that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Sent {
    id: ReportId,
    at_ms: u64,
    answered: bool,
}

/// The reports under way, and those whose repetition is not due yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Reports {
    sent: BTreeMap<About, Sent>,
}

impl Replica {
    /// Sends what is to be reported and has not been, or not lately.
    pub(super) fn report(&mut self) {
        let wanted = self.wanted_reports();
        let (now_ms, repeat_ms) = (self.out.now_ms, self.limits.repeat_ms);
        // What is true again and again is not said again and again.
        let recent = |sent: &Sent| now_ms < sent.at_ms.saturating_add(repeat_ms);
        self.reports.sent.retain(|about, sent| wanted.contains_key(about) || recent(sent));
        for (about, body) in wanted {
            let due = |sent: &Sent| sent.answered && !recent(sent);
            if self.reports.sent.get(&about).is_none_or(due) {
                let id = self.out.report(body);
                self.reports.sent.insert(about, Sent { id, at_ms: now_ms, answered: false });
            }
        }
    }

    pub(super) fn on_reported(&mut self, report: ReportId, outcome: &ReportOutcome) {
        if let Some(sent) = self.reports.sent.values_mut().find(|sent| sent.id == report) {
            sent.answered = true;
        }
        let later_ms = self.out.now_ms.saturating_add(self.limits.repeat_ms);
        let soon_ms = self.out.now_ms.saturating_add(self.limits.retry_ms);
        let (Some(lead), Some(seat)) = (&mut self.lead, &self.seat) else { return };
        match outcome {
            ReportOutcome::Accepted => {
                if lead.in_sync.accepted(report, later_ms) {
                    lead.follow(seat, &self.node, self.out.now_ms);
                }
            }
            ReportOutcome::Refused(code) => lead.in_sync.refused(report, code, later_ms),
            ReportOutcome::Unknown => lead.in_sync.unknown(report, soon_ms),
        }
    }

    fn wanted_reports(&self) -> BTreeMap<About, Report> {
        let mut wanted = BTreeMap::new();
        let Some(seat) = &self.seat else { return wanted };
        let report = || Report::new(self.shard, seat.epoch);
        let missing = self.copy.is_none() && self.ops.is_empty();
        let full_role = matches!(seat.role, Role::Primary | Role::Replica);
        let seated = full_role || seat.in_sync.contains(&self.node);
        if missing && seat.role == Role::Retiring {
            wanted.insert((Kind::Retired, seat.epoch, None), Report { retired: true, ..report() });
        } else if missing && seated {
            wanted.insert((Kind::Lost, seat.epoch, None), Report { lost: true, ..report() });
        }
        if let Some(migration) = &seat.migration {
            let about = |kind| (kind, seat.epoch, Some((migration.id, migration.phase)));
            let (id, phase) = (Some(migration.id), Some(migration.phase));
            let report = || Report { migration: id, phase, ..Report::new(self.shard, seat.epoch) };
            let broken = self.broken_migration(seat);
            if self.has_done_its_part(seat, migration.phase) {
                let copied = self.filled_bytes.filter(|_| migration.phase == Phase::Copying);
                let (bytes_done, bytes_total) = (copied, copied);
                wanted.insert(about(Kind::Done), Report { done: true, bytes_done, bytes_total, ..report() });
            } else if let Some(error) = broken {
                wanted.insert(about(Kind::Broken), Report { error: Some(error.to_owned()), ..report() });
            } else if let (Some(fill), Phase::Copying) = (&self.fill, migration.phase) {
                let (bytes_done, bytes_total) = (Some(fill.bytes_done()), fill.bytes_total());
                wanted.insert(about(Kind::Progress), Report { bytes_done, bytes_total, ..report() });
            }
        }
        wanted
    }

    /// Whether this node's part of its shard's migration phase is done, and on disk.
    fn has_done_its_part(&self, seat: &Seat, phase: Phase) -> bool {
        let copy = self.copy.as_ref().filter(|copy| copy.adopted == seat.epoch && self.ops.is_empty());
        let streamed = copy.filter(|copy| copy.follows(seat.epoch));
        let is_target = seat.migration_to(&self.node, &[phase]).is_some();
        match phase {
            // A copy without a stream would be asked to pull before the primary forwards to it.
            Phase::Preparing if is_target => streamed.is_some(),
            Phase::Preparing => self.forwards_to_target(seat),
            Phase::Copying => is_target && streamed.is_some_and(|copy| copy.full),
            Phase::HandingOver => self.lead.as_ref().is_some_and(|lead| lead.handed),
            Phase::Queued | Phase::Admitting | Phase::Done | Phase::Aborted => false,
        }
    }

    fn forwards_to_target(&self, seat: &Seat) -> bool {
        let target = seat.migration.as_ref().and_then(|migration| migration.target.as_ref());
        let (Some(lead), Some(target)) = (&self.lead, target) else { return false };
        let peer = lead.peers.get(&target.node).filter(|_| lead.epoch == seat.epoch);
        peer.is_some_and(|peer| {
            peer.state == PeerState::Stream && !peer.is_silent(self.out.now_ms, &self.limits)
        })
    }

    /// Why a migration that has begun to copy has to begin again.
    fn broken_migration(&self, seat: &Seat) -> Option<&'static str> {
        let phases = [Phase::Copying, Phase::Admitting];
        let copy = self.copy.as_ref().filter(|copy| copy.adopted == seat.epoch);
        let in_sync = seat.in_sync.contains(&self.node);
        if seat.migration_to(&self.node, &phases).is_some() && !in_sync {
            // A copy that failed meanwhile is made anew once the filling begins again.
            let failed = self.copy.is_none() && self.ops.is_empty();
            let broken = failed || copy.is_some_and(|copy| !copy.follows(seat.epoch));
            let is_damaged = self.fill.as_ref().is_some_and(Fill::is_damaged);
            let why = if broken { Some("gap") } else { is_damaged.then_some("damaged_chunks") };
            return why.filter(|_| seat.role == Role::Learner);
        }
        let lead = self.lead.as_ref().filter(|lead| lead.epoch == seat.epoch)?;
        let (node, peer) = lead.peers.iter().find(|(node, _)| seat.migration_to(node, &phases).is_some())?;
        let silent = peer.is_silent(self.out.now_ms, &self.limits) && !lead.in_sync.set().contains(node);
        silent.then_some("no_answer")
    }

    /// Proposes the in-sync set that this primary wants, when it is another one than is committed.
    pub(super) fn propose(&mut self) {
        let (Some(lead), Some(seat), Some(copy)) = (&mut self.lead, &self.seat, &self.copy) else { return };
        let now_ms = self.out.now_ms;
        let desired = lead.desired(&self.node, copy.last(), now_ms, &self.limits);
        if !lead.adopted || lead.handed || !lead.in_sync.wants(&desired, now_ms) {
            return;
        }
        if lead.in_sync.founding && !lead.is_founded_by(&desired, &self.node) {
            return;
        }
        let incarnation = |node| seat.copies.get(node).map(|member| member.incarnation);
        let member =
            |node| incarnation(node).map(|i| InSyncMember { node: Clone::clone(node), incarnation: i });
        let members: Vec<InSyncMember> = desired.iter().filter_map(member).collect();
        if members.len() != desired.len() {
            return;
        }
        let mut body = Report::new(self.shard, seat.epoch);
        body.in_sync_set = Some(InSyncProposal { if_version: lead.in_sync.version(), members });
        let id = self.out.report(body);
        lead.in_sync.propose(desired, id);
    }
}
