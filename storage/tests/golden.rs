//! The files of each released format, byte for byte: what this version writes is what it wrote then, and what was
//! written then is still read. `UPDATE_GOLDEN=1` rewrites them, which only a new format may need.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ruvector_cluster_storage::{
    MemRows, OpenOptions, RealDisk, Rows, RowsBatch, RowsImage, SledRows, Storage,
};

/// Small, so that the golden file is; the raft id is part of the bytes.
fn options() -> OpenOptions {
    OpenOptions { raft_id: Some(4_242), segment_bytes: 2_048, ..OpenOptions::new("n1") }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn open(dir: &Path) -> Storage {
    Storage::open(Arc::new(RealDisk::new(dir.to_owned())), Arc::new(MemRows::new()), options()).await.unwrap()
}

async fn append(storage: &Storage, first: u64, records: &[&str]) {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let done = Box::new(move |result| drop(done.send(result)));
    storage.wal.append(first, records.iter().map(|r| text(r)).collect(), done).await.unwrap();
    outcome.await.unwrap().unwrap();
}

/// Writes a directory with every kind of record in it.
async fn write_directory(dir: &Path) {
    let storage = open(dir).await;
    storage.identity.bind("c1").await.unwrap();
    storage.vote.save(text("an older vote")).await.unwrap();
    storage.vote.save(text("a vote")).await.unwrap();
    storage.promise.save(text("a promise")).await.unwrap();
    append(&storage, 0, &["zero", "one"]).await;
    storage.wal.reset_to(9, text("reset")).await.unwrap();
    append(&storage, 10, &["ten", "eleven", ""]).await;
    append(&storage, 13, &["thirteen"]).await;
    storage.wal.truncate_after(Some(12)).await.unwrap();
    append(&storage, 13, &["another thirteen"]).await;
    let mut writer = storage.snapshots.writer(10, text("snapshot meta")).await.unwrap();
    writer.write(b"snapshot content").await.unwrap();
    writer.finish().await.unwrap();
    storage.wal.purge(10, text("purge")).await.unwrap();
    storage.wal.save_committed(12, text("committed"));
    storage.wal.close().await.unwrap();
}

/// Names and contents; zeros at the end of a log segment are room, not content.
fn read_files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let mut content = fs::read(entry.path()).unwrap();
        if name.ends_with(".log") {
            content.truncate(content.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1));
        }
        if !content.is_empty() {
            files.insert(name, content);
        }
    }
    files
}

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

#[tokio::test]
async fn files_are_written_as_the_format_says() {
    let dir = tempfile::tempdir().unwrap();
    write_directory(dir.path()).await;
    let written = read_files(dir.path());
    let to = golden().join("directory");
    if updating() {
        fs::create_dir_all(&to).unwrap();
        for (name, content) in &written {
            fs::write(to.join(name), content).unwrap();
        }
    }
    let golden = read_files(&to);
    assert_eq!(written.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    for (name, content) in &written {
        assert!(golden[name] == *content, "{name} differs from its golden file");
    }
}

#[tokio::test]
async fn golden_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in read_files(&golden().join("directory")) {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let storage = open(dir.path()).await;
    let identity = storage.identity.get();
    assert_eq!((identity.format, identity.node_id.as_str(), identity.raft_id), (1, "n1", 4_242));
    assert_eq!(identity.cluster_id.as_deref(), Some("c1"));
    assert_eq!(storage.vote.load().await, Some(text("a vote")));
    assert_eq!(storage.promise.load().await, Some(text("a promise")));
    assert_eq!(storage.wal.purged(), Some((10, text("purge"))));
    assert_eq!(storage.wal.committed(), Some((12, text("committed"))));
    let entries = storage.wal.read(0..99, u64::MAX).await.unwrap();
    assert_eq!(entries, [(11, text("eleven")), (12, text("")), (13, text("another thirteen"))]);
    let snapshot = storage.snapshots.latest().unwrap();
    assert_eq!((snapshot.index, snapshot.meta.clone()), (10, text("snapshot meta")));
    assert_eq!(snapshot.reader().read_to_end().await.unwrap(), text("snapshot content"));
    append(&storage, 14, &["goes on"]).await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// sled's threads hold the files for a while after the database is dropped.
fn let_go_and_open(dir: &Path) -> sled::Db {
    for _ in 0..1_000 {
        if let Ok(db) = sled::open(dir) {
            return db;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("sled does not let go of {}", dir.display());
}

/// sled's own files are sled's; what is ours is what the tree holds.
#[tokio::test]
async fn rows_are_stored_and_read_as_the_format_says() {
    let dir = tempfile::tempdir().unwrap();
    let rows = SledRows::new(dir.path().join("written"));
    rows.load().await.unwrap();
    let content =
        vec![(b"key".to_vec(), text("value")), (b"large".to_vec(), Bytes::from(vec![b'x'; 50_000]))];
    let changes = content.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
    rows.write(RowsBatch { rows: changes, applied: 17, position: text("position") }).await.unwrap();
    drop(rows);
    let dump: String = let_go_and_open(&dir.path().join("written"))
        .open_tree("rows")
        .unwrap()
        .iter()
        .map(|row| row.unwrap())
        .map(|(key, value)| format!("{} {}\n", hex(&key), hex(&value)))
        .collect();
    let file = golden().join("rows.txt");
    if updating() {
        fs::create_dir_all(golden()).unwrap();
        fs::write(&file, &dump).unwrap();
    }
    let golden = fs::read_to_string(&file).unwrap();
    assert!(golden == dump, "the rows differ from their golden file");

    let db = sled::open(dir.path().join("golden")).unwrap();
    let tree = db.open_tree("rows").unwrap();
    for line in golden.lines() {
        let (key, value) = line.split_once(' ').unwrap();
        tree.insert(unhex(key), unhex(value)).unwrap();
    }
    drop((tree, db));
    let image = SledRows::new(dir.path().join("golden")).load().await.unwrap();
    assert_eq!(image, Some(RowsImage { rows: content, applied: 17, position: text("position") }));
}
