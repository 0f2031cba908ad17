//! Takes down what clients, watchers and the monitor saw, for the checkers of `check/`, and for the summary.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ruvector_cluster_check::Violation;
use ruvector_cluster_check::history::{
    Consistency, Event, MetadataAct, MetadataOp, NodeRecord, Seen, WatchRecord, WriteOutcome,
};
use tokio::time::Instant;

/// A longer time without an acknowledged write is told in the trace.
const LONG: Duration = Duration::from_secs(1);
/// Of one rule so many breaches are kept.
const KEPT_OF_A_RULE: usize = 5;

/// Everything that was seen in a run.
#[derive(Clone, Default)]
pub(crate) struct History {
    pub(crate) metadata: Vec<MetadataOp>,
    pub(crate) watches: Vec<WatchRecord>,
    pub(crate) nodes: Vec<NodeRecord>,
    /// What was wrong the moment it was seen.
    pub(crate) violations: Vec<Violation>,
    /// The last event's number.
    pub(crate) events: Event,
    /// Operations by kind and outcome.
    pub(crate) counts: BTreeMap<(&'static str, &'static str), u64>,
    pub(crate) gaps: Gaps,
    /// Starts that ended at once on a full disk.
    pub(crate) refused_starts: u64,
}

/// Times without an acknowledged write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gaps {
    last: Option<Instant>,
    is_disturbed: bool,
    calm_since: Option<Instant>,
    /// The longest that a fault, or what it left behind, touched.
    pub(crate) disturbed: Duration,
    /// The longest of the others.
    pub(crate) calm: Duration,
}

impl History {
    /// Puts it into `dir`, for whoever looks for a cause.
    pub(crate) fn keep(&self, dir: &Path) -> std::io::Result<()> {
        let parts = (&self.metadata, &self.watches, &self.nodes);
        serde_json::to_writer(File::create(dir.join("history.json"))?, &parts)?;
        Ok(())
    }
}

impl Gaps {
    /// Tells a gap that is worth a line of the trace.
    fn acknowledged(&mut self, now: Instant) -> Option<Duration> {
        let last = self.last.replace(now)?;
        let gap = now - last;
        let touched = self.is_disturbed || self.calm_since.is_some_and(|since| since >= last);
        let longest = if touched { &mut self.disturbed } else { &mut self.calm };
        *longest = gap.max(*longest);
        (gap >= LONG).then_some(gap)
    }

    fn disturbed(&mut self, on: bool, now: Instant) {
        self.is_disturbed = on;
        if !on {
            self.calm_since = Some(now);
        }
    }
}

/// What was done when, in a file for people: whoever looks for a cause begins there. Clones write to the same one.
#[derive(Clone)]
pub(crate) struct Trace {
    begun: Instant,
    file: Option<Arc<Mutex<File>>>,
}

impl Default for Trace {
    /// Nothing is kept.
    fn default() -> Self {
        Self { begun: Instant::now(), file: None }
    }
}

impl Trace {
    /// In `file`, which is made.
    pub(crate) fn to(file: &Path) -> std::io::Result<Self> {
        let file = Some(Arc::new(Mutex::new(File::create(file)?)));
        Ok(Self { begun: Instant::now(), file })
    }

    /// Writes a line; returns the time since the run began.
    pub(crate) fn note(&self, what: &str) -> String {
        let time = format!("{:.3} s", self.begun.elapsed().as_secs_f64());
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // A trace that can't be written is no reason to end a run.
            writeln!(file, "{time}  {what}").ok();
        }
        time
    }
}

/// Clones write into the same history.
#[derive(Clone, Default)]
pub(crate) struct Recorder {
    history: Arc<Mutex<History>>,
    trace: Trace,
}

impl Recorder {
    /// With a trace for people.
    pub(crate) fn new(trace: Trace) -> Self {
        Self { trace, ..Self::default() }
    }

