//! One shard copy on disk: a journal in front of the author's database.
//!
//! Every action becomes a journal record and is durable with the fsync of its frame; several that wait share one. Then it
//! changes the content in memory, where readers see it, and reaches the database later, in batches, beside the actions. When
//! the journal has grown, a new one begins with what the database doesn't hold.
//!
//! Directory of a copy: `journal`, and the database under the random name that the journal's base says. The journal is made
//! last and its directory renamed first when the copy goes, so a copy is there wholly or not at all.
//!
//! Invariants: what a reader sees is durable here. A key's row in the database counts only when the content says so. After
//! a failed fsync, or damage, the copy refuses everything: it counts as lost, and other copies stand in for it.
//!
mod content;
mod copy;
mod journal;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use super::store::ShardStore;
use crate::copies::{BlockingStore, CopySize, Idle, group_of};
use crate::ids::{Epoch, Position};
use crate::replica::store::{ReplicaStore, StoreAction, StoreError, StoreResult, StoreState};
use crate::replica::wire::{Alignment, Chunk, Write};
use crate::replica::{Key, Value};

pub(super) use content::Content;
use content::Record;
pub(super) use copy::unpoison;
use copy::{Copy, remove_dir};

/// The copy of one shard, or its absence.
pub struct Kept<S: ShardStore> {
    dir: PathBuf,
    options: S::Options,
    slot: RwLock<Slot<S>>,
    /// Held by whoever changes the copy.
    actions: Mutex<()>,
    /// Held by whoever changes the database, or makes or removes the copy; taken before `actions`.
    tending: Mutex<()>,
    /// The files of a copy that went are still there, under another name.
    has_remains: AtomicBool,
}

enum Slot<S> {
    Absent,
    Damaged(String),
    Open(Arc<Copy<S>>),
}

impl<S: ShardStore> Kept<S> {
    /// Opens what is in `dir`, which need not exist. A copy that can't be read is told by [`ReplicaStore::state`].
    pub fn open(dir: PathBuf, options: S::Options) -> Self {
        let slot = match Copy::open(&dir, &options) {
            Ok(Some(copy)) => Slot::Open(Arc::new(copy)),
            Ok(None) => Slot::Absent,
            Err(error) => Slot::Damaged(error.to_string()),
        };
        Self {
            dir,
            options,
            slot: RwLock::new(slot),
            actions: Mutex::default(),
            tending: Mutex::default(),
            has_remains: AtomicBool::new(false),
        }
    }

    /// The last position; `None` without a copy.
    pub fn last(&self) -> Option<Position> {
        Some(self.copy().ok()?.state().tail.last())
    }

    /// What `query` finds.
    ///
    /// # Errors
    /// [`CopyError`] when there is no readable copy, or it can't be searched.
    pub fn search(&self, query: &S::Query) -> Result<S::Found, CopyError> {
        S::search(&self.copy()?.view(), query).map_err(|error| CopyError::Damaged(error.to_string()))
    }

    fn copy(&self) -> Result<Arc<Copy<S>>, CopyError> {
        match &*unpoison(self.slot.read()) {
            Slot::Absent => Err(CopyError::Missing),
            Slot::Damaged(why) => Err(CopyError::Damaged(why.clone())),
            Slot::Open(copy) if copy.has_failed() => {
                Err(CopyError::Damaged("an earlier action failed".to_owned()))
            }
            Slot::Open(copy) => Ok(copy.clone()),
        }
    }

    fn carry_out_one(&self, action: &StoreAction) -> Result<StoreResult, CopyError> {
        match action {
            StoreAction::Create => self.make()?,
            StoreAction::Delete => self.remove()?,
            StoreAction::ReadKeys(keys) => return Ok(StoreResult::Writes(self.copy()?.read_keys(keys)?)),
            StoreAction::ReadChunk { after, until, max_bytes } => {
                let chunk = self.copy()?.read_chunk(after.as_ref(), until.as_ref(), *max_bytes)?;
                return Ok(StoreResult::Chunk(chunk));
            }
            StoreAction::Adopt(_)
            | StoreAction::Append(_)
            | StoreAction::Align(_)
            | StoreAction::BeginFill { .. }
            | StoreAction::FillRange { .. }
            | StoreAction::EndFill => self.log(record_of(action).into_iter().collect())?,
        }
        Ok(StoreResult::Done)
    }

