//! [`Rows`] in sled, one tree. The only module that names sled.
//!
//! sled 0.34 promises less than it seems: its `flush` is no fsync on Linux, values over about 128 KiB go to files that
//! are never synced, and a process killed while opening can leave a half snapshot that the next open trusts. Hence:
//! large values are stored in pieces, such left-overs are removed first, and everything read is checked against the
//! running checksum. Opening damaged files can even abort the process; a marker says that an open was begun and not
//! ended, and the next one then begins with no rows.
//!
//! ```text
//! "m"                                    format u8 | valid u8 | applied u64 | rows u64 | sum u64 | crc32 u32 | position
//! "r" key length u16 BE, key, 0 u16      format u8 | pieces u16 | the value's first piece
//! "r" key length u16 BE, key, n u16 BE   piece n
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::hash::Hasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes};
use rustix::fs::FlockOperation;
use twox_hash::XxHash64;

use crate::disk::is_full;

use super::{MAX_KEY_BYTES, Rows, RowsBatch, RowsError, RowsImage, RowsIter, check_size};

pub(super) const FORMAT: u8 = 1;
pub(super) const META_KEY: &[u8] = b"m";
const META_BYTES: usize = 30;
/// Well below the length at which sled moves a value to a file of its own.
const PIECE_BYTES: usize = 48 << 10;
/// What sled may keep in memory.
const CACHE_BYTES: u64 = 64 << 20;
/// How often, and how long apart, it is looked whether sled has let go: 5 s in all.
const CLOSED_TRIES: u32 = 1_000;
const CLOSED_PAUSE: Duration = Duration::from_millis(5);
/// Rows that go into one sled batch while everything is replaced.
const REPLACE_BATCH: usize = 1_000;

/// Rows in a directory of their own. Nothing is opened before [`Rows::load`].
#[derive(Clone)]
pub struct SledRows {
    dir: PathBuf,
    tree: Arc<Mutex<Option<Tree>>>,
}

struct Tree {
    tree: ::sled::Tree,
    // Keeps the database open.
    _db: ::sled::Db,
    stand: Stand,
}

/// What the meta row says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stand {
    pub(super) valid: bool,
    pub(super) applied: u64,
    pub(super) rows: u64,
    pub(super) sum: u64,
    pub(super) position: Bytes,
}

impl SledRows {
    /// Rows in `dir`, which need not exist yet; its parent must.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, tree: Arc::default() }
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T, RowsError>
    where
        T: Send + 'static,
        F: FnOnce(&Path, &mut Option<Tree>) -> Result<T, RowsError> + Send + 'static,
    {
        let (dir, tree) = (self.dir.clone(), Arc::clone(&self.tree));
        let done = tokio::task::spawn_blocking(move || {
            let mut tree = tree.lock().unwrap_or_else(PoisonError::into_inner);
            work(&dir, &mut tree)
        });
        done.await.unwrap_or_else(|join| Err(failed(&self.dir, join)))
    }

    async fn with_tree<T, F>(&self, work: F) -> Result<T, RowsError>
    where
        T: Send + 'static,
        F: FnOnce(&Path, &mut Tree) -> Result<T, RowsError> + Send + 'static,
    {
        self.blocking(|dir, tree| work(dir, tree.as_mut().ok_or(RowsError::NoBase)?)).await
    }
}

fn failed_sled(dir: &Path, error: ::sled::Error) -> RowsError {
    match &error {
        ::sled::Error::Io(io) if is_full(io) => RowsError::Full { dir: dir.display().to_string() },
        _ => failed(dir, error),
    }
}

fn failed(dir: &Path, source: impl std::error::Error + Send + Sync + 'static) -> RowsError {
    RowsError::Failed { dir: dir.display().to_string(), source: Box::new(source) }
}

