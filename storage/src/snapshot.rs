//! Snapshot files: written under a temporary name, synced, renamed, the directory synced; checked before use.
//!
//! ```text
//! file:  magic "ruvcsnp" | format u8 | index u64 | meta length u32 | meta | crc32 u32 of all before | part* | end
//! part:  length u32, not 0 | crc32 u32 | bytes
//! end:   0 u32 | crc32 u32 of what follows | parts u64 | bytes of all parts u64                (little-endian)
//! ```
//!
//! The two newest are kept. One that can't be read in whole is never used, nor sent: the older one is, and where that
//! does not do, opening the directory fails. The bytes sent to another control node are those of the file.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::Damage;

mod format;
mod stream;
#[cfg(test)]
mod tests;
mod write;

use format::Scan;
pub use stream::{SnapshotBytes, SnapshotDecoder, SnapshotEncoder};
pub use write::{SnapshotReceiver, SnapshotWriter};

/// How many snapshots are kept.
const KEEP: usize = 2;
/// How much is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;
/// Where files are written until they are whole.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Why a snapshot was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not as it was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Written by a newer version.
    #[error(
        "{file} has format {found} at byte 7, this version reads up to {supported}; run the newer version"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        found: u8,
        /// The newest format that this version reads.
        supported: u8,
    },
    /// The disk failed.
    #[error("cannot {doing} {file}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl SnapshotError {
    fn io(doing: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, file: file.to_owned(), source }
    }
}

/// A whole, checked snapshot. It stays readable when newer ones push it out.
#[derive(Clone)]
pub struct SnapshotFile {
    /// The log index that it stands at.
    pub index: u64,
    /// What the writer kept beside it.
    pub meta: Bytes,
    /// Length of the file in bytes.
    pub len: u64,
    name: String,
    path: String,
    content_at: u64,
    file: Arc<dyn DiskFile>,
}

impl std::fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotFile")
            .field("file", &self.path)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl SnapshotFile {
    /// The file's own bytes from `offset`, to send it: up to `max` of them, none at the end.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub async fn raw(&self, offset: u64, max: usize) -> Result<Bytes, SnapshotError> {
        self.file.read_at(offset, max).await.map_err(SnapshotError::io("read", &self.path))
    }

    /// The content from its beginning.
    pub fn reader(&self) -> SnapshotReader {
        SnapshotReader { snapshot: self.clone(), at: self.content_at }
    }

    /// Where messages say that it is.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Reads a snapshot's content part by part, as it was written.
pub struct SnapshotReader {
    snapshot: SnapshotFile,
    at: u64,
}

impl SnapshotReader {
    /// The next bytes, of any length but none; `None` at the end.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when the file changed since it was checked; [`SnapshotError::Io`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        let part = format::read_part(self.snapshot.file.as_ref(), &self.snapshot.path, self.at).await?;
        let Some(part) = part else { return Ok(None) };
        self.at += format::PART_BYTES as u64 + part.len() as u64;
        Ok(Some(part))
    }

    /// All the rest in one piece.
    ///
    /// # Errors
    /// As [`SnapshotReader::next`].
    pub async fn read_to_end(&mut self) -> Result<Bytes, SnapshotError> {
        let mut all = BytesMut::new();
        while let Some(part) = self.next().await? {
            all.extend_from_slice(&part);
        }
        Ok(all.freeze())
    }
}

/// The directory's snapshots. Clones share it.
#[derive(Clone)]
pub struct SnapshotStore {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Newest first.
    kept: Vec<SnapshotFile>,
    next_number: u64,
}

/// Index and number in the name of a snapshot. The number tells two of the same index apart; the higher is newer.
pub(crate) fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (index, number) = name.strip_prefix("snapshot-")?.strip_suffix(".snap")?.split_once('-')?;
    if index.len() != 16 || number.len() != 16 {
        return None;
    }
    Some((u64::from_str_radix(index, 16).ok()?, u64::from_str_radix(number, 16).ok()?))
}

/// Whether a name is that of a file that was never finished.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with("snapshot-") && name.ends_with(TEMPORARY_SUFFIX)
}

