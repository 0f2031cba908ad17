//! What goes wrong with data nodes.

use std::collections::BTreeSet;

use ruvector_cluster::client::ids::{NodeId, ShardId};

use super::Faults;
use crate::data::node::DataNode;

impl Faults {
    pub(super) async fn data_kill(&self) -> bool {
        let at = self.any_data();
        let was_up = self.cluster.with_data(at, |node| {
            let was_up = node.is_running();
            node.kill();
            was_up
        });
        self.wait(10, 6_000).await;
        self.revive_data(at);
        was_up == Some(true)
    }

    pub(super) async fn data_pause(&self) -> bool {
        let at = self.any_data();
        let is_up = self.cluster.with_data(at, |node| {
            node.set_paused(true);
            node.is_running()
        });
        self.wait(50, 4_000).await;
        self.cluster.with_data(at, |node| node.set_paused(false));
        is_up == Some(true)
    }

    /// Whether every shard that this node is in sync of has another in-sync copy that is alive, and really there: the control
    /// cluster may not have heard yet of a wipe before this one.
    pub(super) fn can_be_spared(&self, at: usize) -> bool {
        let name = self.cluster.with_data(at, |node| node.machine().node.clone());
        let (Some(name), Some(state)) = (name, self.cluster.newest_state()) else { return false };
        let mut held: BTreeSet<(ShardId, NodeId)> = BTreeSet::new();
        for other in 0..self.cluster.data_nodes() {
            self.cluster.with_data(other, |node| {
                let copies = node.machine().disk.copies().into_iter().filter(|(_, copy)| copy.state.full);
                held.extend(copies.map(|(shard, _)| (shard, node.machine().node.clone())));
            });
        }
        state.shards().all(|row| {
            let other = |member: &NodeId| {
                *member != name && state.is_alive(member) && held.contains(&(row.id, member.clone()))
            };
            !row.in_sync.contains(&name) || row.in_sync.iter().any(other)
        })
    }

    pub(super) fn data_wipe(&self) -> bool {
        let at = self.any_data();
        let spared = self.can_be_spared(at);
        if spared {
            self.cluster.with_data(at, |node| *node = node.restart_wiped());
        }
        spared
    }

    pub(super) async fn store_fails(&self) -> bool {
        let at = self.any_data();
        if !self.can_be_spared(at) {
            return false;
        }
        let failed = |node: &mut DataNode| node.machine().disk.counts().failed;
        let before = self.cluster.with_data(at, failed);
        self.cluster.with_data(at, |node| node.machine().disk.fail_next(1));
        self.wait(100, 2_000).await;
        self.cluster.with_data(at, |node| node.machine().disk.fail_next(0));
        self.cluster.with_data(at, failed) > before
    }

    pub(super) async fn slow_store(&self) -> bool {
        let at = self.any_data();
        let slowest = self.between(2_000, 400_000);
        self.cluster.with_data(at, |node| node.machine().disk.set_sync_us((500, slowest)));
        self.wait(100, 5_000).await;
        self.cluster.with_data(at, |node| node.machine().disk.set_sync_us((50, 500)));
        true
    }

    pub(super) async fn full_store(&self) -> bool {
        let at = self.any_data();
        self.cluster.with_data(at, |node| node.machine().disk.set_full(true));
        self.wait(100, 4_000).await;
        self.cluster.with_data(at, |node| node.machine().disk.set_full(false));
        true
    }
}
