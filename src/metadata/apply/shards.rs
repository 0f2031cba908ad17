//! What happens to shards by the leader's decision or an operator's: first assignment, failover, giving up, left-overs.

use mutants::{Mutant, is_on};
use ruvector_cluster_client::ids::{Epoch, NodeId, ShardId};
use ruvector_cluster_client::wire::Intent;

use super::reject;
use super::tx::{About, Tx};
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
        let epoch = Epoch(shard.epoch.max(self.state.epoch_floor()).0 + 1);
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

    /// Primaryship goes to an in-sync copy, because the primary is committed down.
    pub(super) fn failover(&mut self, id: ShardId, if_epoch: Epoch, to: &NodeId) -> Result<(), Rejection> {
        let mut shard = self.shard_at(id, if_epoch)?;
        let conflict = |detail: String| Err(reject(RejectionCode::Conflict, detail));
        let Some(primary) = shard.primary.clone() else {
            return conflict(format!("shard {id} has no primary"));
        };
        if self.state.is_alive(&primary) && !is_on(Mutant::FailoverOfLivePrimary) {
            return conflict(format!("the primary of shard {id}, {primary}, is not down"));
        }
        let is_unchecked = is_on(Mutant::PromoteUnchecked) && shard.full_copies().any(|copy| copy == to);
        if is_unchecked && !shard.is_in_sync(to) {
            shard.set_in_sync(shard.in_sync.iter().chain([to]).cloned().collect());
        }
        if *to == primary || !shard.is_in_sync(to) || !self.state.is_alive(to) {
            return conflict(format!("{to} is no other in-sync copy of shard {id} that is alive"));
        }
        self.promote(&mut shard, to, "the primary is down");
        self.put_shard(shard);
        let about = About { node: Some(to), shard: Some(id), migration: None };
        self.event("failover", about, format!("primaryship went from {primary} to {to}"));
        Ok(())
    }

    /// An operator gives up what only other copies have: the in-sync set is that node alone.
    pub(super) fn force_primary(&mut self, id: ShardId, node: &NodeId) -> Result<(), Rejection> {
        let mut shard = self.shard(id)?;
        if self.node(node)?.is_down() {
            return Err(reject(RejectionCode::Invalid, format!("{node} is down")));
        }
        let leads = shard.primary.as_ref() == Some(node);
        if leads && !shard.lost && shard.in_sync == [node.clone()] {
            return Ok(());
        }
        if let Some(alive) = shard.in_sync.iter().find(|member| !shard.lost && self.state.is_alive(member)) {
            let detail = format!("{alive} is in sync and alive: nothing needs to be given up");
            return Err(reject(RejectionCode::Conflict, detail));
        }
        if let Some(migration) = self.migration_of(&shard) {
            self.abort(&mut shard, migration, "an operator forced a primary");
        }
        let has_copy = shard.full_copies().any(|copy| copy == node) && !(leads && shard.lost);
        let gone = shard.primary.clone().filter(|old| shard.lost && old != node);
        self.forget_retiring(id, node);
        if let Some(old) = &shard.primary {
            self.take_primaryship_from(old);
        }
        shard.name_primary(node);
        shard.raise_epoch();
        shard.set_in_sync(vec![node.clone()]);
        if let Some(old) = gone {
            shard.demote_to_learner(&old);
        }
        shard.lost = false;
        // A copy that was never opened may not have been made.
        shard.founding |= !has_copy;
        self.put_shard(shard);
        let about = About { node: Some(node), shard: Some(id), migration: None };
        self.event("primary_forced", about, format!("{node} leads, alone in sync; data loss accepted"));
        Ok(())
    }

    /// What a node holds and is not assigned is to be deleted, once all wanted copies are in sync.
    pub(super) fn retire(&mut self, id: ShardId, node: &NodeId, if_epoch: Epoch) -> Result<(), Rejection> {
        let shard = self.shard_at(id, if_epoch)?;
        self.node(node)?;
        if self.state.retiring_row(id, node).is_some() {
            return Ok(());
        }
        if shard.role_of(node).is_some() {
            let detail = format!("{node} is assigned a copy of shard {id}");
            return Err(reject(RejectionCode::Conflict, detail));
        }
        let wanted = self.state.replication_factor().min(self.state.num_nodes());
        let whole = shard.full_copies().all(|copy| shard.is_in_sync(copy)) && shard.in_sync.len() >= wanted;
        if shard.founding || shard.lost || !whole {
            let detail = format!("not all wanted copies of shard {id} are in sync");
            return Err(reject(RejectionCode::Conflict, detail));
        }
        self.retire_copy(id, node, shard.epoch);
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
        match node.intent {
            Intent::Schedulable => {}
            Intent::Draining | Intent::Drained => return invalid("is being emptied"),
            Intent::Maintenance => return invalid("is in maintenance"),
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
