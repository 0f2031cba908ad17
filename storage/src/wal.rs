//! The log: opaque records under contiguous indices, in segment files.
//!
//! One task writes. Whatever was appended while it was busy becomes one frame: one write, one `fdatasync`, then every
//! `done` of it is called (group commit). A record is readable as soon as [`Wal::append`] returns; the newest ones are
//! answered from memory without a copy. Truncation, purging and resetting are records too, so that nothing is ever
//! overwritten, and all changes are on disk in the order in which they were asked for.
//!
//! - A failed sync is final: every later call errs, and the process must stop, since the system may have dropped pages
//!   that it could not write, and a second sync would lie about them.
//! - A full disk is not an error: appends are held, unacknowledged, and [`Wal::space`] says so; they go on when there
//!   is room. The next segment is preallocated, so that this is known before the log itself is stuck.
//! - Opening cuts an unfinished last write. Damage anywhere else, or a log that ends below what the caller knows to have
//!   been committed or applied, or with fewer parts than when it was last closed, is refused.
//!
//! Caveat: after a kill or a power failure, damage to the very last frame can't be told from an unfinished write but by
//! that floor, nor can a log that was cut between two frames above it be told from a whole one.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot, watch};

use crate::disk::{Disk, DiskFile};
use crate::error::Damage;

#[cfg(test)]
mod crash_tests;
mod end_mark;
mod frame;
mod index;
mod read;
mod recover;
#[cfg(test)]
mod tests;
mod writer;

use frame::Record;
use index::Index;

pub(crate) use recover::{first_segment_name, is_segment};

/// Called once: `Ok` after the sync that covers the append, `Err` when that will never be known.
pub type AppendDone = Box<dyn FnOnce(Result<(), WalError>) + Send>;

/// Why the log did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    /// A file is not as it was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A file was written by a newer version.
    #[error(
        "{file} has format {found} at byte {offset}, this version reads up to {supported}; run the newer version"
    )]
    Newer {
        /// The file.
        file: String,
        /// Byte offset of the format tag.
        offset: u64,
        /// Its format.
        found: u8,
        /// The newest format that this version reads.
        supported: u8,
    },
    /// The records don't follow the last one.
    #[error("an append at index {found} does not continue a log that ends before {expected}")]
    Gap {
        /// The index that comes next.
        expected: u64,
        /// The index asked for.
        found: u64,
    },
    /// One record is larger than [`MAX_RECORD_BYTES`].
    #[error("record {index} has {bytes} bytes, more than {MAX_RECORD_BYTES}")]
    TooLarge {
        /// Its index.
        index: u64,
        /// Its length.
        bytes: usize,
    },
    /// The disk failed, now or earlier. Final.
    #[error("{what}; the process must stop")]
    Failed {
        /// What was being done, to which file.
        what: String,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

/// The largest record, in bytes: far above any command, far below a segment's frame limit.
pub const MAX_RECORD_BYTES: usize = 64 << 20;

/// Whether there is room for the log to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// There is.
    Ok,
    /// The disk is full: what is appended now may be held, unacknowledged, until there is room.
    Full,
}

/// What an open log has written since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Frames, each made durable by one sync.
    pub syncs: u64,
    /// Entries in them.
    pub entries: u64,
}

/// How to open a log.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Goes into every checksum, so that segments of another directory are refused: the directory's Raft id.
    pub salt: u64,
    /// An index known to have been committed or applied. A log that ends below it is refused.
    pub floor: Option<u64>,
    /// Length of a segment in bytes. 64 MiB: a few seconds of the fastest disk, little to read again at a restart.
    pub segment_bytes: u64,
    /// How many bytes of recent records are kept in memory. 32 MiB: what followers that keep up still need.
    pub cache_bytes: u64,
    /// Appends wait while more bytes than this are unsynced. 256 MiB: more than Raft ever has in flight.
    pub queue_bytes: u64,
}

impl WalOptions {
    /// The defaults, for a directory with this salt.
    pub fn new(salt: u64) -> Self {
        Self { salt, floor: None, segment_bytes: 64 << 20, cache_bytes: 32 << 20, queue_bytes: 256 << 20 }
    }
}

/// Handle to an open log; clones share it. The writing task ends when the last is dropped, after it has written what was
/// appended and finds room.
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
    }
}

/// What handles and the writing task share.
struct Shared {
    state: Mutex<State>,
    wake: Notify,
    room: Notify,
    durable: watch::Sender<Option<u64>>,
    space: watch::Sender<Space>,
    ended: watch::Sender<bool>,
    options: WalOptions,
}

