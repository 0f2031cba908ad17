//! The control cluster as data nodes meet it: the committed state, the present leader's soft state, and what it has proposed.
//!
//! Raft is taken at its word: entries are applied in one order, a proposal is fenced by its leadership, and a heartbeat is
//! answered only by a leadership that was confirmed after it arrived. So a deposed leader has no effect but by messages that it
//! sent before, and only the present leader is kept.

use std::collections::{BTreeMap, VecDeque};

use ruvector_cluster::coordinator::{Decision, Scope, decide, observe_heartbeat};
use ruvector_cluster::metadata::check::check;
use ruvector_cluster::metadata::{
    Answer, COMMAND_VERSION, Change, Command, Envelope, Metadata, NewMigration, Outcome, Register, Settings,
    apply, view,
};
use ruvector_cluster::soft::{Now, Soft};
use ruvector_cluster_client::ids::{Incarnation, NodeId};
use ruvector_cluster_client::replica::ReportId;
use ruvector_cluster_client::replica::event::ReportOutcome;
use ruvector_cluster_client::wire::{HeartbeatRequest, RebalancePolicy, Report};

use crate::ghost::{Ghost, Rule};
use crate::node::{KEY, SHARD};
use crate::world::{LEASE_MS, Message, NODES, World};

/// What the control cluster has.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) metadata: Metadata,
    /// Of the last entry.
    index: u64,
    /// The present leader's.
    pub(crate) soft: Soft,
    /// What the leader decided and has not committed yet, in order.
    pub(crate) proposals: VecDeque<Command>,
}

/// The leader's clocks: of the rate that the lease rules just allow against the data nodes'.
fn leader_now(now_ms: u64) -> Now {
    Now { boot_ms: now_ms.saturating_mul(105) / 100, wall_ms: now_ms }
}

impl Control {
    /// A cluster of one shard that has just been founded, with its first leader.
    pub(crate) fn founded(copies: u32, now_ms: u64) -> Self {
        let mut control =
            Self { metadata: Metadata::new(), index: 0, soft: Soft::default(), proposals: VecDeque::new() };
        let settings = Settings {
            num_shards: 1,
            replication_factor: copies,
            failure_timeout_ms: LEASE_MS + LEASE_MS / 4,
            lease_ms: LEASE_MS,
            heartbeat_interval_ms: LEASE_MS / 5,
        };
        let policy = RebalancePolicy {
            down_grace_ms: 5_000,
            phase_timeout_ms: 5_000,
            mass_failure_hold_ms: 5_000,
            ..RebalancePolicy::default()
        };
        let mut ghost = Ghost::default();
        control.commit(now_ms, Command::Found { cluster_id: "model".to_owned(), settings }, &mut ghost);
        control.commit(now_ms, Command::SetPolicy { policy, if_match: None }, &mut ghost);
        control.begin_leading(now_ms);
        control
    }

    /// Applies the command, as every control node does; then again, which must change nothing.
    pub(crate) fn commit(&mut self, now_ms: u64, command: Command, ghost: &mut Ghost) -> Outcome {
        let envelope = Envelope { version: COMMAND_VERSION, actor: "model".to_owned(), key: None, command };
        let is_repeatable = match envelope.command {
            // Another run each time.
            Command::Register(_) => false,
            _ => true,
        };
        self.index += 1;
        let before = self.metadata.clone();
        let outcome = apply(&mut self.metadata, self.index, now_ms, &envelope).outcome;
        if is_repeatable {
            let mut again = self.metadata.clone();
            apply(&mut again, self.index + 1, now_ms, &envelope);
            if !is_same(&self.metadata, &again) {
                ghost.broke(
                    Rule::RepeatsChangeNothing,
                    format!("{:?} a second time has an effect", envelope.command),
                );
            }
        }
        check_promotion(&before, &self.metadata, ghost);
        check_failover(&before, &self.metadata, &envelope.command, ghost);
        if let Some(violation) = check(&self.metadata).first() {
            ghost.broke(Rule::StateHolds, violation.to_string());
        }
        outcome
    }

