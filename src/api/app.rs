//! What handlers share: the node, the published state, the coordinator, limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ruvector_cluster_client::clock::Clock;
use ruvector_cluster_client::gossip::Sighting;
use ruvector_cluster_client::ids::Revision;
use ruvector_cluster_raft::{Leadership, Node};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{ApiError, Code};
use super::extract::{Consistency, Params};
use crate::coordinator::{self, Coordinator};
use crate::machine::ChangeLog;
use crate::metadata::{
    Answer, Command, Envelope, Founded, Metadata, Outcome, Rejection, RejectionCode, RequestKey, view,
};
use crate::metrics::Metrics;
use crate::proposer;
use crate::soft::Soft;

/// What handlers share.
pub struct App {
    /// Consensus.
    pub node: Node,
    /// The replicated state, as published last.
    pub state: watch::Receiver<Arc<Metadata>>,
    /// What changed lately.
    pub changes: Arc<ChangeLog>,
    /// Heartbeats, leases, soft state.
    pub coordinator: Coordinator,
    /// Who is alive as gossip tells; none where it is off.
    pub gossip: Option<watch::Receiver<Arc<Sighting>>>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// The two clocks.
    pub clock: Arc<dyn Clock>,
    /// Cancelled when this control node stops.
    pub shutdown: CancellationToken,
    /// How much runs at once.
    pub limits: Limits,
    request_prefix: u64,
    request_count: AtomicU64,
    map: Mutex<Option<(Revision, Bytes)>>,
}

impl App {
    /// Shares the parts; `request_prefix` tells this process's request ids from others'.
    #[expect(clippy::too_many_arguments, reason = "called once, by the server's start")]
    pub fn new(
        node: Node,
        state: watch::Receiver<Arc<Metadata>>,
        changes: Arc<ChangeLog>,
        coordinator: Coordinator,
        gossip: Option<watch::Receiver<Arc<Sighting>>>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
        request_prefix: u64,
    ) -> Arc<Self> {
        let limits = Limits::default();
        let request_count = AtomicU64::new(0);
        Arc::new(Self {
            node,
            state,
            changes,
            coordinator,
            gossip,
            metrics,
            clock,
            shutdown,
            limits,
            request_prefix,
            request_count,
            map: Mutex::new(None),
        })
    }

    /// A new request's id.
    pub fn next_request_id(&self) -> String {
        let n = self.request_count.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}-{n:x}", self.request_prefix & 0xffff_ffff)
    }

    /// The state as published last.
    pub fn published(&self) -> Arc<Metadata> {
        self.state.borrow().clone()
    }

    /// The state to answer a read from, as fresh as `consistency` in its parameters asks.
    ///
    /// # Errors
    /// 503 without a leader or before the cluster is founded, 400 for a bad parameter.
    pub(super) async fn read(&self, params: &Params) -> Result<Arc<Metadata>, ApiError> {
        match params.consistency()? {
            Consistency::Linearizable => self.read_linearizable().await,
            Consistency::Stale => {
                let state = self.published();
                founded(&state)?;
                Ok(state)
            }
        }
    }

    /// A state that has every change acknowledged before now.
    ///
    /// # Errors
    /// 503 without a leader or before the cluster is founded.
    pub async fn read_linearizable(&self) -> Result<Arc<Metadata>, ApiError> {
        if !mutants::is_on(mutants::Mutant::StaleReadAsLinearizable) {
            self.node.read_index().await?;
        }
        let state = self.published();
        founded(&state)?;
        Ok(state)
    }

    /// Whether this control node leads, so that its soft state is the cluster's.
    pub fn leads(&self) -> bool {
        self.node.leads()
    }

    /// What only the leader knows; None on any other control node.
    pub fn soft(&self) -> Option<Arc<Soft>> {
        self.coordinator.soft().filter(|_| self.leads())
    }

    /// A short look at that in its place, for an answer about one row; None on any other control node.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Soft) -> T) -> Option<T> {
        if self.leads() { self.coordinator.look(look) } else { None }
    }

    /// Computes a plan, or what is like one, where nothing that is served waits for it.
    ///
    /// # Errors
    /// 429 when too many are being computed.
    pub(super) async fn plan<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.limits.plan()?;
        // It goes on when nobody waits for it any more, and takes its place until it has ended.
        let work = move || {
            let _permit = permit;
            work()
        };
        let failed = |e| ApiError::new(Code::Internal, format!("no plan was made: {e}"));
        coordinator::aside(work).await.map_err(failed)
    }

    /// The map as JSON, written once for each revision.
    ///
    /// # Errors
    /// 503 before the cluster is founded.
    pub fn map_json(&self, state: &Metadata) -> Result<Bytes, ApiError> {
        let mut cached = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((revision, json)) = &*cached
            && *revision == state.revision()
        {
            return Ok(json.clone());
        }
        founded(state)?;
        let json = serde_json::to_vec(&view::map(state))
            .map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        let json = Bytes::from(json);
        *cached = Some((state.revision(), json.clone()));
        Ok(json)
    }

    /// What this request was answered before, as `state` has it: asked ahead of whatever is checked or computed outside of
    /// the replicated state, so that a repeat finds that neither refuses it nor changes its answer.
    ///
    /// # Errors
    /// The refusal that it met before, and 422 where its key stands for another request.
    pub(super) fn earlier(
        state: &Metadata,
        key: Option<&RequestKey>,
    ) -> Result<Option<(Revision, Answer)>, ApiError> {
        let Some(outcome) = key.and_then(|key| state.earlier_outcome(key)) else { return Ok(None) };
        Ok(Some((outcome.revision, outcome.result?)))
    }

    /// Refuses a request for what only this control node knows; under a key, so that a repeat is told the same. Where the key's
    /// request has been carried out meanwhile, what came of that.
    ///
    /// # Errors
    /// `rejection`, or why it could not be remembered.
    pub(super) async fn refuse(
        &self,
        key: Option<RequestKey>,
        rejection: Rejection,
    ) -> Result<(Revision, Answer), ApiError> {
        match key {
            Some(_) => self.propose(key, Command::Refuse { rejection }).await,
            None => Err(rejection.into()),
        }
    }

    /// Proposes on behalf of a client, and answers what came of it.
    ///
    /// # Errors
    /// The command's refusal, or why it was not carried out.
    pub async fn propose(
        &self,
        key: Option<RequestKey>,
        command: Command,
    ) -> Result<(Revision, Answer), ApiError> {
        self.propose_as("client".to_owned(), key, None, command).await
    }

    /// As [`App::propose`], for the actor named; with a fence, only while this node leads in that very term.
    ///
    /// # Errors
    /// As there.
    pub async fn propose_as(
        &self,
        actor: String,
        key: Option<RequestKey>,
        fence: Option<Leadership>,
        command: Command,
    ) -> Result<(Revision, Answer), ApiError> {
        let envelope = Envelope { version: proposer::COMMAND_VERSION, actor, key, command };
        let outcome: Outcome = match fence {
            Some(leadership) => proposer::propose_fenced(&self.node, leadership, &envelope).await?,
            None => proposer::propose(&self.node, &envelope).await?,
        };
        Ok((outcome.revision, outcome.result?))
    }

    /// Waits until the published state makes `done` true, the time is over or this control node stops; answers the state.
    pub async fn wait_until(&self, wait: Duration, mut done: impl FnMut(&Metadata) -> bool) -> Arc<Metadata> {
        let mut state = self.state.clone();
        let deadline = Instant::now() + wait;
        loop {
            let current = state.borrow_and_update().clone();
            if wait.is_zero() || done(&current) {
                return current;
            }
            let over = tokio::select! {
                changed = state.changed() => changed.is_err(),
                () = tokio::time::sleep_until(deadline) => true,
                () = self.shutdown.cancelled() => true,
            };
            if over {
                return self.published();
            }
        }
    }
}

