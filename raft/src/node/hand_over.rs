//! A leader whose disk is full hands its leadership over to a voter that has room.
//!
//! It can take no writes; another voter may. Reads go on here, and so do leases, as long as it leads: from the moment that it
//! hands over until another one leads, openraft answers no read and confirms no heartbeat, and nothing takes that back in
//! the same term. So it asks first, and goes on leading where nobody would be better: where no voter has room, is there and
//! has the whole log, or where the log waits for room at a quorum, so that votes and a new leader's first entry would wait too,
//! and its reads with them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ruvector_cluster_storage::Space;

use super::{Core, Node};
use crate::bootstrap::messages::Hello;
use crate::codec;
use crate::member::{Member, MemberRole};

/// Between two tries: long against an election, short against a person who makes room.
pub(super) const PAUSE: Duration = Duration::from_secs(2);
/// How long what was appended when the disk became full may take to commit.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);

/// Watches the disk until the node ends.
pub(super) async fn run(core: Arc<Core>) {
    let mut space = core.space.clone();
    let mut leadership = core.leadership_watch();
    // In which term it was told that nobody can take over.
    let mut told = None;
    loop {
        if space.wait_for(|space| *space == Space::Full).await.is_err() {
            return;
        }
        let mine = match leadership.wait_for(|state| state.mine.is_some()).await {
            Ok(state) => state.mine,
            Err(_) => return,
        };
        if *space.borrow() != Space::Full {
            continue;
        }
        match successor(&core).await {
            Some(raft_id) => match (Node { core: core.clone() }).transfer(Some(raft_id)).await {
                Ok(()) => tracing::warn!("the disk of the log is full: leadership was handed over"),
                Err(error) => tracing::warn!(%error, "the disk of the log is full, and nobody took over"),
            },
            None if told != mine => {
                tracing::warn!(
                    "the disk of the log is full, and no voter with room can take over: reads go on here"
                );
                told = mine;
            }
            None => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The voter that would do better than this leader.
async fn successor(core: &Core) -> Option<u64> {
    let last = committed_end(core).await?;
    let able = |member: &Member| {
        member.role == MemberRole::Voter
            && member.info.raft_id != core.raft_id
            && member.matched.is_some_and(|matched| matched >= last)
    };
    let voters: Vec<Member> = core.members().into_iter().filter(able).collect();
    let have_room = join_all(voters.iter().map(|voter| has_room(core, voter))).await;
    let roomy = voters.iter().zip(have_room).filter(|(_, has_room)| *has_room);
    roomy.map(|(voter, _)| voter).max_by_key(|voter| voter.matched).map(|voter| voter.info.raft_id)
}

/// The end of the log, once a quorum has all of it on disk.
async fn committed_end(core: &Core) -> Option<u64> {
    let settled = |metrics: &openraft::RaftMetrics<_>| {
        let committed = metrics.cluster_committed.as_ref().max(metrics.local_committed.as_ref());
        committed.map(|committed| committed.index()) >= metrics.last_log_index
    };
    let waiting = core.raft.wait(Some(SETTLE_PATIENCE)).metrics(settled, "all of the log is committed").await;
    waiting.ok()?.last_log_index
}

async fn has_room(core: &Core, voter: &Member) -> bool {
    let Ok(answer) = core.probe(&voter.info).await else { return false };
    codec::decode::<Hello>("hello", &answer).is_ok_and(|hello| !hello.disk_full)
}