    /// Another control node leads: it has applied what is committed, and takes every lease as granted now.
    pub(crate) fn begin_leading(&mut self, now_ms: u64) {
        self.proposals.clear();
        let mut soft = Soft::default();
        if let Some(founded) = self.metadata.founded() {
            let nodes = self.metadata.nodes().map(|row| (&row.id, row.incarnation));
            let (lease_ms, beat_ms) = (founded.settings.lease_ms, founded.settings.heartbeat_interval_ms);
            soft.liveness.begin_leading(leader_now(now_ms).boot_ms, lease_ms, beat_ms, nodes);
        }
        self.soft = soft;
    }

    /// What the leader would decide now, and its soft state then; none where nothing comes of it.
    pub(crate) fn decision(&self, now_ms: u64, scope: Scope) -> Option<(Soft, Decision)> {
        if !self.proposals.is_empty() {
            return None;
        }
        let now = leader_now(now_ms);
        let mut soft = self.soft.clone();
        soft.observe_state(&self.metadata, now.boot_ms);
        soft.liveness.stop_granting(now.boot_ms);
        let decision = decide(&self.metadata, &soft, now, scope);
        let has_effect = !decision.commands.is_empty() || soft.liveness != self.soft.liveness;
        has_effect.then_some((soft, decision))
    }
}

/// Whoever is named as primary of an opened shard was in sync. No operator forces one here.
fn check_promotion(before: &Metadata, after: &Metadata, ghost: &mut Ghost) {
    let (Some(was), Some(now)) = (before.shard(SHARD), after.shard(SHARD)) else { return };
    let is_named = now.primary != was.primary && was.primary.is_some() && !was.founding;
    if is_named && now.primary.as_ref().is_some_and(|primary| !was.in_sync.contains(primary)) {
        ghost.broke(Rule::PromotedInSync, format!("{:?} leads, of {:?} in sync", now.primary, was.in_sync));
    }
}

/// A failover takes a primaryship only from a node that is down by then.
fn check_failover(before: &Metadata, after: &Metadata, command: &Command, ghost: &mut Ghost) {
    let Command::Coordinate { changes } = command else { return };
    let fails_over = changes.iter().any(|change| matches!(change, Change::Failover { .. }));
    let (Some(was), Some(now)) = (before.shard(SHARD), after.shard(SHARD)) else { return };
    let is_alive = was.primary.as_ref().is_some_and(|primary| after.is_alive(primary));
    if fails_over && is_alive && was.primary != now.primary {
        ghost.broke(Rule::FailedOverWhenDown, format!("{:?} is alive, by {command:?}", was.primary));
    }
}

/// Whether two states have the same rows, but for events.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    one.nodes().eq(other.nodes())
        && one.shards().eq(other.shards())
        && one.migrations().eq(other.migrations())
        && one.retiring().eq(other.retiring())
}

impl World {
    fn scope(&self) -> Scope {
        if self.whole { Scope::Whole } else { Scope::Urgent }
    }

    fn commit(&mut self, command: Command) -> Outcome {
        let now_ms = self.now_ms;
        let mut ghost = std::mem::take(&mut self.ghost);
        let outcome = self.control().commit(now_ms, command, &mut ghost);
        self.ghost = ghost;
        outcome
    }

    /// What is proposed, or would be, for people.
    pub(crate) fn decided(&self) -> Vec<Command> {
        let decision = self.control.decision(self.now_ms, self.scope());
        let decided = decision.map(|(_, decision)| decision.commands).unwrap_or_default();
        self.control.proposals.iter().cloned().chain(decided).collect()
    }

    pub(crate) fn may_decide(&self) -> bool {
        self.control.decision(self.now_ms, self.scope()).is_some()
    }

