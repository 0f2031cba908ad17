//! Puts what was seen before every checker.

use ruvector_cluster_check::history::{Change, MetadataAct, WatchItem, WriteOutcome};
use ruvector_cluster_check::wgl::Bounds;
use ruvector_cluster_check::{Violation, consensus, linearizable, watch, wgl};

use crate::record::History;

/// An hour's operations on one register, and some seconds to search their order.
const BOUNDS: Bounds = Bounds { ops: 400_000, steps: 20_000_000 };

/// All that is wrong.
pub(crate) fn judge(history: &History) -> Vec<Violation> {
    let mut found = history.violations.clone();
    found.extend(consensus::check(&history.nodes));
    found.extend(linearizable::check(&history.metadata));
    found.extend(linearizable::check_read_back(&history.metadata));
    found.extend(wgl::check_metadata(&history.metadata, BOUNDS));
    let generation = history.watches.iter().map(|record| record.generation).max().unwrap_or(0);
    found.extend(watch::check(&history.watches, generation, &committed(history)));
    found
}

/// What any watch told, and each acknowledged write: every watch must have told all of it that lies between its beginning and its
/// end.
fn committed(history: &History) -> Vec<Change> {
    let items = history.watches.iter().flat_map(|record| &record.items);
    let mut changes: Vec<Change> = items
        .filter_map(|item| match item {
            WatchItem::Change(change) => Some(change.clone()),
            WatchItem::From(_) | WatchItem::Snapshot(_) | WatchItem::Bookmark(_) | WatchItem::Compacted => {
                None
            }
        })
        .collect();
    changes.extend(history.metadata.iter().filter_map(|op| match op.act {
        MetadataAct::Write { outcome: WriteOutcome::Acknowledged { revision }, .. } => {
            Some(Change { revision, digests: Vec::new() })
        }
        MetadataAct::Write { .. } | MetadataAct::Read { .. } => None,
    }));
    // Sorting is stable: where some watch told of a revision, that is what stays.
    changes.sort_by_key(|change| change.revision);
    changes.dedup_by_key(|change| change.revision);
    changes
}

#[cfg(test)]
mod tests;
