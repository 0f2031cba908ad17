//! The bytes of a segment, format 1. Integers are little-endian.
//!
//! ```text
//! segment: magic "ruvcwal" | format u8 | salt u64 | number u64 | crc32 of the 24 bytes before | 0 u32
//!          frame*
//! frame:   magic "RVWF" | payload length u32 | sequence u64 | records u32 | crc32 u32 | payload
//! record:  format u8 | kind u8 | 0 u16 | body length u32 | index u64 | crc32 u32 | body
//! ```
//!
//! A frame is one write and one sync, and the next is written only after that sync. So a frame that can't be read is
//! an unfinished write only if no readable frame follows it anywhere; otherwise it had been synced, and is damage. The
//! salt (the directory's Raft id) goes into each frame's checksum: nothing that a record's body holds, nor a segment
//! of another directory, is ever taken for a frame.

use bytes::{BufMut, Bytes, BytesMut};

/// The newest format that this version writes, and the only one that it reads.
pub(crate) const FORMAT: u8 = 1;
/// Length of a segment's head.
pub(crate) const HEAD_BYTES: usize = 32;
/// Length of a frame's head.
pub(crate) const FRAME_BYTES: usize = 24;
/// Length of a record's head.
pub(crate) const RECORD_BYTES: usize = 20;

const HEAD_MAGIC: &[u8; 7] = b"ruvcwal";
const FRAME_MAGIC: &[u8; 4] = b"RVWF";

/// One record of the log. Applied in order, they give the log's extent and contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// What the log held when its segment began.
    State { first: u64, next: u64 },
    /// An entry at the end of the log.
    Entry { index: u64, body: Bytes },
    /// Entries from `next` on are gone.
    Truncate { next: u64 },
    /// Entries up to `upto` are gone.
    Purge { upto: u64, meta: Bytes },
    /// All entries are gone; the next is `upto + 1`.
    Reset { upto: u64, meta: Bytes },
    /// What was last said to be committed.
    Committed { index: u64, meta: Bytes },
}

impl Record {
    fn parts(&self) -> (u8, u64, Bytes) {
        match self {
            Self::State { first, next } => (1, *first, Bytes::copy_from_slice(&next.to_le_bytes())),
            Self::Entry { index, body } => (2, *index, body.clone()),
            Self::Truncate { next } => (3, *next, Bytes::new()),
            Self::Purge { upto, meta } => (4, *upto, meta.clone()),
            Self::Reset { upto, meta } => (5, *upto, meta.clone()),
            Self::Committed { index, meta } => (6, *index, meta.clone()),
        }
    }

    fn from_parts(kind: u8, index: u64, body: Bytes) -> Option<Self> {
        Some(match kind {
            1 => Self::State { first: index, next: u64::from_le_bytes(body.as_ref().try_into().ok()?) },
            2 => Self::Entry { index, body },
            3 => Self::Truncate { next: index },
            4 => Self::Purge { upto: index, meta: body },
            5 => Self::Reset { upto: index, meta: body },
            6 => Self::Committed { index, meta: body },
            _ => return None,
        })
    }

    /// Length of its body in bytes.
    pub(crate) fn body_bytes(&self) -> usize {
        match self {
            Self::State { .. } => 8,
            Self::Truncate { .. } => 0,
            Self::Entry { body, .. } => body.len(),
            Self::Purge { meta, .. } | Self::Reset { meta, .. } | Self::Committed { meta, .. } => meta.len(),
        }
    }
}

/// A segment's head.
pub(crate) fn encode_head(salt: u64, number: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..7].copy_from_slice(HEAD_MAGIC);
    head[7] = FORMAT;
    head[8..16].copy_from_slice(&salt.to_le_bytes());
    head[16..24].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&head[..24]);
    head[24..28].copy_from_slice(&crc.to_le_bytes());
    head
}

/// What a segment's first bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Of this directory, and in its place.
    Ours,
    /// Written by a newer version.
    Newer(u8),
    /// Whole, but of another directory or another place.
    Foreign,
    /// Not a head: never written, torn, or damaged.
    Unreadable,
}

pub(crate) fn decode_head(bytes: &[u8], salt: u64, number: u64) -> Head {
    if bytes.len() < HEAD_BYTES || &bytes[..7] != HEAD_MAGIC {
        return Head::Unreadable;
    }
    if u32_at(bytes, 24) != crc32fast::hash(&bytes[..24]) || u32_at(bytes, 28) != 0 {
        return Head::Unreadable;
    }
    match bytes[7] {
        FORMAT if u64_at(bytes, 8) == salt && u64_at(bytes, 16) == number => Head::Ours,
        FORMAT => Head::Foreign,
        newer => Head::Newer(newer),
    }
}

