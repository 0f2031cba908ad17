//! Filling, against a source that is only a store: what travels, and that the end is right whatever was there before.

use std::collections::BTreeMap;

use super::super::compare;
use super::super::tail::Tail;
use super::super::wire::{Answer, Chunk, Request, SameRun, Write};
use super::coordinator::Coordinator;
use super::learner::Learner;
use super::schedule::Random;
use super::world::*;
use super::*;
use crate::ids::MigrationId;
use crate::replica::memory::{MemoryCopy, MemoryStore};
use crate::replica::store::{ReplicaStore, StoreState};
use crate::wire::Report;

/// The stream's epoch. What was there before is of lower ones.
const EPOCH: Epoch = Epoch(3);

/// How the source answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Well,
    /// As one that does not compare.
    Plainly,
    /// A bit flips on the way.
    Damaged,
    /// Nothing comes.
    Lost,
}

/// A copy that is being filled by a migration.
struct Filling {
    now_ms: u64,
    target: Replica,
    disk: MemoryStore,
    queue: VecDeque<(OpId, StoreAction)>,
    source: MemoryStore,
    /// Before the first of `log`.
    start: Position,
    /// The primary's writes of this epoch.
    log: Vec<Write>,
    /// The number up to which the target was forwarded.
    forwarded: u64,
    asked: Vec<(CallId, Request)>,
    /// Of requests for chunks and their answers, as JSON.
    bytes: usize,
    /// Entries that were sent.
    entries: usize,
    reports: Vec<Report>,
}

fn at(epoch: u64, n: u64) -> Position {
    position(epoch, n)
}

fn entry(position: Position, key: &str, value: &str) -> Write {
    Write { position, key: key.into(), value: Some(Value::from(value.to_owned())) }
}

fn copy_of(last: Position, full: bool, writes: impl IntoIterator<Item = Write>) -> MemoryCopy {
    let state = StoreState { adopted: Epoch(2), full, tail: Tail::after(last) };
    MemoryCopy { state, writes: writes.into_iter().map(|write| (write.key.clone(), write)).collect() }
}

impl Filling {
    /// Over a target and a source with these entries; the source has the log up to `start`.
    fn new(start: Position, target: Vec<Write>, source: Vec<Write>, limits: Limits) -> Self {
        let mut coordinator = Coordinator::new(&[node("n1"), node("n2"), node("n3")], 2);
        (coordinator.founding, coordinator.epoch) = (false, EPOCH.0);
        coordinator.migrate(MigrationKind::Add, &node("n3"), None);
        let disk = MemoryStore::from(Some(copy_of(at(1, 7), false, target)));
        let target = Replica::new(node("n3"), ShardId(0), limits, disk.state().unwrap());
        let mut filling = Self {
            now_ms: 1_000,
            target,
            disk,
            queue: VecDeque::new(),
            source: MemoryStore::from(Some(copy_of(start, true, source))),
            start,
            log: Vec::new(),
            forwarded: start.n,
            asked: Vec::new(),
            bytes: 0,
            entries: 0,
            reports: Vec::new(),
        };
        let mut assignment = coordinator.assignment(&node("n3")).unwrap();
        filling.step(Event::Assigned(Box::new(assignment.clone())));
        filling.store_all();
        filling.open();
        assignment.migration.as_mut().unwrap().phase = Phase::Copying;
        filling.step(Event::Assigned(Box::new(assignment)));
        filling
    }

    fn step(&mut self, event: Event) {
        let mut reported = Vec::new();
        for effect in self.target.step(self.now_ms, event) {
            match effect {
                Effect::Store { op, action } => self.queue.push_back((op, action)),
                Effect::Send { call, request, .. } => self.asked.push((call, request)),
                Effect::Report { report, body } => {
                    reported.push(report);
                    self.reports.push(body);
                }
                Effect::Answer { .. } | Effect::Reply { .. } => {}
            }
        }
        for report in reported {
            self.step(Event::Reported { report, outcome: ReportOutcome::Accepted });
        }
    }

