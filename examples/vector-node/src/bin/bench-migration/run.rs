//! The benchmark in order: loading, the machine's own speed, a baseline, migrations, the two faults, the count of everything.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_local::narrator::{Narrator, count, spell};
use ruvector_cluster_local::processes::Processes;
use tokio::time::Instant;

use crate::client::DataClient;
use crate::cluster::Cluster;
use crate::faults::{Faults, Suffered};
use crate::history::History;
use crate::keys::Keys;
use crate::load::{self, Load, Targets};
use crate::moves::{Moved, Mover};
use crate::phases::PhaseWatch;
use crate::record::{Micros, Records, Sample, under_old_epochs};
use crate::report::Report;
use crate::verify::verify;
use crate::watchers;
use crate::yardstick::{self, Throughput};
use crate::{Args, COPIES, FAILURE_TIMEOUT, SHARDS, VECTOR_NODES};

/// Points a request while loading.
const BATCH: usize = 500;
/// Such requests at once.
const BATCHES: usize = 4;
/// How long it is tried out what the machine bears.
const TRIAL: Duration = Duration::from_secs(5);
/// How long the load goes on before anything moves.
const BASELINE: Duration = Duration::from_secs(20);
/// What is put off while loading is done before anything is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// Migrations between two lines that say so.
const TOLD_EVERY: usize = 10;

/// The cluster and whoever uses it.
struct Bench<'a> {
    narrator: Narrator,
    processes: &'a mut Processes,
    cluster: Cluster,
    client: DataClient,
    records: Records,
    targets: Targets,
    nodes: Vec<(NodeId, String)>,
}

/// What came of the migrations.
struct Moves {
    moved: Vec<Moved>,
    during: Vec<Sample>,
    took: Duration,
}

/// All of it.
pub(crate) async fn run(args: &Args, processes: &mut Processes) -> Result<Report> {
    let narrator = Narrator::start();
    narrator.say(format!(
        "3 control nodes and {VECTOR_NODES} vector nodes start: {SHARDS} shards, {COPIES} copies each, {} vectors of 128 \
         dimensions a shard",
        count(args.vectors)
    ));
    let cluster = Cluster::start(processes, VECTOR_NODES).await?;
    let records = Records::start();
    let client = DataClient::new(Arc::new(Keys::new(SHARDS, args.vectors)), records.clone())?;
    let node = |n: u16| Ok((NodeId::new(&format!("d{n}"))?, processes.vector_addr(n)));
    let nodes: Vec<(NodeId, String)> = (1..=VECTOR_NODES).map(node).collect::<Result<_>>()?;
    let targets = Targets::new(nodes.iter().map(|(_, addr)| addr.clone()).collect());
    let mut bench = Bench { narrator, processes, cluster, client, records, targets, nodes };
    bench.load_vectors().await.context("loading")?;
    let folder = args.work_dir.canonicalize()?;
    let (disk, loopback) = bench.measure_machine(&folder).await?;
    bench.play(args, yardstick::machine(&folder), disk, loopback).await
}

