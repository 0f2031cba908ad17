//! From state, soft state and time to commands: one pure function.

use std::collections::BTreeSet;

use ruvector_cluster_client::ids::{NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::{Intent, MigrationKind, Move};

use super::verdicts::Verdicts;
use crate::load::LoadWatch;
use crate::metadata::{Change, Command, MAX_BATCH, Metadata, NewMigration, NodeRow};
use crate::migration::{self, Parties, Slots, Turn};
use crate::placement::{LoadMoves, PlanOptions, Planned, Purpose, Room, planned};
use crate::soft::{Now, Soft};

/// Most bytes that the changes of one command are taken to have (DESIGN.md section 7, "Batches").
pub(super) const MAX_BATCH_BYTES: usize = 256 * 1024;

/// Bytes of a change's JSON but its node ids, at most.
const CHANGE_BYTES: usize = 240;

/// Shards are first assigned once no node has joined for so many heartbeat intervals.
const SETTLED_INTERVALS: u64 = 2;

/// Shards are first assigned at the latest so long after the first node joined.
const MAX_SETTLING_MS: u64 = 10_000;

/// How much is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Verdicts, failovers and the steps of migrations: what can't wait. Costs what is down or moving.
    Urgent,
    /// All else: complete drains, copies that nobody wants, first assignments, the plan. Costs a walk over the whole state.
    Patient,
    /// Both.
    Whole,
}

impl Scope {
    fn has_urgent(self) -> bool {
        match self {
            Self::Urgent | Self::Whole => true,
            Self::Patient => false,
        }
    }

    fn has_patient(self) -> bool {
        match self {
            Self::Patient | Self::Whole => true,
            Self::Urgent => false,
        }
    }
}

/// What is to be proposed, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Each at most [`MAX_BATCH`] changes.
    pub commands: Vec<Command>,
    /// For [`Soft::levelling`]; none where it was not looked at.
    pub levelling: Option<bool>,
    /// For [`Soft::load_watch`]; none where it was not looked at.
    pub load_watch: Option<LoadWatch>,
}

/// Decides. Pure: the same state, soft state and time give the same commands; and none, once nothing is to be done.
pub fn decide(metadata: &Metadata, soft: &Soft, now: Now, scope: Scope) -> Decision {
    let Some(founded) = metadata.founded().filter(|_| !metadata.is_suspended()) else {
        return Decision::default();
    };
    let mut changes = Vec::new();
    if scope.has_urgent() {
        let verdicts = Verdicts::due(metadata, soft, now);
        changes.extend(verdicts.changes(metadata, soft, now));
        changes.extend(migration::steps(&verdicts.answering(metadata), soft, now));
    }
    let (mut levelling, mut load_watch) = (None, None);
    if scope.has_patient() {
        // Log time may be ahead of this leader's clock.
        let now_ms = now.wall_ms.max(metadata.log_time_ms());
        changes.extend(intents(metadata, now_ms));
        changes.extend(strays(metadata, soft));
        let may_assign = is_settled(metadata, founded.settings.heartbeat_interval_ms, now_ms);
        let may_migrate = !metadata.paused() && !Slots::wanted(metadata, soft, now).is_full();
        if may_assign || may_migrate {
            let planned = plan(metadata, soft, now);
            levelling = Some(planned.is_levelling);
            load_watch = watched(metadata, soft, &planned, now);
            if may_assign {
                changes.extend(assignments(metadata, &planned));
            }
            if may_migrate {
                changes.extend(migrations(metadata, soft, &planned, now));
            }
        } else if soft.load_watch.may_level(now.boot_ms) && metadata.active_migrations().next().is_some() {
            // No plan, since all slots are taken: levelling has not come to its end.
            load_watch = Some(soft.load_watch.seen(true, now.boot_ms));
        }
    }
    Decision { commands: batches(changes), levelling, load_watch }
}

