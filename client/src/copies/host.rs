//! What the agent drives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::handle::CopyHandle;
use super::store::{CopyStore, NodeStore};
use super::task::Input;
use super::{Copies, unpoison};
use crate::agent::{AssignmentUpdate, HostError, ShardHost};
use crate::ids::{Incarnation, ShardId, Thousandths};
use crate::replica::ReportId;
use crate::replica::event::ReportOutcome;
use crate::wire::{HeldShard, Report, ReportResult};

/// What was answered up to a heartbeat.
#[derive(Default)]
pub(super) struct Counted {
    at_ms: u64,
    reads_and_writes: BTreeMap<ShardId, (u64, u64)>,
}

/// Inputs whose taking is waited for.
struct Round<S> {
    inputs: Vec<(Arc<CopyHandle<S>>, Input)>,
    acknowledged: Vec<(ShardId, oneshot::Receiver<()>)>,
}

impl<S: CopyStore> Round<S> {
    fn new() -> Self {
        Self { inputs: Vec::new(), acknowledged: Vec::new() }
    }

    fn add(
        &mut self,
        shard: ShardId,
        handle: Arc<CopyHandle<S>>,
        input: impl FnOnce(oneshot::Sender<()>) -> Input,
    ) {
        let (done, acknowledge) = oneshot::channel();
        self.inputs.push((handle, input(done)));
        self.acknowledged.push((shard, acknowledge));
    }

    /// Returns once every task took what it was given.
    ///
    /// # Errors
    /// The shards whose tasks have ended.
    async fn tell(self) -> Result<(), Vec<ShardId>> {
        for (handle, input) in self.inputs {
            handle.tell(input).await;
        }
        let mut ended = Vec::new();
        for (shard, done) in self.acknowledged {
            if done.await.is_err() {
                ended.push(shard);
            }
        }
        if ended.is_empty() { Ok(()) } else { Err(ended) }
    }
}

#[async_trait]
impl<N: NodeStore> ShardHost for Copies<N> {
    fn generation(&self) -> u64 {
        self.store.generation()
    }

    async fn save_generation(&self, generation: u64) -> Result<(), HostError> {
        self.store.save_generation(generation).await
    }

    async fn pause(&self) {
        let mut round = Round::new();
        for (shard, handle) in self.all() {
            round.add(shard, handle, Input::LeaseLost);
        }
        if let Err(ended) = round.tell().await {
            // What has ended answers nothing either.
            tracing::error!(node = %self.parts.node, ?ended, "the tasks of some shards have ended");
        }
    }

    async fn begin(&self, incarnation: Incarnation) {
        tracing::info!(node = %self.parts.node, %incarnation, "a session begins");
    }

    async fn install(&self, update: &AssignmentUpdate) -> Result<(), HostError> {
        let mut round = Round::new();
        for shard in &update.changed {
            let Some(assignment) = update.all.get(shard) else { continue };
            let assignment = Box::new(assignment.clone());
            round.add(*shard, self.start(*shard).await?, |done| Input::Assigned(assignment, done));
        }
        // Also what an earlier session was assigned, of which the update knows nothing. It is forgotten only once its task has
        // taken that: the agent may drop this future at any await.
        let left: Vec<ShardId> = {
            let mut assigned = unpoison(&self.assigned);
            assigned.extend(update.all.keys());
            assigned.iter().filter(|shard| !update.all.contains_key(shard)).copied().collect()
        };
        for (shard, handle) in left.into_iter().filter_map(|shard| Some((shard, self.get(shard)?))) {
            round.add(shard, handle, Input::Unassigned);
        }
        let ended = |shards| HostError(format!("the tasks of shards {shards:?} have ended"));
        round.tell().await.map_err(ended)?;
        *unpoison(&self.assigned) = update.all.keys().copied().collect();
        Ok(())
    }

    fn held(&self) -> Vec<HeldShard> {
        let now_ms = self.parts.clock.boot_ms();
        let mut counted = unpoison(&self.counted);
        let passed_ms = now_ms.saturating_sub(counted.at_ms).max(1);
        let mut held = Vec::new();
        for (shard, handle) in self.all() {
            let status = handle.shown.status();
            let Some(size) = handle.store.size().filter(|_| status.held) else { continue };
            let reads = handle.shown.reads.load(Ordering::Relaxed);
            let writes = handle.shown.writes.load(Ordering::Relaxed);
            let before = counted.reads_and_writes.insert(shard, (reads, writes)).unwrap_or((reads, writes));
            // Thousandths a second are requests a millisecond, a million times.
            let rate = |now: u64, then: u64| {
                Thousandths(now.saturating_sub(then).saturating_mul(1_000_000) / passed_ms)
            };
            held.push(HeldShard {
                id: shard,
                epoch: status.position.epoch,
                position: status.position.n,
                size_bytes: size.bytes,
                vectors: size.vectors,
                reads_per_s: rate(reads, before.0),
                writes_per_s: rate(writes, before.1),
                filling: status.filling,
            });
        }
        counted.at_ms = now_ms;
        held
    }

    fn disk_free_bytes(&self) -> Option<u64> {
        self.store.free_bytes()
    }

    async fn reported(&self, tag: u64, report: &Report, result: &ReportResult) {
        let code = || result.code.clone().unwrap_or_else(|| "refused".to_owned());
        let outcome = if result.accepted { ReportOutcome::Accepted } else { ReportOutcome::Refused(code()) };
        if let Some(handle) = self.get(report.shard) {
            handle.reported(ReportId(tag), outcome);
        }
    }
}
