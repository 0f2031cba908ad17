//! The bytes of a snapshot file without the file: made for somebody who asks for a backup, and read back from where an
//! operator keeps them. The same format, so that there is one checker.

use bytes::{Bytes, BytesMut};

use super::SnapshotError;
use super::format::{self, MAX_PART_BYTES, Scan};

/// Makes the bytes piece by piece; whoever takes them does so in order.
#[derive(Debug)]
pub struct SnapshotEncoder {
    parts: u64,
    bytes: u64,
}

impl SnapshotEncoder {
    /// Begins; the bytes are the file's first ones. `meta` has at most 1 MiB.
    pub fn begin(index: u64, meta: &[u8]) -> (Self, Bytes) {
        (Self { parts: 0, bytes: 0 }, format::encode_header(index, meta))
    }

    /// The bytes for the next piece of content.
    pub fn content(&mut self, content: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(content.len() + format::PART_BYTES);
        for part in content.chunks(MAX_PART_BYTES) {
            format::encode_part(part, &mut out);
            self.parts += 1;
            self.bytes += part.len() as u64;
        }
        out.freeze()
    }

    /// The last bytes, without which the file counts as cut.
    pub fn end(self) -> Bytes {
        let mut out = BytesMut::new();
        format::encode_end(self.parts, self.bytes, &mut out);
        out.freeze()
    }
}

/// What the bytes of a whole snapshot say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotBytes {
    /// The index that it stands at.
    pub index: u64,
    /// What the writer kept beside it.
    pub meta: Bytes,
    /// The content.
    pub content: Bytes,
}

/// Checks bytes as they come, and keeps the content.
pub struct SnapshotDecoder {
    scan: Scan,
}

impl SnapshotDecoder {
    /// Messages call the bytes `name`.
    pub fn new(name: &str) -> Self {
        Self { scan: Scan::keeping(name) }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] with the offset as soon as something is wrong; [`SnapshotError::Newer`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.scan.take(bytes)
    }

    /// Ends.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when something is missing.
    pub fn finish(mut self) -> Result<SnapshotBytes, SnapshotError> {
        let content = self.scan.take_content();
        let header = self.scan.finish()?;
        Ok(SnapshotBytes { index: header.index, meta: header.meta, content })
    }
}
