//! Leases of data nodes and suspicion of them (DESIGN.md section 5). Pure: the caller passes the time.
//!
//! The lease decides whether a node is down; this module counts it on the leader's side. A node counts its lease from when it
//! sent a heartbeat that was answered with a grant; the leader counts 1.05 times as long from when it received that heartbeat,
//! both on a boot clock, so that the leader's count ends last as long as the clocks' rates differ by less than 5 %.
//!
//! Invariants
//! 1. Between the moment a node is marked as expiring and the commit of its verdict it is granted nothing.
//! 2. A node is reported by [`Liveness::expired`] only when 1.05 leases have passed since the last grant that it was given or
//!    is assumed to have been given.
//! 3. A grant names the node's `assigned_revision`. One that names less than a revision that took a shard lets the node serve
//!    that shard until it ends; [`Liveness::is_lease_over_below`] says when the last such one has.
//!
//! Caveats: a verdict is only proposed from here, fenced by the leadership, and committed elsewhere. The caller must read the
//! committed row under the same lock under which it calls [`Liveness::observe_heartbeat`], so that an older row is never
//! combined with newer counts. All times are milliseconds of the leader's boot clock and mean nothing to another process.

use std::collections::BTreeMap;

use mutants::{Mutant, is_on};
use ruvector_cluster_client::ids::{Incarnation, NodeId, Revision};
use serde::{Deserialize, Serialize};

/// Grants remembered for each node; the oldest are merged beyond that, on the safe side.
const MAX_REMEMBERED_GRANTS: usize = 32;

/// A node is suspect when nothing was heard of it for so many heartbeat intervals, in halves: 2.5 lets two beats be lost.
const SUSPECT_AFTER_HALF_BEATS: u64 = 5;

/// While a name is given to another store, its old holder is granted nothing for so many leases: longer than a proposal takes.
const HOLD_LEASES: u64 = 4;

/// All data nodes' leases, as the leader counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Liveness {
    /// Length of a lease as the node counts it.
    lease_ms: u64,
    /// How often nodes send heartbeats.
    heartbeat_interval_ms: u64,
    nodes: BTreeMap<NodeId, NodeLease>,
}

/// One node's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct NodeLease {
    incarnation: Incarnation,
    /// Last heartbeat or registration received, or when this leader began.
    heard_ms: u64,
    /// From when the leader counts: the last grant's receiving, a registration, a return, or when this leader began.
    counted_ms: u64,
    /// (assigned revision named, last receiving of a heartbeat granted under it), ascending in the revision.
    grants: Vec<(Revision, u64)>,
    /// The oldest assigned revision not yet installed, and since when that is known.
    behind: Option<(Revision, u64)>,
    /// Nothing more is granted: the lease is being waited out.
    expiring: bool,
    /// Heard, not behind, while committed down.
    returned_ms: Option<u64>,
    /// Nothing is granted until then, since another store takes the name.
    held_until_ms: u64,
}

/// A heartbeat as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat<'a> {
    /// The sender.
    pub node: &'a NodeId,
    /// Its run; the caller has checked it against the committed row.
    pub incarnation: Incarnation,
    /// When it arrived, before the read-index round.
    pub received_ms: u64,
    /// The revision of the assignments that the node has in force.
    pub installed_revision: Revision,
}

/// What is committed of the sender, read after the heartbeat's read-index round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Whether the verdict is `down`.
    pub down: bool,
    /// The last revision that took, or began to take, a primaryship from the node.
    pub assigned_revision: Revision,
}

/// What a heartbeat brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The lease is extended, once the node has assignments of this revision in force.
    Granted(Revision),
    /// Committed down and not behind: `alive` is to be committed first.
    Returning,
    /// Committed down and behind: assignments of this revision are to be installed first.
    Behind(Revision),
    /// The lease is being waited out: nothing is granted.
    Expiring,
}

impl NodeLease {
    fn counted_from(incarnation: Incarnation, now_ms: u64) -> Self {
        Self {
            incarnation,
            heard_ms: now_ms,
            counted_ms: now_ms,
            grants: Vec::new(),
            behind: None,
            expiring: false,
            returned_ms: None,
            held_until_ms: 0,
        }
    }

