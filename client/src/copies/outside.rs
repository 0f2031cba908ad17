//! What of the outside the shell needs besides disks and clocks: other nodes, and somewhere to run tasks.

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::ids::{NodeId, ShardId};
use crate::replica::wire::{Answer, Request};
use crate::wire::NodeAddr;

/// The way to other data nodes.
#[async_trait]
pub trait Messenger: Send + Sync + 'static {
    /// Brings a message of `from` about `shard` to the node `to`, and its answer back. `None` when that came to nothing, or
    /// may have: the protocol lets any message be lost, repeated and late.
    ///
    /// To ensure correctness: an answer is that of this message, and of a node of that name. To ensure progress: it ends
    /// within a bounded time, a few times the 1 s after which a primary gives up on an answer.
    async fn message(&self, to: &NodeAddr, shard: ShardId, from: &NodeId, request: Request)
    -> Option<Answer>;
}

/// Where tasks run.
///
/// To ensure correctness: all tasks of a node end with its process; none stays behind and answers. What is given is
/// scheduled at once and run to its end, as long as that lives.
pub trait Spawn: Send + Sync + 'static {
    /// Runs `future`; `what` says what it is, for people.
    fn spawn(&self, what: &str, future: BoxFuture<'static, ()>);
}

/// Runs tasks on the runtime that the caller is in.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioSpawn;

impl Spawn for TokioSpawn {
    fn spawn(&self, _what: &str, future: BoxFuture<'static, ()>) {
        tokio::spawn(future);
    }
}
