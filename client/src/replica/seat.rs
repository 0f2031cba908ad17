//! The assignment as the replica uses it.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Epoch, Incarnation, NodeId};
use crate::wire::{AssignedMigration, Assignment, NodeAddr, Phase, Role};

/// A copy's node, as assigned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    pub(super) at: NodeAddr,
    pub(super) incarnation: Incarnation,
    pub(super) role: Role,
    pub(super) down: bool,
}

/// What the coordinator last said of the shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Seat {
    pub(super) role: Role,
    pub(super) epoch: Epoch,
    pub(super) founding: bool,
    pub(super) version: u64,
    pub(super) in_sync: BTreeSet<NodeId>,
    pub(super) copies: BTreeMap<NodeId, Member>,
    pub(super) migration: Option<AssignedMigration>,
}

impl Seat {
    pub(super) fn new(assignment: Assignment) -> Self {
        let copies = assignment.copies.into_iter().map(|copy| {
            let at = NodeAddr { node: copy.node.clone(), addr: copy.addr };
            let member = Member { at, incarnation: copy.incarnation, role: copy.role, down: copy.down };
            (copy.node, member)
        });
        Self {
            role: assignment.role,
            epoch: assignment.epoch,
            founding: assignment.founding,
            version: assignment.in_sync_version,
            in_sync: assignment.in_sync.into_iter().collect(),
            copies: copies.collect(),
            migration: assignment.migration,
        }
    }

    pub(super) fn primary(&self) -> Option<&NodeAddr> {
        self.copies.values().find(|member| member.role == Role::Primary).map(|member| &member.at)
    }

    /// The migration, if it fills or promotes `node` and is in one of these phases.
    pub(super) fn migration_to(&self, node: &NodeId, phases: &[Phase]) -> Option<&AssignedMigration> {
        let to_node = |m: &&AssignedMigration| m.target.as_ref().is_some_and(|target| target.node == *node);
        self.migration.as_ref().filter(to_node).filter(|m| phases.contains(&m.phase))
    }

    /// The migration that takes the primaryship from `node`, which has it.
    pub(super) fn hand_over_from(&self, node: &NodeId) -> Option<&AssignedMigration> {
        let away = |m: &&AssignedMigration| m.target.as_ref().is_some_and(|target| target.node != *node);
        let handing = self.migration.as_ref().filter(|m| m.phase == Phase::HandingOver);
        handing.filter(away).filter(|_| self.role == Role::Primary)
    }
}
