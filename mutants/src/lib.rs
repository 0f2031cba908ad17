//! Deliberate breakages of the code that serves, to show that the simulation and the model checker notice them.
//!
//! A *mutant* is one safety rule left out. The rule's place in the code asks [`is_on`]; that is the constant `false`
//! unless the feature `armed` is on, so the compiler removes the branch. With the feature, a process switches on one
//! mutant at most, at its start. A build without debug assertions (a release build) with the feature does not compile.

#[cfg(all(feature = "armed", not(debug_assertions)))]
compile_error!("a release build must not contain mutants: leave the feature `armed` off");

#[cfg(feature = "armed")]
use std::sync::atomic::{AtomicUsize, Ordering};

macro_rules! mutants {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// One rule left out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $($(#[doc = $doc])* $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

mutants! {
    /// The log reports an append as durable before it is synced.
    AckBeforeFsync = "ack-before-fsync",
    /// The vote is answered without being synced.
    VoteNotSynced = "vote-not-synced",
    /// The stored rows may run ahead of what the log has synced.
    RowsAheadOfLog = "rows-ahead-of-log",
    /// The log is purged up to the last applied entry, whatever the newest snapshot covers.
    PurgePastSnapshot = "purge-past-snapshot",
    /// A restarted leader resumes its term without an election.
    LeaderRestore = "leader-restore",
    /// A linearizable read is answered from whatever is published.
    StaleReadAsLinearizable = "stale-read-as-linearizable",
    /// A read joins a read-index round that began before it arrived.
    ReadJoinsOlderRound = "read-joins-older-round",
    /// What the coordinator proposes is not fenced by its leadership.
    UnfencedProposals = "unfenced-proposals",
    /// A heartbeat is answered without a read-index round.
    LeaseWithoutRound = "lease-without-round",
    /// A new leader does not wait for leases that its predecessor may have granted.
    LeaseForgottenByNewLeader = "lease-forgotten-by-new-leader",
    /// A node is declared down although its lease may still run.
    LeaseNotWaitedFor = "lease-not-waited-for",
    /// A data node counts a grant before the assignments that it names are installed.
    GrantBeforeInstalled = "grant-before-installed",
    /// An in-sync set is accepted whatever version it was proposed on.
    InSyncWithoutVersion = "in-sync-without-version",
    /// An in-sync set is accepted whatever incarnations its members had.
    InSyncWithoutIncarnation = "in-sync-without-incarnation",
    /// Another store under the same name keeps its seats in the in-sync sets.
    WipedStoreKeepsSeat = "wiped-store-keeps-seat",
    /// Whoever is promoted is not checked to be in sync when that is applied.
    PromoteUnchecked = "promote-unchecked",
    /// A failover is applied although the primary is not down.
    FailoverOfLivePrimary = "failover-of-live-primary",
    /// The last in-sync copy may be dropped.
    LastCopyDropped = "last-copy-dropped",
    /// The planner counts racks one too generously.
    RackOffByOne = "rack-off-by-one",
    /// A phase of a migration that is reported again takes effect again.
    PhaseRepeated = "phase-repeated",
    /// A snapshot leaves out which requests already took effect.
    SnapshotWithoutRequests = "snapshot-without-requests",
    /// A watch that is behind leaves out changes.
    WatchSkips = "watch-skips",
    /// A copy acts on requests of lower epochs.
    EpochUnchecked = "epoch-unchecked",
    /// A copy answers under an epoch before it is on disk.
    EpochNotStored = "epoch-not-stored",
    /// A primary answers although its lease is over.
    AnswerWithoutLease = "answer-without-lease",
    /// A primary acknowledges a write when it is on its own disk.
    AckBeforeReplicas = "ack-before-replicas",
    /// A primary makes a write readable before every copy has it.
    ReadableBeforeReplicas = "readable-before-replicas",
    /// A new primary answers before the copies have become equal to it.
    NoReconciliation = "no-reconciliation",
    /// A copy that is being filled takes chunks over newer forwarded writes.
    ChunkOverForward = "chunk-over-forward",
}

impl Mutant {
    /// The mutant of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }
}

/// Whether the rule is left out. Constantly false unless mutants are armed.
#[cfg(not(feature = "armed"))]
#[inline(always)]
#[must_use]
pub const fn is_on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "armed")]
static ON: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Whether the rule is left out in this process.
#[cfg(feature = "armed")]
#[must_use]
pub fn is_on(mutant: Mutant) -> bool {
    ON.load(Ordering::Relaxed) == mutant as usize
}

/// Leaves one rule out from now on, in the whole process.
#[cfg(feature = "armed")]
pub fn switch_on(mutant: Mutant) {
    ON.store(mutant as usize, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_is_found_by_its_name_and_is_off() {
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::named(mutant.name()), Some(*mutant));
            assert!(!is_on(*mutant), "{}", mutant.name());
        }
        assert_eq!(Mutant::named("none"), None);
    }
}
