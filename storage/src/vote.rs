//! Small values that must never be lost or go back once saved: Raft's vote, a promise, the directory's identity.
//!
//! Each has two files with the same value, written and synced one after the other. Whatever single write is torn or
//! single file is damaged, the other one has the last value that was acknowledged, or the newer one being saved. (One
//! write to alternating slots would not do: damage to the newer slot would look like an unfinished write, and a vote
//! would be forgotten.)
//!
//! ```text
//! file: magic "ruvcslt" | format u8 | sequence u64 | length u32 | crc32 u32 of all else | value     (little-endian)
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Mutex;

use crate::disk::{Disk, DiskFile, OpenMode, WriteSyncError, is_full, read_all};
use crate::error::Damage;

#[cfg(test)]
mod tests;

const MAGIC: &[u8; 7] = b"ruvcslt";
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 24;
/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(500);
/// The name of Raft's vote among the directory's values.
pub const VOTE: &str = "vote";
/// The largest value, in bytes. What is kept here has some hundred.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// Why a value was not read or saved.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Both files are unreadable.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Written by a newer version.
    #[error("{file} has format {found} at byte 7, this version reads up to {FORMAT}; run the newer version")]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        found: u8,
    },
    /// The value is larger than [`MAX_VALUE_BYTES`].
    #[error("a value of {bytes} bytes for {file} is larger than {MAX_VALUE_BYTES}")]
    TooLarge {
        /// The file.
        file: String,
        /// Its length.
        bytes: usize,
    },
    /// An earlier save failed, so what is on disk is not known. Final.
    #[error("an earlier save of {file} failed; the process must stop")]
    Failed {
        /// The file.
        file: String,
    },
    /// There was no room for it, and `Slots::save_once` doesn't wait. What is on disk is not known. Final.
    #[error("there is no room to write {file}")]
    Full {
        /// The file.
        file: String,
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

/// One value in two files. Clones share it.
#[derive(Clone)]
pub struct Slots {
    inner: Arc<Mutex<Inner>>,
}

/// Raft's vote, as bytes.
pub type VoteFile = Slots;

struct Inner {
    files: [(String, Arc<dyn DiskFile>); 2],
    sequence: u64,
    value: Option<Bytes>,
    failed: bool,
}

enum Content {
    Empty,
    Value(u64, Bytes),
    Unreadable(&'static str),
    Newer(u8),
}

/// What to do without room for a value.
#[derive(Clone, Copy)]
enum OnFull {
    Wait,
    Fail,
}

/// The names of the two files of the value `name`.
pub fn slot_names(name: &str) -> [String; 2] {
    [format!("{name}-0.slot"), format!("{name}-1.slot")]
}

impl Slots {
    /// Opens the value `name`, creating its files when they are missing, and repairing one from the other.
    ///
    /// # Errors
    /// [`SlotError::Damaged`] when neither file can be read, [`SlotError::Newer`], [`SlotError::Io`].
    pub async fn open(disk: &dyn Disk, name: &str) -> Result<Self, SlotError> {
        let mut files = Vec::new();
        let mut contents = Vec::new();
        for name in slot_names(name) {
            let path = disk.describe(&name);
            let io = |source| SlotError::Io { doing: "read", file: path.clone(), source };
            let file = disk.open(&name, OpenMode::Create).await.map_err(io)?;
            contents.push(decode(&read_all(file.as_ref()).await.map_err(io)?));
            files.push((path, file));
        }
        let io = |source| SlotError::Io { doing: "sync", file: disk.describe(""), source };
        disk.sync_dir().await.map_err(io)?;
        let (Some(second), Some(first)) = (files.pop(), files.pop()) else {
            unreachable!("two names, two files")
        };
        let mut inner = Inner { files: [first, second], sequence: 0, value: None, failed: false };
        inner.choose(&contents).await?;
        Ok(Self { inner: Arc::new(Mutex::new(inner)) })
    }

    /// What was last saved.
    pub async fn load(&self) -> Option<Bytes> {
        self.inner.lock().await.value.clone()
    }

    /// Saves; durable when this returns.
    ///
    /// # Errors
    /// After any failure every later save fails too, since the value on disk is not known.
    pub async fn save(&self, value: Bytes) -> Result<(), SlotError> {
        self.save_with(value, OnFull::Wait).await
    }

    /// As [`Slots::save`], but a full disk is a failure: for a value that may be left as it was.
    ///
    /// # Errors
    /// [`SlotError::Full`], and as [`Slots::save`]: no later save succeeds.
    pub(crate) async fn save_once(&self, value: Bytes) -> Result<(), SlotError> {
        self.save_with(value, OnFull::Fail).await
    }

    async fn save_with(&self, value: Bytes, on_full: OnFull) -> Result<(), SlotError> {
        let mut inner = self.inner.lock().await;
        let file = || inner.files[0].0.clone();
        if inner.failed {
            return Err(SlotError::Failed { file: file() });
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(SlotError::TooLarge { file: file(), bytes: value.len() });
        }
        // Also true when this future is dropped half way.
        inner.failed = true;
        let sequence = inner.sequence + 1;
        let bytes = encode(sequence, &value);
        for at in 0..2 {
            inner.write(at, bytes.clone(), on_full).await?;
        }
        (inner.sequence, inner.value, inner.failed) = (sequence, Some(value), false);
        Ok(())
    }
}

impl Inner {
    /// May wait while the disk is full: a longer value may need room, and a node that can't vote for a while must not end for it.
    async fn write(&self, at: usize, bytes: Bytes, on_full: OnFull) -> Result<(), SlotError> {
        let (name, file) = &self.files[at];
        loop {
            let written = if mutants::is_on(mutants::Mutant::VoteNotSynced) && is_vote(name) {
                file.write_at(0, bytes.clone()).await.map_err(WriteSyncError::Write)
            } else {
                file.write_synced(0, bytes.clone()).await
            };
            match written {
                Err(WriteSyncError::Write(e)) if is_full(&e) => match on_full {
                    OnFull::Wait => tokio::time::sleep(FULL_RETRY).await,
                    OnFull::Fail => return Err(SlotError::Full { file: name.clone() }),
                },
                written => {
                    return written.map_err(|e| SlotError::Io {
                        doing: "write",
                        file: name.clone(),
                        source: e.into(),
                    });
                }
            }
        }
    }

    async fn choose(&mut self, contents: &[Content]) -> Result<(), SlotError> {
        for (content, (file, _)) in contents.iter().zip(&self.files) {
            if let Content::Newer(found) = content {
                return Err(SlotError::Newer { file: file.clone(), found: *found });
            }
        }
        let newest = contents.iter().filter_map(|c| match c {
            Content::Value(sequence, value) => Some((*sequence, value.clone())),
            Content::Empty | Content::Unreadable(_) | Content::Newer(_) => None,
        });
        if let Some((sequence, value)) = newest.max_by_key(|n| n.0) {
            for (at, content) in contents.iter().enumerate() {
                if !matches!(content, Content::Value(s, _) if *s == sequence) {
                    tracing::warn!(
                        file = self.files[at].0,
                        "repaired from its twin after an unfinished write"
                    );
                    self.write(at, encode(sequence, &value), OnFull::Wait).await?;
                }
            }
            (self.sequence, self.value) = (sequence, Some(value));
            return Ok(());
        }
        match (&contents[0], &contents[1]) {
            // The second is written after the first was synced: with nothing in it, nothing was ever acknowledged.
            (_, Content::Empty) => Ok(()),
            (_, Content::Unreadable(why)) => Err(Damage::new(&self.files[1].0, 0, *why).into()),
            (_, Content::Value(..) | Content::Newer(_)) => Ok(()),
        }
    }
}

fn is_vote(file: &str) -> bool {
    slot_names(VOTE).iter().any(|name| file.ends_with(name.as_str()))
}

fn encode(sequence: u64, value: &Bytes) -> Bytes {
    let mut file = BytesMut::with_capacity(HEAD_BYTES + value.len());
    file.put_slice(MAGIC);
    file.put_u8(FORMAT);
    file.put_u64_le(sequence);
    file.put_u32_le(value.len() as u32);
    let crc = checksum(&file[..20], value);
    file.put_u32_le(crc);
    file.put_slice(value);
    file.freeze()
}

fn checksum(head: &[u8], value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(value);
    crc.finalize()
}

fn decode(bytes: &Bytes) -> Content {
    let number =
        |at: usize, len: usize| bytes[at..at + len].iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
    if bytes.iter().all(|b| *b == 0) {
        return Content::Empty;
    }
    if bytes.len() < HEAD_BYTES || &bytes[..7] != MAGIC {
        return Content::Unreadable("it does not begin as such a file does");
    }
    let len = usize::try_from(number(16, 4)).unwrap_or(usize::MAX);
    let Some(value) = HEAD_BYTES.checked_add(len).and_then(|end| bytes.get(HEAD_BYTES..end)) else {
        return Content::Unreadable("it is shorter than it says");
    };
    if number(20, 4) != u64::from(checksum(&bytes[..20], value)) {
        return Content::Unreadable("it does not have its checksum");
    }
    match bytes[7] {
        FORMAT => Content::Value(number(8, 8), bytes.slice(HEAD_BYTES..HEAD_BYTES + len)),
        newer => Content::Newer(newer),
    }
}
