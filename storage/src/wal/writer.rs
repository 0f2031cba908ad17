//! The one task that writes the log: takes what is queued, makes it one frame, writes, syncs, tells.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::end_mark::EndMark;
use super::frame::{self, HEAD_BYTES, Record};
use super::index::{Extent, Place};
use super::recover::{Recovered, failed, segment_name};
use super::{AppendDone, Op, Segment, Shared, Space, State, WalError, WalOptions};
use crate::disk::{Disk, OpenMode, WriteSyncError, is_full};

/// The most bytes of entries that one frame takes, beyond its first append: a bound on how long one sync can last.
const FRAME_LIMIT_BYTES: u64 = 8 << 20;
/// How long the log must be idle until what is committed is written by itself.
const COMMITTED_IDLE: Duration = Duration::from_millis(200);
/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(500);

pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    salt: u64,
    segment_bytes: u64,
    sequence: u64,
    /// What the log holds on disk, ahead of which the shared index may be.
    written: Extent,
    active: Active,
    next_number: u64,
    /// The segment that comes next, allocated.
    spare: Option<(u64, Segment)>,
    end_mark: EndMark,
}

struct Active {
    number: u64,
    segment: Segment,
    offset: u64,
}

/// One frame's worth of work.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    /// Serial and record number of each entry.
    entries: Vec<(u64, usize)>,
    appends: Vec<AppendDone>,
    changes: Vec<oneshot::Sender<Result<(), WalError>>>,
    bytes: u64,
}

enum Work {
    Batch(Batch),
    /// Nothing to write, and the disk was full: time to look whether it still is.
    LookForRoom,
    Closed,
}

impl Writer {
    /// Makes the log ready for its first append: the segment that recovery ended in, or a new one.
    pub(super) async fn start(
        disk: Arc<dyn Disk>,
        options: &WalOptions,
        recovered: &Recovered,
        end_mark: EndMark,
    ) -> Result<Self, WalError> {
        let mut next_number = recovered.next_number;
        let (active, fresh) = match recovered
            .end
            .and_then(|(n, at)| recovered.segments.get(&n).map(|s| (n, at, s)))
        {
            Some((number, offset, segment)) => (Active { number, segment: segment.clone(), offset }, false),
            None => {
                let segment = create(&disk, next_number, options.segment_bytes).await?;
                next_number += 1;
                (Active { number: next_number - 1, segment, offset: 0 }, true)
            }
        };
        let mut writer = Self {
            disk,
            salt: options.salt,
            segment_bytes: options.segment_bytes,
            sequence: recovered.sequence,
            written: recovered.index.extent.clone(),
            active,
            next_number,
            spare: None,
            end_mark,
        };
        if fresh {
            let begin = writer.encode_beginning();
            let file = Arc::clone(&writer.active.segment.file);
            let what = failed(format!("cannot write {}", writer.active.segment.name));
            file.write_synced(0, begin.clone()).await.map_err(|e| what(e.into()))?;
            writer.active.offset = begin.len() as u64;
        }
        Ok(writer)
    }

    pub(super) fn active_number(&self) -> u64 {
        self.active.number
    }

    pub(super) fn active_segment(&self) -> Segment {
        self.active.segment.clone()
    }

    /// Head and first frame of the active segment: the state so far, so that older segments can go.
    fn encode_beginning(&mut self) -> Bytes {
        let extent = &self.written;
        let mut records = vec![Record::State { first: extent.first, next: extent.next }];
        records.extend(extent.purged.clone().map(|(upto, meta)| Record::Purge { upto, meta }));
        records.extend(extent.committed.clone().map(|(index, meta)| Record::Committed { index, meta }));
        let (first, _) = frame::encode_frame(self.salt, self.sequence, &records);
        self.sequence += 1;
        let mut bytes = BytesMut::with_capacity(HEAD_BYTES + first.len());
        bytes.extend_from_slice(&frame::encode_head(self.salt, self.active.number));
        bytes.extend_from_slice(&first);
        bytes.freeze()
    }

