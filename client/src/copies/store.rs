//! What the shell asks of whoever keeps the copies: the store of one copy, and the store of a node, which has all of them.

use async_trait::async_trait;

use crate::agent::HostError;
use crate::ids::ShardId;
use crate::replica::store::{StoreAction, StoreError, StoreResult, StoreState};

/// How much a copy holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopySize {
    /// Vectors, or whatever else the keys name.
    pub vectors: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// Whether a copy has nothing else to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Whatever is left may be done.
    Yes,
    /// Only what has piled up.
    No,
}

/// What is left of the work that a store has put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOff {
    /// None of it.
    Nothing,
    /// Some, to be done once idle.
    Some,
    /// Some that could not be done now, and is tried again after a while.
    Stuck,
}

/// How far a store came with some actions.
#[derive(Debug)]
pub struct Carried {
    /// What came of the first of them, in their order.
    pub results: Vec<StoreResult>,
    /// The others, in their order: nothing of them happened.
    pub left: Vec<StoreAction>,
}

/// Most actions that share an fsync.
const MAX_GROUP: usize = 64;

/// How many of the first of `actions` a store may make durable with one fsync: at least one, where there is any. They are of
/// the kinds that clients wait for; others are few, and stand alone.
#[must_use]
pub fn group_of(actions: &[StoreAction]) -> usize {
    let shares = |action: &&StoreAction| {
        matches!(action, StoreAction::Append(_) | StoreAction::Adopt(_) | StoreAction::FillRange { .. })
    };
    let sharing = actions.iter().take(MAX_GROUP).take_while(shares).count();
    sharing.max(actions.len().min(1))
}

/// The store of one copy, which need not exist.
///
/// To ensure correctness:
/// - The shell carries out actions one call after the other. Each is atomic, and durable before its result is returned.
/// - After an action that failed the later ones are still carried out, or fail too; a create makes everything good again.
/// - A disk without space fails nothing: what does not fit is left. The shell asks for it again until it was done.
/// - Reads of the store may run beside all of this. They see each action wholly or not at all, and only what is durable.
///
/// [`ReplicaStore`](crate::replica::store::ReplicaStore) says what each action does. A store whose calls block is one of these
/// inside of [`Blocking`](super::Blocking).
#[async_trait]
pub trait CopyStore: Send + Sync + 'static {
    /// The copy as it was when the store was opened; `None` where there is none.
    ///
    /// # Errors
    /// When there is one that can't be read; the node then counts as having none.
    async fn found(&self) -> Result<Option<StoreState>, StoreError>;

    /// Carries out as many of `actions` as it likes to at a time, from the first on; those may share an fsync. No result
    /// says that there is no space for the first: the shell waits, and tries again.
    async fn carry_out(&self, actions: Vec<StoreAction>) -> Carried;

    /// Called now and then, beside the actions but once at a time, for work that nobody waits for. Says what is left of it.
    async fn tend(&self, _idle: Idle) -> PutOff {
        PutOff::Nothing
    }

    /// How much there is; `None` without a readable copy. Quick: it is asked for each heartbeat.
    fn size(&self) -> Option<CopySize>;

    /// The node stops in order. What is still asked of the copy from then on may fail. Nothing may depend on this: nodes are
    /// killed.
    async fn close(&self) {}
}

/// All copies of a node, and what else it keeps.
#[async_trait]
pub trait NodeStore: Send + Sync + 'static {
    /// The store of a copy.
    type Copy: CopyStore;

    /// The shards of which something is kept, ascending.
    ///
    /// # Errors
    /// When that can't be told: the node must not start as if it held nothing.
    async fn shards(&self) -> Result<Vec<ShardId>, HostError>;

    /// Opens the store of a shard's copy, whether there is a copy or not. Asked once for each shard.
    ///
    /// # Errors
    /// When it can't be told whether there is a copy. One that can't be read is told by [`CopyStore::found`].
    async fn open(&self, shard: ShardId) -> Result<Self::Copy, HostError>;

    /// The highest generation seen, from disk; 0 for none.
    fn generation(&self) -> u64;

    /// Puts a generation on disk that is higher than the one there.
    ///
    /// # Errors
    /// When it is not on disk.
    async fn save_generation(&self, generation: u64) -> Result<(), HostError>;

    /// Free bytes where the copies are, as far as known.
    fn free_bytes(&self) -> Option<u64>;
}
