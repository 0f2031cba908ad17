//! Why a shard is where it is, and why it does not move: placement's answer, and what keeps a planned move from starting.
//!
//! Whether a move starts is asked of [`decide`](super::decide) itself, and only what keeps it is named here. Pure.

use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::{
    Explanation, MigrationKind, Move, PendingMigration, Phase, Reason, ShardStatus,
};

use super::decide::{comes_back, is_settled, migrations, plan_options};
use crate::metadata::view::time;
use crate::metadata::{Change, Metadata, MigrationRow, ShardRow};
use crate::migration::{self, Lacking, Parties, Slots, Turn};
use crate::placement::{self, Explained, Planned, Room};
use crate::soft::{Now, Soft};

/// Explains `shard` by the plan that the coordinator would make now; none where there is
/// no such shard. Without `soft`, which only the leader has, no sizes are known.
pub fn explain(metadata: &Metadata, soft: Option<&Soft>, now: Now, shard: ShardId) -> Option<Explanation> {
    let row = metadata.shard(shard)?;
    let now_ms = now.wall_ms.max(metadata.log_time_ms());
    let nothing = Soft::default();
    let heard = soft.unwrap_or(&nothing);
    let options = plan_options(metadata, heard, now);
    let explained = placement::explain(metadata, heard, metadata.policy(), &options, shard)?;
    let pending = row.migration.and_then(|id| metadata.migration(id));
    let case = Case { metadata, heard, row, pending, explained: &explained, now, now_ms };
    let waits = case.waits();
    let mut summary = case.summary(&waits);
    if soft.is_none() {
        summary.push_str(" This control node does not lead, and knows nothing of sizes.");
    }
    Some(Explanation {
        shard,
        epoch: row.epoch,
        revision: metadata.revision(),
        from_leader: soft.is_some(),
        summary,
        pending: pending.map(told),
        copies: explained.copies,
        nodes: explained.nodes,
        next: explained.next,
        waits,
    })
}

fn told(row: &MigrationRow) -> PendingMigration {
    PendingMigration {
        id: row.id,
        phase: row.phase,
        kind: row.kind,
        from: row.from.clone(),
        to: row.to.clone(),
        reason: row.reason.clone(),
        error: row.error.clone(),
    }
}

struct Case<'a> {
    metadata: &'a Metadata,
    heard: &'a Soft,
    row: &'a ShardRow,
    pending: Option<&'a MigrationRow>,
    explained: &'a Explained,
    now: Now,
    /// Log time may be ahead of this control node's clock.
    now_ms: u64,
}

