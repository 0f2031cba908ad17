//! `ruvector-cluster-model`: explores the protocol and prints what was found.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use ruvector_cluster_client::clock::{Clock, SystemClock};
use ruvector_cluster_model::run::{Explored, Extent, explore, seconds};
use ruvector_cluster_model::scenario::{ALL, Scenario, named};

/// Explores every order of events of one shard within bounds, over the code that serves.
#[derive(Parser)]
struct Options {
    /// A scenario's name, or `all`.
    #[arg(long, default_value = "all")]
    scenario: String,
    /// States generated at most for each scenario; 0 for all of them. Default: the scenario's own.
    #[arg(long)]
    states: Option<usize>,
    /// Steps from the beginning at most.
    #[arg(long)]
    depth: Option<usize>,
    /// Of so many states one is asked whether something good can still happen. Default: the scenario's own.
    #[arg(long)]
    good_every: Option<u64>,
    /// Threads; with more than one, traces and counts of cut runs may differ from run to run.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Leaves one rule of the code out, and expects that to be found: exits 0 if it is. Or `all`, for a table.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutant: Option<String>,
}

fn chosen(options: &Options) -> anyhow::Result<Vec<&'static Scenario>> {
    if options.scenario == "all" {
        return Ok(ALL.iter().collect());
    }
    let names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
    let scenario =
        named(&options.scenario).with_context(|| format!("scenarios are all, {}", names.join(", ")))?;
    Ok(vec![scenario])
}

fn extent(options: &Options, scenario: &Scenario) -> Extent {
    let states = options.states.unwrap_or(scenario.states);
    Extent { states: (states > 0).then_some(states), depth: options.depth, threads: options.threads.max(1) }
}

/// Explores, and measures how long that takes.
fn timed(options: &Options, scenario: &Scenario) -> anyhow::Result<(Explored, Duration)> {
    let began_ms = SystemClock.boot_ms();
    let good_every = options.good_every.unwrap_or(scenario.good_every);
    let scenario = Scenario { good_every, ..*scenario };
    let explored = explore(&scenario, extent(options, &scenario)).map_err(anyhow::Error::msg)?;
    let took_ms = SystemClock.boot_ms().saturating_sub(began_ms);
    Ok((explored, Duration::from_millis(took_ms)))
}

fn print_line(scenario: &Scenario, explored: &Explored, time: Duration) {
    let outcome = match &explored.violation {
        Some((property, _)) => format!("VIOLATED: {property}"),
        None => "all properties hold".to_owned(),
    };
    println!(
        "{:<15} {:>10} {:>10} {:>6} {:>8} {:>9}  {outcome}",
        scenario.name,
        explored.generated,
        explored.unique,
        explored.depth,
        seconds(time),
        if explored.is_exhausted { "all" } else { "bounded" },
    );
}

fn print_head() {
    println!(
        "{:<15} {:>10} {:>10} {:>6} {:>8} {:>9}  properties",
        "scenario", "generated", "unique", "depth", "seconds", "space"
    );
}

/// Explores the scenarios until a property is violated; which one was.
fn run(options: &Options, is_quiet: bool) -> anyhow::Result<Option<(&'static str, Explored)>> {
    for scenario in chosen(options)? {
        let (explored, time) = timed(options, scenario)?;
        if !is_quiet {
            print_line(scenario, &explored, time);
        }
        if explored.violation.is_some() {
            return Ok(Some((scenario.name, explored)));
        }
    }
    Ok(None)
}

#[cfg(feature = "mutants")]
fn run_mutant(options: &Options, name: &str) -> anyhow::Result<ExitCode> {
    let mutant = mutants::Mutant::named(name).with_context(|| format!("there is no mutant {name}"))?;
    mutants::switch_on(mutant);
    match run(options, true)? {
        Some((scenario, explored)) => {
            let property = explored.violation.map(|(property, _)| property).unwrap_or_default();
            println!("{name:<28} killed in {scenario} after {} states: {property}", explored.generated);
            Ok(ExitCode::SUCCESS)
        }
        None => {
            println!("{name:<28} SURVIVED");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    // A panic of the code under test is caught, and told with its trace.
    std::panic::set_hook(Box::new(|_| {}));
    #[cfg(feature = "mutants")]
    if let Some(name) = &options.mutant {
        return run_mutant(&options, name);
    }
    if options.states == Some(0) && options.scenario == "all" {
        bail!("not all spaces end in bearable time: name a scenario, or a number of states");
    }
    print_head();
    let Some((_, explored)) = run(&options, false)? else { return Ok(ExitCode::SUCCESS) };
    if let Some((property, trace)) = explored.violation {
        println!("\n{property}: violated by\n{trace}");
    }
    Ok(ExitCode::FAILURE)
}
