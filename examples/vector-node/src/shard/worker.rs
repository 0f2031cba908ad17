//! Carries out one copy's store actions in order, off the async threads; actions that wait share an fsync.

use std::sync::Arc;
use std::time::Duration;

use ruvector_cluster_client::replica::OpId;
use ruvector_cluster_client::replica::store::{StoreAction, StoreResult};
use tokio::sync::mpsc;

use super::Input;
use crate::store::{Idle, VectorShard};

/// Most actions that are taken at a time.
const MAX_TAKEN: usize = 256;
/// With nothing to do for so long, what the database lacks is written to it.
const IDLE: Duration = Duration::from_millis(500);
/// How long a disk without space is left alone before the next try.
const FULL_WAIT: Duration = Duration::from_millis(500);

/// Runs until the shard's task is gone. What is asked for is bounded by the replica: its window, one fill, one hand-over.
pub(super) async fn run(
    store: Arc<VectorShard>,
    mut actions: mpsc::UnboundedReceiver<(OpId, StoreAction)>,
    done: mpsc::UnboundedSender<Input>,
) {
    let mut is_behind = true;
    loop {
        let mut taken = Vec::new();
        let next = actions.recv_many(&mut taken, MAX_TAKEN);
        let count = if is_behind { tokio::time::timeout(IDLE, next).await } else { Ok(next.await) };
        match count {
            Ok(0) => return,
            Ok(_) => {
                if !carry_out(&store, taken, &done).await {
                    return;
                }
                is_behind = tend(&store, Idle::No).await;
            }
            Err(_) => is_behind = tend(&store, Idle::Yes).await,
        }
    }
}

/// Says whether somebody still wants to know.
async fn carry_out(
    store: &Arc<VectorShard>,
    mut taken: Vec<(OpId, StoreAction)>,
    done: &mpsc::UnboundedSender<Input>,
) -> bool {
    while !taken.is_empty() {
        let (ops, actions): (Vec<OpId>, Vec<StoreAction>) = taken.into_iter().unzip();
        let (results, actions) = on_blocking_thread(store, actions).await;
        let carried_out = results.len();
        for (op, result) in ops.iter().zip(results) {
            if done.send(Input::Stored(*op, result)).is_err() {
                return false;
            }
        }
        taken = ops.into_iter().zip(actions).skip(carried_out).collect();
        if !taken.is_empty() {
            // No space passes: nothing is acknowledged meanwhile, and other copies may do without this one.
            tracing::warn!("the disk is full: writes wait");
            tokio::time::sleep(FULL_WAIT).await;
        }
    }
    true
}

async fn on_blocking_thread(
    store: &Arc<VectorShard>,
    actions: Vec<StoreAction>,
) -> (Vec<StoreResult>, Vec<StoreAction>) {
    let (store, count) = (store.clone(), actions.len());
    let joined = tokio::task::spawn_blocking(move || (store.carry_out_all(&actions), actions)).await;
    joined.unwrap_or_else(|error| {
        // The database panicked: what it left behind is not to be trusted.
        tracing::error!(%error, "a store action panicked");
        (vec![StoreResult::Failed; count], Vec::new())
    })
}

/// Says whether there is more to write.
async fn tend(store: &Arc<VectorShard>, idle: Idle) -> bool {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || store.tend(idle)).await {
        Ok(Ok(is_behind)) => is_behind,
        Ok(Err(error)) => {
            tracing::error!(%error, "the database could not be written");
            false
        }
        Err(error) => {
            tracing::error!(%error, "writing the database panicked");
            false
        }
    }
}
