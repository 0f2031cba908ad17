//! Registers judged without revisions, epochs or positions: is there an order that explains every answer?
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) as Lowe made it fast ("Testing for
//! linearizability", 2017): operations are tried in the order of their calls, an operation that returned can't be passed
//! over, and a set of operations done, with the value that they left, is explored once. Linearizability is local, so each
//! register is searched alone (Herlihy and Wing, 1990).
//!
//! A write of unknown outcome never returns: it may come at any point after its call, or never. Those that nobody read are
//! left out, since an order with such a write is an order without it as well. Failed and stale reads say nothing.
//!
//! Caveat: the search is exponential at worst, so it is bounded; a register that is too large is a violation, since nothing
//! was shown of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ruvector_cluster_client::ids::ShardId;

use super::Violation;
use super::history::{Consistency, DataAct, DataOp, DataWriteOutcome, Event, MetadataAct, MetadataOp};
use super::writes::{Fate, writes};

/// No order of the operations explains the answers.
pub const NOT_LINEARIZABLE: &str = "some order of the operations explains every answer";
/// The bounds were reached.
pub const TOO_LARGE: &str = "a register's history is small enough to be searched";

/// Bounds of the search, for each register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Operations.
    pub ops: usize,
    /// Operations tried.
    pub steps: u64,
}

impl Default for Bounds {
    /// A second or so for each register, and at most about 100 MB, at worst; a history of a few clients needs a few
    /// steps an operation.
    fn default() -> Self {
        Self { ops: 20_000, steps: 2_000_000 }
    }
}

/// Searches an order for each metadata register.
#[must_use]
pub fn check_metadata(ops: &[MetadataOp], bounds: Bounds) -> Vec<Violation> {
    // What is wrong with the history itself is said by the checker that goes by revisions.
    let all = writes(ops, &mut Vec::new());
    let mut registers: BTreeMap<&str, Vec<Op<'_>>> = BTreeMap::new();
    for write in all.iter().filter(|write| write.fate != Fate::Never) {
        let op = Op { call: write.call, returned: write.returned, act: Act::Write(write.value) };
        registers.entry(write.key).or_default().push(op);
    }
    for op in ops {
        let MetadataAct::Read { consistency: Consistency::Linearizable, answer: Some(answer) } = &op.act
        else {
            continue;
        };
        let act = Act::Read(answer.value.as_deref());
        let read = Op { call: op.span.call, returned: op.span.returned, act };
        registers.entry(&op.key).or_default().push(read);
    }
    registers.into_iter().filter_map(|(key, ops)| verdict(key, ops, bounds)).collect()
}

/// Searches an order for each data key.
#[must_use]
pub fn check_data(ops: &[DataOp], bounds: Bounds) -> Vec<Violation> {
    let mut registers: BTreeMap<(ShardId, &str), Vec<Op<'_>>> = BTreeMap::new();
    for op in ops {
        let (act, returned) = match &op.act {
            DataAct::Write { value, outcome: DataWriteOutcome::Acknowledged { .. } } => {
                (Act::Write(value), op.span.returned)
            }
            DataAct::Write { value, outcome: DataWriteOutcome::Unknown } => (Act::Write(value), Event::MAX),
            DataAct::Read(Some(read)) => (Act::Read(read.value.as_deref()), op.span.returned),
            DataAct::Write { outcome: DataWriteOutcome::NotDone, .. } | DataAct::Read(None) => continue,
        };
        registers.entry((op.shard, &op.key)).or_default().push(Op { call: op.span.call, returned, act });
    }
    let verdicts = registers
        .into_iter()
        .map(|((shard, key), ops)| verdict(&format!("shard {shard}, {key}"), ops, bounds));
    verdicts.flatten().collect()
}

/// An operation that took effect between its call and its return, or, where it never returned, after its call or never.
#[derive(Clone, Copy, Debug)]
struct Op<'a> {
    call: Event,
    returned: Event,
    act: Act<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act<'a> {
    Write(&'a str),
    Read(Option<&'a str>),
}

fn verdict(register: &str, mut ops: Vec<Op<'_>>, bounds: Bounds) -> Option<Violation> {
    let read: BTreeSet<&str> =
        ops.iter().filter_map(|op| if let Act::Read(v) = op.act { v } else { None }).collect();
    ops.retain(|op| op.returned != Event::MAX || matches!(op.act, Act::Write(value) if read.contains(value)));
    ops.sort_by_key(|op| op.call);
    if ops.len() > bounds.ops {
        return Some(Violation::new(TOO_LARGE, format!("{register}: {} operations", ops.len())));
    }
    let mut search = Search::new(&ops);
    match search.run(bounds.steps) {
        Found::Order => None,
        Found::None => {
            let stuck = search.deepest.map(|at| ops[at]);
            Some(Violation::new(NOT_LINEARIZABLE, format!("{register}: nothing leads past {stuck:?}")))
        }
        Found::TooLarge => Some(Violation::new(TOO_LARGE, format!("{register}: {} steps", bounds.steps))),
    }
}

enum Found {
    Order,
    None,
    TooLarge,
}

/// The entries (calls and returns, in the order of time) that are not done yet are a doubly linked list; entry 0 is its head.
struct Search<'a> {
    ops: &'a [Op<'a>],
    entries: Vec<Entry>,
    next: Vec<usize>,
    before: Vec<usize>,
    /// Of each operation: its entries. One that never returned has no second one.
    places: Vec<(usize, Option<usize>)>,
    done: Done,
    value: Option<&'a str>,
    /// Operations that returned and are not done.
    required: usize,
    /// The return that the search was stuck at farthest from the beginning: the place to look at.
    deepest: Option<usize>,
    deepest_entry: usize,
}

