//! The shell around one shard's [`Replica`]: a task that feeds it events and carries out its effects.
//!
//! Events come one at a time, so the replica needs no lock. Before each event it is told how long the lease lasts. Clients
//! and other nodes come in through a bounded queue; what the replica itself asked for (stores, calls, reports) comes back
//! through a queue that is bounded by what the replica has under way.

mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ruvector_cluster_client::agent::{LeaseWatch, Reporter};
use ruvector_cluster_client::clock::Clock;
use ruvector_cluster_client::ids::{Epoch, Incarnation, NodeId, ShardId};
use ruvector_cluster_client::replica::event::{Effect, Event, Operation, Refusal, Reply, ReportOutcome};
use ruvector_cluster_client::replica::store::{ShardStore, StoreAction, StoreResult};
use ruvector_cluster_client::replica::wire::{Answer, Request};
use ruvector_cluster_client::replica::{CallId, Limits, OpId, Replica, ReportId, Status, Ticket};
use ruvector_cluster_client::wire::{Assignment, NodeAddr};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::peers::{Message, Peers};
use crate::store::VectorShard;

/// Requests that wait to be looked at; the replica holds a bounded number of its own.
const MAX_QUEUED: usize = 4_096;
/// How often a replica is told that time passed.
const TICK: Duration = Duration::from_millis(50);

/// What all shards of a node share.
pub struct Shared {
    /// The node.
    pub node: NodeId,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The node's lease.
    pub lease: LeaseWatch,
    /// Where reports go.
    pub reporter: Reporter,
    /// The other nodes.
    pub peers: Peers,
}

/// Something for a shard's task.
pub(crate) enum Input {
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

/// Requests that were answered, ever.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
}

/// A shard's task, as the rest of the node sees it; cloning is cheap.
#[derive(Clone)]
pub(crate) struct ShardHandle {
    pub(crate) store: Arc<VectorShard>,
    pub(crate) counts: Arc<Counts>,
    queue: mpsc::Sender<Input>,
    status: watch::Receiver<Status>,
}

impl ShardHandle {
    /// Starts the task of `shard`, whose store was opened.
    pub(crate) fn start(shared: Arc<Shared>, shard: ShardId, store: Arc<VectorShard>) -> Self {
        let found = store.state().unwrap_or_else(|error| {
            tracing::error!(%shard, %error, "the copy can't be used");
            None
        });
        // Shorter than what a whole request may take: it is looked up again, and may be held by the next primary.
        let limits = Limits { hold_ms: 2_000, ..Limits::default() };
        let replica = Replica::new(shared.node.clone(), shard, limits, found);
        let (queue, requests) = mpsc::channel(MAX_QUEUED);
        let (own, completions) = mpsc::unbounded_channel();
        let (actions, asked) = mpsc::unbounded_channel();
        let (publish, status) = watch::channel(replica.status());
        let counts = Arc::new(Counts::default());
        tokio::spawn(worker::run(store.clone(), asked, own.clone()));
        let task = ShardTask {
            shared,
            shard,
            replica,
            actions,
            own,
            publish,
            counts: counts.clone(),
            waiters: BTreeMap::new(),
            reports: BTreeSet::new(),
            last_ticket: 0,
            told_until_ms: 0,
        };
        tokio::spawn(task.run(requests, completions));
        Self { store, counts, queue, status }
    }

    /// Its standing now.
    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Queues `input`, and waits for room; an answer that doesn't come says that the node is going down.
    pub(crate) async fn tell(&self, input: Input) {
        if self.queue.send(input).await.is_err() {
            tracing::debug!("the shard's task has ended");
        }
    }

    /// A client's operation.
    pub(crate) async fn operate(&self, epoch: Option<Epoch>, operation: Operation) -> Reply {
        let (reply, answered) = oneshot::channel();
        if self.queue.try_send(Input::Client { epoch, operation, reply }).is_err() {
            return Reply::Refused(Refusal::Unavailable);
        }
        // Without an answer the node is going down, and nobody knows how far the operation came.
        answered.await.unwrap_or(Reply::Refused(Refusal::OutcomeUnknown))
    }

    /// Whether what was read under `epoch` may be answered.
    pub(crate) async fn confirms_read(&self, epoch: Epoch) -> bool {
        let (answer, answered) = oneshot::channel();
        self.tell(Input::ConfirmRead { epoch, answer }).await;
        answered.await.unwrap_or(false)
    }
}

/// Who waits for an answer.
enum Waiter {
    Client(oneshot::Sender<Reply>),
    Node(oneshot::Sender<Answer>),
}

struct ShardTask {
    shared: Arc<Shared>,
    shard: ShardId,
    replica: Replica,
    actions: mpsc::UnboundedSender<(OpId, StoreAction)>,
    own: mpsc::UnboundedSender<Input>,
    publish: watch::Sender<Status>,
    counts: Arc<Counts>,
    waiters: BTreeMap<Ticket, Waiter>,
    /// Reports of this session that have no outcome yet.
    reports: BTreeSet<ReportId>,
    last_ticket: u64,
    told_until_ms: u64,
}

