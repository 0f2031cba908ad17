//! Who is down, who is back, and who leads in place of those that are down. Never delayed by anything but the lease.

use std::collections::{BTreeMap, BTreeSet};

use mutants::{Mutant, is_on};
use ruvector_cluster_client::ids::NodeId;

use crate::metadata::{Change, Metadata, ShardRow};
use crate::migration::Answering;
use crate::soft::{Now, Soft};

/// Verdicts that are due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdicts {
    pub(super) going_down: BTreeSet<NodeId>,
    pub(super) returning: BTreeSet<NodeId>,
}

impl Verdicts {
    pub(super) fn due(metadata: &Metadata, soft: &Soft, now: Now) -> Self {
        let is_row = |node: &NodeId, incarnation, down| {
            metadata.node(node).is_some_and(|row| row.incarnation == incarnation && row.is_down() == down)
        };
        let expired = soft.liveness.expired(now.boot_ms).filter(|(node, run)| is_row(node, *run, false));
        let returned = soft.liveness.returned(now.boot_ms).filter(|(node, run)| is_row(node, *run, true));
        Self {
            going_down: expired.map(|(node, _)| node.clone()).collect(),
            returning: returned.map(|(node, _)| node.clone()).collect(),
        }
    }

    /// The verdicts, then the failovers that they and earlier ones call for.
    pub(super) fn changes(&self, metadata: &Metadata, soft: &Soft, now: Now) -> Vec<Change> {
        let run_of = |node: &NodeId| metadata.node(node).map(|row| (row.id.clone(), row.incarnation));
        let alive = self.returning.iter().filter_map(run_of);
        let down = self.going_down.iter().filter_map(run_of);
        let mut changes: Vec<Change> =
            alive.map(|(node, incarnation)| Change::Alive { node, incarnation }).collect();
        changes.extend(down.map(|(node, incarnation)| Change::Down { node, incarnation }));
        let answering = self.answering(metadata);
        let mut primaries = BTreeMap::new();
        let is_taken_for_down = |node: &NodeId| {
            let is_late = || soft.liveness.is_suspect(node, now.boot_ms);
            !answering.is_alive(node) || (is_on(Mutant::FailoverOfLivePrimary) && is_late())
        };
        for node in metadata.nodes().map(|row| &row.id).filter(|node| is_taken_for_down(node)) {
            let led = metadata.shards_of(node).filter_map(|id| metadata.shard(id));
            for shard in led.filter(|shard| shard.primary.as_ref() == Some(node) && !shard.lost) {
                changes.extend(failover(&answering, soft, shard, &mut primaries));
            }
        }
        changes
    }

    pub(super) fn answering<'a>(&'a self, metadata: &'a Metadata) -> Answering<'a> {
        Answering { metadata, going_down: &self.going_down, returning: &self.returning }
    }
}

/// Of the in-sync copies that are alive the one with the highest reported position leads; of equal ones the target of a
/// hand-over, then the one with the fewest primaries.
fn failover(
    answering: &Answering<'_>,
    soft: &Soft,
    shard: &ShardRow,
    primaries: &mut BTreeMap<NodeId, u64>,
) -> Option<Change> {
    let metadata = answering.metadata;
    let migration = shard.migration.and_then(|id| metadata.migration(id));
    let target = migration.and_then(|row| row.to.as_ref());
    let count = |node: &NodeId| primaries.get(node).copied().unwrap_or_else(|| metadata.primaries_of(node));
    let rank = |node: &&NodeId| {
        let position = soft.nodes.get(*node).and_then(|soft| soft.position(shard.id));
        let is_target = target == Some(*node);
        (std::cmp::Reverse(position.unwrap_or_default()), !is_target, count(node), (*node).clone())
    };
    let others = shard.in_sync.iter().filter(|node| shard.primary.as_ref() != Some(*node));
    let to = others.filter(|node| answering.is_alive(node)).min_by_key(rank)?.clone();
    let led = count(&to) + 1;
    primaries.insert(to.clone(), led);
    Some(Change::Failover { shard: shard.id, if_epoch: shard.epoch, to })
}
