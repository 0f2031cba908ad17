use std::time::Duration;

use futures::FutureExt;

use super::*;
use crate::disk::SimDisk;

const SALT: u64 = 42;

pub(super) fn small() -> WalOptions {
    WalOptions { segment_bytes: 8 << 10, cache_bytes: 2 << 10, ..WalOptions::new(SALT) }
}

async fn open(disk: &SimDisk) -> Result<Wal, WalError> {
    Wal::open(Arc::new(disk.clone()), small()).await
}

fn body(index: u64) -> Bytes {
    Bytes::from(format!("entry {index} ").repeat(20))
}

/// Appends and returns what tells when it is durable.
async fn append(wal: &Wal, first: u64, records: Vec<Bytes>) -> oneshot::Receiver<Result<(), WalError>> {
    let (done, outcome) = oneshot::channel();
    let done = Box::new(move |result| drop(done.send(result)));
    wal.append(first, records, done).await.unwrap();
    outcome
}

async fn append_durable(wal: &Wal, range: Range<u64>) {
    for index in range {
        append(wal, index, vec![body(index)]).await.await.unwrap().unwrap();
    }
}

async fn entries(wal: &Wal) -> Vec<u64> {
    let all = wal.read(0..u64::MAX, u64::MAX).await.unwrap();
    assert!(all.iter().all(|(index, found)| *found == body(*index)));
    all.into_iter().map(|(index, _)| index).collect()
}

/// A log of these entries, each in a frame of its own, as a process that is killed leaves it.
async fn written(range: Range<u64>) -> SimDisk {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, range).await;
    disk.kill()
}

fn damage(outcome: Result<Wal, WalError>) -> Damage {
    match outcome {
        Err(WalError::Damaged(damage)) => damage,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test(start_paused = true)]
async fn entries_are_readable_before_and_acknowledged_after_their_sync() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    disk.set_sync_time(Some(Duration::from_secs(1)));
    let mut outcome = append(&wal, 0, vec![body(0), body(1)]).await;
    assert_eq!(entries(&wal).await, [0, 1]);
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(wal.durable_index(), None);
    assert!(outcome.try_recv().is_err());
    outcome.await.unwrap().unwrap();
    assert_eq!(wal.durable_index(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn appends_that_arrive_during_a_sync_share_the_next() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    wal.wait_durable(0).now_or_never();
    disk.set_sync_time(Some(Duration::from_millis(10)));
    let before = disk.syncs();
    let mut outcomes = Vec::new();
    for index in 0..20 {
        outcomes.push(append(&wal, index, vec![body(index)]).await);
        tokio::task::yield_now().await;
    }
    for outcome in outcomes {
        outcome.await.unwrap().unwrap();
    }
    // The first append's own, one for all others, and the next segment's preparation.
    assert!(disk.syncs() - before <= 3, "{} syncs", disk.syncs() - before);
}

#[tokio::test]
async fn a_gap_is_refused_and_changes_nothing() {
    let wal = open(&SimDisk::new()).await.unwrap();
    append_durable(&wal, 5..7).await;
    for first in [0, 5, 6, 8] {
        let refused = wal.append(first, vec![body(first)], Box::new(|_| panic!("called"))).await;
        assert!(matches!(refused, Err(WalError::Gap { expected: 7, .. })), "{refused:?}");
    }
    assert_eq!(entries(&wal).await, [5, 6]);
}

#[tokio::test]
async fn a_read_stops_at_its_limit_but_gives_at_least_one_entry() {
    let wal = open(&SimDisk::new()).await.unwrap();
    append_durable(&wal, 0..50).await;
    let len = body(10).len() as u64;
    let indices = |found: Vec<(u64, Bytes)>| found.into_iter().map(|(i, _)| i).collect::<Vec<_>>();
    assert_eq!(indices(wal.read(10..40, 0).await.unwrap()), [10]);
    assert_eq!(indices(wal.read(10..40, 3 * len).await.unwrap()), [10, 11, 12]);
    assert_eq!(indices(wal.read(48..99, u64::MAX).await.unwrap()), [48, 49]);
    assert!(wal.read(50..99, u64::MAX).await.unwrap().is_empty());
}

#[tokio::test]
async fn old_entries_come_from_their_segments_and_recent_ones_from_memory() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, 0..300).await;
    assert!(disk.list().await.unwrap().len() > 5);
    assert_eq!(entries(&wal).await, (0..300).collect::<Vec<_>>());
    disk.fail_reads();
    assert_eq!(wal.read(295..300, u64::MAX).await.unwrap().len(), 5);
    assert!(matches!(wal.read(0..1, u64::MAX).await, Err(WalError::Failed { .. })));
}

