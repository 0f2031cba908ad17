//! What data nodes and clients of a ruvector cluster embed.
//!
//! - [`ids`] and [`wire`]: the identifiers and JSON types that the control nodes speak.
//! - [`control`]: the HTTP client to the control nodes.
//! - [`map`], [`watch`], [`router`]: the cached shard map, what keeps it fresh, and routing by it.
//! - [`replica`]: one shard copy's side of the replication, pure.
//! - [`copies`]: the shell around a data node's replicas: tasks, queues, timers; over stores and a transport that it is given.
//! - [`node`]: all of this put together: a data node, lacking only its database and its HTTP server.
//! - [`gossip`]: how nodes find each other and hear of each other, over UDP.
//! - [`handler`]: for data nodes with a replication of their own: assignments as calls of a trait.
//! - `testing` (feature): an in-memory coordinator for tests of data nodes.
//! - [`agent`]: a data node's registration, heartbeats, lease, assignments and reports.
//!
//! The crate knows neither openraft, sled nor axum.

pub mod agent;
pub mod chance;
pub mod clock;
pub mod control;
pub mod copies;
pub mod fail_point;
pub mod gossip;
pub mod handler;
pub mod hashing;
pub mod ids;
pub mod map;
pub mod node;
pub mod replica;
pub mod router;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod watch;
pub mod wire;
