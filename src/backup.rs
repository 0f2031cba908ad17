//! The backup file: the whole replicated state, made by a control node while it serves, checked before anything rests on it.
//!
//! It has the format of a snapshot file (lengths and a checksum for each piece, totals at the end, so that damage is told with
//! its place), with a head of its own that says of which cluster it is, and an end of its own: the number of rows and a hash over
//! all of them in order. Each row is its key and its value, each behind its length (u32, little-endian).
//!
//! A backup that was read is whole, of a format that this version knows, and a state that keeps every invariant.

use std::hash::Hasher;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ruvector_cluster_client::ids::Revision;
use ruvector_cluster_client::wire::Time;
use ruvector_cluster_storage::{Damage, SnapshotDecoder, SnapshotEncoder, SnapshotError};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

use crate::metadata::check::{Violation, check};
use crate::metadata::{Metadata, RowsError};

/// Of the head and the end that are described here; the snapshot format beneath has its own.
const FORMAT: u32 = 1;

/// Rows are gathered to pieces of this size.
const PIECE_BYTES: usize = 256 << 10;

/// How much of a file is read at once.
const READ_BYTES: usize = 1 << 20;

/// The key of the last record, which is no row: no row's key is empty.
const END_KEY: &[u8] = b"";

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of the backup.
    pub backup_format: u32,
    /// The version that made it.
    pub version: String,
    /// The cluster that it was made of.
    pub cluster_id: String,
    /// That cluster's generation.
    pub generation: u64,
    /// The state's.
    pub revision: Revision,
    /// When it was made, by the clock of the control node that made it.
    pub made_at: Time,
}

#[derive(Serialize, Deserialize)]
struct End {
    rows: u64,
    xxh64: String,
}

/// A whole, checked backup.
#[derive(Debug)]
pub struct Backup {
    /// What it says of itself.
    pub head: Head,
    /// The state.
    pub state: Metadata,
}

/// The way out where a backup is damaged: no directory is concerned.
const REMEDY: &str = "use another copy of the backup, or an earlier one";

impl From<SnapshotError> for BackupError {
    fn from(error: SnapshotError) -> Self {
        Self::Bytes(match error {
            SnapshotError::Damaged(damage) => SnapshotError::Damaged(Damage { remedy: REMEDY, ..damage }),
            other => other,
        })
    }
}

/// Why a file is no backup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It can't be read.
    #[error("cannot read {file}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is damaged or cut, or of a newer version; says where.
    #[error(transparent)]
    Bytes(SnapshotError),
    /// It is a snapshot of a data directory, or something else.
    #[error("{file} is not a backup: its head is not understood; make one with GET /v1/snapshot")]
    Head {
        /// The file.
        file: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// Made by a newer version.
    #[error("{file} is a backup of format {found}, this version reads up to {FORMAT}; run the newer version")]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
    },
    /// The pieces are whole and do not fit together.
    #[error("{file} is damaged: {why}")]
    Damaged {
        /// The file.
        file: String,
        /// How.
        why: String,
    },
    /// The rows are not understood.
    #[error("{file} has a row that is not understood")]
    Rows {
        /// The file.
        file: String,
        /// Which.
        #[source]
        source: RowsError,
    },
    /// The rows are understood and contradict each other.
    #[error("{file} holds a state that breaks {} of its own rules, first: {}", .violations.len(), .violations[0])]
    Violations {
        /// The file.
        file: String,
        /// All that does not hold.
        violations: Vec<Violation>,
    },
}

/// The bytes of a backup of `state`, piece by piece; none before the cluster was founded.
pub fn pieces(state: &Metadata, made_at: Time) -> Option<impl Iterator<Item = Bytes> + Send + use<>> {
    let founded = state.founded()?;
    let head = Head {
        backup_format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: founded.cluster_id.clone(),
        generation: founded.generation,
        revision: state.revision(),
        made_at,
    };
    let head = serde_json::to_vec(&head).expect("a head is plain data with string keys");
    let (encoder, first) = SnapshotEncoder::begin(state.revision().0, &head);
    let rows = Some(state.to_rows());
    let rest = Pieces { rows, encoder: Some(encoder), hash: XxHash64::with_seed(0), count: 0 };
    Some(std::iter::once(first).chain(rest))
}

struct Pieces<I> {
    /// None once all are told.
    rows: Option<I>,
    /// None once the end is told.
    encoder: Option<SnapshotEncoder>,
    hash: XxHash64,
    count: u64,
}

