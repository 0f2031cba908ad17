use std::collections::BTreeMap;

use ruvector_cluster_client::copies::{BlockingStore, Idle};
use ruvector_cluster_client::node::Kept;
use ruvector_cluster_client::replica::store::ReplicaStore as _;
use ruvector_cluster_client::replica::wire::Write;

use super::*;

const DIMENSIONS: usize = 3;

fn at(epoch: u64, n: u64) -> Position {
    Position { epoch: Epoch(epoch), n }
}

fn value(x: f32) -> Value {
    let metadata = BTreeMap::from([("x".to_owned(), serde_json::json!(0.1 + f64::from(x)))]);
    Point { vector: vec![x, 0.0, 0.0], metadata: (x > 1.0).then_some(metadata) }.encode().unwrap()
}

fn write(epoch: u64, n: u64, key: &str, x: Option<f32>) -> Write {
    Write { position: at(epoch, n), key: key.into(), value: x.map(value) }
}

fn open(dir: &Path) -> Kept<Vectors> {
    Kept::open(dir.join("7"), DIMENSIONS)
}

fn search(store: &Kept<Vectors>, k: usize) -> Vec<Found> {
    store.search(&Nearest { vector: vec![0.0; 3], k }).unwrap()
}

fn ids(hits: &[Found]) -> Vec<&str> {
    hits.iter().map(|hit| hit.id.as_str()).collect()
}

#[test]
fn search_is_exact_over_fresh_overwritten_and_deleted_points() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create().unwrap();
    let first: Vec<Write> = (1..=20).map(|n| write(1, n, &format!("p{n:02}"), Some(n as f32))).collect();
    store.append(&first).unwrap();
    for flushed in [false, true] {
        if flushed {
            store.tend(Idle::Yes).unwrap();
        }
        assert_eq!(ids(&search(&store, 3)), ["p01", "p02", "p03"], "flushed: {flushed}");
    }
    store
        .append(&[write(1, 21, "p01", Some(50.0)), write(1, 22, "p02", None), write(1, 23, "new", Some(2.5))])
        .unwrap();
    for flushed in [false, true] {
        if flushed {
            store.tend(Idle::Yes).unwrap();
        }
        let hits = search(&store, 3);
        assert_eq!(ids(&hits), ["new", "p03", "p04"], "flushed: {flushed}");
        assert_eq!(hits[0].score, 2.5);
        assert_eq!(search(&store, 100).len(), 20);
    }
}

#[test]
fn rows_have_their_stamps_sizes_and_metadata_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create().unwrap();
    store.append(&[write(4, 1, "a", Some(1.0)), write(4, 2, "b", Some(2.0))]).unwrap();
    store.tend(Idle::Yes).unwrap();
    store.append(&[write(4, 3, "b", Some(9.0)), write(4, 4, "c", None)]).unwrap();
    let (before, size) = (store.read_chunk(None, None, u64::MAX).unwrap().writes, store.size());
    // No close: as after a crash, the journal is ahead of the database.
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.read_chunk(None, None, u64::MAX).unwrap().writes, before);
    assert_eq!(store.size(), size);
    assert_eq!(store.get("b").unwrap(), Some(value(9.0)));
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.read_chunk(None, None, u64::MAX).unwrap().writes, before);
    assert_eq!(store.size(), size);
}
