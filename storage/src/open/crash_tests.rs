//! A node that appends, applies, takes and installs snapshots and purges as Raft does, and loses its power at any moment:
//! its directory always opens again, with everything acknowledged, and its parts fit together.

use std::sync::Mutex;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::disk::SimDisk;
use crate::rows::{MemRows, RowsBatch};

#[derive(Clone, Copy, Debug)]
enum Step {
    Append { count: u64 },
    Apply,
    Commit,
    Snapshot { tail: u64 },
    Install { ahead: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..5_u64).prop_map(|count| Step::Append { count }),
        5 => Just(Step::Apply),
        2 => Just(Step::Commit),
        2 => (0..5_u64).prop_map(|tail| Step::Snapshot { tail }),
        1 => (1..9_u64).prop_map(|ahead| Step::Install { ahead }),
    ]
}

fn meta(index: u64) -> Bytes {
    Bytes::from(index.to_string())
}

fn row(applied: u64) -> (Vec<u8>, Bytes) {
    (b"applied".to_vec(), meta(applied))
}

/// The highest index in or under the log.
fn end(storage: &Storage) -> Option<u64> {
    storage.wal.last_index().max(storage.wal.purged().map(|p| p.0))
}

struct Node {
    storage: Storage,
    applied: Option<u64>,
    acked: Arc<Mutex<Option<u64>>>,
}

impl Node {
    async fn step(&mut self, step: Step) {
        let storage = &self.storage;
        match step {
            Step::Append { count } => {
                let first = end(storage).map_or(0, |e| e + 1);
                let records = (first..first + count).map(meta).collect();
                let acked = Arc::clone(&self.acked);
                let done = Box::new(move |outcome: Result<(), WalError>| {
                    outcome.unwrap();
                    let mut acked = acked.lock().unwrap();
                    *acked = (*acked).max(Some(first + count - 1));
                });
                storage.wal.append(first, records, done).await.unwrap();
            }
            Step::Apply => {
                let Some(applied) = storage.wal.durable_index().filter(|d| Some(*d) > self.applied) else {
                    return;
                };
                let (key, value) = row(applied);
                let batch = RowsBatch { rows: vec![(key, Some(value))], applied, position: meta(applied) };
                storage.rows.write(batch).await.unwrap();
                self.applied = Some(applied);
            }
            Step::Commit => {
                let Some(durable) = storage.wal.durable_index() else { return };
                storage.wal.save_committed(durable, meta(durable));
            }
            Step::Snapshot { tail } => {
                let Some(applied) = self.applied else { return };
                let writer = storage.snapshots.writer(applied, meta(applied)).await.unwrap();
                writer.finish().await.unwrap();
                if let Some(upto) = applied.checked_sub(tail) {
                    storage.wal.purge(upto, meta(upto)).await.unwrap();
                }
            }
            Step::Install { ahead } => {
                let index = end(storage).unwrap_or(0) + ahead;
                let writer = storage.snapshots.writer(index, meta(index)).await.unwrap();
                writer.finish().await.unwrap();
                storage.rows.invalidate().await.unwrap();
                storage
                    .rows
                    .replace_all(Box::new([row(index)].into_iter()), index, meta(index))
                    .await
                    .unwrap();
                storage.wal.reset_to(index, meta(index)).await.unwrap();
                *self.acked.lock().unwrap() = Some(index);
                self.applied = Some(index);
            }
        }
    }
}

async fn open(disk: &SimDisk, rows: &MemRows) -> Storage {
    let options = OpenOptions { raft_id: Some(7), segment_bytes: 2 << 10, ..OpenOptions::new("n1") };
    Storage::open(Arc::new(disk.clone()), Arc::new(rows.clone()), options).await.unwrap()
}

async fn begin(disk: &SimDisk, rows: &MemRows, acked: Option<u64>) -> Node {
    let storage = open(disk, rows).await;
    assert!(end(&storage) >= acked || storage.snapshots.latest().map(|s| s.index) >= acked);
    let purged = storage.wal.purged().map(|p| p.0);
    let base = storage.snapshots.latest().map(|s| s.index).max(storage.image.as_ref().map(|i| i.applied));
    assert!(base >= purged);
    if let Some(first) = storage.wal.first_index() {
        assert!(first <= base.map_or(0, |b| b + 1) || first == 0);
        let entries = storage.wal.read(0..u64::MAX, u64::MAX).await.unwrap();
        assert!(entries.iter().zip(first..).all(|((index, body), at)| *index == at && *body == meta(at)));
    }
    if let Some(image) = &storage.image {
        assert_eq!(image.rows, [row(image.applied)]);
        assert_eq!(image.position, meta(image.applied));
    }
    // As Raft does: what the snapshot holds and the log doesn't is dropped from the log, and the rows follow it.
    let mut applied = storage.image.as_ref().map(|i| i.applied);
    if let Some(snapshot) = storage.snapshots.latest().filter(|s| Some(s.index) > applied) {
        storage.rows.invalidate().await.unwrap();
        let rows = Box::new([row(snapshot.index)].into_iter());
        storage.rows.replace_all(rows, snapshot.index, meta(snapshot.index)).await.unwrap();
        applied = Some(snapshot.index);
    }
    if let Some(applied) = applied.filter(|a| Some(*a) > end(&storage)) {
        storage.wal.reset_to(applied, meta(applied)).await.unwrap();
    }
    let acked = Arc::new(Mutex::new(end(&storage).max(acked)));
    Node { storage, applied, acked }
}

proptest! {
    #[test]
    fn a_directory_opens_again_whenever_the_power_fails(
        lives in proptest::collection::vec((proptest::collection::vec(step(), 1..40), 0..200_u32, any::<u64>()), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (mut disk, mut rows, mut acked) = (SimDisk::new(), MemRows::new(), None);
            for (steps, yields, seed) in lives {
                let reached = Arc::new(Mutex::new(acked));
                let life = async {
                    let mut node = begin(&disk, &rows, acked).await;
                    let told = Arc::clone(&reached);
                    for step in steps {
                        node.step(step).await;
                        let now = *node.acked.lock().unwrap();
                        *told.lock().unwrap() = now;
                    }
                    node
                };
                let power = async {
                    for _ in 0..yields {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    biased;
                    () = power => {}
                    _ = life => {}
                }
                acked = *reached.lock().unwrap();
                (disk, rows) = (disk.crash(seed), rows.crash(seed >> 7));
            }
            begin(&disk, &rows, acked).await;
        });
    }
}
