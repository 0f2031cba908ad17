//! What must never happen in a simulated process, and did: panics, and ends that nobody asked for.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;

use crate::host::Host;

/// Failures of a run; clones share them. A run that has one is red.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<Vec<String>>>);

impl Failures {
    fn all(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one down.
    pub fn add(&self, what: String) {
        self.all().push(what);
    }

    /// All so far.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        self.all().clone()
    }

    /// Runs `future`; where it panics that is written down, and the answer is none.
    pub async fn watch<T>(&self, who: &str, future: impl Future<Output = T>) -> Option<T> {
        match AssertUnwindSafe(future).catch_unwind().await {
            Ok(done) => Some(done),
            Err(panic) => {
                self.add(format!("{who} panicked: {}", text_of(&*panic)));
                None
            }
        }
    }

    /// Runs `future` in the process of `host`.
    pub fn spawn(&self, host: &Host, what: &str, future: impl Future<Output = ()> + Send + 'static) {
        let (failures, who) = (self.clone(), format!("{}: {what}", host.name()));
        drop(host.spawn(async move {
            failures.watch(&who, future).await;
        }));
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_a_task_is_written_down() {
        let (failures, host) = (Failures::default(), Host::new("d1"));
        failures.spawn(&host, "good", async {});
        failures.spawn(&host, "bad", async { panic!("{} is wrong", 7) });
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert_eq!(failures.seen(), ["d1: bad panicked: 7 is wrong"]);
    }
}
