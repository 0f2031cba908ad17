//! How a shard's copies and its migration change together: promotion, loss, and a migration's ways to go on or end.
//!
//! Each function takes the shard's row in hand and leaves it to the caller to put it back; migrations, left-over copies and
//! nodes are written at once. Afterwards the primary is in sync, no node stands twice among the copies, and a migration that
//! has not ended has the shard's epoch.

use ruvector_cluster_client::ids::{Epoch, NodeId};
use ruvector_cluster_client::wire::{MigrationKind, Phase};

use super::tx::{About, Tx, cut};
use crate::metadata::migration::MigrationRow;
use crate::metadata::shard::ShardRow;

/// A migration put back to `preparing` more often than this is aborted. Each time its phase has all its time again, so where
/// parties fail faster than phases time out, nothing else would free its slot. A rolling restart of all parties is 3, and a target
/// that is slower than the writes gets further each time, since equal chunks are not sent again; who is not through after 16 gets
/// a pause, which the coordinator makes longer with each failure.
const MAX_ATTEMPTS: u32 = 16;

impl ShardRow {
    pub(super) fn raise_epoch(&mut self) {
        self.epoch = Epoch(self.epoch.0 + 1);
    }

    pub(super) fn is_in_sync(&self, node: &NodeId) -> bool {
        self.in_sync.contains(node)
    }

    /// Sets the in-sync set, in ascending order; another one raises the version.
    pub(super) fn set_in_sync(&mut self, mut members: Vec<NodeId>) {
        members.sort();
        if members != self.in_sync {
            self.in_sync = members;
            self.in_sync_version += 1;
        }
    }

    pub(super) fn leave_in_sync(&mut self, node: &NodeId) {
        let rest = self.in_sync.iter().filter(|member| *member != node).cloned();
        self.set_in_sync(rest.collect());
    }

    /// Takes a replica or learner copy out.
    pub(super) fn remove_copy(&mut self, node: &NodeId) {
        self.replicas.retain(|copy| copy != node);
        self.learners.retain(|copy| copy != node);
        self.leave_in_sync(node);
    }

    /// Makes a replica a learner copy, out of sync.
    pub(super) fn demote_to_learner(&mut self, node: &NodeId) {
        if self.replicas.contains(node) {
            self.replicas.retain(|copy| copy != node);
            self.learners.push(node.clone());
        }
        self.leave_in_sync(node);
    }

    /// Names `to`, one of the copies, as primary; the old one takes its place among the replicas.
    pub(super) fn name_primary(&mut self, to: &NodeId) {
        let old = self.primary.replace(to.clone());
        let place = self.replicas.iter().position(|copy| copy == to).unwrap_or(self.replicas.len());
        self.replicas.retain(|copy| copy != to);
        self.learners.retain(|copy| copy != to);
        if let Some(old) = old.filter(|old| old != to) {
            self.replicas.insert(place.min(self.replicas.len()), old);
        }
    }

    /// The replica that takes over `from`'s place, or a further one.
    fn admit_replica(&mut self, to: &NodeId, from: Option<&NodeId>) {
        if !self.learners.contains(to) {
            return;
        }
        self.learners.retain(|copy| copy != to);
        let place = self.replicas.iter().position(|copy| Some(copy) == from);
        self.replicas.insert(place.unwrap_or(self.replicas.len()), to.clone());
    }
}

