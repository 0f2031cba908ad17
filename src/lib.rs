//! A Raft-backed metadata coordinator for a sharded vector database.

pub mod api;
pub mod backup;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod coordinator;
pub mod liveness;
pub mod load;
pub mod machine;
pub mod metadata;
pub mod metrics;
pub mod migration;
pub mod placement;
pub mod proposer;
pub mod restore;
pub mod server;
pub mod soft;

pub use cluster::{Cluster, ClusterConfig, ClusterError, ClusterWatch, Node, NodeId, Shard};
pub use ruvector_cluster_client as client;
pub use ruvector_cluster_client::handler::ShardHandler;
pub use ruvector_cluster_client::ids::ShardId;
pub use ruvector_cluster_client::wire::{Health as ClusterHealth, HealthStatus, NodeStatus, ShardStatus};
