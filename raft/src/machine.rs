//! What raft/ replicates for: a deterministic state machine over opaque commands.
//!
//! This is the seam at which openraft's generics stop. The layer above implements [`StateMachine`] and never learns how
//! commands are replicated; this crate drives it and never learns what they mean.
//!
//! Invariants that this crate keeps towards an implementation:
//! 1. One task drives it: calls never overlap. `index` rises strictly, `time_ms` never falls.
//! 2. `publish` follows each batch of `apply`, and precedes every answer to a proposer in that batch: whoever was told
//!    of an outcome reads it.
//! 3. Rows returned by `apply` are stored in the background, in order, never past what is durable in the log. After a
//!    restart `restore` gets all rows of some applied position, and the entries above it are applied again.
//!
//! An implementation must not read clocks or random sources, nor iterate hash maps: two replicas that apply the same
//! commands must hold equal rows.

use bytes::Bytes;

/// What applying one command did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// For the proposer alone; nobody else sees it and it is not stored.
    pub outcome: Bytes,
    /// The rows that changed: a new value, or None where the row went away. Keys are 1 to 1,024 bytes.
    pub rows: Vec<(Vec<u8>, Option<Bytes>)>,
}

/// A replicated state. See the module for what is promised and what is required.
pub trait StateMachine: Send + Sync + 'static {
    /// Carries out one committed command. `index` is its place in the log, `time_ms` is log time: milliseconds since 1970 in UTC
    /// by the leaders' clocks, never below that of an earlier command. Deterministic.
    fn apply(&mut self, index: u64, time_ms: u64, command: &[u8]) -> Applied;

    /// Makes the state visible to readers, as of the last applied index and log time. Entries that carry no command (a new
    /// leader's no-op, membership) raise `applied` without an `apply`.
    fn publish(&mut self, applied: u64, time_ms: u64);

    /// All rows as of now, for a snapshot: a consistent, cheap copy, iterated later on another thread.
    fn rows(&self) -> Box<dyn Iterator<Item = (Vec<u8>, Bytes)> + Send>;

    /// Replaces the whole state by rows that another instance gave, as of `applied` and `time_ms`. Readers keep seeing the
    /// old state until the `publish` that follows.
    ///
    /// # Errors
    /// When the rows are not a state that this version understands; the node then stops rather than diverge.
    fn restore(
        &mut self,
        applied: u64,
        time_ms: u64,
        rows: Vec<(Vec<u8>, Bytes)>,
    ) -> Result<(), RestoreError>;
}

/// Rows that are not a state.
#[derive(Debug, thiserror::Error)]
#[error("row {row}: {why}")]
pub struct RestoreError {
    /// The key, as text, of the row that is wrong.
    pub row: String,
    /// What is wrong with it.
    pub why: String,
}
