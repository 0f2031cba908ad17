//! openraft's state machine over ours: memory is the state, the log is the truth, the rows trail.
//!
//! Invariants: within one batch, the state is published before any proposer is answered. Log time never falls. Nothing here
//! waits for a disk while applying. A snapshot is built from a copy of the rows, off the apply path.
//!
//! Caveat: openraft may apply entries that this node has submitted and not yet flushed; [`crate::trail`] keeps what is stored
//! behind what is durable.

use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{RaftSnapshotBuilder, Snapshot};
use ruvector_cluster_storage::rows::RowsIter;
use ruvector_cluster_storage::{SnapshotFile, SnapshotStore};
use tokio::sync::watch;

use crate::codec;
use crate::machine::StateMachine;
use crate::runtime::blocking;
use crate::trail::{Position, Trail, TrailError};
use crate::types::{
    CommittedLeaderId, Entry, LogId, Outcome, Payload, Peer, SnapshotMeta, StoredMembership, TypeConfig,
};

/// Entries applied before the state is published and their proposers are answered.
const BATCH_ENTRIES: usize = 512;
/// Rows are gathered to pieces of this size for a snapshot file.
const PIECE_BYTES: usize = 256 << 10;

type MachineSnapshot = Snapshot<CommittedLeaderId, u64, Peer, SnapshotFile>;

/// What readers see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

impl Published {
    pub(crate) fn of(position: &Position) -> Self {
        Self {
            index: position.index(),
            term: position.applied.map_or(0, |applied| applied.committed_leader_id().term),
        }
    }
}

/// What a batch of entries leaves to do once they are applied.
#[derive(Default)]
struct Batch {
    entries: usize,
    rows: Vec<(Vec<u8>, Option<Bytes>)>,
    answers: Vec<(ApplyResponder<TypeConfig>, Outcome)>,
}

/// Drives the state machine.
pub(crate) struct MachineStore {
    machine: Box<dyn StateMachine>,
    position: Position,
    snapshots: SnapshotStore,
    trail: Trail,
    published: watch::Sender<Published>,
    applied: watch::Sender<u64>,
}

impl MachineStore {
    /// Around a machine that stands at `position` and has published it.
    pub(crate) fn new(
        machine: Box<dyn StateMachine>,
        position: Position,
        snapshots: SnapshotStore,
        trail: Trail,
    ) -> Self {
        let published = watch::Sender::new(Published::of(&position));
        let applied = watch::Sender::new(position.index());
        Self { machine, position, snapshots, trail, published, applied }
    }

    pub(crate) fn published(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// The published index alone.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn apply_entry(&mut self, entry: &Entry, rows: &mut Vec<(Vec<u8>, Option<Bytes>)>) -> Outcome {
        self.position.applied = Some(entry.log_id);
        match &entry.payload {
            Payload::Blank => Outcome::default(),
            Payload::Membership(membership) => {
                self.position.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Outcome::default()
            }
            Payload::Normal(command) => {
                let time_ms = self.position.time_ms.max(command.stamp_ms);
                self.position.time_ms = time_ms;
                let applied = self.machine.apply(entry.log_id.index(), time_ms, &command.body);
                rows.extend(applied.rows);
                Outcome { time_ms, body: applied.outcome }
            }
        }
    }

    /// Copies a snapshot that lies elsewhere among our own; what came from a peer is there already.
    async fn keep(&self, snapshot: &SnapshotFile) -> Result<(), io::Error> {
        if self.snapshots.latest().is_some_and(|latest| latest.meta == snapshot.meta) {
            return Ok(());
        }
        let mut receiver = self.snapshots.receiver().await.map_err(io::Error::other)?;
        let mut at = 0;
        while at < snapshot.len {
            let piece = snapshot.raw(at, PIECE_BYTES).await.map_err(io::Error::other)?;
            if piece.is_empty() {
                break;
            }
            at += piece.len() as u64;
            receiver.write(piece).await.map_err(io::Error::other)?;
        }
        receiver.finish().await.map(drop).map_err(io::Error::other)
    }

    fn take(&mut self, (entry, responder): EntryResponder<TypeConfig>, batch: &mut Batch) {
        let outcome = self.apply_entry(&entry, &mut batch.rows);
        batch.entries += 1;
        batch.answers.extend(responder.map(|responder| (responder, outcome)));
    }