    /// The leader decides; whether anything came of it.
    pub(crate) fn decide(&mut self) -> bool {
        let Some((mut soft, decision)) = self.control.decision(self.now_ms, self.scope()) else {
            return false;
        };
        soft.observe_decision(decision.levelling, decision.load_watch);
        let control = self.control();
        control.soft = soft;
        control.proposals = decision.commands.into();
        true
    }

    /// The leader's next proposal is committed; after a refusal all is decided anew, as the driver does.
    pub(crate) fn propose_next(&mut self) -> bool {
        let Some(command) = self.control().proposals.pop_front() else { return false };
        let outcome = self.commit(command);
        let is_refused = match &outcome.result {
            Ok(Answer::Coordinated { changes }) => changes.iter().any(Result::is_err),
            Ok(_) => false,
            Err(_) => true,
        };
        if is_refused {
            self.control().proposals.clear();
        }
        true
    }

    /// Another control node begins to lead. What its predecessor had proposed is in the log by then, or never will be.
    pub(crate) fn change_leader(&mut self, is_committed: bool) {
        if is_committed {
            self.propose_next();
        }
        let now_ms = self.now_ms;
        self.control().begin_leading(now_ms);
    }

    /// The node's process starts and registers; false when it is refused, and nothing has happened then.
    pub(crate) fn start(&mut self, at: usize) -> bool {
        let node = &self.nodes[at];
        let (name, store_id) = (node.name.clone(), node.store_id());
        let lease_over_of = self.lease_over(&name, &store_id);
        let ask = Register {
            node: name.clone(),
            addr: format!("{name}:1"),
            store_id,
            zone: None,
            rack: None,
            labels: BTreeMap::new(),
            capacity: None,
            capacity_bytes: None,
            accept_data_loss: false,
            lease_over_of,
            if_match: None,
        };
        let Ok(Answer::Registered { node: row }) = self.commit(Command::Register(ask)).result else {
            return false;
        };
        let boot_ms = leader_now(self.now_ms).boot_ms;
        self.control().soft.observe_registration(&name, row.incarnation, boot_ms);
        self.begin(at, row.incarnation);
        true
    }

    /// For another store under a taken name: the run whose lease the leader has waited out.
    fn lease_over(&mut self, name: &NodeId, store_id: &str) -> Option<Incarnation> {
        let row = self.control.metadata.node(name).filter(|row| row.store_id != *store_id)?;
        let (is_down, boot_ms) = (row.is_down(), leader_now(self.now_ms).boot_ms);
        self.control().soft.liveness.hold_if_over(name, is_down, boot_ms)
    }

    pub(crate) fn may_beat(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let is_answered = |message: &Message| matches!(message, Message::Granted { to, .. } if *to == at);
        let beat = (self.now_ms, node.installed);
        node.is_on()
            && !self.cut[at]
            && node.beat != beat
            && !self.net.iter().any(|message| is_answered(message))
    }

    /// A heartbeat is sent and arrives; the answer is under way, if it grants anything.
    pub(crate) fn beat(&mut self, at: usize) -> bool {
        if !self.may_beat(at) {
            return false;
        }
        let now_ms = self.now_ms;
        let node = self.node(at);
        node.beat = (now_ms, node.installed);
        let (name, run) = (node.name.clone(), node.run);
        let request = HeartbeatRequest {
            incarnation: run,
            installed_revision: node.installed,
            partial: false,
            shards: node.held(),
            disk_free_bytes: Some(1 << 40),
        };
        let control = self.control();
        let answered =
            observe_heartbeat(&control.metadata, &mut control.soft, &name, &request, leader_now(now_ms));
        if let Ok((answer, _)) = answered
            && answer.lease_ms > 0
        {
            let (lease_ms, assigned) = (answer.lease_ms, answer.assigned_revision);
            self.send(Message::Granted { to: at, run, sent_ms: now_ms, lease_ms, assigned });
        }
        true
    }

    pub(crate) fn may_install(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let is_news =
            node.installed.0 == 0 || self.control.metadata.assignments_changed(&node.name, node.installed);
        node.is_on() && !self.cut[at] && self.deaf != Some(at) && !self.is_installing(at) && is_news
    }

