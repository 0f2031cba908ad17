//! What only the leader knows: heartbeats, sizes, progress. Lost with the leadership, and rebuilt within some heartbeats.
//!
//! Nothing here is replicated, and no decision that must be right rests on it but the leases, which have rules of their own
//! ([`crate::liveness`]). Cloning is cheap: what nodes hold is shared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ruvector_cluster_client::ids::{Incarnation, MigrationId, NodeId, Position, ShardId};
use ruvector_cluster_client::wire::{HeartbeatRequest, HeldShard, Phase, Report};
use serde::{Deserialize, Serialize};

use crate::liveness::Liveness;
use crate::load::{LoadWatch, NodeLoad, ShardLoad, Told};
use crate::metadata::{Metadata, NodeRow};

/// The two clocks, read once for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The leader's boot clock: leases and progress are counted on it.
    pub boot_ms: u64,
    /// Milliseconds since 1970: compared with log time.
    pub wall_ms: u64,
}

/// Data nodes of whom gossip tells that they are alive, with their stores. A hint: anybody may speak there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeardOf(Arc<BTreeSet<(NodeId, String)>>);

impl HeardOf {
    /// Whether that node, with the store that it is registered with, is among them.
    pub fn has(&self, row: &NodeRow) -> bool {
        !self.0.is_empty() && self.0.contains(&(row.id.clone(), row.store_id.clone()))
    }
}

impl FromIterator<(NodeId, String)> for HeardOf {
    fn from_iter<I: IntoIterator<Item = (NodeId, String)>>(heard: I) -> Self {
        Self(Arc::new(heard.into_iter().collect()))
    }
}

/// The leader's soft state. Serialisable so that other control nodes can show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Soft {
    /// What each data node last said; a node of which this leader heard nothing is absent.
    pub nodes: BTreeMap<NodeId, Arc<SoftNode>>,
    /// How far each active migration is.
    pub progress: BTreeMap<MigrationId, Progress>,
    /// Leases as this leader counts them.
    pub liveness: Liveness,
    /// Balancing began and has not reached its stopping threshold.
    pub levelling: bool,
    /// For how long load has been uneven.
    pub load_watch: LoadWatch,
    /// Whom others hear. It delays the rebuilding of copies on a node that is down, and nothing else: no lease, no verdict.
    #[serde(default)]
    pub heard_of: HeardOf,
}

/// The rate of copying is weighted so that a report which is this old counts for about a third. Nodes report each second: a slow or a
/// fast one moves the expected time by a sixth at most of what it would alone.
const RATE_MS: u64 = 5_000;

/// What a data node said.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SoftNode {
    /// The run that said it.
    pub incarnation: Incarnation,
    /// When the leader received its last heartbeat, milliseconds since 1970.
    pub last_heartbeat_wall_ms: u64,
    /// Free bytes of its file system.
    pub disk_free_bytes: Option<u64>,
    /// All copies that it holds, assigned or not, as far as it told.
    pub held: BTreeMap<ShardId, HeldShard>,
    /// Whether it listed all copies to this leader.
    pub complete: bool,
    /// Averages of the shards that it leads.
    pub load: NodeLoad,
}

/// How far a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Progress {
    /// The phase this is about.
    pub phase: Phase,
    /// The row's log time when this leader last looked: a change of the row is progress too.
    pub updated_ms: u64,
    /// Bytes copied; none told yet.
    pub bytes_done: Option<u64>,
    /// Bytes to copy; none told yet.
    pub bytes_total: Option<u64>,
    /// Bytes a second, averaged over some reports; 0 while unknown.
    pub bytes_per_s: u64,
    /// Boot clock of the last change of any of the above.
    pub changed_boot_ms: u64,
}

impl Progress {
    /// Expected time to the end of copying, once bytes and rate are known.
    pub fn eta_ms(&self) -> Option<u64> {
        let left = self.bytes_total?.saturating_sub(self.bytes_done?);
        if left == 0 { Some(0) } else { left.saturating_mul(1_000).checked_div(self.bytes_per_s) }
    }

