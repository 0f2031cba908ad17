//! The next step of each migration (DESIGN.md section 7). Pure.
//!
//! Data nodes complete phases by their reports; what is left to the leader is decided here: queued migrations start where there
//! are free slots, a hand-over is cut over once the old primary's lease for the shard is over, and taken back when its target is
//! gone, and whatever makes no progress is aborted. Slots are counted from rows and never stored, so that a new leader counts the
//! same.
//!
//! Invariant: at most one step for a migration in one decision.

mod budget;

use std::collections::{BTreeMap, BTreeSet};

use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::{Intent, MigrationKind, Phase};

use budget::Budget;

use crate::metadata::{Change, Metadata, MigrationRow, ShardRow, Step};
use crate::soft::{Now, Soft};

/// After the first failure a shard is left alone for so long; each further one doubles it.
const FIRST_RETRY_MS: u64 = 1_000;

/// The longest that a shard is left alone after failures.
const LAST_RETRY_MS: u64 = 300_000;

/// So long after its last migration a shard is not moved to even something out: until sizes and rates of many heartbeats show
/// what that one did. What restores a rule never waits for it.
const COOL_DOWN_MS: u64 = 60_000;

/// Shards that are not levelled for now.
#[derive(Clone, Debug, Default)]
pub struct Cooling {
    copies: BTreeMap<ShardId, u64>,
    primaries: BTreeMap<ShardId, u64>,
}

/// Who answers, as it will be once the verdicts that are being decided are committed.
#[derive(Clone, Copy, Debug)]
pub struct Answering<'a> {
    /// The state.
    pub metadata: &'a Metadata,
    /// Nodes about to be committed down.
    pub going_down: &'a BTreeSet<NodeId>,
    /// Nodes about to be committed alive.
    pub returning: &'a BTreeSet<NodeId>,
}

impl Answering<'_> {
    /// Whether the node is alive then.
    pub fn is_alive(&self, node: &NodeId) -> bool {
        !self.going_down.contains(node) && (self.returning.contains(node) || self.metadata.is_alive(node))
    }
}

/// When something that needs a slot is to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now; this leader has known of it for so long.
    Start {
        /// Milliseconds.
        known_ms: u64,
    },
    /// As soon as it is queued.
    Queue,
    /// Together with one that was let in: the other half of an exchange.
    QueueToo,
    /// Once copying is not too fast. One at a time waits so, ahead of whatever an operator queued.
    QueueAhead,
}

impl Turn {
    /// That of a migration that is queued.
    pub fn to_start(row: &MigrationRow, soft: &Soft, now: Now) -> Self {
        let since_ms = soft.progress.get(&row.id).map(|progress| progress.changed_boot_ms);
        Self::Start { known_ms: since_ms.map_or(0, |since_ms| now.boot_ms.saturating_sub(since_ms)) }
    }

    fn is_queued(self) -> bool {
        match self {
            Self::Start { .. } => false,
            Self::Queue | Self::QueueToo | Self::QueueAhead => true,
        }
    }
}

/// Which migrations may run at once.
#[derive(Clone, Debug)]
pub struct Slots<'a> {
    metadata: &'a Metadata,
    soft: &'a Soft,
    max: Limits,
    /// None: copying is as fast as it may be.
    budget: Option<Budget>,
    all: u32,
    into: BTreeMap<NodeId, u32>,
    out: BTreeMap<NodeId, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    all: u32,
    into: u32,
    out: u32,
}

/// What keeps a migration from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// The cluster's.
    Any {
        /// How many there are.
        max: u32,
    },
    /// For copies out of a node.
    Out {
        /// The node.
        node: NodeId,
        /// How many there are.
        max: u32,
    },
    /// For copies into a node.
    Into {
        /// The node.
        node: NodeId,
        /// How many there are.
        max: u32,
    },
    /// No slot: copying is as fast as it may be.
    Rate {
        /// The policy's `max_bytes_per_s`.
        bytes_per_s: u64,
        /// When the next copy may begin, milliseconds since 1970; none while that rests on sizes that nobody told yet.
        from_ms: Option<u64>,
    },
}

