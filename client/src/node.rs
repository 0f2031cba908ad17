//! A whole data node, ready: what its author adds is the database of one shard ([`ShardStore`]) and an HTTP server.
//!
//! ```text
//!   clients ---> your server ---> DataNode::write, read, delete, search --.
//!   other nodes -> your server -> DataNode::answer                        |
//!                                                                         v
//!   control nodes <--- agent ---> copies <--- gateway: here, or to the primary over HTTP/2
//!                                   |
//!                                 kept: a journal, then your ShardStore
//! ```
//!
//! [`DataNode::open`] opens the data directory and all copies in it; [`NodeTask::run`] registers the node and keeps its lease
//! while your server runs. Everything in between is the rest of this crate: routing by a cached map, replication, copying,
//! fencing, reports.
//!
//! Your server must pass `POST /peer/v1/...` on to [`DataNode::answer`], and speak HTTP/2 without TLS (prior knowledge) there:
//! nodes multiplex their messages over one connection.
//!
//! Invariant: nothing here is answered from a copy but through [`Copies`], which asks the replica whether it may be.
//! Caveat: there is no TLS and no authentication between nodes yet; keep their addresses on a trusted network.

mod dir;
mod directory;
mod gateway;
mod kept;
mod peers;
mod serve;
mod store;

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, AgentConfig, AgentError, HostError, LeaseWatch, Outbox};
use crate::clock::{Clock, SystemClock};
use crate::control::{ControlClient, ControlError, ControlOptions};
use crate::copies::{Copies, CopySize, Parts, TokioSpawn};
use crate::gossip::{Gossip, GossipConfig, Me, Reach, find_control_nodes};
use crate::ids::{Epoch, NodeId, ShardId, Thousandths};
use crate::replica::{Key, Status, Value};
use crate::router::Router;
use crate::wire::RegisterRequest;

pub use dir::{DataDir, DataDirError, Identity};
use directory::{Directory, NodeCopies};
use gateway::Gateway;
pub use gateway::{GatewayError, HOLD_MS};
pub use kept::{CopyError, Kept};
use peers::Peers;
pub use store::{Row, ShardStore, Stamp, StoreFault, View};

/// Where other data nodes send their requests.
pub const PEER_PATH: &str = "/peer/v1/";
/// The largest body that other data nodes send, in bytes: a chunk or a batch of writes, as JSON with base64 inside.
pub const MAX_PEER_BODY_BYTES: usize = 64 << 20;
/// How long requests under way may go on once the node is to stop.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// What a node says of itself, and where things are.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name; it stays with the data directory.
    pub node_id: NodeId,
    /// The `host:port` at which clients and other nodes reach it.
    pub addr: String,
    /// Control nodes, `host:port`; one that answers is enough. With gossip, one address of any node of the cluster that is up.
    pub coordinators: Vec<String>,
    /// Where its shards are kept; its own.
    pub data_dir: PathBuf,
    /// Failure domain above racks.
    pub zone: Option<String>,
    /// Failure domain above nodes.
    pub rack: Option<String>,
    /// For people.
    pub labels: BTreeMap<String, String>,
    /// Share of copies relative to other nodes; 1 where none is given.
    pub capacity: Option<Thousandths>,
    /// Bytes that it may hold, if not what its disk has.
    pub capacity_bytes: Option<u64>,
    /// Lets this directory replace another one of the same node though copies are lost by it.
    pub accept_data_loss: bool,
    /// How it gossips; none: it does not.
    pub gossip: Option<NodeGossip>,
}

/// How a data node gossips.
#[derive(Clone, Debug)]
pub struct NodeGossip {
    /// Where, UDP: the port at which the node answers, so that whoever knows one address can reach it.
    pub listen: SocketAddr,
    /// Whom it sends to.
    pub reach: Reach,
}

impl NodeGossip {
    /// With everybody.
    pub fn at(listen: SocketAddr) -> Self {
        Self { listen, reach: Reach::default() }
    }
}

