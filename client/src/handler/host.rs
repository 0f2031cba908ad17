//! What the agent drives.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::HandlerHost;
use crate::agent::{AssignmentUpdate, HostError, ShardHost};
use crate::ids::{Incarnation, ShardId};
use crate::wire::{Assignment, HeldShard, Report, ReportResult};

impl HandlerHost {
    /// What this asks for anew is begun once it is in force; what it no longer asks for is cancelled before.
    async fn put_in_force(&self, assignment: Arc<Assignment>) -> Result<(), HostError> {
        let (id, now) = (assignment.shard, Instant::now());
        {
            let mut state = self.state();
            let due = self.due(state.incarnation, &assignment);
            let shard = state.shards.entry(id).or_default();
            shard.is_known = true;
            shard.unsettle(due.as_ref(), now);
        }
        self.handler.assigned(&assignment).await?;
        if let Some(shard) = self.state().shards.get_mut(&id) {
            shard.in_force = Some(assignment);
        }
        self.look(id);
        Ok(())
    }

    async fn take_out_of_force(&self, id: ShardId) -> Result<(), HostError> {
        let now = Instant::now();
        if let Some(shard) = self.state().shards.get_mut(&id) {
            shard.unsettle(None, now);
        }
        self.handler.unassigned(id).await?;
        if let Some(shard) = self.state().shards.get_mut(&id) {
            shard.is_known = false;
        }
        self.look(id);
        Ok(())
    }
}

#[async_trait]
impl ShardHost for HandlerHost {
    fn generation(&self) -> u64 {
        self.handler.generation().max(self.generation.load(Ordering::SeqCst))
    }

    async fn save_generation(&self, generation: u64) -> Result<(), HostError> {
        self.handler.save_generation(generation).await?;
        self.generation.fetch_max(generation, Ordering::SeqCst);
        Ok(())
    }

    async fn pause(&self) {
        let now = Instant::now();
        {
            let mut state = self.state();
            state.incarnation = Incarnation(0);
            state.shards.values_mut().for_each(|shard| shard.end_session(now));
        }
        self.handler.session_ended().await;
    }

    async fn begin(&self, incarnation: Incarnation) {
        self.state().incarnation = incarnation;
    }

    async fn install(&self, update: &AssignmentUpdate) -> Result<(), HostError> {
        // Also what an earlier session assigned, of which the update knows nothing. A shard is known until the handler has
        // taken that it no longer is: the agent may drop this future at any await.
        let left: Vec<ShardId> = {
            let state = self.state();
            let known = state.shards.iter().filter(|(_, shard)| shard.is_known).map(|(id, _)| *id);
            known.filter(|id| !update.all.contains_key(id)).collect()
        };
        let changed = update.changed.iter().filter_map(|id| update.all.get(id)).cloned();
        let changed: Vec<Arc<Assignment>> = changed.map(Arc::new).collect();
        let at_once = self.options.max_installs.max(1);
        let taken = futures::stream::iter(left.into_iter().map(|id| self.take_out_of_force(id)));
        taken.buffer_unordered(at_once).try_collect::<()>().await?;
        let put = futures::stream::iter(changed.into_iter().map(|assignment| self.put_in_force(assignment)));
        put.buffer_unordered(at_once).try_collect::<()>().await
    }

    fn held(&self) -> Vec<HeldShard> {
        self.handler.held()
    }

    fn disk_free_bytes(&self) -> Option<u64> {
        self.handler.disk_free_bytes()
    }

    async fn reported(&self, tag: u64, report: &Report, result: &ReportResult) {
        if !result.accepted {
            tracing::debug!(node = %self.node, shard = %report.shard, code = ?result.code, "a report was refused");
        }
        self.answered(tag, report);
        self.look(report.shard);
    }
}
