//! What clients of data nodes did and were told, for the checkers.
//!
//! Each call and each return takes a number from the run's counter, so that all of a run's operations have one order in which
//! no two are equal. A written value is used once in a run, so it names its write.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ruvector_cluster_client::ids::{Epoch, NodeId, Position};

use super::keys::PlacedKey;

/// A run's counter of calls and returns; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<AtomicU64>);

impl Events {
    /// The next number, from 1.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// One operation, from its call to its return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who asked; it has one operation under way at a time.
    pub client: u32,
    /// The event of its call.
    pub call: u64,
    /// The event of its return.
    pub returned: u64,
    /// What it was about.
    pub key: PlacedKey,
    /// What was asked, and what came of it.
    pub act: Recorded,
}

/// What was asked of a key, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It was set, or (own keys only) deleted.
    Write {
        /// Its new value; none: deleted.
        value: Option<String>,
        /// What came of it.
        outcome: WriteOutcome,
    },
    /// It was read; none: without an answer.
    Read(Option<Found>),
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is on every in-sync copy.
    Acknowledged {
        /// Who said so.
        by: NodeId,
        /// Under which epoch, and its number.
        position: Position,
    },
    /// It took effect once, will, or never.
    Unknown,
    /// It had no effect, and never will.
    NotDone,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The primary that answered.
    pub by: NodeId,
    /// Under which epoch.
    pub epoch: Epoch,
    /// The position of the key's last write, where one is there.
    pub position: Option<Position>,
    /// Its value.
    pub value: Option<String>,
}

/// How many operations came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Writes and deletes that were acknowledged.
    pub acknowledged: u64,
    /// Writes and deletes of which nobody knows.
    pub unknown: u64,
    /// Writes and deletes that were not done.
    pub not_done: u64,
    /// Reads that were answered.
    pub read: u64,
    /// Reads that were not.
    pub unread: u64,
}

/// Where operations are written down; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    events: Events,
    all: Arc<Mutex<Vec<Record>>>,
}

impl Recorder {
    /// An empty one that takes its numbers from `events`.
    #[must_use]
    pub fn new(events: Events) -> Self {
        Self { events, all: Arc::default() }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Record>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation is called: the event.
    pub(crate) fn call(&self) -> u64 {
        self.events.next()
    }

    /// The operation called at `call` returned.
    pub(crate) fn returned(&self, client: u32, call: u64, key: &PlacedKey, act: Recorded) {
        let returned = self.events.next();
        self.all().push(Record { client, call, returned, key: key.clone(), act });
    }

    /// All operations so far, in the order of their returns. One that was cut off by the run's end is not among them: its
    /// client must have been stopped first, see [`super::client::DataClient::stop`].
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.all().clone()
    }

    /// How many came to what.
    #[must_use]
    pub fn counts(&self) -> RecordCounts {
        let mut counts = RecordCounts::default();
        for record in self.all().iter() {
            let count = match &record.act {
                Recorded::Write { outcome: WriteOutcome::Acknowledged { .. }, .. } => {
                    &mut counts.acknowledged
                }
                Recorded::Write { outcome: WriteOutcome::Unknown, .. } => &mut counts.unknown,
                Recorded::Write { outcome: WriteOutcome::NotDone, .. } => &mut counts.not_done,
                Recorded::Read(Some(_)) => &mut counts.read,
                Recorded::Read(None) => &mut counts.unread,
            };
            *count += 1;
        }
        counts
    }
}

/// What is wrong with the reads of clients' own keys: a value that neither the owner's last acknowledged write before the read
/// left there, nor one whose outcome it doesn't know, nor one that was under way. It needs no order of other clients' writes.
#[must_use]
pub fn wrong_reads_of_own_keys(records: &[Record]) -> Vec<String> {
    let mut by_key: BTreeMap<&PlacedKey, Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.key.owner.is_some()) {
        by_key.entry(&record.key).or_default().push(record);
    }
    let mut wrong = Vec::new();
    for of_key in by_key.values_mut() {
        of_key.sort_by_key(|record| record.call);
        let reads = of_key.iter().filter_map(|record| match &record.act {
            Recorded::Read(Some(found)) => Some((*record, found)),
            Recorded::Read(None) | Recorded::Write { .. } => None,
        });
        for (read, found) in reads {
            if !may_be_found(of_key, read, found.value.as_ref()) {
                wrong.push(format!("{} told client {} of {:?}: {found:?}", found.by, read.client, read.key));
            }
        }
    }
    wrong
}

fn may_be_found(of_key: &[&Record], read: &Record, value: Option<&String>) -> bool {
    let mut settled: Option<&String> = None;
    let mut may = false;
    for record in of_key.iter().filter(|record| record.call < read.returned) {
        let Recorded::Write { value: written, outcome } = &record.act else { continue };
        match outcome {
            WriteOutcome::NotDone => {}
            WriteOutcome::Acknowledged { .. } if record.returned < read.call => settled = written.as_ref(),
            // One whose outcome is unknown may take effect at any time, also after later ones.
            WriteOutcome::Acknowledged { .. } | WriteOutcome::Unknown => may |= written.as_ref() == value,
        }
    }
    may || settled == value
}

#[cfg(test)]
mod tests {
    use ruvector_cluster_client::ids::ShardId;

    use super::*;

    fn record(call: u64, returned: u64, act: Recorded) -> Record {
        let key = PlacedKey { shard: ShardId(0), key: "own1-0".into(), owner: Some(1) };
        Record { client: 1, call, returned, key, act }
    }

    fn write(call: u64, value: Option<&str>, outcome: WriteOutcome) -> Record {
        record(call, call + 1, Recorded::Write { value: value.map(str::to_owned), outcome })
    }

    fn found(call: u64, value: Option<&str>) -> Record {
        let by = NodeId::new("d1").unwrap();
        let value = value.map(str::to_owned);
        record(call, call + 1, Recorded::Read(Some(Found { by, epoch: Epoch(1), position: None, value })))
    }

    #[test]
    fn a_lost_write_a_stale_read_and_a_delete_undone_are_wrong() {
        let position = Position { epoch: Epoch(1), n: 1 };
        let done = || WriteOutcome::Acknowledged { by: NodeId::new("d1").unwrap(), position };
        let writes = [
            write(1, Some("a"), done()),
            write(3, Some("b"), WriteOutcome::Unknown),
            write(5, Some("c"), WriteOutcome::NotDone),
            write(7, None, done()),
        ];
        let wrong = |read: Record| !wrong_reads_of_own_keys(&[&writes[..], &[read]].concat()).is_empty();
        assert!(!wrong(found(9, None)));
        assert!(!wrong(found(9, Some("b"))), "an unknown write may come late");
        assert!(wrong(found(9, Some("a"))), "a delete undone");
        assert!(wrong(found(9, Some("c"))));
        let early = record(2, 4, Recorded::Read(None));
        assert!(!wrong(Record { act: found(0, Some("b")).act, ..early.clone() }), "one under way");
        assert!(wrong(Record { act: found(0, Some("x")).act, ..early }));
        let lost = [&writes[..1], &[found(9, None)]].concat();
        assert_eq!(wrong_reads_of_own_keys(&lost).len(), 1);
    }
}
