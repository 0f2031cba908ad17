//! The problem that a state poses.

use std::collections::{BTreeMap, BTreeSet};

use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::{HeldShard, Intent, MigrationKind, RebalancePolicy, Role, ShardStatus};

use super::problem::{Copies, Copy, NodeIndex, NodeSpec, NodeUse, Problem, ShardSpec, ShardUse};
use super::room::Room;
use crate::metadata::{Metadata, NodeRow, ShardRow, Verdict};
use crate::soft::{Soft, SoftNode};

/// Nodes gone at once from which on it may look like a partition; one node alone never does.
const MASS_FAILURE_NODES: u64 = 2;

/// A problem, and what its numbers stand for.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) problem: Problem,
    /// By node index.
    pub(crate) nodes: Vec<NodeId>,
    /// By shard index.
    pub(crate) shards: Vec<ShardId>,
    /// Whether the primary of every shard that has one is up and has told its size.
    pub(crate) are_sizes_known: bool,
}

/// What the problem is built from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) metadata: &'a Metadata,
    pub(crate) soft: &'a Soft,
    pub(crate) policy: &'a RebalancePolicy,
    /// Compared with log time.
    pub(crate) now_ms: u64,
    /// Taken as draining.
    pub(crate) assume_draining: Option<&'a NodeId>,
}

/// Whether so many nodes went down within `mass_failure_hold_ms` that it looks like a partition: rebuilding waits.
pub fn is_mass_failure(metadata: &Metadata, policy: &RebalancePolicy, now_ms: u64) -> bool {
    let (mut all, mut gone) = (0_u64, 0_u64);
    for node in metadata.nodes() {
        all += 1;
        gone += match node.verdict {
            Verdict::Down { since_ms } if node.intent != Intent::Maintenance => {
                u64::from(now_ms < since_ms.saturating_add(policy.mass_failure_hold_ms))
            }
            Verdict::Alive | Verdict::Down { .. } => 0,
        };
    }
    gone >= MASS_FAILURE_NODES
        && gone.saturating_mul(1_000) >= policy.mass_failure_share.0.saturating_mul(all)
}

impl Built {
    pub(crate) fn of(source: Source<'_>) -> Self {
        let nodes: Vec<NodeId> = source.metadata.nodes().map(|node| node.id.clone()).collect();
        let shards = source.shard_specs(&nodes);
        Self::with(source, nodes, shards, |_| true)
    }

    /// The same with one shard alone. Only of `measured` it is asked what it holds, where that is given; the others count as having
    /// room. So it takes a short look at each node, and none at what else they hold.
    pub(crate) fn of_one(source: Source<'_>, shard: &ShardRow, measured: Option<&NodeId>) -> Self {
        let nodes: Vec<NodeId> = source.metadata.nodes().map(|node| node.id.clone()).collect();
        let mut spec = source.shard_spec(shard, &nodes);
        let size = |primary: &NodeId| source.soft.held(primary, shard.id).map(|held| held.size_bytes);
        let bytes = shard.primary.as_ref().and_then(size);
        spec.bytes = bytes.unwrap_or(0);
        let is_deleting = |node: &&NodeId| source.metadata.retiring_row(shard.id, node).is_some();
        spec.barred = nodes.iter().filter(is_deleting).filter_map(|node| index(&nodes, node)).collect();
        let is_measured = |node: &NodeId| measured.is_none_or(|measured| measured == node);
        Self::with(source, nodes, (vec![shard.id], vec![spec], bytes.is_some()), is_measured)
    }

