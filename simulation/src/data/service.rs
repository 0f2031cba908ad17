//! What a simulated data node does with what arrives, and how it sends: the parts of the outside that the client library's
//! shell is given. Answers are the shell's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use ruvector_cluster_client::copies::{Copies, Messenger, Outcome, Spawn};
use ruvector_cluster_client::ids::{Epoch, NodeId, Position, ShardId};
use ruvector_cluster_client::replica::Value;
use ruvector_cluster_client::replica::wire::{Answer, Request, Write};
use ruvector_cluster_client::wire::NodeAddr;

use super::failures::Failures;
use super::message::{Act, Message, Told, decode, encode};
use super::store::{DiskCopy, OpenDisk};
use crate::host::Host;
use crate::net::{DataService, Net, Repeatable};

/// A message that is not answered for so long has come to nothing.
const CALL_BOUND: Duration = Duration::from_secs(2);

/// The node's copies.
pub(crate) type Shards = Copies<OpenDisk>;

/// Answers nodes and clients.
pub(crate) struct Service {
    /// `d1: answering`.
    pub(crate) who: String,
    pub(crate) shards: Arc<Shards>,
    pub(crate) failures: Failures,
}

impl Service {
    async fn answer(&self, message: Message) -> Told {
        match message {
            Message::Peer { shard, from, request } => {
                Told::Peer(self.shards.message(shard, from, request).await)
            }
            Message::Client { shard, epoch, key, act, patience_ms } => {
                let acting = self.act(shard, epoch, &key, act);
                // A client that hangs up is gone here, too.
                let acted = tokio::time::timeout(Duration::from_millis(patience_ms), acting).await;
                acted.unwrap_or(Told::Unknown)
            }
        }
    }

    async fn act(&self, shard: ShardId, epoch: Option<Epoch>, key: &str, act: Act) -> Told {
        let value = match act {
            Act::Get => return self.read(shard, epoch, key).await,
            Act::Put(value) => Some(Value::from(value)),
            Act::Delete => None,
        };
        let write = Write { position: Position::default(), key: key.into(), value };
        let outcome = self.shards.write(shard, epoch, vec![write]).await.pop();
        Told::of(outcome.expect("a write has an outcome"), |_, position| Told::Written(position))
    }

    async fn read(&self, shard: ShardId, epoch: Option<Epoch>, key: &str) -> Told {
        let read = |copy: Arc<DiskCopy>| async move { copy.read(&key.into()).await };
        let outcome: Outcome<Write> = self.shards.read_with(shard, epoch, read).await;
        Told::of(outcome, |epoch, write| {
            let there = write.position > Position::default();
            let value = write.value.map(|value| String::from_utf8_lossy(&value).into_owned());
            Told::Read { epoch, position: there.then_some(write.position), value }
        })
    }
}

#[async_trait]
impl DataService for Service {
    async fn serve(&self, message: Bytes) -> Bytes {
        let told = self.failures.watch(&self.who, async {
            let message: Message = decode(&message).expect("what nodes and clients send can be read");
            self.answer(message).await
        });
        // After a panic nobody knows what was done.
        encode(&told.await.unwrap_or(Told::Unknown))
    }
}

/// The way of a process to other data nodes.
pub(crate) struct Wire {
    pub(crate) net: Net,
    pub(crate) host: Host,
}

#[async_trait]
impl Messenger for Wire {
    async fn message(
        &self,
        to: &NodeAddr,
        shard: ShardId,
        from: &NodeId,
        request: Request,
    ) -> Option<Answer> {
        let message = encode(&Message::Peer { shard, from: from.clone(), request });
        // The protocol says that repeating any of these is harmless.
        let asked = self.net.ask_data(&self.host, &to.addr, Repeatable::Yes, message);
        let bytes = tokio::time::timeout(CALL_BOUND, asked).await.ok()?.ok()?;
        match decode(&bytes) {
            Ok(Told::Peer(answer)) => Some(answer),
            Ok(other) => panic!("{} answered a node with {other:?}", to.node),
            Err(error) => panic!("{} answered what can't be read: {error}", to.node),
        }
    }
}

/// Runs a node's tasks in its process; a panic of one is written down.
pub(crate) struct HostSpawn {
    pub(crate) host: Host,
    pub(crate) failures: Failures,
}

impl Spawn for HostSpawn {
    fn spawn(&self, what: &str, future: BoxFuture<'static, ()>) {
        self.failures.spawn(&self.host, what, future);
    }
}
