//! The journal of one shard copy: what is in it is durable and in order.
//!
//! A frame is `length (u32 LE) | CRC-32 of the payload (u32 LE) | payload`; the payload is a format byte and JSON. All that
//! one fsync makes durable is *one* frame. So a crash can tear the last frame only, and whatever is found whole after a
//! broken frame proves that the broken one is damage, not a torn write: then the copy counts as unreadable.
//!
//! Behind the last frame the file is zeros, written ahead: an fsync of what overwrites them has no metadata to write, so it doesn't
//! wait for what else the file system is about.
//!
//! Caveat: damage to the very last frame can't be told from a torn write, as in any log without a second witness.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// JSON, version 2. Version 1 had no `fresh` and `doomed` in its base: whoever knows that alone must not read this.
const FORMAT: u8 = 2;
const OLDER_FORMAT: u8 = 1;
/// Bytes before a payload.
const HEAD: usize = 8;
/// Larger than any frame that is written: a chunk of 1 MiB and a batch of 4 MiB are base64 inside.
const MAX_FRAME_BYTES: usize = 64 << 20;
/// Zeros are written ahead in pieces of so many bytes.
const AHEAD_BYTES: usize = 128 << 10;

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Bytes of the first frame.
    base: u64,
    /// Bytes of all frames.
    len: u64,
    /// Bytes of the file: from `len` on zeros.
    reserved: u64,
}

/// A new journal that is written, but not in its place.
#[derive(Debug)]
pub(super) struct Prepared {
    journal: Journal,
    dir: Option<File>,
    temporary: PathBuf,
    path: PathBuf,
}

impl Prepared {
    /// Puts it in its place, durably. When that fails nobody knows which journal is found after a crash, so nothing may be
    /// appended to either.
    pub(super) fn take_place(self) -> io::Result<Journal> {
        std::fs::rename(&self.temporary, &self.path)?;
        self.dir.map_or(Ok(()), |dir| dir.sync_all())?;
        Ok(self.journal)
    }
}

/// Why a journal can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("{path}, offset {offset}: {why}")]
    Damaged { path: PathBuf, offset: usize, why: String },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A frame of `record`.
pub(super) fn frame(record: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; HEAD];
    out.push(FORMAT);
    serde_json::to_writer(&mut out, record)?;
    let payload = out.len() - HEAD;
    if payload > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a record beyond the journal's bound"));
    }
    let length = u32::try_from(payload).map_err(io::Error::other)?;
    let crc = crc32fast::hash(&out[HEAD..]);
    out[..4].copy_from_slice(&length.to_le_bytes());
    out[4..HEAD].copy_from_slice(&crc.to_le_bytes());
    Ok(out)
}

impl Journal {
    /// Writes a new journal that begins with `base`, in the place of `path`, durably and at once.
    pub(super) fn replace(path: &Path, base: &impl Serialize) -> io::Result<Self> {
        Self::prepare(path, base)?.take_place()
    }

    /// Writes a new journal that begins with `base` beside the one at `path`, which stays as it is.
    pub(super) fn prepare(path: &Path, base: &impl Serialize) -> io::Result<Prepared> {
        let temporary = path.with_extension("new");
        let bytes = frame(base)?;
        let mut file =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        // Opened here, since this may fail for a while: afterwards only what is fatal is left to fail.
        let dir = path.parent().map(File::open).transpose()?;
        Ok(Prepared {
            journal: Self {
                file,
                base: bytes.len() as u64,
                len: bytes.len() as u64,
                reserved: bytes.len() as u64,
            },
            dir,
            temporary,
            path: path.to_owned(),
        })
    }

    /// Opens the journal at `path` and reads its records; a torn last frame is cut off.
    pub(super) fn open<T: DeserializeOwned>(path: &Path) -> Result<(Self, Vec<T>), JournalError> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let damaged = |offset, why: String| JournalError::Damaged { path: path.to_owned(), offset, why };
        let (mut records, mut at, mut base) = (Vec::new(), 0, 0);
        while let Some(payload) = frame_at(&bytes, at) {
            let [FORMAT | OLDER_FORMAT, json @ ..] = payload else {
                return Err(damaged(at, "a record of an unknown format".to_owned()));
            };
            records.push(serde_json::from_slice(json).map_err(|e| damaged(at, e.to_string()))?);
            at += HEAD + payload.len();
            base = if base == 0 { at as u64 } else { base };
        }
        let mut reserved = bytes.len() as u64;
        if bytes[at..].iter().any(|byte| *byte != 0) {
            if (at + 1..bytes.len()).any(|later| frame_at(&bytes, later).is_some()) {
                return Err(damaged(at, "a broken record with whole ones after it".to_owned()));
            }
            tracing::warn!(path = %path.display(), offset = at, bytes = bytes.len() - at, "cut off a torn record");
            reserved = at as u64;
            file.set_len(reserved)?;
        }
        // A process that was killed before it synced left what is read here, but perhaps not on disk.
        file.sync_all()?;
        sync_parent(path)?;
        Ok((Self { file, base, len: at as u64, reserved }, records))
    }

    /// Appends one frame and makes it durable. When there is no space, nothing was appended and it may be tried again.
    pub(super) fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        if let Err(error) = self.write(frame) {
            // What was written in part is cut off; should that fail too, the next opening takes it for a torn frame,
            // but nothing may be appended behind it.
            self.file
                .set_len(self.len)
                .map_err(|_| io::Error::other("an append failed in part, and could not be undone"))?;
            self.reserved = self.len;
            return Err(error);
        }
        if let Err(error) = self.file.sync_data() {
            // The next opening must not find what may never reach the disk. Where this fails too, it may.
            if let Err(error) = self.file.set_len(self.len) {
                tracing::error!(%error, "a record that was not synced could not be taken back");
            }
            return Err(unsynced(error));
        }
        self.len += frame.len() as u64;
        Ok(())
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let end = self.len + frame.len() as u64;
        if end > self.reserved {
            self.reserved = match self.file.write_all_at(&[0; AHEAD_BYTES], end) {
                Ok(()) => end + AHEAD_BYTES as u64,
                Err(_) => {
                    // There may be room for the frame alone.
                    self.file.set_len(self.len)?;
                    end
                }
            };
        }
        self.file.write_all_at(frame, self.len)
    }

    /// Bytes of what was appended to what it began with.
    pub(super) fn grown(&self) -> u64 {
        self.len - self.base
    }

    /// Bytes of all frames.
    #[cfg(test)]
    pub(super) fn len(&self) -> u64 {
        self.len
    }
}

