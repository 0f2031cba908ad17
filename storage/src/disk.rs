//! The few operations on files that this crate uses, as a seam: [`RealDisk`] does them, [`SimDisk`] plays a disk that
//! loses, tears, fails and fills up.
//!
//! One flat directory: a file is a plain name in it. What is written is durable only after `sync_data`; that a name
//! exists, is gone or was renamed is durable only after `sync_dir`.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

mod real;
mod sim;
#[cfg(test)]
mod tests;

pub use real::RealDisk;
pub use sim::{DiskCounts, SimDisk};

/// What [`Disk::open`] does about a file that is, or is not, there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// Created when absent; kept as it is when present.
    Create,
    /// Created when absent, emptied when present.
    Fresh,
}

/// One directory of files.
#[async_trait]
pub trait Disk: Send + Sync + 'static {
    /// Creates the directory if it is missing (readable by its owner alone) and locks it against other processes until
    /// this value is dropped.
    ///
    /// # Errors
    /// `WouldBlock` when another process holds the lock; else what the system says.
    async fn lock(&self) -> io::Result<()>;

    /// Takes all access to the directory from others than its owner.
    ///
    /// # Errors
    /// What the system says.
    async fn restrict(&self) -> io::Result<()>;

    /// The names in the directory, sorted.
    ///
    /// # Errors
    /// What the system says.
    async fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` for [`OpenMode::Existing`]; else what the system says.
    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames, replacing what has the new name.
    ///
    /// # Errors
    /// What the system says.
    async fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file's name. Open handles go on reading it.
    ///
    /// # Errors
    /// What the system says.
    async fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes earlier creations, renames and removals durable.
    ///
    /// # Errors
    /// What the system says.
    async fn sync_dir(&self) -> io::Result<()>;

    /// How messages call the file `name`; the directory itself for an empty name.
    fn describe(&self, name: &str) -> String;
}

/// An open file.
#[async_trait]
pub trait DiskFile: Send + Sync + 'static {
    /// Up to `len` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes>;

    /// Writes all of `bytes` at `offset`, extending the file as needed.
    ///
    /// # Errors
    /// `StorageFull` when there is no room: the range may then hold a part of the bytes, and writing may be repeated.
    async fn write_at(&self, offset: u64, bytes: Bytes) -> io::Result<()>;

    /// Makes all earlier writes durable, with the length.
    ///
    /// # Errors
    /// Whatever comes, it must not be tried again: the system may have dropped what it could not write.
    async fn sync_data(&self) -> io::Result<()>;

    /// `write_at`, then `sync_data`, in one blocking step where that is cheaper.
    ///
    /// # Errors
    /// [`WriteSyncError`] says which of the two failed, since only the write may be repeated.
    async fn write_synced(&self, offset: u64, bytes: Bytes) -> Result<(), WriteSyncError> {
        self.write_at(offset, bytes).await.map_err(WriteSyncError::Write)?;
        self.sync_data().await.map_err(WriteSyncError::Sync)
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// What the system says.
    async fn size_bytes(&self) -> io::Result<u64>;

    /// Cuts the file to `len` bytes.
    ///
    /// # Errors
    /// What the system says.
    async fn truncate(&self, len: u64) -> io::Result<()>;

    /// Reserves room so that the file has at least `len` bytes, new ones zero.
    ///
    /// # Errors
    /// `StorageFull` when there is no room.
    async fn preallocate(&self, len: u64) -> io::Result<()>;
}

/// Which half of [`DiskFile::write_synced`] failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteSyncError {
    /// The write: may be repeated.
    #[error("cannot write")]
    Write(#[source] io::Error),
    /// The sync: what was written may be lost, for good.
    #[error("cannot sync")]
    Sync(#[source] io::Error),
}

impl From<WriteSyncError> for io::Error {
    fn from(error: WriteSyncError) -> Self {
        match error {
            WriteSyncError::Write(e) | WriteSyncError::Sync(e) => e,
        }
    }
}

/// Reads a whole file.
pub(crate) async fn read_all(file: &dyn DiskFile) -> io::Result<Bytes> {
    let len = usize::try_from(file.size_bytes().await?).map_err(io::Error::other)?;
    file.read_at(0, len).await
}

/// Whether an error says that the disk, or the quota, is used up.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether an error says that somebody else has the lock.
pub(crate) fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
