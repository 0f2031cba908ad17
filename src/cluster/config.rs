//! What a cluster is told, checked whole before anything is started.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ruvector_cluster_client::handler::ShardHandler;
use ruvector_cluster_client::ids::{NodeId, Thousandths, check_host_port};
use ruvector_cluster_client::wire::RegisterRequest;
use ruvector_cluster_raft::{StartError, Timing};
use tokio::net::{TcpListener, lookup_host};
use tokio::time::timeout;

use super::embedded::Acknowledging;
use super::places::RESOLVE_TIMEOUT;
use super::{ClusterError, Result, millis};
use crate::config::{Config, LogFormat, PEER_PORT_OFFSET};
use crate::metadata::Settings;
use crate::server::ServerError;

/// The folder, in the working directory, that data directories are made in.
const DEFAULT_FOLDER: &str = "ruvector-cluster-data";

/// Nobody waits longer.
const MAX_STABLE_TIMEOUT: Duration = Duration::from_secs(86_400);

/// A cluster as this process takes part in it. Fill in what differs from the defaults:
///
/// ```
/// # use ruvector_cluster::ClusterConfig;
/// let config = ClusterConfig {
///     node_id: "node-1".to_string(),
///     listen_addr: "127.0.0.1:7000".parse().expect("an address"),
///     ..Default::default()
/// };
/// ```
#[derive(Clone)]
pub struct ClusterConfig {
    /// This process's name, as control node and as data node: 1 to 64 of `A-Z a-z 0-9 . _ -`. No default.
    pub node_id: String,
    /// Where it answers clients and other processes, over HTTP. `0.0.0.0` and `[::]` listen everywhere; what is told to others is then
    /// `advertise_addr`, else the address of this machine from which the seeds are reached. 127.0.0.1:7000.
    pub listen_addr: SocketAddr,
    /// The `listen_addr` of other processes of the cluster, this one's included or not. Empty (the default), and without `seed_names`:
    /// a cluster of this process alone.
    pub seeds: Vec<SocketAddr>,
    /// Copies wanted of each shard, 1 to 7; fixed when the cluster is founded. 3.
    pub replication_factor: usize,
    /// Shards, 1 to 1,048,576; fixed when the cluster is founded: choose some ten for each node that you expect. 64.
    pub num_shards: usize,
    /// How often a data node says that it is alive, 10 ms to 10 min; fixed when the cluster is founded. 1 s.
    pub heartbeat_interval: Duration,
    /// A data node unheard for so long is down, and its primaries are replaced; at least 2.5 times `heartbeat_interval`; fixed when
    /// the cluster is founded. 5 s.
    pub failure_timeout: Duration,

    /// As `seeds`, as `host:port`: for names, which are resolved anew with each connection.
    pub seed_names: Vec<String>,
    /// Where other control nodes reach this one. None: the port of `listen_addr` + 1000.
    pub peer_addr: Option<SocketAddr>,
    /// `host:port` told to others instead of `listen_addr`.
    pub advertise_addr: Option<String>,
    /// `host:port` at which your data node answers, told to those who ask where a shard is. None: as `listen_addr`.
    pub data_addr: Option<String>,
    /// Where this process keeps its part of the cluster's state; its own, and kept: an empty one makes it another node. None:
    /// `ruvector-cluster-data/<node_id>` in the working directory.
    pub data_dir: Option<PathBuf>,
    /// Whether processes find each other by gossip too, and hear of each other: UDP, on the ports of `listen_addr` and `peer_addr`. It
    /// trusts the network (docs/gossip.md). true.
    pub gossip: bool,
    /// How many processes found the cluster. None: the number of seeds, this process included; all of them have to be there then.
    pub bootstrap_expect: Option<usize>,
    /// So many take part in decisions, 1 to 9; further ones keep a replica, and read from it. 5.
    pub max_voters: usize,
    /// Failure domain above racks: copies of a shard go to different ones, where there are enough.
    pub zone: Option<String>,
    /// Failure domain above nodes.
    pub rack: Option<String>,
    /// Free text, for people.
    pub labels: BTreeMap<String, String>,
    /// Share of copies relative to other nodes, in thousandths. None: as before, else 1.
    pub capacity: Option<Thousandths>,
    /// How long [`wait_for_stable`](super::Cluster::wait_for_stable) waits, at most a day. 60 s.
    pub stable_timeout: Duration,
    /// Carries out what the cluster assigns to this process. The default acknowledges at once, for those who only want the map.
    pub shard_handler: Arc<dyn ShardHandler>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            node_id: String::new(),
            listen_addr: SocketAddr::from(([127, 0, 0, 1], 7_000)),
            seeds: Vec::new(),
            replication_factor: 3,
            num_shards: 64,
            heartbeat_interval: Duration::from_secs(1),
            failure_timeout: Duration::from_secs(5),
            seed_names: Vec::new(),
            peer_addr: None,
            advertise_addr: None,
            data_addr: None,
            data_dir: None,
            gossip: true,
            bootstrap_expect: None,
            max_voters: 5,
            zone: None,
            rack: None,
            labels: BTreeMap::new(),
            capacity: None,
            stable_timeout: Duration::from_secs(60),
            shard_handler: Arc::new(Acknowledging),
        }
    }
}

