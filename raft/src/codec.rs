//! How this crate writes what it stores and sends.
//!
//! Everything begins with a one-byte format tag. Small things are JSON behind it, so that fields can be added. Log entries
//! are framed by hand, so that commands stay raw bytes: tag, kind, term, index, and, for a command, its stamp; then the
//! payload. An append request is its JSON head and its entries, each behind its length.
//!
//! Integers are little-endian. Golden bytes of each format stand in the tests below.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::AppendEntriesRequest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{Command, Entry, LogId, Membership, Payload, TypeConfig, Vote};

const TAG: u8 = 1;
const KIND_BLANK: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;
/// Tag, kind, term, index.
const ENTRY_HEAD_BYTES: usize = 18;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by a newer version, or not by this program.
    #[error("unknown format {tag} of {what}")]
    Format {
        /// Of what.
        what: &'static str,
        /// The tag found.
        tag: u8,
    },
    /// It ends too early or its parts contradict each other.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// Of what.
        what: &'static str,
        /// How.
        why: String,
    },
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

fn malformed(what: &'static str, why: impl ToString) -> CodecError {
    CodecError::Malformed { what, why: why.to_string() }
}

/// JSON behind a tag.
pub(crate) fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Bytes, CodecError> {
    let mut out = vec![TAG];
    serde_json::to_writer(&mut out, value).map_err(|error| malformed(what, error))?;
    Ok(out.into())
}

/// The reverse of [`encode`].
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        Some((&TAG, json)) => serde_json::from_slice(json).map_err(|error| malformed(what, error)),
        Some((&tag, _)) => Err(CodecError::Format { what, tag }),
        None => Err(malformed(what, "empty")),
    }
}

/// One log entry.
pub(crate) fn encode_entry(entry: &Entry) -> Result<Bytes, CodecError> {
    let mut out = BytesMut::with_capacity(ENTRY_HEAD_BYTES + 8 + payload_hint(&entry.payload));
    out.put_u8(TAG);
    let kind = match &entry.payload {
        Payload::Blank => KIND_BLANK,
        Payload::Normal(_) => KIND_COMMAND,
        Payload::Membership(_) => KIND_MEMBERSHIP,
    };
    out.put_u8(kind);
    out.put_u64_le(entry.log_id.committed_leader_id().term);
    out.put_u64_le(entry.log_id.index());
    match &entry.payload {
        Payload::Blank => {}
        Payload::Normal(command) => {
            out.put_u64_le(command.stamp_ms);
            out.put_slice(&command.body);
        }
        Payload::Membership(membership) => {
            let json = serde_json::to_vec(membership).map_err(|error| malformed("log entry", error))?;
            out.put_slice(&json);
        }
    }
    Ok(out.freeze())
}

fn payload_hint(payload: &Payload) -> usize {
    match payload {
        Payload::Blank => 0,
        Payload::Normal(command) => command.body.len(),
        Payload::Membership(_) => 512,
    }
}

/// The id alone of an encoded entry.
pub(crate) fn decode_entry_id(bytes: &[u8]) -> Result<LogId, CodecError> {
    let mut head = bytes;
    if head.len() < ENTRY_HEAD_BYTES {
        return Err(malformed("log entry", "shorter than its head"));
    }
    let tag = head.get_u8();
    if tag != TAG {
        return Err(CodecError::Format { what: "log entry", tag });
    }
    head.advance(1);
    let term = head.get_u64_le();
    Ok(LogId::new(term.into(), head.get_u64_le()))
}

/// The reverse of [`encode_entry`]; a command's body shares the bytes given.
pub(crate) fn decode_entry(mut bytes: Bytes) -> Result<Entry, CodecError> {
    let log_id = decode_entry_id(&bytes)?;
    let kind = bytes[1];
    bytes.advance(ENTRY_HEAD_BYTES);
    let payload = match kind {
        KIND_BLANK => Payload::Blank,
        KIND_COMMAND => {
            if bytes.len() < 8 {
                return Err(malformed("log entry", "a command without its stamp"));
            }
            let stamp_ms = bytes.get_u64_le();
            Payload::Normal(Command { stamp_ms, body: bytes })
        }
        KIND_MEMBERSHIP => {
            let membership: Membership =
                serde_json::from_slice(&bytes).map_err(|error| malformed("log entry", error))?;
            Payload::Membership(membership)
        }
        other => return Err(malformed("log entry", format_args!("unknown kind {other}"))),
    };
    Ok(Entry { log_id, payload })
}

#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    prev: Option<LogId>,
    commit: Option<LogId>,
    entries: u32,
}

