//! What happens to shards by the leader's decision or an operator's: first assignment, failover, giving up, left-overs.

use ruvector_cluster_client::ids::{Epoch, NodeId, ShardId};
use ruvector_cluster_client::wire::Intent;

use super::reject;
use super::tx::Tx;
use crate::metadata::command::{Rejection, RejectionCode};
use crate::metadata::shard::ShardRow;

impl Tx<'_> {
    /// Gives a shard its first copies, all in sync and empty; or others, when none of the founding ones is alive.
    pub(super) fn assign(
        &mut self,
        id: ShardId,
        if_epoch: Epoch,
        primary: &NodeId,
        replicas: &[NodeId],
    ) -> Result<(), Rejection> {
        let shard = self.shard_at(id, if_epoch)?;
        if shard.primary.is_some() && !shard.founding {
            let detail = format!("shard {id} has been opened: its copies move by migrations");
            return Err(reject(RejectionCode::Conflict, detail));
        }
        if shard.copies().any(|node| self.state.is_alive(node)) {
            let detail = format!("a node of the founding shard {id} is alive");
            return Err(reject(RejectionCode::Conflict, detail));
        }
        if replicas.len() >= self.state.replication_factor() {
            return Err(reject(RejectionCode::Invalid, "more copies than the replication factor"));
        }
        let mut in_sync = vec![primary.clone()];
        for node in replicas {
            if in_sync.contains(node) {
                return Err(reject(RejectionCode::Invalid, format!("{node} is named twice")));
            }
            in_sync.push(node.clone());
        }
        for node in &in_sync {
            self.check_takes_copy(&shard, node)?;
        }
        in_sync.sort();
        let epoch = Epoch(shard.epoch.0 + 1);
        if let Some(old) = &shard.primary {
            self.take_primaryship_from(old);
        }
        for old in shard.copies().filter(|node| !in_sync.contains(node)) {
            self.retire_copy(id, old, epoch);
        }
        self.put_shard(ShardRow {
            epoch,
            primary: Some(primary.clone()),
            replicas: replicas.to_vec(),
            learners: Vec::new(),
            in_sync,
            in_sync_version: shard.in_sync_version + 1,
            founding: true,
            ..shard
        });
        Ok(())
    }

    /// Whether the node may be given a new copy of the shard, for all that is committed.
    pub(super) fn check_takes_copy(&self, shard: &ShardRow, id: &NodeId) -> Result<(), Rejection> {
        let node = self.state.node(id);
        let invalid = |why: &str| Err(reject(RejectionCode::Invalid, format!("{id} {why}")));
        let Some(node) = node else { return invalid("is not registered") };
        if node.is_down() {
            return invalid("is down");
        }
        if node.intent != Intent::Schedulable {
            return invalid("is not schedulable: it drains or is in maintenance");
        }
        if node.capacity.0 == 0 {
            return invalid("has capacity 0");
        }
        if self.state.retiring_row(shard.id, id).is_some() {
            return invalid("is still deleting an earlier copy of the shard");
        }
        Ok(())
    }
}