    fn remember_grant(&mut self, revision: Revision, received_ms: u64, forget_before_ms: u64) {
        self.grants.retain(|(_, at_ms)| *at_ms >= forget_before_ms);
        match self.grants.binary_search_by_key(&revision, |grant| grant.0) {
            Ok(at) => self.grants[at].1 = self.grants[at].1.max(received_ms),
            Err(at) => self.grants.insert(at, (revision, received_ms)),
        }
        if self.grants.len() > MAX_REMEMBERED_GRANTS {
            // The merged grant names the lower revision and the later time, so it can only delay a cut-over.
            let (_, at_ms) = self.grants.remove(1);
            self.grants[0].1 = self.grants[0].1.max(at_ms);
        }
    }

    fn note_installed(&mut self, beat: &Beat<'_>, assigned: Revision) -> bool {
        let is_behind = beat.installed_revision < assigned;
        self.behind = match self.behind {
            _ if !is_behind => None,
            Some((needed, since_ms)) if beat.installed_revision < needed => Some((needed, since_ms)),
            _ => Some((assigned, beat.received_ms)),
        };
        is_behind
    }
}

impl Liveness {
    /// The leader's side of a lease: 1.05 times as long, rounded up.
    pub fn leader_lease_ms(&self) -> u64 {
        if is_on(Mutant::LeaseNotWaitedFor) {
            return self.heartbeat_interval_ms;
        }
        self.lease_ms.saturating_add(self.lease_ms.div_ceil(20))
    }

    /// Starts anew: whoever begins to lead takes every node as granted at this moment, below every revision. To be called
    /// once its no-op is applied, with the nodes of the state published then.
    pub fn begin_leading<'a>(
        &mut self,
        now_ms: u64,
        lease_ms: u64,
        heartbeat_interval_ms: u64,
        nodes: impl Iterator<Item = (&'a NodeId, Incarnation)>,
    ) {
        let assume = |(node, incarnation): (&'a NodeId, Incarnation)| {
            let mut lease = NodeLease::counted_from(incarnation, now_ms);
            if is_on(Mutant::LeaseForgottenByNewLeader) {
                lease.counted_ms = 0;
            } else {
                lease.grants.push((Revision(0), now_ms));
            }
            (node.clone(), lease)
        };
        *self = Self { lease_ms, heartbeat_interval_ms, nodes: nodes.map(assume).collect() };
    }

    /// A registration is committed: the count starts as a grant would start it, but nothing is granted. The new run has
    /// stopped the old one, so the old one's grants are forgotten. Does nothing for a run that is known already.
    pub fn observe_registration(&mut self, node: &NodeId, incarnation: Incarnation, now_ms: u64) {
        if self.nodes.get(node).is_some_and(|known| known.incarnation >= incarnation) {
            return;
        }
        self.nodes.insert(node.clone(), NodeLease::counted_from(incarnation, now_ms));
    }

