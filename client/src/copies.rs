//! The shell around a data node's replicas: what a data node embeds to be one.
//!
//! [`Copies`] are all copies that a node has, one task for each. A task feeds its shard's
//! [`Replica`](crate::replica::Replica) and carries out what that asks for: store actions, messages to other copies' nodes,
//! reports, answers. Nothing is decided here. The name is the field's: a node holds copies of shards, it doesn't hold shards.
//!
//! What it needs is passed in ([`Parts`], and a [`NodeStore`]), so a data node on a database and a simulated one on a disk in
//! memory are this same code. The node brings the transport: it gives what other nodes send to [`Copies::message`], and what
//! clients send to [`Copies::write`] and [`Copies::read_with`]. The [`Agent`](crate::agent::Agent) drives the rest
//! ([`ShardHost`](crate::agent::ShardHost)).
//!
//! Invariants:
//! 1. A replica is given one event after the other, in the order in which they came in, but what it asked for itself before
//!    what others want. Its store actions are carried out in the order in which it asked for them.
//! 2. Before each event it is told how long the lease lasts, except before an assignment and the loss of the lease: a lease
//!    that was granted with an assignment must not come before it.
//! 3. Assignments are acknowledged once every replica has taken its own; from there nothing is answered under older ones.
//! 4. When a session ends, reports of it that have no outcome are unknown. A later answer to one of them says nothing.
//! 5. What a client reads is answered only if the replica says, after the store was read, that it may be.
//!
//! Caveats: a client counts as gone when its future is dropped, which is noticed at the next tick. Everything is in the
//! runtime and on the clock that it is given; it draws no random number and iterates over nothing in hash order.

mod blocking;
mod handle;
mod host;
mod outcome;
mod outside;
mod store;
mod task;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::agent::{HostError, LeaseWatch, Reporter};
use crate::clock::Clock;
use crate::ids::{Epoch, NodeId, Position, ShardId};
use crate::replica::Status;
use crate::replica::event::{Operation, Refusal, Reply};
use crate::replica::wire::{Answer, Request, Write};
pub use blocking::{Blocking, BlockingStore};
use handle::{Asked, CopyHandle};
pub use outcome::Outcome;
pub use outside::{Messenger, Spawn, TokioSpawn};
pub use store::{Carried, CopySize, CopyStore, Idle, NodeStore, PutOff, group_of};
use task::Input;

/// How often a read that lost its primary's authority between reading and answering is tried again here.
const MAX_READ_TRIES: usize = 3;

/// What all copies of a node share.
pub struct Parts {
    /// The node.
    pub node: NodeId,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The node's lease.
    pub lease: LeaseWatch,
    /// Where reports go.
    pub reporter: Reporter,
    /// The other nodes.
    pub messenger: Arc<dyn Messenger>,
    /// Where tasks run.
    pub spawn: Arc<dyn Spawn>,
}

/// The copies of a node.
pub struct Copies<N: NodeStore> {
    parts: Arc<Parts>,
    store: N,
    /// All shards that are or were assigned, or have a copy.
    all: Mutex<BTreeMap<ShardId, Arc<CopyHandle<N::Copy>>>>,
    assigned: Mutex<BTreeSet<ShardId>>,
    /// Requests answered up to the last heartbeat.
    counted: Mutex<host::Counted>,
}

impl<N: NodeStore> Copies<N> {
    /// Opens all copies that are kept in `store`.
    ///
    /// # Errors
    /// When a copy, or which there are, can't be told.
    pub async fn open(parts: Parts, store: N) -> Result<Arc<Self>, HostError> {
        let found = store.shards().await?;
        let copies = Arc::new(Self {
            parts: Arc::new(parts),
            store,
            all: Mutex::default(),
            assigned: Mutex::default(),
            counted: Mutex::default(),
        });
        for shard in found {
            copies.start(shard).await?;
        }
        Ok(copies)
    }