    fn finish(&mut self, batch: Batch) {
        self.publish();
        self.trail.push(batch.rows, self.position.clone());
        for (responder, outcome) in batch.answers {
            responder.send(outcome);
        }
    }

    fn publish(&mut self) {
        self.machine.publish(self.position.index(), self.position.time_ms);
        self.published.send_replace(Published::of(&self.position));
        self.applied.send_replace(self.position.index());
    }
}

impl RaftStateMachine<TypeConfig> for MachineStore {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.position.applied, self.position.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let mut entries = entries.fuse();
        while let Some(first) = entries.next().await {
            let mut batch = Batch::default();
            self.take(first?, &mut batch);
            while batch.entries < BATCH_ENTRIES {
                match entries.next().now_or_never() {
                    Some(Some(entry)) => self.take(entry?, &mut batch),
                    Some(None) | None => break,
                }
            }
            self.finish(batch);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            position: self.position.clone(),
            rows: Mutex::new(Some(self.machine.rows())),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let position = Position::decode(&snapshot.meta)?;
        self.keep(&snapshot).await?;
        let rows = read_rows(&snapshot).await?;
        let machine = &mut self.machine;
        self.trail
            .replace(&position, || {
                machine.restore(position.index(), position.time_ms, rows).map_err(io::Error::other)?;
                Ok::<RowsIter, InstallError>(machine.rows())
            })
            .await?;
        self.position = position;
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<MachineSnapshot>, io::Error> {
        self.snapshots.latest().map(describe).transpose()
    }
}

struct InstallError(io::Error);

impl From<io::Error> for InstallError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<TrailError> for InstallError {
    fn from(error: TrailError) -> Self {
        Self(io::Error::other(error))
    }
}

impl From<InstallError> for io::Error {
    fn from(error: InstallError) -> Self {
        error.0
    }
}

/// A snapshot as openraft knows it.
pub(crate) fn describe(file: SnapshotFile) -> Result<MachineSnapshot, io::Error> {
    let position = Position::decode(&file.meta)?;
    let meta = SnapshotMeta { last_log_id: position.applied, last_membership: position.membership };
    Ok(Snapshot { meta, snapshot: file })
}

/// All rows of a snapshot.
pub(crate) async fn read_rows(snapshot: &SnapshotFile) -> Result<Vec<(Vec<u8>, Bytes)>, io::Error> {
    const WHAT: &str = "snapshot row";
    let mut content = snapshot.reader().read_to_end().await.map_err(io::Error::other)?;
    let mut rows = Vec::new();
    while !content.is_empty() {
        let key = codec::take_part(&mut content, WHAT)?;
        rows.push((key.to_vec(), codec::take_part(&mut content, WHAT)?));
    }
    Ok(rows)
}

/// Writes a snapshot from a copy of the rows.
pub(crate) struct Builder {
    position: Position,
    /// In a lock only because openraft wants builders to be shareable.
    rows: Mutex<Option<RowsIter>>,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<MachineSnapshot, io::Error> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut rows = rows.ok_or_else(|| io::Error::other("a snapshot builder builds once"))?;
        let meta = self.position.encode()?;
        let mut writer =
            self.snapshots.writer(self.position.index(), meta).await.map_err(io::Error::other)?;
        loop {
            // Rows are read and encoded on a thread that may block, piece by piece, so that no worker is held for long.
            let (piece, rest) = blocking(move || gather(rows)).await??;
            if piece.is_empty() {
                break;
            }
            writer.write(&piece).await.map_err(io::Error::other)?;
            rows = rest;
        }
        describe(writer.finish().await.map_err(io::Error::other)?)
    }
}

pub(crate) fn gather(mut rows: RowsIter) -> Result<(BytesMut, RowsIter), io::Error> {
    let mut piece = BytesMut::new();
    while piece.len() < PIECE_BYTES {
        let Some((key, value)) = rows.next() else { break };
        codec::put_part(&mut piece, &key, "snapshot row")?;
        codec::put_part(&mut piece, &value, "snapshot row")?;
    }
    Ok((piece, rows))
}