    fn with(
        source: Source<'_>,
        nodes: Vec<NodeId>,
        (shards, specs_of_shards, are_sizes_known): (Vec<ShardId>, Vec<ShardSpec>, bool),
        is_measured: impl Fn(&NodeId) -> bool,
    ) -> Self {
        let metadata = source.metadata;
        let mut racks: BTreeMap<(Option<&str>, Option<&str>), usize> =
            metadata.nodes().map(|node| ((node.zone.as_deref(), node.rack.as_deref()), 0)).collect();
        racks.values_mut().enumerate().for_each(|(number, rack)| *rack = number);
        let zone_names: BTreeSet<Option<&str>> = racks.keys().map(|(zone, _)| *zone).collect();
        let zone_names: Vec<_> = zone_names.into_iter().collect();
        let zone_of_rack = racks
            .keys()
            .map(|(zone, _)| zone_names.binary_search(zone).unwrap_or(zone_names.len()))
            .collect();
        let is_held_back = is_mass_failure(metadata, source.policy, source.now_ms);
        let room = Room::of(metadata, source.soft, source.policy);
        let specs = metadata.nodes().map(|node| {
            let rack = racks.get(&(node.zone.as_deref(), node.rack.as_deref())).copied().unwrap_or(0);
            source.node_spec(node, rack, is_measured(&node.id).then_some(&room), is_held_back)
        });
        let problem = Problem {
            nodes: specs.collect(),
            zone_of_rack,
            zones: zone_names.len(),
            shards: specs_of_shards,
            replication_factor: metadata.replication_factor(),
        };
        Self { problem, nodes, shards, are_sizes_known }
    }
}

fn index(nodes: &[NodeId], node: &NodeId) -> Option<NodeIndex> {
    nodes.binary_search(node).ok()
}

/// The place of a shard among all. They are numbered from 0, nearly always without a gap.
pub(crate) fn place_of(ids: &[ShardId], id: ShardId) -> Option<usize> {
    let has_gaps = ids.last().is_some_and(|last| last.0 as usize >= ids.len());
    let place = id.0 as usize;
    if has_gaps { ids.binary_search(&id).ok() } else { Some(place).filter(|place| *place < ids.len()) }
}

/// What each node is assigned, and what it says of that, told by shard.
///
/// A node's shards lie far apart, so each shard has one small piece of memory for all that is asked of every one; and what a
/// heartbeat said of a copy is looked at only where it is wanted.
struct Gathered {
    wanted: usize,
    /// For each shard: how many copies it has, and whether it has a primary ([`HAS_PRIMARY`]); then `wanted` nodes, the
    /// primary's first. One more than wanted where there are too many, or one is being filled.
    rows: Vec<u32>,
    /// Bytes of the primary's copy.
    bytes: Vec<u64>,
    /// Whether all of these were told.
    are_known: bool,
}

/// Added to the number of copies where one is the primary.
const HAS_PRIMARY: u32 = 1 << 31;

impl Gathered {
    fn of(source: &Source<'_>, nodes: &[NodeId], ids: &[ShardId]) -> Self {
        let wanted = source.metadata.replication_factor();
        let (rows, bytes) = (vec![0; ids.len() * (wanted + 1)], vec![0; ids.len()]);
        let mut gathered = Self { wanted, rows, bytes, are_known: true };
        for (node, number) in nodes.iter().zip(0_u32..) {
            let said = source.soft.nodes.get(node);
            let is_heard = said.is_some_and(|said| source.is_heard(node, said));
            // Both ascend, so one walk finds what was said of each copy.
            let mut said = said.into_iter().flat_map(|soft| &soft.held).peekable();
            for (shard, role) in source.metadata.roles_of(node) {
                while said.next_if(|(held, _)| **held < shard).is_some() {}
                let said = said.next_if(|(held, _)| **held == shard).map(|(_, held)| held);
                gathered.are_known &= role != Role::Primary || (is_heard && said.is_some());
                if let Some(place) = place_of(ids, shard) {
                    gathered.hold(place, number, role, said);
                }
            }
        }
        gathered
    }

