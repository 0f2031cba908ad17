mod plain;

use std::path::Path;

use plain::{Gate, Plain};

use super::*;
use crate::replica::memory::MemoryStore;

fn at(epoch: u64, n: u64) -> Position {
    Position { epoch: Epoch(epoch), n }
}

fn value(x: u64) -> Value {
    Value::from(format!("{x}"))
}

fn write(epoch: u64, n: u64, key: &str, x: Option<u64>) -> Write {
    Write { position: at(epoch, n), key: key.into(), value: x.map(value) }
}

fn open(dir: &Path) -> Kept<Plain> {
    open_with(dir, &Gate::default())
}

fn open_with(dir: &Path, gate: &Gate) -> Kept<Plain> {
    Kept::open(dir.join("7"), gate.clone())
}

/// Does something while the database takes what was fresh before.
fn during_flush<T>(store: &Kept<Plain>, gate: &Gate, act: impl FnOnce() -> T) -> T {
    let closed = gate.close();
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| store.tend(Idle::Yes).unwrap());
        while !gate.is_wanted() {
            assert!(!flush.is_finished(), "there is something to flush");
            std::thread::yield_now();
        }
        let done = act();
        drop(closed);
        flush.join().unwrap();
        done
    })
}

fn everything(store: &dyn ReplicaStore) -> (StoreState, Vec<Write>) {
    (store.state().unwrap().unwrap(), store.read_chunk(None, None, u64::MAX).unwrap().writes)
}

#[test]
fn what_was_written_is_there_after_a_crash_whether_flushed_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.state().unwrap(), None);
    store.create().unwrap();
    store.adopt(Epoch(4)).unwrap();
    store.append(&[write(4, 1, "a", Some(1)), write(4, 2, "b", Some(2)), write(4, 3, "c", Some(3))]).unwrap();
    store.tend(Idle::Yes).unwrap();
    store.append(&[write(4, 4, "b", None), write(4, 5, "a", Some(9)), write(4, 6, "d", Some(4))]).unwrap();
    let before = everything(&store);
    // No close: as after a crash, the journal is ahead of the database.
    drop(store);
    let store = open(dir.path());
    assert_eq!(everything(&store), before);
    assert_eq!(store.state().unwrap().unwrap().adopted, Epoch(4));
    assert_eq!(store.last(), Some(at(4, 6)));
    assert_eq!(store.size().unwrap().vectors, 3);
    assert_eq!(store.get("b").unwrap(), None);
    assert_eq!(store.get("a").unwrap(), Some(value(9)));
    store.close().unwrap();
    drop(store);
    assert_eq!(everything(&open(dir.path())), before);
}

#[test]
fn a_search_sees_what_the_database_lacks_and_is_told_what_of_it_is_out_of_date() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create().unwrap();
    store.append(&[write(1, 1, "a", Some(1)), write(1, 2, "b", Some(2)), write(1, 3, "c", Some(3))]).unwrap();
    store.tend(Idle::Yes).unwrap();
    store.append(&[write(1, 4, "a", Some(9)), write(1, 5, "b", None), write(1, 6, "d", Some(4))]).unwrap();
    let found = store.search(&()).unwrap();
    assert_eq!(found.current, ["c"]);
    assert_eq!(found.fresh, ["a", "d"]);
    assert_eq!(found.all, ["a", "c", "d"]);
    assert_eq!(found.outdated, 3);
}

