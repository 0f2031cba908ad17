//! The rows, and how a change of them becomes a revision.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::places::{NodeHistory, Refusal};
use super::views::Views;
use super::{CoordinatorOptions, Taken};
use crate::ids::{Epoch, Incarnation, MigrationId, NodeId, Revision, ShardId};
use crate::wire::{HeldShard, MigrationKind, Phase, RegisterRequest, Time, WatchEvent};

#[derive(Clone, Debug)]
pub(super) struct NodeRow {
    pub(super) said: RegisterRequest,
    pub(super) incarnation: Incarnation,
    pub(super) down: bool,
    /// Named by grants: the last revision that took, or began to take, a primaryship from it.
    pub(super) assigned: Revision,
    pub(super) installed: Revision,
    pub(super) held: BTreeMap<ShardId, HeldShard>,
    pub(super) wants_all: bool,
    /// When the coordinator's count of its lease ends.
    pub(super) lease_until: Instant,
    pub(super) is_granted: bool,
    pub(super) heard_at: Option<Time>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ShardRow {
    pub(super) epoch: Epoch,
    pub(super) primary: Option<NodeId>,
    pub(super) replicas: Vec<NodeId>,
    pub(super) learners: Vec<NodeId>,
    pub(super) retiring: Vec<(NodeId, Epoch)>,
    /// Ascending.
    pub(super) in_sync: Vec<NodeId>,
    pub(super) version: u64,
    pub(super) founding: bool,
    /// The last in-sync copy is lost.
    pub(super) lost: bool,
    pub(super) migration: Option<MigrationId>,
}

#[derive(Clone, Debug)]
pub(super) struct MigrationRow {
    pub(super) id: MigrationId,
    pub(super) shard: ShardId,
    pub(super) kind: MigrationKind,
    pub(super) from: Option<NodeId>,
    pub(super) to: Option<NodeId>,
    pub(super) epoch: Epoch,
    pub(super) phase: Phase,
    pub(super) target_ready: bool,
    pub(super) primary_ready: bool,
    pub(super) bytes: Option<(u64, u64)>,
    pub(super) error: Option<String>,
    pub(super) created_at: Time,
    pub(super) updated_at: Time,
}

/// A write that was answered: repeated, it is answered the same.
#[derive(Clone)]
pub(super) struct Answered {
    /// Method, path and body.
    pub(super) asked: (String, bytes::Bytes),
    pub(super) status: u16,
    pub(super) body: bytes::Bytes,
}

pub(super) struct Rows {
    pub(super) options: CoordinatorOptions,
    pub(super) revision: Revision,
    pub(super) nodes: BTreeMap<NodeId, NodeRow>,
    pub(super) shards: Vec<ShardRow>,
    /// By id, from 1.
    pub(super) migrations: Vec<MigrationRow>,
    /// As clients saw them last.
    pub(super) views: Views,
    pub(super) histories: BTreeMap<NodeId, NodeHistory>,
    pub(super) events: Vec<WatchEvent>,
    /// Of changes up to here nothing is known.
    pub(super) compacted: Revision,
    pub(super) answered: BTreeMap<String, Answered>,
    pub(super) taken: Vec<Taken>,
}

impl Rows {
    pub(super) fn new(options: &CoordinatorOptions) -> Self {
        let shards = vec![ShardRow::default(); options.num_shards as usize];
        let mut rows = Self {
            options: options.clone(),
            revision: Revision(1),
            nodes: BTreeMap::new(),
            shards,
            migrations: Vec::new(),
            views: Views::default(),
            histories: BTreeMap::new(),
            events: Vec::new(),
            compacted: Revision(1),
            answered: BTreeMap::new(),
            taken: Vec::new(),
        };
        rows.refresh();
        rows
    }

    /// Lets `f` change the rows; if that changed what anybody sees, it is of a new revision.
    pub(super) fn commit<T>(&mut self, f: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.revision;
        self.revision = Revision(before.0 + 1);
        let named: Vec<Revision> = self.nodes.values().map(|row| row.assigned).collect();
        let result = f(self);
        let event = self.refresh();
        let moved = self.note_assignments();
        // What a grant names must have been published.
        let named = named != self.nodes.values().map(|row| row.assigned).collect::<Vec<_>>();
        if event.changes.is_empty() && !moved && !named {
            self.revision = before;
        } else {
            self.events.push(event);
        }
        result
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
        self.events.clear();
    }

