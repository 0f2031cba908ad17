//! The bytes of a snapshot file, format 1, and a check that takes them as they come.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::SnapshotError;
use crate::disk::DiskFile;
use crate::error::Damage;

const MAGIC: &[u8; 7] = b"ruvcsnp";
const FORMAT: u8 = 1;
/// Magic, format, index and the meta's length.
const FIXED_BYTES: usize = 20;
/// Length and checksum before a part.
pub(super) const PART_BYTES: usize = 8;
const END_BYTES: usize = 24;
/// The longest part, in bytes: what a reader must hold at once.
pub(super) const MAX_PART_BYTES: usize = 1 << 20;
/// The longest meta, in bytes.
const MAX_META_BYTES: usize = 1 << 20;

pub(super) fn encode_header(index: u64, meta: &[u8]) -> Bytes {
    let mut header = BytesMut::with_capacity(FIXED_BYTES + meta.len() + 4);
    header.put_slice(MAGIC);
    header.put_u8(FORMAT);
    header.put_u64_le(index);
    header.put_u32_le(meta.len() as u32);
    header.put_slice(meta);
    let crc = crc32fast::hash(&header);
    header.put_u32_le(crc);
    header.freeze()
}

pub(super) fn encode_part(bytes: &[u8], out: &mut BytesMut) {
    out.put_u32_le(bytes.len() as u32);
    out.put_u32_le(crc32fast::hash(bytes));
    out.put_slice(bytes);
}

pub(super) fn encode_end(parts: u64, bytes: u64, out: &mut BytesMut) {
    let mut totals = [0; 16];
    totals[..8].copy_from_slice(&parts.to_le_bytes());
    totals[8..].copy_from_slice(&bytes.to_le_bytes());
    out.put_u32_le(0);
    out.put_u32_le(crc32fast::hash(&totals));
    out.put_slice(&totals);
}

/// What the beginning of a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) index: u64,
    pub(super) meta: Bytes,
    /// Offset of the first part.
    pub(super) content_at: u64,
}

/// Checks a file given in pieces of any length.
pub(super) struct Scan {
    path: String,
    pending: BytesMut,
    /// Offset of the first pending byte in the file.
    offset: u64,
    header: Option<Header>,
    parts: u64,
    bytes: u64,
    ended: bool,
    /// The content so far, where that is wanted.
    content: Option<BytesMut>,
}

impl Scan {
    pub(super) fn new(path: &str) -> Self {
        let pending = BytesMut::new();
        Self {
            path: path.to_owned(),
            pending,
            offset: 0,
            header: None,
            parts: 0,
            bytes: 0,
            ended: false,
            content: None,
        }
    }

    /// The same, keeping the content.
    pub(super) fn keeping(path: &str) -> Self {
        Self { content: Some(BytesMut::new()), ..Self::new(path) }
    }

    fn damage(&self, why: &str) -> SnapshotError {
        Damage::new(&self.path, self.offset, why).into()
    }

    /// Takes the next bytes of the file.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.pending.extend_from_slice(bytes);
        loop {
            let taken = match self.header {
                None => self.take_header()?,
                Some(_) if self.ended && !self.pending.is_empty() => {
                    return Err(self.damage("something follows the end of the snapshot"));
                }
                Some(_) => self.take_part()?,
            };
            if taken == 0 {
                return Ok(());
            }
            self.pending.advance(taken);
            self.offset += taken as u64;
        }
    }

    fn take_header(&mut self) -> Result<usize, SnapshotError> {
        if self.pending.len() < FIXED_BYTES {
            return Ok(0);
        }
        let mut fixed = &self.pending[..FIXED_BYTES];
        if fixed[..7] != *MAGIC {
            return Err(self.damage("it does not begin as a snapshot does"));
        }
        fixed.advance(7);
        let format = fixed.get_u8();
        if format > FORMAT {
            return Err(SnapshotError::Newer { file: self.path.clone(), found: format, supported: FORMAT });
        }
        let (index, meta_len) = (fixed.get_u64_le(), fixed.get_u32_le() as usize);
        if format != FORMAT || meta_len > MAX_META_BYTES {
            return Err(self.damage("its head is unreadable"));
        }
        let end = FIXED_BYTES + meta_len;
        if self.pending.len() < end + 4 {
            return Ok(0);
        }
        if (&self.pending[end..end + 4]).get_u32_le() != crc32fast::hash(&self.pending[..end]) {
            return Err(self.damage("its head does not have its checksum"));
        }
        let meta = Bytes::copy_from_slice(&self.pending[FIXED_BYTES..end]);
        self.header = Some(Header { index, meta, content_at: end as u64 + 4 });
        Ok(end + 4)
    }

    fn take_part(&mut self) -> Result<usize, SnapshotError> {
        if self.pending.len() < PART_BYTES {
            return Ok(0);
        }
        let mut head = &self.pending[..PART_BYTES];
        let (len, crc) = (head.get_u32_le() as usize, head.get_u32_le());
        if len > MAX_PART_BYTES {
            return Err(self.damage("the length of a part is out of bounds"));
        }
        let total = if len == 0 { END_BYTES } else { PART_BYTES + len };
        let Some(body) = self.pending.get(PART_BYTES..total) else { return Ok(0) };
        if crc != crc32fast::hash(body) {
            return Err(self.damage("a part does not have its checksum"));
        }
        if len == 0 {
            let mut totals = body;
            if (totals.get_u64_le(), totals.get_u64_le()) != (self.parts, self.bytes) {
                return Err(self.damage("parts are missing"));
            }
            self.ended = true;
        } else {
            if let Some(content) = &mut self.content {
                content.extend_from_slice(body);
            }
            self.parts += 1;
            self.bytes += len as u64;
        }
        Ok(total)
    }

    /// The content that was kept so far.
    pub(super) fn take_content(&mut self) -> Bytes {
        self.content.take().unwrap_or_default().freeze()
    }

    /// The header, provided that the file is whole.
    pub(super) fn finish(self) -> Result<Header, SnapshotError> {
        match &self.header {
            Some(header) if self.ended => Ok(header.clone()),
            _ => {
                Err(Damage::new(&self.path, self.offset + self.pending.len() as u64, "it ends too early")
                    .into())
            }
        }
    }

    /// The header, once that much was taken.
    pub(super) fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }
}

/// The part at an offset of a file; `None` at the end.
pub(super) async fn read_part(
    file: &dyn DiskFile,
    path: &str,
    at: u64,
) -> Result<Option<Bytes>, SnapshotError> {
    let damage = |why: &str| SnapshotError::from(Damage::new(path, at, why));
    let head = file.read_at(at, PART_BYTES).await.map_err(SnapshotError::io("read", path))?;
    if head.len() < PART_BYTES {
        return Err(damage("it ends too early"));
    }
    let mut head = &head[..];
    let (len, crc) = (head.get_u32_le() as usize, head.get_u32_le());
    if len == 0 {
        return Ok(None);
    }
    if len > MAX_PART_BYTES {
        return Err(damage("the length of a part is out of bounds"));
    }
    let body = file.read_at(at + PART_BYTES as u64, len).await.map_err(SnapshotError::io("read", path))?;
    if body.len() < len || crc32fast::hash(&body) != crc {
        return Err(damage("a part does not have its checksum"));
    }
    Ok(Some(body))
}
