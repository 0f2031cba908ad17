//! A copy's content in memory: which keys there are, with which stamps, and whose values are not in the database yet.
//!
//! No I/O. Applying the same records to a database that already has some of their effects gives the same content, since
//! the last record that touches a key decides, and what it does depends on earlier records and older rows only. That is
//! what lets the journal be replayed over a database that is ahead of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::ids::{Epoch, Position};
use crate::replica::store::StoreState;
use crate::replica::tail::{TAIL_ENTRIES, Tail, TailEntry};
use crate::replica::wire::{Alignment, Chunk, Write};
use crate::replica::{Key, Value};
use serde::{Deserialize, Serialize};

use crate::node::store::{Row, ShardStore, Stamp, StoreFault};

/// Something that happened to a copy, as the journal has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// Begins a journal: all of the copy that is not in the database.
    Base(Base),
    Adopt(Epoch),
    Append(Vec<Write>),
    Align(Alignment),
    BeginFill {
        base: Position,
    },
    FillRange {
        epoch: Epoch,
        base: Position,
        chunk: Chunk,
    },
    EndFill,
}

/// What a journal begins with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Base {
    /// The database's file, beside the journal.
    pub(super) database: String,
    pub(super) adopted: Epoch,
    pub(super) full: bool,
    pub(super) tail: Tail,
    /// While the copy is filled.
    pub(super) tombstones: Vec<(Key, Position)>,
    /// What the database lacks.
    #[serde(default)]
    pub(super) fresh: Vec<Write>,
    /// What it has too much, or may have.
    #[serde(default)]
    pub(super) doomed: Vec<Key>,
}

/// Where the value of a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// In the journal, and here.
    Fresh(Value),
    /// In the database.
    InDatabase,
    /// Nowhere: deleted while the copy is filled.
    Tombstone,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) position: Position,
    pub(super) held: Held,
    /// The database has a row under this key, of this or of an older write; or may have one, while it is flushed.
    in_rows: bool,
    /// Of key and value.
    bytes: u64,
}

impl Entry {
    /// The row of `key`, whose entry this is, if it has a value.
    pub(in crate::node) fn row<S: ShardStore>(
        &self,
        key: &Key,
        store: &S,
    ) -> Result<Option<Row>, StoreFault> {
        let value = match &self.held {
            Held::Fresh(value) => value.clone(),
            Held::InDatabase => {
                store.get(key)?.ok_or_else(|| format!("the database's row of {key:?} is missing"))?
            }
            Held::Tombstone => return Ok(None),
        };
        Ok(Some(Row { key: key.clone(), position: self.position, value }))
    }
}

#[derive(Clone, Debug, Default)]
pub(in crate::node) struct Content {
    pub(super) state: StoreState,
    entries: BTreeMap<Key, Entry>,
    /// Keys whose value the database lacks.
    fresh: BTreeSet<Key>,
    /// Keys that are gone, but for a row in the database.
    doomed: BTreeSet<Key>,
    bytes: u64,
    vectors: u64,
}

impl Content {
    /// The content that a base and a database's rows make.
    pub(super) fn new(base: Base, rows: impl IntoIterator<Item = Stamp>) -> Self {
        let state = StoreState { adopted: base.adopted, full: base.full, tail: base.tail };
        let mut content = Self { state, ..Self::default() };
        for Stamp { key, position, bytes } in rows {
            let bytes = key.len() as u64 + bytes;
            let entry = Entry { position, held: Held::InDatabase, in_rows: true, bytes };
            content.insert(key, entry);
        }
        for key in base.doomed {
            content.remove(&key);
        }
        for (key, position) in base.tombstones {
            content.put(Write { position, key, value: None });
        }
        for write in base.fresh {
            content.put(write);
        }
        content
    }

    /// What a new journal begins with.
    pub(super) fn base(&self, database: &str) -> Base {
        let dead = self.entries.iter().filter(|(_, entry)| entry.held == Held::Tombstone);
        let write = |Row { key, position, value }| Write { position, key, value: Some(value) };
        Base {
            database: database.to_owned(),
            adopted: self.state.adopted,
            full: self.state.full,
            tail: self.state.tail.clone(),
            tombstones: dead.map(|(key, entry)| (key.clone(), entry.position)).collect(),
            fresh: self.fresh(usize::MAX).into_iter().map(write).collect(),
            doomed: self.doomed(usize::MAX),
        }
    }

