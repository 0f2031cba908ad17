//! An open copy: the journal, the content in memory, and the database behind them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use crate::copies::{CopySize, Idle};
use crate::ids::{Epoch, Position};
use crate::replica::store::StoreState;
use crate::replica::tail::Tail;
use crate::replica::wire::{Chunk, Write};
use crate::replica::{Key, Value};

use super::CopyError;
use super::content::{Base, Content, Record};
use super::journal::{self, Journal, JournalError};
use crate::node::store::{ShardStore, StoreFault, View};

/// Keys that may differ from the database before they are flushed.
const FLUSH_AT: usize = 256;
/// Most rows of one flush: the reading of a range waits for its end.
const FLUSH_ROWS: usize = 512;
/// Most deletes of one flush: in some databases each is a transaction with an fsync of its own.
const FLUSH_DELETES: usize = 16;
/// Bytes by which a journal has grown when a new one is begun.
const JOURNAL_BYTES: u64 = 8 << 20;
/// The same at which writes wait for the database: so much is replayed at most when the copy is opened.
const MAX_JOURNAL_BYTES: u64 = 4 * JOURNAL_BYTES;

/// A copy that is open.
pub(super) struct Copy<S> {
    dir: PathBuf,
    store: S,
    /// The name of its file or folder.
    database: String,
    journal: Mutex<Journal>,
    content: RwLock<Content>,
    /// Held by whoever changes the database, and read by whoever reads several of its rows as of one moment.
    database_changes: RwLock<()>,
    failed: AtomicBool,
}

pub(in crate::node) fn unpoison<T>(result: Result<T, PoisonError<T>>) -> T {
    // A thread that panicked while it changed a copy ended the process (see the worker); tests apart.
    result.unwrap_or_else(PoisonError::into_inner)
}

impl<S: ShardStore> Copy<S> {
    /// Makes an empty, full copy in `dir`, which is not there.
    pub(super) fn make(dir: &Path, options: &S::Options) -> Result<Self, CopyError> {
        std::fs::create_dir_all(dir)?;
        journal::sync_parent(dir)?;
        let database = format!("database-{:016x}", random_u64()?);
        let store = S::open(&dir.join(&database), options).map_err(damaged)?;
        let empty = Base {
            database: database.clone(),
            adopted: Epoch(0),
            full: true,
            tail: Tail::default(),
            tombstones: Vec::new(),
            fresh: Vec::new(),
            doomed: Vec::new(),
        };
        let content = Content::new(empty.clone(), []);
        let journal = Journal::replace(&dir.join("journal"), &[Record::Base(empty)])?;
        Ok(Self {
            dir: dir.to_owned(),
            store,
            database,
            journal: Mutex::new(journal),
            content: RwLock::new(content),
            database_changes: RwLock::default(),
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

    pub(super) fn read_chunk(
        &self,
        after: Option<&Key>,
        until: Option<&Key>,
        max_bytes: u64,
    ) -> Result<Chunk, CopyError> {
        // Writes go on meanwhile: what of this moment is in the database stays there until it was read.
        let _unchanged = unpoison(self.database_changes.read());
        let (mut chunk, entries) = {
            let content = unpoison(self.content.read());
            let (at, total_bytes) = (content.state.tail.last(), Some(content.bytes()));
            let (entries, upto) = content.range(after, until, max_bytes);
            (Chunk { after: after.cloned(), upto, at, writes: Vec::new(), total_bytes }, entries)
        };
        for (key, entry) in entries {
            let row = entry.row(&key, &self.store).map_err(damaged)?;
            chunk.writes.push(Write { position: entry.position, key, value: row.map(|row| row.value) });
        }
        Ok(chunk)
    }

    /// What a search sees that begins now.
    pub(super) fn view(&self) -> View<'_, S> {
        View::new(&self.store, &self.content)
    }

    pub(super) fn open(dir: &Path, options: &S::Options) -> Result<Option<Self>, OpenError> {
        let path = dir.join("journal");
        // Not being able to look is not the same as nothing being there.
        if !path.try_exists()? {
            // What a crash left of making a copy; nothing of it was ever told.
            remove_dir(dir)?;
            return Ok(None);
        }
        journal::sync_parent(dir)?;
        let (journal, frames) = Journal::open::<Vec<Record>>(&path)?;
        let mut records = frames.into_iter().flatten();
        let Some(Record::Base(base)) = records.next() else { return Err(OpenError::NoBase(path)) };
        let database = dir.join(&base.database);
        if !database.try_exists()? {
            return Err(OpenError::NoDatabase(database));
        }
        let store = S::open(&database, options).map_err(OpenError::Database)?;
        let name = base.database.clone();
        let mut content = Content::new(base, store.stamps().map_err(OpenError::Database)?);
        for record in records {
            content.apply(record);
        }
        Ok(Some(Self {
            dir: dir.to_owned(),
            store,
            database: name,
            journal: Mutex::new(journal),
            content: RwLock::new(content),
            database_changes: RwLock::default(),
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
        let Some((key, entry)) = content.entry(key) else {
            return Ok(Write { position: Position::default(), key: key.into(), value: None });
        };
        let row = entry.row(key, &self.store).map_err(damaged)?;
        Ok(Write { position: entry.position, key: key.clone(), value: row.map(|row| row.value) })
    }

    /// Brings the database nearer to the content while that goes on changing; at most one call at a time. Says whether there is
    /// more to do.
    pub(super) fn tend(&self, idle: Idle) -> Result<bool, CopyError> {
        let due = unpoison(self.content.read()).unflushed() >= FLUSH_AT;
        if due || idle == Idle::Yes {
            self.flush()?;
        }
        Ok(self.is_behind())
    }

    /// Whether the database lacks anything.
    pub(super) fn is_behind(&self) -> bool {
        unpoison(self.content.read()).unflushed() > 0
    }

    /// Whether a new journal is due.
    pub(super) fn is_journal_long(&self) -> bool {
        unpoison(self.journal.lock()).grown() >= JOURNAL_BYTES
    }

    /// Whether writes have to wait for one.
    pub(super) fn is_journal_full(&self) -> bool {
        unpoison(self.journal.lock()).grown() >= MAX_JOURNAL_BYTES
    }

    /// One bounded step; says whether it did something.
    fn flush(&self) -> Result<bool, CopyError> {
        let (fresh, doomed) = unpoison(self.content.write()).begin_flush(FLUSH_ROWS, FLUSH_DELETES);
        let failed = |error: StoreFault| {
            self.failed.store(true, Ordering::SeqCst);
            damaged(error)
        };
        if fresh.is_empty() && doomed.is_empty() {
            return Ok(false);
        }
        let _changing = unpoison(self.database_changes.write());
        self.store.write(&fresh, &doomed).map_err(failed)?;
        unpoison(self.content.write()).end_flush(&fresh, &doomed);
        Ok(true)
    }

    /// Until the database lacks few rows. What it has too much can wait: each delete may be an fsync. Whoever adds faster has to
    /// wait when the journal is full.
    pub(super) fn flush_most(&self) -> Result<(), CopyError> {
        while self.flush()? && unpoison(self.content.read()).lacking() >= FLUSH_AT {}
        Ok(())
    }

    /// While nothing is added: each step takes something.
    pub(super) fn flush_all(&self) -> Result<(), CopyError> {
        while self.flush()? {}
        Ok(())
    }

    /// Begins a new journal, with what the database doesn't have. Neither a flush nor a change may be under way.
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
    #[error("the database can't be opened: {0}")]
    Database(#[source] StoreFault),
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
