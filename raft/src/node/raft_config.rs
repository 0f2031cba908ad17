//! openraft's settings, from ours. What safety rests on is fixed here and not configurable.

use openraft::SnapshotPolicy;

use crate::config::NodeConfig;
use crate::error::StartError;

pub(super) fn of(config: &NodeConfig) -> Result<openraft::Config, StartError> {
    let (timing, compaction) = (&config.timing, &config.compaction);
    let raft = openraft::Config {
        cluster_name: "ruvector-cluster".to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        install_snapshot_timeout: timing.snapshot_timeout_ms,
        max_payload_entries: 1_024,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(compaction.snapshot_every_entries),
        max_in_snapshot_log_to_keep: compaction.keep_entries,
        replication_lag_threshold: compaction.snapshot_every_entries * 2 + compaction.keep_entries,
        // A follower that restarts is back within tens of milliseconds; a dead one costs two attempts a second.
        backoff: "20ms 40ms 80ms ..500ms".to_owned(),
        enable_pre_vote: Some(true),
        // A leader that lost its tail at a power failure must not resume its term.
        enable_leader_restore: Some(mutants::is_on(mutants::Mutant::LeaderRestore)),
        allow_log_reversion: Some(false),
        ..openraft::Config::default()
    };
    raft.validate().map_err(|error| StartError::Config { key: "timing", why: error.to_string() })
}
