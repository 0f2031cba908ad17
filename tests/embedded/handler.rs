//! What is assigned to a process reaches its handler.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ruvector_cluster::client::agent::HostError;
use ruvector_cluster::client::handler::{Duty, DutyError, Progress};
use ruvector_cluster::client::wire::{Assignment, Role};
use ruvector_cluster::{ClusterConfig, ShardHandler, ShardId};

use crate::{Places, settled};

/// Remembers what it was told and asked.
#[derive(Default)]
struct Remembering {
    roles: Mutex<BTreeMap<ShardId, Role>>,
    copied: Mutex<Vec<ShardId>>,
}

#[async_trait]
impl ShardHandler for Remembering {
    async fn assigned(&self, assignment: &Assignment) -> Result<(), HostError> {
        self.roles.lock().unwrap().insert(assignment.shard, assignment.role);
        Ok(())
    }

    async fn copy(&self, duty: &Duty, progress: &Progress) -> Result<(), DutyError> {
        progress.set(10, 10);
        self.copied.lock().unwrap().push(duty.shard());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_told_its_shards_and_copies_what_moves_to_it() {
    let places = Places::new(3);
    let handlers: Vec<Arc<Remembering>> = (0..3).map(|_| Arc::default()).collect();
    let config = |node: usize| ClusterConfig {
        shard_handler: handlers[node].clone(),
        replication_factor: 2,
        ..places.config(node)
    };
    let clusters = settled((0..3).map(config)).await;
    let shard = (0..16).map(ShardId).find(|shard| !handlers[2].roles.lock().unwrap().contains_key(shard));
    let shard = shard.expect("of 16 shards with two copies one is not on the third node");
    clusters[0].migrate_shard(shard, &"node-3".to_owned()).await.unwrap();
    assert_eq!(*handlers[2].copied.lock().unwrap(), [shard]);
    let moved = clusters[1].shard(shard).await.unwrap();
    assert_eq!(moved.primary, "node-3");
    let led: Vec<ShardId> = {
        let roles = handlers[2].roles.lock().unwrap();
        roles.iter().filter(|(_, role)| **role == Role::Primary).map(|(shard, _)| *shard).collect()
    };
    for shard in led {
        assert_eq!(clusters[2].shard(shard).await.unwrap().primary, "node-3");
    }
    for cluster in &clusters {
        cluster.stop().await.unwrap();
    }
}
