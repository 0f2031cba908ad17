//! The disk as the client library's shell sees it, in one process's life.

use async_trait::async_trait;
use ruvector_cluster_client::agent::HostError;
use ruvector_cluster_client::copies::{Carried, CopySize, CopyStore, NodeStore, group_of};
use ruvector_cluster_client::ids::ShardId;
use ruvector_cluster_client::replica::Key;
use ruvector_cluster_client::replica::store::{StoreAction, StoreError, StoreState};
use ruvector_cluster_client::replica::wire::Write;

use super::{DataDisk, Life};

/// What a disk of a data node is said to have free.
const FREE_BYTES: u64 = 1 << 40;

/// A disk, opened by a process.
pub(crate) struct OpenDisk {
    disk: DataDisk,
    life: Life,
}

/// One copy on it.
pub(crate) struct DiskCopy {
    disk: DataDisk,
    life: Life,
    shard: ShardId,
}

impl OpenDisk {
    /// A process begins, with what the one before left.
    pub(crate) fn new(disk: DataDisk) -> Self {
        let life = disk.open();
        Self { disk, life }
    }
}

#[async_trait]
impl NodeStore for OpenDisk {
    type Copy = DiskCopy;

    async fn shards(&self) -> Result<Vec<ShardId>, HostError> {
        Ok(self.disk.shards())
    }

    async fn open(&self, shard: ShardId) -> Result<DiskCopy, HostError> {
        Ok(DiskCopy { disk: self.disk.clone(), life: self.life, shard })
    }

    fn generation(&self) -> u64 {
        self.disk.generation()
    }

    async fn save_generation(&self, generation: u64) -> Result<(), HostError> {
        self.disk.save_generation(self.life, generation).await;
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        Some(FREE_BYTES)
    }
}

impl DiskCopy {
    /// The last write of `key`; none without a copy that can be read.
    pub(crate) async fn read(&self, key: &Key) -> Option<Write> {
        // Reading takes as long before it happens as after it.
        tokio::time::sleep(self.disk.sync_time() / 4).await;
        let write = self.disk.read(self.shard, key)?;
        tokio::time::sleep(self.disk.sync_time() / 4).await;
        Some(write)
    }
}

#[async_trait]
impl CopyStore for DiskCopy {
    async fn found(&self) -> Result<Option<StoreState>, StoreError> {
        Ok(self.disk.found(self.shard))
    }

    /// One sync's worth.
    async fn carry_out(&self, mut actions: Vec<StoreAction>) -> Carried {
        let left = actions.split_off(group_of(&actions));
        if !self.disk.begin(self.life, self.shard, &actions) {
            actions.extend(left);
            return Carried { results: Vec::new(), left: actions };
        }
        tokio::time::sleep(self.disk.sync_time()).await;
        match self.disk.finish(self.life, self.shard) {
            Some(results) => Carried { results, left },
            // The process has ended, and nobody is told anything any more.
            None => std::future::pending().await,
        }
    }

    fn size(&self) -> Option<CopySize> {
        self.disk.size(self.shard)
    }
}
