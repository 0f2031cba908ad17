use serde::{Deserialize, Serialize};

use super::{Migration, Node, Shard};
use crate::ids::{NodeId, Revision};

/// One change in a `change` event of `GET /v1/watch`: `type` beside the fields of what changed, as it was at that revision.
/// Soft fields are null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum WatchChange {
    /// A shard, as it is now.
    Shard(Shard),
    /// A data node registered, or changed.
    Node(Node),
    /// A data node was deleted.
    NodeRemoved {
        /// Its name.
        id: NodeId,
    },
    /// A migration started, went on or ended.
    Migration(Migration),
    /// The rebalance policy, or whether it is paused, was set.
    Policy {
        /// Of the policy.
        revision: Revision,
    },
    /// From a newer control node; to be ignored.
    #[serde(other)]
    Other,
}

/// Data of a `change` event: all that one log entry changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEvent {
    /// The event's id.
    pub revision: Revision,
    /// In the order of their making.
    pub changes: Vec<WatchChange>,
}

/// Answer of `GET /v1/watch` to a long poll (`Accept: application/json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchResponse {
    /// Up to here nothing else happened: the place to ask from next.
    pub revision: Revision,
    /// In order; there may be more after `revision`.
    pub events: Vec<WatchEvent>,
}

/// Data of a `bookmark` event: nothing happened up to this revision that was not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchBookmark {
    /// The event's id.
    pub revision: Revision,
}
