//! What `scripts/bench.sh migration` runs: a cluster of processes on loopback under a steady load, whose primaries are moved
//! one after the other, killed and paused.

mod client;
mod cluster;
mod keys;
mod load;
mod moves;
mod phases;
mod record;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use futures::{StreamExt, TryStreamExt};
use ruvector_cluster_client::ids::NodeId;
use tokio::time::Instant;
use vector_node::local::narrator::{Narrator, count, spell};
use vector_node::local::processes::{Processes, Setup};

use crate::client::DataClient;
use crate::cluster::Cluster;
use crate::keys::Keys;
use crate::load::{Load, Targets};
use crate::moves::Mover;
use crate::phases::PhaseWatch;
use crate::record::{Kind, Records, Spread};

/// Runs the benchmark on binaries that are built already. `scripts/bench.sh` builds them and calls this.
#[derive(Debug, Parser)]
struct Args {
    /// Where `ruvector-cluster` and `vector-node` are.
    #[arg(long)]
    bin_dir: PathBuf,
    /// Where the nodes keep their files and logs.
    #[arg(long)]
    work_dir: PathBuf,
    /// How many primaries move.
    #[arg(long, default_value_t = 100)]
    migrations: usize,
    /// Vectors of each shard.
    #[arg(long, default_value_t = 10_000)]
    vectors: usize,
    /// Share of what the machine bears that is asked of it, in percent.
    #[arg(long, default_value_t = 35)]
    load: u64,
}

const SHARDS: u32 = 8;
const VECTOR_NODES: u16 = 4;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<ExitCode> {
    let control_args = ["--num-shards", "8", "--replication-factor", "3"].map(str::to_owned).to_vec();
    let setup = Setup { vector_nodes: VECTOR_NODES, dimensions: keys::DIMENSIONS, control_args };
    let mut processes = Processes::new(&args.bin_dir, &args.work_dir, setup)?;
    let narrator = Narrator::start();
    let result = rough(&args, narrator, &mut processes).await;
    if result.is_err() {
        eprint!("{}", processes.last_words());
    }
    processes.stop_all(Duration::from_secs(10)).await;
    result?;
    Ok(ExitCode::SUCCESS)
}

async fn rough(args: &Args, narrator: Narrator, processes: &mut Processes) -> Result<()> {
    let cluster = Cluster::start(processes, VECTOR_NODES).await?;

    let keys = Arc::new(Keys::new(SHARDS, args.vectors));
    let records = Records::start();
    let client = DataClient::new(keys.clone(), records.clone())?;
    let nodes: Vec<(NodeId, String)> = (1..=VECTOR_NODES)
        .map(|n| Ok((NodeId::new(&format!("d{n}"))?, processes.vector_addr(n))))
        .collect::<Result<_>>()?;
    let targets = Targets::new(nodes.iter().map(|(_, addr)| addr.clone()).collect());
    let began = Instant::now();
    let all: Vec<usize> = (0..keys.count()).collect();
    futures::stream::iter(all.chunks(500))
        .map(|chunk| client.load(targets.any(), chunk))
        .buffer_unordered(4)
        .try_collect::<Vec<()>>()
        .await
        .map_err(anyhow::Error::msg)
        .context("loading")?;
    narrator.say(format!("{} vectors loaded in {}", count(keys.count()), spell(began.elapsed())));
    let capacity = load::capacity(&client, &targets, Duration::from_secs(5)).await;
    let rate = capacity.share(args.load);
    narrator.say(format!("capacity {}; load {}", capacity.spell(), rate.spell()));
    let phases = PhaseWatch::start(cluster.control().clone(), records.clone());
    let load = Load::start(client.clone(), targets.clone(), rate);
    let from = records.now();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = records.samples(from, records.now());
    for kind in [Kind::Read, Kind::Write, Kind::Search] {
        narrator.say(format!("{kind:?} before: {:?}", Spread::of_samples(before.iter().filter(|s| s.kind == kind))));
    }
    let mover = Mover { cluster: &cluster, client: &client, phases: &phases, records: &records, nodes: &nodes };
    let mut all = Vec::new();
    let mut during = Vec::new();
    for turn in 0..args.migrations {
        let moved = mover.one(turn, processes).await?;
        let other = records.samples(moved.span.0, moved.span.1);
        during.extend(other.into_iter().filter(|s| s.shard != Some(moved.migration.shard)));
        narrator.say(format!(
            "{turn}: {:?} {} pause {:?} usual {:.2} copying {:?} bytes {} total {:.0} ms",
            moved.migration.phase,
            moved.is_move,
            moved.pause_ms,
            moved.usual_ms,
            moved.copying_ms,
            moved.bytes,
            (moved.span.1 - moved.span.0) as f64 / 1e3
        ));
        all.push(moved);
    }
    for is_move in [true, false] {
        let pauses = all.iter().filter(|m| m.is_move == is_move).filter_map(|m| m.pause_ms).collect();
        narrator.say(format!("pause move={is_move}: {:?}", Spread::of(pauses)));
    }
    for kind in [Kind::Read, Kind::Write, Kind::Search] {
        narrator.say(format!("{kind:?} during: {:?}", Spread::of_samples(during.iter().filter(|s| s.kind == kind))));
    }
    load.stop().await;
    for failure in records.failures(0, u64::MAX) {
        narrator.say(format!("failed: {}", failure.what));
    }
    for wrong in records.wrongs() {
        narrator.say(format!("wrong: {wrong}"));
    }
    Ok(())
}
