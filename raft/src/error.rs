//! What can go wrong, one enum for each operation.

use crate::member::MemberInfo;

/// Why a proposal has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead, or not under the leadership named. Nothing was appended.
    #[error("this control node does not lead")]
    NotLeader {
        /// Who does, when known.
        leader: Option<MemberInfo>,
    },
    /// It was appended, and it is not known whether it commits. Never to be told as failed.
    #[error("the outcome is unknown: the proposal may still commit")]
    Unknown,
    /// The log's disk is full; nothing was appended.
    #[error("the disk of the log is full")]
    DiskFull,
    /// Too many proposals are in flight; nothing was appended.
    #[error("too many proposals are in flight")]
    Overloaded,
    /// The command is larger than an entry may be; nothing was appended.
    #[error("a command has at most {limit} bytes, this one {len}")]
    TooLarge {
        /// Bytes of the command.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// This node is stopping; nothing was appended.
    #[error("this control node is stopping")]
    Stopped,
}

/// Why a linearizable read could not be placed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No leader is known or it cannot be reached.
    #[error("no leader is known")]
    NoLeader,
    /// A leader was asked, and no quorum confirmed it, or this node did not catch up, in time.
    #[error("no quorum confirmed the read in time")]
    Timeout,
    /// This node is stopping.
    #[error("this control node is stopping")]
    Stopped,
    /// The cluster removed this node.
    #[error("{REMOVED}")]
    Removed,
}

/// What is said of a node that its cluster has removed.
pub const REMOVED: &str = "this control node was removed from the cluster, and no longer takes part: ask another one; stop it, and \
                           empty its directory if it is to join again";

/// Why another control node gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No member has that Raft id.
    #[error("no member has the raft id {raft_id}")]
    UnknownMember {
        /// The id asked for.
        raft_id: u64,
    },
    /// It certainly did not get the message.
    #[error("the control node cannot be reached")]
    Unreachable(#[source] crate::transport::TransportError),
    /// It may have got the message and acted on it.
    #[error("the control node did not answer")]
    NoAnswer(#[source] crate::transport::TransportError),
}

/// Why a control node that was asked who it is did not say so.
#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    /// There was no answer, or a refusal.
    #[error("no answer")]
    NoAnswer(#[source] crate::transport::TransportError),
    /// Something else than a control node answers there, or a version that is not understood.
    #[error("what answers there is no control node of this kind")]
    Foreign(#[source] serde_json::Error),
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that makes no sense.
    #[error("{key}: {why}")]
    Config {
        /// The field of `NodeConfig`.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The peer listener cannot be opened.
    #[error("cannot listen for control nodes on {addr}")]
    Listen {
        /// The address.
        addr: std::net::SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// What is on disk is not enough to go on, or contradicts itself.
    #[error("the data directory cannot be used: {why}")]
    State {
        /// What, and what to do.
        why: String,
    },
    /// The stored rows are not understood.
    #[error("the stored state is not understood")]
    Restore(#[from] crate::machine::RestoreError),
    /// A file operation failed.
    #[error("cannot {what}")]
    Storage {
        /// The operation.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why the membership was not changed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes the membership.
    #[error("this control node does not lead")]
    NotLeader {
        /// Who does, when known.
        leader: Option<MemberInfo>,
    },
    /// Another change is not yet committed; repeat it later.
    #[error("another membership change is in progress")]
    InProgress,
    /// Another data directory has that name.
    #[error(
        "the name {name} is taken by the control node with raft id {raft_id}: remove that one first (DELETE /v1/members/{name}) or \
         add this one with \"replaces\""
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        raft_id: u64,
    },
    /// Another member is reached there.
    #[error(
        "`{field}` {url} is that of the control node {name}: give this one its own, or remove {name} first (DELETE \
         /v1/members/{name}), or add this one with \"replaces\""
    )]
    AddressTaken {
        /// `client_url` or `peer_url`.
        field: &'static str,
        /// The address.
        url: String,
        /// Who has it.
        name: String,
    },
    /// No such member.
    #[error("no member is named {name}")]
    UnknownMember {
        /// The name or the Raft id.
        name: String,
    },
    /// The members that would remain, and can be reached, are no quorum.
    #[error("the remaining voters that can be reached are no quorum: {why}")]
    QuorumLost {
        /// Who is missing.
        why: String,
    },
    /// It was proposed, and it is not known whether it commits.
    #[error("the outcome is unknown: the change may still commit")]
    Unknown,
    /// The target of a transfer cannot lead, or there is none. Nothing was done.
    #[error("leadership was not transferred: {why}")]
    NotTransferred {
        /// Why.
        why: String,
    },
}

/// Why a node must stop. The process exits, and a supervisor starts it again where that helps.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FatalError {
    /// The consensus core stopped: a failed fsync, damage, or a bug.
    #[error("the consensus core stopped: {0}")]
    Core(String),
    /// The cluster refuses this node; an operator must act.
    #[error("the cluster refuses this control node: {0}")]
    Refused(String),
    /// Storing the state failed.
    #[error("the state cannot be stored: {0}")]
    Storage(String),
}
