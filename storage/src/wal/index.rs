//! What the log holds and where: pure bookkeeping, without I/O.
//!
//! Invariants: entries are contiguous; every entry is in memory, or has a place in a file, or both; those in memory
//! are the newest ones; the first `durable` entries have a place.

use std::collections::VecDeque;

use bytes::Bytes;

use super::frame::Record;

/// The bounds of a log, and what was said beside its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) purged: Option<(u64, Bytes)>,
    pub(crate) committed: Option<(u64, Bytes)>,
}

impl Extent {
    /// Whether `index` is where the next entry goes. An empty log that was never purged begins anywhere.
    pub(crate) fn takes(&self, index: u64) -> bool {
        index == self.next || (self.first == self.next && self.purged.is_none())
    }

    /// The highest index that is, or once was, in the log.
    pub(crate) fn end(&self) -> Option<u64> {
        if self.first == self.next { self.purged.as_ref().map(|p| p.0) } else { self.next.checked_sub(1) }
    }

    /// Takes a record; false when it doesn't fit.
    #[must_use]
    pub(crate) fn apply(&mut self, record: &Record) -> bool {
        match record {
            Record::State { first, next } => {
                if first > next {
                    return false;
                }
                (self.first, self.next) = (*first, *next);
            }
            Record::Entry { index, .. } => {
                if !self.takes(*index) || *index == u64::MAX {
                    return false;
                }
                if self.first == self.next {
                    self.first = *index;
                }
                self.next = index + 1;
            }
            Record::Truncate { next } => self.next = self.next.min(*next).max(self.first),
            Record::Purge { upto, meta } => {
                let Some(first) = upto.checked_add(1) else { return false };
                if self.purged.as_ref().is_some_and(|p| p.0 > *upto) {
                    return true;
                }
                self.first = self.first.max(first);
                self.next = self.next.max(self.first);
                self.purged = Some((*upto, meta.clone()));
            }
            Record::Reset { upto, meta } => {
                let Some(first) = upto.checked_add(1) else { return false };
                (self.first, self.next) = (first, first);
                self.purged = Some((*upto, meta.clone()));
            }
            Record::Committed { index, meta } => self.committed = Some((*index, meta.clone())),
        }
        true
    }
}

/// Where an entry's record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the segment.
    pub(crate) segment: u64,
    /// Offset of the record's head in it.
    pub(crate) offset: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// Tells an entry from one that had the same index before.
    pub(crate) serial: u64,
    /// Length of the entry in bytes.
    pub(crate) len: u32,
    pub(crate) place: Option<Place>,
    pub(crate) body: Option<Bytes>,
}

/// The entries of a log.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) extent: Extent,
    slots: VecDeque<Slot>,
    next_serial: u64,
    /// How many entries from the first on have a place.
    durable: usize,
    /// How many entries at the end are in memory, and their bytes.
    cached: usize,
    cached_bytes: u64,
}

impl Index {
    /// Takes a record as written, at `place` if it has been; false when it doesn't fit. Returns the serial of an entry.
    #[must_use]
    pub(crate) fn apply(&mut self, record: &Record, place: Option<Place>) -> Option<u64> {
        let old_first = self.extent.first;
        let was_empty = self.slots.is_empty();
        if !self.extent.apply(record) {
            return None;
        }
        let serial = self.next_serial;
        match record {
            Record::State { first, next } => {
                self.clear();
                let missing = Slot { serial, len: 0, place: None, body: None };
                self.slots = (*first..*next).map(|_| missing.clone()).collect();
            }
            Record::Entry { body, .. } => {
                self.next_serial += 1;
                let cached = place.is_none().then(|| body.clone());
                if cached.is_some() {
                    self.cached += 1;
                    self.cached_bytes += body.len() as u64;
                }
                self.slots.push_back(Slot { serial, len: body.len() as u32, place, body: cached });
            }
            Record::Truncate { .. } => {
                let keep = usize::try_from(self.extent.next - self.extent.first).unwrap_or(usize::MAX);
                while self.slots.len() > keep {
                    let slot = self.slots.pop_back();
                    self.forget(slot);
                }
                self.durable = self.durable.min(self.slots.len());
            }
            Record::Purge { .. } if was_empty => {}
            Record::Purge { .. } => {
                let gone = usize::try_from(self.extent.first - old_first)
                    .unwrap_or(usize::MAX)
                    .min(self.slots.len());
                for _ in 0..gone {
                    let slot = self.slots.pop_front();
                    self.forget(slot);
                }
                self.durable = self.durable.saturating_sub(gone);
            }
            Record::Reset { .. } => self.clear(),
            Record::Committed { .. } => {}
        }
        Some(serial)
    }

    fn clear(&mut self) {
        self.slots.clear();
        (self.durable, self.cached, self.cached_bytes) = (0, 0, 0);
    }

    fn forget(&mut self, slot: Option<Slot>) {
        if let Some(body) = slot.and_then(|s| s.body) {
            self.cached -= 1;
            self.cached_bytes -= body.len() as u64;
        }
    }

    /// The first index, unless the log is empty.
    pub(crate) fn first(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.extent.first)
    }

    /// The last index, unless the log is empty.
    pub(crate) fn last(&self) -> Option<u64> {
        self.slots.len().checked_sub(1).map(|n| self.extent.first + n as u64)
    }

    /// The entry at `index`.
    pub(crate) fn get(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.extent.first)?).ok()?)
    }

    /// Says where an entry now is on disk, unless it is gone or another one has its index.
    pub(crate) fn set_place(&mut self, index: u64, serial: u64, place: Place) {
        let Some(at) = index.checked_sub(self.extent.first).and_then(|n| usize::try_from(n).ok()) else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(at).filter(|s| s.serial == serial) {
            slot.place = Some(place);
        }
    }

    /// The first entry that has neither place nor body.
    pub(crate) fn first_missing(&self) -> Option<u64> {
        let at = self.slots.iter().position(|s| s.place.is_none() && s.body.is_none())?;
        Some(self.extent.first + at as u64)
    }

    /// The highest index such that it and all before it are on disk.
    pub(crate) fn durable(&mut self) -> Option<u64> {
        while self.slots.get(self.durable).is_some_and(|s| s.place.is_some()) {
            self.durable += 1;
        }
        match self.durable {
            0 => self.extent.purged.as_ref().map(|p| p.0),
            n => Some(self.extent.first + n as u64 - 1),
        }
    }

    /// Drops the oldest bodies that are on disk until the rest has at most `limit_bytes`.
    pub(crate) fn evict(&mut self, limit_bytes: u64) {
        while self.cached_bytes > limit_bytes {
            let oldest = self.slots.len() - self.cached;
            let Some(slot) = self.slots.get_mut(oldest).filter(|s| s.place.is_some()) else { return };
            if let Some(body) = slot.body.take() {
                self.cached -= 1;
                self.cached_bytes -= body.len() as u64;
            }
        }
    }
}
