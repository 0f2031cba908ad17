use std::time::Duration;

use super::*;
use crate::disk::SimDisk;

fn value(n: u32) -> Bytes {
    Bytes::from(format!("value {n} ").repeat(100))
}

async fn open(disk: &SimDisk) -> Result<Slots, SlotError> {
    Slots::open(disk, "vote").await
}

#[tokio::test]
async fn the_last_saved_value_is_found_again() {
    let disk = SimDisk::new();
    let slots = open(&disk).await.unwrap();
    assert_eq!(slots.load().await, None);
    for n in 0..5 {
        slots.save(value(n)).await.unwrap();
        assert_eq!(slots.load().await, Some(value(n)));
    }
    slots.save(Bytes::from_static(b"shorter")).await.unwrap();
    assert_eq!(open(&disk.crash(0)).await.unwrap().load().await, Some(Bytes::from_static(b"shorter")));
}

#[tokio::test(start_paused = true)]
async fn power_lost_while_saving_leaves_the_old_value_or_the_new_one() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new();
        let slots = open(&disk).await.unwrap();
        slots.save(value(1)).await.unwrap();
        disk.set_sync_time(Some(Duration::from_millis(10)));
        let saving = tokio::spawn(async move { slots.save(value(2)).await });
        tokio::time::sleep(Duration::from_millis(seed % 19 + 1)).await;
        let disk = disk.crash(seed);
        saving.abort();
        let slots = open(&disk).await.unwrap();
        let found = slots.load().await.unwrap();
        match found {
            found if found == value(1) => old += 1,
            found if found == value(2) => new += 1,
            other => panic!("{other:?}"),
        }
        slots.save(value(3)).await.unwrap();
        assert_eq!(open(&disk.crash(seed)).await.unwrap().load().await, Some(value(3)));
    }
    assert!(old > 10 && new > 10, "{old} {new}");
}

#[tokio::test(start_paused = true)]
async fn power_lost_during_the_very_first_save_leaves_nothing_or_the_value() {
    for seed in 0..100 {
        let disk = SimDisk::new();
        let slots = open(&disk).await.unwrap();
        disk.set_sync_time(Some(Duration::from_millis(10)));
        let saving = tokio::spawn(async move { slots.save(value(1)).await });
        tokio::time::sleep(Duration::from_millis(seed % 19 + 1)).await;
        let disk = disk.crash(seed);
        saving.abort();
        let found = open(&disk).await.unwrap().load().await;
        assert!(found.is_none() || found == Some(value(1)));
    }
}

#[tokio::test]
async fn either_file_may_be_damaged_and_is_repaired_from_the_other() {
    for (damaged, other) in [("vote-0.slot", "vote-1.slot"), ("vote-1.slot", "vote-0.slot")] {
        let disk = SimDisk::new();
        open(&disk).await.unwrap().save(value(7)).await.unwrap();
        let disk = disk.kill();
        disk.damage(damaged, 30, b"?");
        assert_eq!(open(&disk).await.unwrap().load().await, Some(value(7)));
        disk.damage(other, 30, b"?");
        assert_eq!(open(&disk).await.unwrap().load().await, Some(value(7)));
    }
}

#[tokio::test]
async fn two_damaged_files_are_refused_by_name() {
    let disk = SimDisk::new();
    open(&disk).await.unwrap().save(value(7)).await.unwrap();
    let disk = disk.kill();
    disk.damage("vote-0.slot", 9, b"?");
    disk.damage("vote-1.slot", 0, b"?");
    let refused = open(&disk).await.err().unwrap().to_string();
    assert!(refused.starts_with("sim/vote-1.slot is damaged at byte 0: it does not begin as"), "{refused}");
}

#[tokio::test]
async fn a_newer_format_is_refused_as_such() {
    let disk = SimDisk::new();
    open(&disk).await.unwrap();
    let mut file = encode(1, &value(1)).to_vec();
    file[7] = FORMAT + 1;
    let crc = checksum(&file[..20], &value(1));
    file[20..24].copy_from_slice(&crc.to_le_bytes());
    let slot = disk.open("vote-0.slot", OpenMode::Existing).await.unwrap();
    slot.write_synced(0, Bytes::from(file)).await.unwrap();
    let refused = open(&disk).await.err().unwrap();
    assert!(matches!(refused, SlotError::Newer { found: 2, .. }), "{refused}");
}

#[tokio::test]
async fn after_a_failed_save_nothing_is_saved_any_more() {
    let disk = SimDisk::new();
    let slots = open(&disk).await.unwrap();
    slots.save(value(1)).await.unwrap();
    disk.fail_syncs();
    assert!(matches!(slots.save(value(2)).await, Err(SlotError::Io { .. })));
    assert!(matches!(slots.save(value(3)).await, Err(SlotError::Failed { .. })));
    let too_large = Bytes::from(vec![0; MAX_VALUE_BYTES + 1]);
    let slots = open(&SimDisk::new()).await.unwrap();
    assert!(matches!(slots.save(too_large).await, Err(SlotError::TooLarge { .. })));
    slots.save(value(1)).await.unwrap();
}

/// Found by a leader that handed over on a full disk: its vote for the successor is one byte longer, and it stopped.
#[tokio::test(start_paused = true)]
async fn a_longer_value_waits_for_room_and_is_saved_then() {
    let disk = SimDisk::new();
    let slots = open(&disk).await.unwrap();
    slots.save(Bytes::from_static(b"short")).await.unwrap();
    disk.set_capacity(Some(0));
    let saving = tokio::spawn({
        let slots = slots.clone();
        async move { slots.save(Bytes::from_static(b"a longer one")).await }
    });
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(!saving.is_finished());
    disk.set_capacity(None);
    saving.await.unwrap().unwrap();
    assert_eq!(open(&disk.crash(1)).await.unwrap().load().await, Some(Bytes::from_static(b"a longer one")));
}
