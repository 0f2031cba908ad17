//! A copy's task, as the rest of the node sees it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::Parts;
use super::store::CopyStore;
use super::task::{CopyTask, Input, Shown};
use super::worker;
use crate::ids::{Epoch, ShardId};
use crate::replica::event::{Operation, Refusal, Reply, ReportOutcome};
use crate::replica::{Limits, Replica, ReportId};

/// Requests that wait to be looked at; the replica holds a bounded number of its own.
const MAX_QUEUED: usize = 4_096;
/// How long a request waits for a primary that can't answer yet. Shorter than what a whole request may take: whoever routes
/// it looks it up again, and may find the next primary.
const HOLD_MS: u64 = 2_000;

/// The task of one copy, and its store.
pub(super) struct CopyHandle<S> {
    pub(super) store: Arc<S>,
    pub(super) shown: Arc<Shown>,
    queue: mpsc::Sender<Input>,
    own: mpsc::UnboundedSender<Input>,
}

impl<S: CopyStore> CopyHandle<S> {
    /// Starts the task of `shard`, whose store was opened.
    pub(super) async fn start(parts: Arc<Parts>, shard: ShardId, store: S) -> Self {
        let found = store.found().await.unwrap_or_else(|error| {
            tracing::error!(%shard, %error, "the copy can't be used");
            None
        });
        let limits = Limits { hold_ms: HOLD_MS, ..Limits::default() };
        let replica = Replica::new(parts.node.clone(), shard, limits, found);
        let store = Arc::new(store);
        let (queue, requests) = mpsc::channel(MAX_QUEUED);
        let (own, completions) = mpsc::unbounded_channel();
        let (actions, asked) = mpsc::unbounded_channel();
        let (changes, changed) = watch::channel(());
        let storing = worker::run(store.clone(), asked, own.clone(), changes);
        parts.spawn.spawn(&format!("shard {shard}'s store"), Box::pin(storing));
        let tending = worker::tend(store.clone(), parts.clock.clone(), changed);
        parts.spawn.spawn(&format!("shard {shard}'s store, tended"), Box::pin(tending));
        let task = CopyTask::new(parts.clone(), shard, replica, actions, own.clone());
        let shown = task.shown();
        parts.spawn.spawn(&format!("shard {shard}"), Box::pin(task.run(requests, completions)));
        Self { store, shown, queue, own }
    }

    /// What came of a report, ahead of what others want.
    pub(super) fn reported(&self, report: ReportId, outcome: ReportOutcome) {
        if self.own.send(Input::Reported(report, outcome)).is_err() {
            tracing::debug!("the shard's task has ended");
        }
    }

    /// Queues `input`, and waits for room. Where the task has ended it is dropped, and with it who would be answered.
    pub(super) async fn tell(&self, input: Input) {
        if self.queue.send(input).await.is_err() {
            tracing::debug!("the shard's task has ended");
        }
    }

    /// Queues a client's operation; refused where there is no room.
    pub(super) fn ask(&self, epoch: Option<Epoch>, operation: Operation) -> Asked {
        let (reply, answered) = oneshot::channel();
        let queued = self.queue.try_send(Input::Client { epoch, operation, reply });
        Asked(queued.is_ok().then_some(answered))
    }

    /// Whether what was read under `epoch` may be answered.
    pub(super) async fn confirms_read(&self, epoch: Epoch) -> bool {
        let (answer, answered) = oneshot::channel();
        self.tell(Input::ConfirmRead { epoch, answer }).await;
        answered.await.unwrap_or(false)
    }
}

/// A client's operation that was queued. Where it is dropped before its reply, the client counts as gone.
pub(super) struct Asked(Option<oneshot::Receiver<Reply>>);

impl Asked {
    pub(super) async fn reply(self) -> Reply {
        let Some(answered) = self.0 else { return Reply::Refused(Refusal::Unavailable) };
        // Without an answer the node is going down, and nobody knows how far the operation came.
        answered.await.unwrap_or(Reply::Refused(Refusal::OutcomeUnknown))
    }
}
