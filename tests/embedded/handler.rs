//! What is assigned to a process reaches its handler.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ruvector_cluster::client::agent::{HostError, LeaseWatch};
use ruvector_cluster::client::handler::{Duty, DutyError, Progress};
use ruvector_cluster::client::wire::{Assignment, HeldShard, Role};
use ruvector_cluster::{ClusterConfig, ClusterError, ShardHandler, ShardId};

use crate::support::{DEADLINE, wait_for};
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

/// Keeps the leases that it is given, and panics where it is told to.
#[derive(Default)]
struct Leased {
    leases: Mutex<Vec<LeaseWatch>>,
    panics: AtomicBool,
}

#[async_trait]
impl ShardHandler for Leased {
    fn attach(&self, lease: LeaseWatch) {
        self.leases.lock().unwrap().push(lease);
    }

    fn held(&self) -> Vec<HeldShard> {
        assert!(!self.panics.load(Ordering::SeqCst), "as the test wants it");
        Vec::new()
    }
}

/// The process lives on: its old handler could have gone on answering beside the new one.
#[tokio::test(flavor = "multi_thread")]
async fn no_lease_runs_after_a_stop() {
    let places = Places::new(1);
    let handler: Arc<Leased> = Arc::default();
    let config = ClusterConfig { seeds: Vec::new(), shard_handler: handler.clone(), ..places.config(0) };
    let cluster = settled([config]).await.remove(0);
    wait_for("a lease", DEADLINE, async || match handler.leases.lock().unwrap()[0].runs() {
        true => Ok(()),
        false => Err("none"),
    })
    .await;
    cluster.stop().await.unwrap();
    assert!(!handler.leases.lock().unwrap()[0].runs());
    cluster.start().await.unwrap();
    cluster.wait_for_stable().await.unwrap();
    assert!(!handler.leases.lock().unwrap()[0].runs());
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_is_told_of() {
    let places = Places::new(1);
    let handler: Arc<Leased> = Arc::default();
    let config = ClusterConfig { seeds: Vec::new(), shard_handler: handler.clone(), ..places.config(0) };
    let cluster = settled([config]).await.remove(0);
    handler.panics.store(true, Ordering::SeqCst);
    wait_for("the panic to be told", DEADLINE, async || match cluster.wait_for_stable().await {
        Err(ClusterError::Registration(why)) if why.contains("as the test wants it") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    cluster.stop().await.unwrap();
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
