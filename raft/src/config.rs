//! What a control node is told at start.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::StartError;

/// Names the settings in which two founders differ, given (mine, theirs); empty when they agree.
pub type SettingsDiff = Arc<dyn Fn(&[u8], &[u8]) -> Vec<String> + Send + Sync>;

/// Milliseconds since 1970 in UTC, as the machine believes; stamped on commands by the leader.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A control node's settings.
#[derive(Clone)]
pub struct NodeConfig {
    /// Its name, 1 to 64 bytes.
    pub name: String,
    /// The base URL of its client API, as told to others.
    pub client_url: String,
    /// The base URL of its peer listener, as told to others. Port 0 stands for the port that was bound.
    pub peer_url: String,
    /// Where it listens for control nodes.
    pub listen_peer: SocketAddr,
    /// `host:port` of control nodes' client APIs, itself included or not. Empty: a cluster of one.
    pub seeds: Vec<String>,
    /// How many nodes found the cluster. None: the number of distinct seeds, itself included; all of them must answer.
    pub bootstrap_expect: Option<usize>,
    /// What all founders must agree on; opaque here.
    pub bootstrap_settings: Bytes,
    /// Tells in what founders' settings differ.
    pub settings_diff: SettingsDiff,
    /// The newest version of commands that the state machine understands; told to others.
    pub command_version: u32,
    /// Beyond these, members stay learners.
    pub max_voters: usize,
    /// Raft's clockwork.
    pub timing: Timing,
    /// When snapshots are made and how much log stays.
    pub compaction: Compaction,
    /// Stamps commands.
    pub wall_clock: WallClock,
    /// For everything random in Raft; None draws from the system. A simulation sets it, to another one for each run: what an
    /// earlier run proposed must not be proposed again.
    pub seed: Option<u64>,
}

/// Raft's clockwork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of the leader. Milliseconds.
    pub heartbeat_ms: u64,
    /// The shortest time without a leader before an election. Milliseconds.
    pub election_min_ms: u64,
    /// The longest, and the length of the leader's lease. Milliseconds.
    pub election_max_ms: u64,
    /// A proposal without an outcome for so long is told as unknown. Milliseconds.
    pub propose_timeout_ms: u64,
    /// A linearizable read that cannot be placed for so long fails. Milliseconds.
    pub read_timeout_ms: u64,
    /// Sending and installing a snapshot. Milliseconds.
    pub snapshot_timeout_ms: u64,
}

impl Default for Timing {
    /// A killed leader is noticed after its lease (150 ms) and a random part below it, so that it is replaced in well under
    /// 500 ms; five heartbeats fit into the lease, so that a busy machine does not depose a live leader.
    fn default() -> Self {
        Self {
            heartbeat_ms: 30,
            election_min_ms: 100,
            election_max_ms: 150,
            propose_timeout_ms: 10_000,
            read_timeout_ms: 5_000,
            snapshot_timeout_ms: 120_000,
        }
    }
}

/// When snapshots are made and how much log stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Entries after the last snapshot that bring the next.
    pub snapshot_every_entries: u64,
    /// Entries kept below a snapshot, for followers that are a little behind and against openraft issue 2116.
    pub keep_entries: u64,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { snapshot_every_entries: 50_000, keep_entries: 20_000 }
    }
}

impl NodeConfig {
    /// Checks what can be checked before anything is opened.
    ///
    /// # Errors
    /// [`StartError::Config`] with the field and what is wrong.
    pub fn validate(&self) -> Result<(), StartError> {
        let wrong = |key, why: &str| Err(StartError::Config { key, why: why.to_owned() });
        if self.name.is_empty() || self.name.len() > 64 {
            return wrong("name", "has 1 to 64 bytes");
        }
        if self.max_voters == 0 {
            return wrong("max_voters", "is at least 1");
        }
        if self.bootstrap_expect == Some(0) {
            return wrong("bootstrap_expect", "is at least 1");
        }
        if self.timing.heartbeat_ms == 0 {
            return wrong("timing.heartbeat_ms", "is at least 1");
        }
        if self.timing.election_min_ms <= self.timing.heartbeat_ms {
            return wrong("timing.election_min_ms", "is longer than a heartbeat");
        }
        if self.timing.election_max_ms <= self.timing.election_min_ms {
            return wrong("timing.election_max_ms", "is longer than election_min_ms");
        }
        Ok(())
    }
}
