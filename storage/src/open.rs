//! Opening a data directory: whose it is, whether it is whole, and whether its parts fit together.
//!
//! Refused, with what, where and what to do: a directory that another process holds, that something else wrote, that
//! belongs to another node, that a newer version wrote, that is damaged, or whose log begins after everything else ends.

use std::sync::Arc;

use crate::disk::{Disk, OpenMode, is_locked};
use crate::error::{Damage, REMEDY_REJOIN};
use crate::identity::{self, Identity, IdentityFile};
use crate::rows::{Rows, RowsError, RowsImage};
use crate::snapshot::{SnapshotError, SnapshotStore};
use crate::vote::{SlotError, Slots, VOTE, VoteFile, slot_names};
use crate::wal::{Wal, WalError, WalOptions, first_segment_name, is_segment};

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

/// Stands in a directory while it is being restored; it is removed last.
const RESTORING: &str = "restoring";

/// How to open a directory.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The control node's name; must be the one the directory was made under.
    pub node_id: String,
    /// The Raft id for a new directory; drawn from the system's random source when absent. For simulations.
    pub raft_id: Option<u64>,
    /// An index known from elsewhere to have been committed or applied; a log that ends below it is refused.
    pub floor: Option<u64>,
    /// Length of a log segment in bytes.
    pub segment_bytes: u64,
    /// How many bytes of recent log records are kept in memory.
    pub cache_bytes: u64,
}

impl OpenOptions {
    /// The defaults, for a node of this name.
    pub fn new(node_id: impl Into<String>) -> Self {
        let WalOptions { segment_bytes, cache_bytes, .. } = WalOptions::new(0);
        Self { node_id: node_id.into(), raft_id: None, floor: None, segment_bytes, cache_bytes }
    }
}

/// Why a directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{dir} is in use by another process; stop that one, or use another directory")]
    Locked {
        /// The directory.
        dir: String,
    },
    /// It holds files of something else.
    #[error("{dir} is not a data directory of a control node: it holds {found:?}; use an empty directory")]
    NotOurs {
        /// The directory.
        dir: String,
        /// A name in it that is not ours.
        found: String,
    },
    /// A restore was to begin in it.
    #[error("{dir} is not empty: it holds {found:?}; restore into an empty or missing directory")]
    NotEmpty {
        /// The directory.
        dir: String,
        /// A name in it.
        found: String,
    },
    /// A restore began in it, and was cut short.
    #[error("a restore into {dir} did not finish; empty the directory and restore again")]
    Unfinished {
        /// The directory.
        dir: String,
    },
    /// It was made for a node of another name.
    #[error("{dir} belongs to node {owner:?}, not {asked:?}; use that name or another directory")]
    OtherNode {
        /// The directory.
        dir: String,
        /// The name it was made under.
        owner: String,
        /// The name asked for.
        asked: String,
    },
    /// Written by a newer version.
    #[error("{file} has format {found}, this version reads up to {supported}; run the newer version")]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// The newest format that this version reads.
        supported: u32,
    },
    /// A file is not as it was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The log begins after what snapshots and rows hold.
    #[error(
        "{dir} has no state to begin from: the log begins after entry {purged}, \
         the newest snapshot and the rows end before; {REMEDY_REJOIN}"
    )]
    NoBase {
        /// The directory.
        dir: String,
        /// The highest entry that the log no longer has.
        purged: u64,
    },
    /// The log.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The vote, the promise or the identity.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The rows.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// The disk failed.
    #[error("cannot {doing} {dir}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The directory.
        dir: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// An open data directory.
pub struct Storage {
    /// The log.
    pub wal: Wal,
    /// Raft's vote.
    pub vote: VoteFile,
    /// To whom this node promised itself before it had a cluster.
    pub promise: Slots,
    /// Whose directory it is.
    pub identity: IdentityFile,
    /// The snapshots.
    pub snapshots: SnapshotStore,
    /// The rows, loaded: write to them only what the log has synced.
    pub rows: Arc<dyn Rows>,
    /// What the rows held, where that can be used: not behind the newest snapshot, nor ahead of the log.
    pub image: Option<RowsImage>,
    /// Keeps the directory locked.
    pub disk: Arc<dyn Disk>,
}

impl Storage {
    /// Opens a directory, or makes an empty or missing one this node's.
    ///
    /// # Errors
    /// [`OpenError`]. What is refused is left as it was.
    pub async fn open(
        disk: Arc<dyn Disk>,
        rows: Arc<dyn Rows>,
        options: OpenOptions,
    ) -> Result<Self, OpenError> {
        let names = lock_and_list(disk.as_ref()).await?;
        check_ours(&disk.describe(""), &names)?;
        Self::open_locked(disk, rows, options, names).await
    }

    /// Makes an empty or missing directory this node's, to be filled with what a backup holds. Until
    /// [`Storage::finish_restore`] nothing opens it.
    ///
    /// # Errors
    /// [`OpenError::NotEmpty`], [`OpenError::Unfinished`], or as [`Storage::open`].
    pub async fn begin_restore(
        disk: Arc<dyn Disk>,
        rows: Arc<dyn Rows>,
        options: OpenOptions,
    ) -> Result<Self, OpenError> {
        let dir = disk.describe("");
        let names = lock_and_list(disk.as_ref()).await?;
        if names.iter().any(|name| name == RESTORING) {
            return Err(OpenError::Unfinished { dir });
        }
        if let Some(found) = names.first() {
            return Err(OpenError::NotEmpty { dir, found: found.clone() });
        }
        let io = |source| OpenError::Io { doing: "begin a restore in", dir: dir.clone(), source };
        disk.open(RESTORING, OpenMode::Fresh).await.map_err(io)?;
        disk.sync_dir().await.map_err(io)?;
        Self::open_locked(disk, rows, options, names).await
    }