    fn hold(&mut self, place: usize, node: u32, role: Role, said: Option<&HeldShard>) {
        let wanted = self.wanted;
        let Some((count, slots)) = self.rows[place * (wanted + 1)..][..=wanted].split_first_mut() else {
            return;
        };
        match role {
            Role::Retiring => return,
            Role::Primary => {
                self.bytes[place] = said.map_or(0, |held| held.size_bytes);
                *count |= HAS_PRIMARY;
            }
            Role::Replica | Role::Learner => {}
        }
        let held = (*count & !HAS_PRIMARY) as usize;
        if held >= wanted || role == Role::Learner {
            *count = (*count & HAS_PRIMARY) | u32::try_from(wanted + 1).unwrap_or(!HAS_PRIMARY);
            return;
        }
        slots[held] = node;
        if role == Role::Primary {
            slots[..=held].rotate_right(1);
        }
        *count += 1;
    }

    /// The copies of a shard that has a primary and as many as are wanted, in sync, as its status says.
    fn whole(&self, place: usize) -> Option<Copies> {
        let (count, slots) = self.rows[place * (self.wanted + 1)..][..=self.wanted].split_first()?;
        let is_whole = (count ^ HAS_PRIMARY) as usize == self.wanted;
        let copy = |node: &u32| Copy { node: *node as usize, in_sync: true };
        is_whole.then(|| slots.iter().map(copy).collect())
    }
}

impl ShardSpec {
    fn of(usage: ShardUse, copies: Copies) -> Self {
        let has_primary = !copies.is_empty();
        Self { usage, has_primary, copies, idle: Vec::new(), barred: Vec::new(), bytes: 0 }
    }
}

