//! The command line, as API.md fixes it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use ruvector_cluster_client::ids::{NodeId, Thousandths};

/// A data node whose shards are ruvector-core databases.
#[derive(Clone, Debug, Parser)]
#[command(name = "vector-node", version)]
pub struct Options {
    /// Its name: 1 to 64 of A-Z a-z 0-9 . _ -
    #[arg(long)]
    pub node_id: NodeId,
    /// Where it answers clients and other data nodes. Without TLS: keep it on a trusted network.
    #[arg(long, default_value = "127.0.0.1:7100")]
    pub listen: SocketAddr,
    /// The host:port told to others; required where `listen` is unspecified (0.0.0.0).
    #[arg(long)]
    pub advertise: Option<String>,
    /// Control nodes, host:port, separated by commas. With gossip, one address of any node of the cluster is enough.
    #[arg(long, value_delimiter = ',', required = true)]
    pub coordinators: Vec<String>,
    /// Where its shards are kept; its own.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Components of each vector; the same on all data nodes.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub dimensions: u32,
    /// Failure domain above racks.
    #[arg(long)]
    pub zone: Option<String>,
    /// Failure domain above nodes.
    #[arg(long)]
    pub rack: Option<String>,
    /// Share of copies relative to other nodes.
    #[arg(long, value_parser = Thousandths::parse)]
    pub capacity: Option<Thousandths>,
    /// Whether it gossips, at the UDP port of `listen`: to find control nodes from any node's address, and to be heard of where
    /// the leader does not hear it.
    #[arg(long, value_enum, default_value_t = Gossip::On)]
    pub gossip: Gossip,
}

/// Whether a node gossips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Gossip {
    /// It does.
    On,
    /// It does not.
    Off,
}

impl Options {
    /// The address told to others.
    ///
    /// # Errors
    /// A sentence when it isn't known.
    pub fn advertised(&self) -> Result<String, String> {
        match &self.advertise {
            Some(addr) => Ok(addr.clone()),
            None if self.listen.ip().is_unspecified() => {
                Err(format!("--listen {} says no address for others: give --advertise", self.listen))
            }
            None => Ok(self.listen.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_command_line_is_understood() {
        let line = "vector-node --node-id d1 --listen 127.0.0.1:7101 --coordinators 127.0.0.1:7001,127.0.0.1:7002 \
                    --data-dir DIR --dimensions 64 --zone z1 --rack r1 --capacity 1.5";
        let options = Options::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!(options.coordinators.len(), 2);
        assert_eq!(options.capacity, Some(Thousandths(1_500)));
        assert_eq!(options.advertised().unwrap(), "127.0.0.1:7101");
        assert_eq!(options.gossip, Gossip::On);
        let quiet = format!("{line} --gossip off");
        assert_eq!(Options::try_parse_from(quiet.split_whitespace()).unwrap().gossip, Gossip::Off);
    }

    #[test]
    fn an_unspecified_address_needs_one_to_tell_others() {
        let line =
            "vector-node --node-id d1 --listen 0.0.0.0:1 --coordinators a:1 --data-dir D --dimensions 4";
        let options = Options::try_parse_from(line.split_whitespace()).unwrap();
        assert!(options.advertised().unwrap_err().contains("--advertise"));
    }
}