#[test]
fn what_changes_while_it_is_flushed_is_as_it_was_changed() {
    for then in ["crash", "go on"] {
        let (dir, gate) = (tempfile::tempdir().unwrap(), Gate::default());
        let store = open_with(dir.path(), &gate);
        store.create().unwrap();
        let writes =
            ["over", "gone", "back", "kept"].iter().zip(1..).map(|(key, n)| write(1, n, key, Some(n)));
        store.append(&writes.collect::<Vec<_>>()).unwrap();
        during_flush(&store, &gate, || {
            store.append(&[write(1, 5, "over", Some(50)), write(1, 6, "gone", None)]).unwrap();
            store.append(&[write(1, 7, "back", None), write(1, 8, "back", Some(80))]).unwrap();
        });
        let before = everything(&store);
        let found = store.search(&()).unwrap();
        assert_eq!(
            (found.current, found.fresh),
            (vec!["kept".to_owned()], vec!["back".to_owned(), "over".to_owned()])
        );
        let store = match then {
            "crash" => {
                drop(store);
                open(dir.path())
            }
            _ => store,
        };
        assert_eq!(everything(&store), before, "{then}");
        store.tend(Idle::Yes).unwrap();
        let found = store.search(&()).unwrap();
        assert_eq!((found.current.len(), found.outdated, found.all.len()), (3, 0, 3), "{then}: {found:?}");
        assert_eq!(everything(&store), before, "{then}");
    }
}

#[test]
fn a_deleted_key_is_not_found_while_the_database_takes_its_value() {
    let (dir, gate) = (tempfile::tempdir().unwrap(), Gate::default());
    let store = open_with(dir.path(), &gate);
    store.create().unwrap();
    store.append(&[write(1, 1, "a", Some(1))]).unwrap();
    during_flush(&store, &gate, || {
        store.append(&[write(1, 2, "a", None)]).unwrap();
        let view = store.copy().unwrap();
        assert!(!view.view().is_current("a"), "the database may have it by now");
    });
    assert!(store.search(&()).unwrap().current.is_empty());
}

#[test]
fn a_journal_that_grows_long_is_begun_anew_with_what_the_database_lacks() {
    let (dir, gate) = (tempfile::tempdir().unwrap(), Gate::default());
    let store = open_with(dir.path(), &gate);
    store.create().unwrap();
    let large = Value::from(vec![7; 1 << 20]);
    let large_write =
        |n: u64| Write { position: at(1, n), key: format!("k{n}").into(), value: Some(large.clone()) };
    for n in 1..=8 {
        store.append(&[large_write(n)]).unwrap();
    }
    let length = || std::fs::metadata(dir.path().join("7/journal")).unwrap().len();
    assert!(length() >= 8 << 20);
    let before = everything(&store);
    store.tend(Idle::No).unwrap();
    assert!(length() < 12 << 20, "{}", length());
    store.append(&[large_write(9)]).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.last(), Some(at(1, 9)));
    assert_eq!(everything(&store).1[..8], before.1[..]);
}

/// A journal of the build before could be read only if its base needs no field of this one's.
#[test]
fn a_base_without_what_the_database_lacks_is_read_as_lacking_nothing() {
    let base = Content::default().base("database-1");
    let mut json = serde_json::to_value(Record::Base(base)).unwrap();
    for field in ["fresh", "doomed"] {
        assert!(json["base"].as_object_mut().unwrap().remove(field).is_some());
    }
    let Record::Base(read) = serde_json::from_value(json).unwrap() else { panic!("another record") };
    assert!(read.fresh.is_empty() && read.doomed.is_empty());
}

#[test]
fn files_that_cannot_be_removed_are_told_and_tried_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create().unwrap();
    store.delete().unwrap();
    // No folder can be removed in the place of a file.
    let gone = dir.path().join("7.gone");
    std::fs::remove_dir_all(&gone).unwrap();
    std::fs::write(&gone, "in the way").unwrap();
    assert!(store.tend(Idle::Yes).is_err(), "else it would be tried again at once, for ever");
    std::fs::remove_file(&gone).unwrap();
    assert!(!store.tend(Idle::Yes).unwrap());
}

#[test]
fn the_files_of_a_copy_that_went_do_not_take_the_room_of_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create().unwrap();
    store.append(&[write(1, 1, "a", Some(1))]).unwrap();
    store.create().unwrap();
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["7"]);
}

