//! The messages between the nodes of a shard's copies, as JSON; docs/protocol.md tells the rules.
//!
//! Every request carries the sender's epoch. A copy that knows a higher one answers [`Answer::StaleEpoch`] and does nothing.

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::tail::TailEntry;
use super::{Key, Value};
use crate::ids::{Epoch, Position};

/// The last write of a key: in a stream, a write of the client's; elsewhere, what the key is now.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Write {
    /// Its stamp. (0, 0) where a key is asked for that has never been written or is deleted.
    pub position: Position,
    /// The key.
    pub key: Key,
    /// `null`: the key is deleted. Else base64.
    #[serde(with = "super::encoding")]
    pub value: Option<Value>,
}

impl Write {
    /// Bytes of key and value, for limits.
    pub fn size_bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |value| value.len())
    }
}

/// What a copy is told to become equal to the primary (reconciliation, and catching up by missing positions).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Alignment {
    /// The last position that the copy said it has; with another one nothing is done.
    pub expect: Position,
    /// The last position that both logs have. What the copy has after it is forgotten.
    pub common: Position,
    /// The primary's log after `common`, up to `last`.
    pub tail: Vec<TailEntry>,
    /// The present state of every key in either log after `common`; set whatever the copy has.
    pub writes: Vec<Write>,
    /// The primary's position as of these writes; the copy's from now on.
    pub last: Position,
}

/// A key range's whole content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chunk {
    /// The range begins after this key; `null`: at the first.
    pub after: Option<Key>,
    /// The range ends with this key; `null`: with the last.
    pub upto: Option<Key>,
    /// The last position that the source had when it read.
    pub at: Position,
    /// Ascending by key; no deleted ones.
    pub writes: Vec<Write>,
    /// Bytes of keys and values of all that the source has, where its store says so; for progress only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
}

impl Chunk {
    /// Bytes of keys and values.
    pub fn size_bytes(&self) -> u64 {
        self.writes.iter().map(|write| write.size_bytes() as u64).sum()
    }
}

/// What a copy that is being filled has of the range that it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OwnRange {
    /// The range ends with this key; `null`: with the last. It begins after the request's `after`.
    pub upto: Option<Key>,
    /// Of all entries, in order of their keys.
    pub digest: Digest,
    /// Of each entry; asked for with `differs`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "super::encoding::digests")]
    pub entries: Option<Vec<Digest>>,
}

/// A run of a request's entries that the source has just so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(u32, u32)", into = "(u32, u32)")]
pub struct SameRun {
    /// The first of them, counted from 0.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

impl From<(u32, u32)> for SameRun {
    fn from((first, count): (u32, u32)) -> Self {
        Self { first, count }
    }
}

impl From<SameRun> for (u32, u32) {
    fn from(run: SameRun) -> Self {
        (run.first, run.count)
    }
}

/// A request between data nodes, about one shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// From the primary: adopt this epoch, and say how your log relates to mine.
    Adopt {
        /// The primary's.
        epoch: Epoch,
        /// The primary's log in short ([`Tail::marks`](super::tail::Tail::marks)), with the writes under way.
        marks: Vec<Position>,
    },
    /// From the primary: become equal to me.
    Align {
        /// The primary's.
        epoch: Epoch,
        /// How.
        alignment: Alignment,
        /// [`Digest::of_alignment`]; checked where it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
    },
    /// From the primary to a copy that is to be filled: adopt this epoch, what you have counts as incomplete, and from `base` on
    /// I forward each write to you.
    Open {
        /// The primary's.
        epoch: Epoch,
        /// The last position that is not forwarded.
        base: Position,
    },
    /// From the primary: writes without a gap, or none to ask how far the copy is.
    Forward {
        /// The primary's.
        epoch: Epoch,
        /// The position before the first write.
        prev: Position,
        /// Ascending, gapless.
        writes: Vec<Write>,
        /// [`Digest::of_forward`]; checked where it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
    },
    /// From a copy that is being filled to an in-sync copy.
    Chunk {
        /// The stream's.
        epoch: Epoch,
        /// The stream's; the source must be past it.
        base: Position,
        /// The last key of the chunk before.
        after: Option<Key>,
        /// Upper bound of the answer's keys and values, exceeded by at most one entry.
        max_bytes: u64,
        /// What the asker has there already. A source that doesn't know this field sends everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        have: Option<Box<OwnRange>>,
    },
}

