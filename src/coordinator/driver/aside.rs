//! Where long computations run: on a thread for such, so that whatever is served meanwhile does not wait.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking};

/// Runs work that takes long and waits for nothing.
///
/// Where there is one thread for all, as in a simulation, it runs there and at once: a second one would bring chance in.
///
/// # Errors
/// When it panicked, or the process ends.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => spawn_blocking(work).await,
        _ => Ok(work()),
    }
}
