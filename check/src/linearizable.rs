//! Metadata operations judged by revisions.
//!
//! A revision is an index of the log, so acknowledged writes and the states that reads were made from stand in one known
//! order, and no search is needed: the checker asks whether that order agrees with the answers and with real time.
//!
//! 1. An acknowledged write has a revision of its own, above each revision that anyone had been told before it was called.
//! 2. A linearizable read is made from a state no older than anything that anyone had been told before it was called.
//! 3. A read, stale or not, tells the register's value as of both its revisions: the row's and the state's.
//! 4. A write that was refused, or not done, is never read; one of unknown outcome takes effect at one revision or none.
//! 5. A repetition gets the answer that the first request got.
//! 6. `If-Match`: between the revision that was asked for and that of the write, no other write took effect.
//!
//! The revision of a write of unknown outcome is taken to be the lowest row revision at which it was read: it is no higher, and
//! nothing was read in between. Caveat: other changes of a row raise its revision, so a row revision names no write.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::Revision;

use super::Violation;
use super::history::{Consistency, Event, MetadataAct, MetadataOp, MetadataRead, Span, WriteOutcome};
use super::writes::{Fate, Write, writes};
pub use super::writes::{MALFORMED, REPEAT_DIFFERS};

/// Rule 1: two writes share a revision.
pub const REVISION_TWICE: &str = "a revision belongs to one write";
/// Rule 1: a write's revision is not above what was known before it.
pub const WRITE_ORDER: &str = "revisions of writes agree with real time";
/// Rule 2.
pub const STALE: &str = "a linearizable read is not stale";
/// Rule 3.
pub const VALUE: &str = "a read tells the value as of its revisions";
/// Rules 3 and 4: a value that no write can have left.
pub const PHANTOM: &str = "only what was written is read";
/// Rule 6.
pub const CONDITION: &str = "a conditional write takes effect only on the row that it names";
/// The final reads leave an acknowledged write unexamined.
pub const NOT_READ_BACK: &str = "every register is read after its last acknowledged write";

/// Every breach of the rules above; see there.
#[must_use]
pub fn check(ops: &[MetadataOp]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut all = writes(ops, &mut found);
    let reads: Vec<Read<'_>> = ops.iter().filter_map(Read::of).collect();
    place_unknown(&mut all, &reads, &mut found);
    let registers = Registers::of(&all, &mut found);
    for read in &reads {
        registers.check_read(read, &mut found);
    }
    registers.check_conditions(&all, &mut found);
    check_refused_conditions(ops, &reads, &mut found);
    check_real_time(ops, &all, &reads, &mut found);
    found
}

/// Registers with an acknowledged write after which no linearizable read succeeded, so that nothing shows it kept.
#[must_use]
pub fn check_read_back(ops: &[MetadataOp]) -> Vec<Violation> {
    let mut last: BTreeMap<&str, (Event, Event)> = BTreeMap::new();
    for op in ops {
        let (written, read) = last.entry(&op.key).or_default();
        match &op.act {
            MetadataAct::Write { outcome: WriteOutcome::Acknowledged { .. }, .. } => {
                *written = op.span.returned.max(*written);
            }
            MetadataAct::Read { consistency: Consistency::Linearizable, answer: Some(_) } => {
                *read = op.span.call.max(*read);
            }
            MetadataAct::Write { .. } | MetadataAct::Read { .. } => {}
        }
    }
    let unread = last.into_iter().filter(|(_, (written, read))| written > read);
    unread.map(|(key, (at, _))| Violation::new(NOT_READ_BACK, format!("{key}, written at {at}"))).collect()
}

struct Read<'a> {
    key: &'a str,
    span: Span,
    linearizable: bool,
    answer: &'a MetadataRead,
    op: &'a MetadataOp,
}

impl<'a> Read<'a> {
    fn of(op: &'a MetadataOp) -> Option<Self> {
        let MetadataAct::Read { consistency, answer: Some(answer) } = &op.act else { return None };
        let linearizable = *consistency == Consistency::Linearizable;
        Some(Self { key: &op.key, span: op.span, linearizable, answer, op })
    }
}

/// Gives writes of unknown outcome that were read a revision, and finds the values that can't have been read.
fn place_unknown<'a>(all: &mut [Write<'a>], reads: &[Read<'a>], found: &mut Vec<Violation>) {
    let by_value: BTreeMap<_, _> =
        all.iter().enumerate().map(|(at, write)| ((write.key, write.value), at)).collect();
    for read in reads {
        let Some(value) = read.answer.value.as_deref() else { continue };
        let Some(write) = by_value.get(&(read.key, value)).map(|at| &mut all[*at]) else {
            found.push(Violation::new(PHANTOM, format!("never written: {:?}", read.op)));
            continue;
        };
        if write.fate == Fate::Never {
            found.push(Violation::new(PHANTOM, format!("its write was refused or not done: {:?}", read.op)));
        }
        if read.span.returned < write.call {
            found
                .push(Violation::new(PHANTOM, format!("written only from {} on: {:?}", write.call, read.op)));
        }
        if write.fate == Fate::Maybe {
            let here = read.answer.row_revision;
            write.revision = Some(write.revision.map_or(here, |before| before.min(here)));
        }
    }
}