/// A leader's append request.
pub(crate) fn encode_append(request: &AppendEntriesRequest<TypeConfig>) -> Result<Bytes, CodecError> {
    const WHAT: &str = "append request";
    let head = AppendHead {
        vote: request.vote,
        prev: request.prev_log_id,
        commit: request.leader_commit,
        entries: u32::try_from(request.entries.len()).map_err(|error| malformed(WHAT, error))?,
    };
    let head = serde_json::to_vec(&head).map_err(|error| malformed(WHAT, error))?;
    let entries = request.entries.iter().map(encode_entry).collect::<Result<Vec<_>, _>>()?;
    let total = 5 + head.len() + entries.iter().map(|entry| 4 + entry.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(total);
    out.put_u8(TAG);
    put_part(&mut out, &head, WHAT)?;
    for entry in &entries {
        put_part(&mut out, entry, WHAT)?;
    }
    Ok(out.freeze())
}

/// The reverse of [`encode_append`].
pub(crate) fn decode_append(mut bytes: Bytes) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    const WHAT: &str = "append request";
    match bytes.first() {
        Some(&TAG) => bytes.advance(1),
        Some(&tag) => return Err(CodecError::Format { what: WHAT, tag }),
        None => return Err(malformed(WHAT, "empty")),
    }
    let head: AppendHead =
        serde_json::from_slice(&take_part(&mut bytes, WHAT)?).map_err(|error| malformed(WHAT, error))?;
    let mut entries = Vec::with_capacity(head.entries.min(4_096) as usize);
    for _ in 0..head.entries {
        entries.push(decode_entry(take_part(&mut bytes, WHAT)?)?);
    }
    if !bytes.is_empty() {
        return Err(malformed(WHAT, "more bytes than entries"));
    }
    Ok(AppendEntriesRequest { vote: head.vote, prev_log_id: head.prev, entries, leader_commit: head.commit })
}

/// Appends a part behind its length.
pub(crate) fn put_part(out: &mut BytesMut, part: &[u8], what: &'static str) -> Result<(), CodecError> {
    out.put_u32_le(u32::try_from(part.len()).map_err(|error| malformed(what, error))?);
    out.put_slice(part);
    Ok(())
}

/// Takes a part off the front.
pub(crate) fn take_part(bytes: &mut Bytes, what: &'static str) -> Result<Bytes, CodecError> {
    if bytes.len() < 4 {
        return Err(malformed(what, "ends inside a length"));
    }
    let len = bytes.get_u32_le() as usize;
    if bytes.len() < len {
        return Err(malformed(what, "ends inside a part"));
    }
    Ok(bytes.split_to(len))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::types::Peer;

    fn entries() -> Vec<Entry> {
        let id = |index| LogId::new(3.into(), index);
        let command = Command { stamp_ms: 0x0102, body: Bytes::from_static(b"x\x00y") };
        let peer = Peer {
            name: "n1".into(),
            client_url: "http://c".into(),
            peer_url: "http://p".into(),
            ..Peer::default()
        };
        let membership = Membership::new(vec![BTreeSet::from([9])], BTreeMap::from([(9, peer)]))
            .expect("it has a node for each voter");
        vec![
            Entry { log_id: id(7), payload: Payload::Blank },
            Entry { log_id: id(8), payload: Payload::Normal(command) },
            Entry { log_id: id(9), payload: Payload::Membership(membership) },
        ]
    }

    #[test]
    fn entries_keep_their_v1_bytes() {
        let blank = [1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
        let command =
            [&[1, 1, 3, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0][..], b"x\x00y"]
                .concat();
        let membership = [
            &[1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0][..],
            br#"{"configs":[[9]],"nodes":{"9":{"name":"n1","client_url":"http://c","peer_url":"http://p","learner_only":false,"replaces":null}}}"#,
        ]
        .concat();
        for (entry, golden) in entries().iter().zip([&blank[..], &command, &membership]) {
            let bytes = encode_entry(entry).unwrap();
            assert_eq!(bytes, golden, "{}", String::from_utf8_lossy(&bytes));
            assert_eq!(decode_entry_id(golden).unwrap(), entry.log_id);
            assert_eq!(&decode_entry(bytes).unwrap(), entry);
        }
    }

    #[test]
    fn an_append_request_survives_the_wire() {
        let request = AppendEntriesRequest {
            vote: Vote::new_committed(3, 9),
            prev_log_id: Some(LogId::new(3.into(), 6)),
            entries: entries(),
            leader_commit: None,
        };
        let back = decode_append(encode_append(&request).unwrap()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
    }

    #[test]
    fn cut_or_foreign_bytes_are_refused() {
        let request = AppendEntriesRequest {
            vote: Vote::new_committed(3, 9),
            prev_log_id: None,
            entries: entries(),
            leader_commit: None,
        };
        let bytes = encode_append(&request).unwrap();
        for cut in 0..bytes.len() {
            decode_append(bytes.slice(..cut)).unwrap_err();
        }
        assert_eq!(
            decode_entry(Bytes::from_static(&[9; 30])),
            Err(CodecError::Format { what: "log entry", tag: 9 })
        );
        assert!(matches!(decode::<u64>("number", b"\x02{}"), Err(CodecError::Format { tag: 2, .. })));
    }
}