impl NodeConfig {
    /// A node with a plain registration. It gossips where it answers, if `addr` is an IP address and a port; else set
    /// [`NodeConfig::gossip`] to where it listens.
    pub fn new<C: Into<String>>(
        node_id: NodeId,
        addr: impl Into<String>,
        coordinators: impl IntoIterator<Item = C>,
        data_dir: impl Into<PathBuf>,
    ) -> Self {
        let addr = addr.into();
        let listen = addr.parse::<SocketAddr>().ok();
        let listen = listen.filter(|addr| !addr.ip().is_unspecified() && addr.port() != 0);
        Self {
            node_id,
            addr,
            coordinators: coordinators.into_iter().map(Into::into).collect(),
            data_dir: data_dir.into(),
            zone: None,
            rack: None,
            labels: BTreeMap::new(),
            capacity: None,
            capacity_bytes: None,
            accept_data_loss: false,
            gossip: listen.map(NodeGossip::at),
        }
    }

    fn gossip_config(&self, store_id: &str) -> Option<GossipConfig> {
        let NodeGossip { listen, reach } = self.gossip.clone()?;
        let me =
            Me::Data { node: self.node_id.clone(), addr: self.addr.clone(), store_id: store_id.to_owned() };
        let seeds = GossipConfig::seeds_of(self.coordinators.iter().map(String::as_str));
        Some(GossipConfig { me, listen, advertise: self.addr.clone(), seeds, reach })
    }
}

/// Why a node can't start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The copies in it can't be opened.
    #[error("the copies can't be opened")]
    Copies(#[source] HostError),
    /// HTTP can't be set up.
    #[error("HTTP can't be set up")]
    Http(#[source] reqwest::Error),
    /// The control nodes can't be asked.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The server ended.
    #[error("serving ended")]
    Serving(#[source] io::Error),
    /// The agent ended.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

struct Inner<S: ShardStore> {
    copies: Arc<NodeCopies<S>>,
    gateway: Gateway<S>,
    router: Router,
}

/// A data node as its server uses it; cloning is cheap.
pub struct DataNode<S: ShardStore> {
    inner: Arc<Inner<S>>,
}

impl<S: ShardStore> Clone for DataNode<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

/// One copy that the node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldCopy {
    /// Of this shard.
    pub shard: ShardId,
    /// Its standing.
    pub status: Status,
    /// How much there is.
    pub size: CopySize,
}

impl<S: ShardStore> DataNode<S> {
    /// Opens the node's directory and its copies, and begins to follow the shard map. Nothing is served before
    /// [`NodeTask::run`].
    ///
    /// # Errors
    /// [`NodeError`], which says what to do about it.
    pub async fn open(config: NodeConfig, options: S::Options) -> Result<(Self, NodeTask<S>), NodeError> {
        let control = ControlClient::new(ControlOptions::new(config.coordinators.clone()))?;
        Self::open_under(control, config, options).await
    }

    /// As [`DataNode::open`], under the control nodes that `control` reaches: for tests over another transport.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn open_under(
        control: ControlClient,
        config: NodeConfig,
        options: S::Options,
    ) -> Result<(Self, NodeTask<S>), NodeError> {
        let dir = Arc::new(DataDir::open(&config.data_dir, &config.node_id, &S::layout(&options))?);
        let store_id = dir.identity().store_id;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let lease = LeaseWatch::new(clock.clone());
        let (reporter, outbox) = Outbox::new();
        let peers = Peers::new().map_err(NodeError::Http)?;
        let parts = Parts {
            node: config.node_id.clone(),
            clock: clock.clone(),
            lease: lease.clone(),
            reporter,
            messenger: Arc::new(peers.clone()),
            spawn: Arc::new(TokioSpawn),
        };
        let copies = Copies::open(parts, Directory::new(dir, options)).await.map_err(NodeError::Copies)?;
        let stop = CancellationToken::new();
        let router = Router::start(control.clone(), stop.clone());
        let gateway = Gateway::new(config.node_id.clone(), router.clone(), copies.clone(), peers);
        let gossip = config.gossip_config(&store_id);
        let registration = RegisterRequest {
            addr: config.addr,
            store_id,
            zone: config.zone,
            rack: config.rack,
            labels: config.labels,
            capacity: config.capacity,
            capacity_bytes: config.capacity_bytes,
            accept_data_loss: config.accept_data_loss,
        };
        let agent_config = AgentConfig::new(config.node_id, registration);
        let agent = Agent::new(agent_config, control.clone(), copies.clone(), clock, lease, outbox);
        let node = Self { inner: Arc::new(Inner { copies, gateway, router }) };
        Ok((node.clone(), NodeTask { node, agent, control, gossip, stop }))
    }

    /// Writes each key, or (no value) deletes it; returns once every in-sync copy has all of them on disk. `epoch`: the one
    /// that the asker routed by, if it did. The epoch under which it was done comes back where all keys are of one shard.
    ///
    /// # Errors
    /// [`GatewayError`]; some of the writes may have been done.
    pub async fn write(
        &self,
        writes: Vec<(Key, Option<Value>)>,
        epoch: Option<Epoch>,
    ) -> Result<Option<Epoch>, GatewayError> {
        self.inner.gateway.write(writes, epoch).await
    }

    /// The value of `key` at its shard's primary, and the epoch under which it was read.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn read(
        &self,
        key: &Key,
        epoch: Option<Epoch>,
    ) -> Result<(Epoch, Option<Value>), GatewayError> {
        self.inner.gateway.read(key, epoch).await
    }

    /// What `query` finds, shard by shard: in all of them, never in some only.
    ///
    /// # Errors
    /// [`GatewayError::Unavailable`] when a shard could not be searched in time.
    pub async fn search(&self, query: S::Query) -> Result<Vec<S::Found>, GatewayError> {
        self.inner.gateway.search(query).await
    }

    /// Answers another data node's `POST`; `path` with or without [`PEER_PATH`] before it.
    pub async fn answer(&self, path: &str, body: &[u8]) -> http::Response<Bytes> {
        self.inner.answer(path, body).await
    }

    /// The readable copies here, ascending by shard.
    pub fn held(&self) -> Vec<HeldCopy> {
        let copies = &self.inner.copies;
        let readable = |(shard, status)| Some(HeldCopy { shard, status, size: copies.size(shard)? });
        copies.statuses().into_iter().filter_map(readable).collect()
    }

    /// The shard map that the node routes by.
    pub fn router(&self) -> &Router {
        &self.inner.router
    }
}

