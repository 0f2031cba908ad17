//! Invariants 11 to 15: of what one command may change.

use super::super::command::Command;
use super::super::node::NodeRow;
use super::super::shard::ShardRow;
use super::super::state::Metadata;
use super::{Findings, Violation};

/// All that does not hold between the states before and after one command. Walks all shards and nodes.
pub fn check_step(before: &Metadata, after: &Metadata, command: &Command) -> Vec<Violation> {
    let mut findings = Findings::default();
    check_heads(before, after, false, &mut findings);
    for was in before.shards() {
        if let Some(now) = after.shard(was.id) {
            check_shard_step((before, was), (after, now), command, &mut findings);
        }
    }
    for was in before.nodes() {
        if let Some(now) = after.node(&was.id) {
            check_node_step(was, now, &mut findings);
        }
    }
    findings.0
}

pub(super) fn check_heads(before: &Metadata, after: &Metadata, unchanged: bool, findings: &mut Findings) {
    let (was, now) = (before.head, after.head);
    let rises = now.revision >= was.revision
        && now.log_time_ms >= was.log_time_ms
        && now.last_migration >= was.last_migration
        && now.incarnation_floor >= was.incarnation_floor;
    findings.require(rises, 15, || format!("{was:?} became {now:?}"));
    let stays = !unchanged || was.revision == now.revision;
    findings.require(stays, 15, || format!("nothing changed at revision {}", now.revision));
}

pub(super) fn check_node_step(was: &NodeRow, now: &NodeRow, findings: &mut Findings) {
    let rises = now.incarnation >= was.incarnation
        && now.revision >= was.revision
        && now.assigned_revision >= was.assigned_revision
        && now.assignments_revision >= was.assignments_revision;
    findings.require(rises, 15, || format!("{was:?} became {now:?}"));
}

pub(super) fn check_shard_step(
    (before, was): (&Metadata, &ShardRow),
    (after, now): (&Metadata, &ShardRow),
    command: &Command,
    findings: &mut Findings,
) {
    let id = now.id;
    let other_primary = was.primary != now.primary;
    let taken = was.primary.as_ref().is_none_or(|old| match (before.node(old), after.node(old)) {
        (Some(was), Some(now)) => now.assigned_revision > was.assigned_revision,
        _ => true,
    });
    let rises = now.epoch >= was.epoch && (!other_primary || (now.epoch > was.epoch && taken));
    findings.require(rises, 11, || format!("shard {id}: {was:?} became {now:?}"));
    let versioned = now.in_sync_version >= was.in_sync_version
        && (now.in_sync == was.in_sync || now.in_sync_version > was.in_sync_version);
    findings.require(versioned, 12, || format!("shard {id}: {was:?} became {now:?}"));
    let forced = now.founding || matches!(command, Command::ForcePrimary { .. } | Command::Resume(_));
    let unchecked = mutants::is_on(mutants::Mutant::PromoteUnchecked);
    let was_in_sync = now.primary.as_ref().is_none_or(|primary| was.in_sync.contains(primary));
    let kept = !other_primary || forced || was_in_sync || unchecked;
    findings.require(kept, 13, || format!("shard {id}: {was:?} became {now:?}"));
    let stays = forced || was.in_sync.is_empty() || now.in_sync.iter().any(|m| was.in_sync.contains(m));
    findings.require(stays, 14, || format!("shard {id}: {was:?} became {now:?}"));
}
