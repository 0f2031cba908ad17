//! What was promised: the acknowledged versions of the keys that the load writes, and the count of all requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// At most so many failures and wrong answers are kept in words; all are counted.
const KEPT: usize = 10;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// One vector by its id.
    Read,
    /// Some vectors.
    Write,
    /// The nearest over all shards.
    Search,
}

/// A request that failed.
#[derive(Clone, Debug)]
struct Failure {
    sent: Instant,
    ended: Instant,
    why: String,
}

/// A time in which requests may fail: from the kill of a primary until its shards were answered for again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    /// The kill.
    pub(crate) from: Instant,
    /// The last of its shards was answered for.
    pub(crate) to: Instant,
}

#[derive(Debug, Default)]
struct Counts {
    answered: BTreeMap<Operation, usize>,
    failures: Vec<Failure>,
    wrong: Vec<String>,
    wrong_count: usize,
    last_answer: Option<Instant>,
    longest_silence: Duration,
    longest_wait: Duration,
}

/// Counts requests; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    counts: Arc<Mutex<Counts>>,
}

/// What the tally came to.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    /// Answered operations by kind: reads, writes, searches.
    pub(crate) answered: BTreeMap<Operation, usize>,
    /// Requests that failed in the gap.
    pub(crate) failed_in_gap: usize,
    /// Requests that failed at another time.
    pub(crate) failed_outside: usize,
    /// Some of those, in words.
    pub(crate) outside: Vec<String>,
    /// Wrong answers.
    pub(crate) wrong: usize,
    /// Some of them, in words.
    pub(crate) wrong_words: Vec<String>,
    /// Longest time in which nobody was answered.
    pub(crate) longest_silence: Duration,
    /// Longest time that one operation took, with all its repetitions.
    pub(crate) longest_wait: Duration,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation that began at `begun` was answered.
    pub(crate) fn answered(&self, operation: Operation, begun: Instant) {
        let now = Instant::now();
        let mut counts = self.lock();
        *counts.answered.entry(operation).or_default() += 1;
        counts.longest_wait = counts.longest_wait.max(now - begun);
        if let Some(last) = counts.last_answer {
            counts.longest_silence = counts.longest_silence.max(now.saturating_duration_since(last));
        }
        counts.last_answer = Some(now);
    }

    /// A request failed.
    pub(crate) fn failed(&self, operation: Operation, sent: Instant, why: &str) {
        let why = format!("{operation:?} at {why}");
        self.lock().failures.push(Failure { sent, ended: Instant::now(), why });
    }

    /// An answer was wrong.
    pub(crate) fn wrong(&self, what: String) {
        let mut counts = self.lock();
        counts.wrong_count += 1;
        if counts.wrong.len() < KEPT {
            counts.wrong.push(what);
        }
    }

    /// Sums up; a request that overlaps `gap` failed because of it.
    pub(crate) fn totals(&self, gap: Option<Gap>) -> Totals {
        let counts = self.lock();
        let is_inside =
            |failure: &&Failure| gap.is_some_and(|gap| failure.ended >= gap.from && failure.sent <= gap.to);
        let outside: Vec<&Failure> = counts.failures.iter().filter(|failure| !is_inside(failure)).collect();
        Totals {
            answered: counts.answered.clone(),
            failed_in_gap: counts.failures.len() - outside.len(),
            failed_outside: outside.len(),
            outside: outside.iter().take(KEPT).map(|failure| failure.why.clone()).collect(),
            wrong: counts.wrong_count,
            wrong_words: counts.wrong.clone(),
            longest_silence: counts.longest_silence,
            longest_wait: counts.longest_wait,
        }
    }
}

/// How far the writes of one key are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    /// The highest acknowledged.
    pub(crate) acknowledged: u32,
    /// The highest sent.
    pub(crate) attempted: u32,
}

/// The keys that the load writes; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    keys: Arc<Mutex<BTreeMap<String, Versions>>>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Versions>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next version of `key`, noted as attempted. Each key has one writer, who awaits the acknowledgement.
    pub(crate) fn attempt(&self, key: &str) -> u32 {
        let mut keys = self.lock();
        let versions = keys.entry(key.to_owned()).or_default();
        versions.attempted = versions.acknowledged + 1;
        versions.attempted
    }

    /// `version` of `key` was acknowledged.
    pub(crate) fn acknowledge(&self, key: &str, version: u32) {
        self.lock().entry(key.to_owned()).or_default().acknowledged = version;
    }

    /// How far `key` is.
    pub(crate) fn versions(&self, key: &str) -> Versions {
        self.lock().get(key).copied().unwrap_or_default()
    }

    /// A key with an acknowledged version; any, by `choice`.
    pub(crate) fn any(&self, choice: usize) -> Option<String> {
        let keys = self.lock();
        let (key, versions) = keys.iter().nth(choice % keys.len().max(1))?;
        (versions.acknowledged > 0).then(|| key.clone())
    }

    /// Every key.
    pub(crate) fn all(&self) -> BTreeMap<String, Versions> {
        self.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_that_overlap_the_gap_are_excused() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let tally = Tally::default();
        for (sent, ended) in [(0, 5), (5, 10), (12, 14), (20, 25), (21, 22)] {
            tally.lock().failures.push(Failure { sent: at(sent), ended: at(ended), why: "x".to_owned() });
        }
        let totals = tally.totals(Some(Gap { from: at(10), to: at(20) }));
        assert_eq!((totals.failed_in_gap, totals.failed_outside), (3, 2));
        assert_eq!(tally.totals(None).failed_outside, 5);
    }

    #[test]
    fn a_version_counts_as_acknowledged_only_once_it_is() {
        let ledger = Ledger::default();
        assert_eq!(ledger.any(3), None);
        assert_eq!(ledger.attempt("k"), 1);
        assert_eq!(ledger.any(3), None);
        ledger.acknowledge("k", 1);
        assert_eq!(ledger.attempt("k"), 2);
        assert_eq!(ledger.versions("k"), Versions { acknowledged: 1, attempted: 2 });
        assert_eq!(ledger.any(3), Some("k".to_owned()));
    }
}
