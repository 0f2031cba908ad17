//! Writing a snapshot: of this node's own state, or one that another node sends.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::format::{self, MAX_PART_BYTES, Scan};
use super::{SnapshotError, SnapshotFile, SnapshotStore};
use crate::disk::{DiskFile, is_full};

/// How much is gathered until it is written, in bytes.
const GATHER_BYTES: usize = 256 << 10;
/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_secs(1);

async fn hold(file: &str) {
    tracing::warn!(file, "the disk is full: the snapshot waits for room");
    tokio::time::sleep(FULL_RETRY).await;
}

/// A temporary file and how far it is written.
struct Output {
    store: SnapshotStore,
    number: u64,
    name: String,
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl Output {
    async fn begin(store: SnapshotStore) -> Result<Self, SnapshotError> {
        let number = store.take_number();
        let (name, file) = store.create_temporary(number).await?;
        Ok(Self { store, number, name, file, at: 0 })
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), SnapshotError> {
        let len = bytes.len() as u64;
        self.file.write_at(self.at, bytes).await.map_err(SnapshotError::io("write", &self.name))?;
        self.at += len;
        Ok(())
    }

    /// As [`Output::write`], and waits while the disk is full: a node that makes a snapshot goes on without it.
    async fn write_held(&mut self, bytes: Bytes) -> Result<(), SnapshotError> {
        loop {
            match self.write(bytes.clone()).await {
                Err(SnapshotError::Io { source, .. }) if is_full(&source) => hold(&self.name).await,
                written => return written,
            }
        }
    }

    async fn adopt(self, index: u64) -> Result<SnapshotFile, SnapshotError> {
        self.file.sync_data().await.map_err(SnapshotError::io("sync", &self.name))?;
        self.store.adopt(&self.name, self.number, index).await
    }

    async fn discard(self) -> Result<(), SnapshotError> {
        let removed = self.store.inner.disk.remove(&self.name).await;
        removed.map_err(SnapshotError::io("remove", &self.name))
    }
}

/// Writes a snapshot of this node. Dropped without [`SnapshotWriter::finish`], it leaves a file that the next open removes.
pub struct SnapshotWriter {
    output: Output,
    index: u64,
    gathered: BytesMut,
    parts: u64,
    bytes: u64,
}

impl SnapshotWriter {
    pub(super) async fn begin(store: SnapshotStore, index: u64, meta: Bytes) -> Result<Self, SnapshotError> {
        let mut output = loop {
            match Output::begin(store.clone()).await {
                Err(SnapshotError::Io { source, .. }) if is_full(&source) => hold("a new file").await,
                begun => break begun?,
            }
        };
        output.write_held(format::encode_header(index, &meta)).await?;
        Ok(Self { output, index, gathered: BytesMut::new(), parts: 0, bytes: 0 })
    }

    /// Adds content.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub async fn write(&mut self, content: &[u8]) -> Result<(), SnapshotError> {
        for part in content.chunks(MAX_PART_BYTES) {
            self.gathered.extend_from_slice(part);
            if self.gathered.len() >= GATHER_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), SnapshotError> {
        let mut out = BytesMut::with_capacity(self.gathered.len() + format::PART_BYTES);
        for part in self.gathered.chunks(MAX_PART_BYTES) {
            format::encode_part(part, &mut out);
            self.parts += 1;
            self.bytes += part.len() as u64;
        }
        self.gathered.clear();
        self.output.write_held(out.freeze()).await
    }

    /// Ends the content: the snapshot is durable, and the newest of its index, when this returns.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub async fn finish(mut self) -> Result<SnapshotFile, SnapshotError> {
        self.flush().await?;
        let mut end = BytesMut::new();
        format::encode_end(self.parts, self.bytes, &mut end);
        self.output.write_held(end.freeze()).await?;
        self.output.adopt(self.index).await
    }
}

/// Takes the bytes of a snapshot file from another node, checking them as they come.
pub struct SnapshotReceiver {
    output: Output,
    scan: Scan,
}

impl SnapshotReceiver {
    pub(super) async fn begin(store: SnapshotStore) -> Result<Self, SnapshotError> {
        let output = Output::begin(store).await?;
        let scan = Scan::new(&format!("the received {}", output.name));
        Ok(Self { output, scan })
    }

    /// Takes the next bytes of the file.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] as soon as something is wrong; [`SnapshotError::Newer`]; [`SnapshotError::Io`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), SnapshotError> {
        self.scan.take(&bytes)?;
        self.output.write(bytes).await
    }

    /// Index and meta of the snapshot, once enough came to know.
    pub fn header(&self) -> Option<(u64, Bytes)> {
        self.scan.header().map(|h| (h.index, h.meta.clone()))
    }

    /// Ends the file: the snapshot is durable when this returns.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when something is missing; nothing is then kept.
    pub async fn finish(self) -> Result<SnapshotFile, SnapshotError> {
        match self.scan.finish() {
            Ok(header) => self.output.adopt(header.index).await,
            Err(error) => {
                self.output.discard().await?;
                Err(error)
            }
        }
    }
}