fn plan(metadata: &Metadata, soft: &Soft, now: Now) -> Planned {
    planned(metadata, soft, metadata.policy(), &plan_options(metadata, soft, now))
}

/// What the coordinator's own plan is made by.
pub(super) fn plan_options(metadata: &Metadata, soft: &Soft, now: Now) -> PlanOptions {
    let now_ms = now.wall_ms.max(metadata.log_time_ms());
    let purpose =
        Purpose::Automatic { levelling: soft.levelling, levelling_bytes: soft.load_watch.levels_bytes() };
    let load = if soft.load_watch.may_level(now.boot_ms) { LoadMoves::Settled } else { LoadMoves::Watched };
    PlanOptions { purpose, load, ..PlanOptions::for_operator(now_ms, metadata.policy()) }
}

/// The watch of load after this plan. While something is on its way, levelling has not come to its end.
fn watched(metadata: &Metadata, soft: &Soft, planned: &Planned, now: Now) -> Option<LoadWatch> {
    let is_uneven = planned.is_load_uneven?;
    let is_under_way =
        soft.load_watch.may_level(now.boot_ms) && metadata.active_migrations().next().is_some();
    let seen = soft.load_watch.seen(is_uneven || is_under_way, now.boot_ms);
    Some(seen.with_bytes(planned.is_levelling_bytes))
}

/// Drains that are complete and maintenances that are over.
fn intents(metadata: &Metadata, now_ms: u64) -> Vec<Change> {
    let change = |row: &NodeRow| match row.intent {
        Intent::Draining => {
            let is_empty = metadata.roles_of(&row.id).next().is_none();
            is_empty.then(|| Change::Drained { node: row.id.clone() })
        }
        Intent::Maintenance => {
            let is_over = row.maintenance_until_ms.is_some_and(|until_ms| until_ms <= now_ms);
            is_over.then(|| Change::MaintenanceOver { node: row.id.clone() })
        }
        Intent::Schedulable | Intent::Drained => None,
    };
    metadata.nodes().filter_map(change).collect()
}

/// Copies held and not assigned, of shards that have all they want in sync.
fn strays(metadata: &Metadata, soft: &Soft) -> Vec<Change> {
    let wanted = metadata.replication_factor().min(metadata.num_nodes());
    let mut changes = Vec::new();
    for (node, said) in &soft.nodes {
        if !metadata.node(node).is_some_and(|row| row.incarnation == said.incarnation && !row.is_down()) {
            continue;
        }
        // Both ascend, so that one walk finds what is held and not assigned.
        let mut assigned = metadata.roles_of(node).map(|(shard, _)| shard).peekable();
        for held in said.held.keys() {
            while assigned.next_if(|shard| shard < held).is_some() {}
            if assigned.peek() == Some(held) {
                continue;
            }
            let Some(shard) = metadata.shard(*held) else { continue };
            let is_whole = shard.in_sync.len() >= wanted
                && shard.full_copies().all(|copy| shard.in_sync.contains(copy) && metadata.is_alive(copy));
            if is_whole && shard.primary.is_some() && !shard.founding && !shard.lost {
                changes.push(Change::Retire { shard: *held, node: node.clone(), if_epoch: shard.epoch });
            }
        }
    }
    changes
}

/// Whether shards without copies may get theirs: no node has joined lately, or the first has waited long enough.
pub(super) fn is_settled(metadata: &Metadata, heartbeat_interval_ms: u64, now_ms: u64) -> bool {
    if metadata.shard_counts().unassigned == 0 {
        return false;
    }
    let joined = || metadata.nodes().map(|node| node.joined_ms);
    let (Some(first_ms), Some(last_ms)) = (joined().min(), joined().max()) else { return false };
    let settling_ms = heartbeat_interval_ms.saturating_mul(SETTLED_INTERVALS);
    now_ms >= last_ms.saturating_add(settling_ms) || now_ms >= first_ms.saturating_add(MAX_SETTLING_MS)
}

