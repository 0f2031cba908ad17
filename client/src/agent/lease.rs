use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mutants::{Mutant, is_on};

use crate::clock::Clock;
use crate::ids::{Incarnation, Revision};

/// Grants that name assignments which are not installed yet are few: one a heartbeat until the node has caught up, and
/// only the newest of each revision matters. Beyond this the oldest is dropped, which only shortens the lease.
const MAX_PENDING_GRANTS: usize = 64;

/// The lease of one session, counted as rule 4 of DESIGN.md, section 5, says. Pure: times are passed in, in
/// milliseconds of the boot clock.
#[derive(Clone, Debug, Default, Hash)]
pub struct Lease {
    installed: Revision,
    until_ms: u64,
    pending: Vec<Grant>,
}

#[derive(Clone, Copy, Debug, Hash)]
struct Grant {
    assigned: Revision,
    until_ms: u64,
}

impl Lease {
    /// A heartbeat sent at `sent_ms` was answered with a grant of `lease_ms` that names `assigned`.
    pub fn granted(&mut self, sent_ms: u64, lease_ms: u64, assigned: Revision) {
        let grant = Grant { assigned, until_ms: sent_ms.saturating_add(lease_ms) };
        if assigned <= self.installed || is_on(Mutant::GrantBeforeInstalled) {
            self.until_ms = self.until_ms.max(grant.until_ms);
            return;
        }
        match self.pending.iter_mut().find(|held| held.assigned == assigned) {
            Some(held) => held.until_ms = held.until_ms.max(grant.until_ms),
            None => {
                if self.pending.len() == MAX_PENDING_GRANTS {
                    self.pending.remove(0);
                }
                self.pending.push(grant);
            }
        }
    }

    /// Assignments of `revision` are in force; grants that waited for them count from their sending.
    pub fn installed(&mut self, revision: Revision) {
        self.installed = self.installed.max(revision);
        let (now_count, still_wait) = self.pending.iter().partition(|grant| grant.assigned <= self.installed);
        let now_count: Vec<Grant> = now_count;
        self.pending = still_wait;
        for grant in now_count {
            self.until_ms = self.until_ms.max(grant.until_ms);
        }
    }

    /// When it ends; 0 before the first grant that counts.
    pub fn until_ms(&self) -> u64 {
        self.until_ms
    }

    /// The revision in force.
    pub fn installed_revision(&self) -> Revision {
        self.installed
    }

    /// Whether it runs at `now_ms`. At its very end it no longer does.
    pub fn runs(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }
}

/// The node's lease as everyone who answers a request sees it; cloning is cheap.
#[derive(Clone)]
pub struct LeaseWatch {
    clock: Arc<dyn Clock>,
    held: Arc<Mutex<(Incarnation, Lease)>>,
}

impl LeaseWatch {
    /// No lease yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, held: Arc::default() }
    }

    /// Whether the lease of the current session runs now: asked when a primary answers.
    pub fn runs(&self) -> bool {
        let now_ms = self.clock.boot_ms();
        self.held().1.runs(now_ms)
    }

    /// When the lease ends, on the boot clock; 0 while there is none.
    pub fn until_ms(&self) -> u64 {
        self.held().1.until_ms()
    }

    /// The session's incarnation; 0 while there is none.
    pub fn incarnation(&self) -> Incarnation {
        self.held().0
    }

    pub(crate) fn reset(&self) {
        *self.held() = (Incarnation(0), Lease::default());
    }

    pub(crate) fn begin(&self, incarnation: Incarnation) {
        *self.held() = (incarnation, Lease::default());
    }

    pub(crate) fn granted(&self, sent_ms: u64, lease_ms: u64, assigned: Revision) {
        self.held().1.granted(sent_ms, lease_ms, assigned);
    }

    pub(crate) fn installed(&self, revision: Revision) {
        self.held().1.installed(revision);
    }

    fn held(&self) -> MutexGuard<'_, (Incarnation, Lease)> {
        // The state is valid between any two statements above, so a panic elsewhere doesn't spoil it.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_counted_from_the_sending() {
        let mut lease = Lease::default();
        assert!(!lease.runs(0), "there is none before the first grant");
        lease.installed(Revision(5));
        lease.granted(100, 4_000, Revision(5));
        assert!(lease.runs(4_099));
        assert!(!lease.runs(4_100), "over at its end");
    }

    #[test]
    fn a_grant_waits_for_the_assignments_that_it_names_and_then_counts_from_its_sending() {
        let mut lease = Lease::default();
        lease.installed(Revision(5));
        lease.granted(100, 4_000, Revision(5));
        lease.granted(1_100, 4_000, Revision(9));
        lease.granted(2_100, 4_000, Revision(12));
        assert_eq!(lease.until_ms(), 4_100, "a node that is behind is not extended");
        lease.installed(Revision(10));
        assert_eq!(lease.until_ms(), 5_100);
        lease.installed(Revision(12));
        assert_eq!(lease.until_ms(), 6_100);
    }

    #[test]
    fn an_answer_that_comes_late_shortens_nothing() {
        let mut lease = Lease::default();
        lease.granted(2_000, 4_000, Revision(0));
        lease.granted(1_000, 4_000, Revision(0));
        assert_eq!(lease.until_ms(), 6_000);
        lease.installed(Revision(7));
        lease.installed(Revision(6));
        assert_eq!(lease.installed_revision(), Revision(7));
    }

    #[test]
    fn grants_that_wait_are_bounded_and_the_newest_are_kept() {
        let mut lease = Lease::default();
        for n in 1..=200 {
            lease.granted(n, 4_000, Revision(n));
        }
        lease.installed(Revision(100));
        assert_eq!(lease.until_ms(), 0, "those were dropped");
        lease.installed(Revision(200));
        assert_eq!(lease.until_ms(), 4_200);
    }
}
