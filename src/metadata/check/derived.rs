//! Invariants 9 and 10: indexes say what the rows say, and everything is bounded.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::{NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::{Role, ShardCounts};

use super::super::apply::{KEPT_ENDED, KEPT_REQUESTS};
use super::super::state::{Metadata, counts_of};
use super::Findings;

pub(super) fn check_derived(state: &Metadata, findings: &mut Findings) {
    check_counts(state, findings);
    check_holdings(state, findings);
    let active = state.migrations().filter(|row| !row.phase.is_ended());
    let same = active.map(|row| row.id).eq(state.active.iter().map(|(id, ())| *id));
    findings.require(same, 9, || "the index of active migrations".to_owned());
    let mut ended: Vec<_> = state.migrations().filter(|row| row.phase.is_ended()).collect();
    ended.sort_by_key(|row| (row.revision, row.id));
    let same = ended.iter().map(|row| (row.revision, row.id)).eq(state.ended.iter().map(|(key, ())| *key));
    findings.require(same, 9, || "the index of ended migrations".to_owned());
    let keyed = state.remembered.iter().all(|(index, row)| state.keys.get(&row.key) == Some(index));
    let same = keyed && state.keys.len() == state.remembered.len();
    findings.require(same, 9, || "the index of Idempotency-Keys".to_owned());
    check_bounds(state, findings);
}

fn check_counts(state: &Metadata, findings: &mut Findings) {
    let mut counts = ShardCounts { total: state.num_shards().into(), ..ShardCounts::default() };
    for (id, entry) in state.shards.iter() {
        let status = state.shard_status(&entry.row);
        findings.require(status == entry.status, 9, || format!("status {:?} of shard {id}", entry.status));
        *counts_of(&mut counts, status) += 1;
    }
    findings.require(counts == state.counts, 9, || format!("counts {:?}, not {counts:?}", state.counts));
}

fn check_holdings(state: &Metadata, findings: &mut Findings) {
    let mut held: BTreeMap<(NodeId, ShardId), Role> = BTreeMap::new();
    for row in state.shards() {
        for node in row.copies() {
            held.extend(row.role_of(node).map(|role| ((node.clone(), row.id), role)));
        }
    }
    held.extend(state.retiring().map(|row| ((row.node.clone(), row.shard), Role::Retiring)));
    let mut indexed: BTreeMap<(NodeId, ShardId), Role> = BTreeMap::new();
    for (node, holdings) in state.holdings.iter() {
        findings.require(state.node(node).is_some(), 9, || format!("holdings of {node}, unknown"));
        let of_role = |wanted: fn(Option<Role>) -> bool| {
            holdings.held.iter().filter(|(_, held)| wanted(held.role)).count() as u64
        };
        let primaries = of_role(|role| role == Some(Role::Primary));
        let copies = of_role(|role| role.is_some_and(|role| role != Role::Retiring));
        let gone = of_role(|role| role.is_none());
        let tallied = (holdings.primaries, holdings.copies, holdings.gone) == (primaries, copies, gone);
        findings.require(tallied, 9, || format!("tallies of {node}"));
        let mut changed: Vec<_> = holdings.held.iter().map(|(shard, held)| (held.changed, *shard)).collect();
        changed.sort_unstable();
        let same = changed.into_iter().eq(holdings.changed.iter().map(|(key, ())| *key));
        findings.require(same, 9, || format!("changes of {node}"));
        let roles = holdings.held.iter().filter_map(|(shard, held)| held.role.map(|role| (*shard, role)));
        indexed.extend(roles.map(|(shard, role)| ((node.clone(), shard), role)));
    }
    findings.require(held == indexed, 9, || "the index of holdings".to_owned());
}

fn check_bounds(state: &Metadata, findings: &mut Findings) {
    let nodes = state.nodes().flat_map(|row| [row.revision, row.assigned_revision, row.assignments_revision]);
    let shards = state.shards().map(|row| row.revision);
    let migrations = state.migrations().map(|row| row.revision);
    let rows = nodes.chain(shards).chain(migrations).chain(state.retiring().map(|row| row.revision));
    let newest = rows.chain([state.policy_revision()]).max().unwrap_or(Revision(0));
    findings.require(newest <= state.revision(), 10, || format!("a row is at revision {newest}"));
    let times = state.migrations().map(|row| row.updated_ms).max();
    findings.require(times <= Some(state.log_time_ms()), 10, || "a migration is of the future".to_owned());
    let kept = state.ended.len() <= KEPT_ENDED && state.events.len() <= KEPT_ENDED;
    findings.require(kept && state.remembered.len() <= KEPT_REQUESTS, 10, || "too much is kept".to_owned());
}
