//! The end of a cell: what an operator puts right, and what has to hold once everything is at rest.

use std::time::Duration;

use ruvector_cluster::client::ids::NodeId;
use ruvector_cluster::client::wire::{ReportsResponse, Role};
use ruvector_cluster::metadata::Metadata;

use super::rig::{Rig, Step, broken};
use super::witness::copies_on_disks;
use crate::api::{Ask, Reply};
use crate::net::KeptReports;

/// What the fault leaves to be done once the migration has ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Late {
    /// An operator takes a wish back.
    pub(super) undo: Option<Ask>,
    /// These arrive once more.
    pub(super) reports: Vec<KeptReports>,
}

impl Rig {
    pub(super) async fn put_right(&mut self, late: Late) -> Step {
        for kept in late.reports {
            let reply = self.repeat(&kept).await?;
            let results: Option<ReportsResponse> = serde_json::from_slice(&reply.bytes).ok();
            let retired = String::from_utf8_lossy(&kept.body).contains("\"retired\":true");
            let taken = results.is_none_or(|results| results.results.iter().any(|result| result.accepted));
            // That a copy is deleted stays true, and changes nothing.
            if taken && !retired {
                return broken("a late report is refused", format!("{kept:?}: {:?}", reply.body));
            }
        }
        if let Some(undo) = late.undo {
            let reply = self.ask(undo).await?;
            if reply.status >= 300 {
                return broken("a wish is taken back", format!("{:?}", reply.body));
            }
        }
        Ok(())
    }

    /// Sends reports once more.
    pub(super) async fn repeat(&mut self, kept: &KeptReports) -> Step<Reply> {
        let body = serde_json::from_slice(&kept.body).ok();
        self.ask(Ask::write(http::Method::POST, kept.path.clone(), body)).await
    }

    /// Waits until everything is at rest; what is missing, if that takes longer.
    pub(super) async fn rest_within(&mut self, bound: Duration) -> Option<String> {
        let rests = self.wait(bound, |rig, state| rig.unrest(state).is_none()).await;
        if rests {
            return None;
        }
        let state = self.cluster.newest_state();
        Some(state.and_then(|state| self.unrest(&state)).unwrap_or_else(|| "no state".to_owned()))
    }

    /// What is not as it should be; none at rest.
    pub(super) fn unrest(&self, state: &Metadata) -> Option<String> {
        if state.shard_counts().unassigned > 0 || state.num_shards() == 0 {
            return Some("shards are unassigned".to_owned());
        }
        if let Some(row) = state.active_migrations().next() {
            return Some(format!("{row:?} runs"));
        }
        if let Some(row) = state.retiring().find(|row| !self.gone.contains(&row.node)) {
            return Some(format!("{row:?} is left"));
        }
        let living = state.num_nodes() - self.gone.len();
        for row in state.shards() {
            let serves = |node: &NodeId| self.serves(node, row.id, row.epoch);
            let is_led =
                row.primary.as_ref().is_some_and(|primary| state.is_alive(primary) && serves(primary));
            let copies = row.full_copies().count();
            let whole = copies == state.replication_factor().min(living) && row.learners.is_empty();
            let in_sync = |copy: &NodeId| row.in_sync.contains(copy) && state.is_alive(copy);
            if row.lost || row.founding || !is_led || !whole || !row.full_copies().all(in_sync) {
                return Some(format!("{row:?} is not whole, or not served"));
            }
        }
        for (node, held) in copies_on_disks(&self.cluster) {
            if self.gone.contains(&node) {
                continue;
            }
            let assigned = |role: Role| role != Role::Retiring;
            let wanted = state.roles_of(&node).filter(|(_, role)| assigned(*role)).map(|(shard, _)| shard);
            if !state.is_alive(&node) || !wanted.eq(held.iter().copied()) {
                return Some(format!("{node} holds {held:?}, or is down"));
            }
        }
        None
    }

    fn serves(
        &self,
        node: &NodeId,
        shard: ruvector_cluster::client::ids::ShardId,
        epoch: ruvector_cluster::client::ids::Epoch,
    ) -> bool {
        let at = self.cluster.data_at(node);
        let status = at.and_then(|at| self.cluster.with_data(at, |data| data.statuses().remove(&shard)));
        status.flatten().is_some_and(|status| status.serving && status.epoch == epoch)
    }
}
