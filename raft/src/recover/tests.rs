use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{RaftLogReader, RaftSnapshotBuilder, StorageError};
use ruvector_cluster_storage::{Disk, MemRows, OpenOptions, RealDisk, Rows, SimDisk, SledRows};

use super::*;
use crate::codec;
use crate::model::{KvMachine, KvView};
use crate::runtime::Runtime;
use crate::types::{Command, Entry, LogId, Payload, TypeConfig, Vote};

struct RealFiles;

impl StoreBuilder<TypeConfig, LogStore, MachineStore, tempfile::TempDir> for RealFiles {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, MachineStore), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let rows = Arc::new(SledRows::new(dir.path().join("rows")));
        let disk = Arc::new(RealDisk::new(dir.path().join("data")));
        let recovered = open(disk, rows, KvView::default()).await;
        tokio::spawn({
            let (trail, wal) = (recovered.0.trail.clone(), recovered.1.wal.clone());
            async move { trail.run(wal).await }
        });
        Ok((dir, recovered.0.log, recovered.0.machine))
    }
}

async fn open(disk: Arc<dyn Disk>, rows: Arc<dyn Rows>, view: KvView) -> (Recovered, Storage) {
    let mut storage = Storage::open(disk, rows, OpenOptions::new("n1")).await.unwrap();
    let recovered = recover(&mut storage, Box::new(KvMachine::new(view))).await.unwrap();
    (recovered, storage)
}

#[test]
fn openraft_storage_suite_passes_on_real_files() {
    use openraft::AsyncRuntime;
    Runtime::run(async { Suite::test_all(RealFiles).await }).unwrap();
}

fn entry(term: u64, index: u64, text: &str) -> Entry {
    let command = Command { stamp_ms: index * 10, body: Bytes::copy_from_slice(text.as_bytes()) };
    Entry { log_id: LogId::new(term.into(), index), payload: Payload::Normal(command) }
}

/// Appends under a vote of the last entry's term, as openraft does.
async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    use openraft::storage::RaftLogStorageExt;
    let term = entries.last().map_or(0, |entry| entry.log_id.committed_leader_id().term);
    log.save_vote(&Vote::new(term, 1)).await.unwrap();
    log.blocking_append(entries).await.unwrap();
}

async fn apply(machine: &mut MachineStore, entries: Vec<Entry>) {
    let entries = futures::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
    machine.apply(entries).await.unwrap();
}

/// Writes what is pending once and waits for it.
async fn store(trail: &Trail, storage: &Storage) {
    let writer = tokio::spawn({
        let (trail, wal) = (trail.clone(), storage.wal.clone());
        async move { trail.run(wal).await }
    });
    trail.stored().await;
    writer.abort();
    writer.await.unwrap_err();
}

#[tokio::test]
async fn a_restart_takes_the_rows_and_their_position() {
    let (disk, rows) = (SimDisk::new(), MemRows::new());
    let (mut first, storage) = open(Arc::new(disk.clone()), Arc::new(rows.clone()), KvView::default()).await;
    let entries = vec![entry(1, 1, "a=1"), entry(1, 2, "b=2"), entry(1, 3, "a")];
    append(&mut first.log, entries.clone()).await;
    apply(&mut first.machine, entries).await;
    store(&first.trail, &storage).await;
    storage.wal.close().await.unwrap();
    drop((first, storage));

    let view = KvView::default();
    let (mut second, _storage) = open(Arc::new(disk.kill()), Arc::new(rows), view.clone()).await;
    let state = view.state();
    assert_eq!((state.applied, state.time_ms), (3, 30));
    assert_eq!(state.rows.into_iter().collect::<Vec<_>>(), [(b"b".to_vec(), Bytes::from_static(b"2"))]);
    assert_eq!(second.machine.applied_state().await.unwrap().0, Some(LogId::new(1.into(), 3)));
}

#[tokio::test]
async fn rows_are_not_stored_before_the_log_has_synced_their_entries() {
    let (disk, rows) = (SimDisk::new(), MemRows::new());
    let (mut first, storage) = open(Arc::new(disk.clone()), Arc::new(rows), KvView::default()).await;
    let writer = tokio::spawn({
        let (trail, wal) = (first.trail.clone(), storage.wal.clone());
        async move { trail.run(wal).await }
    });
    apply(&mut first.machine, vec![entry(1, 1, "a=1")]).await;
    let stored = first.trail.stored();
    tokio::pin!(stored);
    tokio::time::timeout(std::time::Duration::from_millis(50), &mut stored).await.unwrap_err();
    append(&mut first.log, vec![entry(1, 1, "a=1")]).await;
    stored.await;
    writer.abort();
}

