//! What a plan costs and how good it is: one command prints every figure of docs/placement.md.
//!
//! `cargo bench --bench placement` prints a table (best time of some runs, moves, lower bound, fullest and emptiest node), and
//! then measures the cases of 100,000 shards by criterion. `-- --table` prints the table alone, `-- --table --large` adds a
//! million shards on ten thousand nodes, `-- --strategies` prints how the strategies compare.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "../tests/placement/cluster.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod cluster;
#[path = "placement/strategies.rs"]
mod strategies;

use std::hint::black_box;
use std::time::{Duration, Instant};

use cluster::{Cluster, Condition, NOW_MS, Node};
use criterion::Criterion;
use ruvector_cluster::client::ids::Thousandths;
use ruvector_cluster::client::wire::{MigrationKind, RebalancePolicy};
use ruvector_cluster::metadata::Metadata;
use ruvector_cluster::placement::{PlanOptions, Planned, planned};
use ruvector_cluster::soft::Soft;

/// Above so many shards only the main cases are measured.
const LARGE: usize = 100_000;

/// A state to plan from, and what that is called.
struct Case {
    name: &'static str,
    cluster: Cluster,
    metadata: Metadata,
    soft: Soft,
}

impl Case {
    fn new(name: &'static str, cluster: Cluster) -> Self {
        let (metadata, soft) = cluster.state();
        Self { name, cluster, metadata, soft }
    }

    fn plan(&self) -> Planned {
        let policy = RebalancePolicy { down_grace_ms: 0, ..RebalancePolicy::default() };
        let options = PlanOptions::for_operator(NOW_MS, &policy);
        planned(&self.metadata, &self.soft, &policy, &options)
    }

    /// The best of some runs: what else the machine does only adds to it.
    fn best(&self, runs: usize) -> Duration {
        let run = |_| {
            let start = Instant::now();
            black_box(self.plan());
            start.elapsed()
        };
        (0..runs).map(run).min().unwrap()
    }

    fn print(&self, runs: usize) {
        let planned = self.plan();
        let copying = |kind| matches!(kind, MigrationKind::Move | MigrationKind::Add);
        let moves = planned.plan.moves.iter().filter(|step| copying(step.kind)).count() as u64;
        let promotes = planned.plan.moves.iter().filter(|step| step.kind == MigrationKind::Promote).count();
        let bound = planned.plan.lower_bound_moves;
        let ratio = (moves * 1_000).checked_div(bound).unwrap_or(1_000);
        let mut after = self.cluster.clone();
        assert_eq!(after.carry_out(&planned).first(), None);
        // Planning the result takes another state, which is what takes long where the cluster is large.
        let again = || Case::new("again", after).plan().plan.moves.len().to_string();
        let left = if self.cluster.shards.len() > LARGE { "-".to_owned() } else { again() };
        let best = self.best(runs);
        let per_shard_ns = best.as_nanos() / self.cluster.shards.len().max(1) as u128;
        println!(
            "{:>9} {:>6} {:<10} {:>9.1} {:>8} {:>7} {:>7} {:>4}.{:03} {:>8} {:>6} {:>6} {:>6} {:>5} {:>5}",
            self.cluster.shards.len(),
            self.cluster.nodes.len(),
            self.name,
            best.as_secs_f64() * 1e3,
            per_shard_ns,
            moves,
            bound,
            ratio / 1_000,
            ratio % 1_000,
            promotes,
            planned.plan.after.max_copies,
            planned.plan.after.min_copies,
            planned.plan.after.imbalance,
            planned.plan.infeasible.len(),
            left,
        );
    }
}

/// What a cluster comes to when its plan is carried out.
fn settled(mut cluster: Cluster) -> Cluster {
    let planned = Case::new("settle", cluster.clone()).plan();
    assert_eq!(cluster.carry_out(&planned).first(), None);
    for (number, shard) in cluster.shards.iter_mut().enumerate() {
        shard.size_bytes = 1_000_000_000 + (number as u64 * 7_919) % 1_000_000;
        shard.reads_per_s = Thousandths(1_000 + (number as u64 * 104_729) % 1_000);
        shard.writes_per_s = Thousandths(100);
    }
    cluster
}

/// The clusters of one size to plan for, by name.
fn clusters(shards: usize, nodes: usize, racks: usize) -> Vec<(&'static str, Cluster)> {
    let empty = Cluster::empty(shards, nodes, racks);
    let whole = settled(empty.clone());
    let changed = |change: &dyn Fn(&mut Cluster)| {
        let mut cluster = whole.clone();
        change(&mut cluster);
        cluster
    };
    let join = changed(&|cluster| cluster.nodes.push(Node::new("n99999", "r000")));
    let down = changed(&|cluster| cluster.set_condition(nodes / 2, Condition::Down));
    if shards > LARGE {
        return vec![("empty", empty), ("unchanged", whole), ("node lost", down), ("join", join)];
    }
    let mut mixed = empty.clone();
    for (number, node) in mixed.nodes.iter_mut().enumerate() {
        node.capacity = Thousandths(1_000 * (1 + number as u64 % 4));
        // The first racks are larger.
        node.rack = Some(format!("r{:03}", (number % racks).min(number % (racks * 3 / 2))));
    }
    let mut reweighed = settled(mixed.clone());
    for node in reweighed.nodes.iter_mut().step_by(10) {
        node.capacity = Thousandths(node.capacity.0 * 3 / 2);
    }
    let drain = changed(&|cluster| cluster.set_condition(nodes / 2, Condition::Draining));
    let weight = changed(&|cluster| cluster.nodes[nodes / 2].capacity = Thousandths(2_000));
    vec![
        ("empty", empty),
        ("unchanged", whole.clone()),
        ("node lost", down),
        ("join", join),
        ("drain", drain),
        ("weight x2", weight),
        ("mixed", mixed),
        ("reweighed", reweighed),
    ]
}

fn table(is_large: bool) {
    println!(
        "{:>9} {:>6} {:<10} {:>9} {:>8} {:>7} {:>7} {:>8} {:>8} {:>6} {:>6} {:>6} {:>5} {:>5}",
        "shards",
        "nodes",
        "case",
        "best ms",
        "ns/shard",
        "moves",
        "bound",
        "ratio",
        "promotes",
        "max",
        "min",
        "imbal",
        "stuck",
        "again"
    );
    let mut sizes = vec![(12_500, 125, 10), (25_000, 250, 10), (50_000, 500, 10), (100_000, 1_000, 10)];
    if is_large {
        sizes.push((1_000_000, 10_000, 20));
    }
    for (shards, nodes, racks) in sizes {
        let runs = if shards > LARGE { 3 } else { 7 };
        for (name, cluster) in clusters(shards, nodes, racks) {
            Case::new(name, cluster).print(runs);
        }
        println!("{:>9} {:>6} memory at most {} MiB", shards, nodes, peak_mib());
    }
}

/// The most memory that this process had, as Linux tells it; 0 elsewhere.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1_024
}

fn main() {
    let has = |flag: &str| std::env::args().any(|arg| arg == flag);
    if has("--strategies") {
        strategies::table();
        return;
    }
    table(has("--large"));
    if has("--table") {
        return;
    }
    let mut criterion = Criterion::default().configure_from_args().sample_size(20);
    for (name, cluster) in clusters(100_000, 1_000, 10) {
        let case = Case::new(name, cluster);
        criterion.bench_function(&format!("100000 shards, 1000 nodes: {}", case.name), |bencher| {
            bencher.iter(|| black_box(case.plan()));
        });
    }
    criterion.final_summary();
}
