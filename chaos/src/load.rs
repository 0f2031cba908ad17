//! Everybody who uses the cluster: data nodes, watchers and the monitor for as long as the run takes, clients in stretches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ruvector_cluster_check::history::WatchRecord;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::{Api, Ask};
use crate::chance::Chance;
use crate::clients::{Client, POLICY_PATH, Registers};
use crate::cluster::{Cluster, SHARDS};
use crate::monitor::{self, Looks};
use crate::watcher::Watcher;
use crate::{data, judge};
use ruvector_cluster_check::Violation;

const WATCHERS: u32 = 3;
const DATA_NODES: u32 = 4;
/// Enough for anything that has only to be asked for.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Who uses a cluster.
pub(crate) struct Load {
    registers: Registers,
    chance: Chance,
    /// Clients at once.
    clients: u32,
    numbered: u32,
    pub(crate) looks: Looks,
    watches: Vec<Arc<Mutex<WatchRecord>>>,
    stretch: JoinSet<()>,
    // Ends with it.
    _tasks: JoinSet<()>,
}

impl Load {
    /// Registers data nodes with a cluster that serves, and begins to watch; clients come later.
    pub(crate) async fn start(cluster: &Cluster, clients: u32, chance: Chance) -> Result<Self> {
        let nodes: Vec<String> = (1..=DATA_NODES).map(|n| format!("d{n}")).collect();
        let addrs = cluster.addrs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut tasks = JoinSet::new();
        data::start(&nodes, &addrs, SHARDS, &cluster.recorder, &mut tasks)?;
        for node in &nodes {
            let ask = Ask::get(format!("/v1/nodes/{node}"));
            let registered = cluster.insist(&ask, PATIENCE, |reply| reply.status == 200).await;
            registered.map_err(|e| anyhow!(e)).context("a data node does not register")?;
        }
        let ask = Ask::get(POLICY_PATH);
        let policy = cluster.insist(&ask, PATIENCE, |reply| reply.status == 200).await;
        let policy = policy.map_err(|e| anyhow!(e))?.body;
        let stop = Arc::new(AtomicBool::new(false));
        let (recorder, addrs) = (cluster.recorder.clone(), cluster.addrs.clone());
        let registers = Registers { addrs: addrs.clone(), nodes, policy, recorder: recorder.clone(), stop };
        let mut watches = Vec::new();
        for stream in 1..=WATCHERS {
            let watcher = Watcher::new(addrs.clone(), Api::new()?, chance.fork(), stream);
            watches.push(watcher.record.clone());
            tasks.spawn(watcher.run());
        }
        let looks = Looks::default();
        tasks.spawn(monitor::run(cluster.faces(), Api::new()?, recorder, looks.clone()));
        let (numbered, stretch) = (0, JoinSet::new());
        Ok(Self { registers, chance, clients, numbered, looks, watches, stretch, _tasks: tasks })
    }

    fn new_client(&mut self) -> Result<Client> {
        self.numbered += 1;
        Ok(Client::new(self.registers.clone(), Api::new()?, self.chance.fork(), self.numbered))
    }

    /// Clients begin.
    pub(crate) fn begin_stretch(&mut self) -> Result<()> {
        self.registers.stop.store(false, Ordering::Relaxed);
        for _ in 0..self.clients {
            let client = self.new_client()?;
            self.stretch.spawn(client.run());
        }
        Ok(())
    }

    /// Clients finish; every register is written and read at each control node; what was seen is judged. The cluster serves.
    pub(crate) async fn end_stretch(&mut self, cluster: &mut Cluster) -> Result<Vec<Violation>> {
        self.registers.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.stretch.join_next().await {
            ended.context("a client failed")?;
        }
        cluster.recorder.rests();
        self.read_everything_back(cluster).await?;
        self.wait_for("all control nodes have equal states", cluster, async |cluster| {
            let mut states = Vec::new();
            for node in cluster.members() {
                let ask = Ask::get("/v1/cluster?consistency=stale&state_hash=true");
                let reply = cluster.api.ask(&cluster.addr(node), &ask).await.map_err(|e| format!("{e:?}"))?;
                states.push((reply.body["revision"].clone(), reply.body["state_hash"].clone()));
            }
            if states.iter().all(|state| *state == states[0]) { Ok(()) } else { Err(format!("{states:?}")) }
        })
        .await;
        let written = cluster.recorder.acknowledged();
        let watches = self.watches.clone();
        self.wait_for("every watch tells what was written last", cluster, async |_| {
            let told: Vec<u64> = watches.iter().map(|watch| told_up_to(watch)).collect();
            if told.iter().all(|told| *told >= written) {
                Ok(())
            } else {
                Err(format!("{told:?} of {written}"))
            }
        })
        .await;
        cluster.check_processes();
        self.verdict(cluster).await
    }

    /// What the checkers say of what was seen so far.
    pub(crate) async fn verdict(&self, cluster: &Cluster) -> Result<Vec<Violation>> {
        let record =
            |watch: &Arc<Mutex<WatchRecord>>| watch.lock().unwrap_or_else(PoisonError::into_inner).clone();
        cluster.recorder.watches(self.watches.iter().map(record).collect());
        let history = cluster.recorder.so_far();
        Ok(tokio::task::spawn_blocking(move || judge::judge(&history)).await?)
    }

    async fn read_everything_back(&mut self, cluster: &mut Cluster) -> Result<()> {
        for node in cluster.members() {
            let started = Instant::now();
            // Each try is another client: one whose request had no answer may not know what it did.
            while !self.new_client()?.round(&cluster.addr(node)).await {
                if started.elapsed() > PATIENCE || cluster.recorder.is_broken() {
                    let detail = cluster.name(node);
                    cluster.recorder.violation("each control node takes writes and reads", detail);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn wait_for(
        &self,
        rule: &'static str,
        cluster: &Cluster,
        mut look: impl AsyncFnMut(&Cluster) -> Result<(), String>,
    ) {
        let started = Instant::now();
        while let Err(seen) = look(cluster).await {
            if started.elapsed() > PATIENCE {
                cluster.recorder.violation(rule, seen);
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn told_up_to(watch: &Mutex<WatchRecord>) -> u64 {
    use ruvector_cluster_check::history::WatchItem;
    let record = watch.lock().unwrap_or_else(PoisonError::into_inner);
    let told = record.items.iter().rev().map(|item| match item {
        WatchItem::From(revision) | WatchItem::Snapshot(revision) | WatchItem::Bookmark(revision) => {
            revision.0
        }
        WatchItem::Change(change) => change.revision.0,
        WatchItem::Compacted => 0,
    });
    told.take(1).next().unwrap_or(0)
}
