//! What the replica knows of its copy: the store's state as it will be once every action asked for is carried out.

use super::store::{StoreAction, StoreState};
use super::tail::{TAIL_ENTRIES, Tail, TailEntry};
use crate::ids::{Epoch, Position};

/// The stream of forwards that a copy is filled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stream {
    /// Of the primary that forwards.
    pub(super) epoch: Epoch,
    /// What came before is not forwarded.
    pub(super) base: Position,
}

/// The mirror of a copy. It runs ahead of the disk, which is why answers wait for the actions that they rest on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CopyState {
    pub(super) adopted: Epoch,
    pub(super) full: bool,
    pub(super) tail: Tail,
    /// The last position that is on disk.
    pub(super) durable: Position,
    /// The copy is known to be a prefix of the log of `adopted`'s primary.
    pub(super) aligned: bool,
    /// Gapless since its base; none after a gap, a restart or a rise of the epoch.
    pub(super) stream: Option<Stream>,
    /// Made by this process, and nothing was put into it yet.
    pub(super) blank: bool,
}

impl CopyState {
    pub(super) fn new(state: StoreState) -> Self {
        let durable = state.tail.last();
        let StoreState { adopted, full, tail } = state;
        Self { adopted, full, tail, durable, aligned: false, stream: None, blank: false }
    }

    /// As `StoreAction::Create` makes it.
    pub(super) fn empty() -> Self {
        Self { blank: true, ..Self::new(StoreState { full: true, ..StoreState::default() }) }
    }

    pub(super) fn last(&self) -> Position {
        self.tail.last()
    }

    /// Whether its content is a prefix of the log of `epoch`'s primary.
    pub(super) fn is_prefix_in(&self, epoch: Epoch) -> bool {
        self.full && self.adopted == epoch && (self.aligned || self.last().epoch == epoch)
    }

    /// Whether it takes the forwards of `epoch`'s primary: as a copy that is being filled, or as one that has all before them.
    pub(super) fn follows(&self, epoch: Epoch) -> bool {
        self.stream.is_some() || self.is_prefix_in(epoch)
    }

    /// Follows what `action` does to the store.
    pub(super) fn apply(&mut self, action: &StoreAction) {
        self.blank &= matches!(action, StoreAction::Adopt(_) | StoreAction::ReadChunk { .. });
        match action {
            StoreAction::Adopt(epoch) => {
                self.adopted = self.adopted.max(*epoch);
                self.aligned = false;
                self.stream = None;
            }
            StoreAction::Append(writes) => {
                for write in writes {
                    let entry = TailEntry { position: write.position, key: write.key.clone() };
                    self.tail.push(entry, TAIL_ENTRIES);
                }
            }
            StoreAction::Align(alignment) => {
                self.tail.truncate_after(alignment.common);
                for entry in &alignment.tail {
                    self.tail.push(entry.clone(), TAIL_ENTRIES);
                }
                self.aligned = true;
            }
            StoreAction::BeginFill { base } => {
                self.full = false;
                self.tail = Tail::after(*base);
            }
            StoreAction::EndFill => self.full = true,
            StoreAction::Create
            | StoreAction::FillRange { .. }
            | StoreAction::ReadKeys(_)
            | StoreAction::ReadChunk { .. }
            | StoreAction::Delete => {}
        }
    }
}