    /// Whether exactly these runs are known; `runs` ascend by node.
    pub fn knows_just<'a>(&self, mut runs: impl Iterator<Item = (&'a NodeId, Incarnation)>) -> bool {
        let mut known = self.nodes.iter().map(|(node, lease)| (node, lease.incarnation));
        known.all(|known| runs.next() == Some(known)) && runs.next().is_none()
    }

    /// Forgets runs that are not registered any more.
    pub fn retain(&mut self, is_registered: impl Fn(&NodeId, Incarnation) -> bool) {
        self.nodes.retain(|node, lease| is_registered(node, lease.incarnation));
    }

    /// A heartbeat, after its read-index round.
    pub fn observe_heartbeat(&mut self, beat: &Beat<'_>, committed: Committed) -> Grant {
        self.observe_registration(beat.node, beat.incarnation, beat.received_ms);
        let leader_lease_ms = self.leader_lease_ms();
        let Some(lease) = self.nodes.get_mut(beat.node).filter(|lease| lease.incarnation == beat.incarnation)
        else {
            return Grant::Expiring;
        };
        lease.heard_ms = lease.heard_ms.max(beat.received_ms);
        let is_behind = lease.note_installed(beat, committed.assigned_revision);
        if beat.received_ms < lease.held_until_ms {
            return Grant::Expiring;
        }
        if committed.down {
            if is_behind {
                return Grant::Behind(committed.assigned_revision);
            }
            lease.returned_ms = Some(beat.received_ms);
            lease.counted_ms = lease.counted_ms.max(beat.received_ms);
            lease.expiring = false;
            return Grant::Returning;
        }
        if lease.expiring {
            return Grant::Expiring;
        }
        lease.returned_ms = None;
        lease.counted_ms = lease.counted_ms.max(beat.received_ms);
        let forget_before_ms = beat.received_ms.saturating_sub(leader_lease_ms);
        lease.remember_grant(committed.assigned_revision, beat.received_ms, forget_before_ms);
        Grant::Granted(committed.assigned_revision)
    }

    /// Stops granting to whoever was silent for the leader's count of a lease, or behind for a lease.
    pub fn stop_granting(&mut self, now_ms: u64) {
        let (lease_ms, leader_lease_ms) = (self.lease_ms, self.leader_lease_ms());
        for lease in self.nodes.values_mut() {
            let is_silent = has_passed(lease.counted_ms, leader_lease_ms, now_ms);
            let is_behind = lease.behind.is_some_and(|(_, since_ms)| has_passed(since_ms, lease_ms, now_ms));
            lease.expiring |= is_silent || is_behind;
        }
    }

    /// Nodes that are granted nothing more and whose last lease has been waited out: `down` may be proposed for this run,
    /// unless it is committed already. Ascending.
    pub fn expired(&self, now_ms: u64) -> impl Iterator<Item = (&NodeId, Incarnation)> {
        let leader_lease_ms = self.leader_lease_ms();
        self.nodes
            .iter()
            .filter(move |(_, lease)| lease.expiring && has_passed(lease.counted_ms, leader_lease_ms, now_ms))
            .map(|(node, lease)| (node, lease.incarnation))
    }

    /// Nodes heard lately, not behind, while they were committed down: `alive` may be proposed for this run. Ascending.
    pub fn returned(&self, now_ms: u64) -> impl Iterator<Item = (&NodeId, Incarnation)> {
        let is_recent = move |at_ms: u64| !has_passed(at_ms, self.lease_ms, now_ms);
        self.nodes
            .iter()
            .filter(move |(_, lease)| lease.returned_ms.is_some_and(is_recent))
            .map(|(node, lease)| (node, lease.incarnation))
    }

    /// Whether every grant to `node` that named less than `taken` has ended: what that revision took is no longer served.
    /// A node that is unknown here is not said to have stopped.
    pub fn is_lease_over_below(&self, node: &NodeId, taken: Revision, now_ms: u64) -> bool {
        let leader_lease_ms = self.leader_lease_ms();
        let is_over = |&(revision, at_ms): &(Revision, u64)| {
            revision >= taken || has_passed(at_ms, leader_lease_ms, now_ms)
        };
        self.nodes.get(node).is_some_and(|lease| lease.grants.iter().all(is_over))
    }

    /// Whether another store may take the name of `node`: the run whose lease is over, to be named in the registration. From
    /// then on that run is granted nothing for a while, so that the answer stays true until the registration is committed.
    pub fn hold_if_over(&mut self, node: &NodeId, is_down: bool, now_ms: u64) -> Option<Incarnation> {
        let leader_lease_ms = self.leader_lease_ms();
        let hold_ms = leader_lease_ms.saturating_mul(HOLD_LEASES);
        let lease = self.nodes.get_mut(node)?;
        if !is_down && !has_passed(lease.counted_ms, leader_lease_ms, now_ms) {
            return None;
        }
        lease.expiring = true;
        lease.returned_ms = None;
        lease.held_until_ms = now_ms.saturating_add(hold_ms);
        Some(lease.incarnation)
    }

    /// Whether the node is unheard for more than two heartbeats. Shown, never acted on.
    pub fn is_suspect(&self, node: &NodeId, now_ms: u64) -> bool {
        let after_ms = self.heartbeat_interval_ms.saturating_mul(SUSPECT_AFTER_HALF_BEATS) / 2;
        self.nodes.get(node).is_some_and(|lease| has_passed(lease.heard_ms, after_ms, now_ms))
    }

    /// When the next lease ends by the leader's count, if any runs: decisions change then without any event.
    pub fn next_expiry_ms(&self, now_ms: u64) -> Option<u64> {
        let leader_lease_ms = self.leader_lease_ms();
        let ends = |lease: &NodeLease| {
            let counts = lease.grants.iter().map(|(_, at_ms)| at_ms.saturating_add(leader_lease_ms));
            let behind = lease.behind.map(|(_, since_ms)| since_ms.saturating_add(self.lease_ms));
            let all = counts.chain([lease.counted_ms.saturating_add(leader_lease_ms)]).chain(behind);
            all.filter(|at_ms| *at_ms > now_ms).min()
        };
        self.nodes.values().filter_map(ends).min()
    }
}

fn has_passed(since_ms: u64, length_ms: u64, now_ms: u64) -> bool {
    now_ms >= since_ms.saturating_add(length_ms)
}

#[cfg(test)]
mod tests;
