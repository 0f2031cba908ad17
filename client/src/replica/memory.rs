//! A copy in memory: the store's contract in its shortest form, for tests, models and as a yardstick for real stores.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::store::{ReplicaStore, StoreError, StoreState};
use super::tail::{TAIL_ENTRIES, Tail, TailEntry};
use super::wire::{Alignment, Chunk, Write};
use super::{Key, Value};
use crate::ids::{Epoch, Position};

/// A shard's copy, or none.
#[derive(Debug, Default)]
pub struct MemoryStore {
    copy: Mutex<Option<MemoryCopy>>,
}

/// What the store holds: plain data, so that a model can clone, compare and hash it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MemoryCopy {
    /// As a replica is told when it is opened.
    pub state: StoreState,
    /// The last write of each key. Deleted ones only while the copy is filled.
    pub writes: BTreeMap<Key, Write>,
}

impl MemoryStore {
    /// What it holds now.
    pub fn copy(&self) -> Option<MemoryCopy> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<MemoryCopy>> {
        // No method leaves the copy half changed, so a panic elsewhere doesn't matter here.
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, f: impl FnOnce(&mut MemoryCopy) -> T) -> Result<T, StoreError> {
        self.lock().as_mut().map(f).ok_or(StoreError::Missing)
    }
}

impl From<Option<MemoryCopy>> for MemoryStore {
    fn from(copy: Option<MemoryCopy>) -> Self {
        Self { copy: Mutex::new(copy) }
    }
}

impl ReplicaStore for MemoryStore {
    fn state(&self) -> Result<Option<StoreState>, StoreError> {
        Ok(self.lock().as_ref().map(|copy| copy.state.clone()))
    }

    fn get(&self, key: &str) -> Result<Option<Value>, StoreError> {
        self.with(|copy| copy.writes.get(key).and_then(|write| write.value.clone()))
    }

    fn create(&self) -> Result<(), StoreError> {
        let state = StoreState { full: true, ..StoreState::default() };
        *self.lock() = Some(MemoryCopy { state, writes: BTreeMap::new() });
        Ok(())
    }

    fn adopt(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.with(|copy| copy.state.adopted = copy.state.adopted.max(epoch))
    }

    fn append(&self, writes: &[Write]) -> Result<(), StoreError> {
        self.with(|copy| copy.append(writes))
    }

    fn align(&self, alignment: &Alignment) -> Result<(), StoreError> {
        self.with(|copy| copy.align(alignment))
    }

    fn begin_fill(&self, base: Position) -> Result<(), StoreError> {
        self.with(|copy| {
            copy.state.full = false;
            copy.state.tail = Tail::after(base);
        })
    }

    fn fill_range(&self, epoch: Epoch, base: Position, chunk: &Chunk) -> Result<(), StoreError> {
        self.with(|copy| copy.fill_range(epoch, base, chunk))
    }

    fn end_fill(&self) -> Result<(), StoreError> {
        self.with(|copy| {
            copy.writes.retain(|_, write| write.value.is_some());
            copy.state.full = true;
        })
    }

    fn read_keys(&self, keys: &[Key]) -> Result<Vec<Write>, StoreError> {
        let absent = |key: &Key| Write { position: Position::default(), key: key.clone(), value: None };
        self.with(|copy| {
            keys.iter().map(|key| copy.writes.get(key).cloned().unwrap_or_else(|| absent(key))).collect()
        })
    }

    fn read_chunk(
        &self,
        after: Option<&Key>,
        until: Option<&Key>,
        max_bytes: u64,
    ) -> Result<Chunk, StoreError> {
        self.with(|copy| copy.read_chunk(after, until, max_bytes))
    }

    fn delete(&self) -> Result<(), StoreError> {
        *self.lock() = None;
        Ok(())
    }
}

impl MemoryCopy {
    fn append(&mut self, writes: &[Write]) {
        for write in writes {
            assert_eq!(write.position.n, self.state.tail.last().n + 1, "appended writes are gapless");
            let entry = TailEntry { position: write.position, key: write.key.clone() };
            self.state.tail.push(entry, TAIL_ENTRIES);
            self.set(write);
        }
    }