    pub(super) fn row(&self, shard: ShardId) -> Result<ShardRow, Refusal> {
        let missing = || Refusal::new(404, "not_found", format!("there is no shard {shard}"));
        self.shards.get(shard.0 as usize).cloned().ok_or_else(missing)
    }

    /// The row at that epoch.
    pub(super) fn row_at(&self, shard: ShardId, epoch: Epoch) -> Result<ShardRow, Refusal> {
        let row = self.row(shard)?;
        if row.epoch == epoch {
            return Ok(row);
        }
        Err(Refusal::new(409, "stale_epoch", format!("shard {shard} is at epoch {}", row.epoch)))
    }

    pub(super) fn put(&mut self, shard: ShardId, row: ShardRow) {
        if let Some(held) = self.shards.get_mut(shard.0 as usize) {
            *held = row;
        }
    }

    pub(super) fn is_alive(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_some_and(|row| !row.down)
    }

    pub(super) fn active(&self, row: &ShardRow) -> Option<MigrationRow> {
        row.migration.and_then(|id| self.migration(id)).cloned()
    }

    pub(super) fn migration(&self, id: MigrationId) -> Option<&MigrationRow> {
        let place = usize::try_from(id.0).ok()?.checked_sub(1)?;
        self.migrations.get(place)
    }

    pub(super) fn put_migration(&mut self, mut migration: MigrationRow) {
        migration.updated_at = super::views::now();
        let place = usize::try_from(migration.id.0.saturating_sub(1)).unwrap_or(usize::MAX);
        match self.migrations.get_mut(place) {
            Some(held) => *held = migration,
            None => self.migrations.push(migration),
        }
    }

    /// From here on grants to `node` count only once it has installed this change.
    pub(super) fn take_primaryship_from(&mut self, node: &NodeId) {
        let revision = self.revision;
        if let Some(row) = self.nodes.get_mut(node) {
            row.assigned = revision;
        }
    }

    pub(super) fn found(&mut self) {
        let nodes: Vec<NodeId> = self.nodes.keys().cloned().collect();
        if nodes.is_empty() {
            return;
        }
        let count = nodes.len().min(self.options.replication_factor.max(1) as usize);
        for (n, row) in self.shards.iter_mut().enumerate().filter(|(_, row)| row.primary.is_none()) {
            let mut copies: Vec<NodeId> = (0..count).map(|i| nodes[(n + i) % nodes.len()].clone()).collect();
            let mut in_sync = copies.clone();
            in_sync.sort();
            let primary = copies.remove(0);
            *row = ShardRow {
                epoch: Epoch(row.epoch.0 + 1),
                primary: Some(primary),
                replicas: copies,
                in_sync,
                version: 1,
                founding: true,
                ..ShardRow::default()
            };
        }
    }

    pub(super) fn is_opened(&self) -> bool {
        self.shards.iter().all(|row| row.primary.is_some() && !row.founding)
    }
}

impl ShardRow {
    pub(super) fn is_in_sync(&self, node: &NodeId) -> bool {
        self.in_sync.contains(node)
    }

    pub(super) fn leads(&self, node: &NodeId) -> bool {
        self.primary.as_ref() == Some(node)
    }

    /// Another set raises the version.
    pub(super) fn set_in_sync(&mut self, mut members: Vec<NodeId>) {
        members.sort();
        if members != self.in_sync {
            self.in_sync = members;
            self.version += 1;
        }
    }

    pub(super) fn leave_in_sync(&mut self, node: &NodeId) {
        self.set_in_sync(self.in_sync.iter().filter(|member| *member != node).cloned().collect());
    }

    /// Takes a replica or learner copy out; it is left to be deleted.
    pub(super) fn retire(&mut self, node: &NodeId) {
        self.replicas.retain(|copy| copy != node);
        self.learners.retain(|copy| copy != node);
        self.leave_in_sync(node);
        self.retiring.retain(|(copy, _)| copy != node);
        self.retiring.push((node.clone(), self.epoch));
    }

    /// Makes a copy primary; the old one becomes a replica.
    pub(super) fn name_primary(&mut self, to: &NodeId) {
        self.replicas.retain(|copy| copy != to);
        self.learners.retain(|copy| copy != to);
        self.replicas.extend(self.primary.replace(to.clone()));
        self.epoch = Epoch(self.epoch.0 + 1);
    }
}
