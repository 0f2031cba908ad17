//! Gossip: how control nodes and data nodes find each other from any one address, and who hears whom.
//!
//! Each node tells some others, twice a second over UDP, who it is and whom it heard of; what one hears, all hear within seconds
//! (scuttlebutt reconciliation and phi accrual failure detection, by chitchat). [`Gossip`] runs that and shows a [`Sighting`]: who is
//! alive, as far as it is told. docs/gossip.md says what is made of it, and what it trusts.
//!
//! Invariants: nothing here decides who owns what; a sighting is a hint. It is empty while gossip does not run. What is
//! remembered is bounded, and no datagram ends the process (`datagram.rs`).
//! Caveats: nothing is authenticated. A node that restarts begins a new generation by the time of day; the old one counts as
//! alive for the seconds until it is missed.

mod datagram;
mod finding;
mod reach;
mod running;
mod sighting;
mod socket;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::control::Backoff;

pub use finding::find_control_nodes;
pub use reach::Reach;
pub use sighting::{ControlSeen, DataSeen, Me, Sighting, host_port_of};

/// A control node's peer listener, and so its gossip, is so many ports above its client listener unless it is told otherwise.
const PEER_PORT_OFFSET: u16 = 1_000;
/// Addresses that may be suggested at once.
const MAX_SUGGESTED: usize = 64;

/// How a node gossips.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// Who it is.
    pub me: Me,
    /// Where it listens, UDP.
    pub listen: SocketAddr,
    /// `host:port` at which others reach that; a name is resolved again each minute.
    pub advertise: String,
    /// Whom it asks first: `host:port` of any nodes, names too, which are resolved again each minute.
    pub seeds: Vec<String>,
    /// Whom it sends to.
    pub reach: Reach,
}

impl GossipConfig {
    /// The seeds that `addrs` (`host:port`, or base URLs) stand for: themselves, since data nodes gossip where they listen, and
    /// 1,000 ports above, since control nodes gossip at their peer listener. To a port where nobody listens a datagram does no
    /// harm.
    pub fn seeds_of<'a>(addrs: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut seeds = Vec::new();
        for addr in addrs.into_iter().filter_map(host_port_of) {
            let peers = addr.rsplit_once(':').and_then(|(host, port)| {
                let port = port.parse::<u16>().ok()?.checked_add(PEER_PORT_OFFSET)?;
                Some(format!("{host}:{port}"))
            });
            for seed in [Some(addr.to_owned()), peers].into_iter().flatten() {
                if !seeds.contains(&seed) {
                    seeds.push(seed);
                }
            }
        }
        seeds
    }
}

/// Gossip that runs; it ends with the last clone, or by [`Gossip::stop`].
#[derive(Clone, Debug)]
pub struct Gossip {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    seen: watch::Receiver<Arc<Sighting>>,
    stop: CancellationToken,
}

/// What the task and the handles share.
#[derive(Debug)]
struct Shared {
    cluster_id: watch::Sender<Option<String>>,
    suggested: Mutex<Vec<String>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Gossip {
    /// Starts in the background; must be called within a tokio runtime. Where the port can't be had, that is logged and tried
    /// again: no node depends on gossip.
    pub fn start(config: GossipConfig) -> Self {
        let (publish, seen) = watch::channel(Arc::new(Sighting::default()));
        let shared = Arc::new(Shared { cluster_id: watch::Sender::new(None), suggested: Mutex::default() });
        let stop = CancellationToken::new();
        tokio::spawn(run(config, shared.clone(), publish, stop.clone()));
        Self { inner: Arc::new(Inner { shared, seen, stop }) }
    }

    /// Who is alive, as far as is told.
    pub fn sightings(&self) -> watch::Receiver<Arc<Sighting>> {
        self.inner.seen.clone()
    }

    /// From here the node tells that it belongs to that cluster.
    pub fn set_cluster_id(&self, cluster_id: &str) {
        self.inner.shared.cluster_id.send_if_modified(|held| {
            let is_new = held.as_deref() != Some(cluster_id);
            *held = Some(cluster_id.to_owned());
            is_new
        });
    }

    /// The cluster that it tells.
    pub fn cluster_id(&self) -> Option<String> {
        self.inner.shared.cluster_id.borrow().clone()
    }

    /// More addresses (`host:port`) where members may be, instead of those suggested before: one of them is spoken to now and
    /// then, so that parts of the cluster that lost sight of each other meet again.
    pub fn suggest(&self, mut addrs: Vec<String>) {
        addrs.truncate(MAX_SUGGESTED);
        *self.inner.shared.suggested.lock().unwrap_or_else(PoisonError::into_inner) = addrs;
    }

    /// Ends it; again it does nothing.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }
}

/// Runs it again and again until `stop`.
async fn run(
    config: GossipConfig,
    shared: Arc<Shared>,
    publish: watch::Sender<Arc<Sighting>>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(500, 10_000);
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => break,
            ended = running::run(&config, &shared, &publish) => ended,
        };
        // What was seen is evidence no more.
        publish.send_replace(Arc::default());
        let wait = match ended {
            Ok(why) => {
                tracing::info!(?why, "gossip begins anew");
                Duration::ZERO
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "gossip does not run; it is tried again");
                Duration::from_millis(backoff.next_ms())
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    publish.send_replace(Arc::default());
}
