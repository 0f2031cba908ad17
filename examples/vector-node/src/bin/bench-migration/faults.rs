//! A primary's node that is killed, and one that is paused past its lease, both under load.
//!
//! Of each shard that the node led, a writer of its own finds out when writes are acknowledged again. While a node is paused,
//! clients go on sending requests to it alone: they wait in its socket, and once it goes on it must not answer them as the
//! primary that it no longer is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_local::narrator::{Narrator, spell};
use ruvector_cluster_local::processes::Processes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::DataClient;
use crate::cluster::{Cluster, led_by};
use crate::history::History;
use crate::keys::Written;
use crate::load::Targets;
use crate::record::{Records, Spread};

/// Clients of the history.
const CLIENTS: u32 = 6;
/// Before a write that failed is followed by another.
const RETRY: Duration = Duration::from_millis(5);
/// Between two requests to a paused node, for each of its shards.
const PROBE: Duration = Duration::from_millis(100);
/// One round of those in so many writes. What comes of writes that are given up is unknown, and an order of many such of one key
/// can't be searched.
const PROBE_WRITES_IN: usize = 10;
/// How long things go on before and after.
const CALM: Duration = Duration::from_secs(2);
/// Writes that are not acknowledged again after so long never are.
const RESUME_TIMEOUT: Duration = Duration::from_secs(60);

/// The cluster and its clients.
pub(crate) struct Faults<'a> {
    pub(crate) narrator: Narrator,
    pub(crate) cluster: &'a Cluster,
    pub(crate) client: &'a DataClient,
    pub(crate) targets: &'a Targets,
    pub(crate) records: &'a Records,
    pub(crate) history: &'a History,
    pub(crate) nodes: &'a [(NodeId, String)],
}

/// What came of a fault.
#[derive(Clone, Debug, Default)]
pub(crate) struct Suffered {
    /// From the fault to the first acknowledged write, in milliseconds, over the shards that the node led.
    pub(crate) resumed_ms: Spread,
    /// Requests that failed meanwhile.
    pub(crate) failed: usize,
    /// Requests that were sent to the paused node while it was.
    pub(crate) probes: usize,
}