/// Who copies what from whom.
#[derive(Clone, Copy, Debug)]
pub struct Parties<'a> {
    /// The shard.
    pub shard: &'a ShardRow,
    /// What is done.
    pub kind: MigrationKind,
    /// Who gives.
    pub from: Option<&'a NodeId>,
    /// Who takes.
    pub to: Option<&'a NodeId>,
}

impl<'a> Parties<'a> {
    /// Those of a migration.
    pub fn of(row: &'a MigrationRow, shard: &'a ShardRow) -> Self {
        Self { shard, kind: row.kind, from: row.from.as_ref(), to: row.to.as_ref() }
    }

    /// From whom chunks are pulled, and by whom; none where nothing is copied.
    fn copying(&self) -> Option<(&'a NodeId, &'a NodeId)> {
        match self.kind {
            MigrationKind::Move | MigrationKind::Add => {
                let giver = self.from.filter(|from| self.shard.in_sync.contains(from));
                Some((giver.or(self.shard.primary.as_ref())?, self.to?))
            }
            MigrationKind::Promote | MigrationKind::Remove => None,
        }
    }
}

impl<'a> Slots<'a> {
    /// The slots that running migrations leave free.
    pub fn taken(metadata: &'a Metadata, soft: &'a Soft, now: Now) -> Self {
        let (queued, running): (Vec<_>, Vec<_>) =
            metadata.active_migrations().partition(|row| row.phase == Phase::Queued);
        // The budget is worth counting where something waits for it.
        let budget = if queued.is_empty() { None } else { Budget::left(metadata, soft, now) };
        let mut slots = Self::empty(metadata, soft, budget);
        running.into_iter().for_each(|row| slots.count(row, None));
        slots
    }

    /// The slots that running migrations and the coordinator's own queued ones leave free. An operator's long queue must not
    /// keep lost copies from being rebuilt.
    pub fn wanted(metadata: &'a Metadata, soft: &'a Soft, now: Now) -> Self {
        let mut slots = Self::empty(metadata, soft, Budget::left(metadata, soft, now));
        for row in metadata.active_migrations() {
            match row.phase {
                Phase::Queued if row.by_operator => {}
                Phase::Queued => slots.count(row, Some(Turn::Queue)),
                Phase::Preparing | Phase::Copying | Phase::Admitting | Phase::HandingOver => {
                    slots.count(row, None);
                }
                Phase::Done | Phase::Aborted => {}
            }
        }
        slots
    }

    fn empty(metadata: &'a Metadata, soft: &'a Soft, budget: Option<Budget>) -> Self {
        let policy = metadata.policy();
        let max =
            Limits { all: policy.max_migrations, into: policy.max_in_per_node, out: policy.max_out_per_node };
        Self { metadata, soft, max, budget, all: 0, into: BTreeMap::new(), out: BTreeMap::new() }
    }

    /// Counts what runs, or, with a turn, what the coordinator queued.
    fn count(&mut self, row: &MigrationRow, turn: Option<Turn>) {
        if let Some(shard) = self.metadata.shard(row.shard) {
            self.take(Parties::of(row, shard), turn);
        }
    }

    /// What runs, and so comes without a turn, was counted by the budget.
    fn take(&mut self, parties: Parties<'_>, turn: Option<Turn>) {
        self.all += 1;
        if let Some((giver, taker)) = parties.copying() {
            *self.out.entry(giver.clone()).or_default() += 1;
            *self.into.entry(taker.clone()).or_default() += 1;
            if let (Some(budget), Some(turn)) = (&mut self.budget, turn) {
                budget.take(self.metadata, self.soft, parties.shard, turn);
            }
        }
    }

    /// Whether all slots are taken.
    pub fn is_full(&self) -> bool {
        self.all >= self.max.all
    }

    /// What `parties` need and can't have now.
    pub fn lacking(&self, parties: Parties<'_>, turn: Turn) -> Option<Lacking> {
        if self.is_full() {
            return Some(Lacking::Any { max: self.max.all });
        }
        let used = |of: &BTreeMap<NodeId, u32>, node: &NodeId| of.get(node).copied().unwrap_or(0);
        let (giver, taker) = parties.copying()?;
        if used(&self.out, giver) >= self.max.out {
            return Some(Lacking::Out { node: giver.clone(), max: self.max.out });
        }
        if used(&self.into, taker) >= self.max.into {
            return Some(Lacking::Into { node: taker.clone(), max: self.max.into });
        }
        let budget = self.budget.as_ref()?;
        budget.refusal(self.metadata, self.soft, parties.shard, turn)
    }

