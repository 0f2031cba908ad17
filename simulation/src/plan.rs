//! What a seed makes of a run: how large the cluster is, how long it runs, and which faults it meets how often.
//!
//! Each run leaves some kinds of faults out (Groce et al., "Swarm testing", 2012): those that are left get further.

use std::time::Duration;

use ruvector_cluster::metadata::Settings;
use ruvector_cluster_raft::Compaction;

use crate::chance::Chance;
use crate::control::hash_of;
use crate::faults::FaultKind;
use crate::net::Quality;

/// A run, before it begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// From which all else follows.
    pub seed: u64,
    /// Control nodes that found the cluster: 3 or 5.
    pub control_nodes: usize,
    /// One control node more than that is fresh when they found it; they have different seeds, the network is as bad as later,
    /// and they lose their power meanwhile.
    pub rough_founding: bool,
    /// How many founders the control nodes are told to expect; otherwise all of their seeds.
    pub expects: Option<usize>,
    /// Data nodes, on three racks in turn.
    pub data_nodes: usize,
    /// What the cluster is founded with.
    pub settings: Settings,
    /// How often snapshots are made.
    pub compaction: Compaction,
    /// Clients of the control cluster, of the data nodes, and watchers.
    pub clients: (usize, usize, usize),
    /// How long faults come.
    pub unsafe_time: Duration,
    /// The longest that healing may take.
    pub heal_time: Duration,
    /// Between two faults, on average, in milliseconds.
    pub fault_every_ms: u64,
    /// Which faults come, each as often as it stands here.
    pub faults: Vec<FaultKind>,
    /// How well the network works while faults come.
    pub quality: Quality,
    /// At the end the control nodes are lost with their disks, and a backup is restored.
    pub restores: bool,
}

impl Plan {
    /// The run of `seed`.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let chance = Chance::new(seed ^ 0x9e37_79b9_7f4a_7c15);
        // By its name, so that a new one leaves the others of a seed as they are.
        let comes = |name: &str, per_mille: u32| {
            Chance::new(hash_of(&[&seed.to_le_bytes(), name.as_bytes()])).per_mille(per_mille)
        };
        let some = |kind: &FaultKind| comes(&format!("{kind:?}"), 600);
        let mut faults: Vec<FaultKind> = FaultKind::ALL.iter().copied().filter(some).collect();
        if faults.is_empty() {
            faults.push(FaultKind::ControlPowerLoss);
        }
        let replication_factor = if chance.per_mille(750) { 3 } else { 2 };
        let control_nodes = if chance.per_mille(700) { 3 } else { 5 };
        let rough_founding = comes("rough-founding", 250);
        let expects = (rough_founding && comes("expects", 500)).then_some(control_nodes);
        Self {
            seed,
            control_nodes,
            rough_founding,
            expects,
            data_nodes: usize::try_from(chance.between(4, 6)).unwrap_or(4),
            settings: Settings {
                num_shards: u32::try_from(chance.between(3, 8)).unwrap_or(3),
                replication_factor,
                failure_timeout_ms: 2_000,
                lease_ms: 1_600,
                heartbeat_interval_ms: 300,
            },
            compaction: Compaction {
                snapshot_every_entries: chance.between(60, 300),
                keep_entries: chance.between(10, 100),
            },
            clients: (3, 3, 2),
            unsafe_time: Duration::from_millis(chance.between(20_000, 40_000)),
            heal_time: Duration::from_secs(90),
            fault_every_ms: chance.between(300, 2_500),
            faults,
            quality: quality(&chance),
            restores: chance.per_mille(250),
        }
    }
}

fn quality(chance: &Chance) -> Quality {
    let some = |per_mille: u32, most: u64| {
        if chance.per_mille(per_mille) { u32::try_from(chance.between(1, most)).unwrap_or(0) } else { 0 }
    };
    let slowest = chance.between(300, 4_000);
    Quality {
        delay_us: (50, slowest),
        straggle_per_mille: some(500, 30),
        loss_per_mille: some(500, 15),
        repeat_per_mille: some(500, 30),
    }
}
