//! Carries out one copy's store actions, in order; the store is given those that wait together, so that they may share an
//! fsync.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::store::{Carried, CopyStore, Idle, PutOff};
use super::task::Input;
use crate::clock::Clock;
use crate::replica::OpId;
use crate::replica::store::StoreAction;

/// Most actions that are taken at a time.
const MAX_TAKEN: usize = 256;
/// With nothing to do for so long, the store may begin to do what it had put off.
const IDLE: Duration = Duration::from_millis(500);
/// How long a disk without space is left alone before the next try.
const FULL_WAIT: Duration = Duration::from_millis(500);

/// Runs until the copy's task is gone. What is asked for is bounded by the replica: its window, one fill, one hand-over.
pub(super) async fn run<S: CopyStore>(
    store: Arc<S>,
    mut actions: mpsc::UnboundedReceiver<(OpId, StoreAction)>,
    done: mpsc::UnboundedSender<Input>,
    changes: watch::Sender<()>,
) {
    loop {
        let mut taken = Vec::new();
        if actions.recv_many(&mut taken, MAX_TAKEN).await == 0 || !carry_out(&*store, taken, &done).await {
            return;
        }
        changes.send_replace(());
    }
}

/// Tends to the store beside that, until it ends: after actions, and once idle for as long as there is something put off. At most
/// half of the time, since the disk and the processors are the actions' too.
pub(super) async fn tend<S: CopyStore>(
    store: Arc<S>,
    clock: Arc<dyn Clock>,
    mut changes: watch::Receiver<()>,
) {
    let (mut left, mut wait) = (PutOff::Some, IDLE);
    loop {
        let next = changes.changed();
        let changed = match left {
            PutOff::Nothing => Ok(next.await),
            PutOff::Some | PutOff::Stuck => tokio::time::timeout(wait, next).await,
        };
        let begun_ms = clock.boot_ms();
        (left, wait) = match changed {
            Ok(Err(_)) => return,
            Ok(Ok(())) => (store.tend(Idle::No).await, IDLE),
            Err(_) => match store.tend(Idle::Yes).await {
                PutOff::Stuck => (PutOff::Stuck, IDLE),
                left => (left, Duration::ZERO),
            },
        };
        let took_ms = clock.boot_ms().saturating_sub(begun_ms);
        tokio::time::sleep(Duration::from_millis(took_ms)).await;
    }
}

/// Says whether somebody still wants to know.
async fn carry_out<S: CopyStore>(
    store: &S,
    taken: Vec<(OpId, StoreAction)>,
    done: &mpsc::UnboundedSender<Input>,
) -> bool {
    let (ops, mut waiting): (Vec<OpId>, Vec<StoreAction>) = taken.into_iter().unzip();
    let mut ops = ops.into_iter();
    while !waiting.is_empty() {
        let count = waiting.len();
        let Carried { results, left } = store.carry_out(waiting).await;
        assert_eq!(results.len() + left.len(), count, "each action was carried out or is left");
        if results.is_empty() {
            if done.is_closed() {
                return false;
            }
            // No space passes: nothing is acknowledged meanwhile, and other copies may do without this one.
            tracing::warn!("the disk is full: writes wait");
            tokio::time::sleep(FULL_WAIT).await;
        }
        for (result, op) in results.into_iter().zip(&mut ops) {
            if done.send(Input::Stored(op, result)).is_err() {
                return false;
            }
        }
        waiting = left;
    }
    true
}
