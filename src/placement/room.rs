//! Room on disks: what nodes may still take below the watermark.
//!
//! A plan counts what leaves a node as gone at once, so a copy may be meant for room that another one still fills. It begins only
//! once that room is there: [`Room::has`] asks what nodes said that they hold, and what is on its way to them.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_client::wire::{MigrationKind, RebalancePolicy};

use crate::metadata::{Metadata, MigrationRow, NodeRow};
use crate::soft::Soft;

/// Who has how much room.
#[derive(Clone, Debug)]
pub struct Room<'a> {
    metadata: &'a Metadata,
    soft: &'a Soft,
    policy: &'a RebalancePolicy,
    /// Bytes on their way to a node, beyond what it holds of them already.
    coming: BTreeMap<&'a NodeId, u64>,
}

impl<'a> Room<'a> {
    /// As migrations under way leave it.
    pub fn of(metadata: &'a Metadata, soft: &'a Soft, policy: &'a RebalancePolicy) -> Self {
        let mut room = Self { metadata, soft, policy, coming: BTreeMap::new() };
        for row in metadata.active_migrations() {
            if let (MigrationKind::Move | MigrationKind::Add, Some(to)) = (row.kind, &row.to) {
                room.take(to, room.to_come(row, to));
            }
        }
        room
    }

    fn to_come(&self, row: &MigrationRow, to: &NodeId) -> u64 {
        let held = |node| self.soft.held(node, row.shard).map_or(0, |held| held.size_bytes);
        let primary = self.metadata.shard(row.shard).and_then(|shard| shard.primary.as_ref());
        primary.map_or(0, held).saturating_sub(held(to))
    }

    /// Bytes below the node's watermark, by what it said that it holds; none where it has no limit.
    pub fn below_watermark(&self, node: &NodeRow) -> Option<u64> {
        let watermark = u128::from(self.policy.disk_watermark.0);
        node.capacity_bytes.map(|capacity| {
            let limit = u64::try_from(u128::from(capacity) * watermark / 1_000).unwrap_or(u64::MAX);
            limit.saturating_sub(self.soft.nodes.get(&node.id).map_or(0, |soft| soft.size_bytes()))
        })
    }

    /// The same, without what is on its way.
    pub fn left(&self, node: &NodeRow) -> Option<u64> {
        let coming = self.coming.get(&node.id).copied().unwrap_or(0);
        self.below_watermark(node).map(|free| free.saturating_sub(coming))
    }

    /// Whether the node has room for so many bytes now.
    pub fn has(&self, node: &NodeId, bytes: u64) -> bool {
        let left = self.metadata.node(node).and_then(|row| self.left(row));
        left.is_none_or(|left| left >= bytes)
    }

    /// So many bytes more are on their way to the node.
    pub fn take(&mut self, node: &'a NodeId, bytes: u64) {
        let coming = self.coming.entry(node).or_default();
        *coming = coming.saturating_add(bytes);
    }
}
