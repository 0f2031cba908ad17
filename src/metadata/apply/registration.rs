//! Registering: a data node's process starts, on the same store or on another one (DESIGN.md section 6, rule 7).
//!
//! Everything that a restart takes happens in this one command: the epochs of all that the node leads rise, so that nothing
//! answered by the earlier run counts any more; another store leaves every in-sync set, so that no shard is ever led from
//! its emptiness.

use std::collections::BTreeMap;

use mutants::{Mutant, is_on};
use ruvector_cluster_client::ids::{Incarnation, NodeId, Revision, ShardId, Thousandths};
use ruvector_cluster_client::wire::{Intent, Phase, Role};

use super::tx::{About, Tx};
use super::{check_match, reject};
use crate::metadata::command::{Answer, Register, Rejection, RejectionCode};
use crate::metadata::node::{NodeRow, Verdict};
use crate::metadata::shard::ShardRow;

/// Most bytes of a zone, a rack and a label's key.
const MAX_NAME_BYTES: usize = 64;

/// Most labels of a node.
const MAX_LABELS: usize = 64;

/// Most bytes of a label's value.
const MAX_LABEL_BYTES: usize = 256;

impl Tx<'_> {
    /// A data node's process starts, or registers again.
    pub(super) fn register(&mut self, ask: &Register) -> Result<Answer, Rejection> {
        check_texts(ask)?;
        let about = About { node: Some(&ask.node), ..About::default() };
        let known = self.state.node(&ask.node).cloned();
        match (&known, ask.if_match) {
            (Some(row), if_match) => check_match(if_match, row.revision)?,
            (None, Some(_)) => {
                let detail = format!("there is no node {} yet", ask.node);
                return Err(reject(RejectionCode::PreconditionFailed, detail));
            }
            (None, None) => {}
        }
        let Some(known) = known else {
            let run = Incarnation(self.state.head.incarnation_floor.0 + 1);
            let row = self.new_node(ask, run);
            self.put_node(row.clone());
            self.event("node_registered", about, format!("{} joined at {}", ask.node, ask.addr));
            return Ok(Answer::Registered { node: row });
        };
        let same_store = known.store_id == ask.store_id;
        if !same_store {
            self.check_replaceable(&known, ask)?;
        }
        let row = registered_again(&known, ask);
        let run = row.incarnation;
        self.put_node(row.clone());
        let keeps_seats = same_store || is_on(Mutant::WipedStoreKeepsSeat);
        // While suspended, what it holds is decided by what it says that it holds.
        let suspended = self.state.is_suspended();
        let held: Vec<(ShardId, Role)> = self.state.roles_of(&ask.node).filter(|_| !suspended).collect();
        for (id, role) in held {
            match (role, keeps_seats) {
                (Role::Retiring, true) => {}
                (Role::Retiring, false) => self.forget_retiring(id, &ask.node),
                (_, true) => self.restarted(id, &ask.node)?,
                (_, false) => self.store_replaced(id, &ask.node)?,
            }
        }
        if same_store {
            self.event("node_registered", about, format!("{} registered again, run {run}", ask.node));
        } else {
            self.event("store_replaced", about, format!("{} came with another store, run {run}", ask.node));
        }
        Ok(Answer::Registered { node: row })
    }

    /// Another store may take the name once the old lease is over, and unless a last copy went with it.
    fn check_replaceable(&self, known: &NodeRow, ask: &Register) -> Result<(), Rejection> {
        if !known.is_down() && ask.lease_over_of != Some(known.incarnation) {
            let detail = format!("{} may still be alive with store {}", known.id, known.store_id);
            return Err(reject(RejectionCode::NodeAlive, detail));
        }
        if ask.accept_data_loss || is_on(Mutant::LastCopyDropped) {
            return Ok(());
        }
        let held = self.state.shards_of(&known.id).filter_map(|id| self.state.shard(id));
        let mut last =
            held.filter(|shard| !shard.founding && !shard.lost && shard.in_sync == [known.id.clone()]);
        let Some(first) = last.next() else { return Ok(()) };
        let detail = format!(
            "the store of {} had the last in-sync copy of shard {} and {} more: bring it back, or set accept_data_loss",
            known.id,
            first.id,
            last.count()
        );
        Err(reject(RejectionCode::LastCopy, detail))
    }

    /// The same store in another run: what it leads goes on at a raised epoch, or is cut over; what fills it starts again.
    fn restarted(&mut self, id: ShardId, node: &NodeId) -> Result<(), Rejection> {
        let mut shard = self.shard(id)?;
        let migration = self.migration_of(&shard);
        if shard.primary.as_ref() == Some(node) {
            shard.lost = false;
            self.take_primaryship_from(node);
            match migration {
                Some(migration) if migration.phase == Phase::HandingOver => {
                    if self.cut_over(&mut shard, &migration).is_err() {
                        self.take_back(&mut shard, migration, "the primary restarted, the target is not fit");
                    }
                }
                Some(migration) => {
                    shard.raise_epoch();
                    self.put_back(&mut shard, migration, "the primary restarted");
                }
                None => shard.raise_epoch(),
            }
        } else if let Some(migration) = migration.filter(|m| m.to.as_ref() == Some(node)) {
            self.put_back(&mut shard, migration, "the target restarted");
        }
        self.put_shard(shard);
        Ok(())
    }

    /// The copy went with the old store. A founding shard has nothing to lose: its copies are made empty.
    fn store_replaced(&mut self, id: ShardId, node: &NodeId) -> Result<(), Rejection> {
        let mut shard = self.shard(id)?;
        let leads = shard.primary.as_ref() == Some(node);
        if leads {
            self.take_primaryship_from(node);
        }
        if shard.founding {
            if leads {
                shard.raise_epoch();
            }
        } else if self.lose_copy(&mut shard, node, "another store took the node's name") {
            shard.raise_epoch();
            if shard.replicas.is_empty() {
                // Nobody has anything of it, and the loss was accepted.
                found_again(&mut shard, node);
            }
        }
        self.put_shard(shard);
        Ok(())
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
        return invalid("field `addr` is host:port, of at most 256 bytes".to_owned());
    }
    if NodeId::new(&ask.store_id).is_err() {
        return invalid("field `store_id` has 1 to 64 characters of A-Z a-z 0-9 . _ -".to_owned());
    }
    check_domain("zone", ask.zone.as_deref())?;
    check_domain("rack", ask.rack.as_deref())?;
    check_labels(&ask.labels)
}

