//! What was measured, in a table, and what of it is not as it must be, or should be.
//!
//! A *must* is about answers: nothing failed, was lost, stale, twice there or answered under an old epoch. A *goal* is about
//! time, on the machine that the first line names.

use std::time::Duration;

use ruvector_cluster_local::narrator::{count, spell};

use crate::faults::Suffered;
use crate::moves::Moved;
use crate::record::{Failure, Kind, Sample, Spread};
use crate::verify::Verified;
use crate::watchers::{WATCHERS, Watched};
use crate::yardstick::Throughput;

/// Of each kind of thing that is wrong, so many are told in words.
const TOLD: usize = 8;
/// The 99th percentile of the pauses may be that long, in milliseconds.
const PAUSE_GOAL_MS: f64 = 25.0;
/// The 99th percentile of other shards' requests may grow by that factor.
const OTHERS_GOAL: f64 = 2.0;
/// Beyond the failure timeout, writes resume within that time.
const RESUME_SLACK_MS: f64 = 500.0;

/// All of it.
pub(crate) struct Report {
    pub(crate) machine: String,
    /// Of the data nodes, in milliseconds.
    pub(crate) failure_timeout_ms: f64,
    pub(crate) load: String,
    pub(crate) moved: Vec<Moved>,
    pub(crate) moving_took: Duration,
    /// Requests while nothing moved.
    pub(crate) before: Vec<Sample>,
    /// Requests to shards other than the one that moved, while it did.
    pub(crate) during: Vec<Sample>,
    /// Answered from the first to the last request.
    pub(crate) answered: usize,
    /// Failed at any time but around the two faults.
    pub(crate) failures: Vec<Failure>,
    pub(crate) stale: Vec<String>,
    pub(crate) wrong_searches: Vec<String>,
    pub(crate) under_old_epochs: Vec<String>,
    pub(crate) history: (usize, Vec<String>),
    pub(crate) killed: Suffered,
    pub(crate) paused: Suffered,
    pub(crate) verified: Verified,
    pub(crate) watched: Watched,
    pub(crate) disk: Throughput,
    pub(crate) loopback: Throughput,
}

fn row(name: &str, spread: Spread) {
    let Spread { count, p50, p99, max } = spread;
    println!("{name:<44} {count:>7} {p50:>9.1} {p99:>9.1} {max:>9.1}");
}

fn of_kind(samples: &[Sample], kind: Kind) -> Spread {
    Spread::of_samples(samples.iter().filter(|sample| sample.kind == kind))
}

impl Report {
    fn pauses(&self, is_move: Option<bool>) -> Spread {
        let fits = |moved: &&Moved| is_move.is_none_or(|is_move| moved.is_move == is_move);
        Spread::of(self.moved.iter().filter(fits).map(|moved| moved.pause_ms).collect())
    }

    fn aborted(&self) -> Vec<String> {
        let all = self.moved.iter().filter(|moved| !moved.is_done());
        all.map(|moved| format!("{:?}", moved.migration)).collect()
    }

    /// Prints everything; says whether all that must hold does.
    pub(crate) fn print(&self) -> bool {
        println!("\nmachine    {}", self.machine);
        println!("load       {}", self.load);
        let aborted = self.aborted().len();
        println!(
            "migrations {} done, {aborted} aborted, in {}; {} requests answered in all\n",
            self.moved.len() - aborted,
            spell(self.moving_took),
            count(self.answered)
        );
        self.print_times();
        self.print_copying();
        self.print_faults();
        let broken = self.print_musts();
        self.print_goals();
        println!("{}", if broken { "FAILED" } else { "fine: nothing failed, lost, stale or twice" });
        !broken
    }

    fn print_times(&self) {
        println!("{:<44} {:>7} {:>9} {:>9} {:>9}", "milliseconds", "count", "p50", "p99", "max");
        row("pause of writes, primary moves elsewhere", self.pauses(Some(true)));
        row("pause of writes, replica is promoted", self.pauses(Some(false)));
        row("pause of writes, both", self.pauses(None));
        row(
            "a moving shard's write at other times",
            Spread::of(self.moved.iter().map(|m| m.usual_ms).collect()),
        );
        for (kind, name) in [(Kind::Read, "reads"), (Kind::Write, "writes"), (Kind::Search, "searches")] {
            row(&format!("{name} while nothing moves"), of_kind(&self.before, kind));
            row(&format!("{name} of other shards during moves"), of_kind(&self.during, kind));
        }
        let watchers = count(WATCHERS);
        row(&format!("a write until {watchers} watchers have it"), self.watched.from_sending);
        row("the same from its acknowledgement on", self.watched.from_acknowledgement);
    }