    fn ask(&mut self, request: Request) {
        self.step(Event::Request { ticket: Ticket(1), from: node("n1"), request });
    }

    /// The primary opens a stream at the end of its log.
    fn open(&mut self) {
        let n = self.start.n + self.log.len() as u64;
        let base = self.log.last().map_or(self.start, |write| write.position);
        self.forwarded = n;
        self.ask(Request::Open { epoch: EPOCH, base });
    }

    /// The primary accepts a write.
    fn write(&mut self, key: &str, value: Option<String>) {
        let n = self.start.n + self.log.len() as u64 + 1;
        let value = value.map(Value::from);
        self.log.push(Write { position: Position { epoch: EPOCH, n }, key: key.into(), value });
    }

    fn after(&self, n: u64) -> Option<Write> {
        self.log.get(usize::try_from(n - self.start.n).unwrap()).cloned()
    }

    fn forward(&mut self) {
        let Some(write) = self.after(self.forwarded) else { return };
        let prev = Position { n: self.forwarded, ..write.position };
        let prev = if self.forwarded == self.start.n { self.start } else { prev };
        self.forwarded += 1;
        self.ask(Request::forward(EPOCH, prev, vec![write]));
    }

    fn apply_at_source(&mut self) {
        let n = self.source.state().unwrap().unwrap().tail.last().n;
        self.after(n).into_iter().for_each(|write| self.source.append(&[write]).unwrap());
    }

    fn store_one(&mut self) {
        let Some((op, action)) = self.queue.pop_front() else { return };
        let result = self.disk.carry_out(&action).unwrap();
        self.step(Event::Stored { op, result });
    }

    fn store_all(&mut self) {
        while !self.queue.is_empty() {
            self.store_one();
        }
    }

    /// The source answers the last request, if it is past the base.
    fn answer(&mut self, how: How) {
        let Some((call, request)) = self.asked.pop() else { return };
        self.asked.clear();
        if how == How::Lost {
            return self.step(Event::CallFailed(call));
        }
        let text = serde_json::to_string(&request).unwrap();
        let request = serde_json::from_str(&text).unwrap();
        let Request::Chunk { epoch, base, after, max_bytes, have } = request else { panic!("{request:?}") };
        if self.source.state().unwrap().unwrap().tail.last().n < base.n {
            return self.step(Event::Answer { call, answer: Answer::NotYet { epoch } });
        }
        let have = have.filter(|_| how != How::Plainly);
        let until = have.as_ref().and_then(|have| have.upto.clone());
        let chunk = self.source.read_chunk(after.as_ref(), until.as_ref(), max_bytes).unwrap();
        let mut answer = compare::answer(epoch, have.as_deref(), chunk);
        if let (Answer::Chunk { chunk, .. }, How::Damaged) = (&mut answer, how) {
            flip(chunk);
        }
        if let (Answer::Chunk { digest, .. }, How::Plainly) = (&mut answer, how) {
            *digest = None;
        }
        let told = serde_json::to_string(&answer).unwrap();
        let answer: Answer = serde_json::from_str(&told).unwrap();
        if let Answer::Chunk { chunk, .. } = &answer {
            self.entries += chunk.writes.len();
        }
        self.bytes += text.len() + told.len();
        self.step(Event::Answer { call, answer });
    }

    fn is_full(&self) -> bool {
        self.disk.state().unwrap().unwrap().full
    }

