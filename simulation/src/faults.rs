//! What goes wrong, for how long, and how it is put right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use ruvector_cluster::client::ids::{NodeId, ShardId};
use serde_json::json;

use crate::api::Ask;
use crate::cluster::Cluster;
use crate::control::{ControlNode, End};
use crate::data::node::DataNode;
use crate::net::Quality;

/// How long an operator tries.
const OPERATOR: Duration = Duration::from_secs(20);

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[doc = $doc])* $name,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

kinds! {
    /// A control node's process is killed.
    ControlKill,
    /// A control node loses power.
    ControlPowerLoss,
    /// A control node loses power in the midst of one of its next disk operations.
    ControlCrashAtDiskOp,
    /// Every machine loses power at once.
    PowerLossOfAll,
    /// A control node stands still.
    ControlPause,
    /// A control node's syncs take long.
    ControlSlowDisk,
    /// A control node's disk does not answer for a while.
    ControlStalledDisk,
    /// A control node's disk fails a sync, a write or a read.
    ControlDiskError,
    /// A control node's disk is full for a while.
    ControlDiskFull,
    /// A machine's time of day jumps.
    WallClockJump,
    /// The leader hands over on an operator's wish.
    LeaderTransfer,
    /// A control node is removed for good, and another one takes its place.
    MemberReplaced,
    /// A machine is cut off from all others.
    Isolation,
    /// The machines fall into two parts.
    Partition,
    /// A machine's messages do not arrive; others' reach it.
    OneWayCut,
    /// Single links are cut.
    PartialCut,
    /// The network is much worse for a while.
    BadNetwork,
    /// A data node's process is killed.
    DataKill,
    /// A data node stands still.
    DataPause,
    /// A data node loses its disk.
    DataWipe,
    /// A data node's copies fail.
    DataStoreFails,
    /// A data node's syncs take long.
    DataSlowDisk,
    /// A data node's disk is full for a while.
    DataDiskFull,
    /// An operator moves a shard.
    Migration,
    /// An operator drains a data node, and changes his mind.
    Drain,
    /// An operator asks for a rebalancing.
    Rebalance,
}

/// Injects faults and counts them.
pub struct Faults {
    cluster: Arc<Cluster>,
    counts: Mutex<BTreeMap<FaultKind, u64>>,
}

