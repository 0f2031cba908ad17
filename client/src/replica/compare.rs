//! What a copy that is being filled has of a range already, and what of it need not be sent.
//!
//! It reads its own next range ([`Own`]) and tells the digest of all entries in it. The source reads the same range, at most a
//! chunk's bytes of it. Where the digests are equal it answers `same`; else `differs`, and is asked again with the digest of
//! each entry. Then it sends the entries of its range that are not among them, and says which of them it has too.
//! So for scattered changes about what has changed is sent, and 11 characters for each entry of a range that differs.
//!
//! The answer to entries is no chunk that a store could take: between the keys that stay lie ranges that become equal to the
//! source, each a chunk of its own ([`Own::parts`]). Stores know nothing of comparing.
//!
//! Why an entry may stay that was equal when it was read here, though writes are forwarded meanwhile: see `fill`.

use std::collections::BTreeMap;

use super::digest::Digest;
use super::wire::{Answer, Chunk, OwnRange, SameRun, Write};
use super::{Key, OpId};
use crate::ids::Epoch;

/// Most entries that are compared at a time: 44 KiB of digests in a request.
const MAX_ENTRIES: usize = 4_096;

/// An entry of the copy that is being filled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct OwnEntry {
    key: Key,
    digest: Digest,
    bytes: u64,
}

/// What the copy that is being filled is known to have after the ranges that are done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Own {
    /// Not known.
    Unread,
    /// It is being read.
    Reading(OpId),
    /// These entries, up to `upto`.
    Read(OwnEntries),
    /// Nothing at all but what was forwarded since.
    Nothing,
}

/// Entries of a range, ascending by key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OwnEntries {
    upto: Option<Key>,
    /// At least one.
    entries: Vec<OwnEntry>,
    /// The source said that it has something else there: the next request tells each entry.
    differs: bool,
}

/// An answer that doesn't fit the question, or isn't what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

impl Own {
    /// As a chunk of the own content, with no other end than its size, says.
    pub(super) fn read(chunk: Chunk) -> Self {
        let cut = chunk.writes.get(MAX_ENTRIES).is_some();
        let entry = |write: &Write| OwnEntry {
            key: write.key.clone(),
            digest: Digest::of_write(write),
            bytes: write.size_bytes() as u64,
        };
        let entries: Vec<OwnEntry> = chunk.writes.iter().take(MAX_ENTRIES).map(entry).collect();
        let upto = if cut { entries.last().map(|entry| entry.key.clone()) } else { chunk.upto };
        if entries.is_empty() {
            Self::Nothing
        } else {
            Self::Read(OwnEntries { upto, entries, differs: false })
        }
    }

    /// What is told to the source.
    pub(super) fn told(&self) -> Option<Box<OwnRange>> {
        let Self::Read(own) = self else { return None };
        let digests = || own.entries.iter().map(|entry| entry.digest);
        let entries = own.differs.then(|| digests().collect());
        Some(Box::new(OwnRange { upto: own.upto.clone(), digest: Digest::of_entries(digests()), entries }))
    }

    /// The source has something else there.
    pub(super) fn differs(&mut self) -> Result<(), Damaged> {
        match self {
            Self::Read(own) if !own.differs => {
                own.differs = true;
                Ok(())
            }
            Self::Read(_) | Self::Unread | Self::Reading(_) | Self::Nothing => Err(Damaged),
        }
    }

    /// The source has the same up to `upto`: how many bytes that are.
    pub(super) fn same(&self, upto: Option<&Key>) -> Result<u64, Damaged> {
        match self {
            Self::Read(own) if own.upto.as_ref() == upto => {
                Ok(own.entries.iter().map(|entry| entry.bytes).sum())
            }
            Self::Read(_) | Self::Unread | Self::Reading(_) | Self::Nothing => Err(Damaged),
        }
    }