    /// Takes in the bytes of a report that came at `boot_ms`.
    fn observe_bytes(&mut self, bytes_done: u64, bytes_total: Option<u64>, boot_ms: u64) {
        let known = self.bytes_done.unwrap_or(0);
        // With fewer than before the filling has begun anew, which says nothing of the rate.
        if bytes_done > known {
            let since_ms = boot_ms.saturating_sub(self.changed_boot_ms).max(1);
            let now = (bytes_done - known).saturating_mul(1_000) / since_ms;
            let weighted =
                self.bytes_per_s.saturating_mul(RATE_MS).saturating_add(now.saturating_mul(since_ms));
            let mean = weighted / RATE_MS.saturating_add(since_ms);
            self.bytes_per_s = if self.bytes_per_s == 0 { now } else { mean };
        }
        self.bytes_done = Some(bytes_done);
        self.bytes_total = bytes_total.or(self.bytes_total);
        self.changed_boot_ms = boot_ms;
    }
}

impl SoftNode {
    /// Bytes of all copies that the node told of.
    pub fn size_bytes(&self) -> u64 {
        self.held.values().fold(0, |sum, held| sum.saturating_add(held.size_bytes))
    }

    /// Last write of the node's copy of `shard`, if it told.
    pub fn position(&self, shard: ShardId) -> Option<Position> {
        self.held.get(&shard).map(|held| Position { epoch: held.epoch, n: held.position })
    }
}

impl Soft {
    /// What the node said of its copy of `shard`.
    pub fn held(&self, node: &NodeId, shard: ShardId) -> Option<&HeldShard> {
        self.nodes.get(node)?.held.get(&shard)
    }

    /// Takes in what a heartbeat says; answers whether the node is to list all copies with the next one.
    pub fn observe_heartbeat(&mut self, node: &NodeId, beat: &HeartbeatRequest, wall_ms: u64) -> bool {
        let fresh = || {
            Arc::new(SoftNode {
                incarnation: beat.incarnation,
                last_heartbeat_wall_ms: wall_ms,
                disk_free_bytes: None,
                held: BTreeMap::new(),
                complete: false,
                load: NodeLoad::default(),
            })
        };
        let entry = self.nodes.entry(node.clone()).or_insert_with(fresh);
        if entry.incarnation != beat.incarnation {
            *entry = fresh();
        }
        let soft = Arc::make_mut(entry);
        soft.last_heartbeat_wall_ms = soft.last_heartbeat_wall_ms.max(wall_ms);
        soft.disk_free_bytes = beat.disk_free_bytes.or(soft.disk_free_bytes);
        if !beat.partial {
            soft.held.clear();
            soft.complete = true;
        }
        soft.held.extend(beat.shards.iter().map(|held| (held.id, *held)));
        !soft.complete
    }

    /// Takes the rates of the node's last heartbeat into the averages of the shards that it leads. Those of shards that it leads no
    /// more go on at their new primaries, as soon as these are heard.
    pub fn observe_load(&mut self, metadata: &Metadata, node: &NodeId, boot_ms: u64) {
        let Some(said) = self.nodes.get_mut(node).map(Arc::make_mut) else { return };
        let span = said.load.begin(boot_ms);
        let primary = |shard: ShardId| metadata.shard(shard).and_then(|row| row.primary.as_ref());
        let mut led = Vec::new();
        for held in said.held.values() {
            let told = Told { shard: held.id, reads: held.reads_per_s, writes: held.writes_per_s };
            let is_known = said.load.shards.contains_key(&held.id);
            if (is_known || !told.is_zero()) && primary(held.id) == Some(node) {
                led.push((told, is_known));
            }
        }
        let said = &*said;
        let is_led = |shard: &ShardId| primary(*shard) == Some(node) && said.held.contains_key(shard);
        let left: Vec<ShardId> = said.load.shards.keys().filter(|shard| !is_led(shard)).copied().collect();
        for shard in left {
            self.pass_load_on(node, primary(shard), shard);
        }
        for (told, is_known) in led {
            // After a failover the old primary may never be heard again.
            let inherited =
                || metadata.shard(told.shard)?.copies().find_map(|copy| self.load_of(copy, told.shard));
            let inherited = if is_known { None } else { inherited().copied() };
            let Some(said) = self.nodes.get_mut(node).map(Arc::make_mut) else { return };
            if let Some(load) = inherited {
                said.load.inherit(told.shard, load);
            }
            said.load.take_in(&told, span);
        }
    }

