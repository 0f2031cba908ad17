//! What scripts/demo.sh runs: a cluster as processes on loopback, real vectors, and a client that reads, writes and searches
//! without pause while nodes join, die, come back, hand shards over and leave, and one of them becomes hot.
//!
//! It prints what happens, then what it found, and exits with 1 if anything was lost, wrong, or failed outside the one
//! gap that a killed primary costs. However it ends, no process stays behind, unless `--keep` asked for it.

mod asked;
mod data;
mod digits;
mod ledger;
mod load;
mod racks;
mod script;
mod summary;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::digits::Digit;
use crate::script::Demo;
use ruvector_cluster_local::interruption::{INTERRUPTED, INTERRUPTED_WITHIN, STOP_WITHIN, interruption};
use ruvector_cluster_local::narrator::Narrator;
use ruvector_cluster_local::processes::{Processes, Setup};

/// Runs the demo on binaries that are built already. `scripts/demo.sh` builds them and calls this.
#[derive(Debug, Parser)]
struct Args {
    /// Where `ruvector-cluster` and `vector-node` are.
    #[arg(long)]
    bin_dir: PathBuf,
    /// The digits, unpacked: 64 numbers and the digit a line.
    #[arg(long)]
    digits: PathBuf,
    /// Where the nodes keep their files and logs.
    #[arg(long)]
    work_dir: PathBuf,
    /// Leaves the cluster running.
    #[arg(long)]
    keep: bool,
}

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
    let digits = digits::read(&args.digits)?;
    let mut processes = Processes::new(&args.bin_dir, &args.work_dir, setup())?;
    let narrator = Narrator::start();
    let ended = tokio::select! {
        ended = play(narrator, &digits, &mut processes) => Some(ended),
        () = interruption()? => None,
    };
    let is_kept = args.keep && matches!(ended, Some(Ok(_)));
    if is_kept {
        processes.keep();
    } else {
        let within = if ended.is_some() { STOP_WITHIN } else { INTERRUPTED_WITHIN };
        let slow = processes.stop_all(within).await;
        if !slow.is_empty() && ended.is_some() {
            narrator.say(format!("{} did not stop within {within:?} and were killed", slow.join(", ")));
        }
    }
    match ended {
        None => {
            narrator.say("interrupted: every process is stopped");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Some(Err(error)) => {
            eprint!("{}", processes.last_words());
            Err(error)
        }
        Some(Ok(verdict)) => {
            verdict.print();
            if is_kept {
                print!("{}", processes.how_to_reach());
            }
            Ok(if verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn setup() -> Setup {
    // One joins later.
    Setup { vector_nodes: 6, dimensions: digits::DIMENSIONS, control_args: Vec::new() }
}

async fn play(narrator: Narrator, digits: &[Digit], processes: &mut Processes) -> Result<summary::Summary> {
    Demo::start(narrator, digits, processes).await?.play().await
}
