//! How much happened: a run, or a thousand, in which little happened shows nothing.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

use crate::data::record::{Record, Recorded, WriteOutcome as DataOutcome};
use crate::faults::FaultKind;
use crate::monitor::Monitor;
use crate::net::NetCounts;
use crate::record::History;
use ruvector_cluster_check::history::{MetadataAct, WriteOutcome};

/// Counts of one run, or summed over many.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Virtual time.
    pub simulated: Duration,
    /// Messages and other events in the trace.
    pub events: u64,
    /// Writes of metadata that were acknowledged, and those of which nobody knows.
    pub writes: (u64, u64),
    /// Reads of metadata that were answered.
    pub reads: u64,
    /// Writes of data that were acknowledged, and those of which nobody knows.
    pub data_writes: (u64, u64),
    /// Reads of data that were answered.
    pub data_reads: u64,
    /// Operations on data that were judged: not those on shards whose last copy was lost.
    pub judged: u64,
    /// Terms in which somebody led.
    pub elections: u64,
    /// Snapshots that a control node took over from another.
    pub snapshots_installed: u64,
    /// Clusters that were restored from a backup.
    pub restores: u64,
    /// States in which every invariant was checked.
    pub states: u64,
    /// By kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Lost, repeated, swallowed and late messages.
    pub net: NetCounts,
}

impl Stats {
    /// Of one run.
    #[must_use]
    pub fn of(
        history: &History,
        data: &[Record],
        monitor: &Monitor,
        faults: BTreeMap<FaultKind, u64>,
        net: NetCounts,
    ) -> Self {
        let mut stats = Self {
            elections: monitor.terms.len() as u64,
            states: monitor.states,
            faults,
            net,
            ..Self::default()
        };
        for op in &history.metadata {
            match &op.act {
                MetadataAct::Write { outcome: WriteOutcome::Acknowledged { .. }, .. } => stats.writes.0 += 1,
                MetadataAct::Write { outcome: WriteOutcome::Unknown, .. } => stats.writes.1 += 1,
                MetadataAct::Read { answer: Some(_), .. } => stats.reads += 1,
                MetadataAct::Write { .. } | MetadataAct::Read { .. } => {}
            }
        }
        for record in data {
            match &record.act {
                Recorded::Write { outcome: DataOutcome::Acknowledged { .. }, .. } => stats.data_writes.0 += 1,
                Recorded::Write { outcome: DataOutcome::Unknown, .. } => stats.data_writes.1 += 1,
                Recorded::Read(Some(_)) => stats.data_reads += 1,
                Recorded::Write { .. } | Recorded::Read(None) => {}
            }
        }
        stats
    }

    /// Operations that were answered.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.writes.0 + self.reads + self.data_writes.0 + self.data_reads
    }
}

impl AddAssign<&Self> for Stats {
    fn add_assign(&mut self, other: &Self) {
        self.simulated += other.simulated;
        self.events += other.events;
        self.writes.0 += other.writes.0;
        self.writes.1 += other.writes.1;
        self.reads += other.reads;
        self.data_writes.0 += other.data_writes.0;
        self.data_writes.1 += other.data_writes.1;
        self.data_reads += other.data_reads;
        self.judged += other.judged;
        self.elections += other.elections;
        self.snapshots_installed += other.snapshots_installed;
        self.restores += other.restores;
        self.states += other.states;
        for (kind, count) in &other.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        self.net.sent += other.net.sent;
        self.net.lost += other.net.lost;
        self.net.repeated += other.net.repeated;
        self.net.cut += other.net.cut;
        self.net.straggled += other.net.straggled;
    }
}
