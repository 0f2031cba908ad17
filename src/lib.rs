//! A Raft-backed metadata coordinator for a sharded vector database.

pub mod api;
pub mod backup;
pub mod cli;
pub mod config;
pub mod coordinator;
mod gossip;
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

pub use ruvector_cluster_client as client;
