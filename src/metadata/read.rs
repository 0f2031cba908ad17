//! What can be asked of the state. Nothing here changes it, and nothing walks all shards but where the name says so.

use ruvector_cluster_client::ids::{Epoch, MigrationId, NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::{RebalancePolicy, Role, ShardCounts, ShardStatus};

use super::migration::MigrationRow;
use super::node::NodeRow;
use super::shard::{RetiringRow, ShardRow};
use super::state::{EventRow, Founded, Metadata, Restored};

impl Metadata {
    /// The state before the first command.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the cluster was founded with; none before.
    pub fn founded(&self) -> Option<&Founded> {
        self.founded.as_deref()
    }

    /// That it began from a backup; none for a cluster that was founded empty.
    pub fn restored(&self) -> Option<&Restored> {
        self.restored.as_deref()
    }

    /// Whether it was restored from a backup and has not been resumed: nothing is granted, assigned or decided.
    pub fn is_suspended(&self) -> bool {
        self.restored().is_some_and(|restored| restored.suspended)
    }

    /// No shard is assigned at this epoch or below.
    pub fn epoch_floor(&self) -> Epoch {
        self.restored().map_or(Epoch(0), |restored| restored.epoch_floor)
    }

    /// Log index of the last change.
    pub fn revision(&self) -> Revision {
        self.head.revision
    }

    /// The largest leader's stamp applied, in milliseconds since 1970.
    pub fn log_time_ms(&self) -> u64 {
        self.head.log_time_ms
    }

    /// How copies are placed and moved.
    pub fn policy(&self) -> &RebalancePolicy {
        &self.policy.policy
    }

    /// Revision of the policy (or of pausing).
    pub fn policy_revision(&self) -> Revision {
        self.policy.revision
    }

    /// Whether an operator stopped the coordinator's own migrations.
    pub fn paused(&self) -> bool {
        self.policy.paused
    }

    /// All registered nodes, ascending.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRow> {
        self.nodes.iter().map(|(_, row)| &**row)
    }

    /// The nodes from `id` on, ascending.
    pub fn nodes_from(&self, id: &NodeId) -> impl Iterator<Item = &NodeRow> {
        self.nodes.from(id).map(|(_, row)| &**row)
    }

    /// How many nodes are registered.
    pub fn num_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// A node.
    pub fn node(&self, id: &NodeId) -> Option<&NodeRow> {
        self.nodes.get(id).map(|row| &**row)
    }

    /// Whether the node is registered and not committed down.
    pub fn is_alive(&self, id: &NodeId) -> bool {
        self.node(id).is_some_and(|row| !row.is_down())
    }

    /// All shards, ascending.
    pub fn shards(&self) -> impl Iterator<Item = &ShardRow> {
        self.shards.iter().map(|(_, entry)| &*entry.row)
    }

    /// How each shard does, ascending.
    pub fn shard_statuses(&self) -> impl Iterator<Item = (ShardId, ShardStatus)> {
        self.shards.iter().map(|(id, entry)| (*id, entry.status))
    }

    /// The shards from `id` on, ascending.
    pub fn shards_from(&self, id: ShardId) -> impl Iterator<Item = &ShardRow> {
        self.shards.from(&id).map(|(_, entry)| &*entry.row)
    }

    /// A shard.
    pub fn shard(&self, id: ShardId) -> Option<&ShardRow> {
        self.shards.get(&id).map(|entry| &*entry.row)
    }

    /// How many shards there are; 0 before the cluster is founded.
    pub fn num_shards(&self) -> u32 {
        self.founded().map_or(0, |founded| founded.settings.num_shards)
    }

    /// Copies wanted of each shard; 0 before the cluster is founded.
    pub fn replication_factor(&self) -> usize {
        self.founded().map_or(0, |founded| founded.settings.replication_factor as usize)
    }

    /// The shards of which the node is primary, replica or learner copy, ascending.
    pub fn shards_of(&self, node: &NodeId) -> impl Iterator<Item = ShardId> {
        self.roles_of(node).filter(|(_, role)| *role != Role::Retiring).map(|(shard, _)| shard)
    }

    /// All that the node is assigned, `retiring` included, ascending.
    pub fn roles_of(&self, node: &NodeId) -> impl Iterator<Item = (ShardId, Role)> {
        let holdings = self.holdings.get(node);
        let held = holdings.into_iter().flat_map(|holdings| holdings.held.iter());
        held.filter_map(|(shard, held)| held.role.map(|role| (*shard, role)))
    }

    /// How many copies the node has or is to have (primary, replica, learner).
    pub fn copies_of(&self, node: &NodeId) -> u64 {
        self.holdings.get(node).map_or(0, |holdings| holdings.copies)
    }

    /// Of how many shards the node is primary.
    pub fn primaries_of(&self, node: &NodeId) -> u64 {
        self.holdings.get(node).map_or(0, |holdings| holdings.primaries)
    }

    /// The copies that the node is to delete, ascending by shard.
    pub fn retiring_of(&self, node: &NodeId) -> impl Iterator<Item = &RetiringRow> {
        let retiring = self.roles_of(node).filter(|(_, role)| *role == Role::Retiring);
        let node = node.clone();
        retiring.filter_map(move |(shard, _)| self.retiring_row(shard, &node))
    }

    /// All copies to be deleted, ascending by shard, then node.
    pub fn retiring(&self) -> impl Iterator<Item = &RetiringRow> {
        self.retiring.iter().map(|(_, row)| &**row)
    }

    /// The copies of `shard` to be deleted, ascending by node.
    pub fn retiring_in(&self, shard: ShardId) -> impl Iterator<Item = &RetiringRow> {
        // No node id is lower than this one.
        let lowest = NodeId::new("-").ok();
        let rows = lowest.into_iter().flat_map(move |lowest| self.retiring.from(&(shard, lowest)));
        rows.take_while(move |((of, _), _)| *of == shard).map(|(_, row)| &**row)
    }

    /// The copy of `shard` that `node` is to delete.
    pub fn retiring_row(&self, shard: ShardId, node: &NodeId) -> Option<&RetiringRow> {
        self.retiring.get(&(shard, node.clone())).map(|row| &**row)
    }

    /// What the node is for the shard.
    pub fn role_of(&self, shard: ShardId, node: &NodeId) -> Option<Role> {
        let role = self.shard(shard).and_then(|row| row.role_of(node));
        role.or_else(|| self.retiring_row(shard, node).map(|_| Role::Retiring))
    }

    /// Whether something in the node's assignments changed after `since`; a node that is not registered has none to change.
    pub fn assignments_changed(&self, node: &NodeId, since: Revision) -> bool {
        self.node(node).is_some_and(|row| row.assignments_revision > since)
    }

    /// All migrations that are kept, ascending.
    pub fn migrations(&self) -> impl Iterator<Item = &MigrationRow> {
        self.migrations.iter().map(|(_, row)| &**row)
    }

    /// The migrations from `id` on, ascending.
    pub fn migrations_from(&self, id: MigrationId) -> impl Iterator<Item = &MigrationRow> {
        self.migrations.from(&id).map(|(_, row)| &**row)
    }

    /// The migrations that have not ended, ascending.
    pub fn active_migrations(&self) -> impl Iterator<Item = &MigrationRow> {
        self.active.iter().filter_map(|(id, ())| self.migration(*id))
    }

    /// A migration.
    pub fn migration(&self, id: MigrationId) -> Option<&MigrationRow> {
        self.migrations.get(&id).map(|row| &**row)
    }

    /// How the shard does; of several, the worst that holds (API.md, "Shards").
    pub fn shard_status(&self, shard: &ShardRow) -> ShardStatus {
        if shard.primary.is_none() || shard.founding {
            return ShardStatus::Unassigned;
        }
        let alive = shard.in_sync.iter().filter(|node| self.is_alive(node)).count();
        if alive == 0 || shard.lost {
            ShardStatus::Unavailable
        } else if alive < self.replication_factor() {
            ShardStatus::Degraded
        } else if shard.migration.is_some() {
            ShardStatus::Migrating
        } else {
            ShardStatus::Active
        }
    }

    /// Shards by status; kept as the state changes, so that asking costs nothing.
    pub fn shard_counts(&self) -> ShardCounts {
        self.counts
    }

    /// At most `limit` events after `since`, ascending.
    pub fn events(&self, since: Revision, limit: usize) -> impl Iterator<Item = &EventRow> {
        let after = (Revision(since.0.saturating_add(1)), 0);
        self.events.from(&after).take(limit).map(|(_, row)| &**row)
    }

    /// Asking for events since a revision below this one misses some.
    pub fn events_compacted_below(&self) -> Revision {
        self.head.events_compacted_below
    }
}
