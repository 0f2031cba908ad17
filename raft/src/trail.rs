//! The background writer of rows: what apply changed reaches the disk here, behind the log.
//!
//! Apply hands over changed rows and the position after them and goes on. One task takes what has gathered (of several changes of
//! a row only the last), waits until the log has synced that position, and writes it as one batch.
//!
//! Invariants: rows on disk never stand at a position that the log on disk could lose; a batch taken before a snapshot was
//! installed is never written after it. What waits is bounded by the number of rows that exist.
//!
//! Caveat: after a failure nothing more is written, and the node is told to stop: rows are only a cache, but a disk that fails
//! them is about to fail the log too. A full disk is no failure: the rows then stay where they are until the next start, which
//! takes longer, since it applies more of the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ruvector_cluster_storage::rows::RowsIter;
use ruvector_cluster_storage::{Rows, RowsBatch, RowsError, Wal, WalError};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::codec::{self, CodecError};
use crate::types::{LogId, StoredMembership};

/// Between two batches, so that rows which change often are written seldom. A restart applies that much more of the log.
const GATHER: Duration = Duration::from_millis(200);

/// Where a state stands: the last entry in it, the newest membership, log time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) time_ms: u64,
}

impl Position {
    pub(crate) fn index(&self) -> u64 {
        self.applied.map_or(0, |applied| applied.index())
    }

    pub(crate) fn encode(&self) -> Result<Bytes, CodecError> {
        codec::encode("position", self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode("position", bytes)
    }
}

/// Why rows were not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrailError {
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

#[derive(Default)]
struct Pending {
    rows: BTreeMap<Vec<u8>, Option<Bytes>>,
    position: Option<Position>,
    /// The highest index ever handed over.
    pushed: u64,
    /// Raised by each replacement; a batch of an older one is not written.
    replacement: u64,
}

enum Stored {
    Yes,
    /// The disk is full, and the batch is lost.
    Full,
}

/// Takes changed rows and writes them later; clones share it.
#[derive(Clone)]
pub(crate) struct Trail {
    shared: Arc<Shared>,
}

struct Shared {
    pending: Mutex<Pending>,
    changed: Notify,
    /// Somebody waits for the rows: what is there is not to gather any longer.
    hurry: Notify,
    /// Held while rows are written: calls on `Rows` are made one at a time.
    rows: tokio::sync::Mutex<Arc<dyn Rows>>,
    /// The index that the rows on disk stand at.
    stored: watch::Sender<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trail {
    pub(crate) fn new(rows: Arc<dyn Rows>, stored: u64) -> Self {
        let shared = Shared {
            pending: Mutex::default(),
            changed: Notify::new(),
            hurry: Notify::new(),
            rows: tokio::sync::Mutex::new(rows),
            stored: watch::Sender::new(stored),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Hands over what a batch of entries changed.
    pub(crate) fn push(&self, rows: Vec<(Vec<u8>, Option<Bytes>)>, position: Position) {
        let mut pending = self.shared.lock();
        pending.rows.extend(rows);
        pending.pushed = position.index();
        pending.position = Some(position);
        drop(pending);
        self.shared.changed.notify_one();
    }

    /// Replaces all rows by those of an installed snapshot: marked invalid before `install` replaces the state, valid when all
    /// are written.
    pub(crate) async fn replace<E: From<TrailError>>(
        &self,
        position: &Position,
        install: impl FnOnce() -> Result<RowsIter, E>,
    ) -> Result<(), E> {
        let rows = self.shared.rows.lock().await;
        {
            let mut pending = self.shared.lock();
            pending.rows.clear();
            pending.position = None;
            pending.pushed = position.index();
            pending.replacement += 1;
        }
        rows.invalidate().await.map_err(TrailError::from)?;
        let content = install()?;
        let encoded = position.encode().map_err(TrailError::from)?;
        rows.replace_all(content, position.index(), encoded).await.map_err(TrailError::from)?;
        self.shared.stored.send_replace(position.index());
        Ok(())
    }

    /// Writes until something fails.
    pub(crate) async fn run(&self, wal: Wal) -> TrailError {
        loop {
            self.shared.changed.notified().await;
            match self.write_pending(&wal).await {
                // Whether it was hurried or not, all that was handed over meanwhile is next.
                Ok(Stored::Yes) => drop(tokio::time::timeout(GATHER, self.shared.hurry.notified()).await),
                // sled takes nothing more after an error, and what it has is a whole state. The log has the rest.
                Ok(Stored::Full) => self.discard().await,
                Err(error) => return error,
            }
        }
    }

    /// Waits until everything handed over so far is on disk.
    pub(crate) async fn stored(&self) {
        self.shared.hurry.notify_one();
        let target = self.shared.lock().pushed;
        let mut stored = self.shared.stored.subscribe();
        // The sender lives in `self`, so that the wait cannot fail.
        drop(stored.wait_for(|stored| *stored >= target).await);
    }

    /// Takes what is handed over and lets it go. Never returns: a replacement by a snapshot fails by itself.
    async fn discard(&self) {
        loop {
            {
                let mut pending = self.shared.lock();
                pending.rows.clear();
                pending.position = None;
            }
            self.shared.changed.notified().await;
        }
    }

    async fn write_pending(&self, wal: &Wal) -> Result<Stored, TrailError> {
        let (rows, position, replacement) = {
            let mut pending = self.shared.lock();
            let Some(position) = pending.position.take() else { return Ok(Stored::Yes) };
            (std::mem::take(&mut pending.rows), position, pending.replacement)
        };
        if !mutants::is_on(mutants::Mutant::RowsAheadOfLog) {
            wal.wait_durable(position.index()).await?;
        }
        let on_disk = self.shared.rows.lock().await;
        if self.shared.lock().replacement != replacement {
            return Ok(Stored::Yes);
        }
        let batch = RowsBatch {
            rows: rows.into_iter().collect(),
            applied: position.index(),
            position: position.encode()?,
        };
        match on_disk.write(batch).await {
            Ok(()) => {
                self.shared.stored.send_replace(position.index());
                Ok(Stored::Yes)
            }
            Err(RowsError::Full { dir }) => {
                tracing::warn!(dir, "the disk is full: the rows stay as they are until the next start");
                Ok(Stored::Full)
            }
            Err(error) => Err(error.into()),
        }
    }
}