impl fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterConfig")
            .field("node_id", &self.node_id)
            .field("listen_addr", &self.listen_addr)
            .field("seeds", &self.seeds)
            .field("seed_names", &self.seed_names)
            .field("replication_factor", &self.replication_factor)
            .field("num_shards", &self.num_shards)
            .field("heartbeat_interval", &self.heartbeat_interval)
            .field("failure_timeout", &self.failure_timeout)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// A configuration that was found good.
pub(super) struct Checked {
    /// For the control node.
    pub(super) server: Config,
    pub(super) handler: Arc<dyn ShardHandler>,
    pub(super) stable_timeout: Duration,
    /// What this process keeps as a data node; the control node has a folder beside it.
    pub(super) data_node_dir: PathBuf,
    advertised: String,
    registration: RegisterRequest,
}

fn refuse<T>(field: &'static str, why: impl fmt::Display) -> Result<T> {
    Err(ClusterError::Config { field, why: why.to_string() })
}

/// An integer of a field that must be within bounds.
fn within(field: &'static str, value: usize, low: u32, high: u32) -> Result<u32> {
    match u32::try_from(value) {
        Ok(n) if (low..=high).contains(&n) => Ok(n),
        _ => refuse(field, format!("{value} is not from {low} to {high}")),
    }
}

impl Checked {
    /// Checks all fields, then takes the address.
    pub(super) async fn of(config: ClusterConfig) -> Result<(Self, TcpListener)> {
        let node_id = match NodeId::new(&config.node_id) {
            // They name a folder and a path of the API.
            Ok(id) if [".", ".."].contains(&id.as_str()) => return refuse("node_id", "it is only dots"),
            Ok(id) => id,
            Err(error) => return refuse("node_id", error),
        };
        let settings = settings(&config)?;
        let seeds = seeds(&config)?;
        let max_voters = within("max_voters", config.max_voters, 1, 9)? as usize;
        if let Some(expect) = config.bootstrap_expect {
            within("bootstrap_expect", expect, 1, 99)?;
        }
        for (field, addr) in [("advertise_addr", &config.advertise_addr), ("data_addr", &config.data_addr)] {
            if let Some(Err(why)) = addr.as_deref().map(check_host_port) {
                return refuse(field, why);
            }
        }
        let peer_listen = peer_listen(&config)?;
        let own_host = own_host(&config).await?;
        let listener = listen(config.listen_addr).await?;
        // A port that was left open is kept for later starts.
        let bound = listener.local_addr().unwrap_or(config.listen_addr);
        let port = bound.port();
        let advertised = match (config.advertise_addr, own_host) {
            (Some(told), _) => told,
            (None, Some(host)) => SocketAddr::new(host, port).to_string(),
            (None, None) => SocketAddr::new(config.listen_addr.ip(), port).to_string(),
        };
        // Peers are told the same host, with the port of their listener, unless that has an address of its own.
        let is_apart = peer_listen.ip() != config.listen_addr.ip() && !peer_listen.ip().is_unspecified();
        let peer_host = advertised.rsplit_once(':').map_or("", |(host, _)| host);
        let peer_told =
            if is_apart { peer_listen.to_string() } else { format!("{peer_host}:{}", peer_listen.port()) };
        let folder = config.data_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_FOLDER).join(&config.node_id));
        let registration = RegisterRequest {
            addr: config.data_addr.unwrap_or_else(|| advertised.clone()),
            store_id: String::new(),
            zone: config.zone,
            rack: config.rack,
            labels: config.labels,
            capacity: config.capacity,
            capacity_bytes: None,
            accept_data_loss: false,
        };
        let server = Config {
            node_id,
            data_dir: folder.join("control-node"),
            listen: bound,
            peer_listen,
            advertise: Some(advertised.clone()),
            peer_advertise: Some(peer_told),
            seeds,
            gossip: config.gossip,
            bootstrap_expect: config.bootstrap_expect,
            settings,
            max_voters,
            timing: Timing::default(),
            log: String::new(),
            log_format: LogFormat::Text,
        };
        let (handler, stable_timeout) = (config.shard_handler, config.stable_timeout.min(MAX_STABLE_TIMEOUT));
        let data_node_dir = folder.join("data-node");
        Ok((Self { server, handler, stable_timeout, data_node_dir, advertised, registration }, listener))
    }

    /// `host:port` told to others.
    pub(super) fn advertised(&self) -> &str {
        &self.advertised
    }

    /// Takes the address again, after a stop.
    pub(super) async fn listen(&self) -> Result<TcpListener> {
        listen(self.server.listen).await
    }

    /// What the data node says of itself.
    pub(super) fn registration(&self, store_id: String) -> RegisterRequest {
        RegisterRequest { store_id, ..self.registration.clone() }
    }

    /// Why the control node did not start, by the field where one is to blame.
    pub(super) fn explained(&self, error: ServerError) -> ClusterError {
        match error {
            ServerError::Start(StartError::Listen { addr, source }) => {
                ClusterError::Listen { field: "peer_addr", addr, source }
            }
            other => ClusterError::Start(other),
        }
    }
}