impl SnapshotStore {
    /// Checks what is there, and removes what was never finished and what is older than the two newest that are whole.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when there are snapshots and none is whole; [`SnapshotError::Newer`];
    /// [`SnapshotError::Io`].
    pub async fn open(disk: Arc<dyn Disk>) -> Result<Self, SnapshotError> {
        let dir = disk.describe("");
        // A process that was killed may have left a rename that only memory knows; the log must not rest on that.
        disk.sync_dir().await.map_err(SnapshotError::io("sync", &dir))?;
        let listed = disk.list().await.map_err(SnapshotError::io("list", &dir))?;
        for name in listed.iter().filter(|n| is_temporary(n)) {
            disk.remove(name).await.map_err(SnapshotError::io("remove", name))?;
        }
        let mut names: Vec<_> = listed.into_iter().filter_map(|n| parse_name(&n).map(|at| (at, n))).collect();
        names.sort_unstable();
        names.reverse();
        let next_number = names.iter().map(|((_, number), _)| number + 1).max().unwrap_or(1);
        let (mut kept, mut damaged) = (Vec::new(), Vec::new());
        for ((index, _), name) in names {
            if kept.len() == KEEP {
                disk.remove(&name).await.map_err(SnapshotError::io("remove", &name))?;
                continue;
            }
            match check(disk.as_ref(), &name, index).await {
                Ok(snapshot) => kept.push(snapshot),
                Err(SnapshotError::Damaged(damage)) => damaged.push((name, damage)),
                Err(error) => return Err(error),
            }
        }
        for (name, damage) in damaged {
            if kept.is_empty() {
                return Err(damage.into());
            }
            tracing::warn!(%damage, "an unreadable snapshot is removed, another one is used");
            disk.remove(&name).await.map_err(SnapshotError::io("remove", &name))?;
        }
        let state = Mutex::new(State { kept, next_number });
        Ok(Self { inner: Arc::new(Inner { disk, state }) })
    }

    /// The newest snapshot.
    pub fn latest(&self) -> Option<SnapshotFile> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner).kept.first().cloned()
    }

    /// Begins a snapshot that stands at `index`.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub async fn writer(&self, index: u64, meta: Bytes) -> Result<SnapshotWriter, SnapshotError> {
        SnapshotWriter::begin(self.clone(), index, meta).await
    }

    /// Begins to take a snapshot file that another node sends.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub async fn receiver(&self) -> Result<SnapshotReceiver, SnapshotError> {
        SnapshotReceiver::begin(self.clone()).await
    }

    fn take_number(&self) -> u64 {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.next_number += 1;
        state.next_number - 1
    }

    async fn create_temporary(&self, number: u64) -> Result<(String, Arc<dyn DiskFile>), SnapshotError> {
        let name = format!("snapshot-{number:016x}{TEMPORARY_SUFFIX}");
        let file =
            self.inner.disk.open(&name, OpenMode::Fresh).await.map_err(SnapshotError::io("create", &name))?;
        Ok((name, file))
    }

    /// Makes a whole, synced temporary file a snapshot, and removes what it pushes out. An older one than the newest is
    /// kept behind that.
    async fn adopt(&self, temporary: &str, number: u64, index: u64) -> Result<SnapshotFile, SnapshotError> {
        let disk = &self.inner.disk;
        let name = format!("snapshot-{index:016x}-{number:016x}.snap");
        disk.rename(temporary, &name).await.map_err(SnapshotError::io("rename", temporary))?;
        disk.sync_dir().await.map_err(SnapshotError::io("sync", &disk.describe("")))?;
        let snapshot = check(disk.as_ref(), &name, index).await?;
        let pushed_out = {
            let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
            let at = state.kept.partition_point(|kept| kept.index > index);
            state.kept.insert(at, snapshot.clone());
            let from = KEEP.min(state.kept.len());
            state.kept.split_off(from)
        };
        for old in pushed_out {
            disk.remove(&old.name).await.map_err(SnapshotError::io("remove", &old.path))?;
        }
        Ok(snapshot)
    }
}

/// Reads a whole file and compares every checksum.
async fn check(disk: &dyn Disk, name: &str, index: u64) -> Result<SnapshotFile, SnapshotError> {
    let path = disk.describe(name);
    let file = disk.open(name, OpenMode::Existing).await.map_err(SnapshotError::io("open", &path))?;
    let mut scan = Scan::new(&path);
    let mut at = 0;
    loop {
        let bytes = file.read_at(at, READ_BYTES).await.map_err(SnapshotError::io("read", &path))?;
        if bytes.is_empty() {
            break;
        }
        at += bytes.len() as u64;
        scan.take(&bytes)?;
    }
    let header = scan.finish()?;
    if header.index != index {
        let why = format!("it stands at index {}, not {index} as its name says", header.index);
        return Err(Damage::new(path, 8, why).into());
    }
    let name = name.to_owned();
    Ok(SnapshotFile { index, meta: header.meta, len: at, name, path, content_at: header.content_at, file })
}
