//! Tells who leads, which members there are, and when openraft has stopped.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::vote::RaftLeaderId;

use super::Core;
use crate::error::FatalError;
use crate::machine_store::Published;
use crate::member::{Leadership, LeadershipState};

/// Follows openraft's metrics until it stops.
pub(super) async fn run(core: Arc<Core>) {
    let mut server = core.raft.server_metrics();
    let mut all = core.raft.metrics();
    let mut published = core.published.clone();
    loop {
        if let Err(error) = all.borrow_watched().running_state.clone() {
            core.leadership.send_modify(|state| state.mine = None);
            core.stop_with(FatalError::Core(error.to_string()));
            return;
        }
        let now = *published.borrow_and_update();
        let next = state(&core, &server.borrow_and_update(), now);
        core.leadership.send_if_modified(|state| {
            *state != next && {
                *state = next;
                true
            }
        });
        let changed = tokio::select! {
            changed = server.changed() => changed.is_ok(),
            changed = all.changed() => changed.is_ok(),
            changed = published.changed() => changed.is_ok(),
        };
        if !changed {
            core.leadership.send_modify(|state| state.mine = None);
            core.stop_with(FatalError::Core("it ended".to_owned()));
            return;
        }
    }
}

fn state(
    core: &Core,
    server: &openraft::metrics::RaftServerMetrics<crate::types::TypeConfig>,
    published: Published,
) -> LeadershipState {
    let peers: BTreeMap<_, _> =
        server.membership_config.membership().nodes().map(|(id, peer)| (*id, peer.clone())).collect();
    let leader = server.current_leader.and_then(|id| peers.get(&id).map(|peer| peer.info(id)));
    core.links.set_peers(peers);
    let term = server.vote.leader_id.term();
    let leading = server.state == ServerState::Leader && server.current_leader == Some(core.raft_id);
    // The first entry of a term is its no-op: with any entry of this term applied, that one is.
    let mine = (leading && published.term == term).then_some(Leadership { term });
    LeadershipState { term, leader, mine }
}
