//! Each snippet of the origin's README, as it stands there but for the addresses, against a live cluster of three.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ruvector_cluster::client::clock::{Clock, SystemClock};
use ruvector_cluster::{Cluster, ClusterConfig, ClusterError, ClusterHealth, HealthStatus};
use ruvector_cluster::{Node, NodeId, NodeStatus, Shard, ShardId, ShardStatus};

use crate::support::DEADLINE;
use crate::{Places, settled};

type Done = Result<(), Box<dyn std::error::Error>>;

/// "Quick start".
#[rustfmt::skip]
async fn start(places: &Places) -> Result<Cluster, Box<dyn std::error::Error>> {
    let (first, second) = (places.addr(1).to_string(), places.addr(2).to_string());
    // Configure cluster
    let config = ClusterConfig {
        node_id: "node-1".to_string(),
        listen_addr: format!("0.0.0.0:{}", places.addr(0).port()).parse()?,
        seeds: vec![first.parse()?, second.parse()?],
        replication_factor: 3,
        num_shards: 64,
        data_dir: places.config(0).data_dir,
        ..Default::default()
    };

    // Create and start cluster
    let cluster = Cluster::new(config).await?;
    cluster.start().await?;

    // Wait for cluster to stabilize
    cluster.wait_for_stable().await?;

    println!("Cluster ready with {} nodes", cluster.node_count().await);

    Ok(cluster)
}

/// "Sharding".
#[rustfmt::skip]
async fn shard(cluster: &Cluster, target_node: &NodeId) -> Done {
    // Get shard for a vector ID
    let shard_id = cluster.get_shard_for_key("vector-123")?;

    // Get nodes hosting a shard
    let nodes = cluster.get_shard_nodes(shard_id).await?;
    println!("Shard {} hosted on: {:?}", shard_id, nodes);

    // Manual shard migration
    cluster.migrate_shard(shard_id, target_node).await?;

    // Trigger rebalance
    cluster.rebalance().await?;

    Ok(())
}

/// "Health".
#[rustfmt::skip]
async fn look(cluster: &Cluster) -> Done {
    // Check cluster health
    let health = cluster.health().await?;
    println!("Status: {:?}", health.status);
    println!("Healthy nodes: {}/{}", health.healthy_nodes, health.total_nodes);

    // Get node status
    for node in cluster.nodes().await? {
        println!("{}: {:?} (last seen: {})",
            node.id,
            node.status,
            node.last_heartbeat
        );
    }

    Ok(())
}

/// The types that stand there, field by field and method by method: compiled, not run.
#[allow(dead_code, reason = "that it compiles is the test")]
async fn types(
    cluster: Cluster,
    config: ClusterConfig,
    node: Node,
    shard: Shard,
) -> Result<(), ClusterError> {
    let _: (String, SocketAddr, Vec<SocketAddr>) = (config.node_id, config.listen_addr, config.seeds);
    let _: (usize, usize) = (config.replication_factor, config.num_shards);
    let _: (Duration, Duration) = (config.heartbeat_interval, config.failure_timeout);
    let _: (String, SocketAddr, NodeStatus) = (node.id, node.addr, node.status);
    let _: (Vec<ShardId>, DateTime<Utc>) = (node.shards, node.last_heartbeat);
    let _: (ShardId, NodeId, Vec<NodeId>) = (shard.id, shard.primary, shard.replicas);
    let _: (ShardStatus, u64) = (shard.status, shard.size_bytes);
    let _: () = cluster.start().await?;
    let _: Vec<Node> = cluster.nodes().await?;
    let _: (usize, bool) = (cluster.node_count().await, cluster.is_leader().await);
    let shard: ShardId = cluster.get_shard_for_key("a key")?;
    let nodes: Vec<Node> = cluster.get_shard_nodes(shard).await?;
    let target: &NodeId = &nodes[0].id;
    let _: () = cluster.migrate_shard(shard, target).await?;
    let _: ClusterHealth = cluster.health().await?;
    let _: () = cluster.rebalance().await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snippets_of_the_origin_run_against_three_nodes() {
    let places = Places::new(3);
    let others = [1, 2].map(|node| ClusterConfig {
        replication_factor: 3,
        num_shards: 64,
        heartbeat_interval: ClusterConfig::default().heartbeat_interval,
        failure_timeout: ClusterConfig::default().failure_timeout,
        ..places.config(node)
    });
    let others = tokio::spawn(async move { settled(others).await });
    let cluster = tokio::time::timeout(DEADLINE, start(&places)).await.unwrap().unwrap();
    let others = others.await.unwrap();
    assert_eq!(cluster.node_count().await, 3);
    assert_eq!(cluster.advertised(), places.addr(0).to_string(), "found from the seeds");

    // XXH64 and jump hash, as `client/tests/data/hash_vectors.json` has them.
    let shard_id: ShardId = cluster.get_shard_for_key("vector-123").unwrap();
    let hosts = cluster.get_shard_nodes(shard_id).await.unwrap();
    let row = cluster.shard(shard_id).await.unwrap();
    let names: Vec<&NodeId> = hosts.iter().map(|node| &node.id).collect();
    let rows: Vec<&NodeId> = std::iter::once(&row.primary).chain(&row.replicas).collect();
    assert_eq!((names.len(), &names), (3, &rows));
    let target = row.replicas[0].clone();
    shard(&cluster, &target).await.unwrap();
    assert_eq!(cluster.shard(shard_id).await.unwrap().primary, target);
    assert!(cluster.shard(shard_id).await.unwrap().epoch > row.epoch);

    look(&cluster).await.unwrap();
    let health = cluster.health().await.unwrap();
    assert_eq!((health.healthy_nodes, health.total_nodes), (3, 3));
    assert_ne!(health.status, HealthStatus::Unavailable);
    let nodes = cluster.nodes().await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.id.as_str()).collect::<Vec<_>>(), ["node-1", "node-2", "node-3"]);
    assert!(nodes.iter().all(|node| node.status == NodeStatus::Alive && node.shards.len() == 64));
    let now_ms = i64::try_from(SystemClock.wall_ms()).unwrap();
    let is_recent = |at_ms: i64| (0..60_000).contains(&(now_ms - at_ms));
    assert!(nodes.iter().all(|node| is_recent(node.last_heartbeat.timestamp_millis())), "{nodes:?}");

    let mut leaders = Vec::new();
    for cluster in std::iter::once(&cluster).chain(&others) {
        leaders.push(cluster.is_leader().await);
    }
    assert_eq!(leaders.iter().filter(|leads| **leads).count(), 1);
    for cluster in std::iter::once(&cluster).chain(&others) {
        cluster.stop().await.unwrap();
    }
}
