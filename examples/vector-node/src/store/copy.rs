//! An open copy: the journal, the content in memory, and the database behind them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use ruvector_cluster_client::copies::{CopySize, Idle};
use ruvector_cluster_client::ids::{Epoch, Position};
use ruvector_cluster_client::replica::store::StoreState;
use ruvector_cluster_client::replica::tail::Tail;
use ruvector_cluster_client::replica::wire::{Chunk, Write};
use ruvector_cluster_client::replica::{Key, Value};
use ruvector_core::distance::euclidean_distance;

use super::content::{Base, Content, Held, Record};
use super::journal::{self, Journal, JournalError};
use super::rows::{Rows, RowsError};
use super::value::Point;
use super::{CopyError, Hit};

/// Keys that may differ from the database before they are flushed.
const FLUSH_AT: usize = 128;
/// Most points of one flush: a transaction of some milliseconds, for which the next write waits.
const FLUSH_POINTS: usize = 128;
/// Most deletes of one flush: each is a transaction with an fsync of its own.
const FLUSH_DELETES: usize = 4;
/// How often a search that a flush came in between of is tried again, before it holds up writes.
const SEARCH_TRIES: usize = 2;
/// Keys that may be written while the database is searched.
const SEARCH_SLACK: usize = 16;
/// Journal size from which a new one is begun.
const JOURNAL_BYTES: u64 = 8 << 20;
/// A copy that is open.
pub(super) struct Copy {
    dir: PathBuf,
    rows: Rows,
    database: String,
    journal: Mutex<Journal>,
    content: RwLock<Content>,
    failed: AtomicBool,
}

pub(super) fn unpoison<T>(result: Result<T, PoisonError<T>>) -> T {
    // A thread that panicked while it changed a copy ended the process (see the worker); tests apart.
    result.unwrap_or_else(PoisonError::into_inner)
}

