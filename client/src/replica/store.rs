//! What a copy keeps on disk, and the contract of whoever keeps it.
//!
//! The replica decides, the store carries out: [`StoreAction`]s come in the order in which the replica asked for them and are
//! carried out one after another, each durable as a whole or not at all before its result is told. Several that wait may
//! share an fsync as long as none is told before it. Nothing here knows of roles, leases or other nodes.

use super::tail::Tail;
use super::wire::{Alignment, Chunk, Write};
use super::{Key, Value};
use crate::ids::{Epoch, Position};

/// What is known of a copy when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StoreState {
    /// The highest epoch adopted.
    pub adopted: Epoch,
    /// Not while the copy is being filled: its content may then be any mixture.
    pub full: bool,
    /// The last writes; its end is the copy's last position.
    pub tail: Tail,
}

/// Something to be done to a copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreAction {
    /// [`ReplicaStore::create`].
    Create,
    /// [`ReplicaStore::adopt`].
    Adopt(Epoch),
    /// [`ReplicaStore::append`].
    Append(Vec<Write>),
    /// [`ReplicaStore::align`].
    Align(Alignment),
    /// [`ReplicaStore::begin_fill`].
    BeginFill {
        /// Where the stream begins.
        base: Position,
    },
    /// [`ReplicaStore::fill_range`].
    FillRange {
        /// The stream's epoch.
        epoch: Epoch,
        /// Where the stream began.
        base: Position,
        /// The range.
        chunk: Chunk,
    },
    /// [`ReplicaStore::end_fill`].
    EndFill,
    /// [`ReplicaStore::read_keys`].
    ReadKeys(Vec<Key>),
    /// [`ReplicaStore::read_chunk`].
    ReadChunk {
        /// The range begins after this key.
        after: Option<Key>,
        /// It ends with this key at the latest.
        until: Option<Key>,
        /// Bound of keys and values.
        max_bytes: u64,
    },
    /// [`ReplicaStore::delete`].
    Delete,
}

/// What came of a [`StoreAction`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreResult {
    /// Durable.
    Done,
    /// Of `ReadKeys`.
    Writes(Vec<Write>),
    /// Of `ReadChunk`.
    Chunk(Chunk),
    /// The copy is unreadable or can't be written for good; it counts as lost. What may pass (no space) is to be waited out
    /// instead.
    Failed,
}

/// Why a store can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no copy.
    #[error("the shard has no copy here")]
    Missing,
    /// The copy's files are damaged or can't be read or written.
    #[error("the shard's copy is damaged: {0}")]
    Damaged(String),
    /// There is no space. Nothing happened, and the same may be tried again.
    #[error("the disk is full")]
    Full,
    /// The system refused, or the database below did.
    #[error("the shard's copy can't be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// One shard copy's durable state: key -> (position stamp, value), the last position, the adopted epoch, whether it
/// is full, and the tail of its log. Calls block; the shell ([`crate::copies`]) runs them off its async threads.
///
/// To ensure correctness:
/// - Actions come one at a time; `get` may run beside them and sees each action wholly or not at all.
/// - Each action is atomic and durable (fsynced) when it returns: after a crash it happened wholly or not at all.
/// - After a failed action the later ones are still carried out, or fail too; a create makes everything good again.
/// - A full copy's content is what the log up to its last position makes; deleted keys leave nothing behind there.
pub trait ReplicaStore: Send + Sync {
    /// What is on disk; `None` when there is no copy.
    ///
    /// # Errors
    /// [`StoreError`] when there is one that can't be read; the shell then opens the replica without a copy.
    fn state(&self) -> Result<Option<StoreState>, StoreError>;

    /// The value of `key`; of a copy that is not full, a tombstone counts as none.
    ///
    /// # Errors
    /// [`StoreError`] when the copy can't be read.
    fn get(&self, key: &str) -> Result<Option<Value>, StoreError>;

    /// Makes an empty, full copy: nothing adopted, last position (0, 0). Replaces an unreadable one.
    ///
    /// # Errors
    /// [`StoreError`] when it can't be made durable.
    fn create(&self) -> Result<(), StoreError>;

