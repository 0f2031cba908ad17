//! The node's copies: where the client library's shell finds them, and what is read from them for clients.
//!
//! What makes a copy one (its task, its queue, when it may answer) is that shell's; see [`Copies`].

use std::sync::Arc;

use async_trait::async_trait;
use ruvector_cluster_client::agent::HostError;
use ruvector_cluster_client::copies::{Blocking, Copies, NodeStore, Outcome};
use ruvector_cluster_client::ids::{Epoch, ShardId};
use ruvector_cluster_client::replica::Key;
use ruvector_cluster_client::replica::store::ShardStore;
use ruvector_cluster_client::replica::wire::Write;
use tokio::task::spawn_blocking;

use crate::identity::DataDir;
use crate::peers::Found;
use crate::store::VectorShard;

/// The node's shards.
pub type Shards = Copies<Directory>;

/// The data directory, as the shell sees it.
pub struct Directory(Arc<DataDir>);

impl Directory {
    /// All that is in `dir`.
    pub fn new(dir: Arc<DataDir>) -> Self {
        Self(dir)
    }
}

#[async_trait]
impl NodeStore for Directory {
    type Copy = Blocking<VectorShard>;

    async fn shards(&self) -> Result<Vec<ShardId>, HostError> {
        let dir = self.0.clone();
        let found = spawn_blocking(move || dir.shards()).await.map_err(failed)?;
        let unread = |error| HostError(format!("the shards' directory can't be read: {error}"));
        Ok(found.map_err(unread)?.into_iter().map(ShardId).collect())
    }

    async fn open(&self, shard: ShardId) -> Result<Self::Copy, HostError> {
        let (path, dimensions) = (self.0.shard(shard.0), self.0.identity().dimensions as usize);
        let opened = spawn_blocking(move || VectorShard::open(path, dimensions)).await;
        Ok(Blocking::new(opened.map_err(|error| HostError(format!("opening shard {shard}: {error}")))?))
    }

    fn generation(&self) -> u64 {
        self.0.identity().generation
    }

    async fn save_generation(&self, generation: u64) -> Result<(), HostError> {
        let dir = self.0.clone();
        spawn_blocking(move || dir.save_generation(generation)).await.map_err(failed)?.map_err(failed)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.0.free_bytes()
    }
}

fn failed(error: impl std::fmt::Display) -> HostError {
    HostError(error.to_string())
}

/// The last write of `key`, if the primary is here.
pub async fn read(shards: &Shards, shard: ShardId, epoch: Option<Epoch>, key: Key) -> Outcome<Write> {
    let read = move |store: &VectorShard| store.read_keys(std::slice::from_ref(&key)).ok()?.pop();
    read_with(shards, shard, epoch, read).await
}

/// The nearest vectors of `shard`, if the primary is here.
pub async fn search(
    shards: &Shards,
    shard: ShardId,
    epoch: Option<Epoch>,
    vector: Arc<[f32]>,
    k: usize,
) -> Outcome<Vec<Found>> {
    let search = move |store: &VectorShard| {
        let hits = store.search(&vector, k).ok()?;
        Some(hits.into_iter().map(|hit| Found { id: hit.id, score: hit.score }).collect())
    };
    read_with(shards, shard, epoch, search).await
}

async fn read_with<T, F>(shards: &Shards, shard: ShardId, epoch: Option<Epoch>, read: F) -> Outcome<T>
where
    T: Send + 'static,
    F: Fn(&VectorShard) -> Option<T> + Clone + Send + 'static,
{
    let on_thread = |store: Arc<Blocking<VectorShard>>| {
        let read = read.clone();
        async move { store.run(read).await.flatten() }
    };
    shards.read_with(shard, epoch, on_thread).await
}