#[derive(Clone, Copy)]
enum Entry {
    Head,
    Call(usize),
    Return(usize),
}

impl<'a> Search<'a> {
    fn new(ops: &'a [Op<'a>]) -> Self {
        let calls = ops.iter().enumerate().map(|(at, op)| (op.call, Entry::Call(at)));
        let returning = ops.iter().enumerate().filter(|(_, op)| op.returned != Event::MAX);
        let returns = returning.map(|(at, op)| (op.returned, Entry::Return(at)));
        let mut timed: Vec<(Event, Entry)> = calls.chain(returns).collect();
        timed.sort_by_key(|(at, _)| *at);
        let mut entries = vec![Entry::Head];
        entries.extend(timed.into_iter().map(|(_, entry)| entry));
        let mut places = vec![(0, None); ops.len()];
        for (at, entry) in entries.iter().enumerate() {
            match entry {
                Entry::Head => {}
                Entry::Call(op) => places[*op].0 = at,
                Entry::Return(op) => places[*op].1 = Some(at),
            }
        }
        let required = places.iter().filter(|(_, returned)| returned.is_some()).count();
        Self {
            ops,
            next: (1..=entries.len()).collect(),
            before: (0..=entries.len()).map(|at| at.saturating_sub(1)).collect(),
            entries,
            places,
            done: Done::new(ops.len()),
            value: None,
            required,
            deepest: None,
            deepest_entry: 0,
        }
    }

    fn run(&mut self, max_steps: u64) -> Found {
        let mut explored: HashSet<(usize, Vec<u64>, Option<&'a str>)> = HashSet::new();
        let mut path: Vec<(usize, Option<&'a str>)> = Vec::new();
        let mut steps = 0;
        let mut at = self.next[0];
        while self.required > 0 {
            match self.entries.get(at).copied() {
                Some(Entry::Call(op)) => {
                    steps += 1;
                    if steps > max_steps {
                        return Found::TooLarge;
                    }
                    at = match self.after(op) {
                        Some(value) if self.is_new(op, value, &mut explored) => {
                            path.push((op, self.value));
                            self.value = value;
                            self.take(op);
                            self.next[0]
                        }
                        _ => self.next[at],
                    };
                }
                entry => {
                    if let Some(Entry::Return(op)) = entry
                        && at > self.deepest_entry
                    {
                        (self.deepest, self.deepest_entry) = (Some(op), at);
                    }
                    let Some((op, value)) = path.pop() else { return Found::None };
                    self.value = value;
                    self.put_back(op);
                    at = self.next[self.places[op].0];
                }
            }
        }
        Found::Order
    }

    /// The value after the operation, if it can come next.
    fn after(&self, op: usize) -> Option<Option<&'a str>> {
        match self.ops[op].act {
            Act::Write(value) => Some(Some(value)),
            Act::Read(value) => (value == self.value).then_some(self.value),
        }
    }

    fn is_new(
        &mut self,
        op: usize,
        value: Option<&'a str>,
        explored: &mut HashSet<(usize, Vec<u64>, Option<&'a str>)>,
    ) -> bool {
        self.done.flip(op);
        let (from, words) = self.done.compact();
        self.done.flip(op);
        explored.insert((from, words, value))
    }

    fn take(&mut self, op: usize) {
        self.done.flip(op);
        let (call, returned) = self.places[op];
        self.unlink(call);
        if let Some(returned) = returned {
            self.unlink(returned);
            self.required -= 1;
        }
    }

    fn put_back(&mut self, op: usize) {
        self.done.flip(op);
        let (call, returned) = self.places[op];
        if let Some(returned) = returned {
            self.relink(returned);
            self.required += 1;
        }
        self.relink(call);
    }

    fn unlink(&mut self, entry: usize) {
        let (before, next) = (self.before[entry], self.next[entry]);
        self.next[before] = next;
        self.before[next] = before;
    }

    fn relink(&mut self, entry: usize) {
        let (before, next) = (self.before[entry], self.next[entry]);
        self.next[before] = entry;
        self.before[next] = entry;
    }
}

/// The set of operations that are done. All but the last few calls are done, or none of the later: so it is short once
/// the full words at its beginning and the empty ones at its end are left off.
struct Done {
    words: Vec<u64>,
    /// Full words at the beginning.
    full: usize,
    /// No word from here on has a bit.
    used: usize,
}

impl Done {
    fn new(ops: usize) -> Self {
        Self { words: vec![0; ops.div_ceil(64)], full: 0, used: 0 }
    }

    fn flip(&mut self, op: usize) {
        let word = op / 64;
        self.words[word] ^= 1 << (op % 64);
        self.full = self.full.min(word);
        while self.words.get(self.full) == Some(&u64::MAX) {
            self.full += 1;
        }
        self.used = self.used.max(word + 1);
        while self.used > 0 && self.words[self.used - 1] == 0 {
            self.used -= 1;
        }
    }

    fn compact(&self) -> (usize, Vec<u64>) {
        (self.full, self.words[self.full.min(self.used)..self.used].to_vec())
    }
}
