//! What an assignment asks of this node, as a value: two assignments that ask the same are told by comparing these.

use crate::ids::{Epoch, Incarnation, MigrationId, NodeId};
use crate::wire::{Assignment, Phase, Role};

/// Which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Create,
    Found,
    Forward,
    Copy,
    Admit,
    HandOver,
    Delete,
}

impl Kind {
    /// Whether it moves or deletes data, so that the others should not wait for it.
    pub(super) fn is_long(self) -> bool {
        match self {
            Self::Copy | Self::Delete => true,
            Self::Create | Self::Found | Self::Forward | Self::Admit | Self::HandOver => false,
        }
    }
}

/// A node in one of its runs.
type Party = (NodeId, String, Option<Incarnation>);

/// A call with all that makes it another one: whatever else changes in the assignment leaves it as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) kind: Kind,
    /// A new session begins everything anew: what the coordinator knew of this run's parts is gone.
    incarnation: Incarnation,
    pub(super) epoch: Epoch,
    pub(super) migration: Option<(MigrationId, Phase)>,
    /// With whom it is done.
    parties: Vec<Party>,
}

impl Work {
    /// What `assignment` asks of `node` in its run `incarnation`.
    pub(super) fn due(node: &NodeId, incarnation: Incarnation, assignment: &Assignment) -> Option<Self> {
        let leads = assignment.role == Role::Primary;
        let plain =
            |kind| Self { kind, incarnation, epoch: assignment.epoch, migration: None, parties: Vec::new() };
        match assignment.role {
            Role::Retiring => return Some(plain(Kind::Delete)),
            Role::Primary if assignment.founding => {
                let copies = assignment.copies.iter();
                // Who is down is not waited for, so that is news too.
                let up = copies.filter(|copy| !copy.down);
                let party = up.map(|copy| (copy.node.clone(), copy.addr.clone(), Some(copy.incarnation)));
                return Some(Self { parties: party.collect(), ..plain(Kind::Found) });
            }
            Role::Replica if assignment.founding => return Some(plain(Kind::Create)),
            Role::Primary | Role::Replica | Role::Learner => {}
        }
        let migration = assignment.migration.as_ref()?;
        let target = migration.target.as_ref()?;
        let takes = target.node == *node;
        let (kind, with) = match migration.phase {
            Phase::Preparing if takes => (Kind::Create, None),
            Phase::Preparing if leads => (Kind::Forward, Some(target)),
            Phase::Copying if takes => (Kind::Copy, migration.source.as_ref()),
            Phase::Admitting if leads => (Kind::Admit, Some(target)),
            Phase::HandingOver if leads && !takes => (Kind::HandOver, Some(target)),
            Phase::Queued
            | Phase::Preparing
            | Phase::Copying
            | Phase::Admitting
            | Phase::HandingOver
            | Phase::Done
            | Phase::Aborted => return None,
        };
        let run_of =
            |id: &NodeId| assignment.copies.iter().find(|copy| copy.node == *id).map(|copy| copy.incarnation);
        let party = with.map(|at| (at.node.clone(), at.addr.clone(), run_of(&at.node)));
        Some(Self {
            migration: Some((migration.id, migration.phase)),
            parties: party.into_iter().collect(),
            ..plain(kind)
        })
    }
}
