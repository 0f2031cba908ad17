//! A node that its cluster has removed notices that, and says so.
//!
//! Nobody tells it: the leader stops sending to it, and often before it has the entry that removes it. It goes on as a voter that
//! hears no leader, whose pre-votes are refused. So a node that has not heard a leader for a while asks the others whether it
//! is still a member. Only a leader that a quorum confirms says so; whoever is not sure says nothing. A node that hears a leader, and
//! finds itself among the members, is one again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::ReadPolicy;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Core, Node};
use crate::bootstrap::Phase;
use crate::bootstrap::messages::Hello;
use crate::codec;
use crate::error::REMOVED;
use crate::transport::Envelope;

/// Between two looks, and how long a leader may be silent before the others are asked: many elections.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Node {
    /// Whether the cluster has removed this node, as far as it knows.
    #[must_use]
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.core.removed.subscribe()
    }
}

/// Looks until the node ends.
pub(super) async fn run(core: Arc<Core>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // Before that it finds its cluster, and says itself what it waits for.
        if *core.phase.borrow() != Phase::Running {
            continue;
        }
        let Some(is_member) = core.knows_its_standing().await else { continue };
        let was_member = !core.removed.send_replace(!is_member);
        match (was_member, is_member) {
            (true, false) => tracing::error!(node = core.config.name, "{REMOVED}"),
            (false, true) => tracing::warn!(node = core.config.name, "a member of its cluster again"),
            (true, true) | (false, false) => {}
        }
    }
}

impl Core {
    /// A leader was heard.
    pub(crate) fn heard_leader(&self) {
        self.leader_heard.send_replace(Some(Instant::now()));
    }

    async fn knows_its_standing(&self) -> Option<bool> {
        if !self.is_member() {
            return Some(false);
        }
        let is_heard = self.leader_heard.borrow().is_some_and(|heard| heard.elapsed() < LOOK_EVERY);
        if is_heard || self.leadership().mine.is_some() {
            return Some(true);
        }
        let others: Vec<_> = self.members().into_iter().filter(|m| m.info.raft_id != self.raft_id).collect();
        let answers = join_all(others.iter().map(async |other| {
            let answer = self.probe(&other.info).await.ok()?;
            codec::decode::<Hello>("hello", &answer).ok()?.knows_you
        }));
        answers.await.into_iter().flatten().next()
    }

    /// Whether whoever asks is a member of this cluster, where this node can be sure.
    pub(crate) async fn knows(&self, asker: &Envelope) -> Option<bool> {
        if asker.cluster_id.is_none() || asker.cluster_id != self.links.cluster_id() {
            return None;
        }
        // The index that a quorum confirmed need not be waited for: a removal under way is not taken back.
        let _confirmed = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
        Some(self.members().iter().any(|member| member.info.raft_id == asker.from))
    }
}
