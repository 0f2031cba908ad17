//! Runs cells on some threads, and prints the table.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ruvector_cluster::client::clock::{Clock, SystemClock};

use super::expected::expected;
use super::{Cell, CellReport, Fault, Kind, Stage, run};

/// What came of the cells, in their order.
#[derive(Debug, Default)]
pub struct Table {
    /// All of them.
    pub reports: Vec<CellReport>,
    /// Real time.
    pub took_ms: u64,
}

/// Runs every one of `cells`.
#[must_use]
pub fn table(cells: &[Cell], seed: u64, jobs: usize) -> Table {
    let began_ms = SystemClock.boot_ms();
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(Vec::with_capacity(cells.len()));
    let work = || {
        while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
            let report = run(*cell, seed, false);
            reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    let mut reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    reports.sort_by_key(|report| report.cell);
    Table { reports, took_ms: SystemClock.boot_ms().saturating_sub(began_ms) }
}

impl CellReport {
    /// Whether it came to an end that is right, and nothing is wrong.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.violations.is_empty() && self.end.is_some_and(|end| expected(self.cell).contains(&end))
    }

    /// In a field of the table.
    fn told(&self) -> String {
        let end = self.end.map_or_else(|| "NEVER ENDED".to_owned(), |end| end.to_string());
        let why = self.error.as_deref().map(|why| format!(": {}", plain(why))).unwrap_or_default();
        let again = match self.attempts {
            0 => String::new(),
            n => format!(", put back {n}x"),
        };
        let wrong = if self.is_right() { "" } else { " **WRONG**" };
        format!("{end}{why}{again}{wrong}")
    }
}

/// Without what differs between machines.
fn plain(why: &str) -> String {
    if why.starts_with("no progress for") { "no progress".to_owned() } else { why.replace('|', "/") }
}

impl Table {
    /// As Markdown: a table for each kind, with a column for each phase.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for &kind in Kind::ALL {
            let of_kind = |report: &&CellReport| report.cell.kind == kind;
            if !self.reports.iter().any(|report| of_kind(&report)) {
                continue;
            }
            let stages = kind.stages();
            let titles: Vec<&str> = stages.iter().map(|stage| stage.text()).collect();
            text.push_str(&format!("\n### A {}\n\n| fault | {} |\n", kind.text(), titles.join(" | ")));
            text.push_str(&format!("|---|{}\n", "---|".repeat(stages.len())));
            for &fault in Fault::ALL {
                let field = |stage: &Stage| {
                    let cell = Cell { kind, stage: *stage, fault };
                    let report = self.reports.iter().find(|report| report.cell == cell);
                    report.map_or_else(|| "-".to_owned(), CellReport::told)
                };
                let fields: Vec<String> = stages.iter().map(field).collect();
                if fields.iter().any(|field| field != "-") {
                    text.push_str(&format!("| {} | {} |\n", fault.text(), fields.join(" | ")));
                }
            }
        }
        text
    }

    /// Cells that are wrong.
    pub fn wrong(&self) -> impl Iterator<Item = &CellReport> {
        self.reports.iter().filter(|report| !report.is_right())
    }
}