#[tokio::test]
async fn without_rows_the_state_is_rebuilt_from_the_snapshot() {
    let disk = SimDisk::new();
    let (mut first, storage) =
        open(Arc::new(disk.clone()), Arc::new(MemRows::new()), KvView::default()).await;
    let entries = vec![entry(1, 1, "a=1"), entry(1, 2, "b=2")];
    append(&mut first.log, entries.clone()).await;
    apply(&mut first.machine, entries).await;
    first.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    storage.wal.close().await.unwrap();
    drop((first, storage));

    let (view, rows) = (KvView::default(), MemRows::new());
    let (_second, storage) = open(Arc::new(disk.kill()), Arc::new(rows.clone()), view.clone()).await;
    assert_eq!(view.get("b"), Some(Bytes::from_static(b"2")));
    assert_eq!(rows.load().await.unwrap().unwrap().applied, 2);
    drop(storage);
}

#[tokio::test]
async fn a_received_snapshot_that_contradicts_the_log_replaces_it_at_a_restart() {
    let (other, disk) = (SimDisk::new(), SimDisk::new());
    let (mut leader, _leader_storage) =
        open(Arc::new(other), Arc::new(MemRows::new()), KvView::default()).await;
    apply(&mut leader.machine, vec![entry(2, 1, "a=1"), entry(2, 2, "b=2")]).await;
    let snapshot = leader.machine.get_snapshot_builder().await.build_snapshot().await.unwrap().snapshot;

    let (mut first, storage) =
        open(Arc::new(disk.clone()), Arc::new(MemRows::new()), KvView::default()).await;
    append(&mut first.log, (1..=3).map(|index| entry(1, index, "x=0")).collect()).await;
    let mut receiver = storage.snapshots.receiver().await.unwrap();
    receiver.write(snapshot.raw(0, 1 << 20).await.unwrap()).await.unwrap();
    receiver.finish().await.unwrap();
    storage.wal.close().await.unwrap();
    drop((first, storage));

    let view = KvView::default();
    let (mut second, _storage) = open(Arc::new(disk.kill()), Arc::new(MemRows::new()), view.clone()).await;
    assert_eq!(view.get("b"), Some(Bytes::from_static(b"2")));
    let state = second.log.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(LogId::new(2.into(), 2)));
}

#[tokio::test]
async fn a_vote_is_saved_after_the_appends_before_it() {
    let disk = SimDisk::new();
    let (first, storage) = open(Arc::new(disk.clone()), Arc::new(MemRows::new()), KvView::default()).await;
    let mut log = first.log.clone();
    log.append([entry(1, 1, "a=1")], openraft::storage::IOFlushed::noop()).await.unwrap();
    log.save_vote(&Vote::new(2, 7)).await.unwrap();
    assert_eq!(storage.wal.durable_index(), Some(1));
    drop((first, log, storage));

    let (second, _storage) = open(Arc::new(disk.crash(1)), Arc::new(MemRows::new()), KvView::default()).await;
    let mut log = second.log;
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(2, 7)));
    assert_eq!(log.try_get_log_entries(0..9).await.unwrap(), [entry(1, 1, "a=1")]);
}

/// A closed directory with entries of term 2 under a vote of that term.
async fn voted() -> SimDisk {
    let disk = SimDisk::new();
    let (mut first, storage) =
        open(Arc::new(disk.clone()), Arc::new(MemRows::new()), KvView::default()).await;
    append(&mut first.log, vec![entry(1, 1, "a=1"), entry(2, 2, "b=2")]).await;
    storage.wal.close().await.unwrap();
    disk.kill()
}

async fn refused(disk: SimDisk) -> String {
    let rows = Arc::new(MemRows::new());
    let mut storage = Storage::open(Arc::new(disk), rows, OpenOptions::new("n1")).await.unwrap();
    let machine = Box::new(KvMachine::new(KvView::default()));
    recover(&mut storage, machine).await.err().expect("refused").to_string()
}

#[tokio::test]
async fn a_lost_vote_beside_a_log_is_refused() {
    let disk = voted().await;
    for name in slot_names(VOTE) {
        disk.remove(&name).await.unwrap();
    }
    let refused = refused(disk.kill()).await;
    assert!(refused.contains("vote-0.slot is damaged at byte 0: it and its twin hold no vote"), "{refused}");
    assert!(refused.contains("let it join again"), "{refused}");
}

#[tokio::test]
async fn a_vote_older_than_the_log_is_refused() {
    let disk = voted().await;
    let slots = ruvector_cluster_storage::Slots::open(&disk, VOTE).await.unwrap();
    slots.save(codec::encode("vote", &Vote::new(1, 1)).unwrap()).await.unwrap();
    let refused = refused(disk.kill()).await;
    assert!(refused.contains("it holds a vote of term 1, but the log has an entry of term 2"), "{refused}");
}