    /// Without faults, to the end.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            self.apply_at_source();
            self.forward();
            self.store_all();
            self.answer(How::Well);
            self.store_all();
            self.now_ms += 50;
            self.step(Event::Tick);
            self.store_all();
            if self.is_full() {
                return;
            }
        }
        panic!("it is not filled: {:?}", self.target);
    }

    /// What the log makes of the source's content.
    fn check(&mut self) {
        while self.source.state().unwrap().unwrap().tail.last().n < self.start.n + self.log.len() as u64 {
            self.apply_at_source();
        }
        while self.forwarded < self.start.n + self.log.len() as u64 {
            self.forward();
            self.store_all();
        }
        let (filled, source) = (self.disk.copy().unwrap(), self.source.copy().unwrap());
        assert_eq!(filled.writes, source.writes);
        assert_eq!(filled.state.tail.last(), source.state.tail.last());
    }

    /// Bytes done and to do as reported.
    fn progress(&self) -> Vec<(u64, u64)> {
        let told = self.reports.iter().filter(|report| report.bytes_done.is_some());
        told.map(|report| (report.bytes_done.unwrap(), report.bytes_total.unwrap_or(0))).collect()
    }
}

fn flip(chunk: &mut Chunk) {
    match chunk.writes.last_mut() {
        Some(Write { value: Some(value), .. }) => *value = Value::from(format!("{}!", value.len())),
        _ => chunk.at.n += 1,
    }
}

fn keys(range: std::ops::Range<usize>, value: &str) -> Vec<Write> {
    range.map(|i| entry(at(2, i as u64 + 1), &format!("k{i:05}"), value)).collect()
}

const VALUE: &str = "0123456789012345678901234567890123456789012345678901234567890123";

fn small_chunks() -> Limits {
    Limits { chunk_bytes: 2_000, ..Limits::default() }
}

/// Any content on both sides, chunks of any size, writes forwarded at any time: it ends equal to the source, with the writes.
#[test]
fn whatever_was_there_before_a_filling_ends_equal_to_the_source_and_keeps_what_was_forwarded() {
    let (mut sames, mut plain, mut runs) = (0, 0, 0);
    for seed in 0..1_500 {
        let mut random = Random(seed);
        let (mut source, mut target) = (Vec::new(), Vec::new());
        for i in 0..12 {
            let key = format!("k{i:02}");
            let there = entry(at(2, 1 + random.below(40) as u64), &key, &format!("v{}", random.below(3)));
            match random.below(8) {
                0..4 => target.push(there.clone()),
                // Damaged, older, and of a tail that was lost.
                4 => target.push(entry(there.position, &key, "?")),
                5 => target.push(entry(at(1, 1 + random.below(60) as u64), &key, "old")),
                6 => target.push(Write { value: None, ..entry(at(1, random.below(90) as u64), &key, "") }),
                _ => {}
            }
            if random.below(5) > 0 {
                source.push(there);
            }
        }
        let limits = Limits { chunk_bytes: 1 + random.below(40) as u64, ..Limits::default() };
        let mut filling = Filling::new(at(2, 50), target, source, limits);
        for step in 0..random.below(300) {
            match random.below(40) {
                0..10 => filling.store_one(),
                10..18 => {
                    if let Some((_, Request::Chunk { have, .. })) = filling.asked.last() {
                        let entries = have.as_ref().is_some_and(|have| have.entries.is_some());
                        (sames, runs) = (sames + usize::from(have.is_some()), runs + usize::from(entries));
                        plain += usize::from(have.is_none());
                    }
                    filling.answer(How::Well);
                }
                18 => filling.answer(How::Lost),
                19 => filling.answer(How::Plainly),
                20 => filling.answer(How::Damaged),
                21..25 => filling.apply_at_source(),
                25..30 => filling.forward(),
                30..37 => {
                    let value = (random.below(3) > 0).then(|| format!("w{step}"));
                    filling.write(&format!("k{:02}", random.below(13)), value);
                }
                37 => {
                    // What comes next does not follow: the stream is over, and another begins.
                    filling.write("k05", None);
                    filling.forwarded = filling.start.n + filling.log.len() as u64 - 1;
                    filling.forward();
                    filling.open();
                }
                _ => {
                    filling.now_ms += 60;
                    filling.step(Event::Tick);
                }
            }
        }
        filling.finish();
        filling.check();
    }
    assert!(sames > 2_000 && plain > 10 && runs > 500, "{sames} {plain} {runs}");
}

