//! Reading entries: the newest from memory, older ones from their files, neighbours in one read.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{RECORD_BYTES, Record, decode_record};
use super::{Segment, Shared, WalError};
use crate::error::Damage;

/// The most that one read of a file fetches, in bytes.
const RUN_BYTES: u64 = 4 << 20;

enum Piece {
    Cached(u64, Bytes),
    Stored(Run),
}

/// Entries that stand one after the other in a file.
struct Run {
    segment: Segment,
    number: u64,
    start: u64,
    end: u64,
    /// Index and offset of each.
    entries: Vec<(u64, u64)>,
}

pub(super) async fn read(
    shared: &Shared,
    range: Range<u64>,
    max_bytes: u64,
) -> Result<Vec<(u64, Bytes)>, WalError> {
    let mut found = Vec::new();
    for piece in plan(shared, range, max_bytes)? {
        match piece {
            Piece::Cached(index, body) => found.push((index, body)),
            Piece::Stored(run) => run.read_into(&mut found).await?,
        }
    }
    Ok(found)
}

fn plan(shared: &Shared, range: Range<u64>, max_bytes: u64) -> Result<Vec<Piece>, WalError> {
    let state = shared.lock();
    if let Some(error) = &state.failed {
        return Err(error.clone());
    }
    let mut pieces: Vec<Piece> = Vec::new();
    let mut bytes = 0;
    let start = range.start.max(state.index.extent.first);
    for index in start..range.end.min(state.index.extent.next) {
        let Some(slot) = state.index.get(index) else { break };
        if bytes > 0 && bytes + u64::from(slot.len) > max_bytes {
            break;
        }
        bytes += u64::from(slot.len).max(1);
        if let Some(body) = &slot.body {
            pieces.push(Piece::Cached(index, body.clone()));
            continue;
        }
        let stored = slot.place.and_then(|p| state.segments.get(&p.segment).map(|s| (p, s)));
        let Some((place, segment)) = stored else {
            return Err(Damage::new("the log", 0, format!("entry {index} has no place in any file")).into());
        };
        let end = place.offset + RECORD_BYTES as u64 + u64::from(slot.len);
        match pieces.last_mut() {
            Some(Piece::Stored(run)) if run.takes(place.segment, place.offset, end) => {
                run.end = end;
                run.entries.push((index, place.offset));
            }
            _ => pieces.push(Piece::Stored(Run {
                segment: segment.clone(),
                number: place.segment,
                start: place.offset,
                end,
                entries: vec![(index, place.offset)],
            })),
        }
    }
    Ok(pieces)
}

impl Run {
    fn takes(&self, segment: u64, offset: u64, end: u64) -> bool {
        self.number == segment && offset >= self.end && end - self.start <= RUN_BYTES
    }

    async fn read_into(&self, found: &mut Vec<(u64, Bytes)>) -> Result<(), WalError> {
        let len = usize::try_from(self.end - self.start).unwrap_or(usize::MAX);
        let failed = |source| WalError::Failed {
            what: format!("cannot read {}", self.segment.name),
            source: Arc::new(source),
        };
        let bytes = self.segment.file.read_at(self.start, len).await.map_err(failed)?;
        for (index, offset) in &self.entries {
            let at = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
            match decode_record(&bytes, at) {
                Ok((Record::Entry { index: stored, body }, _)) if stored == *index => {
                    found.push((*index, body))
                }
                _ => {
                    let why = format!("entry {index} does not have its checksum");
                    return Err(Damage::new(&self.segment.name, *offset, why).into());
                }
            }
        }
        Ok(())
    }
}
