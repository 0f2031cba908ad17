use bytes::Bytes;

use super::*;
use crate::disk::{RealDisk, SimDisk};
use crate::rows::{MemRows, RowsBatch, SledRows};

fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn append_durable(storage: &Storage, index: u64, text: &str) {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let done = Box::new(move |result| drop(done.send(result)));
    storage.wal.append(index, vec![body(text)], done).await.unwrap();
    outcome.await.unwrap().unwrap();
}

async fn open_real(dir: &std::path::Path) -> Result<Storage, OpenError> {
    let disk = Arc::new(RealDisk::new(dir.to_path_buf()));
    let rows = Arc::new(SledRows::new(dir.join("rows")));
    Storage::open(disk, rows, OpenOptions::new("n1")).await
}

#[tokio::test]
async fn a_real_directory_gives_back_everything_after_a_restart() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let storage = open_real(&dir).await.unwrap();
    assert!(storage.image.is_none());
    let identity = storage.identity.get();
    storage.identity.bind("c1").await.unwrap();
    storage.vote.save(body("vote")).await.unwrap();
    storage.promise.save(body("promise")).await.unwrap();
    append_durable(&storage, 0, "zero").await;
    append_durable(&storage, 1, "one").await;
    assert_eq!(storage.wal.durable_index(), Some(1));
    storage.wal.save_committed(1, body("c"));
    let rows = vec![(b"k".to_vec(), Some(body("v")))];
    storage.rows.write(RowsBatch { rows, applied: 1, position: body("p") }).await.unwrap();
    let mut writer = storage.snapshots.writer(1, body("meta")).await.unwrap();
    writer.write(b"content").await.unwrap();
    writer.finish().await.unwrap();
    storage.wal.close().await.unwrap();
    drop(storage);

    let storage = open_real(&dir).await.unwrap();
    assert_eq!(storage.identity.get(), Identity { cluster_id: Some("c1".into()), ..identity });
    assert_eq!(storage.vote.load().await, Some(body("vote")));
    assert_eq!(storage.promise.load().await, Some(body("promise")));
    assert_eq!(storage.wal.read(0..9, u64::MAX).await.unwrap(), [(0, body("zero")), (1, body("one"))]);
    assert_eq!(storage.wal.committed(), Some((1, body("c"))));
    let image = storage.image.unwrap();
    assert_eq!((image.applied, image.position, image.rows), (1, body("p"), vec![(b"k".to_vec(), body("v"))]));
    let snapshot = storage.snapshots.latest().unwrap();
    assert_eq!((snapshot.index, snapshot.meta.clone()), (1, body("meta")));
    assert_eq!(snapshot.reader().read_to_end().await.unwrap(), body("content"));
}

fn small() -> OpenOptions {
    OpenOptions { segment_bytes: 8 << 10, ..OpenOptions::new("n1") }
}

async fn open_sim(disk: &SimDisk, rows: &MemRows) -> Result<Storage, OpenError> {
    Storage::open(Arc::new(disk.clone()), Arc::new(rows.clone()), small()).await
}