    fn align(&mut self, alignment: &Alignment) {
        for write in &alignment.writes {
            self.set(write);
        }
        self.state.tail.truncate_after(alignment.common);
        for entry in &alignment.tail {
            self.state.tail.push(entry.clone(), TAIL_ENTRIES);
        }
        assert_eq!(self.state.tail.last(), alignment.last, "an alignment's tail leads to its last position");
    }

    fn set(&mut self, write: &Write) {
        if write.value.is_some() || !self.state.full {
            self.writes.insert(write.key.clone(), write.clone());
        } else {
            self.writes.remove(&write.key);
        }
    }

    fn fill_range(&mut self, epoch: Epoch, base: Position, chunk: &Chunk) {
        let start = chunk.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let end = chunk.upto.clone().map_or(Bound::Unbounded, Bound::Included);
        let overwrites = mutants::is_on(mutants::Mutant::ChunkOverForward);
        let forwarded = |write: &Write| !overwrites && write.position.epoch == epoch && write.position > base;
        let local: Vec<Write> = self.writes.range((start, end)).map(|(_, write)| write.clone()).collect();
        for write in local.iter().filter(|write| !forwarded(write)) {
            self.writes.remove(&write.key);
        }
        for write in &chunk.writes {
            let newer = |local: &Write| !overwrites && local.position > write.position;
            if !self.writes.get(&write.key).is_some_and(newer) {
                self.writes.insert(write.key.clone(), write.clone());
            }
        }
    }

    fn read_chunk(&self, after: Option<&Key>, until: Option<&Key>, max_bytes: u64) -> Chunk {
        if after.zip(until).is_some_and(|(after, until)| after >= until) {
            // No range of a map, but an empty one of keys.
            return self.chunk_of(after, until);
        }
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let end = until.map_or(Bound::Unbounded, Bound::Included);
        let mut chunk = self.chunk_of(after, until);
        let mut bytes = 0;
        let live = |(_, write): &(&Key, &Write)| write.value.is_some();
        for (key, write) in self.writes.range::<Key, _>((start, end)).filter(live) {
            if bytes >= max_bytes && !chunk.writes.is_empty() {
                chunk.upto = chunk.writes.last().map(|write| write.key.clone());
                break;
            }
            bytes += u64::try_from(write.size_bytes()).unwrap_or(u64::MAX);
            chunk.writes.push(Write { key: key.clone(), ..write.clone() });
        }
        chunk
    }