#[test]
fn a_filling_that_begins_anew_is_sent_only_what_it_lacks() {
    let source = keys(0..1_000, VALUE);
    let whole = {
        let mut filling = Filling::new(at(2, 1_000), Vec::new(), source.clone(), small_chunks());
        filling.finish();
        assert_eq!(filling.entries, 1_000);
        filling.bytes
    };
    // Of a filling that broke off at three quarters, nothing is sent again but what was being written.
    let mut filling = Filling::new(at(2, 1_000), keys(0..750, VALUE), source, small_chunks());
    filling.write("k00010", Some("new".to_owned()));
    filling.finish();
    filling.check();
    assert!((250..=252).contains(&filling.entries), "{}", filling.entries);
    assert!(filling.bytes < whole * 3 / 10, "{} of {whole}", filling.bytes);
}

#[test]
fn of_ranges_that_differ_only_the_entries_that_do_are_sent() {
    let source: Vec<Write> = keys(0..1_000, VALUE);
    let mut target = source.clone();
    for i in (0..1_000).step_by(10) {
        target[i] = entry(at(1, 5), &format!("k{i:05}"), VALUE);
    }
    target.remove(501);
    target.push(entry(at(1, 9), "k00502-gone", VALUE));
    let mut filling = Filling::new(at(2, 1_000), target, source, small_chunks());
    filling.finish();
    filling.check();
    assert_eq!(filling.entries, 101);
}

#[test]
fn a_copy_that_is_equal_already_is_sent_nothing() {
    let mut filling = Filling::new(at(2, 300), keys(0..300, VALUE), keys(0..300, VALUE), small_chunks());
    filling.finish();
    filling.check();
    assert_eq!(filling.entries, 0);
    assert!(filling.bytes < 5_000, "{}", filling.bytes);
    let (done, total) = *filling.progress().last().unwrap();
    assert_eq!((done, total), (300 * 70, 300 * 70), "what is the same is done too");
}

#[test]
fn damaged_chunks_are_asked_for_again_and_after_three_the_migration_is_told() {
    let mut filling = Filling::new(at(2, 20), Vec::new(), keys(0..20, VALUE), Limits::default());
    let damaged =
        |filling: &Filling| filling.reports.iter().any(|r| r.error.as_deref() == Some("damaged_chunks"));
    filling.store_all();
    for nth in 1..=3 {
        assert!(!damaged(&filling), "{nth}");
        filling.answer(How::Damaged);
        assert!(filling.queue.is_empty(), "nothing damaged is stored");
        assert!(filling.asked.is_empty(), "it waits before it asks again");
        filling.now_ms += 100;
        filling.step(Event::Tick);
        assert_eq!(filling.asked.len(), 1);
    }
    assert!(damaged(&filling));
    filling.finish();
    filling.check();
}

#[test]
fn an_answer_that_does_not_fit_the_question_is_not_believed() {
    let mut filling = Filling::new(at(2, 20), keys(0..10, VALUE), keys(0..20, VALUE), Limits::default());
    filling.store_all();
    let same = |upto: Option<Key>| Answer::Same { epoch: EPOCH, upto, at: at(2, 20), total_bytes: None };
    let chunk = |after: Option<&str>, writes| Chunk {
        after: after.map(Key::from),
        upto: Some("k00005".into()),
        at: at(2, 20),
        writes,
        total_bytes: None,
    };
    let chunk = |after, first, writes| Answer::Chunk {
        epoch: EPOCH,
        chunk: chunk(after, writes),
        same: vec![SameRun { first, count: 1 }],
        digest: None,
    };
    for wrong in [
        same(Some("k00004".into())),
        chunk(None, 0, Vec::new()),
        chunk(Some("k00001"), 0, Vec::new()),
        chunk(None, u32::MAX, Vec::new()),
        chunk(None, 0, keys(6..7, VALUE)),
    ] {
        let (call, _) = filling.asked.pop().unwrap();
        filling.step(Event::Answer { call, answer: wrong.clone() });
        assert!(filling.queue.is_empty() && filling.asked.is_empty(), "{wrong:?}");
        filling.now_ms += 100;
        filling.step(Event::Tick);
    }
    filling.finish();
    filling.check();
}

