//! Carries out one copy's store actions in order; appends that wait share a sync.

use std::collections::VecDeque;
use std::time::Duration;

use ruvector_cluster_client::ids::ShardId;
use ruvector_cluster_client::replica::OpId;
use ruvector_cluster_client::replica::store::{StoreAction, StoreResult};
use tokio::sync::mpsc;

use super::{DataDisk, Life};

/// Most actions that are taken at a time.
const MAX_TAKEN: usize = 256;
/// Most actions that share a sync.
const MAX_GROUP: usize = 64;
/// How long a disk without space is left alone before the next try.
const FULL_WAIT: Duration = Duration::from_millis(500);

/// Runs until nobody can ask any more. What waits is bounded by the replica: its window, one fill, one hand-over.
pub(crate) async fn work<F>(
    disk: DataDisk,
    life: Life,
    shard: ShardId,
    mut actions: mpsc::UnboundedReceiver<(OpId, StoreAction)>,
    done: F,
) where
    F: Fn(OpId, StoreResult),
{
    loop {
        let mut taken = Vec::new();
        if actions.recv_many(&mut taken, MAX_TAKEN).await == 0 {
            return;
        }
        let (ops, taken): (VecDeque<OpId>, VecDeque<StoreAction>) = taken.into_iter().unzip();
        carry_out(&disk, life, shard, ops, taken, &done).await;
    }
}

async fn carry_out<F>(
    disk: &DataDisk,
    life: Life,
    shard: ShardId,
    mut ops: VecDeque<OpId>,
    mut waiting: VecDeque<StoreAction>,
    done: &F,
) where
    F: Fn(OpId, StoreResult),
{
    while !waiting.is_empty() {
        let count = group_of(waiting.make_contiguous());
        if !disk.begin(life, shard, &waiting.make_contiguous()[..count]) {
            // No space passes: nothing is acknowledged meanwhile, and other copies may do without this one.
            tokio::time::sleep(FULL_WAIT).await;
            continue;
        }
        tokio::time::sleep(disk.sync_time()).await;
        for (op, result) in ops.drain(..count).zip(disk.finish(life, shard)) {
            done(op, result);
        }
        waiting.drain(..count);
    }
}

/// How many of the first actions share a sync.
fn group_of(waiting: &[StoreAction]) -> usize {
    let shares = |action: &&StoreAction| matches!(action, StoreAction::Append(_) | StoreAction::Adopt(_));
    waiting.iter().take(MAX_GROUP).take_while(shares).count().max(1)
}
