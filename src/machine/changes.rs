//! What changed lately, for watches that resume: the last max(100,000, 4 x num_shards) changes.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use ruvector_cluster_client::ids::Revision;
use ruvector_cluster_client::wire::{WatchChange, WatchEvent};

use crate::metadata::view::{self, MigrationSoft, NodeSoft, ShardSoft};
use crate::metadata::{Changed, Metadata};

/// Fewest changes that are kept.
const MIN_KEPT: usize = 100_000;

/// All that one log entry changed, written out when the first watcher asks for it.
#[derive(Debug)]
pub struct Logged {
    event: WatchEvent,
    json: OnceLock<String>,
}

impl Logged {
    /// The entry's log index.
    pub fn revision(&self) -> Revision {
        self.event.revision
    }

    /// A `change` event's data; empty where it has no JSON form, which plain data always has.
    pub fn json(&self) -> &str {
        self.json.get_or_init(|| serde_json::to_string(&self.event).unwrap_or_default())
    }
}

/// The changes asked for are no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Changes from this revision on are.
    pub known_since: Revision,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Arc<Logged>>,
    changes: usize,
    /// Every change above this revision is in `events`.
    known_since: Revision,
}

/// The last changes. Written by the task that applies, read by watches under a lock that is held to copy pointers.
#[derive(Debug, Default)]
pub struct ChangeLog(RwLock<Kept>);

impl ChangeLog {
    /// At most `limit` events above `since` and up to `until`, ascending.
    ///
    /// # Errors
    /// [`Compacted`] where some are gone.
    pub fn after(
        &self,
        since: Revision,
        until: Revision,
        limit: usize,
    ) -> Result<Vec<Arc<Logged>>, Compacted> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if since < kept.known_since {
            return Err(Compacted { known_since: kept.known_since });
        }
        let behind = kept.events.back().is_some_and(|newest| newest.revision().0 > since.0 + 3);
        let skipped = u64::from(behind && mutants::is_on(mutants::Mutant::WatchSkips));
        let start = kept.events.partition_point(|e| e.revision().0 <= since.0 + skipped);
        let events = kept.events.range(start..).take_while(|e| e.revision() <= until);
        Ok(events.take(limit).cloned().collect())
    }

    /// Notes what an entry changed; `state` is as it left it.
    pub(super) fn note(&self, state: &Metadata, changed: &[Changed]) {
        if changed.contains(&Changed::Founded) {
            self.forget_before(state);
            return;
        }
        let changes: Vec<WatchChange> = changed.iter().filter_map(|c| change(state, c)).collect();
        if changes.is_empty() {
            return;
        }
        let capacity = MIN_KEPT.max(usize::try_from(state.num_shards()).unwrap_or(0).saturating_mul(4));
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        kept.changes = kept.changes.saturating_add(changes.len());
        let event = WatchEvent { revision: state.revision(), changes };
        kept.events.push_back(Arc::new(Logged { event, json: OnceLock::new() }));
        while kept.changes > capacity && kept.events.len() > 1 {
            let Some(oldest) = kept.events.pop_front() else { break };
            kept.changes = kept.changes.saturating_sub(oldest.event.changes.len());
            kept.known_since = oldest.revision();
        }
    }

    /// The state came from elsewhere: nothing is known of what led to it.
    pub(super) fn forget_before(&self, state: &Metadata) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *kept = Kept { known_since: state.revision(), ..Kept::default() };
    }
}

fn change(state: &Metadata, changed: &Changed) -> Option<WatchChange> {
    match changed {
        Changed::Shard(id) => {
            Some(WatchChange::Shard(view::shard(state, state.shard(*id)?, ShardSoft::default())))
        }
        Changed::Node(id) => Some(WatchChange::Node(view::node(state, state.node(id)?, NodeSoft::default()))),
        Changed::NodeRemoved(id) => Some(WatchChange::NodeRemoved { id: id.clone() }),
        Changed::Migration(id) => {
            Some(WatchChange::Migration(view::migration(state.migration(*id)?, MigrationSoft::default())))
        }
        Changed::Policy => Some(WatchChange::Policy { revision: state.policy_revision() }),
        Changed::Founded | Changed::Assignments(_) | Changed::Event(..) => None,
    }
}
