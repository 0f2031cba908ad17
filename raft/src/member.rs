//! Who takes part: control nodes as Raft knows them, and who leads.

use serde::{Deserialize, Serialize};

/// A control node's standing in the Raft cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// Votes and counts for the quorum.
    Voter,
    /// Only follows.
    Learner,
}

/// How to reach a control node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its name, chosen by the operator.
    pub name: String,
    /// The random id of its data directory (53 bits); a name may come back with another one, an id never returns.
    pub raft_id: u64,
    /// The base URL of its client API, such as `http://127.0.0.1:7001`.
    pub client_url: String,
    /// The base URL of its peer listener.
    pub peer_url: String,
}

/// What a control node says of itself when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Who it is.
    pub member: MemberInfo,
    /// The cluster that its data directory belongs to, if any.
    pub cluster_id: Option<String>,
}

/// A control node and how it is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub info: MemberInfo,
    /// Its standing.
    pub role: MemberRole,
    /// It stays a learner although there is room for voters.
    pub learner_only: bool,
    /// The member that goes when this one is promoted.
    pub replaces: Option<u64>,
    /// The last log index known to be on its disk; only the leader knows.
    pub matched: Option<u64>,
    /// Milliseconds since it last answered the leader; only the leader knows, None where it never did.
    pub last_contact_ms: Option<u64>,
}

/// The right to lead, of one term. Fences what is proposed under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Leadership {
    /// The term won.
    pub term: u64,
}

/// Who leads, as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeadershipState {
    /// The highest term seen.
    pub term: u64,
    /// The leader of that term, once known.
    pub leader: Option<MemberInfo>,
    /// Set while this node leads, from when it has applied and published the no-op of its term (so that it holds all that
    /// was ever acknowledged) until it learns of another vote. It may be outdated by what a partition hides: decisions go
    /// through a fenced proposal or a read-index round.
    pub mine: Option<Leadership>,
}