impl Case<'_> {
    /// All that keeps the shard where it is.
    fn waits(&self) -> Vec<Reason> {
        let mut waits = Vec::new();
        if self.metadata.is_suspended() {
            let detail = "the cluster was restored, and nothing is decided until POST /v1/cluster/resume";
            waits.push(reason("suspended", detail));
        }
        if let Some(row) = self.pending.filter(|row| row.phase == Phase::Queued) {
            let slots = Slots::taken(self.metadata, self.heard, self.now);
            let turn = Turn::to_start(row, self.heard, self.now);
            waits.extend(slots.lacking(Parties::of(row, self.row), turn).map(lacking));
        }
        if !self.explained.assigned.is_empty() {
            waits.extend(self.settling());
        }
        if let Some(first) = self.explained.next.first().filter(|_| !self.starts()) {
            self.holds(first, &mut waits);
        }
        waits.extend(self.explained.waits.iter().cloned());
        waits
    }

    /// Whether the coordinator would queue the shard's first move now.
    fn starts(&self) -> bool {
        let is_own = |change: &Change| matches!(change, Change::Migrate(new) if new.shard == self.row.id);
        let may_migrate = !self.metadata.is_suspended() && !self.metadata.paused();
        let planned = &self.explained.planned;
        may_migrate && migrations(self.metadata, self.heard, planned, self.now).iter().any(is_own)
    }

    fn settling(&self) -> Option<Reason> {
        let settings = &self.metadata.founded()?.settings;
        let is_settled = is_settled(self.metadata, settings.heartbeat_interval_ms, self.now_ms);
        let detail = "shards get their first copies once no node has joined for two heartbeat intervals";
        (!is_settled).then(|| reason("settling", detail))
    }

    /// Why the planned move does not start.
    fn holds(&self, first: &Move, waits: &mut Vec<Reason>) {
        let before = waits.len();
        if self.metadata.paused() {
            let detail = "automatic migrations are paused: POST /v1/rebalance/resume lets them start";
            waits.push(reason("paused", detail));
        }
        let until_ms = migration::retry_waits(self.metadata).get(&self.row.id).copied();
        if let Some(until_ms) = until_ms.filter(|until_ms| self.now_ms < *until_ms) {
            let failed = |row: &&MigrationRow| row.shard == self.row.id && row.phase == Phase::Aborted;
            let error = self.metadata.migrations().filter(failed).max_by_key(|row| row.updated_ms);
            let error = error.and_then(|row| row.error.clone()).unwrap_or_default();
            let detail = format!("it is left alone until {}, since moving it failed: {error}", at(until_ms));
            waits.push(reason("failed_lately", detail));
        }
        let planned = &self.explained.planned;
        let others = planned.plan.moves.iter().take_while(|other| *other != first).count();
        let is_forced = others < planned.forced;
        let cooling = migration::cooling(self.metadata).until_ms(self.row.id, first.kind, self.now_ms);
        if let Some(until_ms) = cooling.filter(|_| !is_forced) {
            let until = at(until_ms);
            let detail =
                format!("it moved a moment ago, and is not moved to even something out until {until}");
            waits.push(reason("cool_down", detail));
        }
        let parties =
            Parties { shard: self.row, kind: first.kind, from: first.from.as_ref(), to: first.to.as_ref() };
        let room = Room::of(self.metadata, self.heard, self.metadata.policy());
        if let Some(to) = first.to.as_ref().filter(|to| !room.has(to, first.bytes)) {
            let detail =
                format!("{to} has no room for its {} bytes before other copies have left", first.bytes);
            waits.push(reason("room_first", detail));
        }
        let turn = if is_forced { Turn::QueueAhead } else { Turn::Queue };
        let slots = Slots::wanted(self.metadata, self.heard, self.now);
        waits.extend(slots.lacking(parties, turn).map(lacking));
        if waits.len() > before {
            return;
        }
        if let Some(other) = self.exchanged_for(others) {
            let detail =
                format!("it is exchanged with shard {other}, and both begin together: that one waits");
            waits.push(reason("exchange", detail));
            return;
        }
        let is_for_load = others >= planned.plan.moves.len().saturating_sub(planned.for_load);
        if first.kind == MigrationKind::Promote && !is_forced && !is_for_load {
            let detail = "primaries are evened out once no copy is on its way any more";
            waits.push(reason("copies_first", detail));
        } else {
            let detail = format!("{others} planned moves come before it, and take the slots that are free");
            waits.push(reason("moves_first", detail));
        }
    }

    /// The shard that goes the other way, where the move at `place` is half of an exchange.
    fn exchanged_for(&self, place: usize) -> Option<ShardId> {
        let Planned { plan, for_load, .. } = &self.explained.planned;
        let mut moves = &plan.moves[plan.moves.len().saturating_sub(*for_load)..];
        let own = plan.moves.get(place)?;
        while let [first, rest @ ..] = moves {
            let Some(second) = rest.first().filter(|second| comes_back(first, second)) else {
                moves = rest;
                continue;
            };
            match own.shard {
                shard if shard == first.shard => return Some(second.shard),
                shard if shard == second.shard => return Some(first.shard),
                _ => moves = &rest[1..],
            }
        }
        None
    }

    fn summary(&self, waits: &[Reason]) -> String {
        let mut parts = vec![self.state()];
        if let Some(row) = self.pending {
            let what = motion(row.kind, row.from.as_ref(), row.to.as_ref());
            let reason = sentence(&row.reason);
            parts.push(format!("Migration {} {what}: {reason}", row.id));
        }
        for step in &self.explained.next {
            let what = motion(step.kind, step.from.as_ref(), step.to.as_ref());
            parts.push(format!("The plan {what}: {}", sentence(&step.reason)));
        }
        match &self.explained.assigned[..] {
            [] => {}
            nodes => parts.push(format!("The plan puts its first copies on {}.", names(nodes.iter()))),
        }
        let is_idle = parts.len() == 1;
        if !waits.is_empty() {
            let details: Vec<&str> = waits.iter().map(|wait| wait.detail.as_str()).collect();
            let lead = if is_idle { "Nothing moves" } else { "What waits" };
            parts.push(format!("{lead}: {}", sentence(&details.join("; "))));
        } else if is_idle {
            parts.push("Nothing is planned for it: each copy may stay, and no node has too many.".to_owned());
        }
        parts.join(" ")
    }

    fn state(&self) -> String {
        let Self { metadata, row, .. } = self;
        let (shard, wanted) = (row.id, metadata.replication_factor());
        let Some(primary) = &row.primary else { return format!("Shard {shard} has no copies yet.") };
        let follow = match row.replicas.len() {
            0 => String::new(),
            1 => format!(", {} follows", names(row.replicas.iter())),
            _ => format!(", {} follow", names(row.replicas.iter())),
        };
        match metadata.shard_status(row) {
            ShardStatus::Unassigned => {
                format!("Shard {shard} is being opened: {primary} is to lead{follow}.")
            }
            ShardStatus::Unavailable => format!("Shard {shard} is unavailable: {primary} led{follow}."),
            ShardStatus::Active | ShardStatus::Degraded | ShardStatus::Migrating => {
                let alive = row.in_sync.iter().filter(|node| metadata.is_alive(node)).count();
                format!(
                    "Shard {shard} has {alive} of {wanted} copies in sync and alive: {primary} leads{follow}."
                )
            }
        }
    }
}