/// An answer of a type that is not known here comes to nothing.
#[test]
fn a_source_that_answers_comparing_with_what_nobody_knows_is_asked_without() {
    let mut filling = Filling::new(at(2, 20), keys(0..20, VALUE), keys(0..20, VALUE), Limits::default());
    filling.store_all();
    for _ in 0..3 {
        assert!(matches!(filling.asked.last(), Some((_, Request::Chunk { have: Some(_), .. }))));
        filling.answer(How::Lost);
        filling.now_ms += 100;
        filling.step(Event::Tick);
    }
    assert!(matches!(filling.asked.last(), Some((_, Request::Chunk { have: None, .. }))));
    filling.finish();
    filling.check();
    assert_eq!(filling.entries, 20);
}

#[test]
fn the_next_chunk_is_asked_for_while_two_at_most_are_being_stored_and_the_end_waits_for_both() {
    let mut filling = Filling::new(at(2, 100), Vec::new(), keys(0..100, VALUE), small_chunks());
    filling.store_all();
    filling.answer(How::Well);
    assert_eq!((filling.queue.len(), filling.asked.len()), (1, 1));
    filling.answer(How::Well);
    assert_eq!((filling.queue.len(), filling.asked.len()), (2, 0));
    filling.store_one();
    assert_eq!((filling.queue.len(), filling.asked.len()), (1, 1));
    while filling.asked.len() == 1 {
        filling.answer(How::Well);
        let ends = |(_, action): &(OpId, StoreAction)| *action == StoreAction::EndFill;
        assert!(!filling.queue.iter().any(ends), "not before all is on disk");
        filling.store_one();
    }
    filling.finish();
    filling.check();
}

#[test]
fn bytes_done_never_fall_in_a_filling_and_come_to_the_total() {
    let mut filling =
        Filling::new(at(2, 1_000), keys(300..600, VALUE), keys(0..1_000, VALUE), small_chunks());
    for i in 0..400 {
        filling.write(&format!("k{:05}", i * 3), (i % 4 > 0).then(|| VALUE[..i % 60].to_owned()));
    }
    for i in 0..2_000 {
        filling.apply_at_source();
        if i % 3 == 0 {
            filling.forward();
        }
        filling.store_one();
        if i % 2 == 0 {
            filling.answer(if i % 14 == 0 { How::Lost } else { How::Well });
        }
        filling.now_ms += 100;
        filling.step(Event::Tick);
    }
    assert!(filling.is_full());
    let told = filling.progress();
    assert!(told.len() > 10 && told.is_sorted_by_key(|(done, _)| *done), "{told:?}");
    assert!(told.iter().all(|(done, total)| *total == 0 || done <= total), "{told:?}");
    let (done, total) = *told.last().unwrap();
    assert!(done == total && done > 50_000, "{told:?}");
    assert!(filling.reports.last().unwrap().done);
}

#[test]
fn a_copy_made_by_this_process_is_not_read_before_it_is_filled() {
    let mut learner = Learner::new();
    let call = learner.open();
    learner.answer(call, None, position(1, 0), Vec::new());
    assert!(learner.is_full());
    let effects = learner.replica.step(1, Event::Tick);
    assert_eq!(effects, []);
    assert_eq!(learner.coordinator.migration.as_ref().map(|m| MigrationId(m.id)), Some(MigrationId(1)));
}

