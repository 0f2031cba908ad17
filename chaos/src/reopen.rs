//! One control node's directory, killed and opened again and again under writes; a third of the times it is killed while it opens.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::cluster::{Cluster, Plan};
use crate::faults::Faults;
use crate::load::Load;
use crate::record::{Recorder, Trace};
use crate::run::Task;
use crate::summary::Summary;

/// The node whose directory it is.
const NODE: usize = 0;
/// Within this time a node that was started has what was acknowledged before.
const OPENING: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);

/// Runs `cycles` of them on a cluster of so many nodes; of one node, what was acknowledged is on that disk alone.
///
/// # Errors
/// When there is no cluster to begin with, or a process can't be started.
pub(crate) async fn run(task: &Task, cycles: u64, nodes: usize) -> Result<Summary> {
    let recorder = Recorder::new(Trace::to(&task.work.join("trace.log"))?);
    let chance = Chance::new(task.seed);
    let (program, work, flags) = (task.program.clone(), task.work.clone(), task.flags.clone());
    let plan = Plan { program, work, founders: nodes, spares: 0, flags };
    let mut cluster = Cluster::prepare(plan, recorder.clone()).await?;
    println!("seed {}, files in {}", task.seed, task.work.display());
    cluster.heal()?;
    cluster.wait_until_it_serves().await;
    let mut load = Load::start(&cluster, task.clients, chance.fork()).await?;
    load.begin_stretch()?;
    recorder.disturbed(true);
    let (mut faults, begun) = (Faults::new(chance.fork()), Instant::now());
    for cycle in 0..cycles {
        let acknowledged = recorder.acknowledged();
        cluster.kill(NODE);
        cluster.start(NODE)?;
        faults.reopened += 1;
        if cycle % 3 == 2 {
            faults.in_the_midst().await;
            faults.killed_opening += u64::from(!cluster.has_opened(NODE));
        } else {
            wait_until_it_has(&cluster, acknowledged).await;
            chance.wait(0, 100).await;
        }
        if recorder.is_broken() {
            break;
        }
    }
    let took = begun.elapsed();
    cluster.heal()?;
    let mut found = recorder.so_far().violations;
    if cluster.wait_until_it_serves().await {
        found = load.end_stretch(&mut cluster).await?;
    }
    let mut summary = Summary::of(recorder.so_far(), &faults, &load.looks, found, Vec::new(), took);
    summary.cycles = Some(faults.reopened);
    Ok(summary)
}

async fn wait_until_it_has(cluster: &Cluster, acknowledged: u64) {
    let started = Instant::now();
    loop {
        let seen = match cluster.view(NODE).await {
            Ok(view) if view.revision.0 >= acknowledged => return,
            Ok(view) => format!("it is at {} of {acknowledged}", view.revision),
            Err(error) => error,
        };
        if started.elapsed() > OPENING {
            let detail = format!("{OPENING:?} after its start: {seen}");
            cluster.recorder.violation("a node that is opened again has what was acknowledged", detail);
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}