impl Source<'_> {
    fn node_spec(
        &self,
        node: &NodeRow,
        rack: usize,
        room: Option<&Room<'_>>,
        is_held_back: bool,
    ) -> NodeSpec {
        let is_over = |room: &Room<'_>| room.below_watermark(node) == Some(0);
        let is_full = node.capacity.0 == 0 || room.is_some_and(is_over);
        let is_draining = self.assume_draining == Some(&node.id);
        let usage = match (node.verdict, node.intent) {
            (Verdict::Down { .. }, Intent::Maintenance) => NodeUse::Away,
            (Verdict::Down { since_ms }, Intent::Schedulable | Intent::Draining | Intent::Drained) => {
                let grace_over = self.now_ms >= since_ms.saturating_add(self.policy.down_grace_ms);
                let is_held_back = is_held_back || self.soft.is_heard_by_others(node);
                match node.intent {
                    _ if grace_over && !is_held_back => NodeUse::Dead,
                    Intent::Draining | Intent::Drained => NodeUse::Draining,
                    Intent::Schedulable | Intent::Maintenance if is_draining => NodeUse::Draining,
                    Intent::Schedulable | Intent::Maintenance => NodeUse::Away,
                }
            }
            (Verdict::Alive, Intent::Draining | Intent::Drained) => NodeUse::Draining,
            (Verdict::Alive, Intent::Schedulable | Intent::Maintenance) if is_draining => NodeUse::Draining,
            (Verdict::Alive, Intent::Maintenance) => NodeUse::Maintenance,
            (Verdict::Alive, Intent::Schedulable) if is_full => NodeUse::Full,
            (Verdict::Alive, Intent::Schedulable) => NodeUse::Open,
        };
        NodeSpec { weight: node.capacity.0, rack, usage, free_bytes: room.and_then(|room| room.left(node)) }
    }

    /// Whether the node's present run listed all that it holds, and is up.
    fn is_heard(&self, node: &NodeId, said: &SoftNode) -> bool {
        let is_this_run = |row: &NodeRow| row.incarnation == said.incarnation && !row.is_down();
        said.complete && self.metadata.node(node).is_some_and(is_this_run)
    }

    /// Each shard's spec, by number, and whether all sizes are known.
    ///
    /// Most shards have all that they want, in sync, on nodes that are alive: their copies are gathered from what each node holds,
    /// so that neither a name is looked up for them nor their row.
    fn shard_specs(&self, nodes: &[NodeId]) -> (Vec<ShardId>, Vec<ShardSpec>, bool) {
        let (ids, status): (Vec<ShardId>, Vec<ShardStatus>) = self.metadata.shard_statuses().unzip();
        let gathered = Gathered::of(self, nodes, &ids);
        let spec = |(place, (id, status)): (usize, (&ShardId, &ShardStatus))| {
            // An active shard has as many copies in sync on alive nodes as are wanted: they are all that it has.
            let whole = gathered.whole(place).filter(|_| *status == ShardStatus::Active);
            let unassigned = || ShardSpec::of(ShardUse::Unassigned, Copies::new());
            let mut spec = match whole {
                Some(copies) => ShardSpec::of(ShardUse::Open, copies),
                None => self.metadata.shard(*id).map_or_else(unassigned, |row| self.shard_spec(row, nodes)),
            };
            spec.bytes = gathered.bytes[place];
            spec
        };
        let mut specs: Vec<ShardSpec> = ids.iter().zip(&status).enumerate().map(spec).collect();
        for row in self.metadata.retiring() {
            if let (Some(place), Some(node)) = (place_of(&ids, row.shard), index(nodes, &row.node))
                && specs[place].usage != ShardUse::Unassigned
            {
                specs[place].barred.push(node);
            }
        }
        (ids, specs, gathered.are_known)
    }

    fn shard_spec(&self, shard: &ShardRow, nodes: &[NodeId]) -> ShardSpec {
        let usage = self.shard_use(shard);
        let copy =
            |node: &NodeId| Some(Copy { node: index(nodes, node)?, in_sync: shard.in_sync.contains(node) });
        let mut copies: Copies = shard.full_copies().filter_map(copy).collect();
        let mut idle: Vec<NodeIndex> = shard.learners.iter().filter_map(|node| index(nodes, node)).collect();
        if let Some(migration) = shard.migration.and_then(|id| self.metadata.migration(id)) {
            let from = migration.from.as_ref().and_then(|node| index(nodes, node));
            let to = migration.to.as_ref().and_then(|node| index(nodes, node));
            apply_result(&mut copies, migration.kind, from, to);
            idle.retain(|node| Some(*node) != to && Some(*node) != from);
        }
        if usage == ShardUse::Unassigned {
            (copies, idle) = (Copies::new(), Vec::new());
        }
        ShardSpec { idle, ..ShardSpec::of(usage, copies) }
    }

    fn shard_use(&self, shard: &ShardRow) -> ShardUse {
        let Some(primary) = &shard.primary else { return ShardUse::Unassigned };
        let alive = |node: &NodeId| self.metadata.is_alive(node);
        if shard.founding {
            // None of its nodes answers, and none ever took a write: it is assigned anew.
            return if shard.copies().any(alive) { ShardUse::Pinned } else { ShardUse::Unassigned };
        }
        if shard.lost || !shard.in_sync.iter().any(alive) {
            return ShardUse::Unavailable;
        }
        // While a failover is due, it comes first.
        if shard.migration.is_some() || !alive(primary) { ShardUse::Pinned } else { ShardUse::Open }
    }
}

/// The copies as they will be when the migration has ended.
fn apply_result(copies: &mut Copies, kind: MigrationKind, from: Option<NodeIndex>, to: Option<NodeIndex>) {
    let place =
        |node: Option<NodeIndex>, copies: &[Copy]| copies.iter().position(|copy| Some(copy.node) == node);
    let arrived = to.map(|node| Copy { node, in_sync: true });
    match (kind, place(from, copies), arrived) {
        (MigrationKind::Move, Some(place), Some(arrived)) => copies[place] = arrived,
        (MigrationKind::Move | MigrationKind::Add, None, Some(arrived)) => copies.push(arrived),
        (MigrationKind::Promote, _, _) => {
            if let Some(heir) = place(to, copies) {
                copies.swap(0, heir);
            }
        }
        (MigrationKind::Remove, Some(place), _) if place > 0 => {
            copies.remove(place);
        }
        (MigrationKind::Move | MigrationKind::Add | MigrationKind::Remove, _, _) => {}
    }
}
