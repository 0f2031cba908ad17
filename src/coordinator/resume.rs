//! Who is to lead what once a restored cluster serves again: decided by what the data nodes say that they hold.
//!
//! The copy with the highest (epoch, position) has every write that was acknowledged by any node that was heard: a primary has
//! on disk what it acknowledged, and acknowledges nothing any more once it has registered with the restored cluster; whoever
//! came to lead after it was in sync, so had all of it too, and its own writes carry a higher epoch. What a node said counts
//! only from the run in which it registered there.
//!
//! A copy that is being filled may be any mixture and counts for nothing, unless nothing else is left and the operator accepts the loss.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::HeldShard;

use super::decide::MAX_BATCH_BYTES;
use crate::metadata::{Choice, HeardNode, MAX_BATCH, Metadata, NodeRow, ShardRow};
use crate::soft::Soft;

/// Bytes of a command's JSON but its lists, at most: with an actor, and a key of 256 bytes.
const COMMAND_BYTES: usize = 1_024;

/// Bytes of a heard node's JSON but its name, at most.
const HEARD_BYTES: usize = 48;

/// Bytes of a choice's JSON but its names, at most.
const CHOICE_BYTES: usize = 128;

/// Bytes that a command has for choices, however many nodes stand in it.
const LEAST_CHOICES_BYTES: usize = 64 * 1024;

/// What would come of resuming now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumePlan {
    /// Nodes that told all that they hold in their present run.
    pub heard: Vec<HeardNode>,
    /// Known nodes that have not told and that the operator leaves out.
    pub without: Vec<NodeId>,
    /// All other nodes: they may hold something, and have not told. What the backup says of them does not matter: one that was
    /// down then and held nothing may have come back afterwards, and led.
    pub missing: Vec<NodeId>,
    /// For every shard that is held, or was assigned.
    pub choices: Vec<Choice>,
    /// Opened shards of which nobody who was heard holds a full copy.
    pub unheld: Vec<ShardId>,
}

impl ResumePlan {
    /// The choices of each command; one command at least. With up to 1,000 nodes whose names are longest, a command has no more
    /// than 256 KiB.
    pub fn batches(&self) -> Vec<&[Choice]> {
        let heard = self.heard.iter().map(|heard| HEARD_BYTES + heard.node.as_str().len());
        let nodes = heard.chain(self.without.iter().map(quoted)).sum::<usize>();
        let room = MAX_BATCH_BYTES.saturating_sub(COMMAND_BYTES + nodes).max(LEAST_CHOICES_BYTES);
        let mut batches = Vec::new();
        let (mut begun, mut bytes) = (0, 0);
        for (at, choice) in self.choices.iter().enumerate() {
            let size = size_bytes(choice);
            if at > begun && (at - begun == MAX_BATCH || bytes + size > room) {
                batches.push(&self.choices[begun..at]);
                (begun, bytes) = (at, 0);
            }
            bytes += size;
        }
        batches.push(&self.choices[begun..]);
        batches
    }
}

fn quoted(node: &NodeId) -> usize {
    node.as_str().len() + 3
}

fn size_bytes(choice: &Choice) -> usize {
    let names = match choice {
        Choice::Lead { primary, replicas, .. } => replicas.iter().chain([primary]).map(quoted).sum(),
        Choice::Found { .. } => 0,
    };
    CHOICE_BYTES + names
}

/// A copy that was told of.
struct Told<'a> {
    node: &'a NodeId,
    held: HeldShard,
}

/// Decides. Pure, and the same for the same state and soft state. Nodes in `without` are not missed.
pub fn plan_resume(metadata: &Metadata, soft: &Soft, without: &BTreeSet<NodeId>) -> ResumePlan {
    let mut plan = ResumePlan::default();
    let has_told = |row: &&NodeRow| {
        soft.nodes.get(&row.id).is_some_and(|said| said.incarnation == row.incarnation && said.complete)
    };
    let mut copies: BTreeMap<ShardId, Vec<Told<'_>>> = BTreeMap::new();
    let mut heard = BTreeSet::new();
    for row in metadata.nodes() {
        if has_told(&row) {
            plan.heard.push(HeardNode { node: row.id.clone(), incarnation: row.incarnation });
            heard.insert(&row.id);
            let said = soft.nodes.get(&row.id).into_iter().flat_map(|said| said.held.values());
            said.for_each(|held| {
                copies.entry(held.id).or_default().push(Told { node: &row.id, held: *held })
            });
        } else if without.contains(&row.id) {
            plan.without.push(row.id.clone());
        } else {
            plan.missing.push(row.id.clone());
        }
    }
    let may_return = |node: &NodeId| !heard.contains(node) && !without.contains(node);
    for row in metadata.shards() {
        let told = copies.remove(&row.id).unwrap_or_default();
        if row.was_opened() && told.iter().all(|told| told.held.filling) {
            plan.unheld.push(row.id);
        }
        plan.choices.extend(choice(row, told, metadata.replication_factor(), may_return));
    }
    plan
}

fn choice(
    row: &ShardRow,
    mut told: Vec<Told<'_>>,
    replication_factor: usize,
    may_return: impl Fn(&NodeId) -> bool,
) -> Option<Choice> {
    // Of equal copies those stay in their places that had them.
    told.sort_by_key(|told| {
        let position = (told.held.epoch, told.held.position);
        let leads = row.primary.as_ref() == Some(told.node);
        let known = row.role_of(told.node).is_some();
        (told.held.filling, Reverse(position), Reverse(told.held.vectors), !leads, !known, told.node)
    });
    let Some((first, others)) = told.split_first() else {
        let (shard, if_epoch) = (row.id, row.epoch);
        return row.primary.as_ref().map(|_| Choice::Found { shard, if_epoch });
    };
    // Where places are left they are kept for nodes that may come back with a copy.
    let absent = row.full_copies().filter(|node| may_return(node));
    let replicas = others.iter().map(|told| told.node).chain(absent);
    let replicas = replicas.take(replication_factor.saturating_sub(1)).cloned().collect();
    Some(Choice::Lead { shard: row.id, if_epoch: row.epoch, primary: first.node.clone(), replicas })
}
