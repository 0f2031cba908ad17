//! What watches told, compared with what was committed.
//!
//! 1. From where a watch began, or took its last snapshot, to the last revision that it named, it tells each committed change
//!    once, in order, as it was committed, and nothing else. A bookmark says that all up to it was told.
//! 2. A new connection goes on exactly after the revision that it asks for.
//! 3. A watch that was told to read the whole state again tells nothing more before it does.
//!
//! Caveat: the committed changes have to be complete from the lowest revision at which any watch began.

use ruvector_cluster_client::ids::Revision;

use super::Violation;
use super::history::{Change, WatchItem, WatchRecord};

/// A committed change was not told.
pub const GAP: &str = "a watch has no gap";
/// A revision was told again, or after a later one.
pub const ORDER: &str = "a watch tells each change once, in ascending order";
/// What was told is not what was committed.
pub const UNTRUE: &str = "a watch tells what was committed";
/// Something was told that no starting point covers.
pub const NO_START: &str = "a watch tells nothing before it has a starting point";

/// Judges each watch of a map's `generation` by the changes committed in it, in the order of their revisions.
#[must_use]
pub fn check(records: &[WatchRecord], generation: u64, committed: &[Change]) -> Vec<Violation> {
    let mut found = Vec::new();
    for pair in committed.windows(2) {
        if pair[0].revision >= pair[1].revision {
            found.push(Violation::new(ORDER, format!("of the committed changes: {pair:?}")));
        }
    }
    for record in records.iter().filter(|record| record.generation == generation) {
        let mut stream = Stream { record, committed, told: None, found: &mut found };
        for item in &record.items {
            stream.take(item);
        }
    }
    found
}

struct Stream<'a> {
    record: &'a WatchRecord,
    committed: &'a [Change],
    /// All up to here was told, or is not asked for.
    told: Option<Revision>,
    found: &'a mut Vec<Violation>,
}

impl Stream<'_> {
    fn take(&mut self, item: &WatchItem) {
        match item {
            WatchItem::From(revision) => self.told = Some(*revision),
            WatchItem::Compacted => self.told = None,
            WatchItem::Snapshot(revision) => {
                // A snapshot may come in the midst of a watch, but never lead it back.
                if self.told.is_some_and(|told| told > *revision) {
                    self.wrong(ORDER, item);
                }
                self.told = Some(*revision);
            }
            WatchItem::Bookmark(revision) => {
                let Some(told) = self.told else { return self.wrong(NO_START, item) };
                if *revision < told {
                    return self.wrong(ORDER, item);
                }
                self.check_gap(told, *revision, true, item);
                self.told = Some(*revision);
            }
            WatchItem::Change(change) => {
                let Some(told) = self.told else { return self.wrong(NO_START, item) };
                if change.revision <= told {
                    return self.wrong(ORDER, item);
                }
                self.check_gap(told, change.revision, false, item);
                self.told = Some(change.revision);
                let at = self.committed.binary_search_by_key(&change.revision, |change| change.revision);
                if !at.is_ok_and(|at| self.committed[at] == *change) {
                    self.wrong(UNTRUE, item);
                }
            }
        }
    }

    /// Nothing was committed after `told` and before `now`, or at `now` where that is not a change itself.
    fn check_gap(&mut self, told: Revision, now: Revision, inclusive: bool, item: &WatchItem) {
        let next = self.committed.partition_point(|change| change.revision <= told);
        let Some(missed) = self.committed.get(next) else { return };
        if missed.revision < now || inclusive && missed.revision == now {
            let stream = self.record.stream;
            let detail = format!("stream {stream}: {missed:?} is missing before {item:?}");
            self.found.push(Violation::new(GAP, detail));
        }
    }

    fn wrong(&mut self, rule: &'static str, item: &WatchItem) {
        let (stream, told) = (self.record.stream, self.told);
        self.found.push(Violation::new(rule, format!("stream {stream}, told up to {told:?}: {item:?}")));
    }
}
