//! A coordinator for a sharded vector database: it decides which node holds which shard, keeps that decision on several machines at
//! once by Raft, and carries it out while nodes join, fail and leave. The vectors stay on your nodes.
//!
//! # In five minutes
//!
//! A [`Cluster`] puts a control node into your process, and registers the process as a data node. One process is a cluster already:
//!
//! ```
//! use ruvector_cluster::{Cluster, ClusterConfig};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     # let folder = tempfile::tempdir()?;
//!     let config = ClusterConfig {
//!         node_id: "node-1".to_string(),
//!         listen_addr: "127.0.0.1:7000".parse()?,
//!         ..Default::default()
//!     };
//!     # let config = ClusterConfig {
//!     #     listen_addr: "127.0.0.1:0".parse()?,
//!     #     data_dir: Some(folder.path().join("node-1")),
//!     #     heartbeat_interval: std::time::Duration::from_millis(100),
//!     #     ..config
//!     # };
//!     let cluster = Cluster::new(config).await?;
//!     cluster.start().await?;
//!     cluster.wait_for_stable().await?;
//!
//!     let shard = cluster.get_shard_for_key("vector-123")?;
//!     let nodes = cluster.get_shard_nodes(shard).await?;
//!     println!("vector-123 is in shard {shard}, whose primary is {}", nodes[0].id);
//!     # assert_eq!((nodes.len(), nodes[0].id.as_str()), (1, "node-1"));
//!     cluster.stop().await?;
//!     Ok(())
//! }
//! ```
//!
//! With `seeds` (the `listen_addr` of the others) the same lines on three machines make a cluster of three. `scripts/embedded.sh` is
//! that, as three processes on this machine.
//!
//! # The model
//!
//! ```text
//! key --XXH64--> u64 --jump hash--> shard --map--> primary + replicas
//! ```
//!
//! - **Key and shard.** A key is text. Its shard is computed, by anyone, the same for ever ([`Cluster::get_shard_for_key`]); the number
//!   of shards is fixed when the cluster is founded. Which nodes hold a shard is *not* computed: it stands in the map.
//! - **Map.** A row for each shard and each node, replicated by Raft, and changed by committed commands alone. A planner places copies: in
//!   different zones and racks, evenly, with the fewest moves. Anyone may cache the map; what protects from an old one is the epoch.
//! - **Copies.** A shard has one *primary*, which takes its writes, and *replicas*. The *in-sync* ones have every acknowledged write, and only
//!   they are ever promoted. A *learner copy* is being filled.
//! - **Epoch** of a shard: raised with every change of its primary, and with every restart of that. Data nodes refuse lower ones. So who
//!   acts on an old map is told, and does no harm.
//! - **Revision** of the map: the Raft log index of its last change. Answers carry it, watches resume from it
//!   ([`Cluster::watch`]).
//! - **Lease** of a data node: a primary answers only while its lease runs, which heartbeats extend (0.8 of
//!   [`failure_timeout`](ClusterConfig::failure_timeout)). A node that falls silent is `down` when its lease has run out by the leader's
//!   count, which is longer; then, and not before, others may lead its shards. Control nodes without a quorum extend no lease.
//! - **Control node and data node.** Control nodes (the [`Cluster`] in each process, or the `ruvector-cluster` binary) hold the map; one of them
//!   *leads*, found by Raft. The first [`max_voters`](ClusterConfig::max_voters) vote, further ones keep a replica. Data nodes hold the
//!   vectors: they register, send heartbeats, pull what is assigned to them, and report.
//!
//! # What is where
//!
//! | for | look at |
//! |---|---|
//! | a cluster inside your process | [`Cluster`], [`ClusterConfig`], [`ShardHandler`] |
//! | a data node beside control nodes that run as servers | [`client::node`] (replication and copying included), [`client::handler`] (yours) |
//! | routing keys in a client | [`client::router`], [`client::map`]; in Python: `clients/python` |
//! | administration | [`Cluster::client`] and the HTTP API (`docs/operations.md`), `ruvector-cluster --help` |
//! | how it works | [`placement`], [`migration`], [`coordinator`], [`liveness`]; `docs/architecture.md` |
//!
//! # Units and errors
//!
//! Names that end in `_ms` are milliseconds, `_bytes` bytes, `_per_s` a second; times are UTC. What is refused says so by the field and with
//! the remedy ([`ClusterError`]); what had no answer in time may have been done, and is repeated under the same key.
//!
//! # What is not guaranteed
//!
//! There is no TLS and no authentication yet: listen on a trusted network. Without a quorum of control nodes for longer than a lease, all
//! primaries stop. Clocks may run apart by up to 5 %.

pub mod api;
pub mod backup;
pub mod cli;
pub mod cluster;
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

pub use cluster::{Cluster, ClusterConfig, ClusterError, ClusterWatch, Node, NodeId, Shard};
pub use ruvector_cluster_client as client;
pub use ruvector_cluster_client::handler::ShardHandler;
pub use ruvector_cluster_client::ids::ShardId;
pub use ruvector_cluster_client::wire::{Health as ClusterHealth, HealthStatus, NodeStatus, ShardStatus};
