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

impl Settings {
    /// Whether a cluster can be founded with these.
    ///
    /// # Errors
    /// A sentence that names the setting, and its range.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(format!("{name} is {value}: it must be from {low} to {high}"))
        };
        const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
        within("num_shards", u64::from(self.num_shards), 1, 1_048_576)?;
        within("replication_factor", u64::from(self.replication_factor), 1, 7)?;
        within("failure_timeout_ms", self.failure_timeout_ms, 1, DAY_MS)?;
        within("lease_ms", self.lease_ms, 1, self.failure_timeout_ms)?;
        within("heartbeat_interval_ms", self.heartbeat_interval_ms, 1, self.failure_timeout_ms)
    }
}
