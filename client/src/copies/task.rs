//! The task around one shard's [`Replica`]: it feeds it events, one at a time, and carries out its effects.
//!
//! What the replica itself asked for (stores, calls, reports) comes back before what others want, through a queue that is
//! bounded by what the replica has under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::Parts;
use crate::fail_point::{self, Go};
use crate::ids::{Epoch, Incarnation, NodeId, ShardId};
use crate::replica::event::{Effect, Event, Operation, Reply, ReportOutcome};
use crate::replica::store::{StoreAction, StoreResult};
use crate::replica::wire::{Answer, Request};
use crate::replica::{CallId, OpId, Replica, ReportId, Status, Ticket};
use crate::wire::{Assignment, NodeAddr, Phase, Report};

/// How often a replica is told that time passed.
const TICK: Duration = Duration::from_millis(50);

/// Something for a shard's task.
pub(super) enum Input {
    Assigned(Box<Assignment>, oneshot::Sender<()>),
    Unassigned(oneshot::Sender<()>),
    LeaseLost(oneshot::Sender<()>),
    Client { epoch: Option<Epoch>, operation: Operation, reply: oneshot::Sender<Reply> },
    ConfirmRead { epoch: Epoch, answer: oneshot::Sender<bool> },
    Message { from: NodeId, request: Request, answer: oneshot::Sender<Answer> },
    Answered(CallId, Option<Answer>),
    Stored(OpId, StoreResult),
    Reported(ReportId, ReportOutcome),
}

/// What a shard's task lets others see.
pub(super) struct Shown {
    status: Mutex<Status>,
    /// Requests that were answered, ever.
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
}

impl Shown {
    /// As of the last event.
    pub(super) fn status(&self) -> Status {
        self.held().clone()
    }

    fn held(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits for an answer.
enum Waiter {
    Client(oneshot::Sender<Reply>),
    Node(oneshot::Sender<Answer>),
}

impl Waiter {
    fn is_gone(&self) -> bool {
        match self {
            Self::Client(waiter) => waiter.is_closed(),
            Self::Node(waiter) => waiter.is_closed(),
        }
    }
}

pub(super) struct CopyTask {
    parts: Arc<Parts>,
    shard: ShardId,
    replica: Replica,
    actions: mpsc::UnboundedSender<(OpId, StoreAction)>,
    own: mpsc::UnboundedSender<Input>,
    shown: Arc<Shown>,
    waiters: BTreeMap<Ticket, Waiter>,
    /// Reports of this session that have no outcome yet.
    reports: BTreeSet<ReportId>,
    last_ticket: u64,
    told_until_ms: u64,
}

impl CopyTask {
    /// A task of `shard` that asks for `actions`; what comes of anything that it asks for comes back through `own`.
    pub(super) fn new(
        parts: Arc<Parts>,
        shard: ShardId,
        replica: Replica,
        actions: mpsc::UnboundedSender<(OpId, StoreAction)>,
        own: mpsc::UnboundedSender<Input>,
    ) -> Self {
        let shown = Shown {
            status: Mutex::new(replica.status()),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        };
        Self {
            parts,
            shard,
            replica,
            actions,
            own,
            shown: Arc::new(shown),
            waiters: BTreeMap::new(),
            reports: BTreeSet::new(),
            last_ticket: 0,
            told_until_ms: 0,
        }
    }

    pub(super) fn shown(&self) -> Arc<Shown> {
        self.shown.clone()
    }

    /// Runs until nobody can ask any more, or nothing can be stored any more.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Input>,
        mut completions: mpsc::UnboundedReceiver<Input>,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.actions.is_closed() {
            tokio::select! {
                biased;
                Some(input) = completions.recv() => self.take(input),
                _ = ticks.tick() => self.tick(),
                input = requests.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
            }
        }
        // Nothing that waits for the store would ever be answered.
        tracing::error!(shard = %self.shard, "the shard's store task has ended, and so does the shard's");
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Assigned(assignment, done) => {
                if let Some(migration) = assignment.migration.as_ref() {
                    fail_point::pass("assigned", migration.phase.name());
                }
                self.step(Event::Assigned(assignment));
                self.tell(done, ());
            }
            Input::Unassigned(done) => {
                self.step(Event::Unassigned);
                self.tell(done, ());
            }
            Input::LeaseLost(done) => {
                self.told_until_ms = 0;
                self.step(Event::LeaseLost);
                for report in std::mem::take(&mut self.reports) {
                    self.step(Event::Reported { report, outcome: ReportOutcome::Unknown });
                }
                self.tell(done, ());
            }
            Input::Client { epoch, operation, reply } => {
                let ticket = self.wait(Waiter::Client(reply));
                self.step(Event::Client { ticket, epoch, operation });
            }
            Input::ConfirmRead { epoch, answer } => {
                self.tell_lease();
                let confirmed = self.replica.confirms_read(epoch, self.parts.clock.boot_ms());
                self.shown.reads.fetch_add(u64::from(confirmed), Ordering::Relaxed);
                self.tell(answer, confirmed);
            }
            Input::Message { from, request, answer } => {
                if matches!(request, Request::Chunk { .. }) {
                    fail_point::pass("asked", "chunk");
                }
                let ticket = self.wait(Waiter::Node(answer));
                self.step(Event::Request { ticket, from, request });
            }
            Input::Answered(call, Some(answer)) => self.step(Event::Answer { call, answer }),
            Input::Answered(call, None) => self.step(Event::CallFailed(call)),
            Input::Stored(op, result) => self.step(Event::Stored { op, result }),
            Input::Reported(report, outcome) => {
                if self.reports.remove(&report) {
                    self.step(Event::Reported { report, outcome });
                }
            }
        }
        self.show();
    }

