//! Looks at the control nodes from outside of the run: what they believe, and what their states say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use ruvector_cluster::client::ids::{Epoch, NodeId, ShardId};
use ruvector_cluster::metadata::{Metadata, NodeRow, ShardRow, check};

use crate::cluster::Cluster;
use crate::control::{ControlNode, Live, World};
use crate::reference::{hash_of_rows, hash_of_state};
use crate::serving::Twice;
use ruvector_cluster_check::history::{Seen, Standing};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks within which the numbers of one moment are told.
const MOMENT_LOOKS: u32 = 3;

/// What was decided on a state may be committed so much later.
const DECIDED_WITHIN: Duration = Duration::from_secs(5);

/// The reason of a migration that was asked for by name.
const BY_OPERATOR: &str = "asked for by an operator";

/// What the monitor keeps between two looks.
pub struct Monitor {
    world: World,
    seen: BTreeMap<String, u64>,
    /// In so many looks a node had applied more than it said to be committed.
    ahead: BTreeMap<u64, u32>,
    primaries: BTreeMap<(ShardId, Epoch), NodeId>,
    twice: Twice,
    newest: Option<Arc<Metadata>>,
    /// States before it, and until when each was the newest.
    recent: VecDeque<(Instant, Arc<Metadata>)>,
    /// Terms in which somebody led.
    pub terms: BTreeSet<u64>,
    /// States that were checked.
    pub states: u64,
    /// Shards whose last in-sync copy was lost at some time.
    pub lost: BTreeSet<ShardId>,
}

