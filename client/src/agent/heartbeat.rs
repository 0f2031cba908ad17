//! The heartbeat loop.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::{AgentError, Session, SessionEnd, is_unknown};
use crate::ids::{Revision, ShardId};
use crate::wire::{HeartbeatRequest, HeldShard};

/// How often a heartbeat lists all copies, in milliseconds (API.md).
const FULL_EVERY_MS: u64 = 60_000;

/// What the control nodes know of this node's copies.
#[derive(Default)]
struct Told {
    /// By copy; none where a heartbeat that said something of it was not answered.
    copies: BTreeMap<ShardId, Option<HeldShard>>,
    full_at: Option<Instant>,
    want_all: bool,
}

impl Session<'_> {
    /// Sends a heartbeat each interval; ends with the session.
    pub(super) async fn heartbeats(&self) -> Result<SessionEnd, AgentError> {
        let mut ticks = tokio::time::interval(Duration::from_millis(self.heartbeat_interval_ms));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Told::default();
        loop {
            ticks.tick().await;
            // One that found the node behind is followed by another as soon as it has caught up: only that one tells
            // the leader, and only that one makes a node that is committed down alive.
            while let Beat::CaughtUp = match self.heartbeat(&mut told).await? {
                Ok(beat) => beat,
                Err(ended) => return Ok(ended),
            } {}
        }
    }

    async fn heartbeat(&self, told: &mut Told) -> Result<Result<Beat, SessionEnd>, AgentError> {
        let now = self.agent.host.held();
        let full = told.want_all
            || told.full_at.is_none_or(|at| at.elapsed() >= Duration::from_millis(FULL_EVERY_MS))
            || told.copies.keys().any(|shard| now.binary_search_by_key(shard, |held| held.id).is_err());
        let shards: Vec<HeldShard> = now
            .iter()
            .filter(|held| full || told.copies.get(&held.id) != Some(&Some(**held)))
            .copied()
            .collect();
        // Whether this is heard is not known until it is answered: what it says is said again until then, even where it goes
        // back to what was said before, as a rate does that falls.
        shards.iter().for_each(|held| told.unsure(held.id));
        let installed = self.installer.revision();
        let request = HeartbeatRequest {
            incarnation: self.incarnation,
            installed_revision: installed,
            partial: !full,
            shards,
            disk_free_bytes: self.agent.host.disk_free_bytes(),
        };
        let sent_ms = self.agent.clock.boot_ms();
        // Silence for half an interval: the next control node is tried (rule 4); the lease is counted from the first
        // attempt's sending, which is on the safe side.
        let attempt_ms = (self.heartbeat_interval_ms / 2).max(5);
        let call_ms = attempt_ms.saturating_mul(2 * self.agent.control.coordinators() as u64);
        let node = &self.agent.config.node;
        let answered = match self.agent.control.heartbeat(node, &request, attempt_ms, call_ms).await {
            Ok(answered) => answered,
            Err(error) if is_unknown(&error) => return Ok(Err(SessionEnd::Unknown)),
            Err(error) => {
                tracing::warn!(%node, %error, "a heartbeat was not answered");
                return Ok(Ok(Beat::Unanswered));
            }
        };
        let answer = answered.body;
        if !self.agent.generation_is_current(answer.generation).await? {
            return Ok(Ok(Beat::Unanswered));
        }
        self.agent.lease.granted(sent_ms, answer.lease_ms, answer.assigned_revision);
        told.note(now, full, answer.want_all);
        self.after(installed, answer.assigned_revision, answered.by).await
    }

    /// Fetches assignments when the heartbeat's answer names newer ones.
    async fn after(
        &self,
        sent_installed: Revision,
        assigned: Revision,
        by: usize,
    ) -> Result<Result<Beat, SessionEnd>, AgentError> {
        if sent_installed >= assigned {
            return Ok(Ok(Beat::Answered));
        }
        if let Some(ended) = self.catch_up(assigned, by).await? {
            return Ok(Err(ended));
        }
        let caught_up = self.installer.revision() >= assigned;
        Ok(Ok(if caught_up { Beat::CaughtUp } else { Beat::Answered }))
    }
}

impl Told {
    fn unsure(&mut self, shard: ShardId) {
        if let Some(known) = self.copies.get_mut(&shard) {
            *known = None;
        }
    }

    fn note(&mut self, sent: Vec<HeldShard>, full: bool, want_all: bool) {
        if full {
            self.full_at = Some(Instant::now());
        }
        self.copies = sent.into_iter().map(|held| (held.id, Some(held))).collect();
        self.want_all = want_all;
    }
}

/// How a heartbeat went.
enum Beat {
    Unanswered,
    Answered,
    /// The node was behind when it was sent, and no longer is.
    CaughtUp,
}
