//! What is fixed when a cluster is founded.

use serde::{Deserialize, Serialize};

/// Agreed by all founding control nodes; never changed afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// 1 to 1,048,576.
    pub num_shards: u32,
    /// Copies wanted of each shard, 1 to 7.
    pub replication_factor: u32,
    /// A data node unheard for so long is down.
    pub failure_timeout_ms: u64,
    /// Length of a data node's lease: 0.8 of `failure_timeout_ms` unless set.
    pub lease_ms: u64,
    /// How often data nodes send heartbeats.
    pub heartbeat_interval_ms: u64,
}
