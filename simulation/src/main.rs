//! `ruvector-cluster-simulation`: runs seeds and says what came of them. scripts/simulate.sh builds it as it has to be built.

use std::process::ExitCode;

use clap::Parser;
use ruvector_cluster::client::clock::{Clock, SystemClock};
use ruvector_cluster_simulation::campaign::{Campaign, campaign};
use ruvector_cluster_simulation::run::run;
use ruvector_cluster_simulation::table::{self, Cell};

/// Seeds that found something once, on the build of that time, or meet something rare.
const REGRESSIONS: &[u64] =
    &[1, 2, 3, 5, 8, 10, 105, 108, 1009, 1010, 5005, 5010, 5028, 5030, 7006, 20_015, 20_017, 20_024, 200_028];

/// Simulates whole clusters under faults, from seeds. Exits 1 on a violation, 3 when too little happened to show anything.
#[derive(Parser)]
struct Options {
    /// Runs this seed twice, and compares the traces.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: prints each event of one run.
    #[arg(long)]
    print: bool,
    /// Runs so many seeds.
    #[arg(long, conflicts_with = "minutes")]
    seeds: Option<u64>,
    /// Runs the table of migrations: every phase with every fault. Prints it as Markdown, and what is wrong.
    #[arg(long, conflicts_with_all = ["seed", "seeds", "minutes"])]
    table: bool,
    /// With --table: only cells whose name has this in it.
    #[arg(long)]
    only: Option<String>,
    /// With --table: only each so-manieth cell, beginning with one that --from chooses.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Begins runs for so long.
    #[arg(long)]
    minutes: Option<u64>,
    /// The first seed; default: by the time of day, printed.
    #[arg(long)]
    from: Option<u64>,
    /// Leaves the seeds out that found something once.
    #[arg(long)]
    fresh_only: bool,
    /// Runs at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Leaves one rule of the code out, and expects that to be found: exits 0 if it is. Or `all`, for a table.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutant: Option<String>,
    /// With --mutant: leaves these seeds out, which fail without one.
    #[cfg(feature = "mutants")]
    #[arg(long, value_delimiter = ',')]
    without: Vec<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if cfg!(not(tokio_unstable)) {
        eprintln!(
            "built without --cfg tokio_unstable, a seed would not run the same twice: use scripts/simulate.sh"
        );
        return ExitCode::from(2);
    }
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    #[cfg(feature = "mutants")]
    if let Some(name) = &options.mutant {
        let (seeds, from) = (options.seeds.unwrap_or(40), options.from.unwrap_or(1));
        return mutated::run(name, seeds, from, options.jobs, options.without);
    }
    if options.table {
        return table(&options);
    }
    if let Some(seed) = options.seed {
        return one(seed, options.print);
    }
    let from = options.from.unwrap_or_else(|| SystemClock.wall_ms());
    let plan = Campaign {
        without: Vec::new(),
        regressions: if options.fresh_only { Vec::new() } else { REGRESSIONS.to_vec() },
        from,
        seeds: options.seeds.unwrap_or(if options.minutes.is_some() { u64::MAX >> 1 } else { 20 }),
        minutes: options.minutes,
        jobs: options.jobs,
        stops_at_first: false,
        told: true,
    };
    println!("fresh seeds from {from} on");
    let outcome = campaign(&plan);
    outcome.print();
    if !outcome.failed.is_empty() {
        return ExitCode::FAILURE;
    }
    let missing = outcome.missing();
    for what in &missing {
        println!("TOO LITTLE            {what}");
    }
    if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) }
}