/// 10,000 keys. `missed` is what the second copy missed since; how much traffic the filling took.
fn bytes_to_catch_up(missed: impl Fn(usize) -> usize) -> usize {
    const KEYS: usize = 10_000;
    let value = "v".repeat(512);
    let mut world = World::new(2, 2);
    world.limits = Limits::default();
    // The copies have adopted the epoch before.
    (world.coordinator.founding, world.coordinator.epoch) = (false, 2);
    for name in world.names() {
        world.crash(&name, 0);
    }
    let before: Vec<Write> =
        (0..KEYS).map(|i| entry(at(1, i as u64 + 1), &format!("k{i:05}"), &value)).collect();
    let mut after: BTreeMap<Key, Write> = before.iter().map(|w| (w.key.clone(), w.clone())).collect();
    for i in 0..3_000 {
        let n = (KEYS + i + 1) as u64;
        let write = entry(at(1, n), &format!("k{:05}", missed(i % 1_500)), &format!("{i:0>512}"));
        after.insert(write.key.clone(), write);
    }
    let lasts = [at(1, KEYS as u64 + 3_000), at(1, KEYS as u64)];
    let contents = [after.into_values().collect(), before];
    for ((name, last), writes) in world.names().iter().zip(lasts).zip(contents) {
        let copy = copy_of(last, true, writes);
        world.nodes.get_mut(name).unwrap().store = MemoryStore::from(Some(copy));
        world.restart(name);
    }
    world.run(30_000);
    assert_eq!(world.coordinator.in_sync.len(), 2, "{:?}", world.coordinator);
    assert_eq!(world.contents().len(), 1);
    world.filling_bytes
}

#[test]
fn a_replica_that_missed_more_than_is_remembered_is_sent_about_what_it_missed() {
    // What is sent of a value is base64 within JSON: 1,500 of them take 1.15 MB, all 10,000 take 7.7 MB.
    let scattered = bytes_to_catch_up(|i| i * 10_000 / 1_500);
    assert!((1_100_000..1_500_000).contains(&scattered), "{scattered}");
    let together = bytes_to_catch_up(|i| 4_000 + i);
    assert!((1_100_000..1_300_000).contains(&together), "{together}");
    println!("scattered {scattered}, together {together}");
}

#[test]
fn a_damaged_forward_is_not_stored_but_sent_again_and_a_copy_that_nothing_reaches_intact_is_dropped() {
    let mut world = World::new(3, 3);
    world.run(500);
    let (n1, n3) = (node("n1"), node("n3"));
    let damage = |world: &mut World, ms: u64| {
        for _ in 0..ms / 50 {
            while !world.messages.is_empty() {
                let mut message = world.messages.remove(0);
                if let Message::Request { to, request: Request::Forward { writes, .. }, .. } = &mut message
                    && *to == node("n3")
                {
                    writes.iter_mut().for_each(|write| write.value = Some(Value::from("other")));
                }
                world.deliver(message);
            }
            world.names().iter().for_each(|name| world.complete_store(name));
            world.names().iter().for_each(|name| world.heartbeat(name));
            world.names().iter().for_each(|name| world.install(name));
            world.tick(50);
        }
    };
    let ticket = world.put(&n1, "k", "v");
    damage(&mut world, 500);
    assert_eq!(world.reply(ticket), None);
    assert_eq!(world.nodes[&n3].store.get("k").unwrap(), None);
    world.run(500);
    assert_eq!(world.reply(ticket).cloned(), written(1, 1));
    assert_eq!(world.coordinator.in_sync.len(), 3);
    let ticket = world.put(&n1, "k", "w");
    damage(&mut world, 2_500);
    assert_eq!(world.reply(ticket).cloned(), written(1, 2));
    assert!(!world.coordinator.in_sync.contains(&n3));
    world.run(3_000);
    assert!(world.coordinator.in_sync.contains(&n3));
    assert_eq!(world.contents().len(), 1);
}
