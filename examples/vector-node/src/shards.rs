//! All shards of a node: what the agent drives ([`ShardHost`]), and what is done for clients at a primary that is here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use futures::future::join_all;
use ruvector_cluster_client::agent::{AssignmentUpdate, HostError, ShardHost};
use ruvector_cluster_client::ids::{Epoch, Incarnation, NodeId, Position, ShardId, Thousandths};
use ruvector_cluster_client::replica::event::{Operation, Refusal, Reply, ReportOutcome};
use ruvector_cluster_client::replica::store::ShardStore;
use ruvector_cluster_client::replica::wire::{Answer, Request, Write};
use ruvector_cluster_client::replica::{Key, ReportId};
use ruvector_cluster_client::wire::{HeldShard, Report, ReportResult};
use tokio::sync::oneshot;

use crate::identity::DataDir;
use crate::peers::{Found, Outcome};
use crate::shard::{Input, ShardHandle, Shared};
use crate::store::VectorShard;

/// How often a read that lost its primary's authority between reading and answering is tried again here.
const MAX_READ_TRIES: usize = 3;

/// The node's shards.
pub struct Shards {
    shared: Arc<Shared>,
    dir: Arc<DataDir>,
    dimensions: usize,
    /// All shards that are or were assigned, or have a copy.
    all: RwLock<BTreeMap<ShardId, ShardHandle>>,
    assigned: Mutex<BTreeSet<ShardId>>,
    /// Requests answered up to the last heartbeat.
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    at_ms: u64,
    reads_and_writes: BTreeMap<ShardId, (u64, u64)>,
}

impl Shards {
    /// Opens all copies in `dir`.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub async fn open(shared: Arc<Shared>, dir: Arc<DataDir>) -> std::io::Result<Arc<Self>> {
        let dimensions = dir.identity().dimensions as usize;
        let found = dir.shards()?;
        let shards = Arc::new(Self {
            shared,
            dir,
            dimensions,
            all: RwLock::default(),
            assigned: Mutex::default(),
            counted: Mutex::default(),
        });
        for shard in found {
            shards.start(ShardId(shard)).await;
        }
        Ok(shards)
    }

    /// The shard's task, if it has one.
    pub(crate) fn get(&self, shard: ShardId) -> Option<ShardHandle> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(&shard).cloned()
    }

    /// All tasks, ascending.
    pub(crate) fn all(&self) -> Vec<(ShardId, ShardHandle)> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(shard, handle)| (*shard, handle.clone())).collect()
    }

    /// Only the agent, and opening before it, start tasks: one at a time.
    async fn start(&self, shard: ShardId) -> Option<ShardHandle> {
        if let Some(handle) = self.get(shard) {
            return Some(handle);
        }
        let (path, dimensions) = (self.dir.shard(shard.0), self.dimensions);
        let opened = tokio::task::spawn_blocking(move || VectorShard::open(path, dimensions)).await;
        let store =
            opened.map_err(|error| tracing::error!(%shard, %error, "opening the copy panicked")).ok()?;
        let handle = ShardHandle::start(self.shared.clone(), shard, Arc::new(store));
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(shard, handle.clone());
        Some(handle)
    }

    /// Flushes all copies; nothing may be asked of them any more.
    pub async fn close(&self) {
        for (shard, handle) in self.all() {
            let closed = tokio::task::spawn_blocking(move || handle.store.close()).await;
            if let Ok(Err(error)) = closed {
                tracing::warn!(%shard, %error, "the copy was not flushed; it will be when opened again");
            }
        }
    }

    /// A message of another copy's node.
    pub async fn message(&self, shard: ShardId, from: NodeId, request: Request) -> Answer {
        let Some(handle) = self.get(shard) else { return Answer::NoCopy };
        let (answer, answered) = oneshot::channel();
        handle.tell(Input::Message { from, request, answer }).await;
        answered.await.unwrap_or(Answer::NoCopy)
    }

    /// Writes, in order, if the primary is here.
    pub async fn write(
        &self,
        shard: ShardId,
        epoch: Option<Epoch>,
        writes: Vec<Write>,
    ) -> Vec<Outcome<Position>> {
        let Some(handle) = self.get(shard) else { return writes.iter().map(|_| nowhere()).collect() };
        let each = writes.into_iter().map(|write| {
            let operation = Operation::Write { key: write.key, value: write.value };
            let handle = handle.clone();
            async move {
                match handle.operate(epoch, operation).await {
                    Reply::Written { position } => Outcome::Done { epoch: position.epoch, body: position },
                    Reply::Refused(refusal) => refusal.into(),
                    // A write is never answered so.
                    Reply::ReadAt { .. } => Outcome::Unknown,
                }
            }
        });
        // Polled in order, so they are queued in order.
        join_all(each).await
    }

    /// The last write of `key`, if the primary is here.
    pub async fn read(&self, shard: ShardId, epoch: Option<Epoch>, key: Key) -> Outcome<Write> {
        let read = move |store: &VectorShard| store.read_keys(std::slice::from_ref(&key)).ok()?.pop();
        self.read_with(shard, epoch, read).await
    }

    /// The nearest vectors of `shard`, if the primary is here.
    pub async fn search(
        &self,
        shard: ShardId,
        epoch: Option<Epoch>,
        vector: Arc<[f32]>,
        k: usize,
    ) -> Outcome<Vec<Found>> {
        let search = move |store: &VectorShard| {
            let hits = store.search(&vector, k).ok()?;
            Some(hits.into_iter().map(|hit| Found { id: hit.id, score: hit.score }).collect())
        };
        self.read_with(shard, epoch, search).await
    }

    /// Asks the replica, reads, and asks it again whether what was read may be answered.
    async fn read_with<T, F>(&self, shard: ShardId, epoch: Option<Epoch>, read: F) -> Outcome<T>
    where
        T: Send + 'static,
        F: Fn(&VectorShard) -> Option<T> + Clone + Send + 'static,
    {
        let Some(handle) = self.get(shard) else { return nowhere() };
        for _ in 0..MAX_READ_TRIES {
            let led = match handle.operate(epoch, Operation::Read).await {
                Reply::ReadAt { epoch } => epoch,
                // A read changes nothing, so nothing about it is unknown.
                Reply::Refused(Refusal::OutcomeUnknown) | Reply::Written { .. } => {
                    return Outcome::Unavailable;
                }
                Reply::Refused(refusal) => return refusal.into(),
            };
            let (store, read) = (handle.store.clone(), read.clone());
            let found = tokio::task::spawn_blocking(move || read(&store)).await;
            let Ok(Some(body)) = found else { return Outcome::Unavailable };
            if handle.confirms_read(led).await {
                return Outcome::Done { epoch: led, body };
            }
        }
        Outcome::Unavailable
    }

    async fn tell_all(&self, shards: Vec<(ShardHandle, Input)>, acknowledged: Vec<oneshot::Receiver<()>>) {
        for (handle, input) in shards {
            handle.tell(input).await;
        }
        for done in acknowledged {
            if done.await.is_err() {
                tracing::error!("a shard's task has ended");
            }
        }
    }
}

