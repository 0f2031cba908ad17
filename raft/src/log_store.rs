//! openraft's log on the WAL, and its vote beside it.
//!
//! Invariants, all openraft's:
//! - An entry is readable when `append` returns, and reported only after the sync that covers it.
//! - A vote is on disk before `save_vote` returns, and never before the appends that were submitted ahead of it: openraft
//!   takes the completion of a vote as that of all earlier I/O.
//! - The purged position is remembered with its log id, for the log state of an empty log.
//! - `save_committed` waits for no disk.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, RaftLogReader};
use ruvector_cluster_storage::{VoteFile, Wal};

use crate::codec;
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// What one read may bring into memory, in bytes; also the size of an append request to a follower that is behind.
const READ_BYTES: u64 = 1 << 20;

/// The log and the vote; clones share them.
#[derive(Clone)]
pub(crate) struct LogStore {
    wal: Wal,
    vote_file: VoteFile,
    vote: Arc<Mutex<Option<Vote>>>,
}

impl LogStore {
    /// On open files.
    ///
    /// # Errors
    /// When the stored vote is not understood.
    pub(crate) async fn open(wal: Wal, vote_file: VoteFile) -> Result<Self, io::Error> {
        let vote = vote_file.load().await.map(|bytes| codec::decode("vote", &bytes)).transpose()?;
        Ok(Self { wal, vote_file, vote: Arc::new(Mutex::new(vote)) })
    }

    /// The id of the entry at `index`, or of the purge that covers exactly it.
    pub(crate) async fn log_id_at(&self, index: u64) -> Result<Option<LogId>, io::Error> {
        if let Some(purged) = self.purged()?
            && purged.index() == index
        {
            return Ok(Some(purged));
        }
        let records = self.wal.read(index..index.saturating_add(1), 1).await.map_err(io::Error::other)?;
        match records.first() {
            Some((found, record)) if *found == index => Ok(Some(codec::decode_entry_id(record)?)),
            _ => Ok(None),
        }
    }

    /// The vote, in memory.
    pub(crate) fn vote(&self) -> Option<Vote> {
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of the last entry; `None` when there are no entries.
    pub(crate) async fn last_entry(&self) -> Result<Option<LogId>, io::Error> {
        match self.wal.last_index() {
            Some(index) => self.log_id_at(index).await,
            None => Ok(None),
        }
    }

    /// The highest purged log id.
    pub(crate) fn purged(&self) -> Result<Option<LogId>, io::Error> {
        self.wal
            .purged()
            .map(|(_, meta)| codec::decode("purged position", &meta))
            .transpose()
            .map_err(Into::into)
    }

    /// Drops the log: a snapshot up to `log_id` replaces it.
    pub(crate) async fn reset(&self, log_id: LogId) -> Result<(), io::Error> {
        let meta = codec::encode("purged position", &log_id)?;
        self.wal.reset_to(log_id.index(), meta).await.map_err(io::Error::other)
    }

    async fn read(&self, start: u64, end: u64, max_bytes: u64) -> Result<Vec<Entry>, io::Error> {
        let records = self.wal.read(start..end, max_bytes).await.map_err(io::Error::other)?;
        records.into_iter().map(|(_, record)| codec::decode_entry(record).map_err(Into::into)).collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, io::Error> {
        let mut start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let mut entries = Vec::new();
        while start < end {
            let more = self.read(start, end, READ_BYTES).await?;
            let Some(last) = more.last() else { break };
            start = last.log_id.index() + 1;
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.vote())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let purged = self.purged()?;
        Ok(LogState { last_purged_log_id: purged, last_log_id: self.last_entry().await?.or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        // On a full disk this waits behind held appends, and the node votes only when there is room again. It cannot vote
        // before: openraft would take the appends as flushed, and this node would acknowledge what it may lose.
        if let Some(last) = self.wal.last_index() {
            self.wal.wait_durable(last).await.map_err(io::Error::other)?;
        }
        let bytes = codec::encode("vote", vote)?;
        self.vote_file.save(bytes).await.map_err(io::Error::other)?;
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner) = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.wal.save_committed(committed.index(), codec::encode("committed position", &committed)?);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let Some((index, meta)) = self.wal.committed() else { return Ok(None) };
        // What was committed above a torn tail was not yet durable here; it comes again.
        let known = self.log_id_at(index).await?;
        let committed: LogId = codec::decode("committed position", &meta)?;
        Ok(known.filter(|known| *known == committed))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut first = None;
        let mut records: Vec<Bytes> = Vec::new();
        for entry in entries {
            first.get_or_insert(entry.log_id.index());
            records.push(codec::encode_entry(&entry)?);
        }
        let first = first.or_else(|| self.wal.last_index().map(|last| last + 1)).unwrap_or(0);
        let done = Box::new(move |written: Result<(), ruvector_cluster_storage::WalError>| {
            callback.io_completed(written.map_err(io::Error::other));
        });
        self.wal.append(first, records, done).await.map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.wal.truncate_after(last.map(|last| last.index())).await.map_err(io::Error::other)
    }

    async fn purge(&mut self, mut log_id: LogId) -> Result<(), io::Error> {
        if mutants::is_on(mutants::Mutant::PurgePastSnapshot) {
            log_id = self.read_committed().await?.map_or(log_id, |committed| committed.max(log_id));
        }
        if self.wal.last_index().is_none_or(|last| last < log_id.index()) {
            return self.reset(log_id).await;
        }
        let meta = codec::encode("purged position", &log_id)?;
        self.wal.purge(log_id.index(), meta).await.map_err(io::Error::other)
    }
}
