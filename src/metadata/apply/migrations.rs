//! Migrations by command: queued, started, stepped by the leader, cancelled (DESIGN.md section 7).

use mutants::{Mutant, is_on};
use ruvector_cluster_client::ids::{Epoch, MigrationId, NodeId, Revision};
use ruvector_cluster_client::wire::{Intent, MigrationKind, Phase};

use super::reject;
use super::tx::{About, Tx, cut};
use crate::metadata::command::{NewMigration, Rejection, RejectionCode, Step};
use crate::metadata::migration::MigrationRow;
use crate::metadata::shard::ShardRow;

/// What a migration does, between whom.
struct Route {
    kind: MigrationKind,
    from: Option<NodeId>,
    to: Option<NodeId>,
}

fn invalid<T>(detail: impl Into<String>) -> Result<T, Rejection> {
    Err(reject(RejectionCode::Invalid, detail))
}

impl Tx<'_> {
    /// Queues a migration.
    pub(super) fn queue(&mut self, ask: &NewMigration, by_operator: bool) -> Result<MigrationId, Rejection> {
        let mut shard = match ask.if_epoch {
            Some(epoch) => self.shard_at(ask.shard, epoch)?,
            None => self.shard(ask.shard)?,
        };
        if let Some(id) = shard.migration {
            let detail = format!("shard {} has migration {id} already", shard.id);
            return Err(reject(RejectionCode::AlreadyMigrating, detail));
        }
        let Some(primary) = shard.primary.clone().filter(|_| !shard.founding && !shard.lost) else {
            return invalid(format!("shard {} has no opened primary", shard.id));
        };
        let route = route(&shard, &primary, ask)?;
        self.check_route(&shard, &primary, &route)?;
        let id = MigrationId(self.state.head.last_migration.0 + 1);
        self.state.head.last_migration = id;
        shard.migration = Some(id);
        let now_ms = self.now_ms();
        let about = About { shard: Some(shard.id), migration: Some(id), node: route.to.as_ref() };
        self.event("migration_queued", about, ask.reason.clone());
        self.put_migration(MigrationRow {
            id,
            shard: shard.id,
            kind: route.kind,
            from: route.from,
            to: route.to,
            epoch: shard.epoch,
            phase: Phase::Queued,
            target_ready: false,
            primary_ready: false,
            target_incarnation: None,
            taken_revision: None,
            attempts: 0,
            reason: cut(ask.reason.clone()),
            by_operator,
            error: None,
            created_ms: now_ms,
            started_ms: None,
            updated_ms: now_ms,
            revision: Revision(0),
        });
        self.put_shard(shard);
        Ok(id)
    }

    /// Whether the nodes can play their parts now; asked when it is queued, and again when it starts.
    fn check_route(&self, shard: &ShardRow, primary: &NodeId, route: &Route) -> Result<(), Rejection> {
        let (kind, from, to) = (route.kind, route.from.as_ref(), route.to.as_ref());
        match (kind, from, to) {
            (MigrationKind::Move, Some(from), Some(to)) => {
                if shard.role_of(from).is_none() {
                    return invalid(format!("{from} has no copy of shard {}", shard.id));
                }
                if shard.role_of(to).is_some() {
                    return invalid(format!("{to} has a copy of shard {} already", shard.id));
                }
                self.check_takes_copy(shard, to)
            }
            (MigrationKind::Add, None, Some(to)) if shard.learners.contains(to) => self.check_readmits(to),
            (MigrationKind::Add, None, Some(to)) => {
                if shard.role_of(to).is_some() {
                    return invalid(format!("{to} has a copy of shard {} already", shard.id));
                }
                self.check_takes_copy(shard, to)
            }
            (MigrationKind::Promote, Some(from), Some(to)) => {
                if from != primary || to == primary {
                    return invalid(format!("primaryship goes from the primary, {primary}, to another copy"));
                }
                if !shard.is_in_sync(to) || !self.state.is_alive(to) {
                    return invalid(format!("{to} is not in sync, or not alive"));
                }
                Ok(())
            }
            (MigrationKind::Remove, Some(from), None) => {
                if from == primary || shard.role_of(from).is_none() {
                    return invalid(format!("{from} is no replica or learner copy of shard {}", shard.id));
                }
                Ok(())
            }
            (
                MigrationKind::Move | MigrationKind::Add | MigrationKind::Promote | MigrationKind::Remove,
                _,
                _,
            ) => invalid("a move and a promotion have from and to, an add only to, a removal only from"),
        }
    }

    /// A lost copy is filled again where it was.
    fn check_readmits(&self, id: &NodeId) -> Result<(), Rejection> {
        let node = self.node(id)?;
        match node.intent {
            Intent::Draining | Intent::Drained => invalid(format!("{id} is being emptied")),
            Intent::Schedulable | Intent::Maintenance if node.is_down() => invalid(format!("{id} is down")),
            Intent::Schedulable | Intent::Maintenance => Ok(()),
        }
    }

    /// The leader's decision about a migration.
    pub(super) fn step(
        &mut self,
        id: MigrationId,
        if_epoch: Epoch,
        if_phase: Phase,
        step: &Step,
    ) -> Result<(), Rejection> {
        let migration = self.migration_at(id, if_epoch, if_phase)?;
        let mut shard = self.shard(migration.shard)?;
        let in_hand_over = migration.phase == Phase::HandingOver;
        match step {
            Step::Start if migration.phase == Phase::Queued => self.start(&mut shard, migration)?,
            Step::CutOver if in_hand_over => self.cut_over(&mut shard, &migration)?,
            Step::TakeBack { error } if in_hand_over => {
                if let Ok(to) = self.fit_target(&shard, &migration) {
                    let detail = format!("{to} is in sync and alive: it can take the primaryship");
                    return Err(reject(RejectionCode::Conflict, detail));
                }
                self.take_back(&mut shard, migration, error);
            }
            Step::Abort { error } if !in_hand_over => self.abort(&mut shard, migration, error),
            Step::Abort { .. } => return Err(reject(RejectionCode::TooLate, "it hands over already")),
            Step::Start | Step::CutOver | Step::TakeBack { .. } => {
                let detail = format!("migration {id} is in another phase");
                return Err(reject(RejectionCode::StalePhase, detail));
            }
        }
        self.put_shard(shard);
        Ok(())
    }

    /// The migration, active, at that epoch and in that phase.
    pub(super) fn migration_at(
        &self,
        id: MigrationId,
        epoch: Epoch,
        phase: Phase,
    ) -> Result<MigrationRow, Rejection> {
        let migration = self.state.migration(id).cloned();
        let missing = || reject(RejectionCode::NotFound, format!("there is no migration {id}"));
        let migration = migration.ok_or_else(missing)?;
        let is_repeated = migration.phase != phase && !is_on(Mutant::PhaseRepeated);
        if migration.phase.is_ended() || is_repeated {
            let detail = format!("migration {id} is in another phase");
            return Err(reject(RejectionCode::StalePhase, detail));
        }
        if migration.epoch != epoch {
            let detail = format!("migration {id} is at epoch {}, not {epoch}", migration.epoch);
            return Err(reject(RejectionCode::StaleEpoch, detail));
        }
        Ok(migration)
    }

    /// `queued` goes to its first phase.
    fn start(&mut self, shard: &mut ShardRow, mut migration: MigrationRow) -> Result<(), Rejection> {
        let Some(primary) = shard.primary.clone().filter(|_| !shard.founding && !shard.lost) else {
            return invalid(format!("shard {} has no opened primary", shard.id));
        };
        let route = Route { kind: migration.kind, from: migration.from.clone(), to: migration.to.clone() };
        self.check_route(shard, &primary, &route)?;
        match (migration.kind, route.to) {
            (MigrationKind::Promote, _) => self.begin_hand_over(shard, migration),
            (MigrationKind::Remove, _) | (MigrationKind::Move | MigrationKind::Add, None) => {
                self.finish(shard, migration);
            }
            (MigrationKind::Move | MigrationKind::Add, Some(to)) => {
                migration.target_incarnation = self.state.node(&to).map(|node| node.incarnation);
                migration.phase = Phase::Preparing;
                migration.started_ms = Some(self.now_ms());
                if !shard.learners.contains(&to) {
                    shard.learners.push(to);
                }
                self.put_migration(migration);
            }
        }
        Ok(())
    }

    /// The primary's lease for the shard is no longer extended.
    fn begin_hand_over(&mut self, shard: &ShardRow, mut migration: MigrationRow) {
        if let Some(primary) = &shard.primary {
            self.take_primaryship_from(primary);
        }
        migration.phase = Phase::HandingOver;
        migration.taken_revision = Some(self.revision);
        migration.error = None;
        self.put_migration(migration);
    }

    /// The target was taken into the in-sync set: the primary moves on to hand over, any other copy has arrived.
    pub(super) fn admitted(&mut self, shard: &mut ShardRow, migration: MigrationRow) {
        if migration.kind == MigrationKind::Move && migration.from == shard.primary {
            self.begin_hand_over(shard, migration);
        } else {
            self.finish(shard, migration);
        }
    }

    /// Primary = target, at a raised epoch.
    pub(super) fn cut_over(
        &mut self,
        shard: &mut ShardRow,
        migration: &MigrationRow,
    ) -> Result<(), Rejection> {
        let to = self.fit_target(shard, migration)?;
        self.promote(shard, &to, "cut over");
        Ok(())
    }

    /// The target, if it is in sync and alive.
    pub(super) fn fit_target(&self, shard: &ShardRow, migration: &MigrationRow) -> Result<NodeId, Rejection> {
        let to = migration.to.clone().filter(|to| shard.is_in_sync(to) && self.state.is_alive(to));
        to.ok_or_else(|| reject(RejectionCode::Conflict, "the target is not in sync, or not alive"))
    }

    /// An operator cancels; a second time is harmless.
    pub(super) fn cancel(&mut self, id: MigrationId, if_match: Option<Revision>) -> Result<(), Rejection> {
        let migration = self.state.migration(id).cloned();
        let missing = || reject(RejectionCode::NotFound, format!("there is no migration {id}"));
        let migration = migration.ok_or_else(missing)?;
        super::check_match(if_match, migration.revision)?;
        match migration.phase {
            Phase::Queued | Phase::Preparing | Phase::Copying | Phase::Admitting => {
                let mut shard = self.shard(migration.shard)?;
                self.abort(&mut shard, migration, "cancelled");
                self.put_shard(shard);
                Ok(())
            }
            Phase::HandingOver | Phase::Done => {
                let detail = format!("migration {id} hands over, or is done: it can't be cancelled");
                Err(reject(RejectionCode::TooLate, detail))
            }
            Phase::Aborted => Ok(()),
        }
    }
}

/// Fills in what the request leaves open: `promote` where the target is in sync and the primary gives, else `move`.
fn route(shard: &ShardRow, primary: &NodeId, ask: &NewMigration) -> Result<Route, Rejection> {
    let from_primary = ask.from.as_ref().is_none_or(|from| from == primary);
    let kind = match (ask.kind, &ask.to) {
        (Some(kind), _) => kind,
        (None, Some(to)) if from_primary && to != primary && shard.is_in_sync(to) => MigrationKind::Promote,
        (None, Some(_)) => MigrationKind::Move,
        (None, None) => return invalid("a migration needs a target"),
    };
    let from = match kind {
        MigrationKind::Move | MigrationKind::Promote => ask.from.clone().or_else(|| Some(primary.clone())),
        MigrationKind::Add | MigrationKind::Remove => ask.from.clone(),
    };
    Ok(Route { kind, from, to: ask.to.clone() })
}
