//! A command at work: reads see what it wrote; what rows were before is kept for `commit`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruvector_cluster_client::ids::{Epoch, Incarnation, MigrationId, NodeId, Revision, ShardId};

use super::reject;
use crate::metadata::command::{Rejection, RejectionCode};
use crate::metadata::migration::MigrationRow;
use crate::metadata::node::NodeRow;
use crate::metadata::shard::{RetiringRow, ShardRow};
use crate::metadata::state::{EventRow, Metadata};

/// The longest sentence that is stored, in bytes; longer ones are cut, so that rows stay small.
const MAX_TEXT_BYTES: usize = 512;

/// Rows as they were before the command; none for those that it made.
#[derive(Default)]
pub(super) struct Before {
    pub(super) nodes: BTreeMap<NodeId, Option<Arc<NodeRow>>>,
    pub(super) shards: BTreeMap<ShardId, Arc<ShardRow>>,
    pub(super) retiring: BTreeMap<(ShardId, NodeId), Option<Arc<RetiringRow>>>,
    pub(super) migrations: BTreeMap<MigrationId, Option<Arc<MigrationRow>>>,
}

/// One command at work.
pub(super) struct Tx<'a> {
    pub(super) state: &'a mut Metadata,
    /// The entry's index: the revision of whatever it changes.
    pub(super) revision: Revision,
    pub(super) actor: &'a str,
    pub(super) before: Before,
    pub(super) events: Vec<EventRow>,
    pub(super) founded: bool,
    pub(super) policy_changed: bool,
    /// The suspension ends: all assignments are news.
    pub(super) resumed: bool,
}

/// What an event is about.
#[derive(Default)]
pub(super) struct About<'a> {
    pub(super) node: Option<&'a NodeId>,
    pub(super) shard: Option<ShardId>,
    pub(super) migration: Option<MigrationId>,
}

impl<'a> Tx<'a> {
    pub(super) fn new(state: &'a mut Metadata, revision: Revision, actor: &'a str) -> Self {
        let (before, events) = (Before::default(), Vec::new());
        let (founded, policy_changed, resumed) = (false, false, false);
        Self { state, revision, actor, before, events, founded, policy_changed, resumed }
    }

    /// Log time.
    pub(super) fn now_ms(&self) -> u64 {
        self.state.head.log_time_ms
    }

    pub(super) fn node(&self, id: &NodeId) -> Result<NodeRow, Rejection> {
        let row = self.state.node(id).cloned();
        row.ok_or_else(|| reject(RejectionCode::NotFound, format!("there is no node {id}")))
    }

    /// The node, in that run.
    pub(super) fn node_in_run(&self, id: &NodeId, run: Incarnation) -> Result<NodeRow, Rejection> {
        let row = self.node(id)?;
        if row.incarnation == run {
            return Ok(row);
        }
        let detail = format!("{id} is in run {}, not {run}: register again", row.incarnation);
        Err(reject(RejectionCode::StaleIncarnation, detail))
    }

    pub(super) fn put_node(&mut self, row: NodeRow) {
        let id = row.id.clone();
        let before = self.state.nodes.insert(id.clone(), Arc::new(row));
        self.before.nodes.entry(id).or_insert(before);
    }

    pub(super) fn remove_node(&mut self, id: &NodeId) {
        let before = self.state.nodes.remove(id);
        self.before.nodes.entry(id.clone()).or_insert(before);
    }

    /// Notes that a primaryship is taken from the node, or begins to be: grants count from this revision's assignments on.
    pub(super) fn take_primaryship_from(&mut self, id: &NodeId) {
        let Some(row) = self.state.node(id) else { return };
        if row.assigned_revision != self.revision {
            let row = NodeRow { assigned_revision: self.revision, ..row.clone() };
            self.put_node(row);
        }
    }

    pub(super) fn shard(&self, id: ShardId) -> Result<ShardRow, Rejection> {
        let row = self.state.shard(id).cloned();
        row.ok_or_else(|| reject(RejectionCode::NotFound, format!("there is no shard {id}")))
    }

    /// The shard, at that epoch.
    pub(super) fn shard_at(&self, id: ShardId, epoch: Epoch) -> Result<ShardRow, Rejection> {
        let row = self.shard(id)?;
        if row.epoch == epoch {
            return Ok(row);
        }
        let detail = format!("shard {id} is at epoch {}, not {epoch}", row.epoch);
        Err(reject(RejectionCode::StaleEpoch, detail))
    }

    pub(super) fn put_shard(&mut self, row: ShardRow) {
        let id = row.id;
        if let Some(entry) = self.state.shards.get_mut(&id) {
            let before = std::mem::replace(&mut entry.row, Arc::new(row));
            self.before.shards.entry(id).or_insert(before);
        }
    }

    /// The node is to delete its copy of the shard, which has left the shard's row.
    pub(super) fn retire_copy(&mut self, shard: ShardId, node: &NodeId, epoch: Epoch) {
        let known = self.state.retiring_row(shard, node).is_some_and(|row| row.epoch == epoch);
        if known || self.state.node(node).is_none() {
            return;
        }
        let row = RetiringRow { shard, node: node.clone(), epoch, revision: self.revision };
        let before = self.state.retiring.insert((shard, node.clone()), Arc::new(row));
        self.before.retiring.entry((shard, node.clone())).or_insert(before);
    }

    pub(super) fn forget_retiring(&mut self, shard: ShardId, node: &NodeId) {
        let key = (shard, node.clone());
        if let Some(before) = self.state.retiring.remove(&key) {
            self.before.retiring.entry(key).or_insert(Some(before));
        }
    }

    /// The shard's migration that has not ended.
    pub(super) fn migration_of(&self, shard: &ShardRow) -> Option<MigrationRow> {
        shard.migration.and_then(|id| self.state.migration(id)).cloned()
    }

    pub(super) fn put_migration(&mut self, mut row: MigrationRow) {
        if self.state.migration(row.id) == Some(&row) {
            return;
        }
        row.updated_ms = self.now_ms();
        let id = row.id;
        let before = self.state.migrations.insert(id, Arc::new(row));
        self.before.migrations.entry(id).or_insert(before);
    }

    pub(super) fn event(&mut self, kind: &str, about: About<'_>, detail: impl Into<String>) {
        let seq = u32::try_from(self.events.len()).unwrap_or(u32::MAX);
        self.events.push(EventRow {
            revision: self.revision,
            seq,
            at_ms: self.now_ms(),
            kind: kind.to_owned(),
            node: about.node.cloned(),
            shard: about.shard,
            migration: about.migration,
            detail: cut(detail.into()),
            actor: cut(self.actor.to_owned()),
        });
    }
}

/// At most [`MAX_TEXT_BYTES`] of `text`.
pub(super) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    text
}
