//! Who holds what: roles, assignments and their history.

use std::collections::BTreeMap;

use super::rows::{Rows, ShardRow};
use crate::ids::{NodeId, Revision, ShardId};
use crate::wire::{
    AssignedMigration, Assignment, AssignmentsResponse, CopyInfo, NodeAddr, Phase, Problem, Role,
};

/// Why something is not done; nothing has changed then.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl Refusal {
    pub(super) fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    pub(super) fn problem(&self) -> Problem {
        Problem {
            r#type: format!("urn:ruvector-cluster:problem:{}", self.code),
            title: self.code.replace('_', " "),
            status: self.status,
            detail: self.detail.clone(),
            code: self.code.to_owned(),
            retryable: self.status >= 500,
            leader_url: None,
            request_id: "test".to_owned(),
        }
    }
}

/// What was assigned to a node, by shard, and since when; `None`: no longer.
#[derive(Debug, Default)]
pub(super) struct NodeHistory(BTreeMap<ShardId, (Option<Assignment>, Revision)>);

impl Rows {
    fn role(row: &ShardRow, node: &NodeId) -> Option<Role> {
        if row.leads(node) {
            Some(Role::Primary)
        } else if row.replicas.contains(node) {
            Some(Role::Replica)
        } else if row.learners.contains(node) {
            Some(Role::Learner)
        } else {
            row.retiring.iter().any(|(copy, _)| copy == node).then_some(Role::Retiring)
        }
    }

    pub(super) fn holds(row: &ShardRow, node: &NodeId) -> bool {
        matches!(Self::role(row, node), Some(Role::Primary | Role::Replica | Role::Learner))
    }

    fn place(&self, node: &NodeId) -> Option<NodeAddr> {
        Some(NodeAddr { node: node.clone(), addr: self.nodes.get(node)?.said.addr.clone() })
    }

    fn assignment(&self, shard: ShardId, row: &ShardRow, node: &NodeId) -> Option<Assignment> {
        let role = Self::role(row, node)?;
        let retiring = row.retiring.iter().find(|(copy, _)| copy == node).filter(|_| role == Role::Retiring);
        let copies = row.primary.iter().chain(&row.replicas).chain(&row.learners);
        let copy = |id: &NodeId| {
            let at = self.nodes.get(id)?;
            let (addr, incarnation) = (at.said.addr.clone(), at.incarnation);
            Some(CopyInfo { node: id.clone(), addr, incarnation, role: Self::role(row, id)?, down: at.down })
        };
        // In sync, alive, and rather not the primary, which has enough to do.
        let able = row.in_sync.iter().filter(|id| self.is_alive(id));
        let source = able.clone().find(|id| !row.leads(id)).or_else(|| able.clone().next());
        let migration = self.active(row).filter(|migration| migration.phase != Phase::Queued);
        Some(Assignment {
            shard,
            epoch: retiring.map_or(row.epoch, |(_, epoch)| *epoch),
            founding: row.founding,
            role,
            in_sync_version: row.version,
            in_sync: row.in_sync.clone(),
            copies: copies.chain(retiring.map(|(id, _)| id)).filter_map(copy).collect(),
            migration: migration.filter(|_| retiring.is_none()).map(|migration| AssignedMigration {
                id: migration.id,
                phase: migration.phase,
                kind: migration.kind,
                source: source.and_then(|id| self.place(id)),
                target: migration.to.as_ref().and_then(|id| self.place(id)),
            }),
        })
    }

    pub(super) fn assignments_of(&self, node: &NodeId) -> Vec<Assignment> {
        let rows = self.shards.iter().zip(0..);
        rows.filter_map(|(row, shard)| self.assignment(ShardId(shard), row, node)).collect()
    }

    /// Notes what is assigned otherwise than before; says whether anything is.
    pub(super) fn note_assignments(&mut self) -> bool {
        let mut moved = false;
        let nodes: Vec<NodeId> = self.nodes.keys().cloned().collect();
        for node in nodes {
            let mut now: BTreeMap<ShardId, Assignment> = self
                .assignments_of(&node)
                .into_iter()
                .map(|assignment| (assignment.shard, assignment))
                .collect();
            let revision = self.revision;
            let history = &mut self.histories.entry(node).or_default().0;
            for (shard, (held, since)) in history.iter_mut() {
                let new = now.remove(shard);
                if *held != new {
                    (*held, *since, moved) = (new, revision, true);
                }
            }
            moved |= !now.is_empty();
            history.extend(now.into_iter().map(|(shard, new)| (shard, (Some(new), revision))));
        }
        moved
    }

    /// Whether the answer to who has `since` would be news.
    pub(super) fn has_news(&self, node: &NodeId, since: Revision) -> bool {
        let history = self.histories.get(node);
        history.is_some_and(|history| history.0.values().any(|(_, at)| *at > since))
    }

    /// `since` given: only what changed after it.
    pub(super) fn assignments_answer(
        &self,
        node: &NodeId,
        since: Option<Revision>,
    ) -> Result<AssignmentsResponse, Refusal> {
        let missing = || Refusal::new(404, "not_found", format!("there is no node {node}"));
        let incarnation = self.nodes.get(node).ok_or_else(missing)?.incarnation;
        if since.is_some_and(|since| since < self.compacted) {
            return Err(Refusal::new(410, "compacted", "that is too long ago"));
        }
        let (mut assignments, mut removed) = (Vec::new(), Vec::new());
        for (shard, (held, at)) in self.histories.get(node).iter().flat_map(|history| &history.0) {
            if since.is_some_and(|since| *at <= since) {
                continue;
            }
            match held {
                Some(assignment) => assignments.push(assignment.clone()),
                None if since.is_some() => removed.push(*shard),
                None => {}
            }
        }
        Ok(AssignmentsResponse {
            generation: super::views::GENERATION,
            revision: self.revision,
            node: node.clone(),
            incarnation,
            full: since.is_none(),
            assignments,
            removed,
        })
    }
}
