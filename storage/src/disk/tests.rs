use super::*;

/// What both disks must do alike.
async fn keeps_the_contract(disk: &dyn Disk) {
    disk.lock().await.unwrap();
    disk.restrict().await.unwrap();
    assert_eq!(disk.open("a", OpenMode::Existing).await.err().unwrap().kind(), io::ErrorKind::NotFound);
    let file = disk.open("a", OpenMode::Create).await.unwrap();
    file.write_synced(3, Bytes::from_static(b"abc")).await.unwrap();
    assert_eq!(read_all(file.as_ref()).await.unwrap(), &b"\0\0\0abc"[..]);
    assert_eq!(file.read_at(4, 100).await.unwrap(), &b"bc"[..]);
    assert!(file.read_at(6, 1).await.unwrap().is_empty());
    file.preallocate(8).await.unwrap();
    file.preallocate(2).await.unwrap();
    assert_eq!(file.size_bytes().await.unwrap(), 8);
    file.truncate(4).await.unwrap();
    assert_eq!(read_all(file.as_ref()).await.unwrap(), &b"\0\0\0a"[..]);
    let kept = disk.open("a", OpenMode::Create).await.unwrap();
    assert_eq!(kept.size_bytes().await.unwrap(), 4);
    disk.rename("a", "b").await.unwrap();
    disk.sync_dir().await.unwrap();
    assert_eq!(disk.list().await.unwrap(), ["b"]);
    disk.open("b", OpenMode::Fresh).await.unwrap();
    assert_eq!(kept.size_bytes().await.unwrap(), 0);
    kept.write_at(0, Bytes::from_static(b"x")).await.unwrap();
    disk.remove("b").await.unwrap();
    assert_eq!(disk.remove("b").await.unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(read_all(kept.as_ref()).await.unwrap(), &b"x"[..]);
    assert!(disk.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_real_and_the_simulated_disk_do_the_same() {
    let parent = tempfile::tempdir().unwrap();
    keeps_the_contract(&RealDisk::new(parent.path().join("deeper/data"))).await;
    keeps_the_contract(&SimDisk::new()).await;
}

#[tokio::test]
async fn a_real_directory_is_private_and_locked_once() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let first = RealDisk::new(dir.clone());
    first.lock().await.unwrap();
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let second = RealDisk::new(dir.clone());
    assert!(is_locked(&second.lock().await.unwrap_err()));
    drop(first);
    second.lock().await.unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    second.restrict().await.unwrap();
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_crash_keeps_the_synced_and_any_sectors_of_the_rest() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..50 {
        let disk = SimDisk::new();
        let file = disk.open("a", OpenMode::Create).await.unwrap();
        disk.sync_dir().await.unwrap();
        file.write_synced(0, Bytes::from(vec![1; 100])).await.unwrap();
        file.write_at(100, Bytes::from(vec![2; 2_000])).await.unwrap();
        let content = disk.crash(seed).content("a").unwrap();
        assert_eq!(content[..100], [1; 100]);
        let survived = content.iter().filter(|b| **b == 2).count();
        match survived {
            0 => lost += 1,
            2_000 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 5 && kept > 5 && torn > 5, "{lost} {kept} {torn}");
}

#[tokio::test]
async fn a_name_is_durable_only_after_the_directory_is_synced() {
    let survives = |disk: SimDisk, seed| disk.crash(seed).content("a").is_some();
    let mut gone = 0;
    for seed in 0..20 {
        let disk = SimDisk::new();
        let file = disk.open("a", OpenMode::Create).await.unwrap();
        file.write_synced(0, Bytes::from_static(b"x")).await.unwrap();
        gone += u32::from(!survives(disk, seed));
        let disk = SimDisk::new();
        disk.open("a", OpenMode::Create).await.unwrap();
        disk.sync_dir().await.unwrap();
        assert!(survives(disk, seed));
    }
    assert!(gone > 0);
}

#[tokio::test]
async fn calls_of_a_crashed_process_never_return() {
    let disk = SimDisk::new();
    let file = disk.open("a", OpenMode::Create).await.unwrap();
    let _next = disk.crash(0);
    assert!(futures::FutureExt::now_or_never(file.write_at(0, Bytes::from_static(b"x"))).is_none());
    assert!(futures::FutureExt::now_or_never(disk.list()).is_none());
}

#[tokio::test]
async fn a_full_disk_takes_no_more_until_there_is_room() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(10));
    let file = disk.open("a", OpenMode::Create).await.unwrap();
    assert!(is_full(&file.preallocate(11).await.unwrap_err()));
    file.write_at(0, Bytes::from(vec![0; 10])).await.unwrap();
    assert!(is_full(&file.write_at(5, Bytes::from(vec![0; 6])).await.unwrap_err()));
    file.write_at(5, Bytes::from(vec![0; 5])).await.unwrap();
    disk.set_capacity(None);
    file.write_at(5, Bytes::from(vec![0; 6])).await.unwrap();
}

#[tokio::test]
async fn a_disk_dies_in_the_midst_of_the_operation_that_was_named() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..40 {
        let disk = SimDisk::new();
        let file = disk.open("a", OpenMode::Create).await.unwrap();
        disk.sync_dir().await.unwrap();
        // A write and its sync: the second of the two is where it dies.
        disk.die_after(2);
        let died = tokio::spawn({
            let disk = disk.clone();
            async move { disk.died().await }
        });
        let write = tokio::spawn(async move { file.write_synced(0, Bytes::from_static(b"abc")).await });
        died.await.unwrap();
        assert!(futures::FutureExt::now_or_never(disk.list()).is_none());
        assert!(!write.is_finished());
        match disk.crash(seed).content("a").unwrap().as_slice() {
            b"" => lost += 1,
            b"abc" => kept += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(lost > 5 && kept > 5, "{lost} {kept}");
}

#[tokio::test]
async fn a_name_of_which_the_disk_died_may_be_there_or_not() {
    let mut there = [0, 0];
    for seed in 0..20 {
        let disk = SimDisk::new();
        disk.die_after(1);
        assert!(futures::FutureExt::now_or_never(disk.open("a", OpenMode::Create)).is_none());
        there[usize::from(disk.crash(seed).content("a").is_some())] += 1;
    }
    assert!(there[0] > 2 && there[1] > 2, "{there:?}");
}

#[tokio::test]
async fn what_a_failed_sync_dropped_no_later_sync_brings_back() {
    let disk = SimDisk::new();
    let file = disk.open("a", OpenMode::Create).await.unwrap();
    disk.sync_dir().await.unwrap();
    file.write_at(0, Bytes::from_static(b"abc")).await.unwrap();
    disk.fail_syncs();
    file.sync_data().await.unwrap_err();
    disk.lift_failures();
    file.sync_data().await.unwrap();
    assert_eq!(disk.content("a").unwrap(), b"abc");
    assert_eq!(disk.synced().content("a").unwrap(), b"");
    for seed in 0..10 {
        assert_eq!(disk.synced().crash(seed).content("a").unwrap(), b"");
    }
}

#[tokio::test]
async fn a_sync_covers_what_was_written_before_it_began() {
    let disk = SimDisk::new();
    let file = disk.open("a", OpenMode::Create).await.unwrap();
    disk.sync_dir().await.unwrap();
    file.write_at(0, Bytes::from_static(b"abc")).await.unwrap();
    disk.set_syncs_held(true);
    let mut sync = Box::pin(file.sync_data());
    tokio::select! {
        biased;
        _ = &mut sync => panic!("a sync that is held returned"),
        () = async { for _ in 0..10 { tokio::task::yield_now().await } } => {}
    }
    file.write_at(3, Bytes::from_static(b"def")).await.unwrap();
    assert_eq!(disk.synced().content("a").unwrap(), b"");
    disk.set_syncs_held(false);
    sync.await.unwrap();
    assert_eq!(disk.synced().content("a").unwrap(), b"abc");
    assert_eq!(disk.content("a").unwrap(), b"abcdef");
}

#[tokio::test]
async fn a_stalled_disk_answers_once_it_goes_on_and_a_failing_one_once_it_is_mended() {
    let disk = SimDisk::new();
    let file = disk.open("a", OpenMode::Create).await.unwrap();
    disk.set_stalled(true);
    let write = tokio::spawn({
        let file = Arc::clone(&file);
        async move { file.write_synced(0, Bytes::from_static(b"x")).await }
    });
    assert!(futures::FutureExt::now_or_never(file.size_bytes()).is_none());
    assert!(!write.is_finished());
    disk.set_stalled(false);
    write.await.unwrap().unwrap();
    disk.fail_writes();
    file.write_at(0, Bytes::from_static(b"y")).await.unwrap_err();
    file.preallocate(9).await.unwrap_err();
    disk.lift_failures();
    file.write_at(0, Bytes::from_static(b"y")).await.unwrap();
    let counts = disk.counts();
    assert_eq!((counts.writes, counts.syncs, counts.renames), (4, 1, 0));
}
