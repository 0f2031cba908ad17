//! Puts a run's history before every checker.

use std::collections::BTreeSet;

use ruvector_cluster::client::ids::{Revision, ShardId};

use crate::data::record::{Record, Recorded, WriteOutcome, wrong_reads_of_own_keys};
use crate::record::History;
use ruvector_cluster_check::history::{
    Change, DataAct, DataOp, DataRead, DataWriteOutcome, Span, WatchItem, WatchRecord,
};
use ruvector_cluster_check::wgl::Bounds;
use ruvector_cluster_check::{Violation, consensus, data, linearizable, watch, wgl};

/// All that is wrong. Of `lost` shards the last in-sync copy was lost: what they held may be gone.
#[must_use]
pub fn judge(
    history: &History,
    records: &[Record],
    watches: &[WatchRecord],
    lost: &BTreeSet<ShardId>,
    watchable: &[Revision],
) -> Vec<Violation> {
    let mut found = history.violations.clone();
    found.extend(consensus::check(&history.nodes));
    found.extend(linearizable::check(&history.metadata));
    found.extend(linearizable::check_read_back(&history.metadata));
    found.extend(wgl::check_metadata(&history.metadata, Bounds::default()));
    let kept: Vec<Record> =
        records.iter().filter(|record| !lost.contains(&record.key.shard)).cloned().collect();
    let ops: Vec<DataOp> = kept.iter().filter_map(data_op).collect();
    found.extend(data::check(&ops));
    found.extend(data::check_read_back(&ops));
    found.extend(wgl::check_data(&ops, Bounds::default()));
    let own = wrong_reads_of_own_keys(&kept).into_iter();
    found.extend(own.map(|detail| Violation { rule: "own keys hold what their owner wrote", detail }));
    let generation = watches.iter().map(|record| record.generation).max().unwrap_or(0);
    found.extend(watch::check(watches, generation, &committed(watches, watchable)));
    found
}

/// What any watch told, and what none did though it should have: each must have told all of it that lies between its beginning
/// and its end.
fn committed(watches: &[WatchRecord], watchable: &[Revision]) -> Vec<Change> {
    let items = watches.iter().flat_map(|record| &record.items);
    let mut changes: Vec<Change> = items
        .filter_map(|item| match item {
            WatchItem::Change(change) => Some(change.clone()),
            WatchItem::From(_) | WatchItem::Snapshot(_) | WatchItem::Bookmark(_) | WatchItem::Compacted => {
                None
            }
        })
        .collect();
    changes.extend(watchable.iter().map(|revision| Change { revision: *revision, digests: Vec::new() }));
    // Sorting is stable: where some watch told of a revision, that is what stays.
    changes.sort_by_key(|change| change.revision);
    changes.dedup_by_key(|change| change.revision);
    changes
}

/// Own keys are judged elsewhere: they are deleted, too.
fn data_op(record: &Record) -> Option<DataOp> {
    if record.key.owner.is_some() {
        return None;
    }
    let act = match &record.act {
        Recorded::Write { value, outcome } => DataAct::Write {
            value: value.clone()?,
            outcome: match outcome {
                WriteOutcome::Acknowledged { by, position } => {
                    DataWriteOutcome::Acknowledged { by: by.clone(), position: *position }
                }
                WriteOutcome::Unknown => DataWriteOutcome::Unknown,
                WriteOutcome::NotDone => DataWriteOutcome::NotDone,
            },
        },
        Recorded::Read(found) => DataAct::Read(found.as_ref().map(|found| DataRead {
            by: found.by.clone(),
            epoch: found.epoch,
            value: found.value.clone(),
            position: found.position,
        })),
    };
    Some(DataOp {
        process: record.client,
        span: Span::new(record.call, record.returned),
        shard: record.key.shard,
        key: record.key.key.to_string(),
        act,
    })
}