    pub(super) async fn run(mut self, shared: Arc<Shared>) {
        let mut ending = Ending { shared, error: Some(panicked()) };
        let shared = Arc::clone(&ending.shared);
        ending.error = self.serve(&shared).await.err();
        // Whoever waits for the end may open the directory again: the disk, with its lock, goes first.
        drop(self);
        drop(ending);
    }

    async fn serve(&mut self, shared: &Shared) -> Result<(), WalError> {
        self.prepare_spare(shared).await?;
        loop {
            let batch = match self.next_work(shared).await {
                Work::Batch(batch) => batch,
                Work::LookForRoom => {
                    self.prepare_spare(shared).await?;
                    continue;
                }
                Work::Closed => return self.end_mark.save(self.sequence).await,
            };
            match self.write(shared, &batch.records).await {
                Ok(frame) => self.finish(shared, batch, &frame).await?,
                // Held for want of room until the close. Nobody was told that it is durable, and no mark may count it.
                Err(WalError::Closed) => {
                    tracing::warn!("the log is closed on a full disk, without what waited for room");
                    batch.fail(&WalError::Closed);
                    return Ok(());
                }
                Err(error) => {
                    // First the state, so that whoever is told finds the log failed.
                    shared.lock().failed = Some(error.clone());
                    batch.fail(&error);
                    return Err(error);
                }
            }
        }
    }

    async fn next_work(&self, shared: &Shared) -> Work {
        let mut idle = false;
        loop {
            let wait_idle = {
                let mut state = shared.lock();
                let mut batch = Batch::take(&mut state);
                let flush = state.closing || idle;
                if let Some(committed) = self.committed_to_write(&state, &batch)
                    && (flush || !batch.records.is_empty())
                {
                    state.committed_unsaved = false;
                    batch.records.push(committed);
                }
                if !batch.is_empty() {
                    return Work::Batch(batch);
                }
                if state.closing {
                    return Work::Closed;
                }
                state.committed_unsaved && !idle
            };
            if wait_idle {
                idle = tokio::time::timeout(COMMITTED_IDLE, shared.wake.notified()).await.is_err();
            } else if self.spare.is_none() {
                // Whoever would append is refused while the disk is said to be full, so that no append leads back here.
                if tokio::time::timeout(FULL_RETRY, shared.wake.notified()).await.is_err() {
                    return Work::LookForRoom;
                }
                idle = false;
            } else {
                shared.wake.notified().await;
                idle = false;
            }
        }
    }

    /// The record of what is committed, once all it speaks of is in the log on disk or in this batch.
    fn committed_to_write(&self, state: &State, batch: &Batch) -> Option<Record> {
        let (index, meta) = state.index.extent.committed.clone().filter(|_| state.committed_unsaved)?;
        let mut after = self.written.clone();
        let fits = batch.records.iter().all(|r| after.apply(r));
        (fits && after.end().is_some_and(|end| end >= index)).then_some(Record::Committed { index, meta })
    }

    /// Writes and syncs one frame, holding it while the disk is full and the log is not being closed. Returns where each record begins.
    async fn write(&mut self, shared: &Shared, records: &[Record]) -> Result<Vec<u64>, WalError> {
        let (mut bytes, mut offsets) = frame::encode_frame(self.salt, self.sequence, records);
        let used = self.active.offset > HEAD_BYTES as u64;
        if used && self.active.offset + bytes.len() as u64 > self.segment_bytes && !records.is_empty() {
            self.roll(shared).await?;
            // The new segment's first frame took the sequence number.
            (bytes, offsets) = frame::encode_frame(self.salt, self.sequence, records);
        }
        self.write_held(shared, self.active.offset, bytes.clone()).await?;
        self.sequence += 1;
        let start = self.active.offset;
        self.active.offset += bytes.len() as u64;
        for record in records {
            if !self.written.apply(record) {
                tracing::error!(?record, "a record that the index took does not fit the log");
            }
        }
        Ok(offsets.into_iter().map(|o| start + u64::from(o)).collect())
    }

