//! Where long computations run: on a thread for such, so that whatever is served meanwhile does not wait.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking};

/// Runs work that takes long and waits for nothing.
///
/// It runs to its end even when nobody waits for it any more, and what it took with it, such as a place among a few, is free then.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use tokio::sync::Semaphore;

    use super::*;

    /// A client that hung up freed its place among the plans, while the plan was still being made.
    #[tokio::test(flavor = "multi_thread")]
    async fn work_that_nobody_waits_for_keeps_its_place_until_it_ends() {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().unwrap();
        let (go_on, may_go_on) = channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let work = tokio::spawn(aside(move || {
            let _place = place;
            begun.send(()).unwrap();
            may_go_on.recv().unwrap();
        }));
        has_begun.await.unwrap();
        work.abort();
        assert!(work.await.is_err() && places.clone().try_acquire_owned().is_err());
        go_on.send(()).unwrap();
        drop(places.acquire().await.unwrap());
    }
}
