//! Migrations of primaries, one after the other, each under a writer of the moving shard that writes again as soon as it was
//! acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use ruvector_cluster_client::ids::{Epoch, NodeId, ShardId};
use ruvector_cluster_client::wire::{Migration, MigrationKind, Phase, Shard};
use ruvector_cluster_local::processes::Processes;
use tokio::task::JoinHandle;

use crate::client::DataClient;
use crate::cluster::{Cluster, holds};
use crate::keys::Written;
use crate::phases::{Entered, PhaseWatch};
use crate::record::{Micros, Records};

/// One migration in so many gives the primaryship to a copy that is there; the others copy.
const PROMOTE_IN: usize = 5;
/// The writer goes on for so long after the migration.
const AFTER: Duration = Duration::from_millis(150);

/// One migration.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    /// As it ended.
    pub(crate) migration: Migration,
    /// It copied.
    pub(crate) is_move: bool,
    /// Asked for, and heard to have ended.
    pub(crate) span: (Micros, Micros),
    /// From the last write that was acknowledged under the old epoch to the first under the new one, in milliseconds.
    pub(crate) pause_ms: f64,
    /// What a write took at other times, in milliseconds: the median.
    pub(crate) usual_ms: f64,
    /// Bytes of the shard.
    pub(crate) bytes: u64,
    /// From the beginning of copying to its end, in milliseconds.
    pub(crate) copying_ms: Option<u64>,
}

impl Moved {
    /// It was not aborted.
    pub(crate) fn is_done(&self) -> bool {
        self.migration.phase == Phase::Done
    }
}

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    called: Micros,
    returned: Micros,
    epoch: Option<Epoch>,
}

/// What the writer of a shard saw.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Acknowledged>>,
}

impl Writer {
    fn start(client: DataClient, addr: String, shard: ShardId) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (key, mut acknowledged) = (client.keys().moving(shard), Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                let Some(version) = client.keys().attempt(key) else { break };
                let called = client.records().now();
                if let (Written::Yes, epoch) = client.write(&addr, key, version).await {
                    let returned = client.records().now();
                    acknowledged.push(Acknowledged { called, returned, epoch });
                }
            }
            acknowledged
        });
        Self { stop, task }
    }

    async fn stop(self) -> Result<Vec<Acknowledged>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the writer of a shard")
    }
}

/// Moves primaries, `count` of them.
pub(crate) struct Mover<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) client: &'a DataClient,
    pub(crate) phases: &'a PhaseWatch,
    pub(crate) records: &'a Records,
    /// Addresses by name.
    pub(crate) nodes: &'a [(NodeId, String)],
}

impl Mover<'_> {
    /// The `turn`th, from 0.
    pub(crate) async fn one(&self, turn: usize, processes: &mut Processes) -> Result<Moved> {
        processes.check()?;
        let map = self.cluster.map().await?;
        let shard = ShardId(u32::try_from(turn % map.shards.len())?);
        let row = &map.shards[shard.0 as usize];
        let from = row.primary.clone().with_context(|| format!("shard {shard} has no primary"))?;
        let is_move = turn % PROMOTE_IN != PROMOTE_IN - 1;
        let mut fit = self.nodes.iter().filter(|(node, _)| {
            if is_move { !holds(row, node) } else { *node != from && row.in_sync.contains(node) }
        });
        let fits = fit.clone().count();
        let (to, _) = fit.nth(turn / PROMOTE_IN % fits.max(1)).context("no node can take the shard")?;
        let (via, addr) =
            &self.nodes.iter().filter(|(node, _)| *node != from).nth(turn % 3).context("a node")?;
        let kind = if is_move { "moves" } else { "is promoted" };
        self.records.set_going_on(format!("shard {shard} {kind} from {from} to {to}"));
        let bytes = self.cluster.get::<Shard>(&format!("/v1/shards/{shard}")).await?.size_bytes.unwrap_or(0);
        let writer = Writer::start(self.client.clone(), addr.clone(), shard);
        tokio::time::sleep(AFTER).await;
        let began = self.records.now();
        let asked = self.cluster.migrate(shard, to).await?;
        let ended = self.cluster.ended(&asked).await?;
        let entered = self.phases.of(asked.id).await;
        let end = self.records.now();
        tokio::time::sleep(AFTER).await;
        let acknowledged = writer.stop().await?;
        tracing::debug!(%shard, %from, %to, %via, ?entered, "a migration ended");
        let times: Vec<f64> =
            acknowledged.iter().map(|write| (write.returned - write.called) as f64 / 1e3).collect();
        let pause = pause(&acknowledged).context("no write was acknowledged under the new epoch")?;
        let is_kind = asked.kind == if is_move { MigrationKind::Move } else { MigrationKind::Promote };
        anyhow::ensure!(is_kind, "asked for {kind}, and got {asked:?}");
        Ok(Moved {
            migration: ended,
            is_move,
            span: (began, end),
            pause_ms: pause as f64 / 1e3,
            usual_ms: crate::record::Spread::of(times).p50,
            bytes,
            copying_ms: copying_ms(&entered),
        })
    }
}

fn heard(entered: &[Entered], phase: Phase) -> Option<&Entered> {
    entered.iter().find(|entered| entered.phase == phase)
}

/// The time between the last acknowledgement under one epoch and the first under the next.
fn pause(acknowledged: &[Acknowledged]) -> Option<Micros> {
    let rises = |(one, next): &(Acknowledged, Acknowledged)| {
        one.epoch.zip(next.epoch).is_some_and(|(one, next)| one < next)
    };
    let (before, after) = acknowledged.windows(2).map(|pair| (pair[0], pair[1])).find(rises)?;
    Some(after.returned - before.returned)
}

fn copying_ms(entered: &[Entered]) -> Option<u64> {
    let began = heard(entered, Phase::Copying)?.heard;
    let ended = heard(entered, Phase::Admitting)?.heard;
    Some(((ended - began) / 1_000).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_lies_between_the_last_answer_under_one_epoch_and_the_first_under_the_next() {
        let write = |(called, returned, epoch)| Acknowledged { called, returned, epoch: Some(Epoch(epoch)) };
        let all = [(0, 10, 1), (10, 90, 1), (90, 95, 1), (95, 120, 2), (120, 200, 2)].map(write);
        assert_eq!(pause(&all), Some(25));
        assert_eq!(pause(&all[..3]), None);
    }
}