    fn load_of(&self, node: &NodeId, shard: ShardId) -> Option<&ShardLoad> {
        self.nodes.get(node)?.load.shards.get(&shard)
    }

    /// The averages of a shard go from `node` to its primary; they wait while that was not heard yet.
    fn pass_load_on(&mut self, node: &NodeId, primary: Option<&NodeId>, shard: ShardId) {
        let heir = primary.filter(|primary| *primary != node);
        if heir.is_some_and(|heir| !self.nodes.contains_key(heir)) {
            return;
        }
        let said = self.nodes.get_mut(node).map(Arc::make_mut);
        let load = said.and_then(|said| said.load.shards.remove(&shard));
        let heir = heir.and_then(|heir| self.nodes.get_mut(heir)).map(Arc::make_mut);
        if let (Some(load), Some(heir)) = (load, heir) {
            heir.load.inherit(shard, load);
        }
    }

    /// A node that is down tells no more: what others lead of its shards goes on there, and falls with what they tell.
    fn pass_on_loads_of_the_dead(&mut self, metadata: &Metadata) {
        let is_left = |row: &&NodeRow| {
            row.is_down() && self.nodes.get(&row.id).is_some_and(|said| !said.load.shards.is_empty())
        };
        let dead: Vec<NodeId> = metadata.nodes().filter(is_left).map(|row| row.id.clone()).collect();
        for node in dead {
            let shards =
                self.nodes.get(&node).map(|said| said.load.shards.keys().copied().collect::<Vec<_>>());
            for shard in shards.unwrap_or_default() {
                let primary = metadata.shard(shard).and_then(|row| row.primary.as_ref());
                if primary != Some(&node) {
                    self.pass_load_on(&node, primary, shard);
                }
            }
        }
    }

    /// Takes in what a node reported and was accepted: bytes copied, copies deleted or lost.
    pub fn observe_report(&mut self, node: &NodeId, report: &Report, boot_ms: u64) {
        if let Some(soft) = self.nodes.get_mut(node).filter(|_| report.retired || report.lost) {
            Arc::make_mut(soft).held.remove(&report.shard);
        }
        let progress = report.migration.and_then(|id| self.progress.get_mut(&id));
        let (Some(progress), Some(bytes_done)) = (progress, report.bytes_done) else { return };
        if progress.bytes_done == Some(bytes_done) && progress.bytes_total == report.bytes_total {
            return;
        }
        progress.observe_bytes(bytes_done, report.bytes_total, boot_ms);
    }

    /// Takes in what the replicated state says: registrations made elsewhere, nodes and migrations that went or moved on.
    pub fn observe_state(&mut self, metadata: &Metadata, boot_ms: u64) {
        // A name that was removed and came back counts its runs anew.
        let is_known = |node: &NodeId, run| metadata.node(node).is_some_and(|row| row.incarnation >= run);
        // Asked many times a second, and mostly nobody came or went. What a node said is there under a run of its lease.
        if !self.liveness.knows_just(metadata.nodes().map(|row| (&row.id, row.incarnation))) {
            self.nodes.retain(|node, said| is_known(node, said.incarnation));
            self.liveness.retain(is_known);
            for row in metadata.nodes() {
                self.observe_registration(&row.id, row.incarnation, boot_ms);
            }
        }
        self.pass_on_loads_of_the_dead(metadata);
        self.progress.retain(|id, _| metadata.migration(*id).is_some_and(|row| !row.phase.is_ended()));
        for row in metadata.active_migrations() {
            let fresh = |known: Option<&Progress>| Progress {
                phase: row.phase,
                updated_ms: row.updated_ms,
                bytes_done: known.and_then(|known| known.bytes_done),
                bytes_total: known.and_then(|known| known.bytes_total),
                bytes_per_s: known.map_or(0, |known| known.bytes_per_s),
                changed_boot_ms: boot_ms,
            };
            let known = self.progress.get(&row.id);
            if known.is_none_or(|known| known.phase != row.phase || known.updated_ms != row.updated_ms) {
                self.progress.insert(row.id, fresh(known));
            }
        }
    }

    /// Takes in what was decided about levelling; none of what was not looked at.
    pub fn observe_decision(&mut self, levelling: Option<bool>, load_watch: Option<LoadWatch>) {
        self.levelling = levelling.unwrap_or(self.levelling);
        self.load_watch = load_watch.unwrap_or(self.load_watch);
    }

