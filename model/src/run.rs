//! Runs the checker over one scenario, and tells what came of it.

use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model};

use crate::checker::{GOOD, Space};
use crate::scenario::Scenario;

/// How far a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// States generated, at most; none for as many as there are.
    pub states: Option<usize>,
    /// Steps from the beginning, at most; none for as many as there are.
    pub depth: Option<usize>,
    /// Threads.
    pub threads: usize,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Explored {
    /// States generated, repeated ones among them.
    pub generated: usize,
    /// States that differ.
    pub unique: usize,
    /// The longest way from the beginning.
    pub depth: usize,
    /// All states within the scenario's bounds were seen.
    pub is_exhausted: bool,
    /// The property that does not hold, and a way to it.
    pub violation: Option<(String, String)>,
}

/// Explores a scenario, breadth first.
///
/// # Errors
/// When the scenario's beginning does not come about.
pub fn explore(scenario: &Scenario, extent: Extent) -> Result<Explored, String> {
    let space = Space::new(scenario).ok_or_else(|| format!("{} can't begin", scenario.name))?;
    let mut builder = space.checker().threads(extent.threads).finish_when(HasDiscoveries::AnyFailures);
    if let Some(states) = extent.states {
        builder = builder.target_state_count(states);
    }
    if let Some(depth) = extent.depth {
        builder = builder.target_max_depth(depth);
    }
    let checker = builder.spawn_bfs().join();
    let generated = checker.state_count();
    let is_cut = extent.states.is_some_and(|states| generated >= states)
        || extent.depth.is_some_and(|depth| checker.max_depth() >= depth);
    // A rule that is broken on the way to something good is told as such, where both were found.
    let shortest = checker.discoveries().into_iter().map(|(property, path)| (property, path.into_vec()));
    let shortest = shortest.min_by_key(|(property, path)| (*property == GOOD, path.len(), *property));
    let violation = shortest.map(|(property, path)| {
        let mut text = String::new();
        for (state, action) in path {
            text.push_str(&state.told());
            if let Some(action) = action {
                text.push_str(&format!("  {}\n", state.told_action(action)));
            }
        }
        (property.to_owned(), text)
    });
    Ok(Explored {
        generated,
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        is_exhausted: !is_cut && violation.is_none(),
        violation,
    })
}

/// Seconds, with one decimal.
#[must_use]
pub fn seconds(time: Duration) -> String {
    format!("{}.{}", time.as_secs(), time.subsec_millis() / 100)
}