    pub(crate) fn trace(&self) -> Trace {
        self.trace.clone()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of an event that happens now.
    pub(crate) fn event(&self) -> Event {
        let mut history = self.history();
        history.events += 1;
        history.events
    }

    /// Something was seen at a control node.
    pub(crate) fn node(&self, raft_id: u64, seen: Seen) {
        let at = self.event();
        self.history().nodes.push(NodeRecord { at, raft_id, seen });
    }

    /// An operation ended.
    pub(crate) fn metadata(&self, op: MetadataOp) {
        let mut history = self.history();
        *history.counts.entry(kind_of(&op.act)).or_default() += 1;
        if let MetadataAct::Write { outcome: WriteOutcome::Acknowledged { .. }, .. } = op.act
            && let Some(gap) = history.gaps.acknowledged(Instant::now())
        {
            self.trace.note(&format!("no write was acknowledged for {gap:?}"));
        }
        history.metadata.push(op);
    }

    /// Watches ended, or are looked at.
    pub(crate) fn watches(&self, records: Vec<WatchRecord>) {
        self.history().watches = records;
    }

    /// A fault begins, or the cluster serves again after one.
    pub(crate) fn disturbed(&self, on: bool) {
        self.history().gaps.disturbed(on, Instant::now());
    }

    /// A control node found no room to start.
    pub(crate) fn refused_start(&self) {
        self.history().refused_starts += 1;
    }

    /// Nobody writes for a while: that is no gap.
    pub(crate) fn rests(&self) {
        self.history().gaps.last = None;
    }

    /// Something is wrong. Of one rule the first few breaches are kept.
    pub(crate) fn violation(&self, rule: &'static str, detail: String) {
        let time = self.trace.note(&format!("VIOLATION {rule}: {detail}"));
        let detail = format!("at {time}: {detail}");
        eprintln!("VIOLATION  {rule}: {detail}");
        let mut history = self.history();
        if history.violations.iter().filter(|known| known.rule == rule).count() < KEPT_OF_A_RULE {
            history.violations.push(Violation { rule, detail });
        }
    }

    /// Whether something was wrong the moment it was seen.
    pub(crate) fn is_broken(&self) -> bool {
        !self.history().violations.is_empty()
    }

    /// Operations that had an answer.
    pub(crate) fn operations(&self) -> u64 {
        self.history().counts.values().sum()
    }

    /// The highest revision that anyone was told of an own write.
    pub(crate) fn acknowledged(&self) -> u64 {
        let history = self.history();
        // Writes are few beside what is looked through here, and the last ones are the highest but for those under way.
        let last = history.metadata.iter().rev().filter_map(|op| match &op.act {
            MetadataAct::Write { outcome: WriteOutcome::Acknowledged { revision }, .. } => Some(revision.0),
            MetadataAct::Write { .. } | MetadataAct::Read { .. } => None,
        });
        last.take(100).max().unwrap_or(0)
    }

    /// The history so far, clients' operations under way left out.
    pub(crate) fn so_far(&self) -> History {
        self.history().clone()
    }
}

fn kind_of(act: &MetadataAct) -> (&'static str, &'static str) {
    match act {
        MetadataAct::Write { outcome, if_match, .. } => {
            let kind = if if_match.is_some() { "compare-and-set" } else { "write" };
            let outcome = match outcome {
                WriteOutcome::Acknowledged { .. } => "acknowledged",
                WriteOutcome::Refused { .. } => "refused",
                WriteOutcome::Unknown => "unknown",
                WriteOutcome::NotDone => "not done",
            };
            (kind, outcome)
        }
        MetadataAct::Read { consistency, answer } => {
            let kind = match consistency {
                Consistency::Linearizable => "linearizable read",
                Consistency::Stale => "stale read",
            };
            (kind, if answer.is_some() { "answered" } else { "not answered" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_as_disturbed_when_a_fault_touches_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut gaps = Gaps::default();
        gaps.acknowledged(at(0));
        gaps.acknowledged(at(30));
        gaps.disturbed(true, at(40));
        gaps.acknowledged(at(500));
        gaps.disturbed(false, at(510));
        gaps.acknowledged(at(530));
        gaps.acknowledged(at(570));
        assert_eq!((gaps.calm, gaps.disturbed), (Duration::from_millis(40), Duration::from_millis(470)));
    }
}
