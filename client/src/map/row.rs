//! A shard's row in 32 bytes, and the chunks that rows are kept in.
//!
//! A node is a small integer (its index among the map's [places](super::places)). The rows of [`CHUNK`] shards are copied
//! together when one of them changes, and all others are shared with the map before the change.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::Epoch;

/// Rows that change together: 32 KiB are copied for a change, and 1,000,000 shards need 977 pointers.
pub(super) const CHUNK: usize = 1_024;

/// Copies that stand in the row itself: replication by 4 and one that moves.
const INLINE: usize = 5;

/// Copies that a row can count. Control nodes take a replication factor of at most 7.
pub(super) const MAX_COPIES: usize = 255;

/// A node that has a copy, and whether that copy is in sync, in one integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seat(u32);

impl Seat {
    pub(super) fn new(place: u32, in_sync: bool) -> Self {
        Self(place << 1 | u32::from(in_sync))
    }

    /// Index among the places.
    pub(super) fn place(self) -> u32 {
        self.0 >> 1
    }

    pub(super) fn is_in_sync(self) -> bool {
        self.0 & 1 == 1
    }
}

/// What a row says of its seats, besides who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) epoch: Epoch,
    /// All seats: the primary, the replicas, then who is in sync without being either (the target of a move that ends).
    pub(super) seats: u8,
    /// The primary and the replicas.
    pub(super) full: u8,
    pub(super) has_primary: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    epoch: Epoch,
    inline: [Seat; INLINE],
    seats: u8,
    full: u8,
    has_primary: bool,
}

impl Row {
    fn new(head: Head) -> Self {
        let Head { epoch, seats, full, has_primary } = head;
        Self { epoch, inline: [Seat::default(); INLINE], seats, full, has_primary }
    }

    fn head(&self) -> Head {
        let Self { epoch, seats, full, has_primary, inline: _ } = *self;
        Head { epoch, seats, full, has_primary }
    }
}

/// All rows. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// From a shard to its row it is one step that may miss the caches, and a table of 16 KB for 1,000,000 shards.
    chunks: Arc<[Arc<[Row]>]>,
    /// The seats of rows that have more than [`INLINE`]: hardly any.
    wide: Arc<BTreeMap<usize, Box<[Seat]>>>,
}

impl Rows {
    /// `count` rows that nobody has said anything of.
    pub(super) fn new(count: usize) -> Self {
        let chunk = |at: usize| Arc::from(vec![Row::default(); CHUNK.min(count - at * CHUNK)]);
        Self { chunks: (0..count.div_ceil(CHUNK)).map(chunk).collect(), wide: Arc::default() }
    }

    /// What a shard's row says.
    #[inline]
    pub(super) fn get(&self, shard: usize) -> Option<(Head, &[Seat])> {
        let row = self.chunks.get(shard / CHUNK)?.get(shard % CHUNK)?;
        match row.inline.get(..usize::from(row.seats)) {
            Some(seats) => Some((row.head(), seats)),
            None => Some((row.head(), self.wide.get(&shard)?)),
        }
    }

    /// Copies what is shared of the row's chunk; a shard that does not exist is let pass.
    pub(super) fn set(&mut self, shard: usize, head: Head, seats: &[Seat]) {
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(shard / CHUNK);
        let Some(row) = chunk.and_then(|chunk| Arc::make_mut(chunk).get_mut(shard % CHUNK)) else { return };
        *row = Row::new(head);
        match row.inline.get_mut(..seats.len()) {
            Some(inline) => {
                inline.copy_from_slice(seats);
                if self.wide.contains_key(&shard) {
                    Arc::make_mut(&mut self.wide).remove(&shard);
                }
            }
            None => {
                Arc::make_mut(&mut self.wide).insert(shard, seats.into());
            }
        }
    }

    /// Bytes that they take, what the allocator adds apart.
    pub(super) fn bytes(&self) -> usize {
        let counts = 2 * size_of::<usize>();
        let chunks: usize = self.chunks.iter().map(|chunk| size_of_val::<[Row]>(chunk) + counts).sum();
        let wide: usize = self.wide.values().map(|seats| size_of_val::<[Seat]>(seats)).sum();
        let nodes = self.wide.len() * size_of::<(usize, Box<[Seat]>)>() * 3 / 2;
        self.chunks.len() * size_of::<Arc<[Row]>>() + chunks + wide + nodes
    }

    /// How many chunks `other` does not share.
    #[cfg(test)]
    pub(super) fn unshared(&self, other: &Self) -> usize {
        self.chunks.iter().zip(&*other.chunks).filter(|(a, b)| !Arc::ptr_eq(a, b)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_32_bytes() {
        assert_eq!(size_of::<Row>(), 32);
    }

    #[test]
    fn a_row_that_grows_wide_and_narrow_again_leaves_nothing_behind() {
        let mut rows = Rows::new(CHUNK + 1);
        let seats: Vec<Seat> = (0..9).map(|place| Seat::new(place, place % 2 == 0)).collect();
        let head = |count: usize| Head { seats: u8::try_from(count).unwrap(), ..Head::default() };
        for at in [3, CHUNK] {
            rows.set(at, head(9), &seats);
            assert_eq!(rows.get(at), Some((head(9), &seats[..])));
            rows.set(at, head(7), &seats[..7]);
            assert_eq!(rows.get(at), Some((head(7), &seats[..7])));
            rows.set(at, head(2), &seats[..2]);
            assert_eq!(rows.get(at), Some((head(2), &seats[..2])));
        }
        assert!(rows.wide.is_empty());
        assert_eq!(rows.get(CHUNK + 1), None);
    }
}