fn assignments(metadata: &Metadata, planned: &Planned) -> Vec<Change> {
    let change = |(id, copies): &(ShardId, Vec<NodeId>)| {
        let shard = metadata.shard(*id)?;
        let (primary, replicas) = copies.split_first()?;
        Some(Change::Assign {
            shard: *id,
            if_epoch: shard.epoch,
            primary: primary.clone(),
            replicas: replicas.to_vec(),
        })
    };
    planned.assigned.iter().filter_map(change).collect()
}

/// The plan's moves that find free slots: of each shard the first only, none of a shard that failed a moment ago, and no levelling
/// of one that moved a moment ago. Primaries are levelled once no copy is on its way any more, so that none is handed over twice.
pub(super) fn migrations(metadata: &Metadata, soft: &Soft, planned: &Planned, now: Now) -> Vec<Change> {
    let now_ms = now.wall_ms.max(metadata.log_time_ms());
    let waits = migration::retry_waits(metadata);
    let cooling = migration::cooling(metadata);
    let mut free =
        Free { slots: Slots::wanted(metadata, soft, now), room: Room::of(metadata, soft, metadata.policy()) };
    let mut seen = BTreeSet::new();
    let copies = |kind: MigrationKind| matches!(kind, MigrationKind::Move | MigrationKind::Add);
    let is_moving = planned.plan.moves.iter().any(|step| copies(step.kind))
        || metadata.active_migrations().any(|row| copies(row.kind));
    let mut changes = Vec::new();
    let (moves, for_load) = planned.plan.moves.split_at(planned.plan.moves.len() - planned.for_load);
    for (place, step) in moves.iter().enumerate() {
        if free.slots.is_full() {
            break;
        }
        let is_first = seen.insert(step.shard);
        let waits = waits.get(&step.shard).is_some_and(|until_ms| now_ms < *until_ms);
        let is_forced = place < planned.forced;
        let too_early = step.kind == MigrationKind::Promote && is_moving;
        let is_held = !is_forced && (too_early || cooling.is_cooling(step.shard, step.kind, now_ms));
        if is_first && !waits && !is_held {
            let turn = if is_forced { Turn::QueueAhead } else { Turn::Queue };
            changes.extend(migrate(metadata, step, turn, &mut free));
        }
    }
    let is_free = |step: &Move| {
        let waits = waits.get(&step.shard).is_some_and(|until_ms| now_ms < *until_ms);
        !waits && !cooling.is_cooling(step.shard, step.kind, now_ms)
    };
    changes.extend(for_load_migrations(metadata, for_load, free, is_free));
    changes
}

/// Whether `second` is what comes back for `first`.
pub(super) fn comes_back(first: &Move, second: &Move) -> bool {
    second.kind == first.kind && second.from == first.to && second.to == first.from
}

/// Those of the moves for load that find free slots; both halves of an exchange or none, since one alone would leave copies or
/// primaries uneven by number.
fn for_load_migrations<'a>(
    metadata: &'a Metadata,
    mut moves: &'a [Move],
    mut free: Free<'a>,
    is_free: impl Fn(&Move) -> bool,
) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Some(first) = moves.first() {
        let halves = 1 + usize::from(moves.get(1).is_some_and(|second| comes_back(first, second)));
        let (exchange, rest) = moves.split_at(halves);
        moves = rest;
        let mut taken = free.clone();
        let turns = [Turn::Queue, Turn::QueueToo];
        let migrations = exchange
            .iter()
            .zip(turns)
            .map(|(step, turn)| migrate(metadata, step, turn, &mut taken).filter(|_| is_free(step)));
        if let Some(migrations) = migrations.collect::<Option<Vec<_>>>() {
            changes.extend(migrations);
            free = taken;
        }
    }
    changes
}

/// What moves that begin take.
#[derive(Clone)]
struct Free<'a> {
    slots: Slots<'a>,
    room: Room<'a>,
}

