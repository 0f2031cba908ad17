//! Waiting for a condition.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// Enough for anything that should happen soon, on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(25);

/// Calls `look` until it finds what is waited for.
///
/// # Panics
/// When `deadline` passes first; says what was waited for and what was seen last.
#[track_caller]
pub fn wait_for<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        loop {
            let seen = match look().await {
                Ok(found) => return found,
                Err(seen) => seen,
            };
            let waited = started.elapsed();
            assert!(waited < deadline, "{caller}: waited {waited:?} for {what}; last seen: {seen}");
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
