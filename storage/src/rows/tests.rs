use std::path::Path;

use super::sled::{FORMAT, META_KEY, Stand};
use super::*;

fn row(key: &str, value: &str) -> (Vec<u8>, Option<Bytes>) {
    (key.as_bytes().to_vec(), Some(Bytes::copy_from_slice(value.as_bytes())))
}

fn gone(key: &str) -> (Vec<u8>, Option<Bytes>) {
    (key.as_bytes().to_vec(), None)
}

fn batch(applied: u64, rows: Vec<(Vec<u8>, Option<Bytes>)>) -> RowsBatch {
    RowsBatch { rows, applied, position: Bytes::from(format!("position {applied}")) }
}

fn image(applied: u64, rows: &[(&str, &str)]) -> RowsImage {
    let rows =
        rows.iter().map(|(k, v)| (k.as_bytes().to_vec(), Bytes::copy_from_slice(v.as_bytes()))).collect();
    RowsImage { rows, applied, position: Bytes::from(format!("position {applied}")) }
}

async fn keeps_the_contract(rows: &dyn Rows) {
    assert_eq!(rows.load().await.unwrap(), None);
    rows.write(batch(1, vec![row("b", "1"), row("aa", "2"), row("a", "3")])).await.unwrap();
    rows.write(batch(2, vec![row("b", "4"), gone("aa"), gone("never"), row("c", "x"), row("c", "5")]))
        .await
        .unwrap();
    assert_eq!(rows.load().await.unwrap(), Some(image(2, &[("a", "3"), ("b", "4"), ("c", "5")])));
    rows.write(batch(3, vec![])).await.unwrap();
    assert_eq!(rows.load().await.unwrap().unwrap().applied, 3);
    let large = (vec![0; MAX_KEY_BYTES + 1], Some(Bytes::new()));
    assert!(matches!(
        rows.write(batch(4, vec![row("z", "z"), large])).await,
        Err(RowsError::TooLarge { .. })
    ));
    assert_eq!(rows.load().await.unwrap(), Some(image(3, &[("a", "3"), ("b", "4"), ("c", "5")])));

    rows.invalidate().await.unwrap();
    assert!(matches!(rows.write(batch(5, vec![row("a", "6")])).await, Err(RowsError::NoBase)));
    let all: Vec<_> =
        (0..2_500).map(|n| (format!("{n:04}").into_bytes(), Bytes::from(n.to_string()))).collect();
    rows.replace_all(Box::new(all.clone().into_iter()), 9, Bytes::from_static(b"p")).await.unwrap();
    let expected = RowsImage { rows: all, applied: 9, position: Bytes::from_static(b"p") };
    assert_eq!(rows.load().await.unwrap(), Some(expected));
    rows.write(batch(10, vec![row("0000", "new")])).await.unwrap();
    assert_eq!(rows.load().await.unwrap().unwrap().rows[0].1, "new");

    rows.invalidate().await.unwrap();
    assert_eq!(rows.load().await.unwrap(), None);
    rows.write(batch(11, vec![row("a", "7")])).await.unwrap();
    assert_eq!(rows.load().await.unwrap(), Some(image(11, &[("a", "7")])));
}

#[tokio::test]
async fn sled_and_its_model_do_the_same() {
    let dir = tempfile::tempdir().unwrap();
    keeps_the_contract(&SledRows::new(dir.path().join("rows"))).await;
    keeps_the_contract(&MemRows::new()).await;
}

/// Rows with one batch in them, closed.
async fn written(dir: &Path) {
    let rows = SledRows::new(dir.to_path_buf());
    assert_eq!(rows.load().await.unwrap(), None);
    rows.write(batch(1, vec![row("a", "1"), row("b", "2")])).await.unwrap();
}

async fn reopened(dir: &Path) -> Option<RowsImage> {
    SledRows::new(dir.to_path_buf()).load().await.unwrap()
}

#[tokio::test]
async fn rows_survive_reopening_and_what_a_killed_open_left() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("rows");
    written(&dir).await;
    let left = dir.join("snap.00000000000000FF.generating");
    std::fs::write(&left, b"half a snapshot").unwrap();
    assert_eq!(reopened(&dir).await, Some(image(1, &[("a", "1"), ("b", "2")])));
    assert!(!left.exists());
}

#[tokio::test]
async fn large_values_come_back_whole_and_leave_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("rows");
    let value = |n: usize| Bytes::from((0..n).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let rows = SledRows::new(dir.clone());
    rows.load().await.unwrap();
    for bytes in [0, 1, 48 << 10, (48 << 10) + 1, 1 << 20, 100_000, 5] {
        let changes = vec![(b"k".to_vec(), Some(value(bytes))), (b"kk".to_vec(), Some(value(bytes)))];
        rows.write(batch(1, changes)).await.unwrap();
        let found = rows.load().await.unwrap().unwrap();
        assert_eq!(found.rows, [(b"k".to_vec(), value(bytes)), (b"kk".to_vec(), value(bytes))]);
    }
    drop(rows);
    let db = raw(&dir);
    assert_eq!(db.open_tree("rows").unwrap().len(), 3);
}