impl<'a> Free<'a> {
    /// Takes a slot for each party and the room for the copy, if all are there.
    fn try_take(&mut self, parties: Parties<'_>, step: &'a Move, turn: Turn) -> bool {
        let to = step.to.as_ref().filter(|_| step.bytes > 0);
        let has_room = to.is_none_or(|to| self.room.has(to, step.bytes));
        let is_taken = has_room && self.slots.try_take(parties, turn);
        if let Some(to) = to.filter(|_| is_taken) {
            self.room.take(to, step.bytes);
        }
        is_taken
    }
}

fn migrate<'a>(metadata: &Metadata, step: &'a Move, turn: Turn, free: &mut Free<'a>) -> Option<Change> {
    let shard = metadata.shard(step.shard)?;
    let parties = Parties { shard, kind: step.kind, from: step.from.as_ref(), to: step.to.as_ref() };
    free.try_take(parties, step, turn).then(|| {
        Change::Migrate(NewMigration {
            shard: step.shard,
            kind: Some(step.kind),
            from: step.from.clone(),
            to: step.to.clone(),
            if_epoch: Some(shard.epoch),
            reason: step.reason.clone(),
        })
    })
}

/// What is still meant of a command that was decided on the state of `base`: changes of shards that are other than they were then
/// are void, and so are moves where an operator paused them or set another policy meanwhile; all others stand. None where nothing is
/// left.
pub(super) fn still_meant(command: Command, base: Revision, metadata: &Metadata) -> Option<Command> {
    let Command::Coordinate { mut changes } = command else { return Some(command) };
    let may_migrate = !metadata.paused() && metadata.policy_revision() <= base;
    let is_as_then = |shard: &ShardId| metadata.shard(*shard).is_some_and(|row| row.revision <= base);
    changes.retain(|change| match change {
        Change::Migrate(NewMigration { shard, .. }) => may_migrate && is_as_then(shard),
        Change::Assign { shard, .. } | Change::Retire { shard, .. } | Change::Failover { shard, .. } => {
            is_as_then(shard)
        }
        Change::Down { .. }
        | Change::Alive { .. }
        | Change::Drained { .. }
        | Change::MaintenanceOver { .. }
        | Change::Step { .. } => true,
    });
    (!changes.is_empty()).then_some(Command::Coordinate { changes })
}

/// Cuts changes into commands.
fn batches(changes: Vec<Change>) -> Vec<Command> {
    let mut batches: Vec<Vec<Change>> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let size = size_bytes(&change);
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_BATCH && bytes + size <= MAX_BATCH_BYTES => {
                bytes += size;
                batch.push(change);
            }
            Some(_) | None => {
                bytes = size;
                batches.push(vec![change]);
            }
        }
    }
    batches.into_iter().map(|changes| Command::Coordinate { changes }).collect()
}

/// An upper bound of a change's bytes in a command.
fn size_bytes(change: &Change) -> usize {
    let text = match change {
        Change::Down { node, .. }
        | Change::Alive { node, .. }
        | Change::Retire { node, .. }
        | Change::Drained { node }
        | Change::MaintenanceOver { node }
        | Change::Failover { to: node, .. } => node.as_str().len(),
        Change::Assign { primary, replicas, .. } => {
            replicas.iter().chain([primary]).map(|node| node.as_str().len() + 3).sum()
        }
        Change::Migrate(ask) => {
            let nodes = ask.from.iter().chain(&ask.to).map(|node| node.as_str().len());
            nodes.sum::<usize>() + ask.reason.len()
        }
        Change::Step { step, .. } => match step {
            crate::metadata::Step::TakeBack { error } | crate::metadata::Step::Abort { error } => error.len(),
            crate::metadata::Step::Start | crate::metadata::Step::CutOver => 0,
        },
    };
    CHANGE_BYTES + text
}
