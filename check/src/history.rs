//! What a run leaves behind for its checkers.
//!
//! All times are event numbers: one counter a run, from 1, that rises with each call and each return, so no two are
//! equal. `a` happened before `b` if `a` returned at a lower number than that of `b`'s call. Records need no order.
//!
//! What whoever records has to keep to:
//! 1. Each written value is used for one write only (and its repetitions under one key), so a value names its write.
//! 2. A process has one operation under way at a time.
//! 3. An outcome is [`WriteOutcome::Refused`] only when the cluster said so in an answer that a repetition gets as well,
//!    and [`WriteOutcome::NotDone`] only when it is certain; in all other cases it is unknown.
//! 4. Data keys are never deleted, and a data write is sent once: a repetition is a write of another value.

use ruvector_cluster_client::ids::{Epoch, NodeId, Position, Revision, ShardId};
use serde::{Deserialize, Serialize};

/// An event number.
pub type Event = u64;

/// When an operation was called and when it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// Before the request was sent.
    pub call: Event,
    /// After its answer was read, or it was given up.
    pub returned: Event,
}

impl Span {
    /// From `call` to `returned`.
    #[must_use]
    pub const fn new(call: Event, returned: Event) -> Self {
        Self { call, returned }
    }
}

/// What clients of the control cluster did to its registers: rows that hold one value each, e.g. a label of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataOp {
    /// Who asked.
    pub process: u32,
    /// When.
    pub span: Span,
    /// Which register.
    pub key: String,
    /// What, and what came of it.
    pub act: MetadataAct,
}

/// An operation on a metadata register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetadataAct {
    /// Set it.
    Write {
        /// Its new value.
        value: String,
        /// The row's revision on which it depends.
        if_match: Option<Revision>,
        /// Requests with the same key are repetitions of one write.
        idempotency: Option<String>,
        /// What came of it.
        outcome: WriteOutcome,
    },
    /// Read it.
    Read {
        /// What was asked for.
        consistency: Consistency,
        /// The answer; none when it failed.
        answer: Option<MetadataRead>,
    },
}

/// How new a read's answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// As of some moment between call and return.
    Linearizable,
    /// As of any moment before the return.
    Stale,
}

/// What a metadata read told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataRead {
    /// The register's value; none before its first write.
    pub value: Option<String>,
    /// The row's; 0 when there is no row. Other changes of the row raise it too.
    pub row_revision: Revision,
    /// Of the state from which the answer was made.
    pub cluster_revision: Revision,
}

/// What came of a metadata write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteOutcome {
    /// It took effect.
    Acknowledged {
        /// The revision that it has.
        revision: Revision,
    },
    /// It had no effect and never will.
    Refused {
        /// The problem's code.
        code: String,
    },
    /// It took effect once, will, or never.
    Unknown,
    /// This request had no effect, and never will.
    NotDone,
}

/// What clients of data nodes did to keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataOp {
    /// Who asked.
    pub process: u32,
    /// When.
    pub span: Span,
    /// The key's shard.
    pub shard: ShardId,
    /// Which key.
    pub key: String,
    /// What, and what came of it.
    pub act: DataAct,
}

/// An operation on a data key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataAct {
    /// Set it.
    Write {
        /// Its new value.
        value: String,
        /// What came of it.
        outcome: DataWriteOutcome,
    },
    /// Read it from the primary.
    Read(Option<DataRead>),
}

/// What came of a data write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataWriteOutcome {
    /// It is on every in-sync copy.
    Acknowledged {
        /// The primary that answered, even where another node passed the answer on.
        by: NodeId,
        /// The write's; it was answered under this epoch.
        position: Position,
    },
    /// It took effect once, will, or never.
    Unknown,
    /// It had no effect, and never will.
    NotDone,
}

/// What a data read told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRead {
    /// The primary that answered.
    pub by: NodeId,
    /// Under which epoch.
    pub epoch: Epoch,
    /// The key's value; none before its first write.
    pub value: Option<String>,
    /// The position of the write that was read, where the answer says it.
    pub position: Option<Position>,
}

/// What one watch told, from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRecord {
    /// To find it in a trace.
    pub stream: u32,
    /// The map's, as of the first answer.
    pub generation: u64,
    /// In the order of arrival.
    pub items: Vec<WatchItem>,
}

/// Something that a watch told, or that its watcher did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchItem {
    /// The watcher asked for everything after this revision: at the beginning, and on each new connection.
    From(Revision),
    /// The whole state as of this revision; what follows comes after it.
    Snapshot(Revision),
    /// All that one entry changed.
    Change(Change),
    /// Nothing happened up to this revision that was not told.
    Bookmark(Revision),
    /// The watcher was told to read the whole state again (410).
    Compacted,
}

/// The changes of one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The entry's index.
    pub revision: Revision,
    /// Of each change, in their order.
    pub digests: Vec<u64>,
}

/// Something that was seen at a control node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// When.
    pub at: Event,
    /// The node's Raft id: of its data directory, not of its name.
    pub raft_id: u64,
    /// What.
    pub seen: Seen,
}

/// What was seen at a control node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// It took itself for the leader of this term.
    Leads {
        /// The term.
        term: u64,
    },
    /// How far it was.
    Standing(Standing),
    /// It applied an entry.
    Applied {
        /// The entry's.
        index: u64,
        /// Of the entry: its term and all that it says.
        digest: u64,
    },
    /// Its state once all up to `index` was applied.
    State {
        /// The last applied entry's.
        index: u64,
        /// Of the whole replicated state.
        hash: u64,
    },
}

/// How far a control node was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Counts the starts of its process.
    pub run: u32,
    /// Of its vote.
    pub term: u64,
    /// For whom it voted in that term; none where it did not, or follows the leader whom the term has.
    pub vote: Option<u64>,
    /// It knows everything up to here to be committed.
    pub committed: u64,
    /// It applied everything up to here.
    pub applied: u64,
    /// Everything in its log up to here is on its disk.
    pub durable: u64,
    /// This run has answered a linearizable read. Before that, a run may not know yet what its predecessor knew: Raft keeps
    /// the commit index in memory.
    pub caught_up: bool,
}