impl Copy {
    /// Makes an empty, full copy in `dir`, which is not there.
    pub(super) fn make(dir: &Path, dimensions: usize) -> Result<Self, CopyError> {
        std::fs::create_dir_all(dir)?;
        journal::sync_parent(dir)?;
        let database = format!("vectors-{:016x}.redb", random_u64()?);
        let rows = Rows::open(&dir.join(&database), dimensions).map_err(damaged)?;
        let empty = Base {
            database: database.clone(),
            adopted: Epoch(0),
            full: true,
            tail: Tail::default(),
            tombstones: Vec::new(),
        };
        let content = Content::new(empty.clone(), []);
        let journal = Journal::replace(&dir.join("journal"), &[Record::Base(empty)])?;
        Ok(Self {
            dir: dir.to_owned(),
            rows,
            database,
            journal: Mutex::new(journal),
            content: RwLock::new(content),
            failed: AtomicBool::new(false),
        })
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    pub(super) fn state(&self) -> StoreState {
        unpoison(self.content.read()).state.clone()
    }

    pub(super) fn size(&self) -> CopySize {
        let content = unpoison(self.content.read());
        CopySize { vectors: content.vectors(), bytes: content.bytes() }
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Value>, CopyError> {
        let content = unpoison(self.content.read());
        Ok(self.write_of(&content, key)?.value)
    }

    pub(super) fn read_keys(&self, keys: &[Key]) -> Result<Vec<Write>, CopyError> {
        let content = unpoison(self.content.read());
        keys.iter().map(|key| self.write_of(&content, key)).collect()
    }

    pub(super) fn read_chunk(&self, after: Option<&Key>, max_bytes: u64) -> Result<Chunk, CopyError> {
        let content = unpoison(self.content.read());
        let at = content.state.tail.last();
        let mut chunk = Chunk { after: after.cloned(), upto: None, at, writes: Vec::new() };
        let mut bytes = 0;
        for (key, _) in content.after(after).filter(|(_, entry)| entry.held != Held::Tombstone) {
            if bytes >= max_bytes && !chunk.writes.is_empty() {
                chunk.upto = chunk.writes.last().map(|write| write.key.clone());
                break;
            }
            let write = self.write_of(&content, key)?;
            bytes += write.size_bytes() as u64;
            chunk.writes.push(write);
        }
        Ok(chunk)
    }

    pub(super) fn search(&self, vector: &[f32], k: usize) -> Result<Vec<Hit>, CopyError> {
        for _ in 0..SEARCH_TRIES {
            let (margin, flushes) = {
                let content = unpoison(self.content.read());
                (content.unflushed() + SEARCH_SLACK, content.flushes())
            };
            // Writes don't wait meanwhile. Rows that are out of date are those of keys that are not flushed afterwards either,
            // unless a flush was noted in between; of the former there may be no more than were allowed for.
            let found = self.rows.search(vector, k.saturating_add(margin)).map_err(damaged)?;
            let content = unpoison(self.content.read());
            if content.flushes() == flushes && content.unflushed() <= margin {
                return Self::merge(&content, found, vector, k);
            }
        }
        let content = unpoison(self.content.read());
        let found = self.rows.search(vector, k.saturating_add(content.unflushed())).map_err(damaged)?;
        Self::merge(&content, found, vector, k)
    }

    /// What was found in the database, without rows that are out of date, and with what is not in there.
    fn merge(
        content: &Content,
        found: Vec<(String, f32)>,
        vector: &[f32],
        k: usize,
    ) -> Result<Vec<Hit>, CopyError> {
        let current = found.into_iter().filter(|(id, _)| content.is_in_database(id));
        let mut hits: Vec<Hit> = current.map(|(id, score)| Hit { id, score }).collect();
        for write in content.fresh(usize::MAX) {
            let point = write.value.as_deref().map(Point::decode).transpose().map_err(damaged)?;
            if let Some(point) = point.filter(|point| point.vector.len() == vector.len()) {
                let score = euclidean_distance(vector, &point.vector);
                hits.push(Hit { id: write.key.to_string(), score });
            }
        }
        hits.sort_by(|a, b| a.score.total_cmp(&b.score).then_with(|| a.id.cmp(&b.id)));
        hits.truncate(k);
        Ok(hits)
    }

    pub(super) fn open(dir: &Path, dimensions: usize) -> Result<Option<Self>, OpenError> {
        let path = dir.join("journal");
        // Not being able to look is not the same as nothing being there.
        if !path.try_exists()? {
            // What a crash left of making a copy; nothing of it was ever told.
            remove_dir(dir)?;
            return Ok(None);
        }
        let (journal, frames) = Journal::open::<Vec<Record>>(&path)?;
        let mut records = frames.into_iter().flatten();
        let Some(Record::Base(base)) = records.next() else { return Err(OpenError::NoBase(path)) };
        let database = dir.join(&base.database);
        if !database.try_exists()? {
            return Err(OpenError::NoDatabase(database));
        }
        let rows = Rows::open(&database, dimensions)?;
        let name = base.database.clone();
        let mut content = Content::new(base, rows.stamps()?);
        for record in records {
            content.apply(record);
        }
        Ok(Some(Self {
            dir: dir.to_owned(),
            rows,
            database: name,
            journal: Mutex::new(journal),
            content: RwLock::new(content),
            failed: AtomicBool::new(false),
        }))
    }

    pub(super) fn log(&self, records: Vec<Record>) -> Result<(), CopyError> {
        self.check_gapless(&records)?;
        let frame = journal::frame(&records)?;
        let appended = unpoison(self.journal.lock()).append(&frame);
        if let Err(error) = appended {
            if error.kind() != io::ErrorKind::StorageFull {
                // After a failed fsync nobody knows what is on disk.
                self.failed.store(true, Ordering::SeqCst);
            }
            return Err(error.into());
        }
        let mut content = unpoison(self.content.write());
        for record in records {
            content.apply(record);
        }
        Ok(())
    }

    fn check_gapless(&self, records: &[Record]) -> Result<(), CopyError> {
        let mut last = unpoison(self.content.read()).state.tail.last().n;
        for record in records {
            let Record::Append(writes) = record else { continue };
            for write in writes {
                if write.position.n != last + 1 {
                    return Err(CopyError::Damaged(format!("a write at {} after {last}", write.position.n)));
                }
                last += 1;
            }
        }
        Ok(())
    }

    fn write_of(&self, content: &Content, key: &str) -> Result<Write, CopyError> {
        let absent = |position| Write { position, key: key.into(), value: None };
        let Some(entry) = content.entry(key) else { return Ok(absent(Position::default())) };
        let value = match &entry.held {
            Held::Fresh(value) => value.clone(),
            Held::InDatabase => self.rows.get(key).map_err(damaged)?,
            Held::Tombstone => return Ok(absent(entry.position)),
        };
        Ok(Write { position: entry.position, key: key.into(), value: Some(value) })
    }

    pub(super) fn tend(&self, idle: Idle) -> Result<bool, CopyError> {
        let due = unpoison(self.content.read()).unflushed() >= FLUSH_AT;
        if due || idle == Idle::Yes {
            self.flush()?;
        }
        if unpoison(self.journal.lock()).len() >= JOURNAL_BYTES {
            self.flush_all()?;
            self.rebase()?;
        }
        Ok(unpoison(self.content.read()).unflushed() > 0)
    }

    /// One bounded step; says whether it did something.
    fn flush(&self) -> Result<bool, CopyError> {
        let (fresh, doomed) = {
            let content = unpoison(self.content.read());
            (content.fresh(FLUSH_POINTS), content.doomed(FLUSH_DELETES))
        };
        let failed = |error| {
            self.failed.store(true, Ordering::SeqCst);
            damaged(error)
        };
        if !fresh.is_empty() {
            self.rows.put(&fresh).map_err(failed)?;
        }
        for key in &doomed {
            self.rows.delete(key).map_err(failed)?;
        }
        let mut content = unpoison(self.content.write());
        content.note_flushed(&fresh);
        content.note_removed(&doomed);
        Ok(!fresh.is_empty() || !doomed.is_empty())
    }

    pub(super) fn flush_all(&self) -> Result<(), CopyError> {
        // Each step takes something, and nothing is added while the copy is being changed.
        while self.flush()? {}
        Ok(())
    }

    /// Begins a new journal, once everything is in the database.
    pub(super) fn rebase(&self) -> Result<(), CopyError> {
        let base: Base = unpoison(self.content.read()).base(&self.database);
        let mut journal = unpoison(self.journal.lock());
        // A failure up to here leaves the old journal in place, which says the same; the next time it is tried again.
        let prepared = Journal::prepare(&self.dir.join("journal"), &[Record::Base(base)])?;
        // A failure from here on may leave the open journal without a name: what is appended to it could be lost.
        *journal = prepared.take_place().inspect_err(|_| self.failed.store(true, Ordering::SeqCst))?;
        Ok(())
    }
}

/// Why a copy can't be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0} does not begin with a base")]
    NoBase(PathBuf),
    #[error("{0} is missing")]
    NoDatabase(PathBuf),
}

fn damaged(error: impl std::fmt::Display) -> CopyError {
    CopyError::Damaged(error.to_string())
}

fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u64::from_le_bytes(bytes))
}

pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