/// A frame of `records`, and for each the offset of its head in the frame.
pub(crate) fn encode_frame(salt: u64, sequence: u64, records: &[Record]) -> (Bytes, Vec<u32>) {
    let payload: usize = records.iter().map(|r| RECORD_BYTES + r.body_bytes()).sum();
    let mut frame = BytesMut::with_capacity(FRAME_BYTES + payload);
    frame.put_bytes(0, FRAME_BYTES);
    let mut offsets = Vec::with_capacity(records.len());
    for record in records {
        offsets.push(frame.len() as u32);
        let (kind, index, body) = record.parts();
        let start = frame.len();
        frame.put_u8(FORMAT);
        frame.put_u8(kind);
        frame.put_u16_le(0);
        frame.put_u32_le(body.len() as u32);
        frame.put_u64_le(index);
        let crc = record_crc(&frame[start..], &body);
        frame.put_u32_le(crc);
        frame.put_slice(&body);
    }
    frame[..4].copy_from_slice(FRAME_MAGIC);
    frame[4..8].copy_from_slice(&(payload as u32).to_le_bytes());
    frame[8..16].copy_from_slice(&sequence.to_le_bytes());
    frame[16..20].copy_from_slice(&(records.len() as u32).to_le_bytes());
    let crc = frame_crc(salt, &frame);
    frame[20..24].copy_from_slice(&crc.to_le_bytes());
    (frame.freeze(), offsets)
}

fn record_crc(head: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..16]);
    crc.update(body);
    crc.finalize()
}

fn frame_crc(salt: u64, frame: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt.to_le_bytes());
    crc.update(&frame[..20]);
    crc.update(&frame[FRAME_BYTES..]);
    crc.finalize()
}

/// A frame that was read: its sequence number, its length with the head, its records and where each begins in it.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) sequence: u64,
    pub(crate) len: usize,
    pub(crate) records: Vec<(u32, Record)>,
}

/// Why bytes with a good checksum can't be understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// No whole frame with a good checksum begins here.
    NoFrame,
    /// A record of a newer version, at this offset in the frame.
    Newer { offset: usize, format: u8, kind: u8 },
}

/// Sequence number and length of the frame that begins `bytes`, if its checksum is good.
pub(crate) fn check_frame(bytes: &[u8], salt: u64) -> Option<(u64, usize)> {
    if bytes.len() < FRAME_BYTES || &bytes[..4] != FRAME_MAGIC {
        return None;
    }
    let len = FRAME_BYTES.checked_add(u32_at(bytes, 4) as usize)?;
    let frame = bytes.get(..len)?;
    (u32_at(bytes, 20) == frame_crc(salt, frame)).then(|| (u64_at(bytes, 8), len))
}

/// Reads the frame at `offset` of `bytes`; the records' bodies share the buffer.
pub(crate) fn decode_frame(bytes: &Bytes, offset: usize, salt: u64) -> Result<Frame, Unreadable> {
    let rest = bytes.get(offset..).ok_or(Unreadable::NoFrame)?;
    let (sequence, len) = check_frame(rest, salt).ok_or(Unreadable::NoFrame)?;
    let count = u32_at(rest, 16) as usize;
    let mut records = Vec::with_capacity(count.min(len / RECORD_BYTES));
    let mut at = FRAME_BYTES;
    while at < len {
        let frame = bytes.slice(offset..offset + len);
        let (record, end) = decode_record(&frame, at)?;
        records.push((at as u32, record));
        at = end;
    }
    if records.len() != count {
        return Err(Unreadable::NoFrame);
    }
    Ok(Frame { sequence, len, records })
}

/// Reads the record whose head is at `at`, and says where it ends.
pub(crate) fn decode_record(bytes: &Bytes, at: usize) -> Result<(Record, usize), Unreadable> {
    let head = bytes.get(at..at + RECORD_BYTES).ok_or(Unreadable::NoFrame)?;
    let body_len = u32_at(head, 4) as usize;
    let start = at + RECORD_BYTES;
    let end = start.checked_add(body_len).filter(|e| *e <= bytes.len()).ok_or(Unreadable::NoFrame)?;
    if u32_at(head, 16) != record_crc(head, &bytes[start..end]) {
        return Err(Unreadable::NoFrame);
    }
    let (format, kind, index) = (head[0], head[1], u64_at(head, 8));
    let newer = Unreadable::Newer { offset: at, format, kind };
    if format != FORMAT {
        return Err(newer);
    }
    let record = Record::from_parts(kind, index, bytes.slice(start..end)).ok_or(newer)?;
    Ok((record, end))
}

/// Where in `bytes`, at or after `from`, a frame with a good checksum begins.
pub(crate) fn find_frame(bytes: &[u8], from: usize, salt: u64) -> Option<usize> {
    let end = written_bytes(bytes);
    let mut at = from;
    while at < end {
        at += bytes[at..end].iter().position(|b| *b == FRAME_MAGIC[0])?;
        if check_frame(&bytes[at..], salt).is_some() {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Length without the zeros at the end, which are what was allocated and never written.
pub(crate) fn written_bytes(bytes: &[u8]) -> usize {
    static ZEROS: [u8; 4096] = [0; 4096];
    let mut end = bytes.len();
    // Whole blocks first: most of a segment is zeros, and comparing blocks is fast.
    while end >= ZEROS.len() && bytes[end - ZEROS.len()..end] == ZEROS {
        end -= ZEROS.len();
    }
    while end > 0 && bytes[end - 1] == 0 {
        end -= 1;
    }
    end
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}