impl Faults<'_> {
    /// Kills the node that leads the most shards, and starts it again.
    pub(crate) async fn kill(&self, processes: &mut Processes) -> Result<Suffered> {
        let (victim, addr, led) = self.victim().await?;
        let (stop, mut clients) = self.begin(&format!("{victim} is killed with SIGKILL"));
        tokio::time::sleep(CALM).await;
        let from = self.records.now();
        let killed = Instant::now();
        processes.kill(victim.as_str())?;
        self.targets.leave_out(&addr);
        self.narrator.say(format!("{victim}, which leads {} shards, is killed with SIGKILL", led.len()));
        let resumed_ms = self.resumed(&led, killed).await?;
        tokio::time::sleep(CALM).await;
        let to = self.records.now();
        processes.restart(victim.as_str())?;
        self.cluster.wait_for_rest(processes, self.node_count()).await?;
        self.targets.take_in(&addr);
        end(stop, &mut clients).await;
        self.say("killed", resumed_ms);
        Ok(Suffered { resumed_ms, failed: self.records.failures(from, to).len(), probes: 0 })
    }

    /// Pauses the node that leads the most shards until others lead them, and lets it go on.
    pub(crate) async fn pause(&self, processes: &mut Processes) -> Result<Suffered> {
        let (victim, addr, led) = self.victim().await?;
        let (stop, mut clients) = self.begin(&format!("{victim} is paused with SIGSTOP"));
        tokio::time::sleep(CALM).await;
        let from = self.records.now();
        let paused = Instant::now();
        processes.pause(victim.as_str())?;
        self.targets.leave_out(&addr);
        self.narrator.say(format!("{victim}, which leads {} shards, is paused with SIGSTOP", led.len()));
        let probing = Arc::new(AtomicBool::new(false));
        let probes = self.start_probes(&addr, &led, &probing);
        let resumed = self.resumed(&led, paused).await;
        tokio::time::sleep(CALM).await;
        // Whatever happens, it is not left paused.
        processes.resume(victim.as_str())?;
        let resumed_ms = resumed?;
        self.narrator.say(format!("{victim} goes on after {}", spell(paused.elapsed())));
        tokio::time::sleep(CALM).await;
        probing.store(true, Ordering::Relaxed);
        let probes = probes.await.context("the probes")?;
        let to = self.records.now();
        self.cluster.wait_for_rest(processes, self.node_count()).await?;
        self.targets.take_in(&addr);
        end(stop, &mut clients).await;
        self.say("paused", resumed_ms);
        Ok(Suffered { resumed_ms, failed: self.records.failures(from, to).len(), probes })
    }

    fn node_count(&self) -> u16 {
        u16::try_from(self.nodes.len()).unwrap_or(u16::MAX)
    }

    fn say(&self, what: &str, resumed_ms: Spread) {
        let Spread { count, p50, max, .. } = resumed_ms;
        self.narrator.say(format!(
            "writes to the {count} shards of the node that was {what} are acknowledged after {p50:.0} ms (median), the last \
             after {max:.0} ms; all copies are in sync again"
        ));
    }

    fn begin(&self, what: &str) -> (Arc<AtomicBool>, JoinSet<()>) {
        self.records.set_going_on(what);
        let stop = Arc::new(AtomicBool::new(false));
        let clients = self.history.start_clients(CLIENTS, self.client, self.targets, &stop);
        (stop, clients)
    }

    async fn victim(&self) -> Result<(NodeId, String, Vec<ShardId>)> {
        let map = self.cluster.map().await?;
        let leads = |node: &NodeId| led_by(&map, node);
        let (node, addr) = self.nodes.iter().max_by_key(|(node, _)| leads(node).len()).context("no node")?;
        let led = leads(node);
        ensure!(!led.is_empty(), "{node} leads no shard");
        Ok((node.clone(), addr.clone(), led))
    }

    /// How long after `since` a write of each of `shards` was acknowledged.
    async fn resumed(&self, shards: &[ShardId], since: Instant) -> Result<Spread> {
        let mut writers = JoinSet::new();
        for shard in shards {
            let (client, targets) = (self.client.clone(), self.targets.clone());
            let (history, process) = (self.history.clone(), self.history.process());
            let key = client.keys().judged(*shard).start;
            writers.spawn(async move {
                while history.write(&client, process, &targets.any(), key).await != Written::Yes {
                    tokio::time::sleep(RETRY).await;
                }
                since.elapsed().as_secs_f64() * 1e3
            });
        }
        let all = tokio::time::timeout(RESUME_TIMEOUT, writers.join_all()).await;
        Ok(Spread::of(all.context("some shard's writes are not acknowledged again")?))
    }

    /// Sends reads and writes of the shards to the node alone, until `stop`; says how many, once all were answered or given up.
    fn start_probes(
        &self,
        addr: &str,
        led: &[ShardId],
        stop: &Arc<AtomicBool>,
    ) -> tokio::task::JoinHandle<usize> {
        let (client, history) = (self.client.clone(), self.history.clone());
        let (addr, led, stop) = (addr.to_owned(), led.to_vec(), stop.clone());
        tokio::spawn(async move {
            let mut probes = JoinSet::new();
            let mut sent = 0;
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                for shard in &led {
                    // The first is for the writer that finds out when writes resume.
                    let keys = client.keys().judged(*shard).skip(1);
                    let key = keys.clone().nth(round % keys.len()).unwrap_or_default();
                    let (client, history, addr) = (client.clone(), history.clone(), addr.clone());
                    let process = history.process();
                    sent += 1;
                    probes.spawn(async move {
                        if round % PROBE_WRITES_IN == 0 {
                            history.write(&client, process, &addr, key).await;
                        } else {
                            history.read(&client, process, &addr, key).await;
                        }
                    });
                }
                tokio::time::sleep(PROBE).await;
            }
            probes.join_all().await;
            sent
        })
    }
}

async fn end(stop: Arc<AtomicBool>, clients: &mut JoinSet<()>) {
    stop.store(true, Ordering::Relaxed);
    while clients.join_next().await.is_some() {}
}
