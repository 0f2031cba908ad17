//! Data operations judged by the epochs and positions of their answers, and key by key.
//!
//! 1. A number in a shard's log belongs to one acknowledged write; numbers and epochs rise together.
//! 2. A write has a position above each one that anyone had been told of its shard before it was called.
//! 3. A read tells the newest write of its key up to the highest position that anyone had been told of its shard before it
//!    was called, or a newer one. So what was acknowledged, or read once, on whatever key, doesn't vanish.
//! 4. Some order of each key's operations explains all answers, those on writes of unknown outcome too: see `zones`.
//! 5. Only what was written is read, under the position that its write was told.
//! 6. Nothing that is called after an answer under a higher epoch returned is answered under a lower one.
//! 7. One node answers as primary under an epoch of a shard.
//!
//! Caveat: all this supposes that no shard was given up (`force-primary`, `accept_data_loss`) and no backup restored: those
//! lose writes with the operator's leave. Judge the time before and after apart.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::{Epoch, NodeId, Position, ShardId};

use super::Violation;
use super::history::{DataAct, DataOp, DataRead, DataWriteOutcome, Event};
use super::zones::Register;

/// Rule 1.
pub const POSITIONS: &str = "positions are given once, and rise with the epoch";
/// Rule 2.
pub const WRITE_ORDER: &str = "positions of writes agree with real time";
/// Rule 3.
pub const LOST: &str = "what was acknowledged or read does not vanish";
/// Rule 4.
pub const ORDER: &str = "some order of a key's operations explains every answer";
/// Rule 5.
pub const PHANTOM: &str = "only what was written is read, where it was written";
/// Rule 6.
pub const OLD_EPOCH: &str = "nothing is answered under an epoch that ended before it was asked";
/// Rule 7.
pub const TWO_PRIMARIES: &str = "an epoch of a shard has one primary";
/// The history breaks its own rules.
pub const MALFORMED: &str = "a value names its data write";
/// The final reads leave an acknowledged write unexamined.
pub const NOT_READ_BACK: &str = "every key is read after its last acknowledged write";

/// Every breach of the rules above; see there.
#[must_use]
pub fn check(ops: &[DataOp]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut shards: BTreeMap<ShardId, Shard<'_>> = BTreeMap::new();
    for op in ops {
        shards.entry(op.shard).or_default().ops.push(op);
    }
    for shard in shards.values_mut() {
        shard.note_writes(&mut found);
        shard.note_reads(&mut found);
        shard.check_positions(&mut found);
        shard.check_primaries(&mut found);
        shard.check_real_time(&mut found);
        shard.check_keys(&mut found);
    }
    found
}

/// Keys with an acknowledged write after which no read succeeded, so that nothing shows it kept.
#[must_use]
pub fn check_read_back(ops: &[DataOp]) -> Vec<Violation> {
    let mut last: BTreeMap<(ShardId, &str), (Event, Event)> = BTreeMap::new();
    for op in ops {
        let (written, read) = last.entry((op.shard, &op.key)).or_default();
        match &op.act {
            DataAct::Write { outcome: DataWriteOutcome::Acknowledged { .. }, .. } => {
                *written = op.span.returned.max(*written);
            }
            DataAct::Read(Some(_)) => *read = op.span.call.max(*read),
            DataAct::Write { .. } | DataAct::Read(None) => {}
        }
    }
    let unread = last.into_iter().filter(|(_, (written, read))| written > read);
    let told = unread.map(|((shard, key), (at, _))| format!("shard {shard}, {key}, written at {at}"));
    told.map(|detail| Violation::new(NOT_READ_BACK, detail)).collect()
}

/// What is known of a write.
#[derive(Clone, Copy)]
struct Write<'a> {
    outcome: &'a DataWriteOutcome,
    position: Option<Position>,
}

/// A shard's operations, and its writes by key and value.
#[derive(Default)]
struct Shard<'a> {
    ops: Vec<&'a DataOp>,
    writes: BTreeMap<(&'a str, &'a str), Write<'a>>,
}

/// Who answered, and under which epoch.
fn answered(op: &DataOp) -> Option<(&NodeId, Epoch)> {
    match &op.act {
        DataAct::Write { outcome: DataWriteOutcome::Acknowledged { by, position }, .. } => {
            Some((by, position.epoch))
        }
        DataAct::Read(Some(read)) => Some((&read.by, read.epoch)),
        DataAct::Write { .. } | DataAct::Read(None) => None,
    }
}

impl<'a> Shard<'a> {
    fn note_writes(&mut self, found: &mut Vec<Violation>) {
        for op in &self.ops {
            let DataAct::Write { value, outcome } = &op.act else { continue };
            let position = match outcome {
                DataWriteOutcome::Acknowledged { position, .. } => Some(*position),
                DataWriteOutcome::Unknown | DataWriteOutcome::NotDone => None,
            };
            if self.writes.insert((&op.key, value), Write { outcome, position }).is_some() {
                found.push(Violation::new(MALFORMED, format!("another write has this value: {op:?}")));
            }
        }
    }

