//! What a control node is told at its start, checked before anything is opened.
//!
//! Each option comes from its flag, else the environment, else a TOML file, else its default. Whatever is wrong is
//! refused with the key as the operator typed it. Names in the environment that begin like ours and are unknown are
//! ignored, because platforms set such names by themselves (Kubernetes does for each service); unknown flags and file
//! keys are refused.

mod options;
#[cfg(test)]
mod tests;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use ruvector_cluster_client::ids::{NodeId, check_host_port};
use ruvector_cluster_raft::Timing;

use crate::metadata::Settings;

pub use options::{ENV_PREFIX, OPTIONS, OptionSpec};
pub use values::{ConfigError, Origin, Sources, Values, parse_duration_ms};

/// Peer listener's port above the client listener's, unless told otherwise.
pub const PEER_PORT_OFFSET: u16 = 1_000;

/// A control node's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name.
    pub node_id: NodeId,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Client API, metrics, dashboard.
    pub listen: SocketAddr,
    /// Control-node traffic.
    pub peer_listen: SocketAddr,
    /// `host:port` of the client API told to others; None: as bound.
    pub advertise: Option<String>,
    /// `host:port` of the peer listener told to others; None: as bound.
    pub peer_advertise: Option<String>,
    /// `host:port` of control nodes' client APIs.
    pub seeds: Vec<String>,
    /// Whether it gossips, at the peer listener's port.
    pub gossip: bool,
    /// How many found the cluster; None: as many as there are distinct seeds.
    pub bootstrap_expect: Option<usize>,
    /// Fixed at bootstrap.
    pub settings: Settings,
    /// Members beyond these stay learners.
    pub max_voters: usize,
    /// Raft's clockwork.
    pub timing: Timing,
    /// What is logged.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Config {
    /// Understands and checks all options.
    ///
    /// # Errors
    /// [`ConfigError`] naming the first key that is wrong.
    pub fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        let values = Values::resolve(sources)?;
        let node_id = NodeId::new(values.required("node-id")?).map_err(|e| values.refuse("node-id", e))?;
        let data_dir = PathBuf::from(values.required("data-dir")?);
        let listen = values.address("listen")?.ok_or_else(|| values.refuse("listen", "is required"))?;
        let peer_listen = peer_listen(&values, listen)?;
        let advertise = told_address(&values, "advertise", "listen", listen)?;
        let peer_advertise = peer_advertise(&values, peer_listen, advertise.as_deref())?;
        let insecure = values.switch("insecure-listen")?;
        for (key, addr) in [("listen", listen), ("peer-listen", peer_listen)] {
            if !addr.ip().is_loopback() && !insecure {
                return Err(values.refuse(
                    key,
                    format!("{addr} is not loopback, and there is no TLS: give --insecure-listen if the network is trusted"),
                ));
            }
        }
        let bootstrap_expect = match values.text("bootstrap-expect") {
            Some(_) => Some(small(values.integer("bootstrap-expect", 1, 99)?)),
            None => None,
        };
        Ok(Self {
            node_id,
            data_dir,
            listen,
            peer_listen,
            advertise,
            peer_advertise,
            seeds: seeds(&values)?,
            gossip: match values.required("gossip")? {
                "on" => true,
                "off" => false,
                other => return Err(values.refuse("gossip", format!("{other:?} is neither on nor off"))),
            },
            bootstrap_expect,
            settings: settings(&values)?,
            max_voters: small(values.integer("max-voters", 1, 9)?),
            timing: timing(&values)?,
            log: values.required("log")?.to_owned(),
            log_format: match values.required("log-format")? {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => {
                    return Err(values.refuse("log-format", format!("{other:?} is neither text nor json")));
                }
            },
        })
    }
}

impl Config {
    /// Where others reach the client API, which is bound to `bound`.
    pub fn client_url(&self, bound: SocketAddr) -> String {
        url(self.advertise.as_deref(), bound)
    }

    /// Where others reach the peer listener.
    pub fn peer_url(&self) -> String {
        url(self.peer_advertise.as_deref(), self.peer_listen)
    }
}

