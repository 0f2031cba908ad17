//! What `scripts/bench.sh writes|reads|failover|steady|scale` runs: three control nodes of the built binary on loopback, and etcd beside
//! them in the same run, under the same load generator.
//!
//! Each part prints a table of medians over its rounds, with the goals that it has and whether they were met. However it ends, no
//! process stays behind.

mod client;
mod failover;
mod figures;
mod load;
mod machine;
mod peers;
mod reads;
mod scale;
mod steady;
mod writes;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use ruvector_cluster_local::interruption::{INTERRUPTED, INTERRUPTED_WITHIN, STOP_WITHIN, interruption};
use ruvector_cluster_local::processes::{Processes, Setup};

/// Runs one part on a binary that is built already. `scripts/bench.sh` builds it and calls this.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    part: Part,
}

/// Where things are, and how long to measure.
#[derive(Clone, Debug, Args)]
struct Common {
    /// Where `ruvector-cluster` is.
    #[arg(long)]
    bin_dir: PathBuf,
    /// Where the nodes keep their files and logs.
    #[arg(long)]
    work_dir: PathBuf,
    /// How often each figure is measured; the median is told.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each load lasts, in seconds.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
}

#[derive(Clone, Debug, Subcommand)]
enum Part {
    /// Labels of 1,000 data nodes are changed, beside etcd's puts.
    Writes(Common),
    /// A shard is asked for, beside etcd's ranges and a bare axum handler.
    Reads(Common),
    /// Leaders are killed, and asked to hand over.
    Failover(Common),
    /// Full load for minutes: is there an election?
    Steady {
        #[command(flatten)]
        common: Common,
        /// How long.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// A state of 10,000 shards, ten and a hundred times as many.
    Scale {
        #[command(flatten)]
        common: Common,
        /// How many.
        #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
        shards: Vec<usize>,
    },
    /// Serves a file's bytes and nothing else: the yardstick of reads.
    #[command(hide = true)]
    Bare {
        /// Where it listens.
        #[arg(long)]
        listen: String,
        /// What it answers.
        #[arg(long)]
        body: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Options::parse().part {
        Part::Bare { listen, body } => reads::serve_bare(&listen, &body).await.map(|()| ExitCode::SUCCESS),
        Part::Writes(common) => part(&common, async |at, all| writes::run(at, all).await).await,
        Part::Reads(common) => part(&common, async |at, all| reads::run(at, all).await).await,
        Part::Failover(common) => part(&common, async |at, all| failover::run(at, all).await).await,
        Part::Scale { common, shards } => {
            part(&common, async |at, all| scale::run(at, &shards, all).await).await
        }
        Part::Steady { common, minutes } => {
            part(&common, async |at, all| steady::run(at, minutes, all).await).await
        }
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs a part until it ends or is interrupted, and ends every process.
async fn part(
    common: &Common,
    run: impl AsyncFnOnce(&Common, &mut Processes) -> Result<()>,
) -> Result<ExitCode> {
    let setup =
        Setup { vector_nodes: 0, dimensions: 0, control_args: peers::control_args_for(peers::SHARDS) };
    let mut processes = Processes::new(&common.bin_dir, &common.work_dir, setup)?;
    println!("{}\n", machine::describe(&common.work_dir)?);
    let ended = tokio::select! {
        ended = run(common, &mut processes) => Some(ended),
        () = interruption()? => None,
    };
    if let Some(Err(_)) = &ended {
        eprint!("{}", processes.last_words());
    }
    processes.stop_all(if ended.is_some() { STOP_WITHIN } else { INTERRUPTED_WITHIN }).await;
    match ended {
        None => Ok(ExitCode::from(INTERRUPTED)),
        Some(ended) => ended.map(|()| ExitCode::SUCCESS),
    }
}