/// sled's own database, once its threads have let go of it.
fn raw(dir: &Path) -> ::sled::Db {
    sled::wait_closed(dir).unwrap();
    ::sled::open(dir).unwrap()
}

/// Changes sled's rows behind the back of [`SledRows`].
fn tamper(dir: &Path, change: impl FnOnce(&::sled::Tree)) {
    let db = raw(dir);
    change(&db.open_tree("rows").unwrap());
    db.flush().unwrap();
}

#[tokio::test]
async fn rows_that_do_not_match_their_checksum_are_dropped() {
    let tampers: [fn(&::sled::Tree); 5] = [
        |tree| drop(tree.insert(b"r\0\x01a\0\0", b"\x01\x01\0changed").unwrap()),
        |tree| drop(tree.remove(b"r\0\x01b\0\0").unwrap()),
        |tree| drop(tree.insert(b"r\0\x01x\0\0", b"\x01\x01\0more").unwrap()),
        |tree| drop(tree.remove(META_KEY).unwrap()),
        |tree| drop(tree.insert(META_KEY, vec![1; 40]).unwrap()),
    ];
    for change in tampers {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("rows");
        written(&dir).await;
        tamper(&dir, change);
        assert_eq!(reopened(&dir).await, None);
        assert_eq!(reopened(&dir).await, None, "what was dropped stays dropped");
    }
}

#[tokio::test]
async fn rows_of_a_newer_format_are_refused_and_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("rows");
    written(&dir).await;
    tamper(&dir, |tree| drop(tree.insert(META_KEY, &[FORMAT + 1, 9, 9]).unwrap()));
    for _ in 0..2 {
        let refused = SledRows::new(dir.clone()).load().await.unwrap_err();
        assert!(matches!(refused, RowsError::Newer { found: 2, .. }), "{refused}");
    }
}

#[tokio::test]
async fn an_open_that_never_ended_makes_the_next_one_begin_anew() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("rows");
    written(&dir).await;
    std::fs::write(dir.with_extension("opening"), b"").unwrap();
    assert_eq!(reopened(&dir).await, None);
    written(&dir).await;
    assert!(reopened(&dir).await.is_some());
}

#[tokio::test]
async fn unreadable_files_make_the_rows_begin_anew() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("rows");
    written(&dir).await;
    std::fs::write(dir.join("conf"), b"not a configuration").unwrap();
    assert_eq!(reopened(&dir).await, None);
}

#[tokio::test]
async fn the_models_crash_goes_back_by_whole_batches() {
    let rows = MemRows::new();
    rows.load().await.unwrap();
    for n in 1..=10 {
        rows.write(batch(n, vec![row("k", &n.to_string())])).await.unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let found = rows.crash(seed).load().await.unwrap();
        if let Some(found) = &found {
            assert_eq!(found.rows[0].1, found.applied.to_string());
        }
        seen.insert(found.map(|f| f.applied));
    }
    assert_eq!(seen.len(), 11);
}

#[test]
fn the_position_row_keeps_its_format() {
    let stand = Stand { valid: true, applied: 2, rows: 3, sum: 4, position: Bytes::from_static(b"p") };
    let bytes = stand.encode();
    assert_eq!(
        bytes[..26],
        [&[1, 1][..], &[2, 0, 0, 0, 0, 0, 0, 0], &[3, 0, 0, 0, 0, 0, 0, 0], &[4, 0, 0, 0, 0, 0, 0, 0]]
            .concat()
    );
    assert_eq!(Stand::decode(&bytes), Ok(Some(stand)));
}

/// sled's threads hold the files for a while after the database is dropped.
#[tokio::test]
async fn rows_that_were_closed_a_moment_ago_are_opened_again() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("rows");
    written(&dir).await;
    for applied in 2..30 {
        let rows = SledRows::new(dir.clone());
        assert_eq!(rows.load().await.unwrap().map(|image| image.applied), Some(applied - 1));
        rows.write(batch(applied, vec![row("a", &"x".repeat(10_000))])).await.unwrap();
    }
}

#[tokio::test]
async fn the_models_crash_may_find_rows_half_replaced_and_takes_none_of_them() {
    let rows = MemRows::new();
    rows.load().await.unwrap();
    rows.write(batch(1, vec![row("a", "1")])).await.unwrap();
    let replaced = vec![(b"b".to_vec(), Bytes::from_static(b"2"))];
    rows.replace_all(Box::new(replaced.into_iter()), 2, Bytes::new()).await.unwrap();
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..20 {
        found.insert(rows.crash(seed).load().await.unwrap().map(|image| (image.applied, image.rows.len())));
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [None, Some((1, 1)), Some((2, 1))]);
}

#[tokio::test]
async fn a_model_without_room_refuses_and_keeps_what_it_has() {
    let rows = MemRows::new();
    rows.load().await.unwrap();
    rows.write(batch(1, vec![row("a", "1")])).await.unwrap();
    rows.set_full(true);
    let refused = rows.write(batch(2, vec![row("a", "2")])).await.unwrap_err();
    assert!(matches!(refused, RowsError::Full { .. }), "{refused}");
    rows.set_full(false);
    assert_eq!(rows.load().await.unwrap(), Some(image(1, &[("a", "1")])));
}
