//! What data nodes report: each taken or refused alone, changing nothing when refused (API.md, "reports").

use mutants::{Mutant, is_on};
use ruvector_cluster_client::ids::{Incarnation, NodeId};
use ruvector_cluster_client::wire::{InSyncProposal, Phase, Report, ReportResult};

use super::reject;
use super::tx::{About, Tx};
use crate::metadata::command::{Answer, Rejection, RejectionCode};
use crate::metadata::migration::MigrationRow;
use crate::metadata::shard::ShardRow;

/// Errors that put a migration back to `preparing`; any other ends it.
const PUT_BACK_ERRORS: [&str; 2] = ["gap", "no_answer"];

impl Tx<'_> {
    /// All reports of one request.
    pub(super) fn reports(
        &mut self,
        node: &NodeId,
        run: Incarnation,
        reports: &[Report],
    ) -> Result<Answer, Rejection> {
        self.node(node)?;
        let current = self.node_in_run(node, run).map(|_| ());
        let mut results = Vec::with_capacity(reports.len());
        for report in reports {
            let outcome = current.clone().and_then(|()| self.report(node, report));
            results.push(match outcome {
                Ok(()) => ReportResult { accepted: true, code: None },
                Err(refused) => {
                    ReportResult { accepted: false, code: Some(refused.code.as_str().to_owned()) }
                }
            });
        }
        Ok(Answer::Reported { results })
    }

    fn report(&mut self, node: &NodeId, report: &Report) -> Result<(), Rejection> {
        if report.retired {
            return self.retired(node, report);
        }
        if report.lost {
            return self.lost(node, report);
        }
        if let Some(proposal) = &report.in_sync_set {
            return self.in_sync_set(node, report, proposal);
        }
        if report.migration.is_some() {
            return self.progress(node, report);
        }
        self.shard(report.shard).map(|_| ())
    }

    /// A retiring copy is deleted: its row goes. What is no longer assigned at all was reported before.
    fn retired(&mut self, node: &NodeId, report: &Report) -> Result<(), Rejection> {
        let shard = self.shard(report.shard)?;
        if shard.role_of(node).is_some() {
            let detail = format!("{node} has a copy of shard {} that is not retiring", shard.id);
            return Err(reject(RejectionCode::StalePhase, detail));
        }
        let Some(row) = self.state.retiring_row(report.shard, node) else { return Ok(()) };
        if report.epoch < row.epoch {
            let detail = format!("the copy retires at epoch {}", row.epoch);
            return Err(reject(RejectionCode::StaleEpoch, detail));
        }
        self.forget_retiring(report.shard, node);
        Ok(())
    }

    /// A copy is missing or unreadable. While founding, the node makes it anew.
    fn lost(&mut self, node: &NodeId, report: &Report) -> Result<(), Rejection> {
        let mut shard = self.shard_at(report.shard, report.epoch)?;
        if shard.role_of(node).is_none() {
            let detail = format!("{node} has no copy of shard {}", shard.id);
            return Err(reject(RejectionCode::Conflict, detail));
        }
        if shard.founding || (shard.lost && shard.primary.as_ref() == Some(node)) {
            return Ok(());
        }
        let last = self.lose_copy(&mut shard, node, &format!("{node} lost its copy"));
        let about = About { node: Some(node), shard: Some(shard.id), migration: None };
        let detail = if last { "the last in-sync copy is lost" } else { "a copy is lost" };
        self.event("copy_lost", about, detail);
        self.put_shard(shard);
        Ok(())
    }

    /// The primary's in-sync set: opens a founding shard, ends `admitting`, drops and readmits.
    fn in_sync_set(
        &mut self,
        node: &NodeId,
        report: &Report,
        proposal: &InSyncProposal,
    ) -> Result<(), Rejection> {
        let mut shard = self.shard_at(report.shard, report.epoch)?;
        if let (Some(id), Some(phase)) = (report.migration, report.phase) {
            self.migration_at(id, report.epoch, phase)?;
        }
        if shard.primary.as_ref() != Some(node) || shard.lost {
            let detail = format!("{node} does not lead shard {}", shard.id);
            return Err(reject(RejectionCode::Conflict, detail));
        }
        let version = shard.in_sync_version;
        if proposal.if_version != version && !is_on(Mutant::InSyncWithoutVersion) {
            let detail = format!("the in-sync set is at version {version}");
            return Err(reject(RejectionCode::StaleVersion, detail));
        }
        let migration = self.migration_of(&shard);
        self.check_members(&shard, migration.as_ref(), proposal)?;
        shard.set_in_sync(proposal.members.iter().map(|member| member.node.clone()).collect());
        // Raised by the same set too: a primary that proposes what stands wants older proposals, whose outcome it
        // does not know, to be out of date.
        shard.in_sync_version = version + 1;
        shard.founding = false;
        if let Some(migration) = migration {
            let has_target = migration.to.as_ref().is_some_and(|to| shard.is_in_sync(to));
            match migration.phase {
                Phase::Admitting if has_target => self.admitted(&mut shard, migration),
                Phase::HandingOver if !has_target => {
                    self.take_back(&mut shard, migration, "the primary dropped the target");
                }
                Phase::Queued
                | Phase::Preparing
                | Phase::Copying
                | Phase::Admitting
                | Phase::HandingOver
                | Phase::Done
                | Phase::Aborted => {}
            }
        }
        self.put_shard(shard);
        Ok(())
    }

    /// Each member once, in its current run; new ones alive, and replicas or the target in `admitting`.
    fn check_members(
        &self,
        shard: &ShardRow,
        migration: Option<&MigrationRow>,
        proposal: &InSyncProposal,
    ) -> Result<(), Rejection> {
        let mut seen: Vec<&NodeId> = Vec::with_capacity(proposal.members.len());
        let admitting = migration.filter(|m| m.phase == Phase::Admitting).and_then(|m| m.to.as_ref());
        for member in &proposal.members {
            let row = if is_on(Mutant::InSyncWithoutIncarnation) {
                self.node(&member.node)?
            } else {
                self.node_in_run(&member.node, member.incarnation)?
            };
            let new = !shard.is_in_sync(&member.node);
            let may_enter = shard.replicas.contains(&member.node) || admitting == Some(&member.node);
            if seen.contains(&&member.node) || (new && (row.is_down() || !may_enter)) {
                let detail = format!("{} can't be in the in-sync set of shard {}", member.node, shard.id);
                return Err(reject(RejectionCode::Conflict, detail));
            }
            seen.push(&member.node);
        }
        if shard.primary.as_ref().is_none_or(|primary| !seen.contains(&primary)) {
            return Err(reject(RejectionCode::Invalid, "an in-sync set has the primary"));
        }
        Ok(())
    }

    /// A part of a migration's phase is done, or failed; bytes alone change nothing.
    fn progress(&mut self, node: &NodeId, report: &Report) -> Result<(), Rejection> {
        let (Some(id), Some(phase)) = (report.migration, report.phase) else {
            return Err(reject(RejectionCode::Invalid, "a report about a migration names it and its phase"));
        };
        let migration = self.migration_at(id, report.epoch, phase)?;
        let mut shard = self.shard(migration.shard)?;
        let leads = shard.primary.as_ref() == Some(node);
        let takes = migration.to.as_ref() == Some(node);
        if migration.shard != report.shard || !(leads || takes) {
            let detail = format!("{node} has no part in migration {id} of shard {}", report.shard);
            return Err(reject(RejectionCode::Conflict, detail));
        }
        if let Some(error) = &report.error {
            self.failed(&mut shard, migration, error);
        } else if report.done {
            self.done(&mut shard, migration, leads)?;
        }
        self.put_shard(shard);
        Ok(())
    }

    fn failed(&mut self, shard: &mut ShardRow, migration: MigrationRow, error: &str) {
        if migration.phase == Phase::HandingOver {
            self.take_back(shard, migration, error);
        } else if PUT_BACK_ERRORS.contains(&error) {
            self.put_back(shard, migration, error);
        } else {
            self.abort(shard, migration, error);
        }
    }

    fn done(
        &mut self,
        shard: &mut ShardRow,
        mut migration: MigrationRow,
        leads: bool,
    ) -> Result<(), Rejection> {
        match migration.phase {
            Phase::Preparing => {
                if leads {
                    migration.primary_ready = true;
                } else {
                    migration.target_ready = true;
                }
                if migration.primary_ready && migration.target_ready {
                    migration.phase = Phase::Copying;
                }
                self.put_migration(migration);
                Ok(())
            }
            Phase::Copying if !leads => {
                migration.phase = Phase::Admitting;
                self.put_migration(migration);
                Ok(())
            }
            Phase::HandingOver if leads => self.cut_over(shard, &migration),
            Phase::Queued
            | Phase::Copying
            | Phase::Admitting
            | Phase::HandingOver
            | Phase::Done
            | Phase::Aborted => {
                Err(reject(RejectionCode::Conflict, "that is not this node's to report in this phase"))
            }
        }
    }
}
