//! What a node's files say, put together before Raft starts: state machine, log and vote.
//!
//! Invariant: the newest snapshot covers all that was purged from the log, so that whoever is behind can be sent it.
//!
//! The rows are taken when their position is in the log or below its beginning; else the newest snapshot is, else nothing,
//! and openraft applies the committed rest of the log. A snapshot that was received and not yet installed at a crash counts:
//! it holds committed state only, so whatever the log has at or above its end and contradicts it was never committed.

use std::io;

use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine;
use openraft::vote::RaftLeaderId;
use ruvector_cluster_storage::error::REMEDY_REJOIN;
use ruvector_cluster_storage::rows::RowsIter;
use ruvector_cluster_storage::vote::{VOTE, slot_names};
use ruvector_cluster_storage::{OpenError, Storage};

use crate::error::StartError;
use crate::log_store::LogStore;
use crate::machine::{RestoreError, StateMachine};
use crate::machine_store::{MachineStore, read_rows};
use crate::trail::{Position, Trail, TrailError};

/// A node's state, ready for Raft.
pub(crate) struct Recovered {
    pub(crate) log: LogStore,
    pub(crate) machine: MachineStore,
    pub(crate) trail: Trail,
}

#[derive(Debug, thiserror::Error)]
enum RecoverError {
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Trail(#[from] TrailError),
}

impl From<RecoverError> for StartError {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Restore(error) => Self::Restore(error),
            RecoverError::Trail(source) => Self::Storage { what: "store the state", source: source.into() },
        }
    }
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
) -> impl FnOnce(E) -> StartError {
    move |source| StartError::Storage { what, source: source.into() }
}

/// Reads everything and brings the machine to where its files end.
///
/// # Errors
/// When something is not understood or cannot be read.
pub(crate) async fn recover(
    storage: &mut Storage,
    mut machine: Box<dyn StateMachine>,
) -> Result<Recovered, StartError> {
    let log =
        LogStore::open(storage.wal.clone(), storage.vote.clone()).await.map_err(failed("read the vote"))?;
    check_vote(&log, storage).await?;
    let snapshot = storage.snapshots.latest();
    let (mut base, mut unusable) = (None, false);
    if let Some(image) = storage.image.take() {
        let position = Position::decode(&image.position).map_err(failed("read the rows' position"))?;
        if is_known(&log, &position).await.map_err(failed("read the log"))? {
            base = Some((position, image.rows));
        } else {
            tracing::warn!(applied = image.applied, "the stored rows are not of this log; they are rebuilt");
            unusable = true;
        }
    }
    let trail = Trail::new(storage.rows.clone(), base.as_ref().map_or(0, |(position, _)| position.index()));
    let purged = log.purged().map_err(failed("read the log"))?.map(|purged| purged.index());
    let position = match (&base, &snapshot) {
        (Some((position, _)), _) => position.clone(),
        (None, Some(snapshot)) => {
            Position::decode(&snapshot.meta).map_err(failed("read the snapshot's position"))?
        }
        (None, None) => Position::default(),
    };
    check_reaches_log(&position, purged, storage)?;
    match (base, snapshot) {
        (Some((_, rows)), _) => machine.restore(position.index(), position.time_ms, rows)?,
        (None, Some(snapshot)) => {
            let rows = read_rows(&snapshot).await.map_err(failed("read the snapshot"))?;
            rebuild(&trail, &position, machine.as_mut(), rows).await?;
        }
        (None, None) if unusable => rebuild(&trail, &position, machine.as_mut(), Vec::new()).await?,
        (None, None) => machine.restore(0, 0, Vec::new())?,
    }
    drop_contradicting_log(&log, &position).await.map_err(failed("truncate the log"))?;
    machine.publish(position.index(), position.time_ms);
    let mut machine = MachineStore::new(machine, position, storage.snapshots.clone(), trail.clone());
    if purged > storage.snapshots.latest().map(|snapshot| snapshot.index) {
        tracing::warn!(purged, "the snapshot that the log was purged behind is gone; the rows give another");
        let mut builder = machine.get_snapshot_builder().await;
        builder.build_snapshot().await.map_err(failed("write a snapshot"))?;
    }
    Ok(Recovered { log, machine, trail })
}

/// A vote stands on disk before the first entry of its term does; the entry that founds a cluster, at index 0 and of no term,
/// is the only one before any vote. So a vote that is missing, or of a lower term than the log, was lost: going on without it,
/// this node could vote twice in one term. (What a received snapshot covers may be of a term that this node never voted in.)
async fn check_vote(log: &LogStore, storage: &Storage) -> Result<(), StartError> {
    let last = log.last_entry().await.map_err(failed("read the log"))?.filter(|last| last.index() > 0);
    let Some(term) = last.map(|last| last.committed_leader_id().term) else { return Ok(()) };
    let voted = log.vote().map(|vote| vote.leader_id.term());
    if voted.is_some_and(|voted| voted >= term) {
        return Ok(());
    }
    let file = storage.disk.describe(&slot_names(VOTE)[0]);
    let holds = voted
        .map_or("it and its twin hold no vote".to_owned(), |term| format!("it holds a vote of term {term}"));
    let why = format!(
        "{file} is damaged at byte 0: {holds}, but the log has an entry of term {term}; {REMEDY_REJOIN}"
    );
    Err(StartError::State { why })
}

/// The log must go on where the state that it is applied to ends. Rows that were stored for another log do not count, though
/// they were enough for the directory to be opened.
fn check_reaches_log(position: &Position, purged: Option<u64>, storage: &Storage) -> Result<(), StartError> {
    match purged {
        Some(purged) if position.applied.map(|applied| applied.index()) < Some(purged) => {
            let refused = OpenError::NoBase { dir: storage.disk.describe(""), purged };
            Err(StartError::State { why: refused.to_string() })
        }
        Some(_) | None => Ok(()),
    }
}

async fn rebuild(
    trail: &Trail,
    position: &Position,
    machine: &mut dyn StateMachine,
    rows: Vec<(Vec<u8>, bytes::Bytes)>,
) -> Result<(), RecoverError> {
    let install = || {
        machine.restore(position.index(), position.time_ms, rows)?;
        Ok::<RowsIter, RecoverError>(machine.rows())
    };
    trail.replace(position, install).await
}

/// Whether the log agrees with a position, or no longer reaches down to it.
async fn is_known(log: &LogStore, position: &Position) -> io::Result<bool> {
    let Some(applied) = position.applied else { return Ok(true) };
    let purged = log.purged()?;
    if purged.is_some_and(|purged| applied.index() < purged.index()) {
        return Ok(false);
    }
    // Beyond the end of the log stands only what an installed snapshot brought.
    Ok(log.log_id_at(applied.index()).await?.is_none_or(|known| known == applied))
}

async fn drop_contradicting_log(log: &LogStore, position: &Position) -> io::Result<()> {
    let Some(applied) = position.applied else { return Ok(()) };
    match log.log_id_at(applied.index()).await? {
        Some(known) if known != applied => {
            tracing::warn!(%applied, %known, "entries that contradict the installed snapshot were never committed; dropped");
            log.reset(applied).await
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