/// Of each register, the revisions at which it changed and the value that it took.
struct Registers<'a>(BTreeMap<&'a str, Vec<(Revision, &'a str)>>);

impl<'a> Registers<'a> {
    fn of(all: &[Write<'a>], found: &mut Vec<Violation>) -> Self {
        let mut taken = BTreeMap::new();
        for write in all.iter().filter(|write| write.fate == Fate::Done) {
            let Some(revision) = write.revision else { continue };
            if let Some(other) = taken.insert(revision, write.value) {
                let detail = format!("revision {revision}: {other} and {}", write.value);
                found.push(Violation::new(REVISION_TWICE, detail));
            }
        }
        let mut effects: BTreeMap<&str, Vec<(Revision, bool, &str)>> = BTreeMap::new();
        for write in all.iter().filter(|write| write.fate != Fate::Never) {
            let Some(revision) = write.revision else { continue };
            // A write of unknown outcome was no later than where it stands, so that an acknowledged one there follows it.
            effects.entry(write.key).or_default().push((revision, write.fate == Fate::Done, write.value));
        }
        let sorted = effects.into_iter().map(|(key, mut effects)| {
            effects.sort_unstable();
            (key, effects.into_iter().map(|(revision, _, value)| (revision, value)).collect())
        });
        Self(sorted.collect())
    }

    fn history(&self, key: &str) -> &[(Revision, &'a str)] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    fn value_at(&self, key: &str, revision: Revision) -> Option<(Revision, &'a str)> {
        let history = self.history(key);
        let upto = history.partition_point(|(at, _)| *at <= revision);
        upto.checked_sub(1).map(|last| history[last])
    }

    fn check_read(&self, read: &Read<'_>, found: &mut Vec<Violation>) {
        let answer = read.answer;
        if answer.row_revision > answer.cluster_revision {
            found.push(Violation::new(VALUE, format!("a row newer than the state: {:?}", read.op)));
        }
        for revision in [answer.row_revision, answer.cluster_revision] {
            let expected = self.value_at(read.key, revision);
            if expected.map(|(_, value)| value) != answer.value.as_deref() {
                let detail = format!("at revision {revision} it is {expected:?}: {:?}", read.op);
                found.push(Violation::new(VALUE, detail));
                return;
            }
        }
    }

    fn check_conditions(&self, all: &[Write<'_>], found: &mut Vec<Violation>) {
        for write in all.iter().filter(|write| write.fate != Fate::Never) {
            let (Some(seen), Some(revision)) = (write.if_match, write.revision) else { continue };
            let history = self.history(write.key);
            let from = history.partition_point(|(at, _)| *at <= seen);
            let between = history[from..].iter().find(|(at, value)| *at < revision && *value != write.value);
            if let Some(between) = between {
                found.push(Violation::new(CONDITION, format!("{between:?} came before {write:?}")));
            }
            if seen >= revision {
                found.push(Violation::new(CONDITION, format!("it names a later revision: {write:?}")));
            }
        }
    }
}

/// The other half of rule 6: a condition that held for as long as the request was under way is not refused.
fn check_refused_conditions(ops: &[MetadataOp], reads: &[Read<'_>], found: &mut Vec<Violation>) {
    // When each revision of each row was first known to be there, and when it was last seen to be there still.
    let mut first: BTreeMap<(&str, Revision), Event> = BTreeMap::new();
    let mut last: BTreeMap<(&str, Revision), Event> = BTreeMap::new();
    for read in reads {
        let row = (read.key, read.answer.row_revision);
        let at = first.entry(row).or_insert(read.span.returned);
        *at = read.span.returned.min(*at);
        if read.linearizable {
            let at = last.entry(row).or_default();
            *at = read.span.call.max(*at);
        }
    }
    for op in ops {
        let MetadataAct::Write { if_match: Some(seen), outcome: WriteOutcome::Refused { code }, .. } =
            &op.act
        else {
            continue;
        };
        let row = (op.key.as_str(), *seen);
        let stood = first.get(&row).is_some_and(|first| *first < op.span.call)
            && last.get(&row).is_some_and(|last| *last > op.span.returned);
        if stood && code == "precondition_failed" {
            found.push(Violation::new(CONDITION, format!("the row stood at that revision: {op:?}")));
        }
    }
}

/// What happens at one event number, as far as rules 1 and 2 are concerned.
#[derive(Clone, Copy)]
enum Point<'a> {
    Told(Revision),
    Write(&'a Write<'a>),
    Read(&'a Read<'a>),
}

fn check_real_time<'a>(
    ops: &[MetadataOp],
    all: &'a [Write<'a>],
    reads: &'a [Read<'a>],
    found: &mut Vec<Violation>,
) {
    let mut points: Vec<(Event, Point<'a>)> = Vec::new();
    for op in ops {
        if let MetadataAct::Write { outcome: WriteOutcome::Acknowledged { revision }, .. } = &op.act {
            points.push((op.span.returned, Point::Told(*revision)));
        }
    }
    for read in reads {
        points.push((read.span.returned, Point::Told(read.answer.cluster_revision)));
        points.push((read.span.call, Point::Read(read)));
    }
    points.extend(all.iter().map(|write| (write.call, Point::Write(write))));
    points.sort_by_key(|(at, _)| *at);
    let mut told = (Revision(0), 0);
    for (at, point) in points {
        match point {
            Point::Told(revision) => told = told.max((revision, at)),
            Point::Write(write) if write.fate != Fate::Never => {
                if write.revision.is_some_and(|revision| revision <= told.0) {
                    let detail = format!("{told:?} (revision, event) came before {write:?}");
                    found.push(Violation::new(WRITE_ORDER, detail));
                }
            }
            Point::Read(read) if read.linearizable && read.answer.cluster_revision < told.0 => {
                let detail = format!("{told:?} (revision, event) came before {:?}", read.op);
                found.push(Violation::new(STALE, detail));
            }
            Point::Write(_) | Point::Read(_) => {}
        }
    }
}
