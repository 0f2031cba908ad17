//! What an observer who sees everything has seen, and what must hold of it.

use ruvector_cluster_client::ids::{Epoch, Position};
use ruvector_cluster_client::replica::Value;

/// A property that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rule {
    OnePrimary,
    NothingVanishes,
    InSyncHasAll,
    PromotedInSync,
    FailedOverWhenDown,
    MembersAreCurrent,
    EpochStored,
    LastCopyStays,
    StateHolds,
    RepeatsChangeNothing,
}

/// A property that does not hold, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Broken {
    pub(crate) rule: Rule,
    pub(crate) how: String,
}

/// A key's value, with the position of its write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) position: Position,
    pub(crate) value: Option<Value>,
}

/// All that was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ghost {
    /// What was acknowledged or read, at its latest.
    pub(crate) seen: Seen,
    /// The newest epoch under which something was answered, and by which node.
    pub(crate) answered: Option<(Epoch, usize)>,
    /// Writes acknowledged.
    pub(crate) acknowledged: u32,
    /// The shard was opened once.
    pub(crate) opened: bool,
    /// The first thing that went wrong.
    pub(crate) broken: Option<Broken>,
}

impl Ghost {
    pub(crate) fn broke(&mut self, rule: Rule, how: impl Into<String>) {
        self.broken.get_or_insert_with(|| Broken { rule, how: how.into() });
    }

    /// A primary answered under `epoch`: no other one does, and none under an earlier epoch after that.
    pub(crate) fn answered_under(&mut self, epoch: Epoch, at: usize) {
        match self.answered {
            Some((newest, _)) if epoch < newest => {
                self.broke(
                    Rule::OnePrimary,
                    format!("node {at} answers under epoch {epoch}, after one under {newest}"),
                );
            }
            Some((newest, by)) if epoch == newest && by != at => {
                self.broke(Rule::OnePrimary, format!("nodes {by} and {at} answer under epoch {epoch}"));
            }
            Some(_) | None => self.answered = Some((epoch, at)),
        }
    }

    /// A write was acknowledged, that was asked for when `began` had been seen.
    pub(crate) fn wrote(&mut self, began: Position, seen: Seen) {
        if seen.position <= began {
            let how = format!("a write at {:?} comes before what was seen at {began:?}", seen.position);
            self.broke(Rule::NothingVanishes, how);
        }
        self.sees(seen);
    }

    /// A value was read, asked for when `began` had been seen.
    pub(crate) fn read(&mut self, began: Position, seen: Seen) {
        if seen.position < began {
            let how = format!("a read finds {:?}, although {began:?} had been seen", seen.position);
            self.broke(Rule::NothingVanishes, how);
        }
        self.sees(seen);
    }

    fn sees(&mut self, seen: Seen) {
        if seen.position > self.seen.position {
            self.seen = seen;
        }
    }
}
