//! `max_bytes_per_s`: how fast the cluster begins to copy.
//!
//! A copy that has started occupies the budget for as long as its bytes take at that rate; the next one starts once the earlier
//! ones' time is over, or nearly. So the average rate is kept, while a single copy runs as fast as disks and network let it, and
//! one that is larger than whatever was saved up starts like any other once it is its turn. Forced copies wait like all others.
//!
//! Counted from rows, sizes that heartbeats told, and the time; nothing is remembered, so that a new leader counts the same as
//! soon as it knows the sizes. Caveats: sizes are those of now. A copy that was aborted occupied the budget until it was. What
//! had ended when the policy was last set is not counted, so that a lower rate does not charge for the past.

use ruvector_cluster_client::wire::Phase;

use super::{Lacking, Turn};
use crate::metadata::{Metadata, MigrationRow, ShardRow};
use crate::soft::{Now, Soft};

/// Copies start so much ahead of their turn: all is looked at once a second, and what is small would else be one copy a second.
const AHEAD_MS: u64 = 1_000;

/// A leader that lacks sizes waits so long for them: all nodes list their copies with the second heartbeat that it hears.
const SIZES_WAIT_MS: u64 = 10_000;

/// When the next copy may start. Absent where the rate is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    bytes_per_s: u64,
    now_ms: u64,
    /// Until when those that have started occupy it, milliseconds since 1970.
    taken_until_ms: u64,
    /// The size of something that occupies it is not known yet.
    in_doubt: bool,
    /// One of the coordinator's own waits to start.
    has_queued: bool,
}

impl Budget {
    /// What the copies of `metadata` that have started leave.
    pub(super) fn left(metadata: &Metadata, soft: &Soft, now: Now) -> Option<Self> {
        let bytes_per_s = metadata.policy().max_bytes_per_s;
        if bytes_per_s == 0 {
            return None;
        }
        // Log time may be ahead of this leader's clock.
        let now_ms = now.wall_ms.max(metadata.log_time_ms());
        let mut budget = Self { bytes_per_s, now_ms, taken_until_ms: 0, in_doubt: false, has_queued: false };
        let set_at = metadata.policy_revision();
        let counts = |row: &&MigrationRow| !row.phase.is_ended() || row.revision >= set_at;
        let mut started: Vec<(u64, &MigrationRow)> =
            metadata.migrations().filter(counts).filter_map(|row| Some((row.started_ms?, row))).collect();
        started.sort_by_key(|(started_ms, row)| (*started_ms, row.id));
        for (started_ms, row) in started {
            budget.charge(metadata, soft, row, started_ms);
        }
        Some(budget)
    }

    fn charge(&mut self, metadata: &Metadata, soft: &Soft, row: &MigrationRow, started_ms: u64) {
        let told = soft.progress.get(&row.id).and_then(|progress| progress.bytes_total);
        let bytes =
            told.or_else(|| metadata.shard(row.shard).and_then(|shard| size_bytes(metadata, soft, shard)));
        self.in_doubt |= bytes.is_none();
        let until_ms = self.taken_until_ms.max(started_ms).saturating_add(self.time_ms(bytes));
        let is_aborted = row.phase == Phase::Aborted;
        let until_ms = if is_aborted { until_ms.min(row.updated_ms) } else { until_ms };
        self.taken_until_ms = self.taken_until_ms.max(until_ms);
    }

    fn time_ms(&self, bytes: Option<u64>) -> u64 {
        let ms = u128::from(bytes.unwrap_or(0)) * 1_000 / u128::from(self.bytes_per_s.max(1));
        u64::try_from(ms).unwrap_or(u64::MAX)
    }

    /// Why a copy of `shard` may not start, or be queued, yet; none where it may.
    pub(super) fn refusal(
        &self,
        metadata: &Metadata,
        soft: &Soft,
        shard: &ShardRow,
        turn: Turn,
    ) -> Option<Lacking> {
        let is_doubtful = self.in_doubt || size_bytes(metadata, soft, shard).is_none();
        let from_ms = self.taken_until_ms.saturating_sub(AHEAD_MS);
        let is_free = from_ms <= self.now_ms;
        let is_admitted = match turn {
            Turn::Start { known_ms } => is_free && (!is_doubtful || known_ms >= SIZES_WAIT_MS),
            // What is in doubt is settled while it is queued.
            Turn::Queue if is_doubtful => !self.has_queued,
            Turn::Queue => is_free,
            Turn::QueueToo => true,
            Turn::QueueAhead => !self.has_queued || (is_free && !is_doubtful),
        };
        let from_ms = (!is_free).then_some(from_ms);
        (!is_admitted).then_some(Lacking::Rate { bytes_per_s: self.bytes_per_s, from_ms })
    }

    /// A copy of `shard` starts now, or is the coordinator's own and waits to start.
    pub(super) fn take(&mut self, metadata: &Metadata, soft: &Soft, shard: &ShardRow, turn: Turn) {
        let from_ms = self.taken_until_ms.max(self.now_ms);
        self.taken_until_ms = from_ms.saturating_add(self.time_ms(size_bytes(metadata, soft, shard)));
        self.has_queued |= turn.is_queued();
    }
}

/// Bytes of a copy of the shard; none while a primary that answers has yet to say. What nobody will say counts as nothing.
fn size_bytes(metadata: &Metadata, soft: &Soft, shard: &ShardRow) -> Option<u64> {
    let told = shard.full_copies().find_map(|copy| soft.held(copy, shard.id));
    let primary = shard.primary.as_ref().filter(|primary| metadata.is_alive(primary));
    let may_say = primary.is_some_and(|primary| soft.nodes.get(primary).is_none_or(|said| !said.complete));
    told.map(|held| held.size_bytes).or((!may_say).then_some(0))
}