/// What keeps an opened node in its cluster.
pub struct NodeTask<S: ShardStore> {
    node: DataNode<S>,
    agent: Agent,
    control: ControlClient,
    gossip: Option<GossipConfig>,
    stop: CancellationToken,
}

impl<S: ShardStore> NodeTask<S> {
    /// Registers the node and serves until `shutdown`, or until it can't go on. `server` runs your HTTP server: it is to take
    /// no more connections once `shutdown` is cancelled, and to return when the requests under way are answered. The lease is kept
    /// until then (at most 10 s), so that primaries may still answer; last the copies are flushed.
    ///
    /// Nothing depends on a clean stop; it only makes the next start shorter.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn run(
        self,
        shutdown: CancellationToken,
        server: impl IntoFuture<Output = io::Result<()>>,
    ) -> Result<(), NodeError> {
        let Self { node, agent, control, gossip, stop } = self;
        if let Some(config) = gossip {
            let map = node.inner.router.cache().clone();
            // It ends, and the gossip with it, when the node has stopped.
            tokio::spawn(find_control_nodes(Gossip::start(config), control, map, stop.clone()));
        }
        // Also where this is dropped half way.
        let _stop_on_drop = stop.clone().drop_guard();
        let ended = serve(agent, shutdown, server.into_future()).await;
        stop.cancel();
        node.inner.copies.close().await;
        ended
    }
}

async fn serve(
    agent: Agent,
    shutdown: CancellationToken,
    server: impl Future<Output = io::Result<()>>,
) -> Result<(), NodeError> {
    let stop_agent = CancellationToken::new();
    let agent = agent.run(stop_agent.clone());
    tokio::pin!(agent);
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(STOP_WAIT).await;
    };
    tokio::select! {
        ended = &mut agent => return Ok(ended?),
        served = server => served.map_err(NodeError::Serving)?,
        () = late => tracing::warn!("some requests were not finished in time"),
    }
    stop_agent.cancel();
    Ok(agent.await?)
}
