//! Registrations, heartbeats, leases and verdicts (DESIGN.md, section 5).

use std::time::Duration;

use tokio::time::Instant;

use super::places::Refusal;
use super::rows::{NodeRow, Rows};
use super::views::{GENERATION, now};
use crate::ids::{Incarnation, NodeId, Revision, ShardId};
use crate::wire::{HeartbeatRequest, HeartbeatResponse, Phase, RegisterRequest, RegisterResponse};

impl Rows {
    /// The coordinator's count of a lease that is granted now: 1.05 times as long as the node's.
    fn lease_end(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.options.lease_ms.saturating_mul(105).div_ceil(100))
    }

    pub(super) fn register(&mut self, node: &NodeId, said: &RegisterRequest) -> Result<(), Refusal> {
        let before = self.nodes.get(node).cloned();
        let replaced = before.as_ref().is_some_and(|row| row.said.store_id != said.store_id);
        if replaced && before.as_ref().is_some_and(|row| !row.down && Instant::now() < row.lease_until) {
            let detail = format!("the lease of {node}'s other store has not run out");
            return Err(Refusal::new(409, "node_alive", detail));
        }
        let sole =
            |row: &&super::rows::ShardRow| !row.founding && row.in_sync.iter().all(|member| member == node);
        if replaced && !said.accept_data_loss && self.shards.iter().any(|row| sole(&row) && row.leads(node)) {
            return Err(Refusal::new(409, "last_copy", format!("{node} has the last copy of a shard")));
        }
        let row = NodeRow {
            said: said.clone(),
            incarnation: Incarnation(before.as_ref().map_or(0, |row| row.incarnation.0) + 1),
            down: false,
            assigned: before.as_ref().map_or(self.revision, |row| row.assigned),
            installed: Revision(0),
            held: Default::default(),
            wants_all: false,
            lease_until: self.lease_end(),
            is_granted: true,
            heard_at: None,
        };
        self.nodes.insert(node.clone(), row);
        if replaced {
            self.wipe(node);
        }
        self.restarted(node);
        Ok(())
    }

    /// All that a restart takes: the epochs of what the node leads, and migrations that it takes part in.
    fn restarted(&mut self, node: &NodeId) {
        for id in self.shard_ids() {
            let Ok(mut row) = self.row(id) else { continue };
            let migration = self.active(&row);
            if row.leads(node) {
                self.take_primaryship_from(node);
                match migration {
                    Some(migration) if migration.phase == Phase::HandingOver => {
                        self.end_hand_over(
                            &mut row,
                            migration,
                            "the primary restarted, the target is not fit",
                        );
                    }
                    Some(migration) => {
                        row.epoch.0 += 1;
                        self.put_back(&row, migration, "the primary restarted");
                    }
                    None => row.epoch.0 += 1,
                }
            } else if let Some(migration) = migration.filter(|migration| migration.to.as_ref() == Some(node))
            {
                self.put_back(&row, migration, "the target restarted");
            }
            self.put(id, row);
        }
    }

    pub(super) fn registered(&self, node: &NodeId) -> Result<RegisterResponse, Refusal> {
        let missing = || Refusal::new(404, "not_found", format!("there is no node {node}"));
        let row = self.nodes.get(node).ok_or_else(missing)?;
        Ok(RegisterResponse {
            node: self.node_view(node).ok_or_else(missing)?,
            incarnation: row.incarnation,
            lease_ms: self.options.lease_ms,
            heartbeat_interval_ms: self.options.heartbeat_interval_ms,
            generation: GENERATION,
            revision: self.revision,
            assigned_revision: row.assigned,
        })
    }

    /// Takes a heartbeat in. One of a node that is down makes it alive first, unless it is behind.
    pub(super) fn heartbeat(
        &mut self,
        node: &NodeId,
        request: &HeartbeatRequest,
    ) -> Result<HeartbeatResponse, Refusal> {
        let (revision, lease_end) = (self.revision, self.lease_end());
        let missing = || Refusal::new(404, "not_found", format!("there is no node {node}"));
        let row = self.nodes.get_mut(node).ok_or_else(missing)?;
        if row.incarnation != request.incarnation {
            let detail = format!("{node} runs as incarnation {}", row.incarnation);
            return Err(Refusal::new(409, "stale_incarnation", detail));
        }
        if !request.partial {
            row.held.clear();
        }
        row.held.extend(request.shards.iter().map(|held| (held.id, *held)));
        row.installed = request.installed_revision;
        row.heard_at = Some(now());
        let is_behind = request.installed_revision < row.assigned;
        if row.down && !is_behind && row.is_granted {
            row.down = false;
        }
        let grants = row.is_granted && !row.down;
        // One that is behind is expired like a silent one.
        if grants && !is_behind {
            row.lease_until = lease_end;
        }
        let want_all = std::mem::take(&mut row.wants_all);
        Ok(HeartbeatResponse {
            // No lease lasts no time: whatever else the answer says is still of use.
            lease_ms: if grants { self.options.lease_ms } else { 0 },
            assigned_revision: row.assigned,
            generation: GENERATION,
            revision,
            want_all,
        })
    }

    /// From here on the node is granted nothing; gives back when what it was granted is over.
    pub(super) fn stop_granting(&mut self, node: &NodeId) -> Option<Instant> {
        let row = self.nodes.get_mut(node)?;
        row.is_granted = false;
        Some(row.lease_until)
    }

    pub(super) fn declare_down(&mut self, node: &NodeId) {
        if let Some(row) = self.nodes.get_mut(node) {
            // Its next heartbeat that is not behind makes it alive again, also after an expiry.
            (row.down, row.is_granted) = (true, true);
        }
        self.fail_over_all();
    }

    pub(super) fn declare_alive(&mut self, node: &NodeId) {
        if let Some(row) = self.nodes.get_mut(node) {
            (row.down, row.is_granted) = (false, true);
        }
        self.fail_over_all();
    }

    pub(super) fn forget_run(&mut self, node: &NodeId) {
        if let Some(row) = self.nodes.get_mut(node) {
            row.incarnation.0 += 1;
            row.wants_all = true;
        }
        self.restarted(node);
    }

    pub(super) fn shard_ids(&self) -> Vec<ShardId> {
        (0..self.options.num_shards).map(ShardId).collect()
    }
}
