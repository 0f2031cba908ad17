//! How Raft stands on a node, for people and monitors.

use openraft::async_runtime::WatchReceiver;
use ruvector_cluster_storage::{Space, Written};

use super::Node;
use crate::member::MemberInfo;

/// How Raft stands on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub state: &'static str,
    /// The highest term seen.
    pub term: u64,
    /// For whom this node voted in that term; none once it follows the leader whom that term has.
    pub voted_for: Option<u64>,
    /// The last entry of the log.
    pub last_log: Option<u64>,
    /// Everything in the log up to here is on this node's disk.
    pub durable: Option<u64>,
    /// Known here to be committed.
    pub committed: Option<u64>,
    /// Published to readers.
    pub applied: u64,
    /// The newest snapshot.
    pub snapshot: Option<u64>,
    /// Dropped from the log.
    pub purged: Option<u64>,
    /// Who leads.
    pub leader: Option<MemberInfo>,
    /// The disk of the log is full.
    pub disk_full: bool,
    /// What this process has written to its log.
    pub written: Written,
}

impl Node {
    /// How Raft stands here.
    #[must_use]
    pub fn status(&self) -> Status {
        let metrics = self.core.raft.metrics().borrow_watched().clone();
        let index = |log_id: Option<crate::types::LogId>| log_id.map(|log_id| log_id.index());
        let state = match metrics.state {
            openraft::ServerState::Leader => "leader",
            openraft::ServerState::Follower => "follower",
            openraft::ServerState::Candidate => "candidate",
            openraft::ServerState::Learner => "learner",
            openraft::ServerState::Shutdown => "shutdown",
        };
        Status {
            state,
            term: metrics.current_term,
            voted_for: (metrics.vote.leader_id().term == metrics.current_term
                && !metrics.vote.is_committed())
            .then_some(metrics.vote.leader_id().voted_for),
            durable: self.core.wal.durable_index(),
            last_log: metrics.last_log_index,
            committed: index(metrics.local_committed),
            applied: *self.core.applied.borrow(),
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
            leader: self.core.leader(),
            disk_full: *self.core.space.borrow() == Space::Full,
            written: self.core.wal.written(),
        }
    }
}
