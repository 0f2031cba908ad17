//! Invariants 1 to 8: of one shard, its migration, its left-over copies.

use ruvector_cluster_client::wire::{MigrationKind, Phase};

use super::super::migration::MigrationRow;
use super::super::shard::{RetiringRow, ShardRow};
use super::super::state::Metadata;
use super::Findings;

pub(super) fn check_shard(state: &Metadata, row: &ShardRow, findings: &mut Findings) {
    let id = row.id;
    let copies: Vec<_> = row.copies().collect();
    let distinct = copies.iter().enumerate().all(|(at, copy)| !copies[..at].contains(copy));
    findings.require(distinct, 1, || format!("shard {id} has a node twice: {row:?}"));
    let assigned = row.primary.is_some();
    findings
        .require(assigned == (row.epoch.0 > 0), 1, || format!("shard {id} has no primary at {}", row.epoch));
    findings.require(assigned || copies.is_empty(), 1, || format!("shard {id} has copies, but no primary"));
    let ascending = row.in_sync.windows(2).all(|pair| pair[0] < pair[1]);
    let led = row.primary.as_ref().is_none_or(|primary| row.in_sync.contains(primary));
    let within = row.in_sync.iter().all(|member| copies.contains(&member));
    findings.require(ascending && led && within, 2, || format!("in-sync set of shard {id}: {row:?}"));
    let migration = row.migration.and_then(|id| state.migration(id));
    for learner in row.learners.iter().filter(|learner| row.in_sync.contains(learner)) {
        let moves = migration.is_some_and(|m| {
            m.kind == MigrationKind::Move && m.phase == Phase::HandingOver && m.to.as_ref() == Some(learner)
        });
        findings.require(moves, 3, || format!("learner copy {learner} of shard {id} is in sync"));
    }
    let idle = row.migration.is_none();
    findings.require(!row.founding || (idle && !row.lost), 4, || format!("founding shard {id}: {row:?}"));
    let alone = row.in_sync.len() == 1 && idle;
    findings.require(!row.lost || alone, 4, || format!("lost shard {id}: {row:?}"));
    let named = migration.is_none_or(|m| !m.phase.is_ended() && m.shard == id && m.epoch == row.epoch);
    let known = row.migration.is_none() || migration.is_some();
    findings.require(named && known, 5, || format!("shard {id} and its migration: {row:?} {migration:?}"));
    for node in copies {
        findings.require(state.node(node).is_some(), 7, || format!("shard {id} names {node}, unknown"));
    }
}

pub(super) fn check_migration(state: &Metadata, row: &MigrationRow, findings: &mut Findings) {
    let id = row.id;
    for node in row.from.iter().chain(&row.to) {
        findings.require(state.node(node).is_some(), 7, || format!("migration {id} names {node}, unknown"));
    }
    let Some(shard) = state.shard(row.shard) else {
        return findings.require(false, 5, || format!("migration {id} of a shard that is none"));
    };
    let linked = shard.migration == Some(id) && shard.epoch == row.epoch;
    findings.require(linked, 5, || format!("migration {id} and its shard: {row:?} {shard:?}"));
    let gives = row.from.as_ref().is_none_or(|from| shard.role_of(from).is_some());
    let shape = match row.kind {
        MigrationKind::Move | MigrationKind::Promote => row.from.is_some() && row.to.is_some(),
        MigrationKind::Add => row.from.is_none() && row.to.is_some(),
        MigrationKind::Remove => row.from.is_some() && row.to.is_none(),
    };
    let copied = matches!(row.kind, MigrationKind::Move | MigrationKind::Add);
    let is_learner = row.to.as_ref().is_some_and(|to| shard.learners.contains(to));
    let part = match row.phase {
        Phase::Queued => true,
        Phase::Preparing => copied && is_learner && !(row.primary_ready && row.target_ready),
        Phase::Copying | Phase::Admitting => copied && is_learner && row.primary_ready && row.target_ready,
        Phase::HandingOver => {
            let fit = row.to.as_ref().is_some_and(|to| shard.in_sync.contains(to) && state.is_alive(to));
            fit && shard.primary == row.from && row.taken_revision.is_some()
        }
        Phase::Done | Phase::Aborted => false,
    };
    findings.require(gives && shape && part, 6, || format!("{row:?} of {shard:?}"));
}

pub(super) fn check_retiring(state: &Metadata, row: &RetiringRow, findings: &mut Findings) {
    let (id, node) = (row.shard, &row.node);
    findings
        .require(state.node(node).is_some(), 7, || format!("a left-over of shard {id} on {node}, unknown"));
    let shard = state.shard(id);
    let fits = shard.is_some_and(|shard| shard.role_of(node).is_none() && row.epoch <= shard.epoch);
    findings.require(fits, 8, || format!("{row:?} of {shard:?}"));
}
