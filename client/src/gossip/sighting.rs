//! What is heard of whom: members' values as they are told, checked and bounded.

use std::collections::BTreeMap;

use crate::ids::{NodeId, check_host_port};

use super::datagram::{MAX_MEMBERS, MAX_VALUE_BYTES};

/// Control nodes that are taken in.
const MAX_CONTROL: usize = 32;

const KIND: &str = "kind";
const NAME: &str = "name";
const CLIENT_URL: &str = "client_url";
const PEER_URL: &str = "peer_url";
const ADDR: &str = "addr";
const STORE_ID: &str = "store_id";
pub(super) const CLUSTER_ID: &str = "cluster_id";

/// Who a member says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Me {
    /// A control node.
    Control {
        /// Its name.
        name: NodeId,
        /// Base URL of its client API.
        client_url: String,
        /// Base URL of its peer listener.
        peer_url: String,
    },
    /// A data node.
    Data {
        /// Its name.
        node: NodeId,
        /// `host:port` where it answers.
        addr: String,
        /// Its data directory's random id.
        store_id: String,
    },
}

/// A control node that is heard of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ControlSeen {
    /// Its name.
    pub name: NodeId,
    /// Base URL of its client API.
    pub client_url: String,
    /// Base URL of its peer listener.
    pub peer_url: String,
    /// Its cluster, once it knows that.
    pub cluster_id: Option<String>,
}

/// A data node that is heard of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataSeen {
    /// Its name.
    pub node: NodeId,
    /// Its data directory's random id.
    pub store_id: String,
    /// `host:port` where it answers.
    pub addr: String,
    /// Its cluster, once it knows that.
    pub cluster_id: Option<String>,
}

/// Who is alive as far as gossip tells, oneself included; ascending, each once. Nobody vouches for any of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Control nodes.
    pub control: Vec<ControlSeen>,
    /// Data nodes.
    pub data: Vec<DataSeen>,
}

impl Me {
    /// The member's name in the gossip: kinds have names of their own.
    pub(super) fn member_name(&self) -> String {
        match self {
            Self::Control { name, .. } => format!("control/{name}"),
            Self::Data { node, .. } => format!("data/{node}"),
        }
    }

    /// What it tells from the start.
    pub(super) fn values(&self) -> Vec<(String, String)> {
        let values = match self {
            Self::Control { name, client_url, peer_url } => {
                vec![(KIND, "control"), (NAME, name.as_str()), (CLIENT_URL, client_url), (PEER_URL, peer_url)]
            }
            Self::Data { node, addr, store_id } => {
                vec![(KIND, "data"), (NAME, node.as_str()), (ADDR, addr), (STORE_ID, store_id)]
            }
        };
        values.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

impl Sighting {
    /// From each member's values; a member whose values are none of ours is left out.
    pub(super) fn of<'a>(members: impl Iterator<Item = BTreeMap<&'a str, &'a str>>) -> Self {
        let mut seen = Self::default();
        for values in members {
            seen.add(&values);
        }
        seen.control.sort_unstable();
        seen.control.dedup();
        seen.control.truncate(MAX_CONTROL);
        seen.data.sort_unstable();
        seen.data.dedup();
        seen.data.truncate(MAX_MEMBERS);
        seen
    }

    fn add(&mut self, values: &BTreeMap<&str, &str>) -> Option<()> {
        let value = |key: &str| values.get(key).copied().filter(|value| value.len() <= MAX_VALUE_BYTES);
        let name = NodeId::new(value(NAME)?).ok()?;
        let cluster_id = value(CLUSTER_ID).map(str::to_owned);
        match value(KIND)? {
            "control" => {
                let url = |key| value(key).filter(|url| host_port_of(url).is_some()).map(str::to_owned);
                let (client_url, peer_url) = (url(CLIENT_URL)?, url(PEER_URL)?);
                self.control.push(ControlSeen { name, client_url, peer_url, cluster_id });
            }
            "data" => {
                let addr = value(ADDR).filter(|addr| check_host_port(addr).is_ok())?.to_owned();
                // A store's id is drawn from the same letters as a node's.
                let store_id = NodeId::new(value(STORE_ID)?).ok()?.to_string();
                self.data.push(DataSeen { node: name, store_id, addr, cluster_id });
            }
            // A later version may have other kinds.
            _ => {}
        }
        Some(())
    }

    /// Base URLs of control nodes' client APIs, but for those that name another cluster than `own`, where that is known.
    pub fn control_urls(&self, own: Option<&str>) -> Vec<String> {
        let fits = |seen: &&ControlSeen| own.is_none() || seen.cluster_id.as_deref() == own;
        self.control.iter().filter(fits).map(|seen| seen.client_url.clone()).collect()
    }

    /// Data nodes, but for those that name another cluster than `own`: names and stores.
    pub fn stores(&self, own: Option<&str>) -> impl Iterator<Item = (&NodeId, &str)> {
        let fits = move |seen: &&DataSeen| {
            let named = seen.cluster_id.as_deref();
            named.is_none() || own.is_none() || named == own
        };
        self.data.iter().filter(fits).map(|seen| (&seen.node, seen.store_id.as_str()))
    }
}

/// `host:port` of a base URL without TLS, or of what is that already.
pub fn host_port_of(url: &str) -> Option<&str> {
    let bare = url.trim_end_matches('/');
    let bare = bare.strip_prefix("http://").unwrap_or(bare);
    check_host_port(bare).is_ok().then_some(bare)
}
