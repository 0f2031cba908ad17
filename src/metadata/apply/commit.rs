//! The end of a command: stamps what it changed, brings the derived indexes up to date, and says what is new.
//!
//! A node's assignments count as changed when something that they show differs: the shard's row, its migration, or a copy's
//! address, run or verdict. Costs what changed (of a node's verdict or run: its copies), never what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ruvector_cluster_client::ids::{Epoch, MigrationId, NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::{MigrationKind, Phase, Role};

use super::tx::Tx;
use super::{Changed, RowChange};
use crate::metadata::migration::MigrationRow;
use crate::metadata::node::NodeRow;
use crate::metadata::rows;
use crate::metadata::shard::ShardRow;
use crate::metadata::state::{Held, Holdings, Metadata, counts_of};

/// Ended migrations and events that are kept (API.md, "Migrations").
pub(in crate::metadata) const KEPT: usize = 10_000;

/// Deltas remember so many shards that went from a node, at least.
const MIN_GONE: u64 = 1_000;

/// Nodes, and the shards whose assignments differ for them.
type Touched = BTreeMap<NodeId, BTreeSet<ShardId>>;

/// What every holder of a shard is shown of it.
#[derive(PartialEq)]
struct Shown<'a> {
    epoch: Epoch,
    founding: bool,
    copies: (Option<&'a NodeId>, &'a [NodeId], &'a [NodeId]),
    in_sync: (u64, &'a [NodeId]),
    migration: Option<(MigrationId, Phase, MigrationKind, Option<&'a NodeId>)>,
}

impl<'a> Shown<'a> {
    fn of(row: &'a ShardRow, migration: Option<&'a MigrationRow>) -> Self {
        let migration = migration.filter(|m| m.is_shown());
        Self {
            epoch: row.epoch,
            founding: row.founding,
            copies: (row.primary.as_ref(), &row.replicas, &row.learners),
            in_sync: (row.in_sync_version, &row.in_sync),
            migration: migration.map(|m| (m.id, m.phase, m.kind, m.to.as_ref())),
        }
    }
}

/// What a node's row shows in others' assignments.
fn shown_of_node(row: &NodeRow) -> (&str, u64, bool) {
    (&row.addr, row.incarnation.0, row.is_down())
}

/// The node's row without what counts as no change of it.
fn masked(row: &NodeRow) -> NodeRow {
    NodeRow {
        assigned_revision: Revision(0),
        assignments_revision: Revision(0),
        revision: Revision(0),
        ..row.clone()
    }
}

impl Tx<'_> {
    /// Ends the command: rows to store and what changed, both empty when nothing did.
    pub(super) fn commit(mut self) -> (Vec<RowChange>, Vec<Changed>) {
        self.drop_unchanged();
        let touched = self.touched();
        let changed = self.founded
            || self.policy_changed
            || self.resumed
            || !(self.before.nodes.is_empty() && self.before.shards.is_empty())
            || !(self.before.retiring.is_empty() && self.before.migrations.is_empty());
        if !changed {
            return (Vec::new(), Vec::new());
        }
        self.state.head.revision = self.revision;
        let mut changes = Vec::new();
        if self.founded {
            changes.push(Changed::Founded);
        }
        self.stamp(&mut changes);
        self.count_statuses();
        for (node, shards) in touched {
            self.reindex(&node, &shards);
            if self.state.node(&node).is_some() {
                changes.push(Changed::Assignments(node));
            }
        }
        if self.resumed {
            self.forget_deltas();
        }
        if self.founded || self.policy_changed {
            Arc::make_mut(&mut self.state.policy).revision = self.revision;
            changes.push(Changed::Policy);
        }
        let mut stored = self.stored_rows();
        self.keep_events(&mut stored, &mut changes);
        self.forget_ended(&mut stored);
        (stored, changes)
    }

    /// Rows written as they were did not change.
    fn drop_unchanged(&mut self) {
        let state = &*self.state;
        self.before.shards.retain(|id, before| state.shards.get(id).is_some_and(|now| now.row != *before));
        self.before.nodes.retain(|id, before| state.nodes.get(id) != before.as_ref());
        self.before.retiring.retain(|key, before| {
            let (now, before) = (state.retiring.get(key), before.as_ref());
            now.map(|row| row.epoch) != before.map(|row| row.epoch)
        });
        self.before.migrations.retain(|id, before| state.migrations.get(id) != before.as_ref());
    }

    /// The nodes whose assignments differ, with the shards in question.
    fn touched(&self) -> Touched {
        let mut touched = Touched::new();
        let moved = self.before.migrations.keys().filter_map(|id| self.state.migration(*id).map(|m| m.shard));
        let shards: BTreeSet<ShardId> = self.before.shards.keys().copied().chain(moved).collect();
        for id in shards {
            let Some(now) = self.state.shard(id) else { continue };
            let before = self.before.shards.get(&id).map_or(now, |row| row);
            if Shown::of(before, self.migration_before(before)) != Shown::of(now, self.migration_now(now)) {
                before.copies().chain(now.copies()).for_each(|node| touch(&mut touched, node, id));
                retiring_holders(self.state, id).for_each(|node| touch(&mut touched, node, id));
            }
        }
        for (shard, node) in self.before.retiring.keys() {
            touch(&mut touched, node, *shard);
        }
        for (node, before) in &self.before.nodes {
            let now = self.state.node(node);
            if now.map(|row| row.incarnation) != before.as_ref().map(|row| row.incarnation) {
                // The answer names the node's own run.
                touched.entry(node.clone()).or_default();
            }
            if now.map(shown_of_node) == before.as_deref().map(shown_of_node) {
                continue;
            }
            for (shard, role) in self.state.roles_of(node) {
                touch(&mut touched, node, shard);
                if role == Role::Retiring {
                    continue;
                }
                let row = self.state.shard(shard);
                let holders = row.into_iter().flat_map(ShardRow::copies);
                let holders = holders.chain(retiring_holders(self.state, shard));
                holders.for_each(|holder| touch(&mut touched, holder, shard));
            }
        }
        if self.resumed {
            let all = self.state.nodes().map(|row| row.id.clone());
            all.for_each(|node| _ = touched.entry(node).or_default());
        }
        touched
    }

    /// While suspended everybody was told that nothing is assigned: from here on all must be read anew.
    fn forget_deltas(&mut self) {
        let nodes: Vec<NodeId> = self.state.nodes().map(|row| row.id.clone()).collect();
        for node in nodes {
            if let Some(holdings) = self.state.holdings.get_mut(&node) {
                Arc::make_mut(holdings).known_since = self.revision;
            }
        }
    }

    fn migration_before(&self, row: &ShardRow) -> Option<&MigrationRow> {
        let id = row.migration?;
        match self.before.migrations.get(&id) {
            Some(before) => before.as_deref(),
            None => self.state.migration(id),
        }
    }

    fn migration_now(&self, row: &ShardRow) -> Option<&MigrationRow> {
        row.migration.and_then(|id| self.state.migration(id))
    }

    /// Gives changed rows their revision.
    fn stamp(&mut self, changes: &mut Vec<Changed>) {
        let revision = self.revision;
        for (id, before) in &self.before.nodes {
            let Some(now) = self.state.nodes.get_mut(id) else {
                changes.push(Changed::NodeRemoved(id.clone()));
                continue;
            };
            if before.as_ref().is_none_or(|before| masked(before) != masked(now)) {
                Arc::make_mut(now).revision = revision;
                changes.push(Changed::Node(id.clone()));
            }
        }
        for id in self.before.shards.keys() {
            if let Some(entry) = self.state.shards.get_mut(id) {
                Arc::make_mut(&mut entry.row).revision = revision;
                changes.push(Changed::Shard(*id));
            }
        }
        for key in self.before.retiring.keys() {
            if let Some(row) = self.state.retiring.get_mut(key) {
                Arc::make_mut(row).revision = revision;
            }
        }
        for id in self.before.migrations.keys() {
            let Some(row) = self.state.migrations.get_mut(id) else { continue };
            Arc::make_mut(row).revision = revision;
            if row.phase.is_ended() {
                self.state.active.remove(id);
                self.state.ended.insert((revision, *id), ());
            } else {
                self.state.active.insert(*id, ());
            }
            changes.push(Changed::Migration(*id));
        }
    }

    /// Brings statuses and their counts up to date, of changed shards and those of nodes whose verdict changed.
    fn count_statuses(&mut self) {
        let mut shards: BTreeSet<ShardId> = self.before.shards.keys().copied().collect();
        for (id, before) in &self.before.nodes {
            let down = |row: &NodeRow| row.is_down();
            if self.state.node(id).map(down) != before.as_deref().map(down) {
                shards.extend(self.state.shards_of(id));
            }
        }
        for id in shards {
            let Some(row) = self.state.shard(id) else { continue };
            let status = self.state.shard_status(row);
            let Some(entry) = self.state.shards.get_mut(&id) else { continue };
            let before = std::mem::replace(&mut entry.status, status);
            let counts = &mut self.state.counts;
            *counts_of(counts, before) = counts_of(counts, before).saturating_sub(1);
            *counts_of(counts, status) += 1;
        }
    }

    /// Notes what the node now is for `shards`, and that its assignments changed.
    fn reindex(&mut self, node: &NodeId, shards: &BTreeSet<ShardId>) {
        let revision = self.revision;
        if let Some(row) = self.state.nodes.get_mut(node) {
            let before = Arc::clone(row);
            Arc::make_mut(row).assignments_revision = revision;
            self.before.nodes.entry(node.clone()).or_insert(Some(before));
        } else {
            self.state.holdings.remove(node);
            return;
        }
        let roles: Vec<_> = shards.iter().map(|shard| (*shard, self.state.role_of(*shard, node))).collect();
        if !self.state.holdings.contains(node) {
            let holdings = Holdings { known_since: revision, ..Holdings::default() };
            self.state.holdings.insert(node.clone(), Arc::new(holdings));
        }
        let Some(holdings) = self.state.holdings.get_mut(node) else { return };
        let holdings = Arc::make_mut(holdings);
        for (shard, role) in roles {
            holdings.set(shard, role, revision);
        }
        holdings.trim();
    }

    /// The changed rows as they are stored.
    fn stored_rows(&self) -> Vec<RowChange> {
        let state = &*self.state;
        let mut stored = Vec::new();
        if self.founded {
            stored.extend(state.founded().map(rows::founded));
        }
        if self.resumed {
            stored.extend(state.restored().map(rows::restored));
        }
        if self.founded || self.policy_changed {
            stored.push(rows::policy(&state.policy));
        }
        for id in self.before.nodes.keys() {
            stored.push(state.node(id).map_or_else(|| rows::no_node(id), rows::node));
        }
        stored.extend(self.before.shards.keys().filter_map(|id| state.shard(*id)).map(rows::shard));
        for (shard, node) in self.before.retiring.keys() {
            let row = state.retiring_row(*shard, node);
            stored.push(row.map_or_else(|| rows::no_retiring(*shard, node), rows::retiring));
        }
        stored
            .extend(self.before.migrations.keys().filter_map(|id| state.migration(*id)).map(rows::migration));
        stored
    }

    fn keep_events(&mut self, stored: &mut Vec<RowChange>, changes: &mut Vec<Changed>) {
        for event in std::mem::take(&mut self.events) {
            stored.push(rows::event(&event));
            changes.push(Changed::Event(event.revision, event.seq));
            self.state.events.insert((event.revision, event.seq), Arc::new(event));
        }
        while self.state.events.len() > KEPT {
            let Some((&(revision, seq), _)) = self.state.events.first() else { break };
            self.state.events.remove(&(revision, seq));
            self.state.head.events_compacted_below = revision;
            stored.push(rows::no_event(revision, seq));
        }
    }

    fn forget_ended(&mut self, stored: &mut Vec<RowChange>) {
        while self.state.ended.len() > KEPT {
            let Some((&(revision, id), ())) = self.state.ended.first() else { break };
            self.state.ended.remove(&(revision, id));
            self.state.migrations.remove(&id);
            stored.push(rows::no_migration(id));
        }
    }
}

impl Holdings {
    /// Notes the node's part in a shard as of `revision`.
    pub(in crate::metadata) fn set(&mut self, shard: ShardId, role: Option<Role>, revision: Revision) {
        let before = self.held.insert(shard, Held { role, changed: revision });
        if let Some(before) = before {
            self.changed.remove(&(before.changed, shard));
            self.tally(before.role, |count| count.saturating_sub(1));
        }
        self.changed.insert((revision, shard), ());
        self.tally(role, |count| count + 1);
    }

    fn tally(&mut self, role: Option<Role>, change: impl Fn(u64) -> u64) {
        match role {
            Some(Role::Primary) => {
                self.primaries = change(self.primaries);
                self.copies = change(self.copies);
            }
            Some(Role::Replica | Role::Learner) => self.copies = change(self.copies),
            Some(Role::Retiring) => {}
            None => self.gone = change(self.gone),
        }
    }

    /// Forgets shards that went long ago; deltas then begin later.
    fn trim(&mut self) {
        if self.gone <= MIN_GONE.max(self.copies.saturating_mul(2)) {
            return;
        }
        let gone = self.held.iter().filter(|(_, held)| held.role.is_none());
        let gone: Vec<_> = gone.map(|(shard, held)| (held.changed, *shard)).collect();
        for (changed, shard) in gone {
            self.held.remove(&shard);
            self.changed.remove(&(changed, shard));
            self.known_since = self.known_since.max(changed);
        }
        self.gone = 0;
    }
}

fn touch(touched: &mut Touched, node: &NodeId, shard: ShardId) {
    if let Some(shards) = touched.get_mut(node) {
        shards.insert(shard);
    } else {
        touched.insert(node.clone(), BTreeSet::from([shard]));
    }
}

/// The nodes that are to delete a copy of the shard.
fn retiring_holders(state: &Metadata, shard: ShardId) -> impl Iterator<Item = &NodeId> {
    state.retiring_in(shard).map(|row| &row.node)
}