    async fn write_held(&self, shared: &Shared, offset: u64, bytes: Bytes) -> Result<(), WalError> {
        let segment = &self.active.segment;
        loop {
            let written = if mutants::is_on(mutants::Mutant::AckBeforeFsync) {
                segment.file.write_at(offset, bytes.clone()).await.map_err(WriteSyncError::Write)
            } else {
                segment.file.write_synced(offset, bytes.clone()).await
            };
            match written {
                Ok(()) => return Ok(()),
                Err(WriteSyncError::Write(e)) if is_full(&e) => hold(shared, &segment.name).await?,
                Err(WriteSyncError::Write(e)) => {
                    return Err(failed(format!("cannot write {}", segment.name))(e));
                }
                Err(WriteSyncError::Sync(e)) => {
                    return Err(failed(format!("cannot sync {}", segment.name))(e));
                }
            }
        }
    }

    /// Goes on in the next segment.
    async fn roll(&mut self, shared: &Shared) -> Result<(), WalError> {
        while self.spare.is_none() {
            self.prepare_spare(shared).await?;
            if self.spare.is_none() {
                hold(shared, &segment_name(self.next_number)).await?;
            }
        }
        let Some((number, segment)) = self.spare.take() else { return Ok(()) };
        self.active = Active { number, segment: segment.clone(), offset: 0 };
        let begin = self.encode_beginning();
        self.write_held(shared, 0, begin.clone()).await?;
        self.active.offset = begin.len() as u64;
        shared.lock().segments.insert(number, segment);
        Ok(())
    }

