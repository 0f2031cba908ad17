//! One run: a cluster starts, faults come while clients work, then everything heals, and all that was seen is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use ruvector_cluster::backup::read_from;
use ruvector_cluster::client::ids::ShardId;
use ruvector_cluster::client::wire::RebalancePolicy;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::api::Ask;
use crate::chance::Chance;
use crate::cluster::{Cluster, control_addresses};
use crate::control::{ControlNode, End, World};
use crate::data::client::{ClientParts, DataClient, Mix, read_all};
use crate::data::keys::{self, PlacedKey};
use crate::data::record::{Events, Recorder as DataRecorder};
use crate::faults::Faults;
use crate::judge;
use crate::monitor::Monitor;
use crate::net::{Net, Quality};
use crate::panics;
use crate::plan::Plan;
use crate::record::Recorder;
use crate::reference::Reference;
use crate::registers::{Client, Registers};
use crate::stats::Stats;
use crate::trace::Trace;
use crate::watcher::Watcher;
use ruvector_cluster_check::Violation;
use ruvector_cluster_check::history::WatchRecord;

/// Shared keys of each shard, and own keys of each client in it.
const KEYS: (usize, usize) = (2, 1);
/// The longest that faults go on after no new ones come.
const FAULTS_END: Duration = Duration::from_secs(60);
/// A control node that is no member after this time was removed, though whoever removed it was not told.
const JOINS_WITHIN: Duration = Duration::from_secs(10);
/// Clients that read at the end have this number and those above it.
const LAST_CLIENT: u32 = 900;

/// What came of a run.
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Of all that was sent and done: equal for equal seeds.
    pub trace: u64,
    /// Everything that is wrong.
    pub violations: Vec<Violation>,
    /// How much happened.
    pub stats: Stats,
}

/// Runs a seed from beginning to end, on this thread. `printed` prints each event.
///
/// # Panics
/// When the runtime cannot be built.
#[must_use]
pub fn run(seed: u64, printed: bool) -> Report {
    panics::begin();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime of one thread needs nothing that could be missing");
    let plan = Plan::of(seed);
    let mut report = runtime.block_on(inside(plan, printed));
    drop(runtime);
    let panicked = panics::end().into_iter();
    report.violations.extend(panicked.map(|detail| Violation { rule: "no-panic", detail }));
    report
}

/// The parts of a run in progress.
struct Run {
    cluster: Arc<Cluster>,
    faults: Arc<Faults>,
    registers: Registers,
    clients: Vec<JoinHandle<()>>,
    data: ClientParts,
    data_clients: Vec<DataClient>,
    watches: Vec<Arc<Mutex<WatchRecord>>>,
    watchers: JoinSet<()>,
    restored: u64,
    keys: Vec<PlacedKey>,
    monitor: Monitor,
}