    fn tick(&mut self) {
        let gone: Vec<Ticket> = self.waiters.iter().filter(|(_, w)| w.is_gone()).map(|(t, _)| *t).collect();
        for ticket in gone {
            if let Some(Waiter::Client(_)) = self.waiters.remove(&ticket) {
                self.step(Event::ClientGone(ticket));
            }
        }
        self.step(Event::Tick);
        self.show();
    }

    fn wait(&mut self, waiter: Waiter) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.waiters.insert(ticket, waiter);
        ticket
    }

    fn tell_lease(&mut self) {
        let until_ms = self.parts.lease.until_ms();
        if until_ms > self.told_until_ms {
            self.told_until_ms = until_ms;
            let effects = self.replica.step(self.parts.clock.boot_ms(), Event::LeaseUntil(until_ms));
            self.carry_out(effects);
        }
    }

    fn step(&mut self, event: Event) {
        // An assignment that takes a primaryship away comes before the lease that goes with it: the agent counts a grant
        // only once the assignments that it names were taken in here.
        if !matches!(event, Event::Assigned(_) | Event::LeaseLost) {
            self.tell_lease();
        }
        if !matches!(event, Event::Tick) {
            tracing::trace!(node = %self.parts.node, shard = %self.shard, ?event, "takes");
        }
        let effects = self.replica.step(self.parts.clock.boot_ms(), event);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            tracing::trace!(node = %self.parts.node, shard = %self.shard, ?effect, "asks");
            match effect {
                Effect::Store { op, action } => {
                    if self.actions.send((op, action)).is_err() {
                        tracing::debug!(shard = %self.shard, "nothing is stored any more");
                    }
                }
                Effect::Send { call, to, request } => self.send(call, to, request),
                Effect::Answer { ticket, answer } => {
                    if let Some(Waiter::Node(waiter)) = self.waiters.remove(&ticket) {
                        self.tell(waiter, answer);
                    }
                }
                Effect::Reply { ticket, reply } => {
                    let written = matches!(reply, Reply::Written { .. });
                    self.shown.writes.fetch_add(u64::from(written), Ordering::Relaxed);
                    if let Some(Waiter::Client(waiter)) = self.waiters.remove(&ticket) {
                        self.tell(waiter, reply);
                    }
                }
                Effect::Report { report, body } => self.report(report, body),
            }
        }
    }

    fn send(&self, call: CallId, to: NodeAddr, request: Request) {
        let (parts, own, shard) = (self.parts.clone(), self.own.clone(), self.shard);
        let sending = async move {
            let answer = parts.messenger.message(&to, shard, &parts.node, request).await;
            if own.send(Input::Answered(call, answer)).is_err() {
                tracing::trace!(%shard, "an answer came after the shard's task ended");
            }
        };
        self.parts.spawn.spawn("a message", Box::pin(sending));
    }

    fn report(&mut self, report: ReportId, body: Report) {
        let incarnation = self.parts.lease.incarnation();
        self.reports.insert(report);
        let is_let_go = fail_point::pass("report", point_of(&body)) == Go::On;
        let is_queued = is_let_go
            && incarnation > Incarnation(0)
            && self.parts.reporter.send(incarnation, report.0, body);
        if !is_queued && self.own.send(Input::Reported(report, ReportOutcome::Unknown)).is_err() {
            tracing::trace!(shard = %self.shard, "the shard's task has ended");
        }
    }

    /// Answers whoever waits, or no longer does. Others see by then what the answer rests on.
    fn tell<T>(&self, waiter: oneshot::Sender<T>, answer: T) {
        self.show();
        if waiter.send(answer).is_err() {
            tracing::trace!(shard = %self.shard, "whoever asked went away");
        }
    }

    fn show(&self) {
        let (now, shard, node) = (self.replica.status(), self.shard, &self.parts.node);
        let mut shown = self.shown.held();
        if (now.role, now.epoch, now.serving) != (shown.role, shown.epoch, shown.serving) {
            let Status { role, epoch, serving, .. } = &now;
            tracing::debug!(%node, %shard, ?role, %epoch, serving, "stands otherwise");
        }
        *shown = now;
    }
}

/// The fail point that a report passes.
fn point_of(report: &Report) -> &'static str {
    match report.phase {
        _ if report.in_sync_set.is_some() => "in_sync_set",
        Some(Phase::Copying) if !report.done && report.error.is_none() => "bytes",
        Some(phase) => phase.name(),
        None if report.retired => "retired",
        None => "lost",
    }
}