    /// Everything is there: from here on the directory can be opened. Durable when this returns.
    ///
    /// # Errors
    /// When the disk fails; the directory is then still refused, or whole.
    pub async fn finish_restore(&self) -> Result<(), OpenError> {
        let io = |source| OpenError::Io { doing: "finish a restore in", dir: self.disk.describe(""), source };
        self.disk.sync_dir().await.map_err(io)?;
        self.disk.remove(RESTORING).await.map_err(io)?;
        self.disk.sync_dir().await.map_err(io)
    }

    async fn open_locked(
        disk: Arc<dyn Disk>,
        rows: Arc<dyn Rows>,
        options: OpenOptions,
        names: Vec<String>,
    ) -> Result<Self, OpenError> {
        let dir = disk.describe("");
        let identity = open_identity(disk.as_ref(), &dir, &names, &options).await?;
        let io = |source| OpenError::Io { doing: "restrict", dir: dir.clone(), source };
        disk.restrict().await.map_err(io)?;
        let vote = Slots::open(disk.as_ref(), VOTE).await?;
        if vote.load().await.is_some() {
            check_log_is_there(disk.as_ref(), &names)?;
        }
        let promise = Slots::open(disk.as_ref(), "promise").await?;
        let snapshots = SnapshotStore::open(Arc::clone(&disk)).await?;
        let snapshot = snapshots.latest().map(|s| s.index);
        // Rows older than the newest snapshot are of no use; newer ones were written after the log had synced them.
        let image = rows.load().await?.filter(|image| Some(image.applied) >= snapshot);
        let applied = image.as_ref().map(|i| i.applied).filter(|applied| Some(*applied) > snapshot);
        let wal_options = WalOptions {
            floor: options.floor.max(applied),
            segment_bytes: options.segment_bytes,
            cache_bytes: options.cache_bytes,
            ..WalOptions::new(identity.get().raft_id)
        };
        let wal = Wal::open(Arc::clone(&disk), wal_options).await?;
        if let Some((purged, _)) = wal.purged()
            && snapshot.max(image.as_ref().map(|i| i.applied)) < Some(purged)
        {
            return Err(OpenError::NoBase { dir, purged });
        }
        Ok(Self { wal, vote, promise, identity, snapshots, rows, image, disk })
    }
}

/// The log's first file is made before anything can vote.
fn check_log_is_there(disk: &dyn Disk, names: &[String]) -> Result<(), Damage> {
    if names.iter().any(|name| is_segment(name)) {
        return Ok(());
    }
    let why = "the log's files are missing, but this node has voted";
    Err(Damage::new(disk.describe(&first_segment_name()), 0, why))
}

/// Locks the directory and lists what is in it.
async fn lock_and_list(disk: &dyn Disk) -> Result<Vec<String>, OpenError> {
    let dir = disk.describe("");
    let io = |doing: &'static str| {
        let dir = dir.clone();
        move |source| OpenError::Io { doing, dir, source }
    };
    disk.lock().await.map_err(|e| match is_locked(&e) {
        true => OpenError::Locked { dir: dir.clone() },
        false => io("lock")(e),
    })?;
    let mut names = disk.list().await.map_err(io("list"))?;
    // What the root of a mounted file system always holds.
    names.retain(|name| name != "lost+found");
    Ok(names)
}

/// Refuses a directory with files in it and no identity. A new directory that lost power has its identity's files alone.
fn check_ours(dir: &str, names: &[String]) -> Result<(), OpenError> {
    if names.iter().any(|name| name == RESTORING) {
        return Err(OpenError::Unfinished { dir: dir.to_owned() });
    }
    let ours = slot_names(identity::NAME);
    if names.iter().any(|name| ours.contains(name)) {
        return Ok(());
    }
    match names.first() {
        Some(found) => Err(OpenError::NotOurs { dir: dir.to_owned(), found: found.clone() }),
        None => Ok(()),
    }
}

async fn open_identity(
    disk: &dyn Disk,
    dir: &str,
    names: &[String],
    options: &OpenOptions,
) -> Result<IdentityFile, OpenError> {
    let own = slot_names(identity::NAME);
    let others = names.iter().find(|name| !own.contains(name)).map(String::as_str);
    let draw = || {
        let io = |source| OpenError::Io { doing: "draw a Raft id for", dir: dir.to_owned(), source };
        let raft_id = options.raft_id.map_or_else(identity::draw_raft_id, Ok).map_err(io)?;
        Ok(Identity { format: identity::FORMAT, node_id: options.node_id.clone(), raft_id, cluster_id: None })
    };
    let file = IdentityFile::open(disk, others, draw).await?;
    let owner = file.get().node_id;
    if owner != options.node_id {
        return Err(OpenError::OtherNode { dir: dir.to_owned(), owner, asked: options.node_id.clone() });
    }
    Ok(file)
}
