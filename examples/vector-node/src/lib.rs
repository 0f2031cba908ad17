//! A real data node: each shard copy is a ruvector-core database, coordinated by ruvector-cluster.
//!
//! From the disk up: [`identity`] (the data directory), [`store`] (one copy: journal and database), [`shards`] (all of
//! them, in the client library's shell), [`peers`] (other data nodes), [`gateway`] (a client's request, wherever its shards
//! are), [`api`] (HTTP), [`node`] (all of it, started and stopped). Apart from that [`local`]: a cluster of processes, for the demo
//! and the benchmark.

pub mod api;
pub mod gateway;
pub mod identity;
pub mod local;
pub mod node;
pub mod options;
pub mod peers;
pub mod shards;
pub mod store;
