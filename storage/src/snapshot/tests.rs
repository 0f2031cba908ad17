use super::*;
use crate::disk::SimDisk;

async fn open(disk: &SimDisk) -> Result<SnapshotStore, SnapshotError> {
    SnapshotStore::open(Arc::new(disk.clone())).await
}

fn content(index: u64) -> Bytes {
    Bytes::from(format!("content of {index} ").repeat(100_000))
}

async fn write(store: &SnapshotStore, index: u64) -> SnapshotFile {
    let mut writer = store.writer(index, Bytes::from(format!("meta {index}"))).await.unwrap();
    for piece in content(index).chunks(300_001) {
        writer.write(piece).await.unwrap();
    }
    writer.finish().await.unwrap()
}

async fn assert_whole(snapshot: &SnapshotFile) {
    assert_eq!(snapshot.meta, format!("meta {}", snapshot.index));
    assert_eq!(snapshot.reader().read_to_end().await.unwrap(), content(snapshot.index));
}

fn files(names: Vec<String>) -> Vec<u64> {
    names.iter().map(|n| parse_name(n).unwrap_or_else(|| panic!("{n}")).0).collect()
}

#[tokio::test]
async fn the_two_newest_are_kept_and_readable() {
    let disk = SimDisk::new();
    let store = open(&disk).await.unwrap();
    assert!(store.latest().is_none());
    let first = write(&store, 10).await;
    for index in [20, 30, 30] {
        assert_whole(&write(&store, index).await).await;
    }
    assert_eq!(files(disk.list().await.unwrap()), [30, 30]);
    assert_whole(&first).await;
    let disk = disk.crash(0);
    let store = open(&disk).await.unwrap();
    let latest = store.latest().unwrap();
    assert_eq!(latest.index, 30);
    assert_whole(&latest).await;
    assert_eq!(latest.raw(0, 7).await.unwrap(), &b"ruvcsnp"[..]);
    assert!(latest.raw(latest.len, 7).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_empty_snapshot_is_one() {
    let store = open(&SimDisk::new()).await.unwrap();
    let snapshot = store.writer(0, Bytes::new()).await.unwrap().finish().await.unwrap();
    assert_eq!(snapshot.reader().read_to_end().await.unwrap(), Bytes::new());
}

#[tokio::test]
async fn a_file_that_was_never_finished_is_removed_and_the_older_snapshot_counts() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        let store = open(&disk).await.unwrap();
        write(&store, 1).await;
        let mut writer = store.writer(2, Bytes::new()).await.unwrap();
        writer.write(&content(2)).await.unwrap();
        let disk = disk.crash(seed);
        assert_eq!(open(&disk).await.unwrap().latest().unwrap().index, 1);
        assert_eq!(files(disk.list().await.unwrap()), [1]);
    }
}

#[tokio::test]
async fn a_damaged_snapshot_gives_way_to_the_older_one() {
    let disk = SimDisk::new();
    let store = open(&disk).await.unwrap();
    write(&store, 1).await;
    let newest = write(&store, 2).await;
    let disk = disk.kill();
    disk.damage(&newest.name, 1_000_000, b"?");
    let store = open(&disk).await.unwrap();
    assert_eq!(store.latest().unwrap().index, 1);
    let again = write(&store, 2).await;
    assert_ne!(again.name, newest.name);
    assert_eq!(files(disk.list().await.unwrap()), [1, 2]);
}

#[tokio::test]
async fn damage_anywhere_in_the_only_snapshot_is_refused_with_file_and_offset() {
    let disk = SimDisk::new();
    let mut writer = open(&disk).await.unwrap().writer(5, Bytes::from_static(b"meta")).await.unwrap();
    writer.write(b"some content").await.unwrap();
    let snapshot = writer.finish().await.unwrap();
    let whole = disk.content(&snapshot.name).unwrap();
    let mut disk = disk;
    for at in 0..whole.len() {
        disk = disk.kill();
        disk.damage(&snapshot.name, at, &[whole[at] ^ 0x10]);
        match open(&disk).await.err() {
            Some(SnapshotError::Damaged(damage)) => {
                assert!(damage.file.ends_with(&snapshot.name));
                assert!(damage.offset <= whole.len() as u64, "{damage}");
            }
            Some(SnapshotError::Newer { .. }) if at == 7 => {}
            other => panic!("byte {at}: {other:?}"),
        }
        disk.damage(&snapshot.name, at, &[whole[at]]);
        open(&disk).await.unwrap();
    }
}

#[tokio::test]
async fn a_sent_snapshot_arrives_as_it_was() {
    let store = open(&SimDisk::new()).await.unwrap();
    let sent = write(&store, 7).await;
    for step in [1_000, 1 << 20, 10 << 20] {
        let disk = SimDisk::new();
        let receiving = open(&disk).await.unwrap();
        let mut receiver = receiving.receiver().await.unwrap();
        assert_eq!(receiver.header(), None);
        let mut at = 0;
        loop {
            let bytes = sent.raw(at, step).await.unwrap();
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
            receiver.write(bytes).await.unwrap();
            assert_eq!(receiver.header(), Some((7, Bytes::from_static(b"meta 7"))));
        }
        assert_whole(&receiver.finish().await.unwrap()).await;
        assert_whole(&open(&disk.crash(4)).await.unwrap().latest().unwrap()).await;
    }
}

#[tokio::test]
async fn what_arrives_damaged_or_short_is_refused_and_not_kept() {
    let store = open(&SimDisk::new()).await.unwrap();
    let sent = write(&store, 7).await;
    let whole = sent.raw(0, usize::MAX >> 1).await.unwrap();
    let disk = SimDisk::new();
    let receiving = open(&disk).await.unwrap();
    for cut in [0, 10, 1_000, whole.len() - 1] {
        let mut receiver = receiving.receiver().await.unwrap();
        receiver.write(whole.slice(..cut)).await.unwrap();
        assert!(matches!(receiver.finish().await, Err(SnapshotError::Damaged(_))));
    }
    let mut damaged = whole.to_vec();
    damaged[500_000] ^= 1;
    let mut receiver = receiving.receiver().await.unwrap();
    assert!(matches!(receiver.write(Bytes::from(damaged)).await, Err(SnapshotError::Damaged(_))));
    drop(receiver);
    let mut receiver = receiving.receiver().await.unwrap();
    receiver.write(whole).await.unwrap();
    assert!(receiver.write(Bytes::from_static(b"more")).await.is_err());
    drop(receiver);
    assert!(receiving.latest().is_none());
    drop(receiving);
    let disk = disk.kill();
    assert!(open(&disk).await.unwrap().latest().is_none());
    assert!(disk.list().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_this_node_waits_for_room_and_is_whole_then() {
    let disk = SimDisk::new();
    let store = open(&disk).await.unwrap();
    disk.set_capacity(Some(100_000));
    let writing = tokio::spawn({
        let store = store.clone();
        async move { write(&store, 7).await }
    });
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(!writing.is_finished());
    assert!(store.latest().is_none());
    disk.set_capacity(None);
    assert_whole(&writing.await.unwrap()).await;
    assert_whole(&open(&disk.crash(1)).await.unwrap().latest().unwrap()).await;
}
