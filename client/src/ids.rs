//! The identifiers and exact decimals that every layer shares.
//!
//! A type here is a newtype with one meaning; what is illegal can't be built, so that a value which arrived
//! over the wire or from disk is checked exactly once, where it is parsed.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest id of a node, in bytes (API.md, "Conventions").
pub const MAX_NODE_ID_BYTES: usize = 64;

/// Name of a data node or control node: 1 to 64 of `A-Z a-z 0-9 . _ -`. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

/// Why a string is no [`NodeId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node id has 1 to 64 characters of A-Z a-z 0-9 . _ - and {0:?} is none")]
pub struct InvalidNodeId(String);

impl NodeId {
    /// Checks `id` against the alphabet and the length.
    ///
    /// # Errors
    /// [`InvalidNodeId`] when it is empty, longer than [`MAX_NODE_ID_BYTES`], or has another character.
    pub fn new(id: &str) -> Result<Self, InvalidNodeId> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if id.is_empty() || id.len() > MAX_NODE_ID_BYTES || !id.bytes().all(legal) {
            return Err(InvalidNodeId(id.chars().take(80).collect()));
        }
        Ok(Self(id.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidNodeId;
    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::new(&id)
    }
}

impl std::str::FromStr for NodeId {
    type Err = InvalidNodeId;
    fn from_str(id: &str) -> Result<Self, Self::Err> {
        Self::new(id)
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks `host:port`: a name, an IPv4 or a bracketed IPv6 address, and a port that is not 0.
///
/// # Errors
/// A sentence saying what was expected.
pub fn check_host_port(text: &str) -> Result<(), String> {
    let refuse = || format!("{text:?} is not HOST:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_ok = match bracketed {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && host.chars().all(legal),
    };
    let port_ok = port.parse::<u16>().is_ok_and(|p| p > 0);
    if host_ok && port_ok { Ok(()) } else { Err(refuse()) }
}

/// A shard: an integer from 0 to `num_shards - 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u32);

/// A migration, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MigrationId(pub u64);

/// Epoch of a shard: raised with every change of its primary and every restart of the primary's process. From 1; 0 is "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Raft log index of the change that made a value; of the whole map: of the last change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// One run of a data node's process: raised with each registration, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Place of a write in its shard: the epoch it was written under and its gapless number in the shard
/// (`n` goes on counting across epochs). Ordered by epoch, then number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The epoch of the primary that accepted the write.
    pub epoch: Epoch,
    /// 0 for "no write yet".
    pub n: u64,
}

/// As a database may keep it: epoch and number.
impl From<Position> for (u64, u64) {
    fn from(position: Position) -> Self {
        (position.epoch.0, position.n)
    }
}

impl From<(u64, u64)> for Position {
    fn from((epoch, n): (u64, u64)) -> Self {
        Self { epoch: Epoch(epoch), n }
    }
}

macro_rules! display_number {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
    )*};
}
display_number!(ShardId, MigrationId, Epoch, Revision, Incarnation);

/// A decimal with at most three places, kept as whole thousandths, since replicated state holds no floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thousandths(pub u64);

impl Thousandths {
    /// The decimal 1.
    pub const ONE: Self = Self(1_000);

    /// Parses the plain or exponent form of a JSON number.
    ///
    /// # Errors
    /// A sentence when it is negative, has more than three places, or is 10^12 or more.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text} is not a decimal from 0 to below 10^12 with at most three places");
        let value: f64 = text.parse().map_err(|_| refuse())?;
        if !(0.0..1e12).contains(&value) {
            return Err(refuse());
        }
        // Below 10^15 thousandths an f64 holds every integer exactly, so rounding decides between neighbours only.
        let thousandths = (value * 1_000.0).round();
        if (value - thousandths / 1_000.0).abs() > 1e-9 * value.max(1e-3) {
            return Err(refuse());
        }
        Ok(Self(thousandths as u64))
    }
}

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000, self.0 % 1_000)
    }
}

impl Serialize for Thousandths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The division of two exact integers rounds to the nearest f64, which prints as the same three places.
        serializer.serialize_f64(self.0 as f64 / 1_000.0)
    }
}

impl<'de> Deserialize<'de> for Thousandths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        Self::parse(&number.to_string()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_outside_the_alphabet_are_refused() {
        for bad in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(NodeId::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(NodeId::new("n-1_a.B").unwrap().as_str(), "n-1_a.B");
    }

    #[test]
    fn thousandths_round_trip_and_refuse_a_fourth_place() {
        for (text, thousandths) in [("1", 1_000), ("0.001", 1), ("2.5", 2_500), ("123456.789", 123_456_789)] {
            let parsed: Thousandths = serde_json::from_str(text).unwrap();
            assert_eq!(parsed, Thousandths(thousandths));
            let again: Thousandths = serde_json::from_str(&serde_json::to_string(&parsed).unwrap()).unwrap();
            assert_eq!(again, parsed);
        }
        for bad in ["-1", "0.0001", "1e13", "1.2345"] {
            assert!(serde_json::from_str::<Thousandths>(bad).is_err(), "{bad}");
        }
    }
}
