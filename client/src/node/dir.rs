//! The data directory: whose it is, and that it is this process's alone.
//!
//! Its random `store_id` is drawn once, with the directory: a node that comes back with another disk is another store.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::ids::NodeId;
use serde::{Deserialize, Serialize};

/// The layout of the directory.
const FORMAT: u32 = 1;

/// What the directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the directory's layout.
    pub format: u32,
    /// Random.
    pub store_id: String,
    /// Whose it is.
    pub node_id: NodeId,
    /// What the databases in it are bound to ([`ShardStore::layout`](super::ShardStore::layout)).
    pub layout: String,
    /// The cluster's highest generation seen.
    pub generation: u64,
}

/// A directory that is open; a second process is kept out until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Mutex<Identity>,
    _lock: File,
}

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The system refused.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        #[source]
        error: io::Error,
    },
    /// Another process has it.
    #[error("{0} is in use by another process: stop that one, or give this node its own data directory")]
    Locked(PathBuf),
    /// Its identity can't be read.
    #[error("{path} is damaged ({why}): restore it, or start with an empty data directory as another store")]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
    /// It is of a newer build.
    #[error("{0} has format {1}, newer than this build understands: use the newer build")]
    Newer(PathBuf, u32),
    /// It is of another node.
    #[error("{path} belongs to node {held}, not to {asked}: check the node's name and its data directory")]
    OtherNode {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        held: NodeId,
        /// Who asked.
        asked: NodeId,
    },
    /// Its databases are of another layout.
    #[error(
        "{path} holds {held}, not {asked}: start the node with the options that it had, or give it another data directory"
    )]
    OtherLayout {
        /// Where.
        path: PathBuf,
        /// What it has.
        held: String,
        /// What was asked for.
        asked: String,
    },
}

impl DataDir {
    /// Opens `path`, or makes it, for this node.
    ///
    /// # Errors
    /// [`DataDirError`], which says what to do.
    pub fn open(path: &Path, node: &NodeId, layout: &str) -> Result<Self, DataDirError> {
        let io = |error| DataDirError::Io { path: path.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(io)?;
        let lock = lock(path)?;
        let file = path.join("identity.json");
        // An identity that can't be looked at must not be replaced by a new one.
        let identity = if file.try_exists().map_err(io)? {
            let identity = read(&file)?;
            check(path, &identity, node, layout)?;
            identity
        } else {
            let identity = Identity {
                format: FORMAT,
                store_id: random_id().map_err(io)?,
                node_id: node.clone(),
                layout: layout.to_owned(),
                generation: 0,
            };
            write(&file, &identity).map_err(io)?;
            identity
        };
        fs::create_dir_all(path.join("shards")).map_err(io)?;
        File::open(path).and_then(|dir| dir.sync_all()).map_err(io)?;
        Ok(Self { path: path.to_owned(), identity: Mutex::new(identity), _lock: lock })
    }

    /// What it says of itself.
    pub fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts the cluster's generation on disk. Blocks.
    ///
    /// # Errors
    /// When it is not on disk.
    pub fn save_generation(&self, generation: u64) -> io::Result<()> {
        let mut held = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Identity { generation, ..held.clone() };
        write(&self.path.join("identity.json"), &next)?;
        *held = next;
        Ok(())
    }

    /// The directory of a shard's copy.
    pub fn shard(&self, shard: u32) -> PathBuf {
        self.path.join("shards").join(format!("{shard:06}"))
    }

    /// The shards that have a directory, ascending; what is left of deleted copies is removed.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn shards(&self) -> io::Result<Vec<u32>> {
        let mut shards = Vec::new();
        for entry in fs::read_dir(self.path.join("shards"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "gone") {
                fs::remove_dir_all(&path)?;
            } else if let Some(shard) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok())
            {
                shards.push(shard);
            }
        }
        shards.sort_unstable();
        Ok(shards)
    }

    /// Free bytes of its file system.
    pub fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.path).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let io = |error| DataDirError::Io { path: path.to_owned(), error };
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock")).map_err(io)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::Locked(path.to_owned())),
        Err(error) => Err(io(error.into())),
    }
}

fn read(file: &Path) -> Result<Identity, DataDirError> {
    let text = fs::read(file).map_err(|error| DataDirError::Io { path: file.to_owned(), error })?;
    serde_json::from_slice(&text)
        .map_err(|e| DataDirError::Damaged { path: file.to_owned(), why: e.to_string() })
}

fn check(path: &Path, held: &Identity, node: &NodeId, layout: &str) -> Result<(), DataDirError> {
    let path = path.to_owned();
    if held.format > FORMAT {
        return Err(DataDirError::Newer(path, held.format));
    }
    if held.node_id != *node {
        return Err(DataDirError::OtherNode { path, held: held.node_id.clone(), asked: node.clone() });
    }
    if held.layout != layout {
        return Err(DataDirError::OtherLayout { path, held: held.layout.clone(), asked: layout.to_owned() });
    }
    Ok(())
}

fn write(file: &Path, identity: &Identity) -> io::Result<()> {
    let temporary = file.with_extension("new");
    let mut out = File::create(&temporary)?;
    out.write_all(&serde_json::to_vec_pretty(identity)?)?;
    out.sync_all()?;
    fs::rename(&temporary, file)?;
    file.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn the_store_id_stays_and_the_generation_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        let opened = DataDir::open(&path, &node("d1"), "4 dimensions").unwrap();
        opened.save_generation(3).unwrap();
        let identity = opened.identity();
        drop(opened);
        let again = DataDir::open(&path, &node("d1"), "4 dimensions").unwrap();
        assert_eq!(again.identity(), identity);
        assert_eq!(identity.generation, 3);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn an_identity_that_cannot_be_looked_at_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("identity.json");
        std::os::unix::fs::symlink(&file, &file).unwrap();
        let refused = DataDir::open(dir.path(), &node("d1"), "4 dimensions");
        assert!(matches!(refused, Err(DataDirError::Io { .. })), "{refused:?}");
        assert!(fs::symlink_metadata(&file).unwrap().is_symlink());
    }

    #[test]
    fn a_second_process_another_node_and_another_layout_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = |id: &str, layout| DataDir::open(dir.path(), &node(id), layout);
        let held = open("d1", "4 dimensions").unwrap();
        assert!(matches!(open("d1", "4 dimensions"), Err(DataDirError::Locked(_))));
        drop(held);
        assert!(matches!(open("d2", "4 dimensions"), Err(DataDirError::OtherNode { .. })));
        assert!(matches!(open("d1", "5 dimensions"), Err(DataDirError::OtherLayout { .. })));
    }
}
