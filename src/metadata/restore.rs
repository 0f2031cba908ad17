//! From a backup's state to that of the cluster that is restored from it.
//!
//! The new cluster must never be mistaken for the old one as it went on after the backup. So its generation is one higher, and
//! all that was counted up meanwhile, in at most [`RESTORE_STEP`] steps, begins above: revisions, epochs, runs of data nodes,
//! ids of migrations. Data nodes therefore refuse whatever the old cluster still says, and register again, which ends what they
//! answered under its leases.
//!
//! Where copies are is no longer known, only where they were. So every opened shard is `lost` until the data nodes have told
//! what they hold (`apply/resume.rs`), migrations are aborted, and left-over copies are no longer to be deleted: one of
//! them may be all that is left of its shard. Remembered requests are forgotten, since what they did may be undone.

use std::sync::Arc;

use ruvector_cluster_client::ids::{Epoch, Incarnation, MigrationId, Revision};
use ruvector_cluster_client::wire::{Phase, ShardStatus};

use super::apply::KEPT_ENDED;
use super::migration::MigrationRow;
use super::node::NodeRow;
use super::rows::RowsError;
use super::shard::ShardRow;
use super::state::{EventRow, Founded, Head, Metadata, PolicyRow, Restored, ShardEntry};

/// By how much a restored cluster counts on from its backup.
pub const RESTORE_STEP: u64 = 1 << 32;

fn later(revision: Revision) -> Revision {
    // Revision 0 says "never" and stays.
    if revision.0 == 0 { revision } else { Revision(raised(revision.0)) }
}

fn raised(number: u64) -> u64 {
    number.saturating_add(RESTORE_STEP)
}

impl Metadata {
    /// The state, as a backup has it, of a new cluster that is suspended until an operator resumes it. None before the cluster
    /// was founded.
    ///
    /// # Errors
    /// [`RowsError`] where the rows that are made do not fit: a bug.
    pub fn restored_as(&self, cluster_id: &str) -> Result<Option<Self>, RowsError> {
        let Some(founded) = self.founded() else { return Ok(None) };
        let now = Revision(raised(self.head.revision.0).saturating_add(1));
        let mut state = Self::new();
        state.head = Head {
            revision: now,
            log_time_ms: self.head.log_time_ms,
            last_migration: MigrationId(raised(self.head.last_migration.0)),
            incarnation_floor: Incarnation(raised(self.head.incarnation_floor.0)),
            events_compacted_below: later(self.head.events_compacted_below),
        };
        state.founded = Some(Arc::new(Founded {
            cluster_id: cluster_id.to_owned(),
            generation: founded.generation.saturating_add(1),
            settings: founded.settings.clone(),
            revision: later(founded.revision),
        }));
        state.restored = Some(Arc::new(Restored {
            suspended: true,
            epoch_floor: Epoch(raised(self.epoch_floor().0)),
            backup_cluster_id: founded.cluster_id.clone(),
            backup_revision: self.head.revision,
        }));
        state.policy =
            Arc::new(PolicyRow { revision: later(self.policy.revision), ..self.policy.as_ref().clone() });
        for row in self.nodes() {
            state.nodes.insert(row.id.clone(), Arc::new(restored_node(row, now)));
        }
        for row in self.shards() {
            let row = Arc::new(restored_shard(row, now));
            state.shards.insert(row.id, ShardEntry { row, status: ShardStatus::Unavailable });
        }
        state.take_migrations(self, now);
        state.take_events(self, founded, now);
        // Everything that is derived is computed anew.
        Self::from_rows(state.to_rows()).map(Some)
    }

    fn take_migrations(&mut self, backup: &Self, now: Revision) {
        let mut rows: Vec<MigrationRow> =
            backup.migrations().map(|row| restored_migration(row, backup, now)).collect();
        // The newest are kept, as ever.
        rows.sort_by_key(|row| (row.revision, row.id));
        let surplus = rows.len().saturating_sub(KEPT_ENDED);
        for row in rows.into_iter().skip(surplus) {
            self.migrations.insert(row.id, Arc::new(row));
        }
    }

    fn take_events(&mut self, backup: &Self, founded: &Founded, now: Revision) {
        let surplus = (backup.events.len() + 1).saturating_sub(KEPT_ENDED);
        for (place, (_, row)) in backup.events.iter().enumerate() {
            let revision = later(row.revision);
            if place < surplus {
                self.head.events_compacted_below = revision;
                continue;
            }
            self.events.insert((revision, row.seq), Arc::new(EventRow { revision, ..row.as_ref().clone() }));
        }
        let detail = format!(
            "from a backup of cluster {} at revision {}, generation {}",
            founded.cluster_id, backup.head.revision, founded.generation
        );
        let event = EventRow {
            revision: now,
            seq: 0,
            at_ms: backup.head.log_time_ms,
            kind: "restored".to_owned(),
            node: None,
            shard: None,
            migration: None,
            detail,
            actor: "client".to_owned(),
        };
        self.events.insert((now, 0), Arc::new(event));
    }
}

fn restored_node(row: &NodeRow, now: Revision) -> NodeRow {
    NodeRow {
        incarnation: Incarnation(raised(row.incarnation.0)),
        assigned_revision: later(row.assigned_revision),
        assignments_revision: now,
        revision: now,
        ..row.clone()
    }
}

fn restored_shard(row: &ShardRow, now: Revision) -> ShardRow {
    let Some(primary) = &row.primary else {
        return ShardRow { revision: later(row.revision), ..row.clone() };
    };
    // The target of a hand-over that had become in sync is a copy like any other.
    let arrived = row.learners.iter().filter(|learner| row.in_sync.contains(learner));
    let replicas = row.replicas.iter().chain(arrived).cloned().collect();
    let in_sync = if row.founding { row.in_sync.clone() } else { vec![primary.clone()] };
    ShardRow {
        epoch: Epoch(raised(row.epoch.0)),
        replicas,
        learners: Vec::new(),
        in_sync,
        in_sync_version: row.in_sync_version.saturating_add(1),
        lost: !row.founding,
        migration: None,
        revision: now,
        ..row.clone()
    }
}

fn restored_migration(row: &MigrationRow, backup: &Metadata, now: Revision) -> MigrationRow {
    let ended = MigrationRow {
        epoch: Epoch(raised(row.epoch.0)),
        target_incarnation: row.target_incarnation.map(|run| Incarnation(raised(run.0))),
        taken_revision: row.taken_revision.map(later),
        revision: later(row.revision),
        ..row.clone()
    };
    if row.phase.is_ended() {
        return ended;
    }
    MigrationRow {
        phase: Phase::Aborted,
        error: Some("the cluster was restored from a backup".to_owned()),
        updated_ms: backup.head.log_time_ms,
        revision: now,
        ..ended
    }
}
