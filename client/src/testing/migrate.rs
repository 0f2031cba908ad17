//! Migrations and failovers (DESIGN.md, sections 6 and 7).

use super::places::Refusal;
use super::rows::{MigrationRow, Rows, ShardRow};
use super::views::now;
use crate::ids::{Epoch, MigrationId, NodeId, ShardId};
use crate::wire::{MigrationKind, Phase};

fn invalid<T>(detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(422, "invalid", detail))
}

impl Rows {
    pub(super) fn migrate(
        &mut self,
        shard: ShardId,
        to: &NodeId,
        from: Option<&NodeId>,
        if_epoch: Option<Epoch>,
    ) -> Result<MigrationId, Refusal> {
        let mut row = match if_epoch {
            Some(epoch) => self.row_at(shard, epoch)?,
            None => self.row(shard)?,
        };
        let primary = self.migratable(shard, &row)?;
        if !self.is_alive(to) {
            return invalid(format!("{to} is unknown, or down"));
        }
        let from_primary = from.is_none_or(|from| *from == primary);
        if from_primary && *to != primary && row.is_in_sync(to) {
            let id =
                self.new_migration(shard, &mut row, MigrationKind::Promote, Some(primary), Some(to.clone()));
            self.begin_hand_over(&row, id);
            self.put(shard, row);
            return Ok(id);
        }
        let readmits = from.is_none() && row.learners.contains(to);
        if !readmits && (Self::holds(&row, to) || row.retiring.iter().any(|(copy, _)| copy == to)) {
            return invalid(format!("{to} has a copy of shard {shard} already"));
        }
        let from = if readmits { None } else { Some(from.unwrap_or(&primary)) };
        if let Some(from) = from.filter(|from| !Self::holds(&row, from)) {
            return invalid(format!("{from} has no copy of shard {shard}"));
        }
        let kind = if readmits { MigrationKind::Add } else { MigrationKind::Move };
        let id = self.new_migration(shard, &mut row, kind, from.cloned(), Some(to.clone()));
        if !readmits {
            row.learners.push(to.clone());
        }
        self.put(shard, row);
        Ok(id)
    }

    /// Takes a replica or learner copy away.
    pub(super) fn remove(&mut self, shard: ShardId, from: &NodeId) -> Result<MigrationId, Refusal> {
        let mut row = self.row(shard)?;
        let primary = self.migratable(shard, &row)?;
        if *from == primary || !Self::holds(&row, from) {
            return invalid(format!("{from} is no replica or learner copy of shard {shard}"));
        }
        let id = self.new_migration(shard, &mut row, MigrationKind::Remove, Some(from.clone()), None);
        if let Some(migration) = self.migration(id).cloned() {
            self.finish(&mut row, migration);
        }
        self.put(shard, row);
        Ok(id)
    }

    /// The primary of a shard that can migrate now.
    fn migratable(&self, shard: ShardId, row: &ShardRow) -> Result<NodeId, Refusal> {
        if let Some(id) = row.migration {
            let detail = format!("shard {shard} has migration {id} already");
            return Err(Refusal::new(409, "already_migrating", detail));
        }
        match row.primary.clone().filter(|_| !row.founding && !row.lost) {
            Some(primary) => Ok(primary),
            None => invalid(format!("shard {shard} has no opened primary")),
        }
    }

    fn new_migration(
        &mut self,
        shard: ShardId,
        row: &mut ShardRow,
        kind: MigrationKind,
        from: Option<NodeId>,
        to: Option<NodeId>,
    ) -> MigrationId {
        let id = MigrationId(self.migrations.len() as u64 + 1);
        row.migration = Some(id);
        self.put_migration(MigrationRow {
            id,
            shard,
            kind,
            from,
            to,
            epoch: row.epoch,
            phase: Phase::Preparing,
            target_ready: false,
            primary_ready: false,
            bytes: None,
            error: None,
            created_at: now(),
            updated_at: now(),
        });
        id
    }

    fn begin_hand_over(&mut self, row: &ShardRow, id: MigrationId) {
        if let Some(primary) = &row.primary {
            self.take_primaryship_from(primary);
        }
        if let Some(migration) = self.migration(id).cloned() {
            self.put_migration(MigrationRow { phase: Phase::HandingOver, error: None, ..migration });
        }
    }

    /// The target was taken into the in-sync set.
    pub(super) fn admitted(&mut self, row: &mut ShardRow, migration: MigrationRow) {
        if migration.kind == MigrationKind::Move && migration.from == row.primary {
            self.begin_hand_over(row, migration.id);
        } else {
            self.finish(row, migration);
        }
    }

    /// Forward, if the target is in sync and alive; else the old primary goes on at a raised epoch.
    pub(super) fn end_hand_over(&mut self, row: &mut ShardRow, migration: MigrationRow, why: &str) {
        match migration.to.clone().filter(|to| row.is_in_sync(to) && self.is_alive(to)) {
            Some(to) => self.promote(row, &to, "cut over"),
            None => self.take_back(row, migration, why),
        }
    }

    pub(super) fn take_back(&mut self, row: &mut ShardRow, migration: MigrationRow, why: &str) {
        row.epoch.0 += 1;
        self.abort(row, migration, why);
    }