    /// Takes the slots that `parties` need, if they are free.
    pub fn try_take(&mut self, parties: Parties<'_>, turn: Turn) -> bool {
        let is_free = self.lacking(parties, turn).is_none();
        if is_free {
            self.take(parties, Some(turn));
        }
        is_free
    }
}

/// The steps that are due. Of those that wait for a slot the coordinator's own come first: it never queues more than fit.
pub fn steps(answering: &Answering<'_>, soft: &Soft, now: Now) -> Vec<Change> {
    let metadata = answering.metadata;
    let mut slots = Slots::taken(metadata, soft, now);
    let step = |row: &MigrationRow| {
        let shard = metadata.shard(row.shard)?;
        let step = match row.phase {
            Phase::Queued => start(answering, row, shard, &mut slots, now)?,
            Phase::Preparing | Phase::Copying | Phase::Admitting => give_up(answering, row, soft, now)?,
            Phase::HandingOver => hand_over(answering, row, shard, soft, now)?,
            Phase::Done | Phase::Aborted => return None,
        };
        Some(Change::Step { migration: row.id, if_epoch: row.epoch, if_phase: row.phase, step })
    };
    let waits_longer = |row: &&MigrationRow| row.phase == Phase::Queued && row.by_operator;
    let own = metadata.active_migrations().filter(|row| !waits_longer(row));
    own.chain(metadata.active_migrations().filter(waits_longer)).filter_map(step).collect()
}

fn abort(error: impl Into<String>) -> Option<Step> {
    Some(Step::Abort { error: error.into() })
}

fn start(
    answering: &Answering<'_>,
    row: &MigrationRow,
    shard: &ShardRow,
    slots: &mut Slots<'_>,
    now: Now,
) -> Option<Step> {
    if !shard.primary.as_ref().is_some_and(|primary| answering.is_alive(primary)) {
        // A failover is due and settles it, or the shard waits for a copy to come back.
        return None;
    }
    if let Some(why) = obstacle(answering, row, shard) {
        return abort(why);
    }
    let turn = Turn::to_start(row, slots.soft, now);
    slots.try_take(Parties::of(row, shard), turn).then_some(Step::Start)
}

