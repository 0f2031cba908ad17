//! What a shard's node has to report: recomputed from what holds at each look, and repeated while it does.

use std::collections::BTreeMap;

use tokio::time::{Duration, Instant};

use super::shard::Ended;
use super::work::{Kind, Work};
use super::{DutyError, HandlerOptions, Progress, Standing};
use crate::ids::{NodeId, ShardId};
use crate::wire::{Assignment, InSyncMember, InSyncProposal, Phase, Report, Role};

/// An answer that is missing for so long does not come: its batch was refused as a whole.
const UNANSWERED_MS: u64 = 30_000;

/// What a report is about; one of each is under way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    Lost,
    Retired,
    Phase,
    Progress,
    InSync,
}

/// Something to say.
pub(super) type Said = (Topic, Report);

struct Sent {
    tag: u64,
    report: Report,
    at: Instant,
    answered: bool,
}

/// What was reported of one shard in this session.
#[derive(Default)]
pub(super) struct Reports {
    sent: BTreeMap<Topic, Sent>,
    /// The last set that was proposed, as the names of its members, and the version that it was to replace.
    proposed: Option<(u64, Vec<NodeId>)>,
}

impl Reports {
    /// Whether `report` is to be sent now.
    pub(super) fn is_due(
        &self,
        topic: Topic,
        report: &Report,
        now: Instant,
        options: &HandlerOptions,
    ) -> bool {
        let Some(sent) = self.sent.get(&topic) else { return true };
        let passed = |wait_ms| now >= sent.at + Duration::from_millis(wait_ms);
        let is_new = sent.report != *report;
        match (topic, sent.answered) {
            // Of an outcome that is not known, nothing else is proposed.
            (Topic::InSync | Topic::Progress, false) => passed(UNANSWERED_MS),
            (Topic::Progress, true) => is_new && passed(options.progress_ms),
            (Topic::Lost | Topic::Retired | Topic::Phase, false) => is_new || passed(UNANSWERED_MS),
            (Topic::Lost | Topic::Retired | Topic::Phase | Topic::InSync, true) => {
                is_new || passed(options.repeat_ms)
            }
        }
    }

    /// `report` is on its way.
    pub(super) fn sent(&mut self, topic: Topic, tag: u64, report: Report, now: Instant) {
        if let Some(proposal) = &report.in_sync_set {
            let members = proposal.members.iter().map(|member| member.node.clone()).collect();
            self.proposed = Some((proposal.if_version, members));
        }
        self.sent.insert(topic, Sent { tag, report, at: now, answered: false });
    }

    /// The report of that tag was answered.
    pub(super) fn answered(&mut self, tag: u64) {
        if let Some(sent) = self.sent.values_mut().find(|sent| sent.tag == tag) {
            sent.answered = true;
        }
    }

    /// All that holds and has a place in the protocol.
    pub(super) fn wanted(
        &self,
        node: &NodeId,
        assignment: &Assignment,
        ended: Option<&Ended>,
        running: Option<(&Work, &Progress)>,
        standing: &Standing,
    ) -> Vec<Said> {
        let mut wanted = Vec::new();
        let report = || Report::new(assignment.shard, assignment.epoch);
        let seated =
            matches!(assignment.role, Role::Primary | Role::Replica) || assignment.in_sync.contains(node);
        if standing.lost && seated && assignment.role != Role::Retiring {
            wanted.push((Topic::Lost, Report { lost: true, ..report() }));
        }
        if ended.is_some_and(|ended| ended.work.kind == Kind::Delete && ended.result.is_ok()) {
            wanted.push((Topic::Retired, Report { retired: true, ..report() }));
        }
        let broken = broken(node, assignment, standing);
        match (&broken, ended) {
            (Some(error), _) => {
                if let Some(migration) = &assignment.migration {
                    let of = (migration.id, migration.phase);
                    wanted.push((Topic::Phase, Report { error: Some(error.clone()), ..about(report(), of) }));
                }
            }
            (None, Some(ended)) => {
                wanted.extend(of_phase(report(), ended).map(|report| (Topic::Phase, report)))
            }
            (None, None) => {}
        }
        if let Some((Work { kind: Kind::Copy, migration: Some(of), .. }, progress)) = running {
            let (bytes_done, bytes_total) = progress.get();
            if bytes_done > 0 || bytes_total > 0 {
                let (bytes_done, bytes_total) = (Some(bytes_done), Some(bytes_total));
                wanted.push((Topic::Progress, Report { bytes_done, bytes_total, ..about(report(), *of) }));
            }
        }
        let admits = ended.filter(|_| broken.is_none());
        wanted.extend(self.in_sync(assignment, admits, standing).map(|report| (Topic::InSync, report)));
        wanted
    }

