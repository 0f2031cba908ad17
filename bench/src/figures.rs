//! Medians, and tables that can stand in a page.

use std::time::Duration;

/// The middle one; of an even number the lower of the two.
///
/// # Panics
/// When there is none.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

/// The `percent`-th percentile by nearest rank.
///
/// # Panics
/// When there is none.
pub(crate) fn percentile(figures: &[Duration], percent: usize) -> Duration {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

/// Milliseconds with two places.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// A number without places, its thousands apart.
pub(crate) fn whole(number: f64) -> String {
    ruvector_cluster_local::narrator::count(number.round().max(0.0) as usize)
}

/// Prints a table in Markdown.
pub(crate) fn table(title: &str, head: &[&str], rows: &[Vec<String>]) {
    println!("\n{title}\n");
    println!("| {} |", head.join(" | "));
    println!("|{}", "---|".repeat(head.len()));
    for row in rows {
        println!("| {} |", row.join(" | "));
    }
}

/// Says whether a goal is met: `value` against `goal`, of which more is better.
pub(crate) fn goal(what: &str, value: f64, at_least: f64) {
    let verdict = if value >= at_least { "met" } else { "MISSED" };
    println!("goal {verdict}: {what}: {value:.2}, at least {at_least:.2}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_one_of_the_figures() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.0);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!([50, 99, 100].map(|p| percentile(&times, p).as_millis()), [100, 198, 200]);
        assert_eq!(percentile(&times[..1], 99).as_millis(), 1);
    }
}
