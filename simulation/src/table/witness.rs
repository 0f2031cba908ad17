//! Looks at each committed state, in order, and at what the disks hold at that moment.
//!
//! What is seen of the disks when a state comes happened under the state before it: so a copy that is gone by then must have been
//! retired, or nobody's, in that one. That is how a deletion ahead of its intent is noticed, however soon the intent follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ruvector_cluster::client::ids::{Epoch, MigrationId, NodeId, ShardId};
use ruvector_cluster::client::wire::{Phase, Role};
use ruvector_cluster::metadata::{Metadata, MigrationRow, ShardRow};
use ruvector_cluster_check::Violation;

use super::{End, Kind};
use crate::cluster::Cluster;

/// The migration of a cell.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) id: MigrationId,
    pub(super) kind: Kind,
    /// The shard's epoch when it was queued.
    pub(super) epoch: Epoch,
}

#[derive(Default)]
struct Seen {
    watched: Option<Watched>,
    row: Option<MigrationRow>,
    end: Option<End>,
    newest: Option<Metadata>,
    held: BTreeSet<(NodeId, ShardId)>,
    excused: BTreeSet<NodeId>,
    found: Vec<Violation>,
}

/// Clones share what was seen.
#[derive(Clone)]
pub(super) struct Witness {
    cluster: Weak<Cluster>,
    seen: Arc<Mutex<Seen>>,
}