#[test]
fn a_torn_tail_loses_only_what_was_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create().unwrap();
    store.append(&[write(1, 1, "a", Some(1))]).unwrap();
    let told = everything(&store);
    store.append(&[write(1, 2, "b", Some(2)), write(1, 3, "c", Some(3))]).unwrap();
    drop(store);
    let path = dir.path().join("7/journal");
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    std::fs::write(&path, &bytes[..end - 6]).unwrap();
    let store = open(dir.path());
    assert_eq!(everything(&store), told, "the group was torn, so all of it is gone");
    store.append(&[write(2, 2, "b", Some(5))]).unwrap();
    drop(store);
    assert_eq!(open(dir.path()).last(), Some(at(2, 2)));
}

#[test]
fn damage_or_a_missing_database_is_told_and_creating_replaces_it() {
    for harm in ["journal", "database"] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.create().unwrap();
        store.append(&[write(1, 1, "a", Some(1))]).unwrap();
        store.append(&[write(1, 2, "b", Some(1))]).unwrap();
        drop(store);
        let copy = dir.path().join("7");
        if harm == "journal" {
            let mut bytes = std::fs::read(copy.join("journal")).unwrap();
            bytes[40] ^= 1;
            std::fs::write(copy.join("journal"), bytes).unwrap();
        } else {
            let files = std::fs::read_dir(&copy).unwrap().map(|file| file.unwrap().path());
            let database =
                files.into_iter().find(|path| path.file_name().is_some_and(|name| name != "journal"));
            std::fs::remove_file(database.unwrap()).unwrap();
        }
        let store = open(dir.path());
        assert!(matches!(store.state(), Err(StoreError::Damaged(_))), "{harm}");
        store.create().unwrap();
        assert_eq!(store.last(), Some(Position::default()));
    }
}

#[test]
fn a_deleted_copy_is_gone_for_good_and_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create().unwrap();
    store.append(&[write(1, 1, "a", Some(1))]).unwrap();
    store.tend(Idle::Yes).unwrap();
    store.delete().unwrap();
    assert!(matches!(store.get("a"), Err(StoreError::Missing)));
    assert!(store.tend(Idle::No).unwrap(), "its files go once nobody waits");
    assert!(!store.tend(Idle::Yes).unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    store.create().unwrap();
    assert_eq!(store.get("a").unwrap(), None);
    assert!(store.search(&()).unwrap().current.is_empty());
}

#[test]
fn a_batch_of_actions_has_a_result_for_each_and_refuses_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let actions = [
        StoreAction::Create,
        StoreAction::Adopt(Epoch(3)),
        StoreAction::Append(vec![write(3, 1, "a", Some(1))]),
        StoreAction::Append(vec![write(3, 2, "b", Some(2))]),
        StoreAction::ReadKeys(vec!["a".into(), "none".into()]),
        StoreAction::Append(vec![write(3, 9, "c", Some(2))]),
    ];
    let results = store.carry_out_all(&actions);
    assert_eq!(results.len(), 6);
    assert!(results[..4].iter().all(|result| *result == StoreResult::Done));
    let StoreResult::Writes(writes) = &results[4] else { panic!("{:?}", results[4]) };
    assert_eq!(writes[0], write(3, 1, "a", Some(1)));
    assert_eq!((writes[1].position, &writes[1].value), (Position::default(), &None));
    assert_eq!(results[5], StoreResult::Failed);
    assert_eq!(store.last(), Some(at(3, 2)));
}

fn alive(copy: &dyn ReplicaStore) -> (StoreState, Vec<Write>) {
    let (state, writes) = everything(copy);
    (state, writes.into_iter().filter(|write| write.value.is_some()).collect())
}

