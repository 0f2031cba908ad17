//! The table of options: the one place that names them. Flags, environment, file, help text and errors follow from it.

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// As a flag without its dashes; `_` for `-` in the file, and upper case after `RUVECTOR_CLUSTER_` in the environment.
    pub key: &'static str,
    /// What stands for its value in the help; None for a switch.
    pub value: Option<&'static str>,
    /// As shown in the help; None where there is none.
    pub default: Option<&'static str>,
    /// One sentence.
    pub help: &'static str,
}

const fn option(
    key: &'static str,
    value: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> OptionSpec {
    OptionSpec { key, value: Some(value), default, help }
}

/// All options, in the order of the help.
pub const OPTIONS: &[OptionSpec] = &[
    option("node-id", "ID", None, "This control node's name: 1 to 64 of A-Z a-z 0-9 . _ -"),
    option("data-dir", "DIR", None, "Where this control node keeps its log and state; made when missing"),
    option("listen", "IP:PORT", Some("127.0.0.1:7000"), "Client API, metrics, dashboard"),
    option(
        "peer-listen",
        "IP:PORT",
        None,
        "Raft and control-node traffic only [default: listen's port + 1000]",
    ),
    option("advertise", "HOST:PORT", None, "Client address told to others [default: listen]"),
    option("peer-advertise", "HOST:PORT", None, "Peer address told to others [default: peer-listen]"),
    option(
        "seeds",
        "HOST:PORT,...",
        None,
        "`listen` addresses of control nodes, this one included or not [default: a cluster of one]",
    ),
    option(
        "bootstrap-expect",
        "N",
        None,
        "How many control nodes form the first cluster [default: distinct seeds, itself included]",
    ),
    option(
        "gossip",
        "on|off",
        Some("on"),
        "Gossip on the peer listener's port, UDP: finds nodes from any one address, hears of nodes that the leader can't hear",
    ),
    option("num-shards", "N", Some("64"), "Shards, 1 to 1048576; fixed at bootstrap"),
    option("replication-factor", "N", Some("3"), "Copies wanted of each shard, 1 to 7; fixed at bootstrap"),
    option(
        "failure-timeout",
        "DURATION",
        Some("5s"),
        "A data node unheard for so long is down; fixed at bootstrap",
    ),
    option(
        "heartbeat-interval",
        "DURATION",
        Some("1s"),
        "How often data nodes send heartbeats; fixed at bootstrap",
    ),
    option("max-voters", "N", Some("5"), "Control nodes beyond these stay learners"),
    option(
        "election-timeout",
        "DURATION",
        Some("150ms"),
        "A leader unheard for so long is replaced; at least three raft heartbeats",
    ),
    option("raft-heartbeat", "DURATION", Some("30ms"), "How often the leading control node is heard"),
    OptionSpec {
        key: "insecure-listen",
        value: None,
        default: None,
        help: "Lets a listener that is not loopback run without TLS and authentication",
    },
    option(
        "log",
        "FILTER",
        Some("info,openraft=warn,sled=warn,chitchat=warn"),
        "What is logged to stderr, such as `info` or `ruvector_cluster=debug,warn`",
    ),
    option("log-format", "FORMAT", Some("text"), "`text` or `json`"),
];

/// What the environment's names begin with.
pub const ENV_PREFIX: &str = "RUVECTOR_CLUSTER_";

impl OptionSpec {
    /// The option's name in the environment.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.key.replace('-', "_").to_ascii_uppercase())
    }

    /// The option's name in the TOML file.
    pub fn file_key(&self) -> String {
        self.key.replace('-', "_")
    }
}
