//! A cluster to test the shell with.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ruvector_cluster::config::{Config, LogFormat};
use ruvector_cluster::metadata::Settings;
use ruvector_cluster::server::{self, Parts};
use ruvector_cluster_client::ids::{Epoch, NodeId, ShardId};
use ruvector_cluster_client::wire::Role;
use ruvector_cluster_raft::{Compaction, Timing};
use ruvector_cluster_storage::{MemRows, OpenOptions, SimDisk};

use crate::chance::Chance;
use crate::data::client::{ClientParts, DataClient, Mix, read_all};
use crate::data::clock::SimClock;
use crate::data::failures::Failures;
use crate::data::keys::{self, PlacedKey};
use crate::data::node::{DataMachine, DataNode};
use crate::data::record::{Events, Record, Recorded, Recorder, WriteOutcome, wrong_reads_of_own_keys};
use crate::data::store::DataDisk;
use crate::host::Host;
use crate::net::Net;
use crate::trace::Trace;

const CONTROL: &str = "10.0.0.1:7000";
const NUM_SHARDS: u32 = 4;

pub(super) struct Cluster {
    pub(super) net: Net,
    pub(super) trace: Trace,
    pub(super) nodes: Vec<DataNode>,
    pub(super) recorder: Recorder,
    pub(super) keys: Vec<PlacedKey>,
    clients: Vec<DataClient>,
    parts: ClientParts,
    failures: Failures,
    chance: Chance,
    control: Control,
}

/// The control node: its process and what outlives that.
struct Control {
    host: Host,
    disk: SimDisk,
    rows: MemRows,
    clock: Arc<SimClock>,
}

impl Control {
    async fn start(&self, net: &Net, seed: u64) {
        let addr: SocketAddr = CONTROL.parse().unwrap();
        let config = Config {
            node_id: NodeId::new("n1").unwrap(),
            data_dir: PathBuf::from("n1"),
            listen: addr,
            peer_listen: SocketAddr::new(addr.ip(), 8_000),
            advertise: None,
            peer_advertise: None,
            seeds: Vec::new(),
            gossip: false,
            bootstrap_expect: None,
            settings: Settings {
                num_shards: NUM_SHARDS,
                replication_factor: 3,
                failure_timeout_ms: 5_000,
                lease_ms: 4_000,
                heartbeat_interval_ms: 1_000,
            },
            max_voters: 5,
            timing: Timing::default(),
            log: String::new(),
            log_format: LogFormat::Text,
        };
        let open = OpenOptions { raft_id: Some(11), ..OpenOptions::new("n1") };
        let parts = Parts {
            disk: Arc::new(self.disk.clone()),
            rows: Arc::new(self.rows.clone()),
            transport: net.transport(&self.host),
            clock: self.clock.clone(),
            gossip: None,
            open,
            compaction: Compaction::default(),
            seed: Some(seed),
            request_prefix: seed,
            observer: None,
        };
        let started = self.host.spawn(async move { server::start(&config, addr, parts).await });
        let running = started.await.unwrap().unwrap();
        net.listen_http(CONTROL, &self.host, running.router.clone());
        // It runs as long as its process.
        drop(self.host.spawn(async move {
            std::future::pending::<()>().await;
            drop(running);
        }));
    }
}

impl Cluster {
    pub(super) async fn start(seed: u64, mix: Mix) -> Self {
        let (trace, chance) = (Trace::new(std::env::var_os("SIMULATION_TRACE").is_some()), Chance::new(seed));
        let net = Net::new(chance.fork(), trace.clone());
        let clock = Arc::new(SimClock::new(1_000, 77));
        let control = Control { host: Host::new("n1"), disk: SimDisk::new(), rows: MemRows::new(), clock };
        control.start(&net, chance.bits()).await;
        let (failures, recorder) = (Failures::default(), Recorder::new(Events::default()));
        let nodes = (1..=3).map(|n| DataNode::start(&machine(n, &net, &chance, &failures))).collect();
        let parts = ClientParts {
            net: net.clone(),
            control: vec![CONTROL.to_owned()],
            recorder: recorder.clone(),
            failures: failures.clone(),
            mix,
        };
        let mut all = keys::shared(NUM_SHARDS, 2);
        (1..=2).for_each(|client| all.extend(keys::own(NUM_SHARDS, 1, client)));
        let clients =
            (1..=2).map(|number| DataClient::start(number, &parts, all.clone(), chance.fork())).collect();
        Self { net, trace, nodes, recorder, keys: all, clients, parts, failures, chance, control }
    }

