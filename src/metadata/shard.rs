//! A shard's replicated row, and the left-over copies that are to be deleted.

use ruvector_cluster_client::ids::{Epoch, MigrationId, NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::Role;
use serde::{Deserialize, Serialize};

/// A shard. Its copies are the primary, the replicas and the learner copies; no node stands twice among them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShardRow {
    /// Its number.
    pub id: ShardId,
    /// 0 until it is first assigned.
    pub epoch: Epoch,
    /// Who takes its writes. Stays named when all in-sync copies are down.
    pub primary: Option<NodeId>,
    /// Full copies other than the primary, in order (in sync, or dropped and to be caught up).
    pub replicas: Vec<NodeId>,
    /// Copies being filled. A migration's target stays here, even in sync, until the migration ends.
    pub learners: Vec<NodeId>,
    /// The primary and whoever has every acknowledged write.
    pub in_sync: Vec<NodeId>,
    /// Raised with every change of `in_sync`.
    pub in_sync_version: u64,
    /// From the first assignment until the primary's first accepted in-sync set.
    pub founding: bool,
    /// The primary's copy, the last in sync, is gone: the shard is unavailable until `force-primary`, or until the same store
    /// registers again and does not report the loss again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// The migration that is not ended, if any.
    pub migration: Option<MigrationId>,
    /// Of the row.
    pub revision: Revision,
}

impl ShardRow {
    /// The shard as it is before its first assignment.
    pub fn unassigned(id: ShardId) -> Self {
        Self {
            id,
            epoch: Epoch(0),
            primary: None,
            replicas: Vec::new(),
            learners: Vec::new(),
            in_sync: Vec::new(),
            in_sync_version: 0,
            founding: false,
            lost: false,
            migration: None,
            revision: Revision(0),
        }
    }

    /// All copies: primary first, then replicas, then learner copies.
    pub fn copies(&self) -> impl Iterator<Item = &NodeId> {
        self.primary.iter().chain(&self.replicas).chain(&self.learners)
    }

    /// What `node` is for the shard; none when it has no copy, or only one to be deleted.
    pub fn role_of(&self, node: &NodeId) -> Option<Role> {
        if self.primary.as_ref() == Some(node) {
            Some(Role::Primary)
        } else if self.replicas.contains(node) {
            Some(Role::Replica)
        } else if self.learners.contains(node) {
            Some(Role::Learner)
        } else {
            None
        }
    }

    /// Full copies: primary first, then replicas.
    pub fn full_copies(&self) -> impl Iterator<Item = &NodeId> {
        self.primary.iter().chain(&self.replicas)
    }
}

/// A copy that its node is to delete: left over by a migration, or never assigned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RetiringRow {
    /// The shard.
    pub shard: ShardId,
    /// The holder.
    pub node: NodeId,
    /// The copy may be deleted by a node that knows no higher epoch.
    pub epoch: Epoch,
    /// Of the row.
    pub revision: Revision,
}