    /// Allocates the next segment, unless that is done. A full disk is said, and tried again later.
    async fn prepare_spare(&mut self, shared: &Shared) -> Result<(), WalError> {
        if self.spare.is_some() {
            // A write that was held has gone through.
            set_space(shared, Space::Ok);
            return Ok(());
        }
        match create(&self.disk, self.next_number, self.segment_bytes).await {
            Ok(segment) => {
                self.spare = Some((self.next_number, segment));
                self.next_number += 1;
                set_space(shared, Space::Ok);
                Ok(())
            }
            Err(WalError::Failed { source, .. }) if is_full(&source) => {
                set_space(shared, Space::Full);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Everything of the batch is durable: says so, and removes files that nobody needs any more.
    async fn finish(&mut self, shared: &Shared, batch: Batch, offsets: &[u64]) -> Result<(), WalError> {
        let unneeded = {
            let mut state = shared.lock();
            state.place(&batch, self.active.number, offsets);
            state.queued_bytes -= batch.bytes;
            state.written.syncs += 1;
            state.written.entries += batch.entries.len() as u64;
            state.index.evict(shared.options.cache_bytes);
            // The index may already know of a reset that is not on disk.
            let durable = state.index.durable().min(self.written.end());
            shared.durable.send_if_modified(|d| std::mem::replace(d, durable) != durable);
            state.take_unneeded(self.active.number, &self.written)
        };
        batch.succeed();
        shared.room.notify_waiters();
        for segment in &unneeded {
            self.disk
                .remove(segment)
                .await
                .map_err(failed(format!("cannot remove {}", self.disk.describe(segment))))?;
        }
        self.prepare_spare(shared).await
    }
}

fn panicked() -> WalError {
    failed("the log's writing task panicked".to_owned())(std::io::Error::other("panic"))
}

/// Tells everybody that the log has ended, however it did.
struct Ending {
    shared: Arc<Shared>,
    /// `None` after an orderly close.
    error: Option<WalError>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(error) = &self.error {
            tracing::error!(%error, "the log failed");
        }
        let left: Vec<Op> = {
            let mut state = self.shared.lock();
            state.closing = true;
            state.failed.clone_from(&self.error);
            state.queue.drain(..).collect()
        };
        let error = self.error.clone().unwrap_or(WalError::Closed);
        for op in left {
            match op {
                Op::Append { done, .. } => done(Err(error.clone())),
                Op::Change { done, .. } => answer(done, Err(error.clone())),
            }
        }
        self.shared.ended.send_replace(true);
        self.shared.room.notify_waiters();
    }
}

fn set_space(shared: &Shared, space: Space) {
    shared.space.send_if_modified(|now| {
        let changed = *now != space;
        *now = space;
        if changed {
            tracing::warn!(?space, "room for the log");
        }
        changed
    });
}

/// Waits for room, unless the log is being closed: nobody could be told that there is none.
async fn hold(shared: &Shared, name: &str) -> Result<(), WalError> {
    set_space(shared, Space::Full);
    if shared.lock().closing {
        return Err(WalError::Closed);
    }
    tracing::debug!(name, "waiting for room");
    tokio::time::sleep(FULL_RETRY).await;
    Ok(())
}

async fn create(disk: &Arc<dyn Disk>, number: u64, bytes: u64) -> Result<Segment, WalError> {
    let name = segment_name(number);
    let path = disk.describe(&name);
    let what = || failed(format!("cannot create {path}"));
    let file = disk.open(&name, OpenMode::Fresh).await.map_err(what())?;
    file.preallocate(bytes).await.map_err(what())?;
    file.sync_data().await.map_err(what())?;
    disk.sync_dir().await.map_err(what())?;
    Ok(Segment { name: path, file, max_index: None })
}

/// Whoever stopped waiting needs no answer.
fn answer(done: oneshot::Sender<Result<(), WalError>>, outcome: Result<(), WalError>) {
    if done.send(outcome).is_err() {
        tracing::trace!("nobody waits for a change of the log any more");
    }
}

impl Batch {
    fn take(state: &mut State) -> Self {
        let mut batch = Self::default();
        while let Some(op) = state.queue.pop_front() {
            match op {
                Op::Append { serial, first_index, records, done } => {
                    for (n, (index, body)) in (first_index..).zip(records).enumerate() {
                        batch.bytes += body.len() as u64;
                        batch.entries.push((serial + n as u64, batch.records.len()));
                        batch.records.push(Record::Entry { index, body });
                    }
                    batch.appends.push(done);
                }
                Op::Change { record, done } => {
                    batch.records.push(record);
                    batch.changes.push(done);
                }
            }
            if batch.bytes >= FRAME_LIMIT_BYTES {
                break;
            }
        }
        batch
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.appends.is_empty()
    }

    fn succeed(self) {
        self.appends.into_iter().for_each(|done| done(Ok(())));
        self.changes.into_iter().for_each(|done| answer(done, Ok(())));
    }

    fn fail(self, error: &WalError) {
        self.appends.into_iter().for_each(|done| done(Err(error.clone())));
        self.changes.into_iter().for_each(|done| answer(done, Err(error.clone())));
    }
}

impl State {
    fn place(&mut self, batch: &Batch, segment: u64, offsets: &[u64]) {
        for (serial, at) in &batch.entries {
            if let (Some(Record::Entry { index, .. }), Some(offset)) =
                (batch.records.get(*at), offsets.get(*at))
            {
                self.index.set_place(*index, *serial, Place { segment, offset: *offset });
            }
        }
        for record in &batch.records {
            if let Record::Reset { .. } = record {
                self.segments.values_mut().for_each(|s| s.max_index = None);
            } else if let Record::Entry { index, .. } = record
                && let Some(active) = self.segments.get_mut(&segment)
            {
                active.max_index = active.max_index.max(Some(*index));
            }
        }
    }

    /// Takes out the oldest segments that hold nothing above what is purged on disk.
    fn take_unneeded(&mut self, active: u64, written: &Extent) -> Vec<String> {
        let purged = written.purged.as_ref().map(|p| p.0);
        let mut names = Vec::new();
        while let Some((number, segment)) = self.segments.first_key_value() {
            if *number == active || segment.max_index > purged {
                break;
            }
            names.push(segment_name(*number));
            self.segments.pop_first();
        }
        names
    }
}