#[tokio::test]
async fn a_truncated_index_is_durable_again_only_when_it_is_written_again() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, 0..10).await;
    wal.truncate_after(Some(4)).await.unwrap();
    assert_eq!((wal.last_index(), wal.durable_index()), (Some(4), Some(4)));
    let outcome = append(&wal, 5, vec![Bytes::from_static(b"other")]).await;
    assert!(wal.wait_durable(5).now_or_never().is_none());
    outcome.await.unwrap().unwrap();
    wal.wait_durable(5).await.unwrap();
    wal.close().await.unwrap();
    let wal = open(&disk.kill()).await.unwrap();
    assert_eq!(wal.read(4..9, u64::MAX).await.unwrap(), [(4, body(4)), (5, Bytes::from_static(b"other"))]);
}

#[tokio::test]
async fn purging_forgets_entries_and_removes_their_files_for_good() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, 0..300).await;
    let before = disk.list().await.unwrap().len();
    wal.purge(250, Bytes::from_static(b"m")).await.unwrap();
    append_durable(&wal, 300..301).await;
    assert!(disk.list().await.unwrap().len() < before / 2);
    wal.purge(100, Bytes::from_static(b"older")).await.unwrap();
    wal.close().await.unwrap();
    let wal = open(&disk.crash(1)).await.unwrap();
    assert_eq!(wal.purged(), Some((250, Bytes::from_static(b"m"))));
    assert_eq!((wal.first_index(), wal.last_index()), (Some(251), Some(300)));
    assert_eq!(entries(&wal).await, (251..301).collect::<Vec<_>>());
}