/// A failed fsync, as what it is: it may say that there was no space, but the frame is in the file, perhaps without ever
/// reaching the disk, so that trying again is no way out.
fn unsynced(error: io::Error) -> io::Error {
    io::Error::other(error)
}

/// The payload of the whole and unharmed frame at `at`, if one is there.
fn frame_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let head = bytes.get(at..at.checked_add(HEAD)?)?;
    let length = usize::try_from(u32::from_le_bytes([head[0], head[1], head[2], head[3]])).ok()?;
    // A payload has its format byte and at least one character; zeros, as of a file that grew, are no frame.
    if !(2..=MAX_FRAME_BYTES).contains(&length) {
        return None;
    }
    let payload = bytes.get(at + HEAD..(at + HEAD).checked_add(length)?)?;
    (crc32fast::hash(payload) == u32::from_le_bytes([head[4], head[5], head[6], head[7]])).then_some(payload)
}

/// Makes the entries of `path`'s directory durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path, records: &[&str]) -> Vec<u8> {
        let mut journal = Journal::replace(path, &"base").unwrap();
        for record in records {
            journal.append(&frame(record).unwrap()).unwrap();
        }
        let mut bytes = std::fs::read(path).unwrap();
        let ahead = bytes.split_off(usize::try_from(journal.len()).unwrap());
        assert!(!ahead.is_empty() && ahead.iter().all(|byte| *byte == 0));
        bytes
    }

    #[test]
    fn a_tail_torn_at_any_byte_is_cut_off_and_the_journal_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let whole = written(&path, &["one", "two"]);
        let last = frame(&"two").unwrap().len();
        for cut in 1..last {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let (mut journal, records) = Journal::open::<String>(&path).unwrap();
            assert_eq!(records, ["base", "one"], "cut by {cut}");
            journal.append(&frame(&"again").unwrap()).unwrap();
            assert_eq!(Journal::open::<String>(&path).unwrap().1, ["base", "one", "again"]);
        }
    }

    #[test]
    fn damage_with_whole_records_after_it_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut bytes = written(&path, &["one", "two"]);
        let offset = frame(&"base").unwrap().len();
        bytes[offset + HEAD + 2] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = Journal::open::<String>(&path).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { offset: at, .. } if at == offset), "{error}");
    }

    #[test]
    fn a_failed_fsync_is_never_taken_for_a_lack_of_space_that_passes() {
        assert_eq!(unsynced(io::ErrorKind::StorageFull.into()).kind(), io::ErrorKind::Other);
    }

    #[test]
    fn zeros_after_the_last_record_are_room_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        written(&path, &["one"]);
        let length = || std::fs::metadata(&path).unwrap().len();
        let before = length();
        let (mut journal, records) = Journal::open::<String>(&path).unwrap();
        assert_eq!(records, ["base", "one"]);
        journal.append(&frame(&"two").unwrap()).unwrap();
        assert_eq!(length(), before, "it is written over the zeros");
        let long = "x".repeat(AHEAD_BYTES);
        journal.append(&frame(&long).unwrap()).unwrap();
        assert_eq!(Journal::open::<String>(&path).unwrap().1, ["base", "one", "two", long.as_str()]);
    }

    #[test]
    fn a_record_torn_within_the_zeros_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let whole = written(&path, &["one", "two"]);
        let mut bytes = whole.clone();
        bytes.truncate(whole.len() - 2);
        bytes.extend([0; 100]);
        std::fs::write(&path, &bytes).unwrap();
        let (mut journal, records) = Journal::open::<String>(&path).unwrap();
        assert_eq!(records, ["base", "one"]);
        journal.append(&frame(&"again").unwrap()).unwrap();
        assert_eq!(Journal::open::<String>(&path).unwrap().1, ["base", "one", "again"]);
    }
}