fn refusal(outcome: Result<Storage, OpenError>) -> String {
    outcome.err().expect("refused").to_string()
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open_real(dir.path()).await.unwrap();
    let refused = open_real(dir.path()).await.err().unwrap();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    assert!(refused.to_string().contains(dir.path().to_str().unwrap()));
    storage.wal.close().await.unwrap();
    drop(storage);
    open_real(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_directory_of_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("photo.jpg"), b"x").unwrap();
    let refused = open_real(dir.path()).await.err().unwrap();
    assert!(matches!(&refused, OpenError::NotOurs { found, .. } if found == "photo.jpg"), "{refused}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn the_root_of_a_mounted_file_system_counts_as_empty() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    open_real(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_directory_of_another_node_is_refused() {
    let disk = SimDisk::new();
    open_sim(&disk, &MemRows::new()).await.unwrap();
    let options = OpenOptions::new("n2");
    let refused = Storage::open(Arc::new(disk.kill()), Arc::new(MemRows::new()), options).await;
    assert!(refusal(refused).contains("belongs to node \"n1\", not \"n2\""));
}

#[tokio::test]
async fn a_newer_layout_is_refused_as_such() {
    let disk = SimDisk::new();
    let slots = Slots::open(&disk, "identity").await.unwrap();
    slots.save(body(r#"{"format":2,"shape":"unknown"}"#)).await.unwrap();
    let refused = open_sim(&disk.kill(), &MemRows::new()).await.err().unwrap();
    assert!(matches!(refused, OpenError::Newer { found: 2, supported: 1, .. }), "{refused}");
}

#[tokio::test]
async fn a_lost_identity_is_never_drawn_again_over_a_log() {
    let disk = SimDisk::new();
    open_sim(&disk, &MemRows::new()).await.unwrap();
    let disk = disk.kill();
    for name in slot_names(identity::NAME) {
        disk.open(&name, crate::disk::OpenMode::Fresh).await.unwrap();
    }
    let refused = refusal(open_sim(&disk, &MemRows::new()).await);
    assert!(refused.contains("identity-0.slot is damaged at byte 0: it is empty"), "{refused}");
}

#[tokio::test]
async fn binding_to_a_second_cluster_is_refused() {
    let storage = open_sim(&SimDisk::new(), &MemRows::new()).await.unwrap();
    storage.identity.bind("c1").await.unwrap();
    storage.identity.bind("c1").await.unwrap();
    let refused = storage.identity.bind("c2").await.unwrap_err().to_string();
    assert!(refused.contains("belongs to cluster c1, not c2"), "{refused}");
    assert_eq!(storage.identity.get().cluster_id.as_deref(), Some("c1"));
}

#[tokio::test]
async fn raft_ids_differ_and_fit_53_bits() {
    let first = open_sim(&SimDisk::new(), &MemRows::new()).await.unwrap().identity.get().raft_id;
    let second = open_sim(&SimDisk::new(), &MemRows::new()).await.unwrap().identity.get().raft_id;
    assert_ne!(first, second);
    assert!([first, second].iter().all(|id| (1..=identity::MAX_RAFT_ID).contains(id)));
}

/// Entries 0 to 9 in the log, the rows at `applied`, a snapshot at `snapshot`, the log purged up to `purged`.
async fn directory(applied: Option<u64>, snapshot: Option<u64>, purged: Option<u64>) -> (SimDisk, MemRows) {
    let (disk, rows) = (SimDisk::new(), MemRows::new());
    let storage = open_sim(&disk, &rows).await.unwrap();
    for index in 0..10 {
        append_durable(&storage, index, "entry").await;
    }
    if let Some(applied) = applied {
        let batch = RowsBatch { rows: Vec::new(), applied, position: Bytes::new() };
        storage.rows.write(batch).await.unwrap();
    }
    if let Some(index) = snapshot {
        storage.snapshots.writer(index, Bytes::new()).await.unwrap().finish().await.unwrap();
    }
    if let Some(purged) = purged {
        storage.wal.purge(purged, Bytes::new()).await.unwrap();
    }
    storage.wal.close().await.unwrap();
    (disk.kill(), rows)
}

#[tokio::test]
async fn rows_behind_the_newest_snapshot_are_not_used() {
    for (snapshot, used) in [(4, true), (5, true), (6, false)] {
        let (disk, rows) = directory(Some(5), Some(snapshot), None).await;
        assert_eq!(open_sim(&disk, &rows).await.unwrap().image.is_some(), used);
    }
}

#[tokio::test]
async fn rows_ahead_of_the_log_say_that_the_log_lost_its_end() {
    let (disk, rows) = directory(Some(10), Some(4), None).await;
    let refused = refusal(open_sim(&disk, &rows).await);
    assert!(refused.contains("the log ends at entry 9, but entry 10 was committed"), "{refused}");
}

#[tokio::test]
async fn a_log_that_begins_after_everything_else_ends_is_refused() {
    for (applied, snapshot, opens) in
        [(None, None, false), (None, Some(4), false), (None, Some(5), true), (Some(6), None, true)]
    {
        let (disk, rows) = directory(applied, snapshot, Some(5)).await;
        match open_sim(&disk, &rows).await {
            Ok(_) => assert!(opens),
            Err(OpenError::NoBase { purged: 5, .. }) => assert!(!opens),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_voter_whose_log_files_are_gone_is_refused() {
    let (disk, _) = directory(None, None, None).await;
    let storage = open_sim(&disk, &MemRows::new()).await.unwrap();
    storage.vote.save(body("vote")).await.unwrap();
    storage.wal.close().await.unwrap();
    drop(storage);
    let disk = disk.kill();
    for name in disk.list().await.unwrap() {
        if name.starts_with("wal-") || name.starts_with("log-end") {
            disk.remove(&name).await.unwrap();
        }
    }
    let refused = refusal(open_sim(&disk, &MemRows::new()).await);
    assert!(
        refused.contains("wal-0000000000000001.log is damaged at byte 0: the log's files are missing"),
        "{refused}"
    );
}
