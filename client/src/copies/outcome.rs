//! What a node tells whoever sent it a client's request.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Position};
use crate::replica::event::{Refusal, Reply};
use crate::wire::NodeAddr;

/// What came of a client's request to one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome<T> {
    /// Done.
    Done {
        /// The epoch under which it was.
        epoch: Epoch,
        /// What it gave.
        body: T,
    },
    /// The asker's epoch is older than this one. Nothing was done.
    StaleEpoch {
        /// The newer one.
        epoch: Epoch,
    },
    /// Another node is primary. Nothing was done.
    NotPrimary {
        /// The epoch of that knowledge.
        epoch: Epoch,
        /// Who is, if known.
        primary: Option<NodeAddr>,
    },
    /// Not now. Nothing was done.
    Unavailable,
    /// It may or may not take effect.
    Unknown,
}

impl<T> Outcome<T> {
    /// The shard was never assigned here, and there is no copy of it.
    pub(super) fn nowhere() -> Self {
        Self::NotPrimary { epoch: Epoch(0), primary: None }
    }
}

impl<T> From<Refusal> for Outcome<T> {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::StaleEpoch(epoch) => Self::StaleEpoch { epoch },
            Refusal::NotPrimary { epoch, primary } => Self::NotPrimary { epoch, primary },
            Refusal::Unavailable => Self::Unavailable,
            Refusal::OutcomeUnknown => Self::Unknown,
        }
    }
}

impl Outcome<Position> {
    /// Of a write.
    pub(super) fn of_write(reply: Reply) -> Self {
        match reply {
            Reply::Written { position } => Self::Done { epoch: position.epoch, body: position },
            Reply::Refused(refusal) => refusal.into(),
            Reply::ReadAt { .. } => {
                debug_assert!(false, "a write was answered as a read");
                Self::Unknown
            }
        }
    }
}