    /// Waits for something, at most so many virtual seconds.
    pub(super) async fn until(&self, what: &str, bound_s: u64, holds: impl Fn(&Self) -> bool) {
        for _ in 0..bound_s * 50 {
            self.assert_one_primary_an_epoch();
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let statuses: Vec<_> = self.nodes.iter().map(DataNode::statuses).collect();
        let (counts, failures) = (self.recorder.counts(), self.failures.seen());
        let at_us = self.trace.now_us();
        panic!("waited for: {what}; at {at_us} us: {counts:?} {failures:?} {statuses:#?}");
    }

    pub(super) fn has_answered(writes: u64, reads: u64) -> impl Fn(&Self) -> bool {
        move |cluster| {
            let counts = cluster.recorder.counts();
            counts.acknowledged >= writes && counts.read >= reads
        }
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.recorder.records()
    }

    /// Which node serves `shard`, under which epoch.
    pub(super) fn primary(&self, shard: ShardId) -> Option<(usize, Epoch)> {
        let serving = self.nodes.iter().enumerate().filter_map(|(at, node)| {
            let status = node.statuses().remove(&shard)?;
            (status.serving && !node.host().is_paused()).then_some((at, status.epoch))
        });
        serving.max_by_key(|(_, epoch)| *epoch)
    }

    /// The epoch under which another node than `at` serves `shard`.
    pub(super) fn primary_but(&self, at: usize, shard: ShardId) -> Option<Epoch> {
        self.primary(shard).filter(|(other, _)| *other != at).map(|(_, epoch)| epoch)
    }

    /// Every shard has three full copies, of a primary and two replicas, with the same content.
    pub(super) fn is_whole(&self) -> bool {
        let full_role = |role| matches!(role, Some(Role::Primary | Role::Replica));
        let seated = self.nodes.iter().all(|node| {
            let statuses = node.statuses();
            statuses.len() == NUM_SHARDS as usize && statuses.values().all(|s| s.held && full_role(s.role))
        });
        let copies: Vec<_> = self.nodes.iter().map(|node| node.machine().disk.copies()).collect();
        let first = copies[0].iter().map(|(shard, copy)| (*shard, (copy.state.full, &copy.writes)));
        let first: BTreeMap<_, _> = first.collect();
        let equal = copies.iter().all(|copies| {
            let these = copies.iter().map(|(shard, copy)| (*shard, (copy.state.full, &copy.writes)));
            these.collect::<BTreeMap<_, _>>() == first
        });
        seated && equal && first.len() == NUM_SHARDS as usize && first.values().all(|(full, _)| *full)
    }

    /// Power is lost everywhere, and comes back.
    pub(super) async fn lose_power(&mut self, seed: u64) {
        self.control.host.kill();
        self.nodes.iter().for_each(DataNode::kill);
        self.control.disk = self.control.disk.crash(seed);
        self.control.rows = self.control.rows.crash(seed);
        self.control.host = Host::new("n1");
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.control.start(&self.net, self.chance.bits()).await;
        self.nodes = self.nodes.iter().map(DataNode::restart).collect();
    }

    /// Stops the clients, reads everything, waits until all copies are equal, and judges.
    pub(super) async fn finish(&mut self) {
        for client in self.clients.drain(..) {
            client.stop().await;
        }
        let reading =
            read_all(99, &self.parts, self.keys.clone(), self.chance.fork(), Duration::from_secs(120));
        reading.await.unwrap();
        self.until("all copies are equal", 240, Self::is_whole).await;
        assert_eq!(self.failures.seen(), Vec::<String>::new());
        let records = self.records();
        assert_epochs_never_fall(&records);
        assert_eq!(wrong_reads_of_own_keys(&records), Vec::<String>::new());
        for record in records.iter().filter(|record| record.client == 99) {
            let Recorded::Read(Some(found)) = &record.act else { continue };
            let written = |other: &&Record| {
                let value = match &other.act {
                    Recorded::Write { value, outcome } if *outcome != WriteOutcome::NotDone => value,
                    Recorded::Write { .. } | Recorded::Read(_) => return false,
                };
                other.key == record.key && *value == found.value
            };
            assert!(found.value.is_none() || records.iter().any(|other| written(&other)), "{record:?}");
        }
    }

    fn assert_one_primary_an_epoch(&self) {
        let mut seen = BTreeMap::new();
        for node in &self.nodes {
            for (shard, status) in node.statuses().into_iter().filter(|(_, status)| status.serving) {
                let other = seen.insert((shard, status.epoch), node.machine().node.clone());
                assert_eq!(other, None, "two serve {shard} under {:?}", status.epoch);
            }
        }
    }
}

fn machine(n: u64, net: &Net, chance: &Chance, failures: &Failures) -> DataMachine {
    DataMachine {
        node: NodeId::new(&format!("d{n}")).unwrap(),
        addr: format!("10.0.1.{n}:7100"),
        zone: None,
        rack: Some(format!("r{n}")),
        net: net.clone(),
        disk: DataDisk::new(chance.fork()),
        clock: Arc::new(SimClock::new(chance.between(976, 1_024), chance.between(0, 1_000_000))),
        control: vec![CONTROL.to_owned()],
        chance: chance.fork(),
        failures: failures.clone(),
        accept_data_loss: false,
    }
}

/// Whoever asks after an answer was given is answered under no lower epoch.
pub(super) fn assert_epochs_never_fall(records: &[Record]) {
    let mut answered: Vec<(ShardId, u64, u64, Epoch)> = Vec::new();
    for record in records {
        let epoch = match &record.act {
            Recorded::Write { outcome: WriteOutcome::Acknowledged { position, .. }, .. } => position.epoch,
            Recorded::Read(Some(found)) => found.epoch,
            Recorded::Write { .. } | Recorded::Read(None) => continue,
        };
        answered.push((record.key.shard, record.call, record.returned, epoch));
    }
    // In the order of returns: the highest epoch that was told before a call.
    answered.sort_by_key(|(_, _, returned, _)| *returned);
    for (at, (shard, call, _, epoch)) in answered.iter().enumerate() {
        let before = answered[..at].iter().filter(|(s, _, returned, _)| s == shard && returned < call);
        let highest = before.map(|(_, _, _, epoch)| *epoch).max().unwrap_or_default();
        assert!(highest <= *epoch, "{shard} was answered under {epoch:?} after {highest:?}");
    }
}
