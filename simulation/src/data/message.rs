//! What travels to and between data nodes, as JSON.

use bytes::Bytes;
use ruvector_cluster_client::copies::Outcome;
use ruvector_cluster_client::ids::{Epoch, NodeId, Position, ShardId};
use ruvector_cluster_client::replica::wire::{Answer, Request};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A message to a data node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// From the node of another copy.
    Peer {
        /// About which shard.
        shard: ShardId,
        /// Who says it.
        from: NodeId,
        /// What.
        request: Request,
    },
    /// From a client, to the primary.
    Client {
        /// The key's shard.
        shard: ShardId,
        /// The epoch that it was routed by.
        epoch: Option<Epoch>,
        /// The key.
        key: String,
        /// What to do.
        act: Act,
        /// After so long the client hangs up.
        patience_ms: u64,
    },
}

/// What a client wants done with a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Set it.
    Put(String),
    /// Leave nothing there.
    Delete,
    /// Tell its value.
    Get,
}

/// A data node's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// To a node.
    Peer(Answer),
    /// To a put or a delete.
    Written(Position),
    /// To a get.
    Read {
        /// Under which epoch it was read.
        epoch: Epoch,
        /// The position of the key's last write, where one is there.
        position: Option<Position>,
        /// Its value.
        value: Option<String>,
    },
    /// Nothing was done.
    Refused {
        /// A higher epoch than the asker's, or that of the next field.
        epoch: Option<Epoch>,
        /// Whom to ask: name and address.
        primary: Option<(NodeId, String)>,
    },
    /// It may have been done.
    Unknown,
}

impl Told {
    /// What came of a client's request; `done` says what is told of one that was done.
    pub(super) fn of<T>(outcome: Outcome<T>, done: impl FnOnce(Epoch, T) -> Self) -> Self {
        match outcome {
            Outcome::Done { epoch, body } => done(epoch, body),
            Outcome::StaleEpoch { epoch } => Self::Refused { epoch: Some(epoch), primary: None },
            Outcome::NotPrimary { epoch, primary } => {
                let primary = primary.map(|primary| (primary.node, primary.addr));
                Self::Refused { epoch: Some(epoch), primary }
            }
            Outcome::Unavailable => Self::Refused { epoch: None, primary: None },
            Outcome::Unknown => Self::Unknown,
        }
    }
}

/// As it travels.
///
/// # Panics
/// When it has no JSON form, which these types always have.
#[must_use]
pub fn encode(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message).expect("messages have a JSON form").into()
}

/// What has arrived.
///
/// # Errors
/// When it is no such message.
pub fn decode<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes)
}