impl Request {
    /// The sender's epoch.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Adopt { epoch, .. }
            | Self::Align { epoch, .. }
            | Self::Open { epoch, .. }
            | Self::Forward { epoch, .. }
            | Self::Chunk { epoch, .. } => *epoch,
        }
    }

    /// A `forward` with its digest.
    pub(super) fn forward(epoch: Epoch, prev: Position, writes: Vec<Write>) -> Self {
        let digest = Some(Digest::of_forward(prev, &writes));
        Self::Forward { epoch, prev, writes, digest }
    }

    /// An `align` with its digest.
    pub(super) fn align(epoch: Epoch, alignment: Alignment) -> Self {
        let digest = Some(Digest::of_alignment(&alignment));
        Self::Align { epoch, alignment, digest }
    }

    /// Whether what it brings to be stored is what was sent. What has no digest counts as that.
    pub(super) fn is_intact(&self) -> bool {
        match self {
            Self::Forward { prev, writes, digest: Some(digest), .. } => {
                *digest == Digest::of_forward(*prev, writes)
            }
            Self::Align { alignment, digest: Some(digest), .. } => *digest == Digest::of_alignment(alignment),
            Self::Adopt { .. }
            | Self::Open { .. }
            | Self::Chunk { .. }
            | Self::Forward { digest: None, .. }
            | Self::Align { digest: None, .. } => true,
        }
    }
}

/// An answer to a [`Request`]. What it says is on the answering node's disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// To `adopt`: done.
    Adopted {
        /// The adopted epoch.
        epoch: Epoch,
        /// The copy's last position.
        last: Position,
        /// Whether the copy is complete up to `last`; not while it is being filled.
        full: bool,
        /// The last position that both logs have; `null` when it lies before what is remembered.
        common: Option<Position>,
        /// The copy's log after `common`.
        tail: Vec<TailEntry>,
    },
    /// To `align`, `open` and `forward`: the copy has everything up to here.
    Have {
        /// The adopted epoch.
        epoch: Epoch,
        /// Up to here.
        last: Position,
        /// As in `adopted`.
        full: bool,
    },
    /// To `align` and `forward`: it does not follow what the copy has; nothing was done.
    Gap {
        /// The adopted epoch.
        epoch: Epoch,
        /// The copy's last position.
        last: Position,
    },
    /// To `chunk`.
    Chunk {
        /// The source's epoch.
        epoch: Epoch,
        /// The range, but for the entries that `same` names.
        chunk: Chunk,
        /// Which of the request's `have.entries` belong to the range just as they are; ascending.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        same: Vec<SameRun>,
        /// [`Digest::of_chunk`]; checked where it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
    },
    /// To a `chunk` with `have`: the source has the same there.
    Same {
        /// The source's epoch.
        epoch: Epoch,
        /// As in `have`.
        upto: Option<Key>,
        /// The last position that the source had when it read.
        at: Position,
        /// As in a chunk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total_bytes: Option<u64>,
    },
    /// To a `chunk` with `have` but without its `entries`: it isn't the same. Ask again with them.
    Differs {
        /// The source's epoch.
        epoch: Epoch,
    },
    /// To `chunk`: the source is not yet past the base; ask again later.
    NotYet {
        /// The source's epoch.
        epoch: Epoch,
    },
    /// To anything: the answering node knows this higher epoch; nothing was done.
    StaleEpoch {
        /// The higher one.
        epoch: Epoch,
    },
    /// To anything: there is no copy of the shard here, or not yet.
    NoCopy,
    /// To `align` and `forward`: what came isn't what was sent, by its digest. Nothing was done; send it again.
    Damaged,
}