    /// Makes records durable with one fsync, then visible.
    fn log(&self, records: Vec<Record>) -> Result<(), CopyError> {
        let _changing = unpoison(self.actions.lock());
        self.copy()?.log(records)
    }

    fn make(&self) -> Result<(), CopyError> {
        let (_tending, _changing) = (unpoison(self.tending.lock()), unpoison(self.actions.lock()));
        self.clear()?;
        // They would take the room that the new copy needs.
        self.remove_remains()?;
        let copy = Copy::make(&self.dir, &self.options)?;
        *unpoison(self.slot.write()) = Slot::Open(Arc::new(copy));
        Ok(())
    }

    fn remove(&self) -> Result<(), CopyError> {
        let (_tending, _changing) = (unpoison(self.tending.lock()), unpoison(self.actions.lock()));
        self.clear()
    }

    /// The copy is gone when this returns. Its files go later, when nobody waits: removing many bytes holds up what others sync.
    fn clear(&self) -> Result<(), CopyError> {
        *unpoison(self.slot.write()) = Slot::Absent;
        self.remove_remains()?;
        match std::fs::rename(&self.dir, self.remains()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        self.has_remains.store(true, Ordering::SeqCst);
        Ok(journal::sync_parent(&self.dir)?)
    }

    fn bring_nearer(&self, copy: &Copy<S>, idle: Idle) -> Result<bool, CopyError> {
        if copy.is_journal_long() {
            copy.flush_most()?;
            let _changing = unpoison(self.actions.lock());
            copy.rebase()?;
        }
        copy.tend(idle)
    }

    /// Whether there is more room than before, since the files of a copy that went were still there.
    fn makes_room(&self) -> bool {
        let _tending = unpoison(self.tending.lock());
        self.has_remains.load(Ordering::SeqCst) && self.remove_remains().is_ok()
    }

    fn remains(&self) -> PathBuf {
        self.dir.with_extension("gone")
    }

    fn remove_remains(&self) -> io::Result<()> {
        remove_dir(&self.remains())?;
        self.has_remains.store(false, Ordering::SeqCst);
        Ok(())
    }
}

impl<S: ShardStore> ReplicaStore for Kept<S> {
    fn state(&self) -> Result<Option<StoreState>, StoreError> {
        match self.copy() {
            Ok(copy) => Ok(Some(copy.state())),
            Err(CopyError::Missing) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn get(&self, key: &str) -> Result<Option<Value>, StoreError> {
        Ok(self.copy()?.get(key)?)
    }

    fn create(&self) -> Result<(), StoreError> {
        Ok(self.make()?)
    }

    fn adopt(&self, epoch: Epoch) -> Result<(), StoreError> {
        Ok(self.log(vec![Record::Adopt(epoch)])?)
    }

    fn append(&self, writes: &[Write]) -> Result<(), StoreError> {
        Ok(self.log(vec![Record::Append(writes.to_vec())])?)
    }

    fn align(&self, alignment: &Alignment) -> Result<(), StoreError> {
        Ok(self.log(vec![Record::Align(alignment.clone())])?)
    }

    fn begin_fill(&self, base: Position) -> Result<(), StoreError> {
        Ok(self.log(vec![Record::BeginFill { base }])?)
    }

    fn fill_range(&self, epoch: Epoch, base: Position, chunk: &Chunk) -> Result<(), StoreError> {
        Ok(self.log(vec![Record::FillRange { epoch, base, chunk: chunk.clone() }])?)
    }

    fn end_fill(&self) -> Result<(), StoreError> {
        Ok(self.log(vec![Record::EndFill])?)
    }

    fn read_keys(&self, keys: &[Key]) -> Result<Vec<Write>, StoreError> {
        Ok(self.copy()?.read_keys(keys)?)
    }

    fn read_chunk(
        &self,
        after: Option<&Key>,
        until: Option<&Key>,
        max_bytes: u64,
    ) -> Result<Chunk, StoreError> {
        Ok(self.copy()?.read_chunk(after, until, max_bytes)?)
    }

    fn delete(&self) -> Result<(), StoreError> {
        Ok(self.remove()?)
    }
}

impl<S: ShardStore> BlockingStore for Kept<S> {
    fn size(&self) -> Option<CopySize> {
        Some(self.copy().ok()?.size())
    }

    /// Those that may share an fsync do.
    fn carry_out_all(&self, actions: &[StoreAction]) -> Vec<StoreResult> {
        if self.copy().is_ok_and(|copy| copy.is_journal_full())
            && let Err(error) = self.tend(Idle::Yes)
        {
            tracing::error!(dir = %self.dir.display(), %error, "what waits for the database could not be written");
        }
        let mut results = Vec::new();
        while results.len() < actions.len() {
            let rest = &actions[results.len()..];
            let group = &rest[..group_of(rest)];
            let done = if let [alone] = group {
                self.carry_out_one(alone).map(|result| vec![result])
            } else {
                self.log(group.iter().filter_map(record_of).collect())
                    .map(|()| vec![StoreResult::Done; group.len()])
            };
            match done {
                Ok(done) => results.extend(done),
                Err(CopyError::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                    if !self.makes_room() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::error!(dir = %self.dir.display(), %error, "the copy failed");
                    results.extend(vec![StoreResult::Failed; group.len()]);
                }
            }
        }
        results
    }

    /// Brings the database nearer to the content, beside the actions. Where the database can't be written, the copy counts as
    /// lost.
    fn tend(&self, idle: Idle) -> Result<bool, StoreError> {
        let _tending = unpoison(self.tending.lock());
        // Should that fail, the database is looked after all the same.
        let is_due = idle == Idle::Yes && self.has_remains.load(Ordering::SeqCst);
        let removed = if is_due { self.remove_remains() } else { Ok(()) };
        let is_behind = match self.copy() {
            Ok(copy) => self.bring_nearer(&copy, idle)?,
            Err(_) => false,
        };
        removed.map_err(CopyError::from)?;
        Ok(is_behind || self.has_remains.load(Ordering::SeqCst))
    }

    /// Flushes everything, so that the next opening has little to replay.
    fn close(&self) -> Result<(), StoreError> {
        let (_tending, _changing) = (unpoison(self.tending.lock()), unpoison(self.actions.lock()));
        let Ok(copy) = self.copy() else { return Ok(()) };
        copy.flush_all()?;
        Ok(copy.rebase()?)
    }
}

/// Why a copy can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is none.
    #[error("the shard has no copy here")]
    Missing,
    /// Its files are damaged, or a write of them failed.
    #[error("the shard's copy is damaged: {0}")]
    Damaged(String),
    /// The system refused.
    #[error("the shard's files can't be written or read")]
    Io(#[from] io::Error),
}

impl From<CopyError> for StoreError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Missing => Self::Missing,
            CopyError::Damaged(why) => Self::Damaged(why),
            CopyError::Io(error) if error.kind() == io::ErrorKind::StorageFull => Self::Full,
            CopyError::Io(error) => Self::Unreachable(Box::new(error)),
        }
    }
}

fn record_of(action: &StoreAction) -> Option<Record> {
    match action.clone() {
        StoreAction::Adopt(epoch) => Some(Record::Adopt(epoch)),
        StoreAction::Append(writes) => Some(Record::Append(writes)),
        StoreAction::Align(alignment) => Some(Record::Align(alignment)),
        StoreAction::BeginFill { base } => Some(Record::BeginFill { base }),
        StoreAction::FillRange { epoch, base, chunk } => Some(Record::FillRange { epoch, base, chunk }),
        StoreAction::EndFill => Some(Record::EndFill),
        StoreAction::Create
        | StoreAction::Delete
        | StoreAction::ReadKeys(_)
        | StoreAction::ReadChunk { .. } => None,
    }
}