async fn inside(plan: Plan, printed: bool) -> Report {
    let began = Instant::now();
    let (seed, chance) = (plan.seed, Chance::new(plan.seed));
    let (trace, recorder) = (Trace::new(printed), Recorder::default());
    let net = Net::new(chance.fork(), trace.clone());
    let world = World {
        net,
        chance,
        recorder: recorder.clone(),
        trace: trace.clone(),
        plan: Arc::new(plan),
        reference: Reference::default(),
    };
    let mut run = Run::new(world);
    run.cluster.start();
    run.found().await;
    if !recorder.is_broken() {
        run.work().await;
        run.meet_faults().await;
        run.heal().await;
    }
    let (hash, events) = trace.hash();
    let history = recorder.take();
    let lost = run.monitor.lost.clone();
    let data = run.data.recorder.records();
    let watches: Vec<WatchRecord> = run.watches.iter().map(|record| locked(record).clone()).collect();
    let mut stats =
        Stats::of(&history, &data, &run.monitor, run.faults.counts(), run.cluster.world.net.counts());
    stats.events = events;
    stats.restores = run.restored;
    stats.simulated = began.elapsed();
    stats.snapshots_installed = run.cluster.world.installs();
    stats.judged = data.iter().filter(|record| !lost.contains(&record.key.shard)).count() as u64;
    let watchable = run.cluster.world.reference.watchable();
    let mut violations = judge::judge(&history, &data, &watches, &lost, &watchable);
    let failures = run.cluster.failures.seen().into_iter();
    violations.extend(failures.map(|detail| Violation { rule: "data-node-failed", detail }));
    run.cluster.end();
    Report { seed, trace: hash, violations, stats }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shorter waits than an operator would set, so that a run sees what comes after them.
fn policy() -> Value {
    let policy = RebalancePolicy {
        down_grace_ms: 3_000,
        phase_timeout_ms: 8_000,
        mass_failure_hold_ms: 4_000,
        ..RebalancePolicy::default()
    };
    serde_json::to_value(policy).unwrap_or_default()
}

impl Run {
    fn new(world: World) -> Self {
        let cluster = Cluster::new(world.clone());
        let plan = world.plan.clone();
        let registers = Registers {
            addrs: cluster.addrs.clone(),
            late: cluster.late.clone(),
            nodes: (1..=plan.data_nodes.min(3)).map(|n| format!("d{n}")).collect(),
            policy: policy(),
            recorder: world.recorder.clone(),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let data = ClientParts {
            net: world.net.clone(),
            control: control_addresses(&plan),
            recorder: DataRecorder::new(Events::default()),
            failures: cluster.failures.clone(),
            mix: Mix::default(),
        };
        let shards = plan.settings.num_shards;
        let own = (1..=plan.clients.1).flat_map(|n| keys::own(shards, KEYS.1, u32::try_from(n).unwrap_or(0)));
        let keys = keys::shared(shards, KEYS.0).into_iter().chain(own).collect();
        let faults = Faults::new(cluster.clone());
        let monitor = Monitor::new(world);
        Self {
            cluster,
            faults,
            registers,
            clients: Vec::new(),
            data,
            data_clients: Vec::new(),
            watches: Vec::new(),
            watchers: JoinSet::new(),
            restored: 0,
            keys,
            monitor,
        }
    }

    fn world(&self) -> &World {
        &self.cluster.world
    }

    /// Looks at everything while `future` runs.
    async fn watching<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        loop {
            let paused = self.monitor.pause();
            tokio::select! {
                biased;
                () = paused => {}
                output = &mut future => return output,
            }
            self.cluster.revive();
            self.monitor.look(&self.cluster.control());
            self.monitor.look_at_data(&self.cluster);
        }
    }

    /// Waits until the cluster is founded, and every shard has its copies.
    async fn found(&mut self) {
        if self.world().plan.rough_founding {
            self.disturb_founding().await;
        }
        let cluster = self.cluster.clone();
        let bound = self.world().plan.heal_time;
        let healthy = async move {
            let ask = Ask::get("/v1/health");
            let fine = |reply: &crate::api::Reply| reply.body["status"] == "healthy";
            while cluster.insist(&ask, 1, fine).await.is_none() {}
        };
        if self.watching(timeout(bound, healthy)).await.is_err() {
            self.stuck("the cluster did not become healthy at its start").await;
        }
        let ask = Ask::write(Method::PUT, "/v1/rebalance/policy", Some(policy()));
        let cluster = self.cluster.clone();
        let set = async move { cluster.insist(&ask, 50, |reply| reply.status == 200).await };
        if self.watching(set).await.is_none() {
            self.stuck("the policy could not be set").await;
        }
    }

    /// Control nodes lose their power while they look for each other and promise themselves.
    async fn disturb_founding(&mut self) {
        let (world, chance) = (self.world().clone(), self.world().chance.clone());
        world.net.set_quality(world.plan.quality);
        for _ in 0..chance.between(1, 6) {
            let pause = Duration::from_millis(chance.between(1, 400));
            self.watching(tokio::time::sleep(pause)).await;
            let Some(node) = chance.pick(&self.cluster.control()).cloned() else { continue };
            node.kill(End::PowerLoss);
            let pause = Duration::from_millis(chance.between(1, 200));
            self.watching(tokio::time::sleep(pause)).await;
            node.start();
        }
        world.net.set_quality(Quality::GOOD);
    }

    /// Says what stands still, with what the cluster says of itself.
    async fn stuck(&mut self, what: &str) {
        let mut seen = Vec::new();
        for path in ["/v1/health", "/v1/migrations?active=true", "/v1/cluster?consistency=stale"] {
            let reply = self.cluster.operate(&Ask::get(path)).await;
            seen.push(reply.map_or_else(|| "no answer".to_owned(), |reply| reply.body.to_string()));
        }
        let shards = self
            .cluster
            .newest_state()
            .map(|state| state.shards().map(|row| format!("{row:?}")).collect::<Vec<_>>().join("\n  "));
        let detail = format!("{what}: {}\n  {}", seen.join(" "), shards.unwrap_or_default());
        self.world().recorder.violation("progress", detail);
    }

    /// Starts all clients.
    async fn work(&mut self) {
        let (world, plan) = (self.world().clone(), self.world().plan.clone());
        world.net.set_quality(plan.quality);
        for n in 1..=u32::try_from(plan.clients.0).unwrap_or(1) {
            let client = Client::new(self.registers.clone(), &world.net, world.chance.fork(), n);
            self.clients.push(tokio::spawn(client.run()));
        }
        for n in 1..=u32::try_from(plan.clients.1).unwrap_or(1) {
            let own = |key: &PlacedKey| key.owner.is_none_or(|owner| owner == n);
            let keys = self.keys.iter().filter(|key| own(key)).cloned().collect();
            self.data_clients.push(DataClient::start(n, &self.data, keys, world.chance.fork()));
        }
        for n in 1..=u32::try_from(plan.clients.2).unwrap_or(1) {
            let watcher = Watcher::new(self.cluster.addrs.clone(), &world.net, world.chance.fork(), n);
            self.watches.push(watcher.record.clone());
            self.watchers.spawn(watcher.run());
        }
    }

    /// Faults come, one upon the other.
    async fn meet_faults(&mut self) {
        let (world, faults) = (self.world().clone(), self.faults.clone());
        let until = Instant::now() + world.plan.unsafe_time;
        let mut under_way = JoinSet::new();
        while Instant::now() < until {
            let every = world.plan.fault_every_ms;
            let pause = Duration::from_millis(world.chance.between(every / 4, every * 2));
            self.watching(tokio::time::sleep(pause)).await;
            let Some(kind) = world.chance.pick(&world.plan.faults).copied() else { break };
            under_way.spawn(faults.clone().inject(kind));
            while under_way.try_join_next().is_some() {}
        }
        // Each puts right what it did; none lasts for long.
        let ending = timeout(FAULTS_END, async { while under_way.join_next().await.is_some() {} });
        if self.watching(ending).await.is_err() {
            self.stuck("a fault did not end").await;
        }
    }

    /// Everything works again: so must the cluster, and nothing may be missing.
    async fn heal(&mut self) {
        self.world().trace.note(&["healing"]);
        self.cluster.heal();
        let bound = self.world().plan.heal_time;
        if self.watching(timeout(bound, mend(self.cluster.clone()))).await.is_err() {
            self.stuck("the cluster did not become healthy after everything had healed").await;
        }
        self.registers.stop.store(true, Ordering::Relaxed);
        let (clients, data_clients) =
            (std::mem::take(&mut self.clients), std::mem::take(&mut self.data_clients));
        let ending = async move {
            for client in clients {
                // A client that panicked is told of as such.
                drop(client.await);
            }
            for client in data_clients {
                client.stop().await;
            }
        };
        self.watching(ending).await;
        self.watchers.abort_all();
        self.read_back(bound).await;
        if self.world().plan.restores && !self.world().recorder.is_broken() {
            self.restore(bound).await;
        }
        self.watching(tokio::time::sleep(Duration::from_secs(1))).await;
        self.monitor.look_at_rest(&self.cluster.control());
    }

    /// The control nodes are lost, and a backup is all there is of them; data was written after it.
    async fn restore(&mut self, bound: Duration) {
        let cluster = self.cluster.clone();
        let taking = async move {
            let fine = |reply: &crate::api::Reply| reply.status == 200;
            cluster.insist(&Ask::get("/v1/snapshot"), 50, fine).await
        };
        let backup = self.watching(taking).await.map(|reply| read_from("the backup", &reply.bytes[..]));
        let backup = match backup {
            Some(Ok(backup)) => backup,
            Some(Err(error)) => return self.stuck(&format!("a backup is not one: {error:?}")).await,
            None => return self.stuck("no backup was to be had").await,
        };
        self.write_more().await;
        let nodes = self.cluster.renew_control();
        if let Some(first) = nodes.first()
            && let Err(why) = self.watching(first.restore(backup)).await
        {
            return self.stuck(&format!("a backup was not restored: {why}")).await;
        }
        nodes.iter().for_each(|node| node.start());
        let cluster = self.cluster.clone();
        let resuming = timeout(bound, async move {
            let ask = Ask::write(Method::POST, "/v1/cluster/resume", Some(json!({})));
            cluster.insist(&ask, u32::MAX, |reply| reply.status == 200).await;
            mend(cluster).await;
        });
        if self.watching(resuming).await.is_err() {
            return self.stuck("a restored cluster did not become healthy").await;
        }
        self.restored += 1;
        self.read_back(bound).await;
    }

    /// Writes that the backup knows nothing of.
    async fn write_more(&mut self) {
        let number = LAST_CLIENT + 2;
        let shared = self.keys.iter().filter(|key| key.owner.is_none()).cloned().collect();
        let client = DataClient::start(number, &self.data, shared, self.world().chance.fork());
        self.watching(tokio::time::sleep(Duration::from_secs(2))).await;
        self.watching(client.stop()).await;
    }

    async fn read_back(&mut self, bound: Duration) {
        let (registers, world) = (self.registers.clone(), self.world().clone());
        let number = LAST_CLIENT + 10 * u32::try_from(self.restored).unwrap_or(0);
        let mut last = Client::new(registers, &world.net, world.chance.fork(), number);
        let addrs = locked(&self.cluster.addrs).clone();
        let all = async { while !last.round(&addrs).await {} };
        if self.watching(timeout(bound, all)).await.is_err() {
            self.stuck("a register could not be written and read at each control node").await;
        }
        let (data, keys) = (self.data.clone(), self.keys.clone());
        let reading = read_all(number + 1, &data, keys, world.chance.fork(), bound);
        if let Err(unread) = self.watching(reading).await {
            self.stuck(&format!("keys could not be read: {unread}")).await;
        }
    }
}

/// What an operator does once the machines run again, until the cluster says that it is well.
async fn mend(cluster: Arc<Cluster>) {
    for node in cluster.data_names() {
        let ask = Ask::write(Method::DELETE, format!("/v1/nodes/{node}/drain"), None);
        cluster.insist(&ask, u32::MAX, |reply| reply.status == 200).await;
    }
    let began = Instant::now();
    loop {
        cluster.heal();
        let outside = no_members(&cluster).await;
        if began.elapsed() > JOINS_WITHIN {
            replace_removed(&cluster, outside.as_deref().unwrap_or_default());
        }
        let complete = outside.is_some_and(|outside| outside.is_empty());
        let healthy = cluster.operate(&Ask::get("/v1/health")).await;
        let active = cluster.operate(&Ask::get("/v1/migrations?active=true")).await;
        let idle = active.is_some_and(|reply| reply.body["migrations"].as_array().is_some_and(Vec::is_empty));
        if complete && idle && healthy.is_some_and(|reply| reply.body["status"] == "healthy") {
            return;
        }
        force_lost(&cluster).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The control nodes that are no members, be it any more or not yet; `None` where nobody says.
async fn no_members(cluster: &Cluster) -> Option<Vec<Arc<ControlNode>>> {
    let reply = cluster.operate(&Ask::get("/v1/cluster")).await?;
    let members = reply.body["members"].as_array()?;
    let names: BTreeSet<&str> = members.iter().filter_map(|member| member["id"].as_str()).collect();
    let control = cluster.control().into_iter();
    Some(control.filter(|node| !names.contains(node.name.as_str())).collect())
}

/// Control nodes that are no members any more make way for others that join.
fn replace_removed(cluster: &Cluster, outside: &[Arc<ControlNode>]) {
    for node in outside.iter().filter(|node| node.was_member()) {
        node.kill(End::PowerLoss);
        cluster.replace_control(node).start();
    }
}

/// A shard whose last in-sync copy was lost waits for somebody to give it up.
async fn force_lost(cluster: &Cluster) {
    let Some(state) = cluster.newest_state() else { return };
    let lost: BTreeSet<ShardId> = state.shards().filter(|row| row.lost).map(|row| row.id).collect();
    let mut nodes = BTreeMap::new();
    for row in state.shards().filter(|row| lost.contains(&row.id)) {
        nodes.extend(row.primary.clone().map(|primary| (row.id, primary)));
    }
    for (shard, node) in nodes {
        let body = json!({ "node": node, "accept_data_loss": true });
        let path = format!("/v1/shards/{shard}/force-primary");
        drop(cluster.operate(&Ask::write(Method::POST, path, Some(body))).await);
    }
}