impl Faults {
    /// None yet.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self { cluster, counts: Mutex::default() })
    }

    /// How many there were of each kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<FaultKind, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn between(&self, low: u64, high: u64) -> u64 {
        self.cluster.world.chance.between(low, high)
    }

    async fn wait(&self, low_ms: u64, high_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.between(low_ms, high_ms))).await;
    }

    fn any_control(&self) -> Option<Arc<ControlNode>> {
        self.cluster.world.chance.pick(&self.cluster.control()).cloned()
    }

    fn any_data(&self) -> usize {
        usize::try_from(self.between(0, self.cluster.data_nodes().saturating_sub(1) as u64)).unwrap_or(0)
    }

    /// One fault, from its beginning to its end. Counted when it took effect.
    pub async fn inject(self: Arc<Self>, kind: FaultKind) {
        self.cluster.world.trace.note(&["fault", &format!("{kind:?}")]);
        let took_effect = match kind {
            FaultKind::ControlKill => self.control_ends(End::Kill).await,
            FaultKind::ControlPowerLoss => self.control_ends(End::PowerLoss).await,
            FaultKind::ControlCrashAtDiskOp => self.crash_at_disk_op().await,
            FaultKind::PowerLossOfAll => self.power_loss_of_all().await,
            FaultKind::ControlPause => self.control_pause().await,
            FaultKind::ControlSlowDisk
            | FaultKind::ControlStalledDisk
            | FaultKind::ControlDiskError
            | FaultKind::ControlDiskFull => self.disk_fault(kind).await,
            FaultKind::WallClockJump => self.jump_clock(),
            FaultKind::LeaderTransfer => self.transfer().await,
            FaultKind::MemberReplaced => self.replace_member().await,
            FaultKind::Isolation | FaultKind::Partition | FaultKind::OneWayCut | FaultKind::PartialCut => {
                self.cut(kind).await
            }
            FaultKind::BadNetwork => self.bad_network().await,
            FaultKind::DataKill => self.data_kill().await,
            FaultKind::DataPause => self.data_pause().await,
            FaultKind::DataWipe => self.data_wipe(),
            FaultKind::DataStoreFails => self.store_fails().await,
            FaultKind::DataSlowDisk => self.slow_store().await,
            FaultKind::DataDiskFull => self.full_store().await,
            FaultKind::Migration => self.migrate().await,
            FaultKind::Drain => self.drain().await,
            FaultKind::Rebalance => {
                let ask = Ask::write(Method::POST, "/v1/rebalance", Some(json!({})));
                self.cluster.operate(&ask).await.is_some_and(|reply| reply.status == 202)
            }
        };
        if took_effect {
            *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
        }
    }

    async fn control_ends(&self, how: End) -> bool {
        let Some(node) = self.any_control() else { return false };
        let ended = node.kill(how);
        self.wait(10, 6_000).await;
        node.start();
        ended
    }

    async fn crash_at_disk_op(&self) -> bool {
        let Some(node) = self.any_control() else { return false };
        let disk = node.disk();
        disk.die_after(self.between(1, 60));
        let died = tokio::time::timeout(Duration::from_secs(6), disk.died()).await.is_ok();
        node.kill(End::PowerLoss);
        self.wait(10, 3_000).await;
        node.start();
        died
    }

    async fn power_loss_of_all(&self) -> bool {
        let control = self.cluster.control();
        let lost = control.iter().filter(|node| node.kill(End::PowerLoss)).count();
        let all = self.cluster.data_nodes();
        for at in 0..all {
            self.cluster.with_data(at, |node| node.kill());
        }
        self.wait(10, 2_000).await;
        for node in control {
            node.start();
            self.wait(0, 300).await;
        }
        for at in 0..all {
            self.revive_data(at);
            self.wait(0, 300).await;
        }
        lost > 0
    }

    async fn control_pause(&self) -> bool {
        let Some(node) = self.any_control() else { return false };
        let paused = node.set_paused(true);
        self.wait(50, 4_000).await;
        node.set_paused(false);
        paused
    }

    async fn disk_fault(&self, kind: FaultKind) -> bool {
        let Some(node) = self.any_control() else { return false };
        let draw = self.between(0, 2);
        let slow_ms = self.between(5, 150);
        let fails = kind == FaultKind::ControlDiskError;
        if fails {
            self.cluster.set_failing(&node.name, true);
        }
        if kind == FaultKind::ControlDiskFull {
            node.fill_disk();
        }
        node.with_disk(|disk| match (kind, draw) {
            (FaultKind::ControlSlowDisk, _) => disk.set_sync_time(Some(Duration::from_millis(slow_ms))),
            (FaultKind::ControlStalledDisk, _) => disk.set_stalled(true),
            (FaultKind::ControlDiskFull, _) => {}
            (_, 0) => disk.fail_syncs(),
            (_, 1) => disk.fail_writes(),
            (_, _) => disk.fail_reads(),
        });
        self.wait(50, 4_000).await;
        node.heal_disk();
        if fails {
            self.cluster.set_failing(&node.name, false);
        }
        node.is_up()
    }

    fn jump_clock(&self) -> bool {
        let by_ms = i64::try_from(self.between(0, 7_200_000)).unwrap_or(0) - 3_600_000;
        if self.between(0, 1) == 0 {
            self.any_control().iter().for_each(|node| node.clock().jump_wall(by_ms));
        } else {
            self.cluster.with_data(self.any_data(), |node| node.machine().clock.jump_wall(by_ms));
        }
        true
    }

    async fn transfer(&self) -> bool {
        let ask = Ask::write(Method::POST, "/v1/leader/transfer", Some(json!({})));
        self.cluster.operate(&ask).await.is_some_and(|reply| reply.status == 200)
    }

    async fn replace_member(&self) -> bool {
        let Some(node) = self.any_control() else { return false };
        let others_up = self.cluster.control().iter().all(|other| other.is_up());
        if !others_up || !self.cluster.may_replace() {
            return false;
        }
        node.kill(End::PowerLoss);
        let ask = Ask::write(Method::DELETE, format!("/v1/members/{}", node.name), None);
        // Gone already is fine, too: an earlier try had no answer.
        let gone = |reply: &crate::api::Reply| reply.status == 200 || reply.status == 404;
        let is_gone = self.cluster.insist_for(&ask, OPERATOR, gone).await.is_some();
        if is_gone {
            self.cluster.replace_control(&node).start();
        } else {
            node.start();
        }
        is_gone
    }

    async fn cut(&self, kind: FaultKind) -> bool {
        let (net, names) = (&self.cluster.world.net, self.cluster.names());
        let chance = &self.cluster.world.chance;
        let Some(one) = chance.pick(&names).cloned() else { return false };
        let side: Vec<bool> = names.iter().map(|_| chance.per_mille(400)).collect();
        let mut links = Vec::new();
        for (from, from_side) in names.iter().zip(&side) {
            for (to, to_side) in names.iter().zip(&side) {
                let is_cut = match kind {
                    FaultKind::Isolation => *from == one || *to == one,
                    FaultKind::Partition => from_side != to_side,
                    FaultKind::OneWayCut => *from == one,
                    _ => chance.per_mille(200),
                };
                if from != to && is_cut {
                    links.push((from, to));
                }
            }
        }
        links.iter().for_each(|(from, to)| net.set_cut(from, to, true));
        self.wait(50, 5_000).await;
        links.iter().for_each(|(from, to)| net.set_cut(from, to, false));
        !links.is_empty()
    }

    async fn bad_network(&self) -> bool {
        let net = &self.cluster.world.net;
        let slowest = self.between(1_000, 30_000);
        net.set_quality(Quality {
            delay_us: (50, slowest),
            straggle_per_mille: 50,
            loss_per_mille: u32::try_from(self.between(1, 100)).unwrap_or(1),
            repeat_per_mille: 100,
        });
        self.wait(100, 4_000).await;
        net.set_quality(self.cluster.world.plan.quality);
        true
    }

    fn revive_data(&self, at: usize) {
        self.cluster.with_data(at, |node| {
            if !node.is_running() {
                *node = node.restart();
            }
        });
    }

    async fn data_kill(&self) -> bool {
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

    async fn data_pause(&self) -> bool {
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
    fn can_be_spared(&self, at: usize) -> bool {
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

    fn data_wipe(&self) -> bool {
        let at = self.any_data();
        let spared = self.can_be_spared(at);
        if spared {
            self.cluster.with_data(at, |node| *node = node.restart_wiped());
        }
        spared
    }

    async fn store_fails(&self) -> bool {
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

    async fn slow_store(&self) -> bool {
        let at = self.any_data();
        let slowest = self.between(2_000, 400_000);
        self.cluster.with_data(at, |node| node.machine().disk.set_sync_us((500, slowest)));
        self.wait(100, 5_000).await;
        self.cluster.with_data(at, |node| node.machine().disk.set_sync_us((50, 500)));
        true
    }

    async fn full_store(&self) -> bool {
        let at = self.any_data();
        self.cluster.with_data(at, |node| node.machine().disk.set_full(true));
        self.wait(100, 4_000).await;
        self.cluster.with_data(at, |node| node.machine().disk.set_full(false));
        true
    }

    async fn migrate(&self) -> bool {
        let shard = self.between(0, u64::from(self.cluster.world.plan.settings.num_shards) - 1);
        let Some(to) = self.cluster.world.chance.pick(&self.cluster.data_names()).cloned() else {
            return false;
        };
        let ask = Ask::write(Method::POST, "/v1/migrations", Some(json!({ "shard": shard, "to": to })));
        let Some(reply) = self.cluster.operate(&ask).await else { return false };
        if reply.status == 202 && self.between(0, 3) == 0 {
            self.wait(1, 300).await;
            let cancel = format!("/v1/migrations/{}", reply.body["id"].as_u64().unwrap_or(0));
            drop(self.cluster.operate(&Ask::write(Method::DELETE, cancel, None)).await);
        }
        reply.status == 202
    }

    async fn drain(&self) -> bool {
        let Some(node) = self.cluster.world.chance.pick(&self.cluster.data_names()).cloned() else {
            return false;
        };
        let path = format!("/v1/nodes/{node}/drain");
        let asked = self.cluster.operate(&Ask::write(Method::POST, path.clone(), Some(json!({})))).await;
        self.wait(500, 8_000).await;
        let undo = Ask::write(Method::DELETE, path, None);
        self.cluster.insist_for(&undo, OPERATOR, |reply| reply.status == 200).await;
        asked.is_some_and(|reply| reply.status == 200)
    }
}