    /// Rule 5, and the positions that only reads tell.
    fn note_reads(&mut self, found: &mut Vec<Violation>) {
        for op in &self.ops {
            let DataAct::Read(Some(read)) = &op.act else { continue };
            let Some(value) = read.value.as_deref() else { continue };
            let Some(write) = self.writes.get_mut(&(op.key.as_str(), value)) else {
                found.push(Violation::new(PHANTOM, format!("never written: {op:?}")));
                continue;
            };
            if *write.outcome == DataWriteOutcome::NotDone {
                found.push(Violation::new(PHANTOM, format!("its write was not done: {op:?}")));
            }
            let Some(here) = read.position else { continue };
            if *write.position.get_or_insert(here) != here {
                let detail = format!("its write has {:?}: {op:?}", write.position);
                found.push(Violation::new(PHANTOM, detail));
            }
            if here.epoch > read.epoch {
                found.push(Violation::new(PHANTOM, format!("written under a later epoch: {op:?}")));
            }
        }
    }

    /// Rule 1.
    fn check_positions(&self, found: &mut Vec<Violation>) {
        let placed = self.writes.iter().filter_map(|(name, write)| Some((write.position?, name)));
        let mut by_number: Vec<_> =
            placed.map(|(position, name)| (position.n, position.epoch, name)).collect();
        by_number.sort_unstable();
        for pair in by_number.windows(2) {
            if pair[0].0 == pair[1].0 || pair[0].1 > pair[1].1 {
                let detail = format!("{:?} and {:?} (number, epoch, write)", pair[0], pair[1]);
                found.push(Violation::new(POSITIONS, detail));
            }
        }
    }

    /// Rule 7.
    fn check_primaries(&self, found: &mut Vec<Violation>) {
        let mut primaries: BTreeMap<Epoch, &NodeId> = BTreeMap::new();
        for op in &self.ops {
            let Some((by, epoch)) = answered(op) else { continue };
            let known = *primaries.entry(epoch).or_insert(by);
            if known != by {
                found.push(Violation::new(TWO_PRIMARIES, format!("{known} answered too: {op:?}")));
            }
        }
    }

    /// Rules 2, 3 and 6.
    fn check_real_time(&self, found: &mut Vec<Violation>) {
        let mut numbers: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for ((key, _), write) in &self.writes {
            numbers.entry(key).or_default().extend(write.position.map(|position| position.n));
        }
        numbers.values_mut().for_each(|numbers| numbers.sort_unstable());
        let calls = self.ops.iter().map(|op| (op.span.call, true, *op));
        let returns = self.ops.iter().map(|op| (op.span.returned, false, *op));
        let mut points: Vec<(Event, bool, &DataOp)> = calls.chain(returns).collect();
        points.sort_by_key(|(at, ..)| *at);
        let mut told = (0, 0);
        let mut newest = (Epoch(0), 0);
        // What an operation had to know of is fixed at its call.
        for (at, is_call, op) in points {
            let Some((_, epoch)) = answered(op) else { continue };
            let number = self.number_of(op);
            if !is_call {
                told = told.max((number.unwrap_or(0), at));
                newest = newest.max((epoch, at));
                continue;
            }
            if epoch < newest.0 {
                let detail = format!("{newest:?} (epoch, event) came before {op:?}");
                found.push(Violation::new(OLD_EPOCH, detail));
            }
            match &op.act {
                DataAct::Write { .. } if number.is_some_and(|number| number <= told.0) => {
                    let detail = format!("{told:?} (number, event) came before {op:?}");
                    found.push(Violation::new(WRITE_ORDER, detail));
                }
                DataAct::Read(Some(read)) => {
                    let numbers = numbers.get(op.key.as_str()).map_or(&[][..], Vec::as_slice);
                    let upto = numbers.partition_point(|number| *number <= told.0);
                    let least = upto.checked_sub(1).map_or(0, |last| numbers[last]);
                    if is_older(read, number, least) {
                        let detail =
                            format!("{told:?} (number, event) and number {least} came before {op:?}");
                        found.push(Violation::new(LOST, detail));
                    }
                }
                DataAct::Write { .. } | DataAct::Read(None) => {}
            }
        }
    }

    /// The number of the write that was made or read, as far as it is known.
    fn number_of(&self, op: &DataOp) -> Option<u64> {
        let value = match &op.act {
            DataAct::Write { value, .. } => Some(value.as_str()),
            DataAct::Read(read) => read.as_ref().and_then(|read| read.value.as_deref()),
        };
        let write = self.writes.get(&(op.key.as_str(), value?))?;
        write.position.map(|position| position.n)
    }

    /// Rule 4.
    fn check_keys(&self, found: &mut Vec<Violation>) {
        let mut keys: BTreeMap<&str, Register<'_>> = BTreeMap::new();
        for op in &self.ops {
            let register = keys.entry(&op.key).or_default();
            match &op.act {
                DataAct::Write { value, outcome } => match outcome {
                    DataWriteOutcome::Acknowledged { .. } => {
                        register.write(value, op.span.call, Some(op.span.returned));
                    }
                    DataWriteOutcome::Unknown => register.write(value, op.span.call, None),
                    DataWriteOutcome::NotDone => {}
                },
                DataAct::Read(Some(read)) => register.read(read.value.as_deref(), op.span),
                DataAct::Read(None) => {}
            }
        }
        for (key, register) in keys {
            let wrong = register.conflicts().into_iter();
            found.extend(wrong.map(|wrong| Violation::new(ORDER, format!("{key}: {wrong}"))));
        }
    }
}

/// A read's write has a lower number than `least`. Of a write of unknown outcome none may be known.
fn is_older(read: &DataRead, number: Option<u64>, least: u64) -> bool {
    match (&read.value, number) {
        (None, _) => least > 0,
        (Some(_), Some(number)) => number < least,
        (Some(_), None) => false,
    }
}