/// Why a queued migration can't start any more.
fn obstacle(answering: &Answering<'_>, row: &MigrationRow, shard: &ShardRow) -> Option<&'static str> {
    let to = row.to.as_ref();
    if to.is_some_and(|to| !answering.is_alive(to)) {
        return Some("the target is down");
    }
    let from_role = row.from.as_ref().and_then(|from| shard.role_of(from));
    let to_role = to.and_then(|to| shard.role_of(to));
    let node = to.and_then(|to| answering.metadata.node(to));
    let is_readmitted = row.kind == MigrationKind::Add && to.is_some_and(|to| shard.learners.contains(to));
    match row.kind {
        MigrationKind::Move if from_role.is_none() => Some("the giver has no copy any more"),
        MigrationKind::Move | MigrationKind::Add if is_readmitted => {
            let is_emptied =
                node.is_some_and(|node| matches!(node.intent, Intent::Draining | Intent::Drained));
            is_emptied.then_some("the target is being emptied")
        }
        MigrationKind::Move | MigrationKind::Add if to_role.is_some() => {
            Some("the target has a copy already")
        }
        MigrationKind::Move | MigrationKind::Add => {
            let is_deleting = to.is_some_and(|to| answering.metadata.retiring_row(shard.id, to).is_some());
            let takes = node.is_some_and(|node| node.intent == Intent::Schedulable && node.capacity.0 > 0);
            (is_deleting || !takes).then_some("the target takes no copy")
        }
        MigrationKind::Promote => {
            let is_fit =
                to.is_some_and(|to| shard.in_sync.contains(to) && shard.primary.as_ref() != Some(to));
            let gives = row.from == shard.primary;
            (!is_fit || !gives).then_some("primaryship can't go that way any more")
        }
        MigrationKind::Remove => {
            let is_gone = from_role.is_none() || row.from == shard.primary;
            is_gone.then_some("the copy is gone, or leads")
        }
    }
}

fn give_up(answering: &Answering<'_>, row: &MigrationRow, soft: &Soft, now: Now) -> Option<Step> {
    if row.to.as_ref().is_some_and(|to| !answering.is_alive(to)) {
        return abort("the target is down");
    }
    let progress = soft.progress.get(&row.id)?;
    let idle_ms = now.boot_ms.saturating_sub(progress.changed_boot_ms);
    let timeout_ms = answering.metadata.policy().phase_timeout_ms;
    if idle_ms < timeout_ms {
        return None;
    }
    abort(format!("no progress for {idle_ms} ms"))
}

fn hand_over(
    answering: &Answering<'_>,
    row: &MigrationRow,
    shard: &ShardRow,
    soft: &Soft,
    now: Now,
) -> Option<Step> {
    let primary = shard.primary.as_ref()?;
    if !answering.is_alive(primary) {
        // A failover is due and settles it.
        return None;
    }
    if row.to.as_ref().is_some_and(|to| answering.going_down.contains(to)) {
        // The verdict takes it back in its own command.
        return None;
    }
    let is_fit = row.to.as_ref().is_some_and(|to| shard.in_sync.contains(to) && answering.is_alive(to));
    if !is_fit {
        return Some(Step::TakeBack { error: "the target is down or no longer in sync".to_owned() });
    }
    let taken = row.taken_revision?;
    soft.liveness.is_lease_over_below(primary, taken, now.boot_ms).then_some(Step::CutOver)
}

/// Shards that moved a moment ago, and until when (milliseconds since 1970) they are not levelled again: as copies, and as
/// primaries. Ended rows are kept for 10,000 migrations; of more in one `COOL_DOWN_MS` the earliest are forgotten.
pub fn cooling(metadata: &Metadata) -> Cooling {
    let mut cooling = Cooling::default();
    for row in metadata.migrations().filter(|row| row.phase == Phase::Done) {
        let of_kind = match row.kind {
            MigrationKind::Move | MigrationKind::Add => &mut cooling.copies,
            MigrationKind::Promote => &mut cooling.primaries,
            MigrationKind::Remove => continue,
        };
        let until_ms = row.updated_ms.saturating_add(COOL_DOWN_MS);
        let entry = of_kind.entry(row.shard).or_default();
        *entry = until_ms.max(*entry);
    }
    cooling
}

impl Cooling {
    /// Until when the shard may not be levelled by such a migration; none where it may at `now_ms`.
    pub fn until_ms(&self, shard: ShardId, kind: MigrationKind, now_ms: u64) -> Option<u64> {
        let of_kind = match kind {
            MigrationKind::Move | MigrationKind::Add | MigrationKind::Remove => &self.copies,
            MigrationKind::Promote => &self.primaries,
        };
        of_kind.get(&shard).copied().filter(|until_ms| now_ms < *until_ms)
    }

    /// Whether the shard may not be levelled by such a migration yet.
    pub fn is_cooling(&self, shard: ShardId, kind: MigrationKind, now_ms: u64) -> bool {
        self.until_ms(shard, kind, now_ms).is_some()
    }
}

/// Shards whose last migrations by the coordinator failed, and until when (milliseconds since 1970) they are left alone.
pub fn retry_waits(metadata: &Metadata) -> BTreeMap<ShardId, u64> {
    let mut failures: BTreeMap<ShardId, (u32, u64)> = BTreeMap::new();
    for row in metadata.migrations().filter(|row| !row.by_operator) {
        match row.phase {
            Phase::Aborted => {
                let entry = failures.entry(row.shard).or_default();
                *entry = (entry.0 + 1, row.updated_ms);
            }
            Phase::Done => {
                failures.remove(&row.shard);
            }
            Phase::Queued | Phase::Preparing | Phase::Copying | Phase::Admitting | Phase::HandingOver => {}
        }
    }
    let wait_ms = |failures: u32| {
        let doubled = FIRST_RETRY_MS.checked_shl(failures.saturating_sub(1).min(20)).unwrap_or(LAST_RETRY_MS);
        doubled.min(LAST_RETRY_MS)
    };
    failures
        .into_iter()
        .map(|(shard, (count, at_ms))| (shard, at_ms.saturating_add(wait_ms(count))))
        .collect()
}
