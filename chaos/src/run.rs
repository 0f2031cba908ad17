//! A run: faults, one or two at a time, under load; after each period all is put right, and the cluster has to serve again.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::cluster::{Cluster, Plan};
use crate::disk::SmallDisk;
use crate::faults::{Faults, Kind};
use crate::load::Load;
use crate::record::{Recorder, Trace};
use crate::summary::Summary;

/// What was seen is judged at least so often.
const STRETCH: Duration = Duration::from_secs(300);
/// Between two messages of progress.
const TELL: Duration = Duration::from_secs(10);

/// What to do.
pub(crate) struct Task {
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) clients: u32,
    /// The control node's binary.
    pub(crate) program: PathBuf,
    /// Where nodes keep their files and logs.
    pub(crate) work: PathBuf,
    /// More flags, for all control nodes.
    pub(crate) flags: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// When there is no cluster to begin with, or a process can't be started.
pub(crate) async fn run(task: &Task) -> Result<Summary> {
    let recorder = Recorder::new(Trace::to(&task.work.join("trace.log"))?);
    let chance = Chance::new(task.seed);
    let (program, work, flags) = (task.program.clone(), task.work.clone(), task.flags.clone());
    let plan = Plan { program, work, founders: 3, spares: 1, flags };
    let mut cluster = Cluster::prepare(plan, recorder.clone()).await?;
    let mut kinds = task.kinds.clone();
    let mut not_permitted = Vec::new();
    if kinds.contains(&Kind::DiskFull) {
        match SmallDisk::mount(&task.work.join("small-disk")) {
            Ok(disk) => cluster.disk = Some(disk),
            Err(why) => {
                kinds.retain(|kind| *kind != Kind::DiskFull);
                not_permitted.push(format!("{}: {why}", Kind::DiskFull.name()));
            }
        }
    }
    println!("seed {}, files in {}", task.seed, task.work.display());
    cluster.heal()?;
    cluster.wait_until_it_serves().await;
    let load = Load::start(&cluster, task.clients, chance.fork()).await?;
    let faults = Faults::new(chance.fork());
    let begun = Instant::now();
    let mut run = Run { cluster, load, faults, chance, kinds, begun, told: begun };
    let mut found = Vec::new();
    while found.is_empty() && begun.elapsed() < task.duration {
        run.stretch(begun + task.duration).await?;
        found = run.end_stretch().await?;
    }
    Ok(Summary::of(recorder.so_far(), &run.faults, &run.load.looks, found, not_permitted, begun.elapsed()))
}

struct Run {
    cluster: Cluster,
    load: Load,
    faults: Faults,
    chance: Chance,
    kinds: Vec<Kind>,
    begun: Instant,
    told: Instant,
}

impl Run {
    async fn stretch(&mut self, deadline: Instant) -> Result<()> {
        let deadline = deadline.min(Instant::now() + STRETCH);
        self.load.begin_stretch()?;
        while Instant::now() < deadline && !self.cluster.recorder.is_broken() {
            self.period().await?;
            self.tell();
        }
        Ok(())
    }

    async fn end_stretch(&mut self) -> Result<Vec<ruvector_cluster_check::Violation>> {
        if self.cluster.recorder.is_broken() {
            // Clients are cut off here, so that registers are not read back; the rest is judged.
            return Ok(self.cluster.recorder.so_far().violations);
        }
        self.load.end_stretch(&mut self.cluster).await
    }

    /// One or two faults, then all is put right.
    async fn period(&mut self) -> Result<()> {
        self.chance.wait(100, 800).await;
        self.cluster.recorder.disturbed(true);
        let first = self.chance.pick(&self.kinds);
        for kind in first.into_iter().chain(self.second(first)) {
            self.faults.begin(&mut self.cluster, kind).await?;
            if !kind.is_of_members() {
                self.chance.wait(100, 2_500).await;
            }
            self.cluster.check_processes();
        }
        self.cluster.heal()?;
        if self.cluster.wait_until_it_serves().await {
            self.cluster.recorder.disturbed(false);
        }
        Ok(())
    }

    fn second(&self, first: Option<Kind>) -> Option<Kind> {
        let alone = first.is_none_or(Kind::is_of_members) || self.chance.percent(50);
        self.chance.pick(&self.kinds).filter(|kind| !alone && !kind.is_of_members())
    }

    fn tell(&mut self) {
        if self.told.elapsed() < TELL {
            return;
        }
        self.told = Instant::now();
        let (operations, elections) = (self.cluster.recorder.operations(), self.load.looks.elections());
        let faults: u64 = self.faults.counts.values().sum();
        let seconds = self.begun.elapsed().as_secs();
        println!("{seconds:>5} s  {operations} operations, {faults} faults, {elections} elections");
    }
}