/// The disk store and the model take the same random actions and must agree after each, also across crashes at any point
/// and flushes at any time.
#[test]
fn random_actions_leave_what_the_model_has() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (dir, gate) = (tempfile::tempdir().unwrap(), Gate::default());
    let (mut store, model) = (open_with(dir.path(), &gate), MemoryStore::default());
    for copy in [&store as &dyn ReplicaStore, &model] {
        copy.create().unwrap();
    }
    let mut epoch = 1;
    let mut base = at(0, 0);
    for step in 0..300 {
        let last = model.state().unwrap().unwrap().tail.last();
        let action = match random(12) {
            0..=5 => {
                let key = |random: &mut dyn FnMut(u64) -> u64| format!("k{:02}", random(15));
                let writes = (1..=1 + random(4)).map(|i| {
                    let x = (random(4) > 0).then(|| random(100));
                    write(epoch, last.n + i, &key(&mut random), x)
                });
                StoreAction::Append(writes.collect())
            }
            6 => {
                epoch += 1;
                StoreAction::Adopt(Epoch(epoch))
            }
            7 => {
                base = last;
                StoreAction::BeginFill { base }
            }
            8 if !model.state().unwrap().unwrap().full => {
                let mut keys: Vec<u64> = (0..random(6)).map(|_| random(15)).collect();
                keys.sort_unstable();
                keys.dedup();
                let upto = keys.last().filter(|_| random(2) == 0).map(|key| format!("k{key:02}").into());
                let writes =
                    keys.iter().map(|key| write(epoch, random(base.n + 1), &format!("k{key:02}"), Some(7)));
                let chunk =
                    Chunk { after: None, upto, at: base, writes: writes.collect(), total_bytes: None };
                StoreAction::FillRange { epoch: Epoch(epoch), base, chunk }
            }
            9 => StoreAction::EndFill,
            10 => {
                drop(std::mem::replace(&mut store, Kept::open(dir.path().join("none"), Gate::default())));
                store = open_with(dir.path(), &gate);
                continue;
            }
            _ => {
                store.tend(Idle::Yes).unwrap();
                continue;
            }
        };
        let carry_out = || {
            assert_eq!(store.carry_out_all(std::slice::from_ref(&action)), [StoreResult::Done], "{action:?}")
        };
        if random(3) == 0 && store.copy().unwrap().is_behind() {
            during_flush(&store, &gate, carry_out);
        } else {
            carry_out();
        }
        model.carry_out(&action).unwrap();
        assert_eq!(alive(&store), alive(&model), "step {step}: {action:?}");
        let (after, until): (Key, Key) =
            (format!("k{}", random(15)).into(), format!("k{}", random(15)).into());
        let bytes = random(60);
        let part = |copy: &dyn ReplicaStore| copy.read_chunk(Some(&after), Some(&until), bytes).unwrap();
        assert_eq!(part(&store), part(&model), "step {step}: {after} to {until}");
    }
}

/// A range is compared with its values, so what was damaged here is sent, under the stamp that is here already.
#[test]
fn a_value_that_was_damaged_is_replaced_by_the_sources_under_the_same_stamp() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create().unwrap();
    store.append(&[write(1, 1, "a", Some(1)), write(1, 2, "b", Some(2))]).unwrap();
    store.tend(Idle::Yes).unwrap();
    store.begin_fill(at(1, 2)).unwrap();
    let writes = vec![write(1, 1, "a", Some(9))];
    let chunk = Chunk { after: None, upto: Some("a".into()), at: at(1, 2), writes, total_bytes: None };
    store.fill_range(Epoch(2), at(1, 2), &chunk).unwrap();
    store.end_fill().unwrap();
    assert_eq!((store.get("a").unwrap(), store.get("b").unwrap()), (Some(value(9)), Some(value(2))));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.get("a").unwrap(), Some(value(9)));
}

#[test]
fn a_copy_whose_journal_cannot_be_looked_at_is_damaged_and_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("7").join("journal");
    std::fs::create_dir(journal.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&journal, &journal).unwrap();
    assert!(open(dir.path()).state().is_err());
    assert!(std::fs::symlink_metadata(&journal).is_ok());
}

#[test]
fn a_copy_whose_new_journal_could_not_be_put_in_place_takes_no_more_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create().unwrap();
    store.append(&[write(1, 1, "a", Some(1))]).unwrap();
    let journal = dir.path().join("7").join("journal");
    std::fs::remove_file(&journal).unwrap();
    std::fs::create_dir_all(journal.join("in-the-way")).unwrap();
    assert!(store.close().is_err());
    // The open journal has no name any more: what it took could not be found again.
    assert!(store.append(&[write(1, 2, "b", Some(1))]).is_err());
    assert!(store.state().is_err());
}
