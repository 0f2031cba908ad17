//! Takes down what clients, watchers and the monitor saw, for the checkers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ruvector_cluster_check::Violation;
use ruvector_cluster_check::history::{DataOp, Event, MetadataOp, NodeRecord, Seen, WatchRecord};

/// Everything that was seen in a run.
#[derive(Default)]
pub struct History {
    /// Operations on metadata.
    pub metadata: Vec<MetadataOp>,
    /// Operations on data.
    pub data: Vec<DataOp>,
    /// Watches that ended, or were open when the run did.
    pub watches: Vec<WatchRecord>,
    /// At control nodes.
    pub nodes: Vec<NodeRecord>,
    /// What was wrong the moment it was seen.
    pub violations: Vec<Violation>,
    events: Event,
}

/// Clones write into the same history.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<History>>);

impl Recorder {
    fn history(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of an event that happens now.
    #[must_use]
    pub fn event(&self) -> Event {
        let mut history = self.history();
        history.events += 1;
        history.events
    }

    /// Something was seen at a control node.
    pub fn node(&self, raft_id: u64, seen: Seen) {
        let at = self.event();
        self.history().nodes.push(NodeRecord { at, raft_id, seen });
    }

    /// An operation on metadata ended.
    pub fn metadata(&self, op: MetadataOp) {
        self.history().metadata.push(op);
    }

    /// An operation on data ended.
    pub fn data(&self, op: DataOp) {
        self.history().data.push(op);
    }

    /// A watch ended.
    pub fn watch(&self, record: WatchRecord) {
        self.history().watches.push(record);
    }

    /// Something is wrong. Of one rule the first few breaches are kept.
    pub fn violation(&self, rule: &'static str, detail: String) {
        let mut history = self.history();
        if history.violations.iter().filter(|known| known.rule == rule).count() < 5 {
            history.violations.push(Violation { rule, detail });
        }
    }

    /// Whether something was wrong the moment it was seen.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !self.history().violations.is_empty()
    }

    /// The history so far, which begins anew.
    #[must_use]
    pub fn take(&self) -> History {
        let mut history = self.history();
        let events = history.events;
        std::mem::replace(&mut *history, History { events, ..History::default() })
    }
}