impl ShardTask {
    /// Runs until nobody can ask any more.
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Input>,
        mut completions: mpsc::UnboundedReceiver<Input>,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
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
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Assigned(assignment, done) => {
                self.step(Event::Assigned(assignment));
                self.acknowledge(done);
            }
            Input::Unassigned(done) => {
                self.step(Event::Unassigned);
                self.acknowledge(done);
            }
            Input::LeaseLost(done) => {
                self.told_until_ms = 0;
                self.step(Event::LeaseLost);
                for report in std::mem::take(&mut self.reports) {
                    self.step(Event::Reported { report, outcome: ReportOutcome::Unknown });
                }
                self.acknowledge(done);
            }
            Input::Client { epoch, operation, reply } => {
                let ticket = self.wait(Waiter::Client(reply));
                self.step(Event::Client { ticket, epoch, operation });
            }
            Input::ConfirmRead { epoch, answer } => {
                self.tell_lease();
                let confirmed = self.replica.confirms_read(epoch, self.shared.clock.boot_ms());
                self.counts.reads.fetch_add(u64::from(confirmed), Ordering::Relaxed);
                if answer.send(confirmed).is_err() {
                    tracing::trace!(shard = %self.shard, "a reader went away");
                }
            }
            Input::Message { from, request, answer } => {
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
        self.publish_status();
    }

    fn tick(&mut self) {
        let gone: Vec<Ticket> = self.waiters.iter().filter(|(_, w)| w.is_gone()).map(|(t, _)| *t).collect();
        for ticket in gone {
            if let Some(Waiter::Client(_)) = self.waiters.remove(&ticket) {
                self.step(Event::ClientGone(ticket));
            }
        }
        self.step(Event::Tick);
        self.publish_status();
    }

    fn wait(&mut self, waiter: Waiter) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.waiters.insert(ticket, waiter);
        ticket
    }

    fn tell_lease(&mut self) {
        let until_ms = self.shared.lease.until_ms();
        if until_ms > self.told_until_ms {
            self.told_until_ms = until_ms;
            let effects = self.replica.step(self.shared.clock.boot_ms(), Event::LeaseUntil(until_ms));
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
            tracing::trace!(node = %self.shared.node, shard = %self.shard, ?event, "takes");
        }
        let effects = self.replica.step(self.shared.clock.boot_ms(), event);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            tracing::trace!(node = %self.shared.node, shard = %self.shard, ?effect, "asks");
            match effect {
                Effect::Store { op, action } => {
                    if self.actions.send((op, action)).is_err() {
                        tracing::error!(shard = %self.shard, "the shard's store task has ended");
                    }
                }
                Effect::Send { call, to, request } => self.send(call, to, request),
                Effect::Answer { ticket, answer } => {
                    if let Some(Waiter::Node(waiter)) = self.waiters.remove(&ticket)
                        && waiter.send(answer).is_err()
                    {
                        tracing::trace!(shard = %self.shard, "a node went away");
                    }
                }
                Effect::Reply { ticket, reply } => {
                    let written = matches!(reply, Reply::Written { .. });
                    self.counts.writes.fetch_add(u64::from(written), Ordering::Relaxed);
                    if let Some(Waiter::Client(waiter)) = self.waiters.remove(&ticket)
                        && waiter.send(reply).is_err()
                    {
                        tracing::trace!(shard = %self.shard, "a client went away");
                    }
                }
                Effect::Report { report, body } => {
                    let incarnation = self.shared.lease.incarnation();
                    self.reports.insert(report);
                    let is_queued = incarnation > Incarnation(0)
                        && self.shared.reporter.send(incarnation, report.0, body);
                    if !is_queued {
                        self.complete(Input::Reported(report, ReportOutcome::Unknown));
                    }
                }
            }
        }
    }

    fn send(&self, call: CallId, to: NodeAddr, request: Request) {
        let (peers, own, shard) = (self.shared.peers.clone(), self.own.clone(), self.shard);
        let message = Message { from: self.shared.node.clone(), request };
        tokio::spawn(async move {
            let answer = peers.message(&to.addr, shard, &message).await;
            let answer = answer
                .map_err(|error| tracing::debug!(%shard, to = %to.node, %error, "a message came to nothing"));
            if own.send(Input::Answered(call, answer.ok())).is_err() {
                tracing::trace!(%shard, "an answer came after the shard's task ended");
            }
        });
    }

    fn complete(&self, input: Input) {
        if self.own.send(input).is_err() {
            tracing::trace!(shard = %self.shard, "the shard's task has ended");
        }
    }

    fn acknowledge(&mut self, done: oneshot::Sender<()>) {
        self.publish_status();
        if done.send(()).is_err() {
            tracing::trace!(shard = %self.shard, "nobody waits for this any more");
        }
    }

    fn publish_status(&self) {
        let status = self.replica.status();
        self.publish.send_if_modified(|held| {
            let is_new = *held != status;
            if is_new {
                *held = status;
            }
            is_new
        });
    }
}

impl Waiter {
    fn is_gone(&self) -> bool {
        match self {
            Self::Client(waiter) => waiter.is_closed(),
            Self::Node(waiter) => waiter.is_closed(),
        }
    }
}