#[async_trait]
impl Rows for SledRows {
    async fn load(&self) -> Result<Option<RowsImage>, RowsError> {
        let loaded = self.blocking(|dir, slot| {
            if slot.is_none() {
                *slot = Some(open(dir)?);
            }
            slot.as_mut().ok_or(RowsError::NoBase)?.load(dir)
        });
        match loaded.await {
            Err(RowsError::Failed { source, .. }) if is_unreadable(source.as_ref()) => {
                tracing::warn!(error = %source, "the rows can't be read; they are built anew");
                self.blocking(|dir, slot| {
                    drop(slot.take());
                    begin_anew(dir).map_err(|e| failed(dir, e))?;
                    slot.insert(open(dir)?).load(dir)
                })
                .await
            }
            loaded => loaded,
        }
    }

    async fn write(&self, batch: RowsBatch) -> Result<(), RowsError> {
        self.with_tree(|dir, tree| tree.write(dir, batch)).await
    }

    async fn invalidate(&self) -> Result<(), RowsError> {
        self.with_tree(|dir, tree| tree.invalidate(dir)).await
    }

    async fn replace_all(&self, rows: RowsIter, applied: u64, position: Bytes) -> Result<(), RowsError> {
        self.with_tree(move |dir, tree| tree.replace_all(dir, rows, applied, position)).await
    }
}

/// Whether damaged files are the cause: sled says so, or panicked over them.
fn is_unreadable(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(join) = error.downcast_ref::<tokio::task::JoinError>() {
        return join.is_panic();
    }
    matches!(error.downcast_ref(), Some(::sled::Error::Corruption { .. } | ::sled::Error::ReportableBug(_)))
}

/// Waits until sled's threads have let go of files that were closed a moment ago in this process, as they do some time
/// after the database is dropped. (Another process can't have them: the data directory is locked.)
pub(super) fn wait_closed(dir: &Path) -> io::Result<()> {
    let Ok(lock) = fs::File::open(dir.join("db")) else { return Ok(()) };
    for _ in 0..CLOSED_TRIES {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(CLOSED_PAUSE),
            other => return other.map_err(Into::into),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "the rows are still open"))
}

fn begin_anew(dir: &Path) -> io::Result<()> {
    wait_closed(dir)?;
    remove_dir(dir)
}

fn open(dir: &Path) -> Result<Tree, RowsError> {
    let io = |e: io::Error| failed(dir, e);
    let marker = dir.with_extension("opening");
    if marker.exists() {
        tracing::warn!(dir = %dir.display(), "an earlier open of the rows did not end; they are built anew");
        begin_anew(dir).map_err(io)?;
    }
    wait_closed(dir).map_err(io)?;
    fs::write(&marker, b"").map_err(io)?;
    remove_half_snapshots(dir).map_err(io)?;
    let opened = match open_sled(dir) {
        Err(
            ::sled::Error::Corruption { .. }
            | ::sled::Error::Unsupported(_)
            | ::sled::Error::ReportableBug(_),
        ) => {
            tracing::warn!(dir = %dir.display(), "the rows are unreadable; they are built anew");
            begin_anew(dir).map_err(io)?;
            open_sled(dir)
        }
        opened => opened,
    };
    let (db, tree) = opened.map_err(|e| failed(dir, e))?;
    fs::remove_file(&marker).map_err(io)?;
    Ok(Tree { tree, _db: db, stand: Stand::default() })
}

fn open_sled(dir: &Path) -> Result<(::sled::Db, ::sled::Tree), ::sled::Error> {
    let config =
        ::sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).mode(::sled::Mode::HighThroughput);
    let db = config.open()?;
    let tree = db.open_tree("rows")?;
    Ok((db, tree))
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// A process killed while opening can leave `snap.*.generating`, which the next open takes for a snapshot (sled issues
/// 1527 and 1533).
fn remove_half_snapshots(dir: &Path) -> io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn row_prefix(key: &[u8]) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(key.len() + 5);
    prefix.put_u8(b'r');
    prefix.put_u16(key.len() as u16);
    prefix.put_slice(key);
    prefix
}

fn piece_key(prefix: &[u8], piece: u16) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.put_u16(piece);
    key
}

fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hash = XxHash64::with_seed(0);
    hash.write(&(key.len() as u64).to_le_bytes());
    hash.write(key);
    hash.write(value);
    hash.finish()
}

