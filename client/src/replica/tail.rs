//! The recent part of a copy's log: which keys were written at which positions.
//!
//! It holds no values. Two copies that differ are made equal by finding the last position that both have and setting
//! each key written after it, on either side, to what the primary has. As in Raft, a position that two logs have in
//! common means that they are equal up to there, because a copy takes a write only right after the one before it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Key;
use crate::ids::Position;

/// How many writes a copy remembers. An in-sync copy differs from another by at most one window of unacknowledged writes on
/// either side ([`Limits::window`](super::Limits)), so that reconciliation never needs more than a part of this.
pub const TAIL_ENTRIES: usize = 1_024;

/// A write in the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TailEntry {
    /// Its place.
    pub position: Position,
    /// What it wrote.
    pub key: Key,
}

/// The last writes of a copy, gapless.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tail {
    /// The position before the first entry; (0, 0) when the log is remembered from its beginning.
    pub floor: Position,
    /// Ascending in number by one.
    pub entries: VecDeque<TailEntry>,
}

impl Tail {
    /// An empty tail after `floor`.
    pub fn after(floor: Position) -> Self {
        Self { floor, entries: VecDeque::new() }
    }

    /// The last position.
    pub fn last(&self) -> Position {
        self.entries.back().map_or(self.floor, |entry| entry.position)
    }

    /// Adds a write and forgets the oldest ones beyond `keep`.
    pub fn push(&mut self, entry: TailEntry, keep: usize) {
        self.entries.push_back(entry);
        while self.entries.len() > keep {
            if let Some(forgotten) = self.entries.pop_front() {
                self.floor = forgotten.position;
            }
        }
    }

    /// Forgets everything after `position`, which the tail has.
    pub fn truncate_after(&mut self, position: Position) {
        while self.entries.back().is_some_and(|entry| entry.position.n > position.n) {
            self.entries.pop_back();
        }
    }

    /// The entries after `position`.
    pub fn entries_after(&self, position: Position) -> impl Iterator<Item = &TailEntry> {
        let known = self.entries.partition_point(|entry| entry.position.n <= position.n);
        self.entries.range(known..)
    }

    /// The tail in short: its floor, then the last position of each epoch in it.
    pub fn marks(&self) -> Vec<Position> {
        let mut marks = vec![self.floor];
        for entry in &self.entries {
            match marks.last_mut() {
                Some(mark) if marks_one_run(*mark, self.floor, entry.position) => *mark = entry.position,
                _ => marks.push(entry.position),
            }
        }
        marks
    }

    /// The last position that this log and the one with these marks have in common, if it is remembered on both sides.
    pub fn common_with(&self, marks: &[Position]) -> Option<Position> {
        let ours = self.entries.iter().rev().map(|entry| entry.position).chain([self.floor]);
        ours.into_iter().find(|position| is_marked(marks, *position))
    }
}

fn marks_one_run(mark: Position, floor: Position, next: Position) -> bool {
    mark != floor && mark.epoch == next.epoch
}

/// Whether the log with these marks has `position`.
fn is_marked(marks: &[Position], position: Position) -> bool {
    let covered = marks.first().is_some_and(|floor| floor.n <= position.n);
    let run = marks.iter().find(|mark| mark.n >= position.n);
    covered && run.is_some_and(|mark| mark.epoch == position.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    fn at(epoch: u64, n: u64) -> Position {
        Position { epoch: Epoch(epoch), n }
    }

    fn tail(floor: Position, positions: &[Position]) -> Tail {
        let mut tail = Tail::after(floor);
        for position in positions {
            tail.push(TailEntry { position: *position, key: "k".into() }, 100);
        }
        tail
    }

    #[test]
    fn marks_name_the_last_position_of_each_epoch() {
        let log = tail(at(3, 100), &[at(3, 101), at(3, 102), at(5, 103)]);
        assert_eq!(log.marks(), [at(3, 100), at(3, 102), at(5, 103)]);
        assert_eq!(tail(at(0, 0), &[]).marks(), [at(0, 0)]);
    }

    #[test]
    fn the_common_position_is_the_last_with_equal_epochs() {
        let primary = tail(at(3, 100), &[at(3, 101), at(3, 102), at(5, 103)]);
        let marks = primary.marks();
        for (copy, common) in [
            (tail(at(3, 100), &[at(3, 101), at(3, 102), at(4, 103), at(4, 104)]), Some(at(3, 102))),
            (tail(at(2, 90), &[at(3, 91), at(3, 92)]), None),
            (tail(at(3, 102), &[]), Some(at(3, 102))),
            (tail(at(3, 99), &[at(3, 100)]), Some(at(3, 100))),
            (tail(at(3, 100), &[at(3, 101), at(3, 102), at(3, 103)]), Some(at(3, 102))),
            (tail(at(4, 102), &[]), None),
        ] {
            assert_eq!(copy.common_with(&marks), common, "{copy:?}");
        }
    }

    #[test]
    fn old_entries_are_forgotten_into_the_floor() {
        let mut log = Tail::default();
        for n in 1..=5 {
            log.push(TailEntry { position: at(1, n), key: "k".into() }, 3);
        }
        assert_eq!((log.floor, log.last(), log.entries.len()), (at(1, 2), at(1, 5), 3));
        log.truncate_after(at(1, 3));
        assert_eq!(log.last(), at(1, 3));
        assert_eq!(log.entries_after(at(1, 2)).count(), 1);
    }
}
