//! The model of [`Rows`] for simulations: in memory, it keeps what a crash would leave of the real ones.
//!
//! A killed process loses unwritten batches too, since sled gathers them in memory: [`MemRows::crash`] is for both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Rows, RowsBatch, RowsError, RowsImage, RowsIter, check_size};

/// How many batches back a crash may go: what sled has not fsynced.
const UNSYNCED_BATCHES: usize = 64;

/// Rows in memory. Clones share them, as the next process finds what the last one left.
#[derive(Clone, Default)]
pub struct MemRows {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone, Default)]
struct Content {
    rows: BTreeMap<Vec<u8>, Bytes>,
    /// Applied index and position; `None` while the rows are not valid.
    stand: Option<(u64, Bytes)>,
}

#[derive(Default)]
struct Inner {
    content: Content,
    /// Earlier states, oldest first.
    earlier: std::collections::VecDeque<Content>,
    /// The last batch of this process since the rows were replaced.
    batched: Option<u64>,
    invalidated: bool,
    full: bool,
}

impl MemRows {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes later writes fail for want of room, or lifts that.
    pub fn set_full(&self, full: bool) {
        self.inner().full = full;
    }

    /// Up to where batches of this process brought them; none since they were replaced as a whole.
    pub fn batched(&self) -> Option<u64> {
        self.inner().batched
    }

    /// Power fails: what the next process finds, some batches back as `seed` says. The old rows are left as they are.
    pub fn crash(&self, seed: u64) -> Self {
        let inner = self.inner();
        let back = usize::try_from(seed % (inner.earlier.len() as u64 + 1)).unwrap_or(0);
        let content = match inner.earlier.len().checked_sub(back) {
            Some(at) if back > 0 => inner.earlier[at].clone(),
            _ => inner.content.clone(),
        };
        Self { inner: Arc::new(Mutex::new(Inner { content, ..Inner::default() })) }
    }
}

impl Inner {
    fn remember(&mut self) {
        self.earlier.push_back(self.content.clone());
        if self.earlier.len() > UNSYNCED_BATCHES {
            self.earlier.pop_front();
        }
    }
}

#[async_trait]
impl Rows for MemRows {
    async fn load(&self) -> Result<Option<RowsImage>, RowsError> {
        let mut inner = self.inner();
        let Some((applied, position)) = inner.content.stand.clone() else {
            inner.content = Content::default();
            inner.invalidated = false;
            return Ok(None);
        };
        let rows = inner.content.rows.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Some(RowsImage { rows, applied, position }))
    }

    async fn write(&self, batch: RowsBatch) -> Result<(), RowsError> {
        let mut inner = self.inner();
        if inner.invalidated {
            return Err(RowsError::NoBase);
        }
        for (key, value) in &batch.rows {
            check_size(key, value.as_deref().unwrap_or_default())?;
        }
        if inner.full {
            return Err(RowsError::Full { dir: "memory".to_owned() });
        }
        inner.remember();
        for (key, value) in batch.rows {
            match value {
                Some(value) => inner.content.rows.insert(key, value),
                None => inner.content.rows.remove(&key),
            };
        }
        inner.content.stand = Some((batch.applied, batch.position));
        inner.batched = Some(batch.applied);
        Ok(())
    }

    async fn invalidate(&self) -> Result<(), RowsError> {
        let mut inner = self.inner();
        inner.remember();
        inner.invalidated = true;
        inner.batched = None;
        inner.content.stand = None;
        Ok(())
    }

    async fn replace_all(&self, rows: RowsIter, applied: u64, position: Bytes) -> Result<(), RowsError> {
        self.invalidate().await?;
        let mut replaced = BTreeMap::new();
        for (key, value) in rows {
            check_size(&key, &value)?;
            replaced.insert(key, value);
        }
        let mut inner = self.inner();
        // A crash from here on may also leave what stood between the mark and the last row.
        inner.remember();
        inner.content = Content { rows: replaced, stand: Some((applied, position)) };
        inner.invalidated = false;
        Ok(())
    }
}
