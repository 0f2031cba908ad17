//! What `scripts/bench.sh migration` runs: a cluster of processes on loopback under a steady load, whose primaries are moved
//! one after the other, then killed and paused; what that cost, and whether any answer was wrong.
//!
//! It exits with 1 if a request failed while primaries moved, or anything was lost, stale, twice there, or answered under an
//! epoch that had ended; missed goals of time are named. However it ends, no process stays behind.

mod client;
mod cluster;
mod faults;
mod history;
mod keys;
mod load;
mod moves;
mod phases;
mod record;
mod report;
mod run;
mod verify;
mod watchers;
mod yardstick;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use ruvector_cluster_local::interruption::{INTERRUPTED, INTERRUPTED_WITHIN, STOP_WITHIN, interruption};
use ruvector_cluster_local::processes::{Processes, Setup};

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
    #[arg(long, default_value_t = 10_000, value_parser = at_least_hundred)]
    vectors: usize,
    /// Share of what the machine bears that is asked of it, in percent.
    #[arg(long, default_value_t = 35)]
    load: u64,
}

fn at_least_hundred(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|error| format!("{error}"))?;
    if number < 100 { Err("a shard has at least 100 vectors".to_owned()) } else { Ok(number) }
}

/// Shards.
const SHARDS: u32 = 8;
/// Copies of each.
const COPIES: u32 = 3;
/// Vector nodes.
const VECTOR_NODES: u16 = 4;
/// Of data nodes; the default.
const FAILURE_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    match bench(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(args: Args) -> Result<ExitCode> {
    let (shards, copies) = (SHARDS.to_string(), COPIES.to_string());
    let timeout = format!("{}s", FAILURE_TIMEOUT.as_secs());
    let control_args =
        ["--num-shards", &shards, "--replication-factor", &copies, "--failure-timeout", &timeout];
    let control_args = control_args.map(str::to_owned).to_vec();
    let setup = Setup { vector_nodes: VECTOR_NODES, dimensions: keys::DIMENSIONS, control_args };
    let mut processes = Processes::new(&args.bin_dir, &args.work_dir, setup)?;
    let ended = tokio::select! {
        ended = run::run(&args, &mut processes) => Some(ended),
        () = interruption()? => None,
    };
    if let Some(Err(_)) = &ended {
        eprint!("{}", processes.last_words());
    }
    processes.stop_all(if ended.is_some() { STOP_WITHIN } else { INTERRUPTED_WITHIN }).await;
    match ended {
        None => Ok(ExitCode::from(INTERRUPTED)),
        Some(report) => Ok(if report?.print() { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}