#[tokio::test]
async fn after_a_reset_the_log_goes_on_behind_the_snapshot() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, 0..10).await;
    wal.reset_to(99, Bytes::from_static(b"s")).await.unwrap();
    assert_eq!((wal.first_index(), wal.last_index(), wal.durable_index()), (None, None, Some(99)));
    append_durable(&wal, 100..102).await;
    wal.close().await.unwrap();
    let wal = open(&disk.kill()).await.unwrap();
    assert_eq!((entries(&wal).await, wal.purged().unwrap().0), (vec![100, 101], 99));
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_survives_idling_and_closing_but_costs_no_sync_of_its_own() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, 0..2).await;
    let before = disk.syncs();
    wal.save_committed(0, Bytes::from_static(b"0"));
    wal.save_committed(1, Bytes::from_static(b"1"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(disk.syncs(), before);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let wal = open(&disk.crash(3)).await.unwrap();
    assert_eq!(wal.committed(), Some((1, Bytes::from_static(b"1"))));
    wal.save_committed(1, Bytes::from_static(b"again"));
    wal.close().await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_fails_everything_from_then_on() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, 0..1).await;
    disk.fail_syncs();
    let outcome = append(&wal, 1, vec![body(1)]).await;
    assert!(matches!(outcome.await.unwrap(), Err(WalError::Failed { .. })));
    assert!(matches!(wal.append(2, vec![body(2)], Box::new(|_| ())).await, Err(WalError::Failed { .. })));
    assert!(matches!(wal.truncate_after(None).await, Err(WalError::Failed { .. })));
    assert!(matches!(wal.wait_durable(1).await, Err(WalError::Failed { .. })));
    assert!(matches!(wal.read(0..1, 1).await, Err(WalError::Failed { .. })));
    let ended = wal.ended().await.unwrap().to_string();
    assert!(ended.contains("cannot sync sim/wal-0000000000000001.log"), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_holds_appends_until_there_is_room() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    let mut space = wal.space();
    append_durable(&wal, 0..1).await;
    disk.set_capacity(Some(16 << 10));
    let mut held = Vec::new();
    for index in 1..120 {
        held.push(append(&wal, index, vec![body(index)]).await);
    }
    space.wait_for(|s| *s == Space::Full).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(wal.durable_index() < Some(119));
    assert_eq!(entries(&wal).await.len(), 120);
    disk.set_capacity(None);
    space.wait_for(|s| *s == Space::Ok).await.unwrap();
    for outcome in held {
        outcome.await.unwrap().unwrap();
    }
    assert_eq!(wal.durable_index(), Some(119));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_that_gets_room_is_noticed_though_nobody_appends() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    let mut space = wal.space();
    disk.set_capacity(Some(16 << 10));
    let mut index = 0;
    while *space.borrow_and_update() == Space::Ok {
        append_durable(&wal, index..index + 1).await;
        tokio::task::yield_now().await;
        index += 1;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*space.borrow(), Space::Full);
    disk.set_capacity(None);
    let noticed = tokio::time::timeout(Duration::from_secs(60), space.wait_for(|s| *s == Space::Ok)).await;
    assert!(noticed.is_ok(), "writes would be refused for ever");
}

/// Closes within a minute, of which it needs one look for room.
async fn close(wal: &Wal) {
    tokio::time::timeout(Duration::from_secs(60), wal.close()).await.expect("it closes").unwrap();
}

/// It waited for room, for its end mark alone, for ever.
#[tokio::test(start_paused = true)]
async fn a_log_on_a_full_disk_closes() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, 0..3).await;
    disk.set_capacity(Some(0));
    close(&wal).await;
    drop(wal);
    disk.set_capacity(None);
    let wal = open(&disk.crash(1)).await.unwrap();
    assert_eq!(entries(&wal).await, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn appends_that_wait_for_room_fail_when_the_log_is_closed_and_the_rest_is_whole() {
    for before in 1..40 {
        let disk = SimDisk::new();
        let wal = open(&disk).await.unwrap();
        append_durable(&wal, 0..before).await;
        disk.set_capacity(Some(0));
        let mut held = Vec::new();
        for index in before..before + 120 {
            held.push(append(&wal, index, vec![body(index)]).await);
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let durable = wal.durable_index().unwrap();
        assert!(durable < before + 119);
        close(&wal).await;
        for (index, outcome) in (before..).zip(held) {
            match outcome.await.unwrap() {
                Ok(()) => assert!(index <= durable),
                Err(WalError::Closed) => assert!(index > durable),
                Err(error) => panic!("{error}"),
            }
        }
        drop(wal);
        disk.set_capacity(None);
        let wal = open(&disk.crash(before)).await.unwrap();
        let found = entries(&wal).await;
        assert!(found.len() as u64 > durable, "{before}: {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn more_than_the_queue_holds_waits_for_the_disk() {
    let disk = SimDisk::new();
    let options = WalOptions { queue_bytes: 700, ..small() };
    let wal = Wal::open(Arc::new(disk.clone()), options).await.unwrap();
    disk.set_sync_time(Some(Duration::from_secs(1)));
    for index in 0..4 {
        drop(append(&wal, index, vec![body(index)]).await);
    }
    assert!(wal.append(4, vec![body(4)], Box::new(|_| ())).now_or_never().is_none());
    drop(append(&wal, 4, vec![body(4)]).await);
    assert!(wal.durable_index() >= Some(0));
}

#[tokio::test]
async fn a_closed_log_refuses_and_has_written_everything() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    let outcome = append(&wal, 0, vec![body(0)]).await;
    wal.close().await.unwrap();
    outcome.await.unwrap().unwrap();
    assert!(matches!(wal.append(1, vec![body(1)], Box::new(|_| ())).await, Err(WalError::Closed)));
    assert_eq!(entries(&open(&disk.crash(0)).await.unwrap()).await, [0]);
}

#[tokio::test]
async fn damage_below_a_later_part_is_refused_with_file_and_offset_wherever_it_is() {
    let disk = written(0..8).await;
    let name = "wal-0000000000000001.log";
    let content = disk.content(name).unwrap();
    let last =
        (0..frame::written_bytes(&content)).rfind(|at| frame::check_frame(&content[*at..], SALT).is_some());
    let last = last.unwrap();
    for (at, byte) in content.iter().enumerate().take(last) {
        let disk = written(0..8).await.kill();
        disk.damage(name, at, &[byte ^ 0x40]);
        let damage = damage(open(&disk).await);
        assert_eq!(damage.file, format!("sim/{name}"));
        assert!(damage.offset <= at as u64, "byte {at}: {damage}");
    }
}

#[tokio::test]
async fn damage_to_the_last_part_is_cut_above_the_floor_and_refused_at_it() {
    let disk = written(0..8).await;
    let name = "wal-0000000000000001.log";
    let content = disk.content(name).unwrap();
    let end = frame::written_bytes(&content);
    for (floor, opens) in [(None, true), (Some(6), true), (Some(7), false)] {
        let disk = written(0..8).await.kill();
        disk.damage(name, end - 1, &[content[end - 1] ^ 1]);
        let found = disk.content(name);
        let options = WalOptions { floor, ..small() };
        match Wal::open(Arc::new(disk.clone()), options).await {
            Ok(wal) => {
                assert!(opens);
                assert_eq!(entries(&wal).await, (0..7).collect::<Vec<_>>());
                append_durable(&wal, 7..9).await;
                wal.close().await.unwrap();
                assert_eq!(entries(&open(&disk.crash(9)).await.unwrap()).await, (0..9).collect::<Vec<_>>());
            }
            Err(error) => {
                assert!(!opens);
                assert!(error.to_string().contains("ends at entry 6, but entry 7 was committed"), "{error}");
                assert_eq!(disk.content(name), found, "what is refused is left as it was");
            }
        }
    }
}

#[tokio::test]
async fn damage_to_a_last_part_known_to_be_committed_is_refused_without_a_floor_from_outside() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, 0..3).await;
    wal.save_committed(2, Bytes::new());
    wal.close().await.unwrap();
    let disk = disk.kill();
    let name = "wal-0000000000000001.log";
    // Entry 2 is followed by the record of what is committed: its damage is below a whole part.
    let content = disk.content(name).unwrap();
    let at = content.windows(8).rposition(|w| w == b"entry 2 ").unwrap();
    disk.damage(name, at, b"X");
    assert!(damage(open(&disk).await).why.contains("later one"));
}

#[tokio::test]
async fn a_missing_segment_is_refused() {
    for gone in [1, 2, 3] {
        let disk = written(0..200).await.kill();
        disk.remove(&recover::segment_name(gone)).await.unwrap();
        let damage = damage(open(&disk).await);
        assert!(damage.why.contains("missing"), "{damage}");
    }
}

#[tokio::test]
async fn a_segment_of_another_directory_is_refused() {
    let disk = written(0..3).await.kill();
    let options = WalOptions { salt: SALT + 1, ..small() };
    let damage = damage(Wal::open(Arc::new(disk), options).await);
    assert!(damage.why.contains("another directory"), "{damage}");
}

#[tokio::test]
async fn a_newer_format_is_refused_as_such() {
    let disk = written(0..3).await.kill();
    let name = "wal-0000000000000001.log";
    let mut head = frame::encode_head(SALT, 1);
    head[7] = frame::FORMAT + 1;
    let crc = crc32fast::hash(&head[..24]);
    head[24..28].copy_from_slice(&crc.to_le_bytes());
    disk.damage(name, 0, &head);
    let refused = open(&disk).await.err().unwrap();
    assert!(matches!(refused, WalError::Newer { found: 2, supported: 1, .. }), "{refused}");
    assert!(refused.to_string().contains(name), "{refused}");
}

#[tokio::test]
async fn bit_rot_found_while_reading_names_the_entry() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, 0..50).await;
    let content = disk.content("wal-0000000000000001.log").unwrap();
    let at = content.windows(8).position(|w| w == b"entry 3 ").unwrap();
    disk.damage("wal-0000000000000001.log", at, b"X");
    let refused = wal.read(0..9, u64::MAX).await.unwrap_err();
    assert!(refused.to_string().contains("entry 3 does not have its checksum"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_process_left_in_the_page_cache_is_synced_before_it_is_called_durable() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, 0..1).await;
    disk.set_sync_time(Some(Duration::from_secs(1_000)));
    let _unsynced = append(&wal, 1, vec![body(1)]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let disk = disk.kill();
    let wal = open(&disk).await.unwrap();
    assert_eq!(wal.durable_index(), Some(1));
    assert_eq!(entries(&open(&disk.crash(0)).await.unwrap()).await, [0, 1]);
}

#[tokio::test]
async fn a_reset_is_durable_only_when_it_is_written() {
    let disk = SimDisk::new();
    let wal = open(&disk).await.unwrap();
    append_durable(&wal, 0..1).await;
    let _unsynced = append(&wal, 1, vec![body(1)]).await;
    tokio::task::yield_now().await;
    let mut reset = Box::pin(wal.reset_to(9, Bytes::new()));
    while wal.durable_index() == Some(0) {
        assert!(reset.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    assert_eq!(wal.durable_index(), Some(1));
    reset.await.unwrap();
    assert_eq!(wal.durable_index(), Some(9));
}

/// The log's file `name`, cut where entry `from` begins a part, as if the rest had never been written.
async fn cut_before(disk: &SimDisk, name: &str, from: u64) {
    let content = disk.content(name).unwrap();
    let text = body(from);
    let entry = content.windows(text.len()).position(|window| window == text).unwrap();
    let part = entry - frame::RECORD_BYTES - frame::FRAME_BYTES;
    disk.damage(name, part, &vec![0; content.len() - part]);
}

#[tokio::test]
async fn a_closed_log_that_was_cut_between_two_parts_is_refused() {
    let name = "wal-0000000000000001.log";
    for closed in [false, true] {
        let disk = written(0..6).await;
        if closed {
            open(&disk).await.unwrap().close().await.unwrap();
        }
        let disk = disk.kill();
        cut_before(&disk, name, 4).await;
        let found = disk.content(name);
        match open(&disk).await {
            Ok(wal) => {
                assert!(!closed);
                assert_eq!(entries(&wal).await, (0..4).collect::<Vec<_>>());
            }
            Err(error) => {
                assert!(closed, "{error}");
                assert!(
                    error.to_string().contains("the last 2 parts that the log had when it was closed"),
                    "{error}"
                );
                assert_eq!(disk.content(name), found, "what is refused is left as it was");
            }
        }
    }
}

#[tokio::test]
async fn a_log_goes_on_after_each_close_and_after_a_kill_between() {
    let mut disk = written(0..3).await;
    for round in 1..5 {
        let wal = open(&disk).await.unwrap();
        append_durable(&wal, round * 3..round * 3 + 3).await;
        if round % 2 == 0 {
            wal.close().await.unwrap();
        }
        disk = disk.crash(round);
    }
    assert_eq!(entries(&open(&disk).await.unwrap()).await, (0..15).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_damaged_end_mark_is_refused_and_a_missing_one_is_not() {
    let marks = ["log-end-0.slot", "log-end-1.slot"];
    let closed = async || {
        let disk = written(0..3).await;
        open(&disk).await.unwrap().close().await.unwrap();
        disk.kill()
    };
    let disk = closed().await;
    disk.damage(marks[0], 26, b"X");
    open(&disk).await.unwrap();
    let disk = closed().await;
    marks.iter().for_each(|mark| disk.damage(mark, 26, b"X"));
    assert!(damage(open(&disk).await).file.contains("log-end"));
    let disk = closed().await;
    for mark in marks {
        disk.remove(mark).await.unwrap();
    }
    open(&disk).await.unwrap();
}

/// The newest segment in use is gone, and the one that was allocated behind it is still there.
#[tokio::test]
async fn an_unused_segment_without_its_predecessor_does_not_pass_for_an_empty_log() {
    for last in [20, 200] {
        let disk = written(0..last).await;
        let names = disk.list().await.unwrap();
        let segments: Vec<&String> = names.iter().filter(|name| recover::is_segment(name)).collect();
        let active = segments[segments.len() - 2];
        disk.remove(active).await.unwrap();
        let damage = damage(open(&disk).await);
        assert!(damage.file.ends_with(active.as_str()) && damage.why.contains("missing"), "{damage}");
        let left = disk.list().await.unwrap();
        assert!(segments.iter().all(|name| *name == active || left.contains(name)), "{left:?}");
    }
}