impl<I: Iterator<Item = (Vec<u8>, Vec<u8>)>> Iterator for Pieces<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let Some(rows) = &mut self.rows else {
            return self.encoder.take().map(SnapshotEncoder::end);
        };
        let mut piece = BytesMut::new();
        while piece.len() < PIECE_BYTES {
            let begun = piece.len();
            let Some((key, value)) = rows.next() else {
                self.rows = None;
                let end = End { rows: self.count, xxh64: format!("{:016x}", self.hash.finish()) };
                let end = serde_json::to_vec(&end).expect("an end is plain data with string keys");
                put(&mut piece, END_KEY);
                put(&mut piece, &end);
                break;
            };
            put(&mut piece, &key);
            put(&mut piece, &value);
            self.hash.write(&piece[begun..]);
            self.count += 1;
        }
        self.encoder.as_mut().map(|encoder| encoder.content(&piece))
    }
}

fn put(out: &mut BytesMut, part: &[u8]) {
    out.put_u32_le(u32::try_from(part.len()).expect("a row is far below 4 GiB"));
    out.put_slice(part);
}

fn take(content: &mut Bytes) -> Option<Bytes> {
    let len = usize::try_from(content.try_get_u32_le().ok()?).ok()?;
    (content.len() >= len).then(|| content.split_to(len))
}

/// Reads and checks a backup.
///
/// # Errors
/// [`BackupError`]: it is not to be used.
pub fn read(path: &Path) -> Result<Backup, BackupError> {
    let file = path.display().to_string();
    let input = std::fs::File::open(path).map_err(|source| BackupError::Io { file: file.clone(), source })?;
    read_from(&file, input)
}

/// As [`read`], from whatever is called `file` in errors.
///
/// # Errors
/// As there.
pub fn read_from(file: &str, mut input: impl std::io::Read) -> Result<Backup, BackupError> {
    let file = file.to_owned();
    let io = |source| BackupError::Io { file: file.clone(), source };
    let mut decoder = SnapshotDecoder::new(&file);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = input.read(&mut buffer).map_err(io)?;
        if count == 0 {
            break;
        }
        decoder.take(&buffer[..count])?;
    }
    let bytes = decoder.finish()?;
    let head = read_head(&file, &bytes.meta)?;
    let state = read_rows(&file, bytes.content)?;
    let founded = state.founded().map(|founded| (founded.cluster_id.as_str(), founded.generation));
    if founded != Some((head.cluster_id.as_str(), head.generation)) || state.revision() != head.revision {
        let why = "its head speaks of another state than it holds".to_owned();
        return Err(BackupError::Damaged { file, why });
    }
    let violations = check(&state);
    if violations.is_empty() {
        Ok(Backup { head, state })
    } else {
        Err(BackupError::Violations { file, violations })
    }
}

fn read_head(file: &str, meta: &[u8]) -> Result<Head, BackupError> {
    #[derive(Deserialize)]
    struct Format {
        backup_format: u32,
    }
    let unknown = |source| BackupError::Head { file: file.to_owned(), source };
    let Format { backup_format: found } = serde_json::from_slice(meta).map_err(unknown)?;
    if found > FORMAT {
        return Err(BackupError::Newer { file: file.to_owned(), found });
    }
    serde_json::from_slice(meta).map_err(unknown)
}

fn read_rows(file: &str, mut content: Bytes) -> Result<Metadata, BackupError> {
    let damaged = |why: &str| BackupError::Damaged { file: file.to_owned(), why: why.to_owned() };
    let mut hash = XxHash64::with_seed(0);
    let mut rows = Vec::new();
    loop {
        let begun = content.clone();
        let (key, value) =
            take(&mut content).zip(take(&mut content)).ok_or_else(|| damaged("a row is cut"))?;
        if key == END_KEY {
            let end: End =
                serde_json::from_slice(&value).map_err(|_| damaged("its end is not understood"))?;
            let is_whole = end.rows == rows.len() as u64 && end.xxh64 == format!("{:016x}", hash.finish());
            if !is_whole || !content.is_empty() {
                return Err(damaged("its rows are not those that were written"));
            }
            break;
        }
        hash.write(&begun[..begun.len() - content.len()]);
        rows.push((key, value));
    }
    Metadata::from_rows(rows).map_err(|source| BackupError::Rows { file: file.to_owned(), source })
}

#[cfg(test)]
mod tests;
