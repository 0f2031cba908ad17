//! Makes a handler's calls and sends its reports.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::FutureExt;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Duration, Instant};

use super::shard::{DutyResult, Shard, Start};
use super::work::{Kind, Work};
use super::{Duty, DutyError, Progress, ShardHandler, Standing, reports};
use crate::agent::{LeaseWatch, Reporter};
use crate::copies::Spawn;
use crate::ids::{Incarnation, NodeId, ShardId};
use crate::wire::{Assignment, Report};

/// Bounds and waits of a [`HandlerHost`]; those in `_ms` are milliseconds.
#[derive(Clone, Debug)]
pub struct HandlerOptions {
    /// Duties that run at once, of all shards.
    pub max_duties: usize,
    /// Copyings and deletions among them; fewer, so that what clients wait for doesn't wait for these.
    pub max_long_duties: usize,
    /// Shards whose assignments are put in force at once.
    pub max_installs: usize,
    /// The wait before a look at all shards: whether something is to be repeated, or the handler has something to say.
    pub look_ms: u64,
    /// The wait before a report is repeated while what it says still holds.
    pub repeat_ms: u64,
    /// The wait between reports of bytes copied.
    pub progress_ms: u64,
    /// The wait before a duty that failed is tried again, at first.
    pub retry_ms: u64,
    /// That wait, at most.
    pub max_retry_ms: u64,
    /// A cancelled duty that takes longer to end is complained of in the log; it is waited for all the same.
    pub cancel_ms: u64,
}

impl Default for HandlerOptions {
    fn default() -> Self {
        Self {
            max_duties: 16,
            max_long_duties: 4,
            max_installs: 64,
            look_ms: 200,
            repeat_ms: 1_000,
            progress_ms: 1_000,
            retry_ms: 100,
            max_retry_ms: 10_000,
            cancel_ms: 5_000,
        }
    }
}

/// A [`ShardHost`](crate::agent::ShardHost) over a [`ShardHandler`].
pub struct HandlerHost {
    pub(super) node: NodeId,
    pub(super) handler: Arc<dyn ShardHandler>,
    pub(super) options: HandlerOptions,
    lease: LeaseWatch,
    reporter: Reporter,
    spawn: Arc<dyn Spawn>,
    pub(super) state: Mutex<State>,
    duties: Semaphore,
    long_duties: Semaphore,
    /// The highest generation of this process, for handlers that keep none.
    pub(super) generation: AtomicU64,
    /// A duty ended.
    pub(super) ended: Notify,
    this: Weak<Self>,
}