async fn listen(addr: SocketAddr) -> Result<TcpListener> {
    let listening = TcpListener::bind(addr).await;
    listening.map_err(|source| ClusterError::Listen { field: "listen_addr", addr, source })
}

fn settings(config: &ClusterConfig) -> Result<Settings> {
    let num_shards = within("num_shards", config.num_shards, 1, 1_048_576)?;
    let replication_factor = within("replication_factor", config.replication_factor, 1, 7)?;
    let (interval_ms, timeout_ms) = (millis(config.heartbeat_interval), millis(config.failure_timeout));
    if !(10..=600_000).contains(&interval_ms) {
        return refuse("heartbeat_interval", format!("{interval_ms} ms is not from 10 ms to 10 min"));
    }
    let lease_ms = timeout_ms / 5 * 4;
    if lease_ms < interval_ms * 2 || timeout_ms > 3_600_000 {
        let least_ms = interval_ms.div_ceil(2) * 5;
        return refuse(
            "failure_timeout",
            format!(
                "{timeout_ms} ms, with a heartbeat_interval of {interval_ms} ms: two heartbeats must fit into the lease, which is 0.8 of \
                 it: give {least_ms} ms to 1 h, or a shorter heartbeat_interval"
            ),
        );
    }
    Ok(Settings {
        num_shards,
        replication_factor,
        failure_timeout_ms: timeout_ms,
        lease_ms,
        heartbeat_interval_ms: interval_ms,
    })
}

fn seeds(config: &ClusterConfig) -> Result<Vec<String>> {
    let mut seeds: Vec<String> = Vec::new();
    for seed in &config.seeds {
        if seed.port() == 0 || seed.ip().is_unspecified() {
            return refuse("seeds", format!("{seed} is no address that can be reached"));
        }
        seeds.push(seed.to_string());
    }
    for name in &config.seed_names {
        if let Err(why) = check_host_port(name) {
            return refuse("seed_names", why);
        }
        seeds.push(name.clone());
    }
    let mut seen = BTreeSet::new();
    seeds.retain(|seed| seen.insert(seed.clone()));
    Ok(seeds)
}

fn peer_listen(config: &ClusterConfig) -> Result<SocketAddr> {
    let listen = config.listen_addr;
    match config.peer_addr {
        Some(peer) if peer == listen && peer.port() != 0 => refuse("peer_addr", "is the same as listen_addr"),
        Some(peer) => Ok(peer),
        None if listen.port() == 0 => Ok(SocketAddr::new(listen.ip(), 0)),
        None => match listen.port().checked_add(PEER_PORT_OFFSET) {
            Some(port) => Ok(SocketAddr::new(listen.ip(), port)),
            None => refuse("peer_addr", "is required, since the port of listen_addr + 1000 is above 65535"),
        },
    }
}

/// The address of this machine from which all seeds are reached, where one has to be found.
async fn own_host(config: &ClusterConfig) -> Result<Option<IpAddr>> {
    if !config.listen_addr.ip().is_unspecified() || config.advertise_addr.is_some() {
        return Ok(None);
    }
    let mut seeds = config.seeds.clone();
    for name in &config.seed_names {
        if let Ok(Ok(found)) = timeout(RESOLVE_TIMEOUT, lookup_host(name)).await {
            seeds.extend(found);
        }
    }
    // Nothing listens under IPv6 where 0.0.0.0 was given.
    seeds.retain(|seed| seed.is_ipv4() || config.listen_addr.is_ipv6());
    let (near, far): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
        seeds.into_iter().filter_map(route_to).partition(IpAddr::is_loopback);
    let found: Vec<IpAddr> = if far.is_empty() { near } else { far }.into_iter().collect();
    match found.as_slice() {
        [host] => Ok(Some(*host)),
        [] => refuse(
            "advertise_addr",
            format!(
                "is required: listen_addr {} does not say where others reach this process, and no seed does; give its \"host:port\"",
                config.listen_addr
            ),
        ),
        several => refuse(
            "advertise_addr",
            format!(
                "is required: the seeds are reached from several addresses of this machine ({several:?}); give one"
            ),
        ),
    }
}

/// The address from which `seed` is reached. To connect a datagram socket looks up the route, and sends nothing.
fn route_to(seed: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match seed {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(seed).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}
