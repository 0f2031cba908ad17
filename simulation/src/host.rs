//! A simulated process: what runs in it can be paused, as by SIGSTOP, and ends with it, as by SIGKILL.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use tokio::task::{AbortHandle, JoinHandle};

/// One process; clones are handles to it.
#[derive(Clone)]
pub struct Host {
    name: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    paused: bool,
    killed: bool,
    held: Vec<Waker>,
    tasks: Vec<AbortHandle>,
}

impl Host {
    /// A process that runs. Several may have had the name, one after the other.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), state: Arc::default() }
    }

    /// Its name, by which the network knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `future` in the process.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let host = self.clone();
        let task = tokio::spawn(async move {
            let mut future = pin!(future);
            poll_fn(|context| {
                if host.holds(context.waker()) {
                    return Poll::Pending;
                }
                future.as_mut().poll(context)
            })
            .await
        });
        let mut state = self.state();
        if state.killed {
            task.abort();
        } else {
            if state.tasks.len() >= 256 {
                state.tasks.retain(|task| !task.is_finished());
            }
            state.tasks.push(task.abort_handle());
        }
        task
    }

    fn holds(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        if state.paused {
            state.held.push(waker.clone());
        }
        state.paused
    }

    /// Stops everything where it is, or lets it go on.
    pub fn set_paused(&self, paused: bool) {
        let held = {
            let mut state = self.state();
            state.paused = paused;
            if paused { Vec::new() } else { std::mem::take(&mut state.held) }
        };
        held.into_iter().for_each(Waker::wake);
    }

    /// Whether it stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.state().paused
    }

    /// Ends everything in it, for good.
    pub fn kill(&self) {
        let tasks = {
            let mut state = self.state();
            state.killed = true;
            std::mem::take(&mut state.tasks)
        };
        tasks.into_iter().for_each(|task| task.abort());
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.state().killed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_process_goes_on_where_it_was_and_a_killed_one_does_not() {
        let (host, ticks) = (Host::new("a"), Arc::new(AtomicU32::new(0)));
        let counting = ticks.clone();
        host.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                counting.fetch_add(1, Ordering::Relaxed);
            }
        });
        let after = async |ms| {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            ticks.load(Ordering::Relaxed)
        };
        assert_eq!(after(25).await, 2);
        host.set_paused(true);
        assert_eq!(after(100).await, 2);
        host.set_paused(false);
        assert_eq!(after(15).await, 4);
        host.kill();
        assert_eq!(after(100).await, 4);
        assert!(host.spawn(async {}).await.unwrap_err().is_cancelled());
    }
}
