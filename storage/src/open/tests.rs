use bytes::Bytes;

use super::*;
use crate::disk::RealDisk;
use crate::rows::{RowsBatch, SledRows};

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