#[tokio::test]
async fn the_entry_that_founds_a_cluster_stands_before_any_vote() {
    let disk = SimDisk::new();
    let (mut first, storage) =
        open(Arc::new(disk.clone()), Arc::new(MemRows::new()), KvView::default()).await;
    let founding = Entry { log_id: LogId::new(0.into(), 0), payload: Payload::Blank };
    use openraft::storage::RaftLogStorageExt;
    first.log.blocking_append([founding]).await.unwrap();
    storage.wal.close().await.unwrap();
    drop((first, storage));
    open(Arc::new(disk.kill()), Arc::new(MemRows::new()), KvView::default()).await;
}

#[tokio::test]
async fn rows_without_room_stay_as_they_are_and_the_node_goes_on() {
    let (disk, rows) = (SimDisk::new(), MemRows::new());
    let (mut first, storage) = open(Arc::new(disk.clone()), Arc::new(rows.clone()), KvView::default()).await;
    let writer = tokio::spawn({
        let (trail, wal) = (first.trail.clone(), storage.wal.clone());
        async move { trail.run(wal).await }
    });
    append(&mut first.log, vec![entry(1, 1, "a=1"), entry(1, 2, "a=2")]).await;
    apply(&mut first.machine, vec![entry(1, 1, "a=1")]).await;
    first.trail.stored().await;
    rows.set_full(true);
    apply(&mut first.machine, vec![entry(1, 2, "a=2")]).await;
    tokio::time::timeout(std::time::Duration::from_millis(50), first.trail.stored()).await.unwrap_err();
    assert!(!writer.is_finished(), "a full disk is no reason to stop");
    assert_eq!(rows.load().await.unwrap().unwrap().applied, 1);
    writer.abort();
    storage.wal.close().await.unwrap();
    drop((first, storage));
    rows.set_full(false);
    let view = KvView::default();
    open(Arc::new(disk.kill()), Arc::new(rows), view.clone()).await;
    assert_eq!(view.get("a"), Some(Bytes::from_static(b"1")), "the log has the rest");
}

#[tokio::test]
async fn a_snapshot_that_the_log_was_purged_behind_is_made_again_from_the_rows() {
    let (disk, rows) = (SimDisk::new(), MemRows::new());
    let (mut first, storage) = open(Arc::new(disk.clone()), Arc::new(rows.clone()), KvView::default()).await;
    let entries: Vec<_> = (1..=3).map(|index| entry(1, index, "a=1")).collect();
    append(&mut first.log, entries.clone()).await;
    apply(&mut first.machine, entries).await;
    store(&first.trail, &storage).await;
    first.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    first.log.purge(LogId::new(1.into(), 2)).await.unwrap();
    storage.wal.close().await.unwrap();
    drop((first, storage));
    let disk = disk.kill();
    for name in disk.list().await.unwrap() {
        if name.starts_with("snapshot-") {
            disk.remove(&name).await.unwrap();
        }
    }
    let view = KvView::default();
    let (_second, storage) = open(Arc::new(disk), Arc::new(rows), view.clone()).await;
    assert_eq!(view.get("a"), Some(Bytes::from_static(b"1")));
    assert_eq!(storage.snapshots.latest().unwrap().index, 3);
}

/// Rows that another log left are enough for the directory to be opened; they were replaced by none, and an empty snapshot written.
#[tokio::test]
async fn a_purged_log_with_neither_snapshot_nor_its_own_rows_is_refused_and_nothing_is_written() {
    let (disk, rows) = (SimDisk::new(), MemRows::new());
    let (mut first, storage) =
        open(Arc::new(disk.clone()), Arc::new(MemRows::new()), KvView::default()).await;
    let entries: Vec<_> = (1..=3).map(|index| entry(1, index, "a=1")).collect();
    append(&mut first.log, entries.clone()).await;
    apply(&mut first.machine, entries).await;
    first.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    first.log.purge(LogId::new(1.into(), 2)).await.unwrap();
    storage.wal.close().await.unwrap();
    drop((first, storage));
    let disk = disk.kill();
    for name in disk.list().await.unwrap() {
        if name.starts_with("snapshot-") {
            disk.remove(&name).await.unwrap();
        }
    }
    let (mut other, storage) =
        open(Arc::new(SimDisk::new()), Arc::new(rows.clone()), KvView::default()).await;
    let entries: Vec<_> = (1..=3).map(|index| entry(2, index, "b=2")).collect();
    append(&mut other.log, entries.clone()).await;
    apply(&mut other.machine, entries).await;
    store(&other.trail, &storage).await;
    drop((other, storage));

    let disk = disk.kill();
    let mut storage =
        Storage::open(Arc::new(disk.clone()), Arc::new(rows.clone()), OpenOptions::new("n1")).await.unwrap();
    let machine = Box::new(KvMachine::new(KvView::default()));
    let refused = recover(&mut storage, machine).await.err().expect("refused").to_string();
    assert!(refused.contains("has no state to begin from: the log begins after entry 2"), "{refused}");
    assert!(refused.contains("let it join again"), "{refused}");
    assert_eq!(rows.load().await.unwrap().unwrap().applied, 3);
    assert!(storage.snapshots.latest().is_none());
}