/// A point in time, to the second.
fn at(ms: u64) -> String {
    time(ms).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn reason(code: &str, detail: impl Into<String>) -> Reason {
    Reason { code: code.to_owned(), detail: detail.into() }
}

fn lacking(lacking: Lacking) -> Reason {
    match lacking {
        Lacking::Any { max } => reason(
            "no_free_slot",
            format!("{max} migrations run or are queued, as many as may (max_migrations)"),
        ),
        Lacking::Out { node, max } => reason(
            "giver_busy",
            format!("{node} gives {max} copies already, as many as it may (max_out_per_node)"),
        ),
        Lacking::Into { node, max } => reason(
            "taker_busy",
            format!("{node} takes {max} copies already, as many as it may (max_in_per_node)"),
        ),
        Lacking::Rate { bytes_per_s, from_ms } => {
            let which = match from_ms {
                Some(from_ms) => {
                    format!("those that have begun leave room for the next at about {}", at(from_ms))
                }
                None => "the sizes that tell when the next may begin are waited for".to_owned(),
            };
            let rate = format!("copies begin at {bytes_per_s} bytes a second at most (max_bytes_per_s)");
            reason("throttled", format!("{rate}, and {which}"))
        }
    }
}

/// What a migration or a move does, without its subject.
fn motion(kind: MigrationKind, from: Option<&NodeId>, to: Option<&NodeId>) -> String {
    let from = from.map_or(String::new(), |from| format!(" from {from}"));
    let to = to.map_or(String::new(), |to| format!(" to {to}"));
    match kind {
        MigrationKind::Move => format!("moves a copy{from}{to}"),
        MigrationKind::Promote => format!("hands primaryship{from}{to}"),
        MigrationKind::Add => format!("adds a copy{to}"),
        MigrationKind::Remove => format!("removes a copy{from}"),
    }
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

fn names<'n>(nodes: impl Iterator<Item = &'n NodeId>) -> String {
    let names: Vec<&str> = nodes.map(NodeId::as_str).collect();
    match names.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        Some((last, _)) => (*last).to_owned(),
        None => "none".to_owned(),
    }
}
