//! The data directory of the first control node of a cluster that begins from a backup.
//!
//! The state goes in as a snapshot at an index that the caller chooses; the log begins above it. The node is the only member of
//! a cluster with an id of its own, and has a Raft id of its own, so that nothing of the old control cluster can talk to it; the
//! other control nodes join it empty, as new ones ever do. (To restore each of them from a copy of the file, as some
//! systems do, would let two different files meet in one cluster.)
//!
//! Invariant: a directory that was not finished is refused by whoever opens it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use openraft::storage::RaftLogStorage;
use ruvector_cluster_storage::identity::BindError;
use ruvector_cluster_storage::rows::RowsIter;
use ruvector_cluster_storage::{Disk, OpenError, OpenOptions, Rows, SnapshotError, Storage, WalError};

use crate::log_store::LogStore;
use crate::machine_store::gather;
use crate::runtime::blocking;
use crate::trail::Position;
use crate::types::{LogId, Membership, Peer, StoredMembership, Vote};

/// The first term of the new cluster: the snapshot is taken as of it, and the first election begins the next.
const TERM: u64 = 1;

/// Who begins, and from where.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Of the new cluster.
    pub cluster_id: String,
    /// The control node's name.
    pub name: String,
    /// The base URL of its client API, as told to others.
    pub client_url: String,
    /// The base URL of its peer listener, as told to others.
    pub peer_url: String,
    /// The log index that the state stands at.
    pub index: u64,
    /// Log time of the state, in milliseconds since 1970.
    pub time_ms: u64,
}

/// Why a directory was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreDirectoryError {
    /// It can't be had.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It can't be given to the cluster.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The snapshot was not written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log was not closed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// Something else of it was not written.
    #[error("cannot write {what}")]
    Write {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn write(what: &'static str) -> impl FnOnce(io::Error) -> RestoreDirectoryError {
    move |source| RestoreDirectoryError::Write { what, source }
}

/// Fills an empty or missing directory; durable when this returns. Gives back the Raft id that was drawn.
///
/// # Errors
/// [`RestoreDirectoryError`]. A directory that was begun is refused from then on, until it is emptied.
pub async fn restore_directory(
    disk: Arc<dyn Disk>,
    rows: Arc<dyn Rows>,
    options: OpenOptions,
    beginning: Beginning,
    content: RowsIter,
) -> Result<u64, RestoreDirectoryError> {
    let storage = Storage::begin_restore(disk, rows, options).await?;
    let raft_id = storage.identity.get().raft_id;
    storage.identity.bind(&beginning.cluster_id).await?;
    let meta =
        position(raft_id, &beginning)?.encode().map_err(|error| write("the position")(error.into()))?;
    let mut writer = storage.snapshots.writer(beginning.index, meta).await?;
    let mut content = content;
    loop {
        let gathered = blocking(move || gather(content)).await.map_err(write("the rows"))?;
        let (piece, rest) = gathered.map_err(write("the rows"))?;
        if piece.is_empty() {
            break;
        }
        writer.write(&piece).await?;
        content = rest;
    }
    writer.finish().await?;
    let mut log =
        LogStore::open(storage.wal.clone(), storage.vote.clone()).await.map_err(write("the vote"))?;
    log.save_vote(&Vote::new(TERM, raft_id)).await.map_err(write("the vote"))?;
    storage.wal.close().await?;
    storage.finish_restore().await?;
    Ok(raft_id)
}

fn position(raft_id: u64, beginning: &Beginning) -> Result<Position, RestoreDirectoryError> {
    let log_id = LogId::new(TERM.into(), beginning.index);
    let peer = Peer {
        name: beginning.name.clone(),
        client_url: beginning.client_url.clone(),
        peer_url: beginning.peer_url.clone(),
        ..Peer::default()
    };
    let membership = Membership::new(vec![BTreeSet::from([raft_id])], BTreeMap::from([(raft_id, peer)]));
    let membership = membership.map_err(|error| write("the membership")(io::Error::other(error)))?;
    let membership = StoredMembership::new(Some(log_id), membership);
    Ok(Position { applied: Some(log_id), membership, time_ms: beginning.time_ms })
}