impl Witness {
    pub(super) fn new(cluster: &Arc<Cluster>) -> Self {
        let witness = Self { cluster: Arc::downgrade(cluster), seen: Arc::default() };
        let looking = witness.clone();
        cluster.world.reference.show(Arc::new(move |state| looking.look(state)));
        witness
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this migration is looked at, too.
    pub(super) fn watch(&self, watched: Watched) {
        let mut seen = self.seen();
        seen.row = seen.newest.as_ref().and_then(|state| state.migration(watched.id)).cloned();
        seen.watched = Some(watched);
    }

    /// What the fault takes from this node is no deletion.
    pub(super) fn excuse(&self, node: &NodeId) {
        self.seen().excused.insert(node.clone());
    }

    /// How the migration ended, if it did.
    pub(super) fn end(&self) -> Option<End> {
        self.seen().end
    }

    /// The migration's row, as it was last.
    pub(super) fn row(&self) -> Option<MigrationRow> {
        self.seen().row.clone()
    }

    /// What is wrong so far.
    pub(super) fn take(&self) -> Vec<Violation> {
        std::mem::take(&mut self.seen().found)
    }

    /// What the disks have lost since the last state is judged by that.
    pub(super) fn look_at_disks(&self) {
        let mut seen = self.seen();
        self.judge_disks(&mut seen);
    }

    fn look(&self, state: &Metadata) {
        let mut seen = self.seen();
        self.judge_disks(&mut seen);
        let mut found = Vec::new();
        for row in state.shards() {
            let before = seen.newest.as_ref().and_then(|before| before.shard(row.id));
            found.extend(wrong_shard(before, row, state));
        }
        if let Some(watched) = seen.watched.clone() {
            let row = state.migration(watched.id).cloned();
            if let (Some(before), Some(row)) = (&seen.row, &row) {
                found.extend(wrong_step(before, row));
            }
            let is_ended = row.as_ref().is_some_and(|row| row.phase.is_ended());
            if let Some(row) = row.as_ref().filter(|_| is_ended && seen.end.is_none()) {
                seen.end = Some(if row.phase == Phase::Done { End::Done } else { End::Aborted });
                found.extend(wrong_end(&watched, row, state));
            }
            seen.row = row.or(seen.row.take());
        }
        seen.found.extend(found);
        seen.newest = Some(state.clone());
    }

    fn judge_disks(&self, seen: &mut Seen) {
        let Some(cluster) = self.cluster.upgrade() else { return };
        let mut held = BTreeSet::new();
        for at in 0..cluster.data_nodes() {
            cluster.with_data(at, |node| {
                let name = &node.machine().node;
                held.extend(node.machine().disk.copies().into_keys().map(|shard| (name.clone(), shard)));
            });
        }
        let gone: Vec<_> = seen.held.difference(&held).cloned().collect();
        for (node, shard) in gone.into_iter().filter(|(node, _)| !seen.excused.contains(node)) {
            let role = seen.newest.as_ref().and_then(|state| state.role_of(shard, &node));
            if role.is_some_and(|role| role != Role::Retiring) {
                let detail = format!("{node} deleted its copy of shard {shard} as {role:?}");
                seen.found.push(Violation { rule: "intent-before-clean-up", detail });
            }
        }
        seen.held = held;
    }
}

/// Epochs rise with each change of the primary, in-sync copies never run out, and a slot is taken by what runs.
pub(super) fn wrong_shard(before: Option<&ShardRow>, row: &ShardRow, state: &Metadata) -> Vec<Violation> {
    let mut wrong = Vec::new();
    let mut say = |rule, detail: String| wrong.push(Violation { rule, detail });
    if let Some(before) = before {
        let named = before.primary.is_some() && before.primary != row.primary;
        if row.epoch < before.epoch || (named && row.epoch == before.epoch) {
            say("epochs", format!("{row:?} after {before:?}"));
        }
    }
    if row.primary.as_ref().is_some_and(|primary| !row.in_sync.contains(primary)) || row.lost {
        say("a copy is left", format!("{row:?}"));
    }
    let runs = |id| state.migration(id).is_some_and(|row| !row.phase.is_ended());
    if row.migration.is_some_and(|id| !runs(id)) {
        say("slot freed", format!("{row:?}"));
    }
    wrong
}

/// Phases come in their order, unless the migration is put back, which counts.
pub(super) fn wrong_step(before: &MigrationRow, row: &MigrationRow) -> Option<Violation> {
    let went_back = row.phase < before.phase;
    let skipped = matches!(
        (before.phase, row.phase),
        (Phase::Queued, Phase::Copying | Phase::Admitting)
            | (Phase::Preparing, Phase::Admitting | Phase::HandingOver)
            | (Phase::Copying, Phase::HandingOver)
            | (Phase::Done, Phase::Aborted)
    );
    let counted = row.phase == Phase::Preparing && row.attempts > before.attempts;
    let wrong = (went_back && !counted) || skipped || row.attempts < before.attempts;
    wrong.then(|| Violation { rule: "order of phases", detail: format!("{row:?} after {before:?}") })
}

/// What the command that ends a migration leaves behind.
pub(super) fn wrong_end(watched: &Watched, row: &MigrationRow, state: &Metadata) -> Vec<Violation> {
    let mut wrong = Vec::new();
    let Some(shard) = state.shard(row.shard) else { return wrong };
    let mut say = |what: &str| {
        let detail = format!("{what}: {row:?}, {shard:?}");
        wrong.push(Violation { rule: "what an end leaves", detail });
    };
    let is_seat = |role| matches!(role, Role::Primary | Role::Replica);
    let role = |node: &Option<NodeId>| node.as_ref().and_then(|node| state.role_of(row.shard, node));
    if shard.migration == Some(row.id) {
        say("the slot is not freed");
    }
    if row.phase == Phase::Aborted {
        let kept = matches!(watched.kind, Kind::MovePrimary | Kind::MoveReplica | Kind::Add)
            && role(&row.to).is_some_and(|role| role != Role::Retiring);
        if row.error.as_ref().is_none_or(String::is_empty) {
            say("nobody is told why");
        }
        if kept {
            say("the target's copy stays");
        }
        return wrong;
    }
    let (gives, takes) = (role(&row.from), role(&row.to));
    let in_sync = row.to.as_ref().is_some_and(|to| shard.in_sync.contains(to));
    let took = takes.is_some_and(is_seat) && in_sync;
    let left = gives.is_none_or(|role| role == Role::Retiring);
    let leads = takes == Some(Role::Primary) && shard.epoch > watched.epoch;
    let right = match watched.kind {
        Kind::MovePrimary => took && left && leads,
        Kind::MoveReplica => took && left,
        Kind::Promote => took && leads && gives == Some(Role::Replica),
        Kind::Add => took,
        Kind::Remove => left,
    };
    if !right || row.error.is_some() {
        say("it is called done, and is not");
    }
    wrong
}

/// Which copies there are on disks.
#[must_use]
pub(super) fn copies_on_disks(cluster: &Cluster) -> BTreeMap<NodeId, BTreeSet<ShardId>> {
    let mut copies = BTreeMap::new();
    for at in 0..cluster.data_nodes() {
        let of_node = cluster.with_data(at, |node| {
            let shards = node.machine().disk.copies().into_keys().collect::<BTreeSet<ShardId>>();
            (node.machine().node.clone(), shards)
        });
        copies.extend(of_node);
    }
    copies
}
