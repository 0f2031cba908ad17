//! What nodes say to each other before they are one cluster, and to join one.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::member::MemberInfo;
use crate::types::Peer;

/// Opaque bytes, as base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opaque(pub(crate) Bytes);

impl Serialize for Opaque {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Opaque {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(|bytes| Self(bytes.into())).map_err(serde::de::Error::custom)
    }
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) member: MemberInfo,
    /// The cluster that its directory is bound to.
    pub(crate) cluster_id: Option<String>,
    /// How many founders it was told to expect.
    pub(crate) bootstrap_expect: Option<usize>,
    /// What founders must agree on.
    pub(crate) settings: Opaque,
    /// The disk of its log is full: it should not be handed the lead. Older versions don't say.
    #[serde(default)]
    pub(crate) disk_full: bool,
    /// The newest commands that it understands. Older builds don't say, and understand the first.
    #[serde(default = "first_command_version")]
    pub(crate) command_version: u32,
    /// Whether whoever asks is a member of its cluster; absent where it is not sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) knows_you: Option<bool>,
}

fn first_command_version() -> u32 {
    1
}

/// A first membership, to promise oneself to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    pub(crate) cluster_id: String,
    pub(crate) proposer: u64,
    pub(crate) members: BTreeMap<u64, Peer>,
    pub(crate) settings: Opaque,
}

/// A node that is promised to a proposal asks its proposer whether it still is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleaseRequest {
    pub(crate) cluster_id: String,
    /// A proposer that asked in vain.
    pub(crate) rival: Option<u64>,
    /// It found a running cluster that it would rather join.
    pub(crate) joining: bool,
}

/// The proposer's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleaseAnswer {
    /// It will never start that proposal.
    pub(crate) released: bool,
}

/// A node asks to be a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) member: MemberInfo,
}

/// What a node that was asked says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum JoinAnswer {
    /// It is a member.
    Joined { cluster_id: String },
    /// Ask this one, where a leader is known.
    Elsewhere { leader: Option<MemberInfo> },
    /// It cannot, until an operator acts.
    Refused { why: String },
    /// Not now.
    Later { why: String },
}
