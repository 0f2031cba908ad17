//! Commands about the cluster and its nodes: founding, editing, wishes, verdicts, deleting; and the policy.

use std::sync::Arc;

use ruvector_cluster_client::ids::{Incarnation, NodeId, Revision, ShardId, Thousandths};
use ruvector_cluster_client::wire::{
    Intent, PatchNodeRequest, Phase, RebalancePolicy, Role, ShardCounts, ShardStatus,
};

use super::registration::{check_domain, check_labels};
use super::tx::{About, Tx};
use super::{check_match, reject};
use crate::metadata::command::{Answer, Rejection, RejectionCode, Wish};
use crate::metadata::migration::MigrationRow;
use crate::metadata::node::{NodeRow, Verdict};
use crate::metadata::settings::Settings;
use crate::metadata::shard::ShardRow;
use crate::metadata::state::{Founded, ShardEntry};

/// Most migrations at once, in all and for one node.
const MAX_AT_ONCE: u32 = 100_000;

/// The highest thresholds of levelling: twice the mean is as uneven as a cluster of two nodes can be.
const MAX_IMBALANCE: Thousandths = Thousandths(2_000);

/// The longest maintenance: copies are not rebuilt meanwhile.
const MAX_MAINTENANCE_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

impl Tx<'_> {
    /// The first command: all shards are there, unassigned.
    pub(super) fn found(&mut self, cluster_id: &str, settings: &Settings) -> Result<(), Rejection> {
        if let Some(founded) = self.state.founded() {
            if founded.cluster_id == cluster_id && founded.settings == *settings {
                return Ok(());
            }
            let detail = format!("this is cluster {} already", founded.cluster_id);
            return Err(reject(RejectionCode::Founding, detail));
        }
        settings.check().map_err(|detail| reject(RejectionCode::Invalid, detail))?;
        if cluster_id.is_empty() || cluster_id.len() > 64 {
            return Err(reject(RejectionCode::Invalid, "a cluster id has 1 to 64 bytes"));
        }
        let revision = self.revision;
        let founded = Founded {
            cluster_id: cluster_id.to_owned(),
            generation: 1,
            settings: settings.clone(),
            revision,
        };
        self.state.add_unassigned_shards(&founded);
        self.state.founded = Some(Arc::new(founded));
        self.founded = true;
        self.event("founded", About::default(), format!("cluster {cluster_id}"));
        Ok(())
    }

    /// An operator edits a node.
    pub(super) fn patch_node(
        &mut self,
        id: &NodeId,
        if_match: Option<Revision>,
        patch: &PatchNodeRequest,
    ) -> Result<Answer, Rejection> {
        let mut row = self.node(id)?;
        check_match(if_match, row.revision)?;
        check_domain("zone", patch.zone.as_deref())?;
        check_domain("rack", patch.rack.as_deref())?;
        if let Some(labels) = &patch.labels {
            check_labels(labels)?;
            row.labels.clone_from(labels);
        }
        let domain = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
        row.zone = patch.zone.as_ref().map_or(row.zone, domain);
        row.rack = patch.rack.as_ref().map_or(row.rack, domain);
        row.capacity = patch.capacity.unwrap_or(row.capacity);
        self.put_node(row.clone());
        self.event("node_patched", About { node: Some(id), ..About::default() }, format!("{id} was edited"));
        Ok(Answer::Node { node: row })
    }

    /// An operator wishes something of a node. To end what has not begun changes nothing.
    pub(super) fn set_intent(
        &mut self,
        id: &NodeId,
        if_match: Option<Revision>,
        wish: Wish,
    ) -> Result<Answer, Rejection> {
        let row = self.node(id)?;
        check_match(if_match, row.revision)?;
        let (intent, maintenance_until_ms, detail) = match (wish, row.intent) {
            (Wish::Drain, intent) => {
                let is_empty = intent == Intent::Drained;
                let intent = if is_empty { Intent::Drained } else { Intent::Draining };
                (intent, None, format!("{id} is to be emptied"))
            }
            (Wish::Maintain { duration_ms }, _) => {
                check_duration(duration_ms)?;
                let until_ms = self.now_ms().saturating_add(duration_ms);
                (Intent::Maintenance, Some(until_ms), format!("{id} will be away for {duration_ms} ms"))
            }
            (Wish::EndDrain, Intent::Draining | Intent::Drained)
            | (Wish::EndMaintenance, Intent::Maintenance) => {
                (Intent::Schedulable, None, format!("{id} may take copies"))
            }
            (Wish::EndDrain, Intent::Schedulable | Intent::Maintenance)
            | (Wish::EndMaintenance, Intent::Schedulable | Intent::Draining | Intent::Drained) => {
                return Ok(Answer::Node { node: row });
            }
        };
        let row = NodeRow { intent, maintenance_until_ms, ..row };
        self.put_node(row.clone());
        self.event("node_intent", About { node: Some(id), ..About::default() }, detail);
        Ok(Answer::Node { node: row })
    }

    /// A draining node holds nothing any more.
    pub(super) fn drained(&mut self, id: &NodeId) -> Result<(), Rejection> {
        let row = self.node(id)?;
        match row.intent {
            Intent::Drained => return Ok(()),
            Intent::Draining => {}
            Intent::Schedulable | Intent::Maintenance => {
                return Err(reject(RejectionCode::Conflict, format!("{id} does not drain")));
            }
        }
        if self.state.roles_of(id).next().is_some() {
            return Err(reject(RejectionCode::HoldsShards, format!("{id} still holds copies")));
        }
        self.put_node(NodeRow { intent: Intent::Drained, ..row });
        let about = About { node: Some(id), ..About::default() };
        self.event("node_drained", about, format!("{id} is empty"));
        Ok(())
    }

    /// A maintenance is over, by log time.
    pub(super) fn maintenance_over(&mut self, id: &NodeId) -> Result<(), Rejection> {
        let row = self.node(id)?;
        if row.intent != Intent::Maintenance {
            return Ok(());
        }
        if row.maintenance_until_ms.is_some_and(|until_ms| until_ms > self.now_ms()) {
            return Err(reject(RejectionCode::Conflict, format!("the maintenance of {id} lasts on")));
        }
        self.put_node(NodeRow { intent: Intent::Schedulable, maintenance_until_ms: None, ..row });
        let about = About { node: Some(id), ..About::default() };
        self.event("node_intent", about, format!("the maintenance of {id} is over"));
        Ok(())
    }

    /// The node's lease ran out and was waited for. A hand-over to it is taken back at once.
    pub(super) fn down(&mut self, id: &NodeId, run: Incarnation) -> Result<(), Rejection> {
        let row = self.node_in_run(id, run)?;
        if row.is_down() {
            return Ok(());
        }
        self.put_node(NodeRow { verdict: Verdict::Down { since_ms: self.now_ms() }, ..row });
        let about = About { node: Some(id), ..About::default() };
        self.event("node_down", about, format!("the lease of {id} ran out"));
        let held: Vec<ShardId> = self.state.shards_of(id).collect();
        for shard in held {
            let mut shard = self.shard(shard)?;
            let migration = self.migration_of(&shard).filter(|m| m.to.as_ref() == Some(id));
            if let Some(migration) = migration.filter(|m| m.phase == Phase::HandingOver) {
                self.take_back(&mut shard, migration, "the target is down");
                self.put_shard(shard);
            }
        }
        Ok(())
    }

    /// The node is heard again, and not behind.
    pub(super) fn alive(&mut self, id: &NodeId, run: Incarnation) -> Result<(), Rejection> {
        let row = self.node_in_run(id, run)?;
        if row.is_down() {
            self.put_node(NodeRow { verdict: Verdict::Alive, ..row });
            let about = About { node: Some(id), ..About::default() };
            self.event("node_alive", about, format!("{id} is heard again"));
        }
        Ok(())
    }

    /// An operator removes a node that holds nothing; a down one's out-of-sync copies and left-overs go with it.
    pub(super) fn delete_node(&mut self, id: &NodeId, if_match: Option<Revision>) -> Result<(), Rejection> {
        let row = self.node(id)?;
        check_match(if_match, row.revision)?;
        let held: Vec<(ShardId, Role)> = self.state.roles_of(id).collect();
        for (shard, _) in &held {
            let shard = self.shard(*shard)?;
            if !row.is_down() || shard.is_in_sync(id) {
                let detail = format!("{id} still holds a copy of shard {}: drain it", shard.id);
                return Err(reject(RejectionCode::HoldsShards, detail));
            }
        }
        let parts = |m: &&MigrationRow| m.to.as_ref() == Some(id) || m.from.as_ref() == Some(id);
        let orphaned: Vec<MigrationRow> = self.state.active_migrations().filter(parts).cloned().collect();
        for migration in orphaned {
            let mut shard = self.shard(migration.shard)?;
            self.abort(&mut shard, migration, "a node that has part in it was deleted");
            self.put_shard(shard);
        }
        for (shard, _) in &held {
            let mut row = self.shard(*shard)?;
            row.remove_copy(id);
            self.put_shard(row);
            self.forget_retiring(*shard, id);
        }
        let floor = &mut self.state.head.incarnation_floor;
        *floor = (*floor).max(row.incarnation);
        self.remove_node(id);
        self.event("node_deleted", About { node: Some(id), ..About::default() }, format!("{id} was deleted"));
        Ok(())
    }

    /// An operator sets the policy.
    pub(super) fn set_policy(
        &mut self,
        policy: &RebalancePolicy,
        if_match: Option<Revision>,
    ) -> Result<Answer, Rejection> {
        check_match(if_match, self.state.policy_revision())?;
        check_policy(policy)?;
        if self.state.policy.policy != *policy {
            Arc::make_mut(&mut self.state.policy).policy = policy.clone();
            self.policy_changed = true;
            self.event("policy_changed", About::default(), "the policy was set");
        }
        Ok(Answer::Policy { revision: self.state.policy_revision() })
    }

    /// An operator stops or lets go the coordinator's own migrations.
    pub(super) fn set_paused(&mut self, paused: bool) {
        if self.state.policy.paused != paused {
            Arc::make_mut(&mut self.state.policy).paused = paused;
            self.policy_changed = true;
            let kind = if paused { "paused" } else { "resumed" };
            self.event(kind, About::default(), format!("automatic migrations are {kind}"));
        }
    }
}

