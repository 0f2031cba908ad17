//! The shell around one shard's [`Replica`]: a task that feeds it events and carries out its effects.
//!
//! Events come one at a time. Before each event but an assignment or the loss of the lease, the replica is told how long the
//! lease lasts. What the replica itself asked for (stores, calls, reports) comes back before what others want.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ruvector_cluster_client::agent::{LeaseWatch, Reporter};
use ruvector_cluster_client::clock::Clock;
use ruvector_cluster_client::ids::{Epoch, Incarnation, NodeId, ShardId};
use ruvector_cluster_client::replica::event::{Effect, Event, Operation, Refusal, Reply, ReportOutcome};
use ruvector_cluster_client::replica::store::{StoreAction, StoreResult};
use ruvector_cluster_client::replica::wire::{Answer, Request};
use ruvector_cluster_client::replica::{CallId, Limits, OpId, Replica, ReportId, Status, Ticket};
use ruvector_cluster_client::wire::{Assignment, NodeAddr};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::failures::Failures;
use super::message::{Message, Told, decode, encode};
use super::store::{DataDisk, Life, work};
use crate::host::Host;
use crate::net::{Net, Repeatable};

/// Requests that wait to be looked at; the replica holds a bounded number of its own.
const MAX_QUEUED: usize = 4_096;
/// How often a replica is told that time passed.
const TICK: Duration = Duration::from_millis(50);
/// A message that is not answered for so long has come to nothing.
const CALL_BOUND: Duration = Duration::from_secs(2);

/// What all shards of a node share.
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) host: Host,
    pub(crate) net: Net,
    pub(crate) disk: DataDisk,
    pub(crate) life: Life,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) lease: LeaseWatch,
    pub(crate) reporter: Reporter,
    pub(crate) failures: Failures,
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
    pub(crate) counts: Arc<Counts>,
    queue: mpsc::Sender<Input>,
    status: Arc<Mutex<Status>>,
}

impl ShardHandle {
    /// Starts the task of `shard`, with what its disk has of it.
    pub(crate) fn start(shared: Arc<Shared>, shard: ShardId) -> Self {
        let limits = Limits { hold_ms: 2_000, ..Limits::default() };
        let replica = Replica::new(shared.node.clone(), shard, limits, shared.disk.found(shard));
        let (queue, requests) = mpsc::channel(MAX_QUEUED);
        let (own, completions) = mpsc::unbounded_channel();
        let (actions, asked) = mpsc::unbounded_channel();
        let status = Arc::new(Mutex::new(replica.status()));
        let counts = Arc::new(Counts::default());
        let stored = own.clone();
        let storing = work(shared.disk.clone(), shared.life, shard, asked, move |op, result| {
            tell_own(&stored, Input::Stored(op, result));
        });
        shared.failures.spawn(&shared.host, &format!("shard {shard}'s store"), storing);
        let task = ShardTask {
            shared: shared.clone(),
            shard,
            replica,
            actions,
            own,
            status: status.clone(),
            counts: counts.clone(),
            waiters: BTreeMap::new(),
            reports: BTreeSet::new(),
            last_ticket: 0,
            told_until_ms: 0,
        };
        shared.failures.spawn(&shared.host, &format!("shard {shard}"), task.run(requests, completions));
        Self { counts, queue, status }
    }

    /// Its standing as of the last event.
    pub(crate) fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Queues `input`, and waits for room. Where the task has ended, so has the node.
    pub(crate) async fn tell(&self, input: Input) {
        drop(self.queue.send(input).await);
    }