impl Bench<'_> {
    async fn load_vectors(&self) -> Result<()> {
        let (began, keys) = (Instant::now(), self.client.keys());
        let all: Vec<usize> = (0..keys.count()).collect();
        let mut batches = futures::stream::iter(all.chunks(BATCH))
            .map(async |batch| self.client.load(&self.targets.any(), batch).await.map(|()| batch.len()))
            .buffer_unordered(BATCHES)
            .map_err(anyhow::Error::msg);
        let (mut done, mut told) = (0, 0);
        while let Some(loaded) = batches.try_next().await? {
            done += loaded;
            if done * 4 / all.len() > told {
                told = done * 4 / all.len();
                let (done, all) = (count(done), count(all.len()));
                self.narrator
                    .say(format!("{done} of {all} vectors are written, after {}", spell(began.elapsed())));
            }
        }
        Ok(())
    }

    async fn measure_machine(&self, folder: &Path) -> Result<(Throughput, Throughput)> {
        tokio::time::sleep(SETTLE).await;
        let folder = folder.to_owned();
        let measure = move || Ok::<_, anyhow::Error>((yardstick::disk(&folder)?, yardstick::loopback()?));
        tokio::task::spawn_blocking(measure).await?
    }

    async fn play(
        &mut self,
        args: &Args,
        machine: String,
        disk: Throughput,
        loopback: Throughput,
    ) -> Result<Report> {
        self.records.set_going_on("finding out what the machine bears");
        let capacity = load::capacity(&self.client, &self.targets, TRIAL).await;
        let rate = capacity.share(args.load);
        let load = format!("{}; {} percent of what the machine bears", rate.spell(), args.load);
        self.narrator.say(format!("the load begins: {load}"));
        let running = Load::start(self.client.clone(), self.targets.clone(), rate);
        self.records.set_going_on("nothing moves");
        let from = self.records.now();
        tokio::time::sleep(BASELINE).await;
        let before = self.records.samples(from, self.records.now());
        let Moves { moved, during, took: moving_took } = self.move_primaries(args.migrations).await?;
        let until = self.records.now();
        let history = History::begin(&self.client)?;
        let (killed, paused) = self.inflict(&history).await?;
        running.stop().await;
        let last = self.records.now();
        self.narrator.say("the load ends; every vector is read again");
        self.records.set_going_on("everything is read again");
        let addrs: Vec<String> = self.nodes.iter().map(|(_, addr)| addr.clone()).collect();
        let verified = verify(&self.client, &self.targets, &history, &addrs).await?;
        let watchers = count(watchers::WATCHERS);
        self.narrator.say(format!("{watchers} clients watch while a node's labels are changed"));
        let (control, node) = (self.cluster.control(), &self.nodes[0].0);
        let watched = watchers::measure(control, self.processes.coordinators(), node).await?;
        let all = self.records.samples(0, Micros::MAX);
        let mut failures = self.records.failures(0, until);
        failures.extend(self.records.failures(last, Micros::MAX));
        let (stale, wrong_searches) = self.records.wrongs();
        Ok(Report {
            machine,
            failure_timeout_ms: FAILURE_TIMEOUT.as_secs_f64() * 1e3,
            load,
            moved,
            moving_took,
            before,
            during,
            answered: all.len(),
            failures,
            stale,
            wrong_searches,
            under_old_epochs: under_old_epochs(&all),
            history: history.judge(),
            killed,
            paused,
            verified,
            watched,
            disk,
            loopback,
        })
    }

    async fn move_primaries(&mut self, migrations: usize) -> Result<Moves> {
        let began = Instant::now();
        let phases = PhaseWatch::start(self.cluster.control().clone(), self.records.clone());
        let mover = Mover {
            cluster: &self.cluster,
            client: &self.client,
            phases: &phases,
            records: &self.records,
            nodes: &self.nodes,
        };
        let (mut moved, mut during) = (Vec::new(), Vec::new());
        for turn in 0..migrations {
            let one = mover.one(turn, self.processes).await?;
            let meanwhile = self.records.samples(one.span.0, one.span.1);
            during.extend(meanwhile.into_iter().filter(|sample| sample.shard != Some(one.migration.shard)));
            moved.push(one);
            if (turn + 1).is_multiple_of(TOLD_EVERY) {
                let worst = moved.iter().rev().take(TOLD_EVERY).map(|moved| moved.pause_ms);
                let worst = worst.fold(0.0, f64::max);
                self.narrator.say(format!(
                    "{} of {migrations} primaries moved; the longest pause of the last {TOLD_EVERY}: {worst:.0} ms",
                    turn + 1
                ));
            }
        }
        Ok(Moves { moved, during, took: began.elapsed() })
    }

    async fn inflict(&mut self, history: &History) -> Result<(Suffered, Suffered)> {
        let faults = Faults {
            narrator: self.narrator,
            cluster: &self.cluster,
            client: &self.client,
            targets: &self.targets,
            records: &self.records,
            history,
            nodes: &self.nodes,
        };
        let killed = faults.kill(self.processes).await?;
        Ok((killed, faults.pause(self.processes).await?))
    }
}
