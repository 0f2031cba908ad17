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
    acknowledged: Vec<oneshot::Receiver<()>>,
}

impl<S: CopyStore> Round<S> {
    fn new() -> Self {
        Self { inputs: Vec::new(), acknowledged: Vec::new() }
    }

    fn add(&mut self, handle: Arc<CopyHandle<S>>, input: impl FnOnce(oneshot::Sender<()>) -> Input) {
        let (done, acknowledge) = oneshot::channel();
        self.inputs.push((handle, input(done)));
        self.acknowledged.push(acknowledge);
    }

    /// Says whether every task took what it was given.
    async fn tell(self) -> bool {
        for (handle, input) in self.inputs {
            handle.tell(input).await;
        }
        let mut all_took = true;
        for done in self.acknowledged {
            all_took &= done.await.is_ok();
        }
        all_took
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
        for (_, handle) in self.all() {
            round.add(handle, Input::LeaseLost);
        }
        if !round.tell().await {
            // One that has ended answers nothing either.
            tracing::error!(node = %self.parts.node, "a shard's task has ended");
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
            round.add(self.start(*shard).await?, |done| Input::Assigned(assignment, done));
        }
        // Also what an earlier session was assigned, of which the update knows nothing.
        let left: Vec<ShardId> = {
            let mut assigned = unpoison(&self.assigned);
            let left = assigned.iter().filter(|shard| !update.all.contains_key(shard)).copied().collect();
            *assigned = update.all.keys().copied().collect();
            left
        };
        for handle in left.into_iter().filter_map(|shard| self.get(shard)) {
            round.add(handle, Input::Unassigned);
        }
        if round.tell().await { Ok(()) } else { Err(HostError("a shard's task has ended".to_owned())) }
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
            handle.tell(Input::Reported(ReportId(tag), outcome)).await;
        }
    }
}
