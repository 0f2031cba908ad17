//! Commands about the cluster and its nodes: founding, registering, editing, wishes, verdicts, deleting.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruvector_cluster_client::ids::{Epoch, Incarnation, NodeId, Revision, ShardId, Thousandths};
use ruvector_cluster_client::wire::{Intent, ShardCounts, ShardStatus};

use super::reject;
use super::tx::{About, Tx};
use crate::metadata::command::{Answer, Register, Rejection, RejectionCode};
use crate::metadata::node::{NodeRow, Verdict};
use crate::metadata::settings::Settings;
use crate::metadata::shard::ShardRow;
use crate::metadata::state::{Founded, ShardEntry};

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

    /// A data node's process starts, or registers again.
    pub(super) fn register(&mut self, ask: &Register) -> Result<Answer, Rejection> {
        check_texts(ask)?;
        let about = About { node: Some(&ask.node), ..About::default() };
        let Some(known) = self.state.node(&ask.node).cloned() else {
            let run = Incarnation(self.state.head.incarnation_floor.0 + 1);
            let row = self.new_node(ask, run);
            self.put_node(row.clone());
            self.event("node_registered", about, format!("{} joined at {}", ask.node, ask.addr));
            return Ok(Answer::Registered { node: row });
        };
        if known.store_id != ask.store_id {
            return Err(reject(RejectionCode::Invalid, "not carried out yet"));
        }
        let row = registered_again(&known, ask);
        let run = row.incarnation;
        self.put_node(row.clone());
        let led: Vec<ShardId> = self.state.shards_of(&ask.node).collect();
        for id in led {
            let shard = self.shard(id)?;
            if shard.primary.as_ref() == Some(&ask.node) {
                self.put_shard(ShardRow { epoch: Epoch(shard.epoch.0 + 1), ..shard });
                self.take_primaryship_from(&ask.node);
            }
        }
        self.event("node_registered", about, format!("{} registered again, run {run}", ask.node));
        Ok(Answer::Registered { node: row })
    }

    fn new_node(&self, ask: &Register, incarnation: Incarnation) -> NodeRow {
        NodeRow {
            id: ask.node.clone(),
            addr: ask.addr.clone(),
            store_id: ask.store_id.clone(),
            zone: ask.zone.clone(),
            rack: ask.rack.clone(),
            labels: ask.labels.clone(),
            capacity: ask.capacity.unwrap_or(Thousandths::ONE),
            capacity_bytes: ask.capacity_bytes,
            verdict: Verdict::Alive,
            intent: Intent::Schedulable,
            maintenance_until_ms: None,
            incarnation,
            assigned_revision: Revision(0),
            assignments_revision: Revision(0),
            joined_ms: self.now_ms(),
            revision: self.revision,
        }
    }
}

/// The row after another registration: what it leaves out stays. A verdict stays until a heartbeat that is not behind.
fn registered_again(known: &NodeRow, ask: &Register) -> NodeRow {
    NodeRow {
        addr: ask.addr.clone(),
        store_id: ask.store_id.clone(),
        zone: ask.zone.clone().or_else(|| known.zone.clone()),
        rack: ask.rack.clone().or_else(|| known.rack.clone()),
        labels: if ask.labels.is_empty() { known.labels.clone() } else { ask.labels.clone() },
        capacity: ask.capacity.unwrap_or(known.capacity),
        capacity_bytes: ask.capacity_bytes.or(known.capacity_bytes),
        incarnation: Incarnation(known.incarnation.0 + 1),
        ..known.clone()
    }
}

fn check_texts(ask: &Register) -> Result<(), Rejection> {
    let invalid = |detail: String| Err(reject(RejectionCode::Invalid, detail));
    if ask.addr.is_empty() || ask.addr.len() > 256 || ask.addr.chars().any(char::is_control) {
        return invalid("addr is host:port, of at most 256 bytes".to_owned());
    }
    if NodeId::new(&ask.store_id).is_err() {
        return invalid("a store_id has 1 to 64 characters of A-Z a-z 0-9 . _ -".to_owned());
    }
    check_domain(ask.zone.as_deref())?;
    check_domain(ask.rack.as_deref())?;
    check_labels(&ask.labels)
}

/// A zone's or rack's name.
fn check_domain(name: Option<&str>) -> Result<(), Rejection> {
    match name {
        Some(name) if name.len() > 64 || name.chars().any(char::is_control) => {
            Err(reject(RejectionCode::Invalid, "zone and rack have up to 64 bytes, no control characters"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Rejection> {
    let legal = |(key, value): (&String, &String)| {
        let plain = !key.chars().chain(value.chars()).any(char::is_control);
        (1..=64).contains(&key.len()) && value.len() <= 256 && plain
    };
    if labels.len() <= 64 && labels.iter().all(legal) {
        return Ok(());
    }
    let detail = "at most 64 labels, keys of 1 to 64 bytes, values of up to 256, no control characters";
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
