//! What was asked, when, and what came of it: every request once.
//!
//! Times are microseconds of the one clock of this process. Whether a read was right is judged by who made it; here is only
//! counted, and kept with its time and what was going on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ruvector_cluster_client::ids::{Epoch, ShardId};
use tokio::time::Instant;

/// Microseconds since the beginning.
pub(crate) type Micros = u64;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// One vector by its id.
    Read,
    /// One vector.
    Write,
    /// The nearest over all shards.
    Search,
}

/// A request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// What it was for.
    pub(crate) kind: Kind,
    /// Of which shard; none of a search.
    pub(crate) shard: Option<ShardId>,
    /// Before it was sent.
    pub(crate) called: Micros,
    /// After the answer was read.
    pub(crate) returned: Micros,
    /// Under which the answer was given.
    pub(crate) epoch: Option<Epoch>,
}

impl Sample {
    /// How long it took.
    pub(crate) fn took(&self) -> Micros {
        self.returned - self.called
    }
}

/// A request that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Before it was sent.
    pub(crate) called: Micros,
    /// When that was known.
    pub(crate) returned: Micros,
    /// In words, with what was going on.
    pub(crate) what: String,
}

#[derive(Default)]
struct Held {
    samples: Vec<Sample>,
    failures: Vec<Failure>,
    stale: Vec<String>,
    wrong_searches: Vec<String>,
    going_on: String,
}

/// Where everybody writes it down; clones share it.
#[derive(Clone)]
pub(crate) struct Records {
    began: Instant,
    held: Arc<Mutex<Held>>,
}

impl Records {
    /// Time counts from here.
    pub(crate) fn start() -> Self {
        Self { began: Instant::now(), held: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time now.
    pub(crate) fn now(&self) -> Micros {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// What is going on from here, for those who look at failures.
    pub(crate) fn set_going_on(&self, what: impl Into<String>) {
        self.lock().going_on = what.into();
    }

    /// An answer.
    pub(crate) fn answered(&self, sample: Sample) {
        self.lock().samples.push(sample);
    }

    /// A failure of a request that was called then.
    pub(crate) fn failed(&self, kind: Kind, shard: Option<ShardId>, called: Micros, why: &str) {
        let returned = self.now();
        let mut held = self.lock();
        let of = shard.map_or_else(String::new, |shard| format!(" of shard {shard}"));
        let what = format!(
            "{:.3} s to {:.3} s: {kind:?}{of}: {why} ({})",
            called as f64 / 1e6,
            returned as f64 / 1e6,
            held.going_on
        );
        held.failures.push(Failure { called, returned, what });
    }

    /// A read that was older than it may be, or of something else.
    pub(crate) fn stale(&self, what: String) {
        let what = self.told(&what);
        self.lock().stale.push(what);
    }

    /// A search that found the wrong thing, or a thing twice.
    pub(crate) fn wrong_search(&self, what: String) {
        let what = self.told(&what);
        self.lock().wrong_searches.push(what);
    }

    fn told(&self, what: &str) -> String {
        format!("{:.3} s: {what} ({})", self.now() as f64 / 1e6, self.lock().going_on)
    }

    /// Everything that was answered and called in this time.
    pub(crate) fn samples(&self, from: Micros, to: Micros) -> Vec<Sample> {
        let is_in = |sample: &&Sample| (from..to).contains(&sample.called);
        self.lock().samples.iter().filter(is_in).copied().collect()
    }

    /// Failures that were called, or known, in this time.
    pub(crate) fn failures(&self, from: Micros, to: Micros) -> Vec<Failure> {
        let overlaps = |failure: &&Failure| failure.called < to && failure.returned >= from;
        self.lock().failures.iter().filter(overlaps).cloned().collect()
    }

    /// All stale reads, and all wrong searches.
    pub(crate) fn wrongs(&self) -> (Vec<String>, Vec<String>) {
        let held = self.lock();
        (held.stale.clone(), held.wrong_searches.clone())
    }
}

/// The middle, the 99th percentile and the largest of some values, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spread {
    /// Of how many.
    pub(crate) count: usize,
    /// Half are no larger.
    pub(crate) p50: f64,
    /// 99 in 100 are no larger.
    pub(crate) p99: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of `values`; all 0 where there are none.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let Some(max) = values.last().copied() else { return Self::default() };
        // The smallest value that at least that share of all is no larger than.
        let at = |percent: usize| values[(values.len() * percent).div_ceil(100).saturating_sub(1)];
        Self { count: values.len(), p50: at(50), p99: at(99), max }
    }

    /// Of the times that requests took, in milliseconds.
    pub(crate) fn of_samples<'a>(samples: impl Iterator<Item = &'a Sample>) -> Self {
        Self::of(samples.map(|sample| sample.took() as f64 / 1e3).collect())
    }
}

/// Requests that were answered under an epoch lower than one that had been told of the shard before they were called.
pub(crate) fn under_old_epochs(samples: &[Sample]) -> Vec<String> {
    let mut points: Vec<(Micros, bool, &Sample)> = Vec::new();
    for sample in samples.iter().filter(|sample| sample.shard.is_some() && sample.epoch.is_some()) {
        points.push((sample.called, false, sample));
        points.push((sample.returned, true, sample));
    }
    // What returns in the microsecond of a call may have come after it.
    points.sort_by_key(|(at, is_return, _)| (*at, *is_return));
    let mut told: std::collections::BTreeMap<(Option<ShardId>, Option<Epoch>), Micros> =
        std::collections::BTreeMap::new();
    let mut highest: std::collections::BTreeMap<Option<ShardId>, Option<Epoch>> =
        std::collections::BTreeMap::new();
    let mut found = Vec::new();
    for (at, is_return, sample) in points {
        let high = highest.entry(sample.shard).or_default();
        if is_return {
            *high = sample.epoch.max(*high);
            told.entry((sample.shard, sample.epoch)).or_insert(at);
        } else if sample.epoch < *high {
            let since = told.get(&(sample.shard, *high)).copied().unwrap_or(0);
            found.push(format!("{high:?} was told at {since} us, and then: {sample:?}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(called: Micros, returned: Micros, epoch: u64) -> Sample {
        let (shard, epoch) = (Some(ShardId(1)), Some(Epoch(epoch)));
        Sample { kind: Kind::Read, shard, called, returned, epoch }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let spread = Spread::of((1..=200).map(f64::from).collect());
        assert_eq!(spread, Spread { count: 200, p50: 100.0, p99: 198.0, max: 200.0 });
        assert_eq!(Spread::of(vec![3.0]), Spread { count: 1, p50: 3.0, p99: 3.0, max: 3.0 });
        assert_eq!(Spread::of(Vec::new()).count, 0);
    }

    #[test]
    fn an_answer_under_an_epoch_that_ended_before_the_call_is_found() {
        // Called before the newer epoch was told: that may be.
        assert!(under_old_epochs(&[sample(0, 100, 1), sample(10, 20, 2)]).is_empty());
        assert_eq!(under_old_epochs(&[sample(10, 20, 2), sample(21, 30, 1)]).len(), 1);
        let mut other = sample(21, 30, 1);
        other.shard = Some(ShardId(2));
        assert!(under_old_epochs(&[sample(10, 20, 2), other]).is_empty());
    }
}