    fn chunk_of(&self, after: Option<&Key>, upto: Option<&Key>) -> Chunk {
        let live = self.writes.values().filter(|write| write.value.is_some());
        let total = live.map(|write| write.size_bytes() as u64).sum();
        Chunk {
            after: after.cloned(),
            upto: upto.cloned(),
            at: self.state.tail.last(),
            writes: Vec::new(),
            total_bytes: Some(total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(epoch: u64, n: u64, key: &str, value: Option<&'static str>) -> Write {
        let value = value.map(Value::from_static_str);
        Write { position: Position { epoch: Epoch(epoch), n }, key: key.into(), value }
    }

    trait FromStaticStr {
        fn from_static_str(text: &'static str) -> Self;
    }

    impl FromStaticStr for Value {
        fn from_static_str(text: &'static str) -> Self {
            Value::from_static(text.as_bytes())
        }
    }

    fn keys(store: &MemoryStore) -> Vec<(String, Option<Value>)> {
        let copy = store.copy().unwrap();
        copy.writes.values().map(|write| (write.key.to_string(), write.value.clone())).collect()
    }

    #[test]
    fn a_chunk_makes_its_range_equal_except_keys_forwarded_since_the_base() {
        let store = MemoryStore::default();
        store.create().unwrap();
        // Left-overs of an earlier life: one of a lower epoch above the base in number, one outside of the range.
        store.append(&[write(1, 1, "a", Some("old")), write(1, 2, "z", Some("out"))]).unwrap();
        let base = Position { epoch: Epoch(1), n: 1 };
        store.begin_fill(base).unwrap();
        store.append(&[write(2, 2, "b", Some("new")), write(2, 3, "c", None)]).unwrap();
        let chunk = Chunk {
            after: None,
            upto: Some("m".into()),
            at: base,
            writes: vec![
                write(1, 1, "b", Some("was")),
                write(1, 1, "c", Some("was")),
                write(1, 1, "d", Some("d")),
            ],
            total_bytes: None,
        };
        store.fill_range(Epoch(2), base, &chunk).unwrap();
        store.end_fill().unwrap();
        let value = |text| Some(Value::from_static_str(text));
        let expected = [("b", value("new")), ("d", value("d")), ("z", value("out"))];
        assert_eq!(keys(&store), expected.map(|(key, value)| (key.to_owned(), value)));
    }

    #[test]
    fn chunks_cover_the_keys_without_gap_or_overlap() {
        let store = MemoryStore::default();
        store.create().unwrap();
        for n in 1..=20_u64 {
            store.append(&[write(1, n, &format!("k{n:02}"), Some("v"))]).unwrap();
        }
        let (mut after, mut seen) = (None, Vec::new());
        for _ in 0..100 {
            let chunk = store.read_chunk(after.as_ref(), None, 9).unwrap();
            seen.extend(chunk.writes.iter().map(|write| write.key.clone()));
            after = chunk.upto.clone();
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 20);
        assert!(seen.is_sorted());
    }

    #[test]
    fn a_chunk_ends_where_it_is_told_to_and_names_no_tombstones() {
        let store = MemoryStore::default();
        store.create().unwrap();
        store.begin_fill(Position::default()).unwrap();
        for n in 1..=9_u64 {
            let value = (n != 4).then_some("v");
            store.append(&[write(1, n, &format!("k{n}"), value)]).unwrap();
        }
        let read = |after: &str, until: &str, max_bytes| {
            let chunk = store.read_chunk(Some(&after.into()), Some(&until.into()), max_bytes).unwrap();
            assert_eq!(chunk.total_bytes, Some(8 * 3));
            let keys: Vec<String> = chunk.writes.iter().map(|write| write.key.to_string()).collect();
            (keys.join(" "), chunk.upto.unwrap().to_string())
        };
        let read_as = |keys: &str, upto: &str| (keys.to_owned(), upto.to_owned());
        assert_eq!(read("k2", "k55", 100), read_as("k3 k5", "k55"));
        assert_eq!(read("k2", "k55", 3), read_as("k3", "k3"));
        assert_eq!(read("k2", "k5", 6), read_as("k3 k5", "k5"));
        assert_eq!(read("k7", "k7", 6), read_as("", "k7"));
    }

    #[test]
    fn an_alignment_sets_keys_back_and_replaces_the_tail() {
        let store = MemoryStore::default();
        store.create().unwrap();
        store
            .append(&[
                write(1, 1, "a", Some("1")),
                write(1, 2, "a", Some("lost")),
                write(1, 3, "b", Some("lost")),
            ])
            .unwrap();
        let at = |epoch, n| Position { epoch: Epoch(epoch), n };
        let alignment = Alignment {
            expect: at(1, 3),
            common: at(1, 1),
            tail: vec![TailEntry { position: at(2, 2), key: "c".into() }],
            writes: vec![write(1, 1, "a", Some("1")), write(0, 0, "b", None), write(2, 2, "c", Some("3"))],
            last: at(2, 2),
        };
        store.align(&alignment).unwrap();
        let copy = store.copy().unwrap();
        assert_eq!(copy.state.tail.last(), at(2, 2));
        let found: Vec<_> = copy.writes.values().map(|write| (&*write.key, write.position)).collect();
        assert_eq!(found, [("a", at(1, 1)), ("c", at(2, 2))]);
    }
}
