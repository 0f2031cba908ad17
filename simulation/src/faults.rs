//! What goes wrong, for how long, and how it is put right.

mod data;
mod network;
mod operator;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::control::{ControlNode, End};

/// Longer than a lease, an election and a failover together (`Plan::settings`).
const BEYOND_LEASES_MS: (u64, u64) = (2_500, 7_000);

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
    /// The leader stands still, for longer than leases last.
    LeaderPause,
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
    /// A control node takes the seat of one that runs, by one change of the membership.
    MemberSwapped,
    /// A machine is cut off from all others.
    Isolation,
    /// The machines fall into two parts.
    Partition,
    /// A machine's messages do not arrive; others' reach it.
    OneWayCut,
    /// Single links are cut.
    PartialCut,
    /// The leader keeps some data nodes, and is cut off from everybody else, for longer than leases last.
    LeaderDeposed,
    /// What other control nodes send to one takes long.
    SlowLinks,
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
            FaultKind::ControlPause => self.control_pause(self.any_control(), (50, 4_000)).await,
            FaultKind::LeaderPause => self.control_pause(self.cluster.leader(), BEYOND_LEASES_MS).await,
            FaultKind::ControlSlowDisk
            | FaultKind::ControlStalledDisk
            | FaultKind::ControlDiskError
            | FaultKind::ControlDiskFull => self.disk_fault(kind).await,
            FaultKind::WallClockJump => self.jump_clock(),
            FaultKind::LeaderTransfer => self.transfer().await,
            FaultKind::MemberReplaced => self.replace_member().await,
            FaultKind::MemberSwapped => self.swap_member().await,
            FaultKind::Isolation | FaultKind::Partition | FaultKind::OneWayCut | FaultKind::PartialCut => {
                self.cut(kind).await
            }
            FaultKind::LeaderDeposed => self.depose_leader().await,
            FaultKind::SlowLinks => self.slow_links().await,
            FaultKind::BadNetwork => self.bad_network().await,
            FaultKind::DataKill => self.data_kill().await,
            FaultKind::DataPause => self.data_pause().await,
            FaultKind::DataWipe => self.data_wipe(),
            FaultKind::DataStoreFails => self.store_fails().await,
            FaultKind::DataSlowDisk => self.slow_store().await,
            FaultKind::DataDiskFull => self.full_store().await,
            FaultKind::Migration => self.migrate().await,
            FaultKind::Drain => self.drain().await,
            FaultKind::Rebalance => self.rebalance().await,
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

    async fn control_pause(&self, node: Option<Arc<ControlNode>>, (least_ms, most_ms): (u64, u64)) -> bool {
        let Some(node) = node else { return false };
        let paused = node.set_paused(true);
        self.wait(least_ms, most_ms).await;
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

    fn revive_data(&self, at: usize) {
        self.cluster.with_data(at, |node| {
            if !node.is_running() {
                *node = node.restart();
            }
        });
    }
}