    /// Primary = `to`, at a raised epoch; the shard's migration is settled with it.
    pub(super) fn promote(&mut self, row: &mut ShardRow, to: &NodeId, why: &str) {
        if let Some(old) = row.primary.clone() {
            self.take_primaryship_from(&old);
        }
        let migration = self.active(row);
        row.name_primary(to);
        match migration {
            Some(migration) if migration.to.as_ref() == Some(to) => self.finish(row, migration),
            Some(migration) => self.abort(row, migration, why),
            None => {}
        }
    }

    fn finish(&mut self, row: &mut ShardRow, migration: MigrationRow) {
        if let Some(to) = &migration.to
            && row.learners.contains(to)
        {
            row.learners.retain(|copy| copy != to);
            row.replicas.push(to.clone());
        }
        let leaves = migration.from.as_ref().filter(|_| migration.kind != MigrationKind::Promote);
        if let Some(from) = leaves.filter(|from| Self::holds(row, from)) {
            row.retire(from);
        }
        row.migration = None;
        self.put_migration(MigrationRow { phase: Phase::Done, error: None, ..migration });
    }

    pub(super) fn abort(&mut self, row: &mut ShardRow, migration: MigrationRow, why: &str) {
        if let Some(to) = migration.to.as_ref().filter(|to| row.learners.contains(to)) {
            row.retire(to);
        }
        row.migration = None;
        self.put_migration(MigrationRow { phase: Phase::Aborted, error: Some(why.to_owned()), ..migration });
    }

    /// What both sides agreed on no longer holds: it begins again with `preparing`, under the shard's epoch.
    pub(super) fn put_back(&mut self, row: &ShardRow, migration: MigrationRow, why: &str) {
        if matches!(migration.phase, Phase::Preparing | Phase::Copying | Phase::Admitting) {
            self.put_migration(MigrationRow {
                epoch: row.epoch,
                phase: Phase::Preparing,
                target_ready: false,
                primary_ready: false,
                error: Some(why.to_owned()),
                ..migration
            });
        }
    }

    pub(super) fn cancel(&mut self, id: MigrationId) -> Result<(), Refusal> {
        let missing = || Refusal::new(404, "not_found", format!("there is no migration {id}"));
        let migration = self.migration(id).cloned().ok_or_else(missing)?;
        match migration.phase {
            Phase::Queued | Phase::Preparing | Phase::Copying | Phase::Admitting => {
                let shard = migration.shard;
                let mut row = self.row(shard)?;
                self.abort(&mut row, migration, "cancelled");
                self.put(shard, row);
                Ok(())
            }
            Phase::HandingOver | Phase::Done => {
                Err(Refusal::new(409, "too_late", format!("migration {id} hands over, or is done")))
            }
            Phase::Aborted => Ok(()),
        }
    }

    /// Settles what the verdicts in force ask for.
    pub(super) fn fail_over_all(&mut self) {
        for id in self.shard_ids() {
            let Ok(mut row) = self.row(id) else { continue };
            let Some(primary) = row.primary.clone() else { continue };
            let migration = self.active(&row);
            let target_down = migration
                .as_ref()
                .and_then(|migration| migration.to.as_ref())
                .is_some_and(|to| !self.is_alive(to));
            match migration {
                Some(migration) if migration.phase == Phase::HandingOver && target_down => {
                    self.take_back(&mut row, migration, "the target is down");
                }
                Some(migration) if target_down => self.abort(&mut row, migration, "the target is down"),
                _ => {}
            }
            if !self.is_alive(&primary) && !row.founding && !row.lost {
                self.fail_over(&mut row);
            }
            self.put(id, row);
        }
    }

    /// With no in-sync copy alive the primary stays named.
    fn fail_over(&mut self, row: &mut ShardRow) {
        if let Some(next) = self.successor(row).filter(|next| self.is_alive(next)) {
            self.promote(row, &next, "the primary is down");
        }
    }

    /// Who leads next: of the other in-sync copies those alive before others, and the migration's target before others.
    pub(super) fn successor(&self, row: &ShardRow) -> Option<NodeId> {
        let target = self.active(row).and_then(|migration| migration.to);
        let others = row.in_sync.iter().filter(|node| !row.leads(node));
        others.min_by_key(|node| (!self.is_alive(node), target.as_ref() != Some(*node))).cloned()
    }

    pub(super) fn wipe(&mut self, node: &NodeId) {
        for id in self.shard_ids() {
            let Ok(mut row) = self.row(id) else { continue };
            if Self::holds(&row, node) && !row.founding {
                self.lose(&mut row, node);
            }
            row.retiring.retain(|(copy, _)| copy != node);
            self.put(id, row);
        }
    }

    /// The copy leaves the in-sync set and becomes a learner copy, its primaryship goes to another one. Of the last in-sync copy
    /// all stays as it was, but that the shard is lost.
    pub(super) fn lose(&mut self, row: &mut ShardRow, node: &NodeId) {
        if row.leads(node) {
            let Some(successor) = self.successor(row) else {
                if let Some(migration) = self.active(row) {
                    self.abort(row, migration, "the last copy is lost");
                }
                row.lost = true;
                return;
            };
            self.promote(row, &successor, "the primary lost its copy");
        } else if let Some(migration) =
            self.active(row).filter(|migration| migration.to.as_ref() == Some(node))
        {
            match migration.phase {
                Phase::HandingOver => self.take_back(row, migration, "the target lost its copy"),
                _ => self.put_back(row, migration, "the target lost its copy"),
            }
        }
        if row.replicas.contains(node) {
            row.replicas.retain(|copy| copy != node);
            row.learners.push(node.clone());
        }
        row.leave_in_sync(node);
    }
}
