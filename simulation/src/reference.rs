//! The state as it has to be: every entry, as the first control node applied it, applied once more apart from all nodes.
//!
//! What nodes publish is compared with it, and so is what watches tell. Entries reach it in order: whoever first applies one has
//! applied all before it, or took them over from a node that had.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ruvector_cluster::client::ids::Revision;
use ruvector_cluster::machine::decode;
use ruvector_cluster::metadata::{Changed, Envelope, Metadata, apply};

use crate::control::hash_of;

/// Is shown each state, in the order of revisions.
pub type Onlooker = Arc<dyn Fn(&Metadata) + Send + Sync>;

/// Clones share it.
#[derive(Clone, Default)]
pub struct Reference(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    metadata: Metadata,
    index: u64,
    watchable: Vec<Revision>,
    onlooker: Option<Onlooker>,
}

impl Reference {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A control node applies an entry. Tells the revision and the hash that states have from then on, where it is a new one.
    pub fn take(&self, index: u64, time_ms: u64, command: &[u8]) -> Option<(u64, u64)> {
        let mut state = self.state();
        let envelope: Envelope = decode(command).ok()?;
        if index <= state.index {
            return None;
        }
        state.index = index;
        let before = state.metadata.revision();
        let applied = apply(&mut state.metadata, index, time_ms, &envelope);
        let told = |changed: &Changed| match changed {
            Changed::Node(_)
            | Changed::NodeRemoved(_)
            | Changed::Shard(_)
            | Changed::Migration(_)
            | Changed::Policy => true,
            Changed::Founded | Changed::Assignments(_) | Changed::Event(..) => false,
        };
        let revision = state.metadata.revision();
        let founds = applied.changes.contains(&Changed::Founded);
        if !founds && applied.changes.iter().any(told) {
            state.watchable.push(revision);
        }
        if let Some(onlooker) = state.onlooker.clone().filter(|_| revision > before) {
            onlooker(&state.metadata);
        }
        (revision > before).then(|| (revision.0, hash_of_state(&state.metadata)))
    }

    /// Shows each state from now on, at the moment when the first control node has applied what made it.
    pub fn show(&self, onlooker: Onlooker) {
        self.state().onlooker = Some(onlooker);
    }

    /// A restored cluster goes on from `metadata`.
    pub fn restart(&self, metadata: Metadata) {
        let mut state = self.state();
        state.index = metadata.revision().0;
        state.metadata = metadata;
    }

    /// Revisions of which each watch has to tell.
    #[must_use]
    pub fn watchable(&self) -> Vec<Revision> {
        self.state().watchable.clone()
    }

    /// What a state that has applied everything holds, remembered requests and log time included.
    #[must_use]
    pub fn rows(&self) -> u64 {
        hash_of_rows(&self.state().metadata)
    }
}

/// Of what has a revision: equal on all nodes at equal revision.
#[must_use]
pub fn hash_of_state(state: &Metadata) -> u64 {
    let rows = state.to_rows().filter(|(key, _)| key != b"head" && !key.starts_with(b"k/"));
    rows.fold(0, |hash: u64, (key, value)| hash_of(&[&hash.to_le_bytes(), &key, &value]))
}

/// Of all rows: equal on all nodes that applied the same entries.
#[must_use]
pub fn hash_of_rows(state: &Metadata) -> u64 {
    state.to_rows().fold(0, |hash: u64, (key, value)| hash_of(&[&hash.to_le_bytes(), &key, &value]))
}
