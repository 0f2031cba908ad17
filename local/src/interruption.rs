//! How a program that runs a local cluster is ended by whoever started it: nothing stays behind.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Nodes that were asked to stop are killed after that.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);
/// The same when somebody waits for the prompt.
pub const INTERRUPTED_WITHIN: Duration = Duration::from_millis(500);
/// As a shell reports a process that SIGINT ended.
pub const INTERRUPTED: u8 = 130;

/// Resolves when somebody wants the program to end.
///
/// # Errors
/// When signals can't be handled.
pub fn interruption() -> Result<impl Future<Output = ()>> {
    let mut int = signal(SignalKind::interrupt()).context("SIGINT can't be handled")?;
    let mut term = signal(SignalKind::terminate()).context("SIGTERM can't be handled")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP can't be handled")?;
    Ok(async move {
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
