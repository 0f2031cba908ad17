use serde::{Deserialize, Serialize};

use super::{MigrationKind, Move, Phase, Role};
use crate::ids::{Epoch, MigrationId, NodeId, Revision, ShardId};

/// `GET /v1/shards/{id}/explain`: why each copy is where it is, and for every node why it may or may not take one.
///
/// Codes are stable and stand in docs/placement.md; details are for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The shard.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The state that this was computed from.
    pub revision: Revision,
    /// Whether what data nodes told of sizes went into it; false in a stale answer of a control node that does not lead.
    pub from_leader: bool,
    /// All of this in some sentences.
    pub summary: String,
    /// The primary first, then replicas, copies that are being filled, copies that are being deleted.
    pub copies: Vec<CopyExplained>,
    /// Every registered data node, ascending.
    pub nodes: Vec<NodeExplained>,
    /// The shard's migration, if it has one.
    pub pending: Option<PendingMigration>,
    /// What the coordinator's own plan does with this shard now, one after the other.
    pub next: Vec<Move>,
    /// Why it does not move (further): all that keeps a move from being planned, or a planned one from starting.
    pub waits: Vec<Reason>,
}

/// Why something is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// Why a copy is there, and whether it stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyExplained {
    /// Where.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// Whether it has every acknowledged write.
    pub in_sync: bool,
    /// How it came there.
    pub origin: Origin,
    /// Whether it stays: a stable code.
    pub code: String,
    /// The same for people.
    pub detail: String,
}

/// How a copy came to its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The migration that brought it, if there is one that is still kept.
    pub migration: Option<MigrationId>,
    /// For people.
    pub detail: String,
}

/// Why a node may or may not take a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeExplained {
    /// The node.
    pub node: NodeId,
    /// Whether the rules let it take a copy of this shard, wanted there or not.
    pub may_take: bool,
    /// Of which copies it may take the place.
    pub in_place_of: Vec<NodeId>,
    /// A stable code.
    pub code: String,
    /// The same for people.
    pub detail: String,
}

/// A migration that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingMigration {
    /// Its number.
    pub id: MigrationId,
    /// How far it is.
    pub phase: Phase,
    /// What it does.
    pub kind: MigrationKind,
    /// Who gives.
    pub from: Option<NodeId>,
    /// Who takes.
    pub to: Option<NodeId>,
    /// Why it was started.
    pub reason: String,
    /// Why it was put back last.
    pub error: Option<String>,
}