#[derive(Default)]
pub(super) struct State {
    /// The session's; 0 between sessions.
    pub(super) incarnation: Incarnation,
    /// No duty begins any more.
    pub(super) is_closed: bool,
    pub(super) shards: BTreeMap<ShardId, Shard>,
    /// Of calls and of reports.
    last_id: u64,
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl HandlerHost {
    /// A host for `node`, whose tasks run on `spawn`; to be given to an [`Agent`](crate::agent::Agent) with the same lease, and
    /// the other end of `reporter`.
    pub fn start(
        node: NodeId,
        handler: Arc<dyn ShardHandler>,
        lease: LeaseWatch,
        reporter: Reporter,
        spawn: Arc<dyn Spawn>,
        options: HandlerOptions,
    ) -> Arc<Self> {
        handler.attach(lease.clone());
        let host = Arc::new_cyclic(|this| Self {
            node,
            handler,
            lease,
            reporter,
            state: Mutex::default(),
            duties: Semaphore::new(options.max_duties.max(1)),
            long_duties: Semaphore::new(options.max_long_duties.max(1)),
            generation: AtomicU64::new(0),
            ended: Notify::new(),
            this: this.clone(),
            spawn,
            options,
        });
        host.spawn.spawn("a handler's shards", Box::pin(look_now_and_then(Arc::downgrade(&host))));
        host
    }

    /// Shards whose duty was cancelled [`HandlerOptions::cancel_ms`] ago and still runs; ascending.
    pub fn overdue(&self) -> Vec<ShardId> {
        self.state().shards.iter().filter(|(_, shard)| shard.is_overdue()).map(|(id, _)| *id).collect()
    }

    /// Has a look at a shard at once: its handler has something new to say in [`standing`](ShardHandler::standing).
    pub fn nudge(&self, shard: ShardId) {
        self.look(shard);
    }

    /// Cancels all duties, begins no other, and waits for their end. To be called once the agent has ended.
    pub async fn close(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            {
                let mut state = self.state();
                state.is_closed = true;
                let now = Instant::now();
                state.shards.values_mut().for_each(|shard| shard.unsettle(None, now));
                if !state.shards.values().any(Shard::is_busy) {
                    return;
                }
            }
            ended.await;
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Valid between any two statements, so a panic elsewhere doesn't spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `assignment` will ask for once it is in force.
    pub(super) fn due(&self, incarnation: Incarnation, assignment: &Assignment) -> Option<Work> {
        Work::due(&self.node, incarnation, assignment)
    }

    /// Starts what is due for a shard, and says what is to be said.
    pub(super) fn look(&self, id: ShardId) {
        let in_force = self.state().shards.get(&id).and_then(|shard| shard.in_force.clone());
        // Asked without the lock: it is the handler's code.
        let standing = in_force.as_deref().map(|assignment| self.handler.standing(assignment));
        let now = Instant::now();
        let mut state = self.state();
        let (incarnation, is_closed) = (state.incarnation, state.is_closed);
        let (call, mut tag) = (state.next_id(), state.last_id);
        let Some(shard) = state.shards.get_mut(&id) else { return };
        if shard.is_to_be_complained_of(now, Duration::from_millis(self.options.cancel_ms)) {
            tracing::warn!(node = %self.node, shard = %id, "a cancelled duty does not end: nothing else is done for the shard");
        }
        let same = match (&shard.in_force, &in_force) {
            (Some(now), Some(then)) => Arc::ptr_eq(now, then),
            _ => false,
        };
        let mut start = None;
        // Otherwise whoever puts the newer one in force looks then.
        if same && !is_closed && incarnation != Incarnation(0) {
            start = shard.start(&self.node, incarnation, call, now, &self.options);
            self.report(shard, incarnation, &standing.unwrap_or_default(), now, &mut tag);
        }
        if shard.is_forgotten() {
            state.shards.remove(&id);
        }
        state.last_id = tag;
        drop(state);
        if let Some(start) = start {
            self.run(id, incarnation, start);
        }
    }

    fn report(
        &self,
        shard: &mut Shard,
        incarnation: Incarnation,
        standing: &Standing,
        now: Instant,
        last_tag: &mut u64,
    ) {
        for (topic, report) in shard.wanted(&self.node, standing) {
            if !shard.reports.is_due(topic, &report, now, &self.options) {
                continue;
            }
            *last_tag += 1;
            // One that finds no room is said at the next look.
            if self.reporter.send(incarnation, *last_tag, report.clone()) {
                tracing::debug!(node = %self.node, what = reports::described(report.shard, &report), "reported");
                shard.reports.sent(topic, *last_tag, report, now);
            }
        }
    }

    fn run(&self, id: ShardId, incarnation: Incarnation, start: Start) {
        // Whoever looks holds the host, so it is there.
        let Some(host) = self.this.upgrade() else { return };
        let Start { id: call, kind, assignment, cancel, progress } = start;
        let what = format!("shard {id}: {kind:?}");
        let duty = Duty { assignment, incarnation, lease: self.lease.clone(), cancel };
        let future = async move {
            let result = host.carry_out(kind, &duty, &progress).await;
            if let Some(Err(error)) = &result {
                tracing::warn!(node = %host.node, shard = %id, duty = ?kind, %error, "a duty failed");
            }
            let now = Instant::now();
            if let Some(shard) = host.state().shards.get_mut(&id) {
                shard.ended(call, result, now, &host.options);
            }
            host.ended.notify_waiters();
            host.look(id);
        };
        self.spawn.spawn(&what, Box::pin(future));
    }

    /// `None` where it was cancelled before it began.
    async fn carry_out(&self, kind: Kind, duty: &Duty, progress: &Progress) -> Option<DutyResult> {
        let _permits = tokio::select! {
            biased;
            () = duty.cancel.cancelled() => return None,
            permits = self.permits(kind) => permits,
        };
        let call = AssertUnwindSafe(self.call(kind, duty, progress)).catch_unwind();
        Some(call.await.unwrap_or_else(|_| Err(DutyError::Failed("the handler panicked".to_owned()))))
    }

    /// A long duty first waits for its turn among its like, so that it doesn't take a place from others while it waits.
    async fn permits(&self, kind: Kind) -> (Option<SemaphorePermit<'_>>, Option<SemaphorePermit<'_>>) {
        // The semaphores are never closed.
        let long = if kind.is_long() { self.long_duties.acquire().await.ok() } else { None };
        (long, self.duties.acquire().await.ok())
    }

    async fn call(&self, kind: Kind, duty: &Duty, progress: &Progress) -> DutyResult {
        let handler = &self.handler;
        match kind {
            Kind::Found => return handler.found(duty).await,
            Kind::Create => handler.create(duty).await?,
            Kind::Forward => handler.forward(duty).await?,
            Kind::Copy => handler.copy(duty, progress).await?,
            Kind::Admit => handler.admit(duty).await?,
            Kind::HandOver => handler.hand_over(duty).await?,
            Kind::Delete => handler.delete(duty).await?,
        }
        Ok(Vec::new())
    }

    /// An answer to a report.
    pub(super) fn answered(&self, tag: u64, report: &Report) {
        if let Some(shard) = self.state().shards.get_mut(&report.shard) {
            shard.reports.answered(tag);
        }
    }
}

/// Looks at all shards, as long as there is a host.
async fn look_now_and_then(host: Weak<HandlerHost>) {
    loop {
        let wait_ms = {
            let Some(host) = host.upgrade() else { return };
            let ids: Vec<ShardId> = host.state().shards.keys().copied().collect();
            ids.into_iter().for_each(|id| host.look(id));
            host.options.look_ms.max(1)
        };
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}