    /// The chunks that make the range of `chunk` equal to the source, and how many bytes it has there in all.
    pub(super) fn parts(&self, chunk: Chunk, same: &[SameRun]) -> Result<(Vec<Chunk>, u64), Damaged> {
        let sent = chunk.size_bytes();
        if same.is_empty() {
            return Ok((vec![chunk], sent));
        }
        let Self::Read(own) = self else { return Err(Damaged) };
        if !own.differs || ends_before(own.upto.as_ref(), chunk.upto.as_ref()) {
            return Err(Damaged);
        }
        // What becomes of each key that is known on either side: it stays, or goes, or is set.
        let in_range = |entry: &&OwnEntry| chunk.upto.as_ref().is_none_or(|upto| entry.key <= *upto);
        let mut keys: BTreeMap<&Key, Fate> =
            own.entries.iter().take_while(in_range).map(|entry| (&entry.key, Fate::Goes)).collect();
        let mut stay = 0;
        for entry in kept(own, same)? {
            if keys.insert(&entry.key, Fate::Stays) != Some(Fate::Goes) {
                return Err(Damaged);
            }
            stay += entry.bytes;
        }
        for write in &chunk.writes {
            keys.insert(&write.key, Fate::Set(write));
        }
        let part = |after: Option<&Key>| Chunk {
            after: after.cloned(),
            upto: None,
            writes: Vec::new(),
            at: chunk.at,
            total_bytes: None,
        };
        let mut parts = Vec::new();
        let mut after = chunk.after.as_ref();
        let mut open: Option<Chunk> = None;
        for (key, fate) in keys {
            if fate == Fate::Stays {
                parts.extend(open.take());
                after = Some(key);
                continue;
            }
            let open = open.get_or_insert_with(|| part(after));
            open.upto = Some(key.clone());
            if let Fate::Set(write) = fate {
                open.writes.push(write.clone());
            }
        }
        parts.extend(open);
        Ok((parts, sent + stay))
    }

    /// The range up to `upto` is done.
    pub(super) fn done(&mut self, upto: Option<&Key>) {
        let Self::Read(own) = self else { return };
        // What is left of what was read could be told next, but a range of full size takes fewer requests.
        let is_last = own.upto.is_none() && own.entries.last().map(|entry| &entry.key) <= upto;
        *self = if is_last { Self::Nothing } else { Self::Unread };
    }
}

/// Whether a range with this end has less than one with that, both beginning at the same key.
fn ends_before(this: Option<&Key>, that: Option<&Key>) -> bool {
    this.is_some_and(|this| that.is_none_or(|that| this < that))
}

/// The entries that the runs name.
fn kept<'a>(own: &'a OwnEntries, same: &[SameRun]) -> Result<Vec<&'a OwnEntry>, Damaged> {
    let mut kept = Vec::new();
    for run in same {
        let first = usize::try_from(run.first).map_err(|_| Damaged)?;
        let count = usize::try_from(run.count).map_err(|_| Damaged)?;
        let end = first.checked_add(count).filter(|end| *end <= own.entries.len()).ok_or(Damaged)?;
        kept.extend(&own.entries[first..end]);
    }
    Ok(kept)
}

/// What becomes of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate<'a> {
    Stays,
    Goes,
    Set(&'a Write),
}

/// The answer to a copy that has `have`, of a source that has `chunk` there.
pub(super) fn answer(epoch: Epoch, have: Option<&OwnRange>, mut chunk: Chunk) -> Answer {
    let mut same = Vec::new();
    if let Some(have) = have {
        let digests: Vec<Digest> = chunk.writes.iter().map(Digest::of_write).collect();
        let is_same = || Digest::of_entries(digests.iter().copied()) == have.digest;
        if chunk.upto == have.upto && is_same() {
            let Chunk { upto, at, total_bytes, .. } = chunk;
            return Answer::Same { epoch, upto, at, total_bytes };
        }
        let Some(entries) = &have.entries else { return Answer::Differs { epoch } };
        let theirs: BTreeMap<Digest, u32> = entries.iter().copied().zip(0..).collect();
        let places: Vec<Option<u32>> = digests.iter().map(|digest| theirs.get(digest).copied()).collect();
        let mut is_missing = places.iter().map(Option::is_none);
        chunk.writes.retain(|_| is_missing.next().unwrap_or(true));
        same = runs(places.into_iter().flatten());
    }
    let digest = Some(Digest::of_chunk(&chunk, &same));
    Answer::Chunk { epoch, chunk, same, digest }
}

/// Ascending where the entries of both sides are.
fn runs(places: impl Iterator<Item = u32>) -> Vec<SameRun> {
    let mut runs: Vec<SameRun> = Vec::new();
    for place in places {
        match runs.last_mut() {
            Some(run) if run.first + run.count == place => run.count += 1,
            _ => runs.push(SameRun { first: place, count: 1 }),
        }
    }
    runs
}