    /// The node fetches its assignments and puts them in force.
    pub(crate) fn install(&mut self, at: usize) -> bool {
        if !self.may_install(at) {
            return false;
        }
        let Some(answer) = view::assignments(&self.control.metadata, &self.nodes[at].name) else {
            return false;
        };
        let assignment = answer.assignments.into_iter().find(|assignment| assignment.shard == SHARD);
        self.take_assignment(at, answer.revision, assignment);
        true
    }

    /// A report arrives, is committed or refused, and answered.
    pub(crate) fn report(&mut self, from: usize, run: Incarnation, id: ReportId, body: &Report) {
        let node = self.nodes[from].name.clone();
        let command = Command::Reports { node: node.clone(), incarnation: run, reports: vec![body.clone()] };
        let outcome = match self.commit(command).result {
            Ok(Answer::Reported { results }) => match results.into_iter().next() {
                Some(result) if result.accepted => ReportOutcome::Accepted,
                Some(result) => ReportOutcome::Refused(result.code.unwrap_or_default()),
                None => ReportOutcome::Unknown,
            },
            Ok(_) => ReportOutcome::Unknown,
            Err(refused) => ReportOutcome::Refused(refused.code.as_str().to_owned()),
        };
        if outcome == ReportOutcome::Accepted {
            self.check_members(body);
            let boot_ms = leader_now(self.now_ms).boot_ms;
            self.control().soft.observe_report(&node, body, boot_ms);
        }
        self.send(Message::Outcome { to: from, run, id, outcome });
    }

    fn check_members(&mut self, accepted: &Report) {
        let members = accepted.in_sync_set.iter().flat_map(|proposal| &proposal.members);
        let metadata = &self.control.metadata;
        let is_past = |run, name| metadata.node(name).is_none_or(|row| row.incarnation != run);
        if let Some(past) = members.into_iter().find(|member| is_past(member.incarnation, &member.node)) {
            let how = format!("{past:?} was taken in sync, of an earlier run");
            self.ghost.broke(Rule::MembersAreCurrent, how);
        }
    }

    /// An operator moves the primary's copy to the node that has none, or its primaryship to a replica.
    pub(crate) fn migrate(&mut self, to: usize) -> bool {
        let ask = NewMigration {
            shard: SHARD,
            kind: None,
            from: None,
            to: Some(self.nodes[to].name.clone()),
            if_epoch: None,
            reason: "asked for".to_owned(),
        };
        let before = self.control.metadata.revision();
        let ask = Command::Migrate { migrations: vec![ask], plan: None };
        // A second time it is refused, since the shard is migrating already.
        self.commit(ask).revision > before
    }

    /// What must hold of committed state and disks together.
    pub(crate) fn check(&mut self) {
        let metadata = &self.control.metadata;
        let Some(shard) = metadata.shard(SHARD) else { return };
        self.ghost.opened |= shard.primary.is_some() && !shard.founding;
        if !self.ghost.opened || self.ghost.broken.is_some() {
            return;
        }
        if shard.founding || shard.lost {
            self.ghost.broke(Rule::LastCopyStays, "the last in-sync copy was given up");
            return;
        }
        let seen = &self.ghost.seen;
        let mut wrong = None;
        for at in 0..NODES {
            let node = &self.nodes[at];
            let row = metadata.node(&node.name);
            let is_seat =
                shard.in_sync.contains(&node.name) && row.is_some_and(|row| row.store_id == node.store_id());
            if !is_seat {
                continue;
            }
            let found = node.found(KEY);
            let is_full = node.disk.as_ref().is_some_and(|copy| copy.state.full);
            let has_all = found.position > seen.position || found == *seen;
            if !is_full || !has_all {
                wrong = Some(format!("node {at} is in sync, full: {is_full}, has {found:?}, not {seen:?}"));
            }
        }
        if let Some(how) = wrong {
            self.ghost.broke(Rule::InSyncHasAll, how);
        }
    }
}