    /// The standing of each replica as of its last event, ascending by shard.
    pub fn statuses(&self) -> Vec<(ShardId, Status)> {
        self.all().into_iter().map(|(shard, handle)| (shard, handle.shown.status())).collect()
    }

    /// How much the copy of `shard` holds; `None` where there is none that can be read.
    pub fn size(&self, shard: ShardId) -> Option<CopySize> {
        self.get(shard)?.store.size()
    }

    /// Closes all copies. The tasks go on until the process ends; what they ask of the stores from then on may fail.
    pub async fn close(&self) {
        for (_, handle) in self.all() {
            handle.store.close().await;
        }
    }

    /// A message of another copy's node.
    pub async fn message(&self, shard: ShardId, from: NodeId, request: Request) -> Answer {
        let Some(handle) = self.get(shard) else { return Answer::NoCopy };
        let (answer, answered) = oneshot::channel();
        handle.tell(Input::Message { from, request, answer }).await;
        answered.await.unwrap_or(Answer::NoCopy)
    }

    /// Writes, in order, if the primary is here; positions are ignored. Each is done, or not, by itself. `epoch` is the one
    /// that they were routed by.
    pub async fn write(
        &self,
        shard: ShardId,
        epoch: Option<Epoch>,
        writes: Vec<Write>,
    ) -> Vec<Outcome<Position>> {
        let Some(handle) = self.get(shard) else {
            return writes.iter().map(|_| Outcome::nowhere()).collect();
        };
        let operation = |write: Write| Operation::Write { key: write.key, value: write.value };
        let asked: Vec<Asked> = writes.into_iter().map(|write| handle.ask(epoch, operation(write))).collect();
        let mut outcomes = Vec::with_capacity(asked.len());
        for asked in asked {
            outcomes.push(Outcome::of_write(asked.reply().await));
        }
        outcomes
    }

    /// Lets `read` read the store of `shard`, if the primary is here; what it found is told only if it may be. `None` of it
    /// says that the copy can't be read. `epoch` is the one that the request was routed by.
    pub async fn read_with<T, F, R>(&self, shard: ShardId, epoch: Option<Epoch>, read: F) -> Outcome<T>
    where
        F: Fn(Arc<N::Copy>) -> R,
        R: Future<Output = Option<T>>,
    {
        let Some(handle) = self.get(shard) else { return Outcome::nowhere() };
        for _ in 0..MAX_READ_TRIES {
            let led = match handle.ask(epoch, Operation::Read).reply().await {
                Reply::ReadAt { epoch } => epoch,
                // A read changes nothing, so nothing about it is unknown.
                Reply::Refused(Refusal::OutcomeUnknown) => return Outcome::Unavailable,
                Reply::Refused(refusal) => return refusal.into(),
                Reply::Written { .. } => {
                    debug_assert!(false, "a read was answered as a write");
                    return Outcome::Unavailable;
                }
            };
            let Some(body) = read(handle.store.clone()).await else { return Outcome::Unavailable };
            if handle.confirms_read(led).await {
                return Outcome::Done { epoch: led, body };
            }
        }
        Outcome::Unavailable
    }

    fn get(&self, shard: ShardId) -> Option<Arc<CopyHandle<N::Copy>>> {
        unpoison(&self.all).get(&shard).cloned()
    }

    /// Ascending.
    fn all(&self) -> Vec<(ShardId, Arc<CopyHandle<N::Copy>>)> {
        unpoison(&self.all).iter().map(|(shard, handle)| (*shard, handle.clone())).collect()
    }

    /// Only the agent, and opening before it, start tasks: one at a time.
    async fn start(&self, shard: ShardId) -> Result<Arc<CopyHandle<N::Copy>>, HostError> {
        if let Some(handle) = self.get(shard) {
            return Ok(handle);
        }
        let store = self.store.open(shard).await?;
        let handle = Arc::new(CopyHandle::start(self.parts.clone(), shard, store).await);
        unpoison(&self.all).insert(shard, handle.clone());
        Ok(handle)
    }
}

fn unpoison<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each of these is valid between any two statements, so a panic elsewhere doesn't spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