impl Tx<'_> {
    /// Primaryship goes to `to`, which is in sync: the epoch rises, and the shard's migration is settled.
    pub(super) fn promote(&mut self, shard: &mut ShardRow, to: &NodeId, why: &str) {
        if let Some(old) = shard.primary.clone() {
            self.take_primaryship_from(&old);
        }
        let migration = self.migration_of(shard);
        shard.name_primary(to);
        shard.raise_epoch();
        match migration {
            Some(migration) if migration.to.as_ref() == Some(to) => self.finish(shard, migration),
            Some(migration) => self.abort(shard, migration, why),
            None => {}
        }
    }

    /// The migration has reached its end: whoever gave leaves the shard, whoever took stands in its rows.
    pub(super) fn finish(&mut self, shard: &mut ShardRow, mut migration: MigrationRow) {
        match migration.kind {
            MigrationKind::Move | MigrationKind::Add | MigrationKind::Remove => {
                if let Some(to) = &migration.to {
                    shard.admit_replica(to, migration.from.as_ref());
                }
                if let Some(from) = &migration.from
                    && shard.role_of(from).is_some()
                {
                    shard.remove_copy(from);
                    self.retire_copy(shard.id, from, shard.epoch);
                }
            }
            MigrationKind::Promote => {}
        }
        shard.migration = None;
        migration.phase = Phase::Done;
        migration.error = None;
        let about =
            About { shard: Some(shard.id), migration: Some(migration.id), node: migration.to.as_ref() };
        self.event("migration_done", about, described(&migration));
        self.put_migration(migration);
    }

    /// The migration ends without effect; a copy that it filled is left over.
    pub(super) fn abort(&mut self, shard: &mut ShardRow, mut migration: MigrationRow, why: &str) {
        if let Some(to) = &migration.to
            && migration.is_shown()
            && shard.learners.contains(to)
        {
            shard.remove_copy(to);
            self.retire_copy(shard.id, to, shard.epoch);
        }
        shard.migration = None;
        migration.phase = Phase::Aborted;
        migration.error = Some(cut(why.to_owned()));
        let about =
            About { shard: Some(shard.id), migration: Some(migration.id), node: migration.to.as_ref() };
        self.event("migration_aborted", about, format!("{}: {why}", described(&migration)));
        self.put_migration(migration);
    }

    /// In `handing_over`, the target can't take the primaryship: the old primary goes on, at a raised epoch.
    pub(super) fn take_back(&mut self, shard: &mut ShardRow, migration: MigrationRow, why: &str) {
        shard.raise_epoch();
        self.abort(shard, migration, why);
    }

    /// What both sides agreed on no longer holds: a migration that has begun starts again with `preparing`, under the shard's
    /// epoch; a queued one takes the epoch.
    pub(super) fn put_back(&mut self, shard: &mut ShardRow, mut migration: MigrationRow, why: &str) {
        let epoch = std::mem::replace(&mut migration.epoch, shard.epoch);
        match migration.phase {
            Phase::Preparing | Phase::Copying | Phase::Admitting => {
                if migration.attempts >= MAX_ATTEMPTS {
                    return self.abort(shard, migration, &format!("put back too often, lastly: {why}"));
                }
                let target = migration.to.as_ref().and_then(|to| self.state.node(to));
                let run = target.map(|node| node.incarnation);
                let ready = migration.target_ready || migration.primary_ready;
                let restarted = epoch != shard.epoch || migration.target_incarnation != run;
                // What is told again while nothing has moved on changes nothing.
                let counts = ready || restarted || migration.phase != Phase::Preparing;
                migration.target_incarnation = run;
                migration.phase = Phase::Preparing;
                migration.target_ready = false;
                migration.primary_ready = false;
                migration.attempts += u32::from(counts);
                migration.error = Some(cut(why.to_owned()));
            }
            Phase::Queued | Phase::HandingOver | Phase::Done | Phase::Aborted => {}
        }
        self.put_migration(migration);
    }

    /// The node's copy of an opened shard is gone: it leaves the in-sync set and becomes a learner copy, and its primaryship
    /// goes to another in-sync one (alive if any is). Gives back whether it was the last: then all stays as it was, but that the
    /// shard is lost, and its migration aborted.
    pub(super) fn lose_copy(&mut self, shard: &mut ShardRow, node: &NodeId, why: &str) -> bool {
        if shard.primary.as_ref() == Some(node) {
            let Some(successor) = self.successor(shard) else {
                if let Some(migration) = self.migration_of(shard) {
                    self.abort(shard, migration, why);
                }
                shard.lost = true;
                return true;
            };
            self.promote(shard, &successor, why);
        } else if let Some(migration) = self.migration_of(shard).filter(|m| m.to.as_ref() == Some(node)) {
            match migration.phase {
                Phase::HandingOver => self.take_back(shard, migration, why),
                Phase::Preparing | Phase::Copying | Phase::Admitting => self.put_back(shard, migration, why),
                Phase::Queued if migration.kind == MigrationKind::Promote => {
                    self.abort(shard, migration, why)
                }
                Phase::Queued | Phase::Done | Phase::Aborted => {}
            }
        }
        shard.demote_to_learner(node);
        false
    }

    /// Who leads next: of the other in-sync copies the migration's target, else the first, alive ones before others.
    fn successor(&self, shard: &ShardRow) -> Option<NodeId> {
        let target = self.migration_of(shard).and_then(|migration| migration.to);
        let others = shard.replicas.iter().chain(&shard.learners).filter(|node| shard.is_in_sync(node));
        let rank = |node: &NodeId| (!self.state.is_alive(node), target.as_ref() != Some(node));
        others.min_by_key(|node| rank(node)).cloned()
    }
}

/// A migration in a few words.
fn described(migration: &MigrationRow) -> String {
    let name = |node: &Option<NodeId>| node.as_ref().map_or("-".to_owned(), NodeId::to_string);
    let (shard, from, to) = (migration.shard, name(&migration.from), name(&migration.to));
    match migration.kind {
        MigrationKind::Move => format!("move of shard {shard} from {from} to {to}"),
        MigrationKind::Promote => format!("promotion for shard {shard} from {from} to {to}"),
        MigrationKind::Add => format!("new copy of shard {shard} on {to}"),
        MigrationKind::Remove => format!("removal of shard {shard} from {from}"),
    }
}
