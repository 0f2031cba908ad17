//! A control node's gossip: what it tells, and to whom it passes on what it hears.
//!
//! It speaks at the peer listener's port. Control nodes that are heard of are further places to look for the cluster while this
//! node has none; data nodes that are heard of are a second opinion on those that are down (docs/gossip.md). The consensus and the
//! coordinator are told; neither knows of gossip.
//!
//! Invariant: nothing heard here is proposed. What it delays or hints at is said where it is used.

use std::time::Duration;

use ruvector_cluster_client::gossip::{Gossip, GossipConfig, Me, Reach, host_port_of};
use ruvector_cluster_raft::Node;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::coordinator::{Coordinator, HeardOf};

/// How often it is looked whether this node has come to know its cluster, or its cluster other members.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Begins to gossip for a control node that has started.
pub(crate) fn start(config: &Config, node: &Node, reach: Reach) -> Gossip {
    let info = node.info();
    let advertise = host_port_of(&info.peer_url).map_or_else(|| node.peer_addr().to_string(), str::to_owned);
    let (client_url, peer_url) = (info.client_url, info.peer_url);
    Gossip::start(GossipConfig {
        me: Me::Control { name: config.node_id.clone(), client_url, peer_url },
        listen: node.peer_addr(),
        advertise,
        seeds: GossipConfig::seeds_of(config.seeds.iter().map(String::as_str)),
        reach,
    })
}

/// Passes on what is heard until `ending`; then gossip ends.
pub(crate) async fn pass_on(gossip: Gossip, node: Node, coordinator: Coordinator, ending: CancellationToken) {
    let mut seen = gossip.sightings();
    let mut told: Option<HeardOf> = None;
    loop {
        let own = node.cluster_id();
        if let Some(own) = &own {
            gossip.set_cluster_id(own);
        }
        let others = node.members().into_iter().filter(|member| member.info.raft_id != node.raft_id());
        let peers = others.filter_map(|member| host_port_of(&member.info.peer_url).map(str::to_owned));
        gossip.suggest(peers.collect());
        let sighting = seen.borrow_and_update().clone();
        let urls = sighting.control_urls(own.as_deref());
        node.set_more_seeds(urls.iter().filter_map(|url| host_port_of(url)).map(str::to_owned).collect());
        let stores = sighting.stores(own.as_deref());
        let heard_of: HeardOf = stores.map(|(node, store_id)| (node.clone(), store_id.to_owned())).collect();
        if told.as_ref() != Some(&heard_of) {
            coordinator.observe_gossip(heard_of.clone());
            told = Some(heard_of);
        }
        tokio::select! {
            () = ending.cancelled() => break,
            changed = seen.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    gossip.stop();
}