fn url(advertised: Option<&str>, addr: SocketAddr) -> String {
    match advertised {
        Some(told) => format!("http://{told}"),
        None => format!("http://{addr}"),
    }
}

fn small(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn peer_listen(values: &Values, listen: SocketAddr) -> Result<SocketAddr, ConfigError> {
    let peer = match values.address("peer-listen")? {
        Some(peer) => peer,
        None if listen.port() == 0 => SocketAddr::new(listen.ip(), 0),
        None => {
            let port = listen.port().checked_add(PEER_PORT_OFFSET).ok_or_else(|| {
                values.refuse("peer-listen", "is required, since listen's port + 1000 is above 65535")
            })?;
            SocketAddr::new(listen.ip(), port)
        }
    };
    if peer == listen && peer.port() != 0 {
        return Err(values.refuse("peer-listen", "is the same address as --listen"));
    }
    Ok(peer)
}

fn told_address(
    values: &Values,
    key: &'static str,
    listen_key: &'static str,
    listen: SocketAddr,
) -> Result<Option<String>, ConfigError> {
    match values.text(key) {
        Some(text) => {
            check_host_port(text).map_err(|why| values.refuse(key, why))?;
            Ok(Some(text.to_owned()))
        }
        None if listen.ip().is_unspecified() => {
            Err(values.refuse(key, format!("is required where --{listen_key} is unspecified ({listen})")))
        }
        None => Ok(None),
    }
}

/// Where only the client address is told, peers are told the same host.
fn peer_advertise(
    values: &Values,
    peer_listen: SocketAddr,
    advertise: Option<&str>,
) -> Result<Option<String>, ConfigError> {
    match advertise.and_then(|told| told.rsplit_once(':')) {
        Some((host, _)) if values.text("peer-advertise").is_none() => {
            Ok(Some(format!("{host}:{}", peer_listen.port())))
        }
        _ => told_address(values, "peer-advertise", "peer-listen", peer_listen),
    }
}

fn seeds(values: &Values) -> Result<Vec<String>, ConfigError> {
    let mut seeds: Vec<String> = Vec::new();
    for seed in values.text("seeds").unwrap_or_default().split(',').map(str::trim).filter(|s| !s.is_empty()) {
        check_host_port(seed).map_err(|why| values.refuse("seeds", why))?;
        if !seeds.iter().any(|s| s == seed) {
            seeds.push(seed.to_owned());
        }
    }
    Ok(seeds)
}

fn settings(values: &Values) -> Result<Settings, ConfigError> {
    let failure_timeout_ms = values.duration_ms("failure-timeout", 100, 3_600_000)?;
    let heartbeat_interval_ms = values.duration_ms("heartbeat-interval", 10, 600_000)?;
    let lease_ms = failure_timeout_ms / 5 * 4;
    if heartbeat_interval_ms.saturating_mul(2) > lease_ms {
        return Err(values.refuse(
            "heartbeat-interval",
            format!("two of {heartbeat_interval_ms}ms do not fit into a lease of {lease_ms}ms (0.8 of --failure-timeout)"),
        ));
    }
    Ok(Settings {
        num_shards: u32::try_from(values.integer("num-shards", 1, 1_048_576)?).unwrap_or(u32::MAX),
        replication_factor: u32::try_from(values.integer("replication-factor", 1, 7)?).unwrap_or(u32::MAX),
        failure_timeout_ms,
        lease_ms,
        heartbeat_interval_ms,
    })
}

fn timing(values: &Values) -> Result<Timing, ConfigError> {
    let heartbeat_ms = values.duration_ms("raft-heartbeat", 5, 60_000)?;
    let election_max_ms = values.duration_ms("election-timeout", 20, 600_000)?;
    if election_max_ms < heartbeat_ms * 3 {
        return Err(values.refuse(
            "election-timeout",
            format!("{election_max_ms}ms is shorter than three raft heartbeats of {heartbeat_ms}ms"),
        ));
    }
    Ok(Timing {
        heartbeat_ms,
        election_min_ms: election_max_ms / 3 * 2,
        election_max_ms,
        ..Timing::default()
    })
}