struct State {
    index: Index,
    queue: VecDeque<Op>,
    /// Bytes of entries that are queued or being written.
    queued_bytes: u64,
    committed_unsaved: bool,
    written: Written,
    segments: BTreeMap<u64, Segment>,
    failed: Option<WalError>,
    closing: bool,
}

/// A file of the log.
#[derive(Clone)]
struct Segment {
    name: String,
    file: Arc<dyn DiskFile>,
    /// The highest index ever written to it.
    max_index: Option<u64>,
}

/// What the writing task is asked to do.
enum Op {
    Append { serial: u64, first_index: u64, records: Vec<Bytes>, done: AppendDone },
    Change { record: Record, done: oneshot::Sender<Result<(), WalError>> },
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check(&self) -> Result<(), WalError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.closing => Err(WalError::Closed),
            None => Ok(()),
        }
    }
}

impl Wal {
    /// Opens the log on `disk`, or begins one, and starts its writing task.
    ///
    /// # Errors
    /// [`WalError::Damaged`], [`WalError::Newer`], or [`WalError::Failed`] when files can't be read or created.
    pub async fn open(disk: Arc<dyn Disk>, options: WalOptions) -> Result<Self, WalError> {
        let (end_mark, marked) = end_mark::EndMark::open(disk.as_ref()).await?;
        let recovered = recover::recover(&disk, &options, marked).await?;
        let writer = writer::Writer::start(disk, &options, &recovered, end_mark).await?;
        let mut state = State {
            index: recovered.index,
            queue: VecDeque::new(),
            queued_bytes: 0,
            committed_unsaved: false,
            written: Written::default(),
            segments: recovered.segments,
            failed: None,
            closing: false,
        };
        state.segments.insert(writer.active_number(), writer.active_segment());
        let (durable, space) = (watch::Sender::new(state.index.durable()), watch::Sender::new(Space::Ok));
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: Notify::new(),
            room: Notify::new(),
            durable,
            space,
            ended: watch::Sender::new(false),
            options,
        });
        tokio::spawn(writer.run(Arc::clone(&shared)));
        Ok(Self { handle: Arc::new(Handle { shared }) })
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Appends records at `first_index`, which must follow the last one (an empty log that was never purged begins
    /// anywhere). They are readable when this returns; `done` is called after the sync that covers them. Waits only
    /// while [`WalOptions::queue_bytes`] are unsynced.
    ///
    /// # Errors
    /// [`WalError::Gap`] and [`WalError::TooLarge`] change nothing; else the log failed or is closed. `done` is then
    /// dropped without being called.
    pub async fn append(
        &self,
        first_index: u64,
        records: Vec<Bytes>,
        done: AppendDone,
    ) -> Result<(), WalError> {
        let bytes: u64 = records.iter().map(|r| r.len() as u64).sum();
        let index_of = |at: usize| first_index.saturating_add(at as u64);
        if let Some((at, record)) = records.iter().enumerate().find(|(_, r)| r.len() > MAX_RECORD_BYTES) {
            return Err(WalError::TooLarge { index: index_of(at), bytes: record.len() });
        }
        loop {
            let room = self.shared().room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut state = self.shared().lock();
                state.check()?;
                if state.queued_bytes == 0 || state.queued_bytes + bytes <= self.shared().options.queue_bytes
                {
                    state.push_append(first_index, records, bytes, done)?;
                    break;
                }
            }
            room.await;
        }
        self.shared().wake.notify_one();
        Ok(())
    }

    /// Removes every entry above `keep_upto`; all of them for `None`. Durable when this returns.
    ///
    /// # Errors
    /// When the log failed or is closed.
    pub async fn truncate_after(&self, keep_upto: Option<u64>) -> Result<(), WalError> {
        let next = keep_upto.map_or(0, |keep| keep.saturating_add(1));
        self.change(Record::Truncate { next }).await
    }

    /// Removes the entries up to `upto`, and remembers it with `meta`. Durable when this returns; files that hold
    /// nothing else are removed. Where all entries are gone, the next index is `upto + 1`. Below an earlier purge: nothing.
    ///
    /// # Errors
    /// When the log failed or is closed.
    pub async fn purge(&self, upto: u64, meta: Bytes) -> Result<(), WalError> {
        self.change(Record::Purge { upto, meta }).await
    }

    /// Drops all entries, also those above `upto`: the next is `upto + 1`. For a log that an installed snapshot
    /// replaces. Durable when this returns.
    ///
    /// # Errors
    /// When the log failed or is closed.
    pub async fn reset_to(&self, upto: u64, meta: Bytes) -> Result<(), WalError> {
        self.change(Record::Reset { upto, meta }).await
    }

    async fn change(&self, record: Record) -> Result<(), WalError> {
        let (done, outcome) = oneshot::channel();
        {
            let mut state = self.shared().lock();
            state.check()?;
            if state.index.apply(&record, None).is_none() {
                return Err(WalError::Gap { expected: state.index.extent.next, found: u64::MAX });
            }
            let durable = state.index.durable();
            // What was cut is no longer durable, and an index that comes again is so only when it is written again.
            self.shared().durable.send_if_modified(|d| std::mem::replace(d, (*d).min(durable)) > durable);
            state.queue.push_back(Op::Change { record, done });
        }
        self.shared().wake.notify_one();
        outcome.await.unwrap_or(Err(WalError::Closed))
    }

    /// What was written since it was opened.
    pub fn written(&self) -> Written {
        self.shared().lock().written
    }

    /// Remembers that entries up to `index` are committed, with `meta`. Written with a later append, when the log is
    /// idle for a moment, or at [`Wal::close`]; waits for no disk, and a crash may lose it.
    pub fn save_committed(&self, index: u64, meta: Bytes) {
        let mut state = self.shared().lock();
        state.index.extent.committed = Some((index, meta));
        state.committed_unsaved = true;
        drop(state);
        self.shared().wake.notify_one();
    }

    /// What [`Wal::save_committed`] was last given.
    pub fn committed(&self) -> Option<(u64, Bytes)> {
        self.shared().lock().index.extent.committed.clone()
    }

    /// The highest purged index with its meta.
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        self.shared().lock().index.extent.purged.clone()
    }

    /// The first index; `None` when there are no entries.
    pub fn first_index(&self) -> Option<u64> {
        self.shared().lock().index.first()
    }

    /// The last index, synced or not; `None` when there are no entries.
    pub fn last_index(&self) -> Option<u64> {
        self.shared().lock().index.last()
    }

    /// The highest index such that it and all before it are synced, or purged.
    pub fn durable_index(&self) -> Option<u64> {
        *self.shared().durable.borrow()
    }

    /// Waits until [`Wal::durable_index`] is at least `index`.
    ///
    /// # Errors
    /// When the log fails or is closed before.
    pub async fn wait_durable(&self, index: u64) -> Result<(), WalError> {
        let mut durable = self.shared().durable.subscribe();
        let mut ended = self.shared().ended.subscribe();
        let reached = |d: &Option<u64>| d.is_some_and(|d| d >= index);
        tokio::select! {
            biased;
            found = durable.wait_for(reached) => found.map(drop).map_err(|_| WalError::Closed),
            _ = ended.wait_for(|e| *e) => Err(self.shared().lock().failed.clone().unwrap_or(WalError::Closed)),
        }
    }

    /// Whether the disk has room for the log.
    pub fn space(&self) -> watch::Receiver<Space> {
        self.shared().space.subscribe()
    }

    /// Resolves when the log has ended: with the failure, or with `None` after it was closed.
    pub async fn ended(&self) -> Option<WalError> {
        let mut ended = self.shared().ended.subscribe();
        // The sender lives as long as this handle, so the wait can't fail.
        if ended.wait_for(|e| *e).await.is_err() {
            return None;
        }
        self.shared().lock().failed.clone()
    }

    /// Writes what was appended and what is committed, and ends the log. Later calls err. On a full disk appends that wait for
    /// room are answered [`WalError::Closed`].
    ///
    /// # Errors
    /// When the log failed.
    pub async fn close(&self) -> Result<(), WalError> {
        self.shared().lock().closing = true;
        self.shared().wake.notify_one();
        self.ended().await.map_or(Ok(()), Err)
    }

    /// Entries with an index in `range`, from the first that exists, contiguous, up to about `max_bytes` but at least one.
    ///
    /// # Errors
    /// [`WalError::Damaged`] when a record on disk has a wrong checksum; [`WalError::Failed`] when it can't be read.
    pub async fn read(&self, range: Range<u64>, max_bytes: u64) -> Result<Vec<(u64, Bytes)>, WalError> {
        read::read(self.shared(), range, max_bytes).await
    }
}

impl State {
    fn push_append(
        &mut self,
        first_index: u64,
        records: Vec<Bytes>,
        bytes: u64,
        done: AppendDone,
    ) -> Result<(), WalError> {
        let end = first_index.checked_add(records.len() as u64);
        if end.is_none() || !(records.is_empty() || self.index.extent.takes(first_index)) {
            return Err(WalError::Gap { expected: self.index.extent.next, found: first_index });
        }
        let mut serial = None;
        for (index, body) in (first_index..).zip(&records) {
            let given = self.index.apply(&Record::Entry { index, body: body.clone() }, None);
            serial = serial.or(given);
        }
        self.queued_bytes += bytes;
        self.queue.push_back(Op::Append { serial: serial.unwrap_or(0), first_index, records, done });
        Ok(())
    }
}