    /// Applies a record that is on disk.
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            // Only ever the first, and taken by `new`.
            Record::Base(_) => {}
            Record::Adopt(epoch) => self.state.adopted = self.state.adopted.max(epoch),
            Record::Append(writes) => {
                for write in writes {
                    let entry = TailEntry { position: write.position, key: write.key.clone() };
                    self.state.tail.push(entry, TAIL_ENTRIES);
                    self.put(write);
                }
            }
            Record::Align(alignment) => {
                for write in alignment.writes {
                    self.put(write);
                }
                self.state.tail.truncate_after(alignment.common);
                for entry in alignment.tail {
                    self.state.tail.push(entry, TAIL_ENTRIES);
                }
            }
            Record::BeginFill { base } => {
                self.state.full = false;
                self.state.tail = Tail::after(base);
            }
            Record::FillRange { epoch, base, chunk } => self.fill_range(epoch, base, chunk),
            Record::EndFill => {
                self.state.full = true;
                self.entries.retain(|_, entry| entry.held != Held::Tombstone);
            }
        }
    }

    fn put(&mut self, write: Write) {
        let Write { position, key, value } = write;
        match value {
            Some(value) => {
                let bytes = (key.len() + value.len()) as u64;
                let was_doomed = self.doomed.remove(&key);
                let in_rows = was_doomed || self.entries.get(&key).is_some_and(|entry| entry.in_rows);
                self.insert(key.clone(), Entry { position, held: Held::Fresh(value), in_rows, bytes });
                self.fresh.insert(key);
            }
            None => {
                self.remove(&key);
                if !self.state.full {
                    let entry = Entry { position, held: Held::Tombstone, in_rows: false, bytes: 0 };
                    self.entries.insert(key, entry);
                }
            }
        }
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        self.bytes += entry.bytes;
        self.vectors += 1;
        if let Some(old) = self.entries.insert(key, entry) {
            self.forget(&old);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.entries.remove(key) {
            self.forget(&old);
            self.fresh.remove(key);
            if old.in_rows {
                self.doomed.insert(key.clone());
            }
        }
    }

    fn forget(&mut self, old: &Entry) {
        self.bytes -= old.bytes;
        self.vectors -= u64::from(old.held != Held::Tombstone);
    }

    fn fill_range(&mut self, epoch: Epoch, base: Position, chunk: Chunk) {
        let start = chunk.after.map_or(Bound::Unbounded, Bound::Excluded);
        let end = chunk.upto.map_or(Bound::Unbounded, Bound::Included);
        // Also a value whose stamp is the source's is set: it was sent because something else is here.
        let forwarded = |entry: &Entry| entry.position.epoch == epoch && entry.position > base;
        let in_range = self.entries.range::<Key, _>((start, end));
        let leave: Vec<Key> =
            in_range.filter(|(_, entry)| !forwarded(entry)).map(|(key, _)| key.clone()).collect();
        for key in &leave {
            self.remove(key);
        }
        for write in chunk.writes {
            let newer = |entry: &Entry| entry.position > write.position;
            if !self.entries.get(&write.key).is_some_and(newer) {
                self.put(write);
            }
        }
    }

    pub(super) fn entry(&self, key: &str) -> Option<(&Key, &Entry)> {
        self.entries.get_key_value(key)
    }

    /// All keys, ascending.
    pub(in crate::node) fn keys(&self) -> Vec<Key> {
        self.entries.keys().cloned().collect()
    }

    /// The row of `key`, if it has a value.
    pub(in crate::node) fn row<S: ShardStore>(
        &self,
        key: &Key,
        store: &S,
    ) -> Result<Option<Row>, StoreFault> {
        self.entries.get(key).map_or(Ok(None), |entry| entry.row(key, store))
    }

    /// The entries that have a value after one key and up to another, ascending, and where they end: after `max_bytes`, exceeded
    /// by at most one entry, or at `until`.
    pub(super) fn range(
        &self,
        after: Option<&Key>,
        until: Option<&Key>,
        max_bytes: u64,
    ) -> (Vec<(Key, Entry)>, Option<Key>) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let in_range = |(key, _): &(&Key, &Entry)| until.is_none_or(|until| *key <= until);
        let mut found: Vec<(Key, Entry)> = Vec::new();
        let mut bytes = 0;
        for (key, entry) in self.entries.range::<Key, _>((start, Bound::Unbounded)).take_while(in_range) {
            if entry.held == Held::Tombstone {
                continue;
            }
            if let Some((last, _)) = found.last().filter(|_| bytes >= max_bytes) {
                let upto = Some(last.clone());
                return (found, upto);
            }
            bytes += entry.bytes;
            found.push((key.clone(), entry.clone()));
        }
        (found, until.cloned())
    }

    /// Up to `limit` rows that the database lacks.
    pub(in crate::node) fn fresh(&self, limit: usize) -> Vec<Row> {
        let row = |key: &Key| match self.entries.get(key) {
            Some(Entry { position, held: Held::Fresh(value), .. }) => {
                Some(Row { key: key.clone(), position: *position, value: value.clone() })
            }
            Some(_) | None => None,
        };
        self.fresh.iter().filter_map(row).take(limit).collect()
    }

    /// Up to `limit` keys whose row in the database is to go.
    pub(in crate::node) fn doomed(&self, limit: usize) -> Vec<Key> {
        self.doomed.iter().take(limit).cloned().collect()
    }

    /// Up to so many rows and keys of those that the database is to be told of now. Until [`end_flush`](Content::end_flush) says
    /// that it has been, it may have them or not, and whoever is changed meanwhile is told of later.
    pub(super) fn begin_flush(&mut self, rows: usize, keys: usize) -> (Vec<Row>, Vec<Key>) {
        let (fresh, doomed) = (self.fresh(rows), self.doomed(keys));
        for row in &fresh {
            if let Some(entry) = self.entries.get_mut(&row.key) {
                entry.in_rows = true;
            }
        }
        (fresh, doomed)
    }

    /// The database has these rows now, and no longer has these keys.
    pub(super) fn end_flush(&mut self, rows: &[Row], keys: &[Key]) {
        for Row { key, position, value } in rows {
            // A filling may set another value under the same stamp.
            let is_as_flushed = |entry: &&mut Entry| {
                entry.position == *position && matches!(&entry.held, Held::Fresh(held) if held == value)
            };
            if let Some(entry) = self.entries.get_mut(key).filter(is_as_flushed) {
                entry.held = Held::InDatabase;
                self.fresh.remove(key);
            }
        }
        for key in keys {
            self.doomed.remove(key);
        }
    }

    /// How many rows the database lacks.
    pub(super) fn lacking(&self) -> usize {
        self.fresh.len()
    }

    /// How many keys the database has differently.
    pub(super) fn unflushed(&self) -> usize {
        self.fresh.len() + self.doomed.len()
    }

    /// Bytes of keys and values.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keys that have a value.
    pub(super) fn vectors(&self) -> u64 {
        self.vectors
    }
}