fn nowhere<T>() -> Outcome<T> {
    Outcome::NotPrimary { epoch: Epoch(0), primary: None }
}

#[async_trait]
impl ShardHost for Shards {
    fn generation(&self) -> u64 {
        self.dir.identity().generation
    }

    async fn save_generation(&self, generation: u64) -> Result<(), HostError> {
        let dir = self.dir.clone();
        let saved = tokio::task::spawn_blocking(move || dir.save_generation(generation)).await;
        saved.map_err(|e| HostError(e.to_string()))?.map_err(|e| HostError(e.to_string()))
    }

    async fn pause(&self) {
        let (mut inputs, mut acknowledged) = (Vec::new(), Vec::new());
        for (_, handle) in self.all() {
            let (done, acknowledge) = oneshot::channel();
            inputs.push((handle, Input::LeaseLost(done)));
            acknowledged.push(acknowledge);
        }
        self.tell_all(inputs, acknowledged).await;
    }

    async fn begin(&self, incarnation: Incarnation) {
        tracing::info!(%incarnation, "a session begins");
    }

    async fn install(&self, update: &AssignmentUpdate) -> Result<(), HostError> {
        let (mut inputs, mut acknowledged) = (Vec::new(), Vec::new());
        for shard in &update.changed {
            let Some(assignment) = update.all.get(shard) else { continue };
            let started = self.start(*shard).await;
            let handle = started.ok_or_else(|| HostError(format!("shard {shard} could not be opened")))?;
            let (done, acknowledge) = oneshot::channel();
            inputs.push((handle, Input::Assigned(Box::new(assignment.clone()), done)));
            acknowledged.push(acknowledge);
        }
        // Also what an earlier session was assigned, of which the update knows nothing.
        let left: Vec<ShardId> = {
            let mut assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
            let left = assigned.iter().filter(|shard| !update.all.contains_key(shard)).copied().collect();
            *assigned = update.all.keys().copied().collect();
            left
        };
        for handle in left.into_iter().filter_map(|shard| self.get(shard)) {
            let (done, acknowledge) = oneshot::channel();
            inputs.push((handle, Input::Unassigned(done)));
            acknowledged.push(acknowledge);
        }
        self.tell_all(inputs, acknowledged).await;
        Ok(())
    }

    fn held(&self) -> Vec<HeldShard> {
        let now_ms = self.shared.clock.boot_ms();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let passed_ms = now_ms.saturating_sub(counted.at_ms).max(1);
        let mut held = Vec::new();
        for (shard, handle) in self.all() {
            let status = handle.status();
            let Some((vectors, size_bytes)) = handle.store.size().filter(|_| status.held) else { continue };
            let reads = handle.counts.reads.load(Ordering::Relaxed);
            let writes = handle.counts.writes.load(Ordering::Relaxed);
            let before = counted.reads_and_writes.insert(shard, (reads, writes)).unwrap_or((reads, writes));
            // Thousandths a second are requests a millisecond, a million times.
            let rate = |now: u64, then: u64| {
                Thousandths(now.saturating_sub(then).saturating_mul(1_000_000) / passed_ms)
            };
            held.push(HeldShard {
                id: shard,
                epoch: status.position.epoch,
                position: status.position.n,
                size_bytes,
                vectors,
                reads_per_s: rate(reads, before.0),
                writes_per_s: rate(writes, before.1),
                filling: status.filling,
            });
        }
        counted.at_ms = now_ms;
        held
    }

    fn disk_free_bytes(&self) -> Option<u64> {
        self.dir.free_bytes()
    }

    async fn reported(&self, tag: u64, report: &Report, result: &ReportResult) {
        let code = || result.code.clone().unwrap_or_else(|| "refused".to_owned());
        let outcome = if result.accepted { ReportOutcome::Accepted } else { ReportOutcome::Refused(code()) };
        if let Some(handle) = self.get(report.shard) {
            handle.tell(Input::Reported(ReportId(tag), outcome)).await;
        }
    }
}