/// A zone's or rack's name; `field` says which.
pub(super) fn check_domain(field: &str, name: Option<&str>) -> Result<(), Rejection> {
    let Some(name) = name else { return Ok(()) };
    if name.len() > MAX_NAME_BYTES {
        let detail = format!("field `{field}` has up to {MAX_NAME_BYTES} bytes, not {}", name.len());
        return Err(reject(RejectionCode::Invalid, detail));
    }
    if name.chars().any(char::is_control) {
        return Err(reject(
            RejectionCode::Invalid,
            format!("field `{field}` has a control character: remove it"),
        ));
    }
    Ok(())
}

pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Rejection> {
    let invalid = |detail: String| Err(reject(RejectionCode::Invalid, detail));
    if labels.len() > MAX_LABELS {
        return invalid(format!("field `labels` has up to {MAX_LABELS} labels, not {}", labels.len()));
    }
    for (key, value) in labels {
        if !(1..=MAX_NAME_BYTES).contains(&key.len()) {
            return invalid(format!(
                "field `labels`: a key has 1 to {MAX_NAME_BYTES} bytes, not {}",
                key.len()
            ));
        }
        if key.chars().chain(value.chars()).any(char::is_control) {
            let key = key.escape_debug();
            return invalid(format!("field `labels.{key}` has a control character: remove it"));
        }
        if value.len() > MAX_LABEL_BYTES {
            let detail =
                format!("field `labels.{key}` has up to {MAX_LABEL_BYTES} bytes, not {}", value.len());
            return invalid(detail);
        }
    }
    Ok(())
}

/// The shard begins anew with an empty copy on `node`, its primary.
pub(super) fn found_again(shard: &mut ShardRow, node: &NodeId) {
    shard.in_sync = vec![node.clone()];
    shard.in_sync_version += 1;
    shard.founding = true;
    shard.lost = false;
}