    /// Whether others hear a node that is committed down: it lives, and this leader is cut off from it.
    pub fn is_heard_by_others(&self, row: &NodeRow) -> bool {
        row.is_down() && self.heard_of.has(row)
    }

    /// Stops granting to whoever was silent or behind for too long; not while the cluster is suspended, since nobody has a lease
    /// that could be waited out.
    pub fn stop_granting(&mut self, metadata: &Metadata, boot_ms: u64) {
        if !metadata.is_suspended() {
            self.liveness.stop_granting(boot_ms);
        }
    }

    /// Forgets what a node held under an older run or name.
    pub fn observe_registration(&mut self, node: &NodeId, incarnation: Incarnation, boot_ms: u64) {
        self.liveness.observe_registration(node, incarnation, boot_ms);
        if self.nodes.get(node).is_some_and(|soft| soft.incarnation < incarnation) {
            self.nodes.remove(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(incarnation: u64, partial: bool, shards: &[u32]) -> HeartbeatRequest {
        let shards =
            shards.iter().map(|id| HeldShard { id: ShardId(*id), size_bytes: 10, ..HeldShard::default() });
        HeartbeatRequest {
            incarnation: Incarnation(incarnation),
            installed_revision: Default::default(),
            partial,
            shards: shards.collect(),
            disk_free_bytes: None,
        }
    }

    #[test]
    fn all_copies_are_wanted_until_a_run_has_listed_them() {
        let (mut soft, node) = (Soft::default(), NodeId::new("a").unwrap());
        assert!(soft.observe_heartbeat(&node, &beat(1, true, &[1]), 5));
        assert!(!soft.observe_heartbeat(&node, &beat(1, false, &[2, 3]), 6));
        assert!(!soft.observe_heartbeat(&node, &beat(1, true, &[4]), 7));
        assert_eq!(soft.nodes[&node].size_bytes(), 30);
        assert!(soft.observe_heartbeat(&node, &beat(2, true, &[]), 8), "another run tells again");
        assert_eq!(soft.nodes[&node].held.len(), 0);
    }
    fn copying() -> Progress {
        Progress {
            phase: Phase::Copying,
            updated_ms: 0,
            bytes_done: None,
            bytes_total: None,
            bytes_per_s: 0,
            changed_boot_ms: 1_000,
        }
    }

    #[test]
    fn the_expected_time_falls_steadily_under_uneven_rates_and_ends_at_0() {
        const TOTAL: u64 = 20_000_000;
        let (mut progress, mut done, mut last_ms) = (copying(), 0, u64::MAX);
        for second in 1..=20_u64 {
            // 1 MB a second on average, by turns 1.5 and 0.5.
            done += if second % 2 == 1 { 1_500_000 } else { 500_000 };
            progress.observe_bytes(done, Some(TOTAL), 1_000 + 1_000 * second);
            let eta_ms = progress.eta_ms().unwrap();
            let fair_ms = (TOTAL - done) / 1_000;
            // By the last report alone it would go from 12 s to 36 s and back.
            assert!(eta_ms <= last_ms.saturating_add(2_000), "second {second}: {last_ms} to {eta_ms}");
            if second > 5 {
                assert!(eta_ms * 10 >= fair_ms * 8 && eta_ms * 10 <= fair_ms * 12, "{eta_ms} of {fair_ms}");
            }
            last_ms = eta_ms;
        }
        assert_eq!(last_ms, 0);
    }

    #[test]
    fn a_filling_that_begins_anew_keeps_the_rate() {
        let mut progress = copying();
        assert_eq!(progress.eta_ms(), None);
        progress.observe_bytes(4_000_000, Some(10_000_000), 5_000);
        assert_eq!(progress.eta_ms(), Some(6_000));
        progress.observe_bytes(1_000_000, Some(10_000_000), 6_000);
        assert_eq!(progress.eta_ms(), Some(9_000));
    }

    #[test]
    fn what_was_done_at_once_is_expected_at_once() {
        let mut progress = copying();
        progress.observe_bytes(0, Some(0), 1_000);
        assert_eq!(progress.eta_ms(), Some(0));
    }
}