/// Whether a policy can be meant: what would stop all copying for good, or could never hold, is more likely a slip.
fn check_policy(policy: &RebalancePolicy) -> Result<(), Rejection> {
    const FOR_A_STOP: &str = "to stop what moves by itself, POST /v1/rebalance/pause; to stop levelling alone, set enabled to false";
    let count = |value: u32| (1..=MAX_AT_ONCE).contains(&value);
    let share = |value: Thousandths| value <= Thousandths::ONE;
    let RebalancePolicy { start_imbalance: start, stop_imbalance: stop, hot_factor, disk_watermark, .. } =
        policy;
    let above = |value: &Thousandths| (Thousandths::ONE..=MAX_IMBALANCE).contains(value);
    let counted = |value: u32| format!("is from 1 to {MAX_AT_ONCE}, not {value}; {FOR_A_STOP}");
    let shared = |value: Thousandths| format!("is a share, at most 1, not {value}");
    let levelled = |value: &Thousandths| format!("is from 1 to {MAX_IMBALANCE}, not {value}; {FOR_A_STOP}");
    let sound = [
        (count(policy.max_migrations), "max_migrations", counted(policy.max_migrations)),
        (count(policy.max_in_per_node), "max_in_per_node", counted(policy.max_in_per_node)),
        (count(policy.max_out_per_node), "max_out_per_node", counted(policy.max_out_per_node)),
        (above(stop), "stop_imbalance", levelled(stop)),
        (above(start), "start_imbalance", levelled(start)),
        (
            stop <= start,
            "stop_imbalance",
            format!(
                "is {stop}, above start_imbalance, {start}: levelling ends below where it starts; lower the one or raise the other"
            ),
        ),
        (
            share(policy.mass_failure_share),
            "mass_failure_share",
            format!(
                "{}; with 1 rebuilding is held back only when all nodes are gone",
                shared(policy.mass_failure_share)
            ),
        ),
        (
            share(*disk_watermark) && disk_watermark.0 > 0,
            "disk_watermark",
            format!(
                "is above 0 and at most 1, not {disk_watermark}; to fill no node any further, give nodes less capacity"
            ),
        ),
        (*hot_factor >= Thousandths::ONE, "hot_factor", format!("is at least 1, the mean, not {hot_factor}")),
        (
            policy.phase_timeout_ms > 0,
            "phase_timeout_ms",
            "is at least 1: with 0 every migration would be aborted at once".to_owned(),
        ),
    ];
    match sound.iter().find(|(is_sound, ..)| !is_sound) {
        Some((_, field, why)) => Err(reject(RejectionCode::Invalid, format!("field `{field}` {why}"))),
        None => Ok(()),
    }
}

/// What is told of a maintenance that can't be meant.
fn check_duration(duration_ms: u64) -> Result<(), Rejection> {
    if (1..=MAX_MAINTENANCE_MS).contains(&duration_ms) {
        return Ok(());
    }
    let detail = format!(
        "field `duration_ms` is from 1 to {MAX_MAINTENANCE_MS} (30 days), not {duration_ms}; to end a maintenance, DELETE it; \
         a node that stays away for longer is drained"
    );
    Err(reject(RejectionCode::Invalid, detail))
}

impl crate::metadata::state::Metadata {
    /// Makes the shards of a cluster that was just founded.
    pub(in crate::metadata) fn add_unassigned_shards(&mut self, founded: &Founded) {
        for id in (0..founded.settings.num_shards).map(ShardId) {
            let row = Arc::new(ShardRow { revision: founded.revision, ..ShardRow::unassigned(id) });
            self.shards.insert(id, ShardEntry { row, status: ShardStatus::Unassigned });
        }
        let total = u64::from(founded.settings.num_shards);
        self.counts = ShardCounts { total, unassigned: total, ..ShardCounts::default() };
    }
}
