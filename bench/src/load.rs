//! Load by wrk with one thread: requests that a Lua script makes, and what came back.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::machine;

/// What one load measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Answers.
    pub(crate) requests: f64,
    /// How long it took.
    pub(crate) time: Duration,
    /// Half of the answers came within this.
    pub(crate) p50: Duration,
    /// All but a hundredth did.
    pub(crate) p99: Duration,
    /// Answers that were no success, and requests without an answer.
    pub(crate) errors: u64,
    /// CPU time of the load generator.
    pub(crate) cpu: Duration,
}

impl Measured {
    /// Answers a second.
    pub(crate) fn per_s(&self) -> f64 {
        self.requests / self.time.as_secs_f64()
    }
}

/// Printed by each script behind its own `request`: microseconds and counts.
const REPORT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("MEASURED %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// Loads so far.
static LOADS: AtomicUsize = AtomicUsize::new(0);

/// Puts `script` on `url` for `time`, on so many connections.
///
/// # Errors
/// When wrk can't be run or says nothing.
pub(crate) async fn put(
    folder: &Path,
    url: &str,
    script: &str,
    connections: usize,
    time: Duration,
) -> Result<Measured> {
    // Two loads may run at once.
    let path = folder.join(format!("load-{}.lua", LOADS.fetch_add(1, Ordering::Relaxed)));
    fs::write(&path, format!("{script}{REPORT}")).context("can't write the load's script")?;
    let before = machine::cpu_time_of_ended()?;
    let output = Command::new("wrk")
        .args(["--threads", "1", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{}s", time.as_secs()), "--timeout", "5s", "--script"])
        .arg(&path)
        .arg(url)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("can't run wrk: install it")?;
    let cpu = machine::cpu_time_of_ended()?.saturating_sub(before);
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    parse(&said, cpu).with_context(|| format!("wrk's words are not understood: {said}"))
}

fn parse(said: &str, cpu: Duration) -> Option<Measured> {
    let line = said.lines().find_map(|line| line.strip_prefix("MEASURED "))?;
    let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [requests, time, p50, p99, errors] = numbers.try_into().ok()?;
    let [time, p50, p99] = [time, p50, p99].map(Duration::from_micros);
    Some(Measured { requests: requests as f64, time, p50, p99, errors, cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reports_line_is_read() {
        let said = "Running 6s test\nMEASURED 1200 6000000 1430 9000 2\n";
        let measured = parse(said, Duration::ZERO).unwrap();
        assert_eq!((measured.per_s(), measured.p50.as_micros(), measured.errors), (200.0, 1_430, 2));
        assert!(parse("nothing", Duration::ZERO).is_none());
    }
}
