//! What nodes report: each taken or refused alone, changing nothing when refused.

use super::Taken;
use super::places::Refusal;
use super::rows::{MigrationRow, Rows, ShardRow};
use crate::ids::NodeId;
use crate::wire::{InSyncProposal, Phase, Report, ReportResult, ReportsRequest};

fn refused<T>(code: &'static str, detail: &str) -> Result<T, Refusal> {
    Err(Refusal::new(409, code, detail))
}

impl Rows {
    pub(super) fn report_all(
        &mut self,
        node: &NodeId,
        request: &ReportsRequest,
    ) -> Result<Vec<ReportResult>, Refusal> {
        let missing = || Refusal::new(404, "not_found", format!("there is no node {node}"));
        let is_current = self.nodes.get(node).ok_or_else(missing)?.incarnation == request.incarnation;
        let mut results = Vec::with_capacity(request.reports.len());
        for report in &request.reports {
            let outcome = if is_current {
                self.report(node, report)
            } else {
                refused("stale_incarnation", "of an older run")
            };
            let result = ReportResult {
                accepted: outcome.is_ok(),
                code: outcome.err().map(|refusal| refusal.code.to_owned()),
            };
            self.taken.push(Taken {
                node: node.clone(),
                incarnation: request.incarnation,
                report: report.clone(),
                result: result.clone(),
            });
            results.push(result);
        }
        Ok(results)
    }

    fn report(&mut self, node: &NodeId, report: &Report) -> Result<(), Refusal> {
        if report.retired {
            return self.retired(node, report);
        }
        if !report.lost && report.in_sync_set.is_none() && report.migration.is_none() {
            return self.row(report.shard).map(drop);
        }
        let mut row = self.row_at(report.shard, report.epoch)?;
        if report.lost {
            if !Self::holds(&row, node) {
                return refused("conflict", "the node has no copy");
            }
            // While founding, the node makes it anew.
            let is_known = row.lost && row.leads(node);
            if !row.founding && !is_known {
                self.lose(&mut row, node);
            }
        } else if let Some(proposal) = &report.in_sync_set {
            self.in_sync_set(node, &mut row, report, proposal)?;
        } else {
            self.progress(node, &mut row, report)?;
        }
        self.put(report.shard, row);
        Ok(())
    }

    fn retired(&mut self, node: &NodeId, report: &Report) -> Result<(), Refusal> {
        let mut row = self.row(report.shard)?;
        if Self::holds(&row, node) {
            return refused("stale_phase", "the node has a copy that is not retiring");
        }
        if row.retiring.iter().any(|(copy, epoch)| copy == node && report.epoch < *epoch) {
            return refused("stale_epoch", "the copy retires at a later epoch");
        }
        row.retiring.retain(|(copy, _)| copy != node);
        self.put(report.shard, row);
        Ok(())
    }

    /// The migration that the report names, in the phase that it names.
    fn migration_of(&self, row: &ShardRow, report: &Report) -> Result<MigrationRow, Refusal> {
        let named = self.active(row).filter(|migration| report.migration == Some(migration.id));
        match named {
            Some(migration) if migration.epoch != report.epoch => refused("stale_epoch", "of another epoch"),
            Some(migration) if report.phase == Some(migration.phase) => Ok(migration),
            _ => refused("stale_phase", "the migration is in another phase, or ended"),
        }
    }

    fn in_sync_set(
        &mut self,
        node: &NodeId,
        row: &mut ShardRow,
        report: &Report,
        proposal: &InSyncProposal,
    ) -> Result<(), Refusal> {
        if report.migration.is_some() {
            self.migration_of(row, report)?;
        }
        if !row.leads(node) || row.lost {
            return refused("conflict", "the node does not lead the shard");
        }
        if proposal.if_version != row.version {
            return refused("stale_version", "the in-sync set is at another version");
        }
        let migration = self.active(row);
        let admitting = migration.as_ref().filter(|migration| migration.phase == Phase::Admitting);
        let target = admitting.and_then(|migration| migration.to.clone());
        let mut members: Vec<NodeId> = Vec::new();
        for member in &proposal.members {
            let run = self.nodes.get(&member.node).map(|row| row.incarnation);
            if run != Some(member.incarnation) {
                return refused("stale_incarnation", "a member runs as another incarnation");
            }
            let may_enter = row.replicas.contains(&member.node) || target.as_ref() == Some(&member.node);
            let is_new = !row.is_in_sync(&member.node);
            if members.contains(&member.node) || (is_new && (!may_enter || !self.is_alive(&member.node))) {
                return refused("conflict", "who is down, or neither replica nor admitted, can't be in sync");
            }
            members.push(member.node.clone());
        }
        if !members.contains(node) {
            return refused("invalid", "an in-sync set has the primary");
        }
        let version = row.version + 1;
        row.set_in_sync(members);
        (row.version, row.founding) = (version, false);
        let Some(migration) = migration else { return Ok(()) };
        let has_target = migration.to.as_ref().is_some_and(|to| row.is_in_sync(to));
        match migration.phase {
            Phase::Admitting if has_target => self.admitted(row, migration),
            Phase::HandingOver if !has_target => {
                self.take_back(row, migration, "the primary dropped the target")
            }
            _ => {}
        }
        Ok(())
    }

    fn progress(&mut self, node: &NodeId, row: &mut ShardRow, report: &Report) -> Result<(), Refusal> {
        let mut migration = self.migration_of(row, report)?;
        let (leads, takes) = (row.leads(node), migration.to.as_ref() == Some(node));
        if !(leads || takes) {
            return refused("conflict", "the node has no part in the migration");
        }
        match (&report.error, migration.phase) {
            (Some(error), Phase::HandingOver) => self.take_back(row, migration, error),
            (Some(error), _) if error == "gap" || error == "no_answer" => {
                self.put_back(row, migration, error)
            }
            (Some(error), _) => self.abort(row, migration, error),
            (None, _) if !report.done => {
                if let Some(done) = report.bytes_done {
                    migration.bytes = Some((done, report.bytes_total.unwrap_or(done)));
                    self.put_migration(migration);
                }
            }
            (None, Phase::Preparing) => {
                migration.primary_ready |= leads;
                migration.target_ready |= !leads;
                if migration.primary_ready && migration.target_ready {
                    migration.phase = Phase::Copying;
                }
                self.put_migration(migration);
            }
            (None, Phase::Copying) if takes => {
                self.put_migration(MigrationRow { phase: Phase::Admitting, ..migration });
            }
            (None, Phase::HandingOver) if leads => {
                if !migration.to.as_ref().is_some_and(|to| row.is_in_sync(to) && self.is_alive(to)) {
                    return refused("conflict", "the target is not in sync, or not alive");
                }
                self.end_hand_over(row, migration, "the target is not fit");
            }
            (None, _) => return refused("conflict", "that is not this node's to report in this phase"),
        }
        Ok(())
    }
}
