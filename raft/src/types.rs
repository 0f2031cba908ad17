//! The types that openraft is built from here.
//!
//! The leader id is the standard one: openraft's default allows two leaders in one term, and a term must be enough to fence
//! by. Commands are opaque bytes with the leader's stamp. What is stored or sent of these goes through [`crate::codec`];
//! the serde implementations on commands exist because openraft requires them, and are never used for traffic.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::member::MemberInfo;
use crate::runtime::Runtime;

openraft::declare_raft_types!(
    /// openraft's parameters.
    pub(crate) TypeConfig:
        D = Command,
        R = Outcome,
        Node = Peer,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Runtime,
);

pub(crate) type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
pub(crate) type CommittedLeaderId = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = openraft::EntryPayload<Command, u64, Peer>;
pub(crate) type Entry = openraft::Entry<CommittedLeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Peer>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, Peer>;

/// What the log holds: a command and the leader's wall clock when it was proposed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command {
    /// Milliseconds since 1970 in UTC, as the leader believed.
    pub stamp_ms: u64,
    /// Opaque.
    #[serde(with = "base64_bytes")]
    pub body: Bytes,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.body.len(), self.stamp_ms)
    }
}

/// What the proposer gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Log time of the entry.
    pub time_ms: u64,
    /// Opaque.
    #[serde(with = "base64_bytes")]
    pub body: Bytes,
}

/// A control node as the membership entry describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// Its name.
    pub name: String,
    /// The base URL of its client API.
    pub client_url: String,
    /// The base URL of its peer listener.
    pub peer_url: String,
    /// Never promoted.
    #[serde(default)]
    pub learner_only: bool,
    /// Whose voter's seat it takes when it is promoted.
    #[serde(default)]
    pub replaces: Option<u64>,
}

impl Peer {
    pub(crate) fn new(info: MemberInfo) -> Self {
        Self {
            name: info.name,
            client_url: info.client_url,
            peer_url: info.peer_url,
            learner_only: false,
            replaces: None,
        }
    }

    pub(crate) fn info(&self, raft_id: u64) -> MemberInfo {
        MemberInfo {
            name: self.name.clone(),
            raft_id,
            client_url: self.client_url.clone(),
            peer_url: self.peer_url.clone(),
        }
    }
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}