    /// Raises the adopted epoch; a lower one changes nothing.
    ///
    /// # Errors
    /// [`StoreError`] when it can't be made durable.
    fn adopt(&self, epoch: Epoch) -> Result<(), StoreError>;

    /// Takes writes that follow the last position without a gap: each key gets the value and the stamp, the tail the
    /// entries. While the copy is filled, a delete leaves a tombstone with its stamp.
    ///
    /// # Errors
    /// [`StoreError`] when they can't be made durable.
    fn append(&self, writes: &[Write]) -> Result<(), StoreError>;

    /// Sets each key of `alignment.writes` to what it says, whatever stamp it has; cuts the tail after
    /// `common`, then appends `tail`; the last position becomes `last`.
    ///
    /// # Errors
    /// [`StoreError`] when it can't be made durable.
    fn align(&self, alignment: &Alignment) -> Result<(), StoreError>;

    /// Marks the copy as not full; the tail becomes empty, the last position `base`. The content stays.
    ///
    /// # Errors
    /// [`StoreError`] when it can't be made durable.
    fn begin_fill(&self, base: Position) -> Result<(), StoreError>;

    /// Makes a key range equal to `chunk`, keys that it doesn't name included, except keys whose stamp (a tombstone's
    /// too) is of `epoch`, above `base`, and newer than the chunk's stamp of the key if it has one. Last position and tail stay.
    ///
    /// # Errors
    /// [`StoreError`] when it can't be made durable.
    fn fill_range(&self, epoch: Epoch, base: Position, chunk: &Chunk) -> Result<(), StoreError>;

    /// Drops the tombstones and marks the copy as full.
    ///
    /// # Errors
    /// [`StoreError`] when it can't be made durable.
    fn end_fill(&self) -> Result<(), StoreError>;

    /// The last write of each key, in order of `keys`; position (0, 0) and no value for a key that isn't there.
    ///
    /// # Errors
    /// [`StoreError`] when the copy can't be read.
    fn read_keys(&self, keys: &[Key]) -> Result<Vec<Write>, StoreError>;

    /// The next range after `after`: keys ascending, without tombstones; ended by `max_bytes` (at least one key), then `upto`
    /// is the last of them; else by `until`, which is `upto` then, whether there is such a key or not (`None`: the range has
    /// all that follows). `at` is the last position, `total_bytes` what the whole copy has, if that is known at no
    /// expense. Also of a copy that is not full.
    ///
    /// # Errors
    /// [`StoreError`] when the copy can't be read.
    fn read_chunk(
        &self,
        after: Option<&Key>,
        until: Option<&Key>,
        max_bytes: u64,
    ) -> Result<Chunk, StoreError>;

    /// Removes the copy and everything known of it.
    ///
    /// # Errors
    /// [`StoreError`] when that can't be made durable.
    fn delete(&self) -> Result<(), StoreError>;

    /// Carries out `action`.
    ///
    /// # Errors
    /// [`StoreError`] as the action's method says; the shell tells the replica [`StoreResult::Failed`], or tries again where
    /// there was no space.
    fn carry_out(&self, action: &StoreAction) -> Result<StoreResult, StoreError> {
        match action {
            StoreAction::Create => self.create()?,
            StoreAction::Adopt(epoch) => self.adopt(*epoch)?,
            StoreAction::Append(writes) => self.append(writes)?,
            StoreAction::Align(alignment) => self.align(alignment)?,
            StoreAction::BeginFill { base } => self.begin_fill(*base)?,
            StoreAction::FillRange { epoch, base, chunk } => self.fill_range(*epoch, *base, chunk)?,
            StoreAction::EndFill => self.end_fill()?,
            StoreAction::ReadKeys(keys) => return Ok(StoreResult::Writes(self.read_keys(keys)?)),
            StoreAction::ReadChunk { after, until, max_bytes } => {
                let chunk = self.read_chunk(after.as_ref(), until.as_ref(), *max_bytes)?;
                return Ok(StoreResult::Chunk(chunk));
            }
            StoreAction::Delete => self.delete()?,
        }
        Ok(StoreResult::Done)
    }
}
