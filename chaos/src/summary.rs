//! What came of a run, for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ruvector_cluster_check::Violation;

use crate::faults::{Faults, Kind};
use crate::monitor::Looks;
use crate::record::History;

/// What came of a run.
pub(crate) struct Summary {
    took: Duration,
    pub(crate) history: History,
    /// Of one directory that was killed and opened again and again.
    pub(crate) cycles: Option<u64>,
    faults: BTreeMap<Kind, u64>,
    reopened: u64,
    killed_opening: u64,
    elections: usize,
    compared: usize,
    watched: usize,
    not_permitted: Vec<String>,
    pub(crate) violations: Vec<Violation>,
}

impl Summary {
    pub(crate) fn of(
        history: History,
        faults: &Faults,
        looks: &Looks,
        violations: Vec<Violation>,
        not_permitted: Vec<String>,
        took: Duration,
    ) -> Self {
        Self {
            took,
            cycles: None,
            faults: faults.counts.clone(),
            reopened: faults.reopened,
            killed_opening: faults.killed_opening,
            elections: looks.elections(),
            compared: looks.compared(),
            watched: history.watches.iter().map(|watch| watch.items.len()).sum(),
            history,
            not_permitted,
            violations,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, text: String| writeln!(f, "{name:<36}{text}");
        let minutes = self.took.as_secs_f64() / 60.0;
        row("minutes", format!("{minutes:.1}"))?;
        row("operations", self.history.counts.values().sum::<u64>().to_string())?;
        for ((kind, outcome), count) in &self.history.counts {
            row(&format!("  {kind}, {outcome}"), count.to_string())?;
        }
        row("faults", self.faults.values().sum::<u64>().to_string())?;
        for (kind, count) in &self.faults {
            row(&format!("  {}", kind.name()), count.to_string())?;
        }
        for what in &self.not_permitted {
            row("  not permitted here", what.clone())?;
        }
        if let Some(cycles) = self.cycles {
            row("cycles a second", format!("{:.2}", cycles as f64 / self.took.as_secs_f64()))?;
        }
        let opening = self.killed_opening;
        row("kills and reopenings", format!("{}, {opening} of them while it opened", self.reopened))?;
        row("starts without any room", self.history.refused_starts.to_string())?;
        row("elections", self.elections.to_string())?;
        row("states compared", self.compared.to_string())?;
        row("watch events", self.watched.to_string())?;
        row("longest write gap, faults", format!("{:.3?}", self.history.gaps.disturbed))?;
        row("longest write gap, none", format!("{:.3?}", self.history.gaps.calm))?;
        row("violations", self.violations.len().to_string())?;
        for violation in &self.violations {
            writeln!(f, "VIOLATION  {violation}")?;
        }
        Ok(())
    }
}