impl Stand {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(META_BYTES + self.position.len());
        bytes.put_u8(FORMAT);
        bytes.put_u8(u8::from(self.valid));
        bytes.put_u64_le(self.applied);
        bytes.put_u64_le(self.rows);
        bytes.put_u64_le(self.sum);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes);
        crc.update(&self.position);
        bytes.put_u32_le(crc.finalize());
        bytes.put_slice(&self.position);
        bytes
    }

    /// `Err` with the format of a newer version; `None` when it can't be read.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, u8> {
        let number = |at: usize| bytes[at..at + 8].iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        match bytes.first() {
            None | Some(0) => return Ok(None),
            Some(&FORMAT) => {}
            Some(newer) => return Err(*newer),
        }
        if bytes.len() < META_BYTES {
            return Ok(None);
        }
        let stand = Self {
            valid: bytes[1] == 1,
            applied: number(2),
            rows: number(10),
            sum: number(18),
            position: Bytes::copy_from_slice(&bytes[META_BYTES..]),
        };
        Ok((stand.encode() == bytes).then_some(stand))
    }
}

impl Tree {
    fn load(&mut self, dir: &Path) -> Result<Option<RowsImage>, RowsError> {
        match self.read_valid(dir)? {
            Ok(image) => Ok(Some(image)),
            Err(why) => {
                if let Some(why) = why {
                    tracing::warn!(dir = %dir.display(), why, "the stored rows can't be used; they are built anew");
                }
                self.tree.clear().map_err(|e| failed(dir, e))?;
                self.stand = Stand { valid: true, ..Stand::default() };
                Ok(None)
            }
        }
    }

