//! The end of a suspension: after a restore the data nodes have told what they hold, and each shard gets its leader.
//!
//! The leader's choices rest on heartbeats, which are not replicated; what can be checked of them here is: that they are about
//! the present runs of the nodes, that nobody was left out without leave, and that no shard was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ruvector_cluster_client::ids::{Epoch, NodeId, ShardId};

use super::tx::{About, Tx};
use super::{MAX_BATCH, bounded, reject};
use crate::metadata::command::{Choice, Command, HeardNode, Rejection, RejectionCode, Resume};
use crate::metadata::node::{NodeRow, Verdict};
use crate::metadata::shard::ShardRow;

/// Nodes that are named in a refusal.
const NAMED: usize = 10;

/// Most data nodes of one command. All who were heard stand in each, so that this bounds the cluster that can be resumed.
const MAX_NODES: usize = 10_000;

impl Tx<'_> {
    /// While suspended, data nodes come back and operators prepare; nothing else happens.
    pub(super) fn check_not_suspended(&self, command: &Command) -> Result<(), Rejection> {
        let waits = match command {
            Command::Found { .. }
            | Command::Register(_)
            | Command::PatchNode { .. }
            | Command::SetIntent { .. }
            | Command::SetPolicy { .. }
            | Command::SetPaused { .. }
            | Command::Resume(_)
            | Command::Refuse { .. } => false,
            Command::DeleteNode { .. }
            | Command::Coordinate { .. }
            | Command::Reports { .. }
            | Command::Migrate { .. }
            | Command::CancelMigration { .. }
            | Command::ForcePrimary { .. } => true,
        };
        if waits && self.state.is_suspended() {
            let detail = "the cluster was restored from a backup and serves nothing yet: wait until all data nodes are \
                          back, then POST /v1/cluster/resume";
            return Err(reject(RejectionCode::Suspended, detail));
        }
        Ok(())
    }

    /// A part of the end of the suspension, or all of it. Of a cluster that serves it changes nothing.
    pub(super) fn resume(&mut self, ask: &Resume) -> Result<(), Rejection> {
        if !self.state.is_suspended() {
            return Ok(());
        }
        bounded(ask.choices.len(), MAX_BATCH, "choices")?;
        bounded(ask.heard.len(), MAX_NODES, "nodes that were heard")?;
        bounded(ask.without.len(), MAX_NODES, "nodes that will not come back")?;
        let heard = self.check_heard(ask)?;
        for choice in &ask.choices {
            self.check_choice(choice, &heard, ask.accept_data_loss)?;
        }
        let chosen: BTreeSet<ShardId> = ask.choices.iter().map(Choice::shard).collect();
        if chosen.len() < ask.choices.len() {
            return Err(reject(RejectionCode::Invalid, "a shard is named twice"));
        }
        let left = self.state.shards().find(|row| row.lost && !chosen.contains(&row.id));
        if let Some(left) = left.filter(|_| ask.last) {
            let detail = format!("nothing was chosen for shard {}", left.id);
            return Err(reject(RejectionCode::Conflict, detail));
        }
        self.set_verdicts(&heard);
        for choice in &ask.choices {
            self.choose(choice, &heard)?;
        }
        if ask.last
            && let Some(restored) = &mut self.state.restored
        {
            Arc::make_mut(restored).suspended = false;
            self.resumed = true;
            self.event("resumed", About::default(), format!("with {} data nodes", heard.len()));
        }
        Ok(())
    }

    /// Every known node was heard in its present run, or is left out with leave. Also one that was down, or empty, in the
    /// backup: it may have come back afterwards, and been the only one to acknowledge writes.
    fn check_heard(&self, ask: &Resume) -> Result<BTreeSet<NodeId>, Rejection> {
        let mut heard = BTreeSet::new();
        for HeardNode { node, incarnation } in &ask.heard {
            self.node_in_run(node, *incarnation)?;
            heard.insert(node.clone());
        }
        if ask.accept_data_loss {
            return Ok(heard);
        }
        let without: BTreeSet<&NodeId> = ask.without.iter().collect();
        let is_missing = |row: &&NodeRow| !heard.contains(&row.id) && !without.contains(&row.id);
        let missing: Vec<&NodeRow> = self.state.nodes().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(heard);
        }
        let names: Vec<&str> = missing.iter().take(NAMED).map(|row| row.id.as_str()).collect();
        let detail = format!(
            "{} data nodes have not told yet what they hold: {}{}. Wait for them, or name in `without` those that will not \
             come back",
            missing.len(),
            names.join(", "),
            if missing.len() > NAMED { ", ..." } else { "" }
        );
        Err(reject(RejectionCode::NodesMissing, detail))
    }

    fn check_choice(
        &self,
        choice: &Choice,
        heard: &BTreeSet<NodeId>,
        accept_data_loss: bool,
    ) -> Result<(), Rejection> {
        match choice {
            Choice::Lead { shard, if_epoch, primary, replicas } => {
                self.shard_at(*shard, *if_epoch)?;
                if !heard.contains(primary) {
                    return Err(reject(RejectionCode::Conflict, format!("{primary} was not heard")));
                }
                let mut copies: BTreeSet<&NodeId> = BTreeSet::from([primary]);
                for node in replicas {
                    self.node(node)?;
                    if !copies.insert(node) {
                        return Err(reject(RejectionCode::Invalid, format!("{node} is named twice")));
                    }
                }
                if replicas.len() >= self.state.replication_factor() {
                    return Err(reject(RejectionCode::Invalid, "more copies than the replication factor"));
                }
            }
            Choice::Found { shard, if_epoch } => {
                let row = self.shard_at(*shard, *if_epoch)?;
                if row.primary.is_none() {
                    return Err(reject(RejectionCode::Invalid, format!("shard {shard} was never assigned")));
                }
                if !row.founding && !accept_data_loss {
                    let detail =
                        format!("nobody holds shard {shard}: bring its nodes back, or set accept_data_loss");
                    return Err(reject(RejectionCode::LastCopy, detail));
                }
            }
        }
        Ok(())
    }

    /// Who was heard is alive; who was not is down, and comes back by a heartbeat as ever.
    fn set_verdicts(&mut self, heard: &BTreeSet<NodeId>) {
        let down = Verdict::Down { since_ms: self.now_ms() };
        let verdict = |row: &NodeRow| match (heard.contains(&row.id), row.is_down()) {
            (true, true) => Some(Verdict::Alive),
            (false, false) => Some(down),
            (true, false) | (false, true) => None,
        };
        let rows: BTreeMap<NodeId, Verdict> =
            self.state.nodes().filter_map(|row| Some((row.id.clone(), verdict(row)?))).collect();
        for (id, verdict) in rows {
            if let Some(row) = self.state.node(&id).cloned() {
                self.put_node(NodeRow { verdict, ..row });
            }
        }
    }

    fn choose(&mut self, choice: &Choice, heard: &BTreeSet<NodeId>) -> Result<(), Rejection> {
        let mut row = self.shard(choice.shard())?;
        if let Some(old) = &row.primary {
            self.take_primaryship_from(old);
        }
        row.epoch = Epoch(row.epoch.max(self.state.epoch_floor()).0 + 1);
        row.lost = false;
        row.in_sync_version += 1;
        match choice {
            Choice::Lead { primary, replicas, .. } => {
                row.primary = Some(primary.clone());
                row.replicas.clone_from(replicas);
                row.learners.clear();
                row.set_in_sync(vec![primary.clone()]);
                row.founding = false;
            }
            Choice::Found { .. } => {
                let leader = row.full_copies().find(|copy| heard.contains(*copy)).cloned();
                if let Some(leader) = leader.or_else(|| row.primary.clone()) {
                    row.name_primary(&leader);
                }
                row.founding = true;
                let all = row.full_copies().cloned().collect();
                row.set_in_sync(all);
                let about = About { shard: Some(row.id), ..About::default() };
                self.event("shard_founded_again", about, "nobody holds a copy: it begins anew, empty");
            }
        }
        self.put_shard(row);
        Ok(())
    }
}

impl ShardRow {
    /// Whether it was opened, so that it is a loss when nobody holds a copy.
    pub fn was_opened(&self) -> bool {
        self.primary.is_some() && !self.founding
    }
}
