//! The state machine's rows on disk, trailing the log: what lets a restart begin near its end.
//!
//! Rows are never the truth. They carry a running checksum (the sum of a hash of each row, so that a batch updates it
//! from what it changes) and the position that they stand at. What doesn't match on loading is dropped with a warning;
//! snapshot and log give the same again. Whoever writes keeps to positions that the log has synced.

use async_trait::async_trait;
use bytes::Bytes;

mod mem;
mod sled;
#[cfg(test)]
mod tests;

pub use mem::MemRows;
pub use sled::SledRows;

/// Changes of rows, taken together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowsBatch {
    /// Key and new value; `None` removes. Of two changes of a key the later one counts.
    pub rows: Vec<(Vec<u8>, Option<Bytes>)>,
    /// The log index that the rows stand at afterwards.
    pub applied: u64,
    /// What the caller keeps beside it: log id, membership, log time.
    pub position: Bytes,
}

/// All rows as they were last written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowsImage {
    /// Sorted by key.
    pub rows: Vec<(Vec<u8>, Bytes)>,
    /// The log index that they stand at.
    pub applied: u64,
    /// What the caller kept beside it.
    pub position: Bytes,
}

/// All rows, in any order, each key once.
pub type RowsIter = Box<dyn Iterator<Item = (Vec<u8>, Bytes)> + Send>;

/// Why rows were not read or written.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// A key is longer than [`MAX_KEY_BYTES`], or a value than [`MAX_VALUE_BYTES`].
    #[error("a row with a key of {key_bytes} and a value of {value_bytes} bytes is too large")]
    TooLarge {
        /// Length of the key.
        key_bytes: usize,
        /// Length of the value.
        value_bytes: usize,
    },
    /// The rows were written by a newer version.
    #[error(
        "the rows in {dir} have format {found}, this version reads up to {supported}; run the newer version"
    )]
    Newer {
        /// Their directory.
        dir: String,
        /// Their format.
        found: u8,
        /// The newest format that this version reads.
        supported: u8,
    },
    /// Written to before [`Rows::load`], or after [`Rows::invalidate`] without [`Rows::replace_all`].
    #[error("the rows have no valid base to change")]
    NoBase,
    /// There is no room; what was there before stays.
    #[error("there is no room for the rows in {dir}")]
    Full {
        /// Their directory.
        dir: String,
    },
    /// The files below failed.
    #[error("the rows in {dir} failed")]
    Failed {
        /// Their directory.
        dir: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 1_024;
/// The longest value, in bytes: that of the largest command (1 MiB), with room.
pub const MAX_VALUE_BYTES: usize = 16 << 20;

/// Rows on disk. Calls are made one at a time.
#[async_trait]
pub trait Rows: Send + Sync + 'static {
    /// All rows; `None` when there are none, or none that can be trusted. Must be called first.
    ///
    /// # Errors
    /// [`RowsError::Newer`], or [`RowsError::Failed`] when the files can't be used at all.
    async fn load(&self) -> Result<Option<RowsImage>, RowsError>;

    /// Takes a batch. With none before, and after [`Rows::load`] gave `None`, it begins from no rows.
    ///
    /// # Errors
    /// [`RowsError`]; nothing of the batch is then taken.
    async fn write(&self, batch: RowsBatch) -> Result<(), RowsError>;

    /// Marks the rows as not to be trusted, until they are replaced.
    ///
    /// # Errors
    /// [`RowsError::Failed`].
    async fn invalidate(&self) -> Result<(), RowsError>;

    /// Replaces everything: marks invalid first, valid last.
    ///
    /// # Errors
    /// [`RowsError`]; the rows are then invalid.
    async fn replace_all(&self, rows: RowsIter, applied: u64, position: Bytes) -> Result<(), RowsError>;
}

pub(crate) fn check_size(key: &[u8], value: &[u8]) -> Result<(), RowsError> {
    if key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
        return Err(RowsError::TooLarge { key_bytes: key.len(), value_bytes: value.len() });
    }
    Ok(())
}