    /// The in-sync set to propose.
    fn in_sync(&self, assignment: &Assignment, ended: Option<&Ended>, standing: &Standing) -> Option<Report> {
        if assignment.role != Role::Primary {
            return None;
        }
        let done = ended
            .and_then(|ended| Some((ended.work.kind, ended.work.migration, ended.result.as_ref().ok()?)));
        let mut report = Report::new(assignment.shard, assignment.epoch);
        let standing_set = sorted(&assignment.in_sync);
        let wished = standing.in_sync.as_deref().map_or_else(|| standing_set.clone(), sorted);
        let members = match done {
            Some((Kind::Found, _, members)) => sorted(members),
            // It answers nothing any more, so it has no say either.
            Some((Kind::HandOver, ..)) => return None,
            Some((Kind::Admit, Some(of), _)) => {
                report = about(report, of);
                let target = assignment.migration.as_ref()?.target.as_ref()?.node.clone();
                sorted(&[wished, vec![target]].concat())
            }
            _ if assignment.founding => return None,
            _ if wished == standing_set && !self.is_undecided(assignment, &standing_set) => return None,
            _ => wished,
        };
        let run_of = |node: &NodeId| assignment.copies.iter().find(|copy| copy.node == *node);
        let member = |node: &NodeId| {
            let incarnation = run_of(node)?.incarnation;
            Some(InSyncMember { node: node.clone(), incarnation })
        };
        // Of somebody who has no copy no run is known; a newer assignment tells.
        let members: Vec<InSyncMember> = members.iter().map(member).collect::<Option<_>>()?;
        report.in_sync_set = Some(InSyncProposal { if_version: assignment.in_sync_version, members });
        Some(report)
    }

    /// Whether another set than the one that stands was proposed, and may still be accepted.
    fn is_undecided(&self, assignment: &Assignment, standing: &[NodeId]) -> bool {
        let proposed = self.proposed.as_ref();
        proposed
            .is_some_and(|(version, members)| *version == assignment.in_sync_version && members != standing)
    }
}

fn sorted(nodes: &[NodeId]) -> Vec<NodeId> {
    let mut nodes = nodes.to_vec();
    nodes.sort();
    nodes.dedup();
    nodes
}

fn about(report: Report, (migration, phase): (crate::ids::MigrationId, Phase)) -> Report {
    Report { migration: Some(migration), phase: Some(phase), ..report }
}

/// What came of a phase's duty.
fn of_phase(report: Report, ended: &Ended) -> Option<Report> {
    let report = about(report, ended.work.migration?);
    match &ended.result {
        // The in-sync set says that.
        Ok(_) if ended.work.kind == Kind::Admit => None,
        Ok(_) => Some(Report { done: true, ..report }),
        Err(error) => Some(Report { error: Some(told(error)?), ..report }),
    }
}

/// An error in the coordinator's words.
fn told(error: &DutyError) -> Option<String> {
    match error {
        DutyError::Gap | DutyError::NoAnswer | DutyError::Failed(_) => Some(error.to_string()),
        DutyError::Later(_) => None,
    }
}

/// What the handler says is in the way of a migration that has begun to copy.
fn broken(node: &NodeId, assignment: &Assignment, standing: &Standing) -> Option<String> {
    let migration = assignment.migration.as_ref()?;
    let takes = migration.target.as_ref().is_some_and(|target| target.node == *node);
    let has_part = takes || assignment.role == Role::Primary;
    let copies = matches!(migration.phase, Phase::Copying | Phase::Admitting);
    standing.broken.as_ref().filter(|_| has_part && copies).and_then(told)
}

/// For the log.
pub(super) fn described(shard: ShardId, report: &Report) -> String {
    let what = match report {
        Report { lost: true, .. } => "its copy is lost",
        Report { retired: true, .. } => "its copy is deleted",
        Report { in_sync_set: Some(_), .. } => "an in-sync set",
        Report { error: Some(error), .. } => error,
        Report { done: true, .. } => "its part of a phase is done",
        _ => "bytes copied",
    };
    format!("shard {shard}: {what}")
}
