//! Many runs: on several threads, until enough seeds or minutes are through, and what they came to together.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use ruvector_cluster::client::clock::{Clock, SystemClock};

use crate::faults::FaultKind;
use crate::run::{Report, run};
use crate::stats::Stats;

/// So many violations of a run are printed.
const SHOWN: usize = 5;
/// Letters of a violation that are printed.
const SHOWN_LETTERS: usize = 1_500;
/// Runs below this number are too few to say that a kind of fault did not come.
const MANY: u64 = 20;

/// What to run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Not these.
    pub without: Vec<u64>,
    /// These first.
    pub regressions: Vec<u64>,
    /// Then from this one on.
    pub from: u64,
    /// So many of those.
    pub seeds: u64,
    /// No new run begins after this time.
    pub minutes: Option<u64>,
    /// Threads.
    pub jobs: usize,
    /// The first run with a violation ends it.
    pub stops_at_first: bool,
    /// A line for each run.
    pub told: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Runs.
    pub runs: u64,
    /// Seeds with a violation, and its rule.
    pub failed: Vec<(u64, String)>,
    /// Summed up.
    pub stats: Stats,
    /// Real time.
    pub took_ms: u64,
}

/// Runs all of it.
///
/// # Panics
/// When a thread of it does: a bug in the simulation.
#[must_use]
pub fn campaign(plan: &Campaign) -> Outcome {
    let began_ms = SystemClock.boot_ms();
    let next = AtomicU64::new(0);
    let stopped = AtomicBool::new(false);
    let outcome = Mutex::new(Outcome::default());
    let all = plan.regressions.len() as u64 + plan.seeds;
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let over_ms = plan.minutes.map(|minutes| minutes * 60_000);
            let passed_ms = SystemClock.boot_ms().saturating_sub(began_ms);
            if at >= all || stopped.load(Ordering::Relaxed) || over_ms.is_some_and(|over| passed_ms >= over) {
                return;
            }
            let at_list = usize::try_from(at).unwrap_or(usize::MAX);
            let fresh = at.saturating_sub(plan.regressions.len() as u64);
            let seed = plan.regressions.get(at_list).copied().unwrap_or(plan.from + fresh);
            if plan.without.contains(&seed) {
                continue;
            }
            let report = run(seed, false);
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            take(&mut outcome, &report, plan.told);
            if plan.stops_at_first && !report.violations.is_empty() {
                stopped.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(work);
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.took_ms = SystemClock.boot_ms().saturating_sub(began_ms).max(1);
    outcome
}

fn take(outcome: &mut Outcome, report: &Report, told: bool) {
    outcome.runs += 1;
    outcome.stats += &report.stats;
    if told {
        let stats = &report.stats;
        println!(
            "seed {:<12} trace {:016x}  {:>5.1} s simulated  {:>5} operations  {:>3} faults  {:>2} terms  {}",
            report.seed,
            report.trace,
            stats.simulated.as_secs_f64(),
            stats.operations(),
            stats.faults.values().sum::<u64>(),
            stats.elections,
            if report.violations.is_empty() { "fine" } else { "VIOLATED" },
        );
    }
    let Some(first) = report.violations.first() else { return };
    outcome.failed.push((report.seed, first.rule.to_owned()));
    if told {
        for violation in report.violations.iter().take(SHOWN) {
            let text: String = violation.to_string().chars().take(SHOWN_LETTERS).collect();
            println!("  {text}");
        }
        println!(
            "  {} violations; to see it again: scripts/simulate.sh --seed {}",
            report.violations.len(),
            report.seed
        );
    }
}

impl Outcome {
    /// What has to have happened, and did not: in its absence the runs show nothing.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let mut require = |what: &str, count: u64, least: u64| {
            if count < least {
                missing.push(format!("{what}: {count}, and at least {least} are needed"));
            }
        };
        let stats = &self.stats;
        require("metadata writes acknowledged", stats.writes.0, self.runs * 80);
        require("metadata reads answered", stats.reads, self.runs * 80);
        require("data writes acknowledged", stats.data_writes.0, self.runs * 80);
        require("data reads answered", stats.data_reads, self.runs * 80);
        require("data operations judged", stats.judged, self.runs * 150);
        require("terms with a leader", stats.elections, self.runs * 2);
        require("states checked", stats.states, self.runs * 100);
        if self.runs >= MANY {
            require("snapshots installed", stats.snapshots_installed, self.runs / 10);
            require("clusters restored", stats.restores, self.runs / 20);
            require("messages lost", stats.net.lost, self.runs);
            require("messages repeated", stats.net.repeated, self.runs);
            require("messages cut off", stats.net.cut, self.runs);
            require("messages late", stats.net.straggled, self.runs);
            for kind in FaultKind::ALL {
                let count = stats.faults.get(kind).copied().unwrap_or(0);
                require(&format!("faults {kind:?}"), count, self.runs / 20);
            }
        }
        missing
    }

    /// Prints what the runs came to.
    pub fn print(&self) {
        let stats = &self.stats;
        let hours = stats.simulated.as_secs_f64() / 3_600.0;
        let minutes = self.took_ms as f64 / 60_000.0;
        println!("\nruns                  {}, {} with a violation", self.runs, self.failed.len());
        println!(
            "simulated             {hours:.2} hours in {minutes:.1} minutes: {:.2} hours a minute",
            hours / minutes
        );
        println!(
            "metadata              {} writes acknowledged, {} unknown; {} reads",
            stats.writes.0, stats.writes.1, stats.reads
        );
        println!(
            "data                  {} writes acknowledged, {} unknown; {} reads",
            stats.data_writes.0, stats.data_writes.1, stats.data_reads
        );
        println!("terms with a leader   {}", stats.elections);
        println!("snapshots installed   {}", stats.snapshots_installed);
        println!("clusters restored     {}", stats.restores);
        println!("states checked        {}", stats.states);
        let net = &stats.net;
        println!(
            "messages              {} sent; {} lost, {} repeated, {} cut off, {} late",
            net.sent, net.lost, net.repeated, net.cut, net.straggled
        );
        let faults: Vec<String> =
            stats.faults.iter().map(|(kind, count)| format!("{kind:?} {count}")).collect();
        println!("faults                {}", faults.join(", "));
        for (seed, rule) in &self.failed {
            println!("VIOLATED              seed {seed}: {rule}");
        }
    }
}