/// What the cluster was founded with.
///
/// # Errors
/// 503 before that.
pub(super) fn founded(state: &Metadata) -> Result<&Founded, ApiError> {
    state.founded().ok_or_else(|| {
        ApiError::new(
            Code::Rejected(RejectionCode::Founding),
            "the cluster has not been founded yet: not enough of its control nodes have met",
        )
    })
}

/// Holds one place among those that run at once.
pub(super) type Permit = OwnedSemaphorePermit;

/// How much runs at once; more is refused with 429, so that nothing piles up.
pub struct Limits {
    writes: Arc<Semaphore>,
    node_writes: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    plans: Arc<Semaphore>,
}

/// Each holds a proposal or a forwarded call of at most 1 MiB.
const MAX_WRITES: usize = 1_024;
/// Heartbeats and reports of thousands of data nodes.
const MAX_NODE_WRITES: usize = 4_096;
/// Reads passed on to the leader.
const MAX_SOFT_READS: usize = 1_024;
/// Open watches and long polls.
const MAX_STREAMS: usize = 20_000;
/// Each holds a whole state, and is checked and written out by a walk over all of it.
const MAX_BACKUPS: usize = 4;
/// Each walks over a whole state and holds a description of it.
const MAX_PLANS: usize = 4;

impl Default for Limits {
    fn default() -> Self {
        let semaphore = |n| Arc::new(Semaphore::new(n));
        Self {
            writes: semaphore(MAX_WRITES),
            node_writes: semaphore(MAX_NODE_WRITES),
            reads: semaphore(MAX_SOFT_READS),
            streams: semaphore(MAX_STREAMS),
            backups: semaphore(MAX_BACKUPS),
            plans: semaphore(MAX_PLANS),
        }
    }
}

impl Limits {
    /// A place for a write.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub fn write(&self) -> Result<Permit, ApiError> {
        take(&self.writes, "writes")
    }

    /// A place for a heartbeat or reports.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub fn node_write(&self) -> Result<Permit, ApiError> {
        take(&self.node_writes, "heartbeats and reports")
    }

    /// A place for a read that may be passed on.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub fn read(&self) -> Result<Permit, ApiError> {
        take(&self.reads, "reads")
    }

    /// A place for a watch or a long poll.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub fn stream(&self) -> Result<Permit, ApiError> {
        take(&self.streams, "watches and long polls")
    }

    /// A place for a plan.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub fn plan(&self) -> Result<Permit, ApiError> {
        take(&self.plans, "plans")
    }

    /// A place for a backup.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub fn backup(&self) -> Result<Permit, ApiError> {
        take(&self.backups, "backups")
    }
}

fn take(places: &Arc<Semaphore>, what: &str) -> Result<Permit, ApiError> {
    let refuse =
        |_| ApiError::new(Code::Overloaded, format!("too many {what} are in flight; nothing was done"));
    places.clone().try_acquire_owned().map_err(refuse)
}