    /// The image, or why there is none (nothing to say where there never was one).
    fn read_valid(&mut self, dir: &Path) -> Result<Result<RowsImage, Option<&'static str>>, RowsError> {
        let meta = match self.tree.get(META_KEY) {
            Ok(Some(meta)) => meta,
            Ok(None) => return Ok(Err((!self.tree.is_empty()).then_some("they have no position"))),
            Err(_) => return Ok(Err(Some("their position is unreadable"))),
        };
        let stand = match Stand::decode(&meta) {
            Ok(Some(stand)) => stand,
            Ok(None) => return Ok(Err(Some("their position does not have its checksum"))),
            Err(found) => {
                return Err(RowsError::Newer { dir: dir.display().to_string(), found, supported: FORMAT });
            }
        };
        if !stand.valid {
            return Ok(Err(Some("they were being replaced")));
        }
        let Some(rows) = self.read_rows() else { return Ok(Err(Some("a row is unreadable"))) };
        let sum = rows.iter().fold(0_u64, |sum, (key, value)| sum.wrapping_add(row_hash(key, value)));
        if (rows.len() as u64, sum) != (stand.rows, stand.sum) {
            return Ok(Err(Some("they do not have their checksum")));
        }
        let image = RowsImage { rows, applied: stand.applied, position: stand.position.clone() };
        self.stand = stand;
        Ok(Ok(image))
    }

    fn read_rows(&self) -> Option<Vec<(Vec<u8>, Bytes)>> {
        let mut rows: Vec<(Vec<u8>, Bytes)> = Vec::new();
        let mut pieces = self.tree.scan_prefix(b"r");
        while let Some(piece) = pieces.next() {
            let (key, first) = piece.ok()?;
            let key = key.get(3..key.len().checked_sub(2)?)?.to_vec();
            let (count, start) = decode_first(&first)?;
            let mut value = start.to_vec();
            for _ in 1..count {
                value.extend_from_slice(&pieces.next()?.ok()?.1);
            }
            rows.push((key, Bytes::from(value)));
        }
        rows.sort_unstable();
        Some(rows)
    }

    /// A row's value and number of pieces.
    fn get(&self, dir: &Path, key: &[u8]) -> Result<Option<(u16, Vec<u8>)>, RowsError> {
        let prefix = row_prefix(key);
        let unreadable = || failed(dir, io::Error::new(io::ErrorKind::InvalidData, "a row is unreadable"));
        let get = |piece| self.tree.get(piece_key(&prefix, piece)).map_err(|e| failed(dir, e));
        let Some(first) = get(0)? else { return Ok(None) };
        let (count, start) = decode_first(&first).ok_or_else(unreadable)?;
        let mut value = start.to_vec();
        for piece in 1..count {
            value.extend_from_slice(&get(piece)?.ok_or_else(unreadable)?);
        }
        Ok(Some((count, value)))
    }

    fn write(&mut self, dir: &Path, batch: RowsBatch) -> Result<(), RowsError> {
        if !self.stand.valid {
            return Err(RowsError::NoBase);
        }
        let stand = Stand { applied: batch.applied, position: batch.position, ..self.stand.clone() };
        self.change(dir, batch.rows, stand)
    }

    /// Changes rows and the stand in one sled batch.
    fn change(
        &mut self,
        dir: &Path,
        rows: Vec<(Vec<u8>, Option<Bytes>)>,
        mut stand: Stand,
    ) -> Result<(), RowsError> {
        let last: BTreeMap<Vec<u8>, Option<Bytes>> = rows.into_iter().collect();
        let mut batch = ::sled::Batch::default();
        for (key, value) in &last {
            check_size(key, value.as_deref().unwrap_or_default())?;
            let prefix = row_prefix(key);
            let mut old_pieces = 0;
            if let Some((pieces, old)) = self.get(dir, key)? {
                old_pieces = pieces;
                stand.sum = stand.sum.wrapping_sub(row_hash(key, &old));
                stand.rows -= 1;
            }
            let mut pieces = 0;
            if let Some(value) = value {
                stand.sum = stand.sum.wrapping_add(row_hash(key, value));
                stand.rows += 1;
                pieces = insert_pieces(&mut batch, &prefix, value);
            }
            (pieces..old_pieces).for_each(|piece| batch.remove(piece_key(&prefix, piece)));
        }
        batch.insert(META_KEY, stand.encode());
        self.tree.apply_batch(batch).map_err(|e| failed_sled(dir, e))?;
        self.stand = stand;
        Ok(())
    }

    fn invalidate(&mut self, dir: &Path) -> Result<(), RowsError> {
        let stand = Stand { valid: false, ..self.stand.clone() };
        self.change(dir, Vec::new(), stand)
    }

    fn replace_all(
        &mut self,
        dir: &Path,
        rows: RowsIter,
        applied: u64,
        position: Bytes,
    ) -> Result<(), RowsError> {
        self.invalidate(dir)?;
        self.tree.clear().map_err(|e| failed(dir, e))?;
        self.stand = Stand::default();
        let mut part = Vec::with_capacity(REPLACE_BATCH);
        for (key, value) in rows {
            part.push((key, Some(value)));
            if part.len() == REPLACE_BATCH {
                self.change(dir, std::mem::take(&mut part), self.stand.clone())?;
            }
        }
        let stand = Stand { valid: true, applied, position, ..self.stand.clone() };
        // The last part and the mark go separately: valid stands alone, and last.
        self.change(dir, part, self.stand.clone())?;
        let stand = Stand { rows: self.stand.rows, sum: self.stand.sum, ..stand };
        self.change(dir, Vec::new(), stand)
    }
}

fn decode_first(first: &[u8]) -> Option<(u16, &[u8])> {
    let (format, pieces) = (*first.first()?, u16::from_le_bytes([*first.get(1)?, *first.get(2)?]));
    (format == FORMAT && pieces > 0).then_some((pieces, &first[3..]))
}

fn insert_pieces(batch: &mut ::sled::Batch, prefix: &[u8], value: &Bytes) -> u16 {
    const { assert!(MAX_KEY_BYTES <= u16::MAX as usize) };
    let pieces = value.len().div_ceil(PIECE_BYTES).max(1) as u16;
    for piece in 0..pieces {
        let from = usize::from(piece) * PIECE_BYTES;
        let part = &value[from..value.len().min(from + PIECE_BYTES)];
        let mut stored = Vec::with_capacity(part.len() + 3);
        if piece == 0 {
            stored.put_u8(FORMAT);
            stored.put_u16_le(pieces);
        }
        stored.put_slice(part);
        batch.insert(piece_key(prefix, piece), stored);
    }
    pieces
}
