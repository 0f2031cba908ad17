//! Which datagrams are let through to chitchat.
//!
//! chitchat trusts what it reads: some well-formed packets make it panic (a control node's process would end by one), and it
//! remembers every member that it is told of. So each datagram is read here first, by the same format (chitchat 0.13, protocol
//! version 1), and refused unless it is one that members of ours send: names and values of bounded length, versions that ascend
//! and stay far from an overflow, nothing deleted or reset (nobody here ever does), nothing about the reader that only the reader
//! may say, and no more members in all than [`MAX_MEMBERS`]. So what is remembered is bounded: a member has as many values as
//! versions at most.
//!
//! Pure but for the decompression. Caveat: this says that a packet does no harm to the process, not that it is true.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Members that are remembered, the dead ones of the last minutes included. A table of so many still fits into a datagram
/// (see the test), which chitchat sends whole.
pub(super) const MAX_MEMBERS: usize = 2_048;
/// What one datagram may unpack to, in bytes: twice what [`MAX_MEMBERS`] of the longest names take.
const MAX_UNPACKED_BYTES: usize = 512 << 10;
/// Longest name of a member, in bytes: its kind, and a node id of at most 64.
const MAX_NAME_BYTES: usize = 80;
/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 32;
/// Longest value, in bytes: a URL with a host name of 253.
pub(super) const MAX_VALUE_BYTES: usize = 300;
/// A counter that is higher is no counter: heartbeats rise some hundred times a second at most.
const MAX_COUNT: u64 = 1 << 50;
/// So often a member sets a value: its five or so once, and its cluster's id when that becomes known.
pub(super) const MAX_VERSION: u64 = 32;
/// A member's count of its own heartbeats is read now and then; it rises by no more until the next time.
const MAX_AHEAD: u64 = 1_000_000;

/// What makes packets ours. Nodes that meet first don't know their cluster's id yet, so that is told as a value.
pub(super) const PROTOCOL: &str = "ruvector-cluster/1";

const MAGIC: u16 = 45_139;
const VERSION: u8 = 1;

/// A member's identity: name, generation, address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberId {
    pub(super) name: String,
    pub(super) generation: u64,
    pub(super) addr: SocketAddr,
}

/// Why a datagram is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not what members of ours send.
    Foreign,
    /// It says something about the reader that only the reader may, or that is ahead of it.
    AboutSelf,
    /// It names members beyond [`MAX_MEMBERS`].
    TooMany,
}

/// Who reads.
#[derive(Clone, Debug)]
pub(super) struct Own {
    /// Its identity.
    pub(super) id: MemberId,
    /// What it counted of its own heartbeats when that was read last.
    pub(super) heartbeat: u64,
}

/// Reads a datagram; the members that it names, unless it is refused. `known`: who is remembered already.
pub(super) fn admit(
    bytes: &[u8],
    own: &Own,
    known: &BTreeSet<MemberId>,
) -> Result<BTreeSet<MemberId>, Refusal> {
    let (named, told) = read(bytes).ok_or(Refusal::Foreign)?;
    let heartbeat = named.get(&own.id).copied().unwrap_or(0);
    if told.contains(&own.id) || heartbeat > own.heartbeat.saturating_add(MAX_AHEAD) {
        return Err(Refusal::AboutSelf);
    }
    let fresh = named.keys().filter(|id| !known.contains(id)).count();
    if known.len().saturating_add(fresh) > MAX_MEMBERS && fresh > 0 {
        return Err(Refusal::TooMany);
    }
    Ok(named.into_keys().collect())
}

/// Members that a message names, with their heartbeats, and those of whom it tells values.
type Message = (BTreeMap<MemberId, u64>, BTreeSet<MemberId>);

fn read(bytes: &[u8]) -> Option<Message> {
    let mut rest = Reader(bytes);
    if rest.u16()? != MAGIC || rest.u8()? != VERSION {
        return None;
    }
    let (mut named, mut told) = (BTreeMap::new(), BTreeSet::new());
    match rest.u8()? {
        0 => {
            named = digest(&rest.unpack()?)?;
            if rest.text(MAX_NAME_BYTES)? != PROTOCOL {
                return None;
            }
        }
        1 => {
            named = digest(&rest.unpack()?)?;
            told = delta(&rest.unpack()?)?;
        }
        2 => told = delta(&rest.unpack()?)?,
        3 => {}
        _ => return None,
    }
    rest.0.is_empty().then_some((named, told))
}

/// Who is there, and how far each is.
fn digest(bytes: &[u8]) -> Option<BTreeMap<MemberId, u64>> {
    let (mut rest, mut members) = (Reader(bytes), BTreeMap::new());
    while !rest.0.is_empty() {
        let member = rest.member()?;
        let (heartbeat, forgotten, version) = (rest.u64()?, rest.u64()?, rest.u64()?);
        if heartbeat > MAX_COUNT || forgotten != 0 || version > MAX_VERSION || members.len() >= MAX_MEMBERS {
            return None;
        }
        members.insert(member, heartbeat);
    }
    Some(members)
}

/// Members, and behind each some of its values.
fn delta(bytes: &[u8]) -> Option<BTreeSet<MemberId>> {
    let (mut rest, mut members) = (Reader(bytes), BTreeSet::new());
    let mut last_version = None;
    while !rest.0.is_empty() {
        match rest.u8()? {
            0 => {
                let is_new = members.insert(rest.member()?);
                let (forgotten, from) = (rest.u64()?, rest.u64()?);
                if !is_new || forgotten != 0 || from > MAX_VERSION || members.len() > MAX_MEMBERS {
                    return None;
                }
                last_version = Some(0);
            }
            1 => {
                let key = rest.text(MAX_KEY_BYTES)?;
                rest.text(MAX_VALUE_BYTES)?;
                let (version, status) = (rest.u64()?, rest.u8()?);
                let is_next = last_version.is_some_and(|last| version > last);
                if !is_next || version > MAX_VERSION || status != 0 || key.is_empty() {
                    return None;
                }
                last_version = Some(version);
            }
            _ => return None,
        }
    }
    Some(members)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Printable ASCII: chitchat cuts keys by bytes.
    fn text(&mut self, max_bytes: usize) -> Option<&'a str> {
        let length = usize::from(self.u16()?);
        let text = self.take(length).filter(|_| length <= max_bytes)?;
        let is_plain = text.iter().all(u8::is_ascii_graphic);
        is_plain.then(|| std::str::from_utf8(text).ok()).flatten()
    }

    fn member(&mut self) -> Option<MemberId> {
        let name = self.text(MAX_NAME_BYTES)?.to_owned();
        let generation = self.u64()?;
        let ip = match self.u8()? {
            4 => IpAddr::from(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::from(Ipv6Addr::from(self.array::<16>()?)),
            _ => return None,
        };
        let addr = SocketAddr::new(ip, self.u16()?);
        Some(MemberId { name, generation, addr })
    }

    /// Blocks, compressed or not, up to the one that ends them.
    fn unpack(&mut self) -> Option<Vec<u8>> {
        let mut unpacked = Vec::new();
        loop {
            let kind = self.u8()?;
            if kind == 0 {
                return Some(unpacked);
            }
            let length = usize::from(self.u16()?);
            let block = self.take(length)?;
            match kind {
                1 => unpacked.extend(zstd::bulk::decompress(block, usize::from(u16::MAX)).ok()?),
                2 => unpacked.extend_from_slice(block),
                _ => return None,
            }
            if unpacked.len() > MAX_UNPACKED_BYTES {
                return None;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
