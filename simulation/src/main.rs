//! Runs seeds and says what came of them.

use clap::Parser;
use ruvector_cluster_simulation::run::run;

/// Simulates whole clusters under faults, from seeds.
#[derive(Parser)]
struct Options {
    /// Runs this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs so many seeds, from --from on.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Prints each event.
    #[arg(long)]
    print: bool,
}

fn main() {
    let options = Options::parse();
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    let first = options.seed.unwrap_or(options.from);
    for seed in first..first + options.seeds {
        let report = run(seed, options.print);
        println!("seed {seed}: trace {:016x}, {:?}", report.trace, report.stats);
        for violation in report.violations.iter().take(10) {
            println!("  {violation}");
        }
        println!("  {} violations", report.violations.len());
    }
}
