use serde::{Deserialize, Serialize};

use super::MigrationKind;
use crate::ids::{NodeId, Revision, ShardId, Thousandths};

/// How copies are placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Quotas and fewest moves.
    #[default]
    Balanced,
    /// Points on libketama's ring.
    Ketama,
    /// Jump hash over the sorted nodes.
    Jump,
}

/// `GET` and `PUT /v1/rebalance/policy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebalancePolicy {
    /// Whether the cluster balances by itself.
    pub enabled: bool,
    /// Active at once, cluster-wide.
    pub max_migrations: u32,
    /// Active at once into one node.
    pub max_in_per_node: u32,
    /// Active at once out of one node.
    pub max_out_per_node: u32,
    /// Copying speed of the cluster; 0: unlimited.
    pub max_bytes_per_s: u64,
    /// Fullest over mean at which balancing starts.
    pub start_imbalance: Thousandths,
    /// Fullest over mean at which balancing stops.
    pub stop_imbalance: Thousandths,
    /// How long a node is down before its copies are rebuilt.
    pub down_grace_ms: u64,
    /// A phase before handing_over without progress for so long is aborted.
    pub phase_timeout_ms: u64,
    /// Share of nodes gone at once that looks like a partition.
    pub mass_failure_share: Thousandths,
    /// How long rebuilding is held then.
    pub mass_failure_hold_ms: u64,
    /// Load over mean from which a shard is hot.
    pub hot_factor: Thousandths,
    /// Share of capacity_bytes above which a node takes no copy.
    pub disk_watermark: Thousandths,
    /// How copies are placed.
    pub strategy: Strategy,
}

impl Default for RebalancePolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            max_migrations: 16,
            max_in_per_node: 2,
            max_out_per_node: 2,
            max_bytes_per_s: 0,
            start_imbalance: Thousandths(1_100),
            stop_imbalance: Thousandths(1_050),
            down_grace_ms: 30_000,
            phase_timeout_ms: 60_000,
            mass_failure_share: Thousandths(340),
            mass_failure_hold_ms: 300_000,
            hot_factor: Thousandths(2_000),
            disk_watermark: Thousandths(900),
            strategy: Strategy::Balanced,
        }
    }
}

/// `POST /v1/rebalance`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebalanceRequest {
    /// Shows the plan and starts nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// At most so many moves.
    #[serde(default)]
    pub max_moves: Option<u32>,
    /// Instead of the policy's.
    #[serde(default)]
    pub strategy: Option<Strategy>,
}

/// One move of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The shard.
    pub shard: ShardId,
    /// What is done.
    pub kind: MigrationKind,
    /// Who gives.
    pub from: Option<NodeId>,
    /// Who takes.
    pub to: Option<NodeId>,
    /// Bytes to copy, as far as known.
    pub bytes: u64,
    /// Why, in a sentence.
    pub reason: String,
}

/// How even the copies lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Copies a capacity of the fullest node over the mean.
    pub imbalance: Thousandths,
    /// Copies of the fullest node.
    pub max_copies: u64,
    /// Copies of the emptiest node.
    pub min_copies: u64,
}

/// What a plan can't place, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Infeasible {
    /// The shard.
    pub shard: ShardId,
    /// The reason's stable code.
    pub code: String,
    /// The reason in a sentence.
    pub detail: String,
}

/// `POST /v1/rebalance`'s answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The state that it was computed from.
    pub base_revision: Revision,
    /// In the order of execution.
    pub moves: Vec<Move>,
    /// As it is.
    pub before: Balance,
    /// As it will be.
    pub after: Balance,
    /// No plan can do with fewer moves.
    pub lower_bound_moves: u64,
    /// Left as it is.
    pub infeasible: Vec<Infeasible>,
}

/// `GET /v1/hotspots`: what carries more load than its share, the hottest first. All of it is soft.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hotspots {
    /// Shards from the policy's `hot_factor` on.
    pub shards: Vec<HotShard>,
    /// Nodes from the policy's `start_imbalance` on.
    pub nodes: Vec<HotNode>,
}

/// A hot shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotShard {
    /// The shard.
    pub id: ShardId,
    /// Its primary.
    pub primary: Option<NodeId>,
    /// Reads and writes a second at its primary, of each the lower of two averages.
    pub load: Thousandths,
    /// Over the mean of all shards.
    pub factor: Thousandths,
    /// What is done about it, or what can be.
    pub advice: String,
}

/// A hot node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotNode {
    /// The node.
    pub id: NodeId,
    /// Reads of its primaries and writes of all its copies, a second.
    pub load: Thousandths,
    /// Over the mean of all nodes, by capacity.
    pub factor: Thousandths,
    /// What is done about it, or what can be.
    pub advice: String,
}

/// `POST /v1/nodes/{id}/drain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Says whether it could finish, and starts nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v1/nodes/{id}/maintenance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceRequest {
    /// How long the node is expected to be away.
    pub duration_ms: u64,
}
