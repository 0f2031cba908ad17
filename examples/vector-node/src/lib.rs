//! A real data node: each shard copy is a ruvector-core database, coordinated by ruvector-cluster.

pub mod store;
