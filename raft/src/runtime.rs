//! openraft's runtime over tokio, with what a simulation needs: randomness from a seed, blocking work in its place in the
//! order of things, and all tasks of one node abortable, or paused, together.
//!
//! All hang on a [`Scope`], which travels with the tasks: what runs inside draws its randomness from the scope and spawns
//! into it. openraft spawns only from its own tasks, so entering the scope once, when a node starts, covers it.
//!
//! Caveat: outside any scope (a request handler that polls a call into openraft) randomness comes from the system and
//! spawned tasks belong to nobody; openraft does neither there.

use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::{AbortHandle, JoinHandle};

tokio::task_local! {
    static SCOPE: Arc<Scope>;
}

/// Where one node's tasks live: its randomness and the handles to end them.
#[derive(Debug)]
pub(crate) struct Scope {
    /// One process may be a whole cluster: chance follows from a seed, and nothing leaves the thread.
    simulated: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    rng: StdRng,
    tasks: Vec<AbortHandle>,
    /// When `tasks` grows beyond this, finished ones are swept; doubled from what remained, so that sweeping is amortised.
    sweep_at: usize,
    ended: bool,
    paused: bool,
    /// Tasks that were to run while the scope was paused.
    held: Vec<Waker>,
}

impl Scope {
    /// A scope whose randomness follows from `seed`, or from the system.
    #[must_use]
    pub(crate) fn new(seed: Option<u64>) -> Arc<Self> {
        let rng = match seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => rand::make_rng(),
        };
        let inner =
            Inner { rng, tasks: Vec::new(), sweep_at: 64, ended: false, paused: false, held: Vec::new() };
        Arc::new(Self { simulated: seed.is_some(), inner: Mutex::new(inner) })
    }

    /// Runs `future` inside.
    pub(crate) fn enter<F: Future>(self: &Arc<Self>, future: F) -> impl Future<Output = F::Output> + use<F> {
        SCOPE.scope(self.clone(), future)
    }

    /// Spawns `future` inside. After [`Scope::end`] it is aborted before its first poll.
    pub(crate) fn spawn<F>(self: &Arc<Self>, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let handle = if self.simulated {
            tokio::spawn(SCOPE.scope(self.clone(), self.clone().while_running(future)))
        } else {
            tokio::spawn(SCOPE.scope(self.clone(), future))
        };
        self.keep(handle.abort_handle());
        handle
    }

    /// `future`, of which nothing happens while the scope is paused.
    async fn while_running<F: Future>(self: Arc<Self>, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            if self.holds(context.waker()) {
                return Poll::Pending;
            }
            future.as_mut().poll(context)
        })
        .await
    }

    fn holds(&self, waker: &Waker) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.paused {
            inner.held.push(waker.clone());
        }
        inner.paused
    }

    /// Stops everything that runs inside where it is, as SIGSTOP does, or lets it go on. Simulated scopes only.
    pub(crate) fn set_paused(&self, paused: bool) {
        let held = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.paused = paused;
            if paused { Vec::new() } else { std::mem::take(&mut inner.held) }
        };
        held.into_iter().for_each(Waker::wake);
    }

    /// Aborts everything that runs inside, at its next await, as a crash of the process would.
    pub(crate) fn end(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.ended = true;
        for task in inner.tasks.drain(..) {
            task.abort();
        }
    }

    /// A number that follows from the seed and from how many were drawn before.
    #[must_use]
    pub(crate) fn draw(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).rng.next_u64()
    }

    fn keep(&self, task: AbortHandle) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.ended {
            task.abort();
            return;
        }
        if inner.tasks.len() >= inner.sweep_at {
            inner.tasks.retain(|task| !task.is_finished());
            inner.sweep_at = (inner.tasks.len() * 2).max(64);
        }
        inner.tasks.push(task);
    }
}

/// tokio, as openraft wants it.
#[derive(Debug)]
pub(crate) struct Runtime {
    tokio: TokioRuntime,
}

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = StdRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        match SCOPE.try_with(Arc::clone) {
            Ok(scope) => scope.spawn(future),
            Err(_) => tokio::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        match SCOPE.try_with(|scope| scope.draw()) {
            Ok(seed) => StdRng::seed_from_u64(seed),
            Err(_) => rand::make_rng(),
        }
    }

    fn new(threads: usize) -> Self {
        Self { tokio: TokioRuntime::new(threads) }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.tokio.block_on(future)
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, std::io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        blocking(f)
    }
}

/// Runs work that blocks: on a thread for such, or, in a simulation, here and now.
pub(crate) fn blocking<F, T>(f: F) -> impl Future<Output = Result<T, std::io::Error>> + Send
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let here = SCOPE.try_with(|scope| scope.simulated).unwrap_or(false);
    async move {
        if here {
            return Ok(f());
        }
        tokio::task::spawn_blocking(f).await.map_err(std::io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_seed_gives_the_same_randomness_inside_spawned_tasks() {
        let draw = |seed| async move {
            let scope = Scope::new(Some(seed));
            let inside = scope
                .spawn(async { Runtime::spawn(async { Runtime::thread_rng().next_u64() }).await.unwrap() });
            inside.await.unwrap()
        };
        assert_eq!(draw(7).await, draw(7).await);
        assert_ne!(draw(7).await, draw(8).await);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_happens_inside_a_paused_scope_until_it_goes_on() {
        let scope = Scope::new(Some(1));
        let ticks = Arc::new(Mutex::new(0));
        let counting = ticks.clone();
        scope.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                *counting.lock().unwrap() += 1;
            }
        });
        let now = || *ticks.lock().unwrap();
        tokio::time::sleep(Duration::from_millis(35)).await;
        assert_eq!(now(), 3);
        scope.set_paused(true);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(now(), 3);
        scope.set_paused(false);
        tokio::time::sleep(Duration::from_millis(15)).await;
        assert_eq!(now(), 5, "the tick that was due came at once, the next one after its time");
    }

    #[tokio::test]
    async fn blocking_work_of_a_simulated_scope_stays_on_its_thread() {
        let own = std::thread::current().id();
        let on = |seed| async move {
            let task = Scope::new(seed).spawn(async { blocking(|| std::thread::current().id()).await });
            task.await.unwrap().unwrap()
        };
        assert_eq!(on(Some(1)).await, own);
        assert_ne!(on(None).await, own);
    }

    #[tokio::test]
    async fn ending_a_scope_aborts_what_openraft_spawned_inside() {
        let scope = Scope::new(Some(1));
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        let outer = scope.spawn(async move {
            let inner = Runtime::spawn(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
            inner.await
        });
        tokio::task::yield_now().await;
        scope.end();
        dropped.await.unwrap_err();
        assert!(outer.await.unwrap_err().is_cancelled());
        let late = scope.spawn(std::future::pending::<()>());
        assert!(late.await.unwrap_err().is_cancelled());
    }
}
