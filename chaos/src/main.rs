//! `chaos`: real control nodes under kills, pauses, cut links, full disks and changes of their membership, on one machine. What
//! clients, watches and an onlooker saw is judged by the checkers of `check/`, as in the simulation. Linux only: whose a connection
//! is stands in /proc. scripts/chaos.sh builds what it needs; docs/reliability.md says what it shows and what it doesn't.

mod api;
mod chance;
mod clients;
mod cluster;
mod data;
mod disk;
mod faults;
mod judge;
mod links;
mod load;
mod monitor;
#[path = "../../tests/support/ports.rs"]
#[allow(clippy::unwrap_used, unreachable_pub, reason = "the tests' own")]
mod ports;
mod process;
mod record;
mod reopen;
mod run;
mod summary;
mod watcher;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use ruvector_cluster_client::clock::{Clock, SystemClock};
use tokio::signal::unix::{SignalKind, signal};

use crate::faults::Kind;
use crate::run::Task;

/// Runs real control nodes under faults, and judges what their clients saw. Exits 1 on a violation, and keeps the files then.
#[derive(Parser)]
struct Options {
    /// For so long.
    #[arg(long, conflicts_with = "seconds")]
    minutes: Option<u64>,
    /// For so long.
    #[arg(long)]
    seconds: Option<u64>,
    /// Chooses faults and their times; default: by the time of day, printed. Processes keep their own time, so a seed does not make
    /// the same run twice.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these kinds of faults.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Instead of that, kills one control node so many times and opens its directory again, a third of them while it opens.
    #[arg(long, value_name = "CYCLES")]
    reopen: Option<u64>,
    /// With --reopen: control nodes.
    #[arg(long, default_value_t = 3, requires = "reopen")]
    nodes: usize,
    /// Clients at once.
    #[arg(long, default_value_t = 6)]
    clients: u32,
    /// Where the built binaries are; default: beside this one.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Makes a folder in this one for the nodes' files and logs; default: the system's for temporary files.
    #[arg(long)]
    work_dir: Option<PathBuf>,
    /// Keeps that folder, whatever comes of it.
    #[arg(long)]
    keep: bool,
    /// Given to each control node as well.
    #[arg(last = true)]
    flags: Vec<String>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == process::AS_CHILD) {
        return process::become_child(&args[2..]);
    }
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ran = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(supervised(&options)));
    match ran {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Until it ends, or a signal ends it.
async fn supervised(options: &Options) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = chaos(options) => ended,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn chaos(options: &Options) -> Result<ExitCode> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.to_path_buf());
    let bin_dir = options.bin_dir.clone().or_else(beside).context("where are the binaries? say --bin-dir")?;
    let parent = options.work_dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut work = tempfile::Builder::new().prefix("ruvector-chaos.").tempdir_in(&parent)?;
    let seconds = options.seconds.unwrap_or(options.minutes.unwrap_or(1) * 60);
    let kinds = if options.only.is_empty() { Kind::value_variants().to_vec() } else { options.only.clone() };
    let task = Task {
        seed: options.seed.unwrap_or_else(|| SystemClock.wall_ms()),
        duration: Duration::from_secs(seconds),
        kinds,
        clients: options.clients,
        program: cluster::program(&bin_dir, "ruvector-cluster")?,
        work: work.path().to_path_buf(),
        flags: options.flags.clone(),
    };
    let summary = match options.reopen {
        Some(cycles) => reopen::run(&task, cycles, options.nodes).await?,
        None => run::run(&task).await?,
    };
    println!("{:<36}{}\n{summary}", "seed", task.seed);
    let fine = summary.violations.is_empty();
    if options.keep || !fine {
        work.disable_cleanup(true);
        summary.history.keep(work.path())?;
        println!("the nodes' logs and files, trace.log and history.json are in {}", work.path().display());
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
