//! The in-sync set as its primary sees it: what is committed, what may be, and what it asks for.
//!
//! Invariant: [`InSync::required`] contains every set that the coordinator may have committed, so a write that all required
//! copies have is on each of them. A proposal leaves the doubt only when the version moves past it.

use std::collections::BTreeSet;

use super::ReportId;
use super::seat::Seat;
use crate::ids::NodeId;

/// A proposal whose outcome is not known yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Proposal {
    members: BTreeSet<NodeId>,
    report: ReportId,
}

/// The sets of one primary in one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct InSync {
    set: BTreeSet<NodeId>,
    version: u64,
    /// Nothing is proposed until an assignment of this version comes.
    awaited: u64,
    /// Members of earlier proposals under `version` of which nobody knows whether they will yet be committed.
    doubtful: BTreeSet<NodeId>,
    proposal: Option<Proposal>,
    /// Copies that writes already wait for, to be proposed.
    pub(super) joining: BTreeSet<NodeId>,
    /// The shard is not opened yet.
    pub(super) founding: bool,
    not_before_ms: u64,
}

impl InSync {
    pub(super) fn new(seat: &Seat) -> Self {
        Self {
            set: seat.in_sync.clone(),
            version: seat.version,
            awaited: seat.version,
            doubtful: BTreeSet::new(),
            proposal: None,
            joining: BTreeSet::new(),
            founding: seat.founding,
            not_before_ms: 0,
        }
    }

    /// Takes the committed set over from an assignment of the same epoch, unless that is older than what is known.
    pub(super) fn learn(&mut self, seat: &Seat) {
        self.founding &= seat.founding;
        if seat.version <= self.version {
            return;
        }
        self.set.clone_from(&seat.in_sync);
        self.version = seat.version;
        self.awaited = seat.version;
        // A version that has passed can't be proposed to any more: whatever was in doubt is decided.
        self.doubtful.clear();
        self.proposal = None;
    }

    pub(super) fn set(&self) -> &BTreeSet<NodeId> {
        &self.set
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// All copies that must have a write, the primary among them.
    pub(super) fn required(&self) -> BTreeSet<NodeId> {
        let proposed = self.proposal.iter().flat_map(|proposal| &proposal.members);
        self.set.iter().chain(&self.doubtful).chain(proposed).chain(&self.joining).cloned().collect()
    }

    pub(super) fn requires(&self, node: &NodeId) -> bool {
        let proposed = self.proposal.as_ref().is_some_and(|proposal| proposal.members.contains(node));
        self.set.contains(node) || self.doubtful.contains(node) || proposed || self.joining.contains(node)
    }

    /// Whether `desired` is to be proposed now.
    pub(super) fn wants(&self, desired: &BTreeSet<NodeId>, now_ms: u64) -> bool {
        let differs = *desired != self.set || !self.doubtful.is_subset(desired) || self.founding;
        let free = self.proposal.is_none() && self.version >= self.awaited && now_ms >= self.not_before_ms;
        differs && free
    }

    /// Notes what is proposed, before it is sent: from here on writes need it too.
    pub(super) fn propose(&mut self, members: BTreeSet<NodeId>, report: ReportId) {
        self.proposal = Some(Proposal { members, report });
    }

    /// The coordinator committed the proposal of `report`. False when that is not the present one.
    pub(super) fn accepted(&mut self, report: ReportId, retry_at_ms: u64) -> bool {
        let Some(proposal) = self.proposal.take_if(|proposal| proposal.report == report) else {
            return false;
        };
        self.founding = false;
        if proposal.members == self.set {
            // Whether this raised the version, the next assignment says; until then doubts stay.
            if !self.doubtful.is_empty() {
                self.not_before_ms = retry_at_ms;
            }
            return true;
        }
        self.set = proposal.members;
        self.doubtful.clear();
        self.awaited = self.version + 1;
        true
    }

    /// The coordinator refused the proposal of `report`, for a newer version than ours or for another reason.
    pub(super) fn refused(&mut self, report: ReportId, code: &str, retry_at_ms: u64) {
        if self.proposal.take_if(|proposal| proposal.report == report).is_some() {
            self.not_before_ms = retry_at_ms;
            if code == "stale_version" {
                self.awaited = self.version + 1;
            }
        }
    }

    /// Nobody knows what became of the proposal of `report`; writes need its members until the version moves on.
    pub(super) fn unknown(&mut self, report: ReportId, retry_at_ms: u64) {
        if let Some(proposal) = self.proposal.take_if(|proposal| proposal.report == report) {
            self.doubtful.extend(proposal.members);
            self.not_before_ms = retry_at_ms;
        }
    }
}