impl Monitor {
    /// Has seen nothing.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self {
            world,
            seen: BTreeMap::new(),
            ahead: BTreeMap::new(),
            primaries: BTreeMap::new(),
            twice: Twice::default(),
            newest: None,
            recent: VecDeque::new(),
            terms: BTreeSet::new(),
            states: 0,
            lost: BTreeSet::new(),
        }
    }

    /// Waits until the next look is due.
    pub async fn pause(&self) {
        tokio::time::sleep(LOOK_EVERY).await;
    }

    /// Looks at every control node.
    pub fn look(&mut self, nodes: &[Arc<ControlNode>]) {
        for node in nodes {
            let Some(live) = node.live() else { continue };
            let (raft_id, status) = (live.node.raft_id(), live.node.status());
            if status.state == "shutdown" {
                // Its core has failed: it tells the term that it could not write.
                continue;
            }
            let recorder = &self.world.recorder;
            let state = live.state.borrow().clone();
            if status.state == "leader" {
                // A restored cluster counts its terms anew.
                let generation = state.founded().map_or(1, |founded| founded.generation);
                let term = (generation << 32) + status.term;
                self.terms.insert(term);
                recorder.node(raft_id, Seen::Leads { term });
            }
            let standing = Standing {
                run: live.run,
                term: status.term,
                vote: status.voted_for,
                committed: status.committed.unwrap_or(0),
                applied: status.applied,
                durable: status.durable.unwrap_or(0),
                // Whoever leads, and has applied an entry of its own term, knows all that was ever committed.
                caught_up: live.node.leadership().borrow().mine.is_some(),
            };
            // The core's numbers are told a moment after what they are of is applied.
            let ahead = self.ahead.entry(raft_id).or_default();
            *ahead = if standing.applied > standing.committed { *ahead + 1 } else { 0 };
            if *ahead == 0 || *ahead > MOMENT_LOOKS {
                recorder.node(raft_id, Seen::Standing(standing));
            }
            self.look_at_state(&node.name, raft_id, &state);
            self.look_at_rows(&node.name, &live);
        }
    }

    /// At most one node serves a shard, by its own clock and by what it knows.
    pub fn look_at_data(&mut self, cluster: &Cluster) {
        let mut serving = Vec::new();
        for at in 0..cluster.data_nodes() {
            cluster.with_data(at, |node| {
                // One that stands still answers nothing, and looks at its lease before it does so again.
                if node.host().is_paused() || !node.lease_runs() {
                    return;
                }
                let name = &node.machine().node;
                let statuses = node.statuses().into_iter().filter(|(_, status)| status.serving);
                serving.extend(statuses.map(|(shard, status)| (shard, status.epoch, name.clone())));
            });
        }
        for detail in self.twice.look(&serving) {
            self.world.recorder.violation("one-primary-serves", detail);
        }
    }

    /// What is stored of the state never runs ahead of the log on disk.
    fn look_at_rows(&self, name: &str, live: &Live) {
        let (stored, durable) = (live.rows.batched(), live.node.status().durable);
        if stored > durable {
            let detail = format!("{name} has stored the rows of {stored:?}, and the log up to {durable:?}");
            self.world.recorder.violation("rows-trail-the-log", detail);
        }
    }

    fn look_at_state(&mut self, name: &str, raft_id: u64, state: &Arc<Metadata>) {
        let revision = state.revision().0;
        if self.seen.insert(name.to_owned(), revision) == Some(revision) || state.founded().is_none() {
            return;
        }
        self.states += 1;
        let hash = hash_of_state(state);
        self.world.recorder.node(raft_id, Seen::State { index: revision, hash });
        for violation in check::check(state) {
            self.world.recorder.violation("metadata-invariant", format!("{name} at {revision}: {violation}"));
        }
        for shard in state.shards() {
            self.look_at_primary(shard);
            // A restored state calls every copy lost until the data nodes have told what they hold.
            if shard.lost && !state.is_suspended() {
                self.lost.insert(shard.id);
            }
        }
        if self.newest.as_ref().is_none_or(|newest| newest.revision() < state.revision()) {
            if let Some(before) = self.newest.take() {
                self.recent.push_back((Instant::now(), before.clone()));
                while self.recent.front().is_some_and(|(at, _)| at.elapsed() > DECIDED_WITHIN) {
                    self.recent.pop_front();
                }
                self.look_at_racks(&before, state);
            }
            self.newest = Some(state.clone());
        }
    }

    fn look_at_primary(&mut self, shard: &ShardRow) {
        let Some(primary) = &shard.primary else { return };
        let known = self.primaries.entry((shard.id, shard.epoch)).or_insert_with(|| primary.clone());
        if known != primary {
            let detail = format!("shard {} has {known} and {primary} at epoch {}", shard.id, shard.epoch);
            self.world.recorder.violation("one-primary-an-epoch", detail);
        }
    }

    /// Everything is still: all nodes hold what was committed, remembered requests included.
    pub fn look_at_rest(&self, nodes: &[Arc<ControlNode>]) {
        let expected = self.world.reference.rows();
        let applied = |node: &Arc<ControlNode>| node.live().map(|live| live.node.status().applied);
        let farthest = nodes.iter().filter_map(applied).max();
        for node in nodes.iter().filter(|node| applied(node) == farthest) {
            let Some(live) = node.live() else { continue };
            let rows = hash_of_rows(&live.state.borrow());
            if rows != expected {
                let detail = format!("{} holds other rows than were committed", node.name);
                self.world.recorder.violation("rows-at-rest", detail);
            }
        }
    }

    /// A copy that is new must not share a rack with another one while a node of a free rack could have taken it.
    fn look_at_racks(&self, before: &Metadata, now: &Metadata) {
        for shard in now.shards() {
            let Some(was) = before.shard(shard.id) else { continue };
            let migration = shard.migration.and_then(|id| now.migration(id));
            if migration.is_some_and(|row| row.reason == BY_OPERATOR) {
                // Who asks for a move by name has his reasons.
                continue;
            }
            let moved_from = migration.and_then(|row| row.from.clone());
            // A migration is judged when it is decided, not when it begins; a learner copy that waits to be given up is none.
            let decided = migration.filter(|row| before.migration(row.id).is_none());
            let target = decided.and_then(|row| row.to.as_ref()).filter(|to| was.role_of(to).is_none());
            let full = shard.full_copies().filter(|copy| Some(*copy) != moved_from.as_ref());
            let copies: Vec<&NodeId> = full.chain(target).collect();
            let assigned = |copy: &&NodeId| was.primary.is_none() || target == Some(*copy);
            for new in copies.iter().filter(|copy| assigned(copy)) {
                // Whoever is down may come back, or is about to be replaced as well: either view may have been the planner's.
                let alive = |copy: &&NodeId| before.is_alive(copy) && now.is_alive(copy);
                let others: Vec<&NodeId> = copies.iter().filter(|copy| copy != &new).copied().collect();
                let alive: Vec<&NodeId> = others.iter().copied().filter(alive).collect();
                let views = [others, alive];
                if views.iter().all(|others| self.could_be_apart(now, shard, others, new)) {
                    let nodes: Vec<String> = now.nodes().map(told).collect();
                    let detail = format!(
                        "at {}: {new} of {shard:?}, {migration:?}, nodes {}",
                        now.revision(),
                        nodes.join(" ")
                    );
                    self.world.recorder.violation("racks", detail);
                }
            }
        }
    }

    /// Whether `new` shares a rack with one of `others`, though a node of a rack without any of them could have been taken.
    fn could_be_apart(&self, now: &Metadata, shard: &ShardRow, others: &[&NodeId], new: &NodeId) -> bool {
        // Where racks do not suffice for all copies, sharing can't be told from the plan's other moves.
        let usable = now.nodes().filter(|row| takes_copies(now, row)).filter_map(|row| row.rack.clone());
        if usable.collect::<BTreeSet<String>>().len() < self.world.plan.settings.replication_factor as usize {
            return false;
        }
        let taken: BTreeSet<String> = others.iter().filter_map(|copy| rack(now, copy)).collect();
        let shares = rack(now, new).is_some_and(|rack| taken.contains(&rack));
        // Only what was free all the time was surely free when that was decided. Who still deletes an earlier copy is not.
        let able = |state: &Metadata, id: &NodeId| {
            let deletes = state.retiring_in(shard.id).any(|row| row.node == *id);
            let holds = state.shard(shard.id).is_some_and(|row| row.role_of(id).is_some());
            !deletes && !holds && state.node(id).is_some_and(|row| takes_copies(state, row))
        };
        let free = |row: &NodeRow| {
            let apart = row.rack.as_ref().is_some_and(|rack| !taken.contains(rack));
            let always = self.recent.iter().all(|(_, state)| able(state, &row.id));
            apart && always && able(now, &row.id)
        };
        shares && now.nodes().any(free)
    }
}

/// A node in short.
fn told(row: &NodeRow) -> String {
    format!("{}/{}/{:?}/{:?}", row.id, row.rack.as_deref().unwrap_or("-"), row.verdict, row.intent)
}

fn rack(state: &Metadata, node: &NodeId) -> Option<String> {
    state.node(node).and_then(|row| row.rack.clone())
}

fn takes_copies(state: &Metadata, row: &NodeRow) -> bool {
    use ruvector_cluster::client::wire::Intent;
    state.is_alive(&row.id) && row.intent == Intent::Schedulable
}
