//! What one node is to do, as it reads it: all of it, or what changed after a revision.

use ruvector_cluster_client::ids::{NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::{
    AssignedMigration, Assignment, AssignmentsResponse, CopyInfo, MigrationKind, NodeAddr, Role,
};

use super::super::{Metadata, MigrationRow, ShardRow};

/// A delta from that revision can't be told any more: the whole must be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("changes before revision {known_since} are no longer known: read the whole")]
pub struct Compacted {
    /// Deltas from here on are known.
    pub known_since: Revision,
}

/// All that the node is assigned, nothing while the cluster is suspended; none when it is not registered.
pub fn assignments(state: &Metadata, node: &NodeId) -> Option<AssignmentsResponse> {
    // Whoever was assigned something would act on it, and make others equal to what may be the older copy.
    let all = state.roles_of(node).filter(|_| !state.is_suspended()).map(|(shard, _)| shard);
    let assignments = all.filter_map(|shard| assignment(state, shard, node)).collect();
    Some(AssignmentsResponse { full: true, assignments, ..nothing(state, node)? })
}

/// What changed in the node's assignments after `since`; none when it is not registered.
///
/// # Errors
/// [`Compacted`] when that is no longer known.
pub fn assignments_since(
    state: &Metadata,
    node: &NodeId,
    since: Revision,
) -> Result<Option<AssignmentsResponse>, Compacted> {
    if state.is_suspended() {
        return Ok(assignments(state, node));
    }
    let Some(mut answer) = nothing(state, node) else { return Ok(None) };
    let Some(holdings) = state.holdings.get(node) else { return Ok(Some(answer)) };
    if since < holdings.known_since {
        return Err(Compacted { known_since: holdings.known_since });
    }
    let after = (Revision(since.0.saturating_add(1)), ShardId(0));
    let mut changed: Vec<ShardId> = holdings.changed.from(&after).map(|((_, shard), ())| *shard).collect();
    changed.sort_unstable();
    for shard in changed {
        match assignment(state, shard, node) {
            Some(assignment) => answer.assignments.push(assignment),
            None => answer.removed.push(shard),
        }
    }
    Ok(Some(answer))
}

/// A delta in which nothing changed.
fn nothing(state: &Metadata, node: &NodeId) -> Option<AssignmentsResponse> {
    Some(AssignmentsResponse {
        generation: state.founded()?.generation,
        revision: state.revision(),
        node: node.clone(),
        incarnation: state.node(node)?.incarnation,
        full: false,
        assignments: Vec::new(),
        removed: Vec::new(),
    })
}

/// What the node is to do for the shard; none when it is assigned nothing of it.
pub fn assignment(state: &Metadata, shard: ShardId, node: &NodeId) -> Option<Assignment> {
    let row = state.shard(shard)?;
    let role = state.role_of(shard, node)?;
    let retiring = (role == Role::Retiring).then_some(node);
    let copies = row.copies().chain(retiring);
    let migration = row.migration.and_then(|id| state.migration(id)).filter(|m| m.is_shown());
    Some(Assignment {
        shard,
        epoch: row.epoch,
        founding: row.founding && role != Role::Retiring,
        role,
        in_sync_version: row.in_sync_version,
        in_sync: row.in_sync.clone(),
        copies: copies.filter_map(|copy| copy_info(state, row, copy)).collect(),
        migration: migration.map(|migration| assigned(state, row, migration)),
    })
}

fn copy_info(state: &Metadata, row: &ShardRow, node: &NodeId) -> Option<CopyInfo> {
    let known = state.node(node)?;
    Some(CopyInfo {
        node: node.clone(),
        addr: known.addr.clone(),
        incarnation: known.incarnation,
        role: row.role_of(node).unwrap_or(Role::Retiring),
        down: known.is_down(),
    })
}

fn assigned(state: &Metadata, row: &ShardRow, migration: &MigrationRow) -> AssignedMigration {
    let at = |id: &NodeId| state.node(id).map(|node| NodeAddr { node: id.clone(), addr: node.addr.clone() });
    // The primary is past any position that it names itself, so that chunks are pulled from it.
    let source = match migration.kind {
        MigrationKind::Move | MigrationKind::Add => row.primary.as_ref().and_then(at),
        MigrationKind::Promote | MigrationKind::Remove => None,
    };
    AssignedMigration {
        id: migration.id,
        phase: migration.phase,
        kind: migration.kind,
        source,
        target: migration.to.as_ref().and_then(at),
    }
}
