//! The library's face: Clusters in this process, several at once, over real sockets and files.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

#[path = "../support/harness.rs"]
mod support;

mod bad_config;
mod example;
mod handler;
mod life;
mod members;
mod origin;

use std::net::SocketAddr;
use std::time::Duration;

use ruvector_cluster::{Cluster, ClusterConfig};
use support::ports::PortPair;
use tempfile::TempDir;

/// Names, addresses and a folder for Clusters of one test.
pub struct Places {
    ports: Vec<PortPair>,
    folder: TempDir,
}

impl Places {
    /// For so many.
    pub fn new(count: usize) -> Self {
        Self {
            ports: (0..count).map(|_| PortPair::reserve()).collect(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Where node `node` listens.
    pub fn addr(&self, node: usize) -> SocketAddr {
        self.ports[node].addr().parse().unwrap()
    }

    /// Where all do.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        (0..self.ports.len()).map(|node| self.addr(node)).collect()
    }

    /// Node `node` of a cluster that all of them found.
    pub fn config(&self, node: usize) -> ClusterConfig {
        let node_id = format!("node-{}", node + 1);
        ClusterConfig {
            listen_addr: self.addr(node),
            seeds: self.addrs(),
            data_dir: Some(self.folder.path().join(&node_id)),
            num_shards: 16,
            heartbeat_interval: Duration::from_millis(200),
            failure_timeout: Duration::from_secs(2),
            node_id,
            ..Default::default()
        }
    }
}

/// Starts them all, and waits until they have settled.
pub async fn settled(configs: impl IntoIterator<Item = ClusterConfig>) -> Vec<Cluster> {
    let mut clusters = Vec::new();
    for config in configs {
        let cluster = Cluster::new(config).await.unwrap();
        cluster.start().await.unwrap();
        clusters.push(cluster);
    }
    for cluster in &clusters {
        cluster.wait_for_stable().await.unwrap();
    }
    clusters
}
