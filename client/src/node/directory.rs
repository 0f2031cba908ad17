//! The data directory, as the shell around the copies sees it, and what is read from a copy for clients.

use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::spawn_blocking;

use super::dir::DataDir;
use super::kept::Kept;
use super::store::ShardStore;
use crate::agent::HostError;
use crate::copies::{Blocking, Copies, NodeStore, Outcome};
use crate::ids::{Epoch, ShardId};
use crate::replica::Key;
use crate::replica::store::ReplicaStore as _;
use crate::replica::wire::Write;

/// All copies of the node.
pub(super) type NodeCopies<S> = Copies<Directory<S>>;

/// The data directory, and what its databases are opened with.
pub(super) struct Directory<S: ShardStore> {
    dir: Arc<DataDir>,
    options: S::Options,
    of: PhantomData<fn() -> S>,
}

impl<S: ShardStore> Directory<S> {
    /// All that is in `dir`.
    pub(super) fn new(dir: Arc<DataDir>, options: S::Options) -> Self {
        Self { dir, options, of: PhantomData }
    }
}

#[async_trait]
impl<S: ShardStore> NodeStore for Directory<S> {
    type Copy = Blocking<Kept<S>>;

    async fn shards(&self) -> Result<Vec<ShardId>, HostError> {
        let dir = self.dir.clone();
        let found = spawn_blocking(move || dir.shards()).await.map_err(failed)?;
        let unread = |error| HostError(format!("the shards' directory can't be read: {error}"));
        Ok(found.map_err(unread)?.into_iter().map(ShardId).collect())
    }

    async fn open(&self, shard: ShardId) -> Result<Self::Copy, HostError> {
        let (path, options) = (self.dir.shard(shard.0), self.options.clone());
        let opened = spawn_blocking(move || Kept::open(path, options)).await;
        Ok(Blocking::new(opened.map_err(|error| HostError(format!("opening shard {shard}: {error}")))?))
    }

    fn generation(&self) -> u64 {
        self.dir.identity().generation
    }

    async fn save_generation(&self, generation: u64) -> Result<(), HostError> {
        let dir = self.dir.clone();
        spawn_blocking(move || dir.save_generation(generation)).await.map_err(failed)?.map_err(failed)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.dir.free_bytes()
    }
}

fn failed(error: impl std::fmt::Display) -> HostError {
    HostError(error.to_string())
}

/// The last write of `key`, if the primary is here.
pub(super) async fn read<S: ShardStore>(
    copies: &NodeCopies<S>,
    shard: ShardId,
    epoch: Option<Epoch>,
    key: Key,
) -> Outcome<Write> {
    let read = move |store: &Kept<S>| store.read_keys(std::slice::from_ref(&key)).ok()?.pop();
    read_with(copies, shard, epoch, read).await
}

/// What `query` finds in `shard`, if the primary is here.
pub(super) async fn search<S: ShardStore>(
    copies: &NodeCopies<S>,
    shard: ShardId,
    epoch: Option<Epoch>,
    query: Arc<S::Query>,
) -> Outcome<S::Found> {
    let search = move |store: &Kept<S>| {
        let found = store.search(&query);
        found.inspect_err(|error| tracing::error!(%shard, %error, "the shard can't be searched")).ok()
    };
    read_with(copies, shard, epoch, search).await
}

async fn read_with<S, T, F>(
    copies: &NodeCopies<S>,
    shard: ShardId,
    epoch: Option<Epoch>,
    read: F,
) -> Outcome<T>
where
    S: ShardStore,
    T: Send + 'static,
    F: Fn(&Kept<S>) -> Option<T> + Clone + Send + 'static,
{
    let on_thread = |store: Arc<Blocking<Kept<S>>>| {
        let read = read.clone();
        async move { store.run(read).await.flatten() }
    };
    copies.read_with(shard, epoch, on_thread).await
}