    /// A client's operation.
    pub(crate) async fn operate(&self, epoch: Option<Epoch>, operation: Operation) -> Reply {
        let (reply, answered) = oneshot::channel();
        if self.queue.try_send(Input::Client { epoch, operation, reply }).is_err() {
            return Reply::Refused(Refusal::Unavailable);
        }
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

impl Waiter {
    fn is_gone(&self) -> bool {
        match self {
            Self::Client(waiter) => waiter.is_closed(),
            Self::Node(waiter) => waiter.is_closed(),
        }
    }
}

struct ShardTask {
    shared: Arc<Shared>,
    shard: ShardId,
    replica: Replica,
    actions: mpsc::UnboundedSender<(OpId, StoreAction)>,
    own: mpsc::UnboundedSender<Input>,
    status: Arc<Mutex<Status>>,
    counts: Arc<Counts>,
    waiters: BTreeMap<Ticket, Waiter>,
    /// Reports of this session that have no outcome yet.
    reports: BTreeSet<ReportId>,
    last_ticket: u64,
    told_until_ms: u64,
}

impl ShardTask {
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
                self.acknowledge(done, ());
            }
            Input::Unassigned(done) => {
                self.step(Event::Unassigned);
                self.acknowledge(done, ());
            }
            Input::LeaseLost(done) => {
                self.told_until_ms = 0;
                self.step(Event::LeaseLost);
                for report in std::mem::take(&mut self.reports) {
                    self.step(Event::Reported { report, outcome: ReportOutcome::Unknown });
                }
                self.acknowledge(done, ());
            }
            Input::Client { epoch, operation, reply } => {
                let ticket = self.wait(Waiter::Client(reply));
                self.step(Event::Client { ticket, epoch, operation });
            }
            Input::ConfirmRead { epoch, answer } => {
                self.tell_lease();
                let confirmed = self.replica.confirms_read(epoch, self.shared.clock.boot_ms());
                self.counts.reads.fetch_add(u64::from(confirmed), Ordering::Relaxed);
                self.acknowledge(answer, confirmed);
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
                Effect::Store { op, action } => drop(self.actions.send((op, action))),
                Effect::Send { call, to, request } => self.send(call, to, request),
                Effect::Answer { ticket, answer } => {
                    if let Some(Waiter::Node(waiter)) = self.waiters.remove(&ticket) {
                        drop(waiter.send(answer));
                    }
                }
                Effect::Reply { ticket, reply } => {
                    let written = matches!(reply, Reply::Written { .. });
                    self.counts.writes.fetch_add(u64::from(written), Ordering::Relaxed);
                    if let Some(Waiter::Client(waiter)) = self.waiters.remove(&ticket) {
                        drop(waiter.send(reply));
                    }
                }
                Effect::Report { report, body } => {
                    let incarnation = self.shared.lease.incarnation();
                    self.reports.insert(report);
                    let is_queued = incarnation > Incarnation(0)
                        && self.shared.reporter.send(incarnation, report.0, body);
                    if !is_queued {
                        tell_own(&self.own, Input::Reported(report, ReportOutcome::Unknown));
                    }
                }
            }
        }
    }

    fn send(&self, call: CallId, to: NodeAddr, request: Request) {
        let (shared, own, shard) = (self.shared.clone(), self.own.clone(), self.shard);
        let message = encode(&Message::Peer { shard, from: shared.node.clone(), request });
        let sending = async move {
            // The protocol says that repeating any of these is harmless.
            let asked = shared.net.ask_data(&shared.host, &to.addr, Repeatable::Yes, message);
            let answer = match tokio::time::timeout(CALL_BOUND, asked).await {
                Ok(Ok(bytes)) => match decode(&bytes) {
                    Ok(Told::Peer(answer)) => Some(answer),
                    Ok(other) => panic!("{} answered a node with {other:?}", to.node),
                    Err(error) => panic!("{} answered what can't be read: {error}", to.node),
                },
                Ok(Err(_)) | Err(_) => None,
            };
            tell_own(&own, Input::Answered(call, answer));
        };
        self.shared.failures.spawn(&self.shared.host, "a message", sending);
    }

    fn acknowledge<T>(&mut self, done: oneshot::Sender<T>, answer: T) {
        self.publish_status();
        // Whoever asked may have gone.
        drop(done.send(answer));
    }

    fn publish_status(&self) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = self.replica.status();
    }
}

/// The queue is closed only when the shard's task has ended, and the node with it.
fn tell_own(own: &mpsc::UnboundedSender<Input>, input: Input) {
    drop(own.send(input));
}