    fn print_copying(&self) {
        let mib = |moved: &Moved| {
            let took = Duration::from_millis(moved.copying_ms?);
            Some(Throughput::of(moved.bytes, took).0 / f64::from(1 << 20))
        };
        let Spread { count, p50, .. } = Spread::of(self.moved.iter().filter_map(mib).collect());
        let bytes =
            Spread::of(self.moved.iter().map(|moved| moved.bytes as f64 / f64::from(1 << 20)).collect());
        println!(
            "\ncopying    {p50:.1} MiB/s (median of {count}; {:.1} MiB a shard); the disk writes {} in durable pieces of \
             1 MiB, loopback carries {}",
            bytes.p50,
            self.disk.spell(),
            self.loopback.spell()
        );
    }

    fn print_faults(&self) {
        let of = |suffered: &Suffered| {
            let Spread { count, p50, max, .. } = suffered.resumed_ms;
            format!(
                "writes to its {count} shards acknowledged after {p50:.0} ms (median), {max:.0} ms (last); {} requests failed",
                suffered.failed
            )
        };
        println!("SIGKILL    {}", of(&self.killed));
        println!("SIGSTOP    {}; {} requests sent to it meanwhile", of(&self.paused), self.paused.probes);
        println!("           failure timeout {:.0} ms", self.failure_timeout_ms);
        println!("history    {} operations on judged keys\n", count(self.history.0));
    }

    /// Says whether one is broken.
    fn print_musts(&self) -> bool {
        let failures: Vec<String> = self.failures.iter().map(|failure| failure.what.clone()).collect();
        let bound_ms = self.failure_timeout_ms + RESUME_SLACK_MS;
        let late = self.killed.resumed_ms.max > bound_ms || self.killed.resumed_ms.count == 0;
        let late: Vec<String> = late.then(|| format!("bound {bound_ms:.0} ms")).into_iter().collect();
        let surplus = self.verified.held.abs_diff(self.verified.expected as u64);
        let surplus: Vec<String> = (surplus > 0)
            .then(|| format!("{} held by primaries, {} written", self.verified.held, self.verified.expected))
            .into_iter()
            .collect();
        let musts: [(&str, &[String]); 9] = [
            ("migrations aborted", &self.aborted()),
            ("requests failed while primaries moved", &failures),
            ("vectors lost", &self.verified.lost),
            ("vectors missing or duplicated by count", &surplus),
            ("stale reads", &self.stale),
            ("wrong or duplicated search results", &self.wrong_searches),
            ("answers under an epoch that had ended", &self.under_old_epochs),
            ("keys whose history is not linearizable", &self.history.1),
            ("SIGKILL: writes resume too late", &late),
        ];
        for (name, cases) in musts {
            println!("{name:<44} {:>7}", cases.len());
            cases.iter().take(TOLD).for_each(|case| println!("    {case}"));
        }
        musts.iter().any(|(_, cases)| !cases.is_empty())
    }

    fn print_goals(&self) {
        let pause = self.pauses(None).p99;
        if pause >= PAUSE_GOAL_MS {
            println!("goal missed: the pause's p99 is {pause:.1} ms, not below {PAUSE_GOAL_MS:.0} ms");
        }
        for (kind, name) in [(Kind::Read, "reads"), (Kind::Write, "writes"), (Kind::Search, "searches")] {
            let (before, during) = (of_kind(&self.before, kind).p99, of_kind(&self.during, kind).p99);
            if during >= OTHERS_GOAL * before {
                let times = during / before.max(f64::MIN_POSITIVE);
                println!(
                    "goal missed: p99 of other shards' {name} grows {times:.1} times, not less than {OTHERS_GOAL:.0}"
                );
            }
        }
    }
}