/// Runs the cells that are asked for: all end as they may, or what is wrong is told.
fn table(options: &Options) -> ExitCode {
    let wanted = |cell: &Cell| options.only.as_ref().is_none_or(|part| cell.to_string().contains(part));
    let (seed, every) = (options.from.unwrap_or(0), options.every.max(1));
    let first = usize::try_from(seed % every as u64).unwrap_or(0);
    let cells: Vec<Cell> = Cell::all().into_iter().filter(wanted).skip(first).step_by(every).collect();
    if let ([cell], true) = (&cells[..], options.print) {
        let report = table::run(*cell, seed, true);
        println!("{report:#?}");
        return if report.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let table = table::print::table(&cells, seed, options.jobs);
    println!("{}", table.markdown());
    let simulated_ms: u64 = table.reports.iter().map(|report| report.simulated_ms).sum();
    let (simulated_s, took_s) = (simulated_ms / 1_000, table.took_ms / 1_000);
    println!("{} cells, {simulated_s} s simulated in {took_s} s; --from {seed}", cells.len());
    let mut wrong = 0;
    for report in table.wrong() {
        wrong += 1;
        println!("WRONG                 {}: {:?}, trace {:016x}", report.cell, report.end, report.trace);
        for violation in &report.violations {
            println!("  {violation}");
        }
    }
    if cells.is_empty() {
        println!("TOO LITTLE            no cell is named so");
        return ExitCode::from(3);
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a seed twice: it must do the same.
fn one(seed: u64, print: bool) -> ExitCode {
    let first = run(seed, print);
    println!("seed {seed}: trace {:016x}, {:#?}", first.trace, first.stats);
    for violation in &first.violations {
        println!("  {violation}");
    }
    println!("{} violations", first.violations.len());
    if !print {
        let second = run(seed, false);
        if second.trace != first.trace {
            println!("NOT REPEATABLE: the second run has trace {:016x}", second.trace);
            return ExitCode::from(4);
        }
        println!("the second run has the same trace");
    }
    if first.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(feature = "mutants")]
mod mutated {
    use std::process::{Command, ExitCode};
    use std::time::Duration;

    use mutants::Mutant;

    use super::{Campaign, campaign};

    /// Some make a leader decide the same thing for ever: what is simulated then goes on, and gets nowhere.
    const PATIENCE: Duration = Duration::from_secs(600);

    /// One mutant in this process, or each in a process of its own.
    pub(super) fn run(name: &str, seeds: u64, from: u64, jobs: usize, without: Vec<u64>) -> ExitCode {
        if name == "all" {
            return table(&plan(seeds, from, jobs, without));
        }
        let Some(mutant) = Mutant::named(name) else {
            eprintln!("there is no mutant {name}");
            return ExitCode::from(2);
        };
        mutants::switch_on(mutant);
        let told = name.to_owned();
        std::thread::spawn(move || {
            std::thread::sleep(PATIENCE);
            println!("{told:<30} SURVIVED  {} s", PATIENCE.as_secs());
            std::process::exit(1);
        });
        let outcome = campaign(&Campaign { stops_at_first: true, ..plan(seeds, from, jobs, without) });
        match outcome.failed.first() {
            Some((seed, rule)) => {
                println!("{name:<30} killed    after {:>3} seeds, by seed {seed}: {rule}", outcome.runs);
                ExitCode::SUCCESS
            }
            None => {
                println!("{name:<30} SURVIVED  {} seeds", outcome.runs);
                ExitCode::FAILURE
            }
        }
    }

    fn plan(seeds: u64, from: u64, jobs: usize, without: Vec<u64>) -> Campaign {
        let regressions = Vec::new();
        Campaign {
            without,
            regressions,
            from,
            seeds,
            minutes: None,
            jobs,
            stops_at_first: false,
            told: false,
        }
    }

    fn table(plan: &Campaign) -> ExitCode {
        let Ok(own) = std::env::current_exe() else { return ExitCode::from(2) };
        // A seed that fails without a mutant says nothing of one.
        let baseline = campaign(plan);
        let without: Vec<String> = baseline.failed.iter().map(|(seed, _)| seed.to_string()).collect();
        println!("no mutant: {} of {} seeds fail [{}]", without.len(), baseline.runs, without.join(","));
        let (seeds, from, jobs) = (plan.seeds.to_string(), plan.from.to_string(), plan.jobs.to_string());
        let mut survived = 0;
        for mutant in Mutant::ALL {
            let mut command = Command::new(&own);
            command.args(["--mutant", mutant.name(), "--seeds", &seeds, "--from", &from, "--jobs", &jobs]);
            if !without.is_empty() {
                command.args(["--without", &without.join(",")]);
            }
            match command.status() {
                Ok(status) if status.success() => {}
                // A process that dies of a mutant has noticed it, too.
                Ok(status) if status.code().is_none() => {
                    println!("{:<30} killed    the process: {status}", mutant.name())
                }
                Ok(_) | Err(_) => survived += 1,
            }
        }
        println!("{} mutants, {survived} survived the simulation", Mutant::ALL.len());
        if survived == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
