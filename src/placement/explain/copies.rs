//! What is said of each copy: how it came, and whether it stays.

use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_client::wire::{CopyExplained, Infeasible, MigrationKind, Origin, Phase, Role};

use super::Case;
use crate::metadata::{EventRow, MigrationRow};
use crate::placement::problem::{Action, NodeIndex, NodeUse, ShardUse, Step, Why};
use crate::placement::standing::must_leave;
use crate::placement::words::{Said, at, counted};

impl Case<'_> {
    /// Every copy, the primary first, those that are being deleted last.
    pub(super) fn copies(&self, infeasible: Option<&Infeasible>) -> Vec<CopyExplained> {
        let assigned = self.row.copies().filter_map(|node| {
            let role = self.row.role_of(node)?;
            let (code, detail) = self.stays(node, role, infeasible);
            let in_sync = self.row.in_sync.contains(node);
            let origin = self.origin(node, role);
            Some(CopyExplained { node: node.clone(), role, in_sync, origin, code: code.to_owned(), detail })
        });
        let metadata = self.words.metadata;
        let retiring = metadata.retiring_in(self.row.id).map(|row| CopyExplained {
            node: row.node.clone(),
            role: Role::Retiring,
            in_sync: false,
            origin: Origin { migration: None, detail: "left over: the shard has no use for it".to_owned() },
            code: "deleting".to_owned(),
            detail: format!("{} is to delete it, and takes no other copy of this shard before", row.node),
        });
        assigned.chain(retiring).collect()
    }

    /// How a copy came to its node, and what made it primary.
    fn origin(&self, node: &NodeId, role: Role) -> Origin {
        let is_about = |row: &&MigrationRow| {
            row.shard == self.row.id && row.to.as_ref() == Some(node) && row.phase == Phase::Done
        };
        let ended = || self.words.metadata.migrations().filter(is_about);
        let brings = |row: &&MigrationRow| match row.kind {
            MigrationKind::Move | MigrationKind::Add => true,
            MigrationKind::Promote | MigrationKind::Remove => false,
        };
        let pending = self.row.migration.and_then(|id| self.words.metadata.migration(id));
        let filling = pending.filter(|row| role == Role::Learner && row.to.as_ref() == Some(node));
        let brought = filling.or_else(|| ended().filter(brings).max_by_key(|row| row.revision));
        let mut detail = match brought {
            Some(row) if row.phase != Phase::Done => {
                format!("migration {} is bringing it: {}", row.id, row.reason)
            }
            Some(row) => {
                let from = row.from.as_ref().map_or(String::new(), |from| format!(" from {from}"));
                format!("migration {} brought it{from} at {}: {}", row.id, at(row.updated_ms), row.reason)
            }
            None => self.first(),
        };
        if role == Role::Primary {
            let led = ended().filter(|row| row.kind == MigrationKind::Promote).max_by_key(|row| row.revision);
            let since = brought.map(|row| row.revision);
            if let Some(leads) = self.leads_since(node, led.filter(|row| Some(row.revision) > since)) {
                detail = format!("{detail}; {leads}");
            }
        }
        Origin { migration: brought.map(|row| row.id), detail }
    }

    /// What brought a copy that no migration which is kept brought.
    fn first(&self) -> String {
        // Numbers are counted from 1, so that nothing is gone where the first is kept.
        match self.words.metadata.migrations().next() {
            Some(row) if row.id.0 > 1 => {
                format!(
                    "assigned first, or brought by a migration before {}, which is no longer kept",
                    row.id
                )
            }
            Some(_) | None => "here since the shard was assigned first".to_owned(),
        }
    }

    /// What gave the primaryship to `node` last: a migration, or a failover.
    fn leads_since(&self, node: &NodeId, promoted: Option<&MigrationRow>) -> Option<String> {
        let is_about = |row: &&EventRow| {
            let is_seat = row.kind == "failover" || row.kind == "primary_forced";
            is_seat && row.shard == Some(self.row.id) && row.node.as_ref() == Some(node)
        };
        let events = self.words.metadata.events(Default::default(), usize::MAX);
        let seated = events.filter(is_about).last();
        match (promoted, seated) {
            (Some(row), None) => Some(self.promoted(row)),
            (Some(row), Some(event)) if row.revision > event.revision => Some(self.promoted(row)),
            (_, Some(event)) => {
                Some(format!("leads since {}: {} ({})", at(event.at_ms), event.detail, event.kind))
            }
            (None, None) => None,
        }
    }

    fn promoted(&self, row: &MigrationRow) -> String {
        format!("leads since migration {} at {}: {}", row.id, at(row.updated_ms), row.reason)
    }

    /// Whether the copy stays.
    fn stays(&self, node: &NodeId, role: Role, infeasible: Option<&Infeasible>) -> Said {
        if let Some(said) = self.migrating(node) {
            return said;
        }
        let Ok(index) = self.words.built.nodes.binary_search(node) else {
            return ("unknown", format!("{node} is not registered"));
        };
        if let Some(said) = self.goes_next(index) {
            return said;
        }
        let state = self.words.use_of(index);
        match self.layout.problem.shards[self.shard].usage {
            ShardUse::Unavailable => {
                let why = infeasible.map_or("no copy in sync answers", |why| &why.detail);
                return ("unavailable", format!("nothing can be copied: {why}"));
            }
            ShardUse::Pinned | ShardUse::Unassigned if self.row.founding => {
                return (
                    "pinned",
                    "the shard is being opened: its primary has not reached its copies yet".to_owned(),
                );
            }
            ShardUse::Pinned if self.row.migration.is_none() => {
                let detail = "the primary's node is down: another copy takes over before anything moves";
                return ("pinned", detail.to_owned());
            }
            ShardUse::Pinned | ShardUse::Unassigned | ShardUse::Open => {}
        }
        if role == Role::Learner {
            return (
                "idle",
                format!("{node} is to fill it again, or to delete it, once the shard has room for that"),
            );
        }
        if let Some(infeasible) = infeasible.filter(|_| must_leave(&self.layout, self.shard, index)) {
            let why = state
                .map_or("its rack or zone holds more copies than it should".to_owned(), |(_, text)| {
                    format!("{node} {text}")
                });
            return ("stuck", format!("{why}, but the copy has no other place: {}", infeasible.detail));
        }
        match self.layout.problem.nodes[index].usage {
            NodeUse::Away | NodeUse::Maintenance => state
                .map_or(("away", format!("{node} is away")), |(code, text)| (code, format!("{node} {text}"))),
            NodeUse::Open | NodeUse::Full | NodeUse::Draining | NodeUse::Dead => self.levelled(index, role),
        }
    }

    /// A migration that is under way takes it away, or brings it.
    fn migrating(&self, node: &NodeId) -> Option<Said> {
        let row = self.words.metadata.migration(self.row.migration?)?;
        let (id, reason) = (row.id, &row.reason);
        let is_from = row.from.as_ref() == Some(node);
        let to = row.to.as_ref().map_or(String::new(), |to| format!(" to {to}"));
        let phase = phase(row.phase);
        match row.kind {
            MigrationKind::Move | MigrationKind::Add if row.to.as_ref() == Some(node) => {
                Some(("arriving", format!("migration {id} ({phase}) brings it here: {reason}")))
            }
            MigrationKind::Move if is_from => {
                Some(("moving", format!("migration {id} ({phase}) moves it{to}: {reason}")))
            }
            MigrationKind::Promote if is_from => Some((
                "handing_over",
                format!("stays; migration {id} ({phase}) hands its primaryship{to}: {reason}"),
            )),
            MigrationKind::Remove if is_from => {
                Some(("leaving", format!("migration {id} ({phase}) removes it: {reason}")))
            }
            MigrationKind::Move | MigrationKind::Add | MigrationKind::Promote | MigrationKind::Remove => None,
        }
    }

    /// The plan takes it away, or else its primaryship.
    fn goes_next(&self, node: NodeIndex) -> Option<Said> {
        let said = |step: &Step| {
            let reason = step.why.sentence();
            match step.action {
                Action::Move { from, to } if from == node => {
                    Some(("moves_next", format!("the plan moves it to {}: {reason}", self.words.name(to))))
                }
                Action::Remove { from } if from == node => {
                    Some(("leaves_next", format!("the plan removes it: {reason}")))
                }
                Action::Promote { from, to } if from == node => {
                    let to = self.words.name(to);
                    Some((
                        "hands_over_next",
                        format!("stays; the plan hands its primaryship to {to}: {reason}"),
                    ))
                }
                Action::Add { to } if to == node => {
                    Some(("filled_next", format!("the plan fills it again: {reason}")))
                }
                Action::Move { .. } | Action::Remove { .. } | Action::Promote { .. } | Action::Add { .. } => {
                    None
                }
            }
        };
        // A primary that is to go hands over first where it can.
        let hands_over = |step: &&Step| matches!(step.action, Action::Promote { .. });
        let leaves = self.steps.iter().filter(|step| !hands_over(step)).find_map(said);
        leaves.or_else(|| self.steps.iter().filter(hands_over).find_map(said))
    }

    /// Nothing wants it away but, perhaps, an even load.
    fn levelled(&self, node: NodeIndex, role: Role) -> Said {
        let name = self.words.name(node);
        let Some(shares) = &self.shares else {
            let detail =
                format!("the strategy's order of nodes wants it on {name}, or on a node that can't take it");
            return ("ordered", detail);
        };
        let share = format!("{name}: {}", self.share(node));
        let (count, ceil) = (self.layout.count[node], shares.ceil(node));
        if count <= ceil {
            return ("even", format!("{share}: nothing to level{}", self.primaries(node, role)));
        }
        let Some(levelling) = self.drawn.levelling else {
            return ("levelling_off", format!("{share}, but levelling is off (policy: enabled)"));
        };
        let is_begun = self.drawn.solution.measure.as_ref().is_some_and(|measure| measure.is_begun);
        let (upto, name) = match is_begun {
            true => (levelling.stop.upto_thousandths, "levelling ends there: stop_imbalance"),
            false => (levelling.start.upto_thousandths, "levelling begins above it: start_imbalance"),
        };
        let high = shares.high(node, upto);
        if count <= high {
            return ("within_thresholds", format!("{share}; up to {high} are left alone ({name})"));
        }
        let goes = |action| matches!(action, Action::Move { from, .. } if from == node);
        let others =
            self.drawn.solution.steps.iter().filter(|step| step.why == Why::Level && goes(step.action));
        match others.count() as u64 {
            0 => ("no_taker", format!("{share}, but no node that has too few may take one of its copies")),
            others => {
                let others = counted(others, "other copy", "other copies");
                ("others_first", format!("{share}; the plan moves {others} away, which is enough"))
            }
        }
    }

    /// The same for primaries.
    fn primaries(&self, node: NodeIndex, role: Role) -> String {
        let Some(measure) = self.drawn.solution.measure.as_ref().filter(|_| role == Role::Primary) else {
            return String::new();
        };
        let (floor, ceil) = (measure.primaries.floor(node), measure.primaries.ceil(node));
        let share = if floor == ceil { format!("{floor}") } else { format!("{floor} to {ceil}") };
        let led = counted(self.layout.primaries[node], "shard", "shards");
        format!("; it leads {led}, and its share is {share}")
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "queued",
        Phase::Preparing => "preparing",
        Phase::Copying => "copying",
        Phase::Admitting => "admitting",
        Phase::HandingOver => "handing over",
        Phase::Done => "done",
        Phase::Aborted => "aborted",
    }
}
