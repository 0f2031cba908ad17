//! Nodes and shards as the library shows them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ruvector_cluster_client::ids::{Epoch, ShardId};
use ruvector_cluster_client::wire::{self, Intent, NodeStatus, ShardStatus};

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::metadata::{Metadata, view};

/// A node's name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub type NodeId = String;

/// A data node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// Where it answers. Where it is registered under a name that does not resolve now: `0.0.0.0` with its port.
    pub addr: SocketAddr,
    /// Alive, suspect (heartbeats are late; the leader's view) or down (committed: its lease ran out).
    pub status: NodeStatus,
    /// Shards of which it holds a copy or is to hold one, ascending.
    pub shards: Vec<ShardId>,
    /// When the leader last heard of it; when it first registered, where the leader of now has not heard of it.
    pub last_heartbeat: DateTime<Utc>,
    /// `host:port` as it registered.
    pub address: String,
    /// Failure domain above racks.
    pub zone: Option<String>,
    /// Failure domain above nodes.
    pub rack: Option<String>,
    /// What an operator wishes of it.
    pub intent: Intent,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its number, from 0.
    pub id: ShardId,
    /// Who takes its writes; empty while it is unassigned.
    pub primary: NodeId,
    /// The other full copies, in order.
    pub replicas: Vec<NodeId>,
    /// The worst that holds of it.
    pub status: ShardStatus,
    /// Bytes of the primary's copy as it reported last; 0 before.
    pub size_bytes: u64,
    /// Raised with every change of the primary.
    pub epoch: Epoch,
    /// Copies that have every acknowledged write, the primary among them.
    pub in_sync: Vec<NodeId>,
}

/// A name that does not resolve for so long does not resolve.
pub(super) const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) async fn node(row: wire::Node, known: Arc<Metadata>) -> Node {
    let joined = || known.node(&row.id).map_or(0, |row| row.joined_ms);
    Node {
        addr: resolved(&row.addr).await,
        last_heartbeat: row.last_heartbeat.unwrap_or_else(|| view::time(joined())),
        id: row.id.into(),
        status: row.status,
        shards: row.shards,
        address: row.addr,
        zone: row.zone,
        rack: row.rack,
        intent: row.intent,
    }
}

pub(super) fn shard(row: wire::Shard) -> Shard {
    let names = |ids: Vec<ruvector_cluster_client::ids::NodeId>| ids.into_iter().map(String::from).collect();
    Shard {
        id: row.id,
        primary: row.primary.map(String::from).unwrap_or_default(),
        replicas: names(row.replicas),
        status: row.status,
        size_bytes: row.size_bytes.unwrap_or(0),
        epoch: row.epoch,
        in_sync: names(row.in_sync),
    }
}

async fn resolved(address: &str) -> SocketAddr {
    if let Ok(addr) = address.parse() {
        return addr;
    }
    let found = timeout(RESOLVE_TIMEOUT, lookup_host(address)).await.ok().and_then(Result::ok);
    let found = found.and_then(|mut found| found.next());
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
    found.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
}
