//! A real data node: each shard copy is a ruvector-core database, coordinated by ruvector-cluster.
//!
//! Replication, copying, fencing, the journal and the routing between nodes are the client library's
//! ([`ruvector_cluster_client::node`]). What is here is what the author of a vector database adds: [`store`] (one shard's
//! database), [`value`] (what a key's value is), [`api`] (HTTP), [`options`] and [`node`] (started and stopped).

pub mod api;
pub mod node;
pub mod options;
pub mod store;
pub mod value;
