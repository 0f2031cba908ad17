//! A data node in the test's own process: it speaks the protocol of API.md and holds no data.
//!
//! It makes every assignment so at once, reports it, and can stop its heartbeats, which a real one does not do on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ruvector_cluster::client::ids::{Incarnation, NodeId, Revision, ShardId, Thousandths};
use ruvector_cluster::client::wire::{
    Assignment, AssignmentsResponse, HeartbeatRequest, HeartbeatResponse, HeldShard, InSyncMember,
    InSyncProposal, NodeAddr, Phase, RegisterResponse, Report, ReportsRequest, ReportsResponse, Role,
};
use serde_json::json;
use tokio::task::JoinSet;

use super::control::ControlCluster;
use super::http::Api;
use super::wait::{DEADLINE, wait_for};

/// Between two heartbeats, and two looks at the assignments.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    incarnation: Incarnation,
    assigned: BTreeMap<ShardId, Assignment>,
    installed: Revision,
    held: BTreeSet<ShardId>,
    is_silent: bool,
    /// Reads and writes a second, in thousandths, that it tells of the shards that it leads.
    load: BTreeMap<ShardId, (u64, u64)>,
}

/// A data node without a process.
pub struct ScriptedNode {
    id: NodeId,
    speaker: Speaker,
    // Ends with the node.
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Speaker {
    id: NodeId,
    apis: Vec<Api>,
    state: Arc<Mutex<State>>,
}

impl ScriptedNode {
    /// Registers `name` and begins to send heartbeats and to carry out assignments.
    pub async fn start(cluster: &ControlCluster, name: &str, rack: Option<&str>) -> Self {
        let id = NodeId::new(name).unwrap();
        let apis = cluster.running().into_iter().map(|node| cluster.api(node)).collect();
        let speaker = Speaker { id: id.clone(), apis, state: Arc::default() };
        speaker.register(rack, &format!("store-of-{name}")).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(speaker.clone().send_heartbeats());
        tasks.spawn(speaker.clone().carry_out());
        Self { id, speaker, _tasks: tasks }
    }

    /// Its name.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// What it was assigned last.
    pub fn assigned(&self) -> BTreeMap<ShardId, Assignment> {
        self.speaker.state.lock().unwrap().assigned.clone()
    }

    /// Its run.
    pub fn incarnation(&self) -> Incarnation {
        self.speaker.state.lock().unwrap().incarnation
    }

    /// It goes on believing what it was assigned, and is not heard any more.
    pub fn fall_silent(&self) {
        self.speaker.state.lock().unwrap().is_silent = true;
    }

    /// It is heard again.
    pub fn speak(&self) {
        self.speaker.state.lock().unwrap().is_silent = false;
    }

    /// From now on it tells so many thousandths of a read and of a write a second of these shards, while it leads them.
    #[allow(dead_code, reason = "not every test binary that shares this file has load")]
    pub fn tell_load(&self, load: BTreeMap<ShardId, (u64, u64)>) {
        self.speaker.state.lock().unwrap().load = load;
    }

    /// Sends reports past its own judgement.
    ///
    /// # Errors
    /// When none of the control nodes took the request.
    pub async fn report(&self, reports: Vec<Report>) -> Result<ReportsResponse, String> {
        self.speaker.report(reports).await
    }
}

impl Speaker {
    async fn register(&self, rack: Option<&str>, store_id: &str) {
        let body = json!({"addr": format!("{}.invalid:1", self.id), "store_id": store_id, "rack": rack});
        let path = format!("/v1/nodes/{}", self.id);
        let registered: RegisterResponse =
            wait_for("the registration", DEADLINE, async || self.apis[0].put_as(&path, &body).await).await;
        let mut state = self.state.lock().unwrap();
        state.incarnation = registered.incarnation;
    }

    async fn send_heartbeats(self) {
        for turn in 0.. {
            tokio::time::sleep(INTERVAL).await;
            let request = {
                let state = self.state.lock().unwrap();
                if state.is_silent {
                    continue;
                }
                let leads =
                    |id: &ShardId| state.assigned.get(id).is_some_and(|one| one.role == Role::Primary);
                let held = |id: &ShardId| {
                    let (reads, writes) =
                        state.load.get(id).filter(|_| leads(id)).copied().unwrap_or_default();
                    let (reads_per_s, writes_per_s) = (Thousandths(reads), Thousandths(writes));
                    HeldShard { id: *id, reads_per_s, writes_per_s, ..HeldShard::default() }
                };
                HeartbeatRequest {
                    incarnation: state.incarnation,
                    installed_revision: state.installed,
                    partial: false,
                    shards: state.held.iter().map(held).collect(),
                    disk_free_bytes: None,
                }
            };
            let body = serde_json::to_value(&request).unwrap();
            let path = format!("/v1/nodes/{}/heartbeat", self.id);
            // A missed heartbeat is made good by the next, which asks another control node.
            self.apis[turn % self.apis.len()].post_as::<HeartbeatResponse>(&path, &body).await.ok();
        }
    }

    async fn carry_out(self) {
        for turn in 0.. {
            tokio::time::sleep(INTERVAL / 4).await;
            if self.state.lock().unwrap().is_silent {
                continue;
            }
            let path = format!("/v1/nodes/{}/assignments?since=0", self.id);
            let api = &self.apis[turn % self.apis.len()];
            let Ok(answer) = api.get_as::<AssignmentsResponse>(&path).await else { continue };
            let reports = self.install(answer);
            if !reports.is_empty() {
                // Said again on the next turn, until the assignments show that it was heard.
                self.report(reports).await.ok();
            }
        }
    }

    fn install(&self, answer: AssignmentsResponse) -> Vec<Report> {
        let mut state = self.state.lock().unwrap();
        if answer.revision < state.installed || answer.incarnation != state.incarnation {
            return Vec::new();
        }
        state.installed = answer.revision;
        state.assigned = answer.assignments.into_iter().map(|a| (a.shard, a)).collect();
        let assigned: Vec<Assignment> = state.assigned.values().cloned().collect();
        for assignment in &assigned {
            match assignment.role {
                Role::Retiring => state.held.remove(&assignment.shard),
                Role::Primary | Role::Replica | Role::Learner => state.held.insert(assignment.shard),
            };
        }
        assigned.iter().filter_map(|assignment| self.report_of(assignment)).collect()
    }

    /// What API.md's "What a node reports, by phase" asks for.
    fn report_of(&self, assignment: &Assignment) -> Option<Report> {
        let mut report = Report::new(assignment.shard, assignment.epoch);
        let is_target = |end: &Option<NodeAddr>| end.as_ref().is_some_and(|end| end.node == self.id);
        if let Some(migration) = &assignment.migration {
            report.migration = Some(migration.id);
            report.phase = Some(migration.phase);
            let is_target = is_target(&migration.target);
            let is_primary = assignment.role == Role::Primary;
            report.done = match migration.phase {
                Phase::Preparing => is_target || is_primary,
                Phase::Copying => is_target,
                Phase::HandingOver => is_primary,
                Phase::Queued | Phase::Admitting | Phase::Done | Phase::Aborted => false,
            };
        }
        match assignment.role {
            Role::Retiring => report.retired = true,
            Role::Primary => report.in_sync_set = in_sync_set(assignment),
            Role::Replica | Role::Learner => {}
        }
        let says_something = report.done || report.retired || report.in_sync_set.is_some();
        says_something.then_some(report)
    }

    async fn report(&self, reports: Vec<Report>) -> Result<ReportsResponse, String> {
        let incarnation = self.state.lock().unwrap().incarnation;
        let body = serde_json::to_value(ReportsRequest { incarnation, reports }).unwrap();
        let path = format!("/v1/nodes/{}/reports", self.id);
        let mut last = String::new();
        for api in &self.apis {
            match api.post_as(&path, &body).await {
                Ok(answer) => return Ok(answer),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// The set that the primary wants, where it is another than the committed one: every full copy that is not down, and
/// the target of a migration once it is being admitted.
fn in_sync_set(assignment: &Assignment) -> Option<InSyncProposal> {
    let migration = assignment.migration.as_ref();
    if migration.is_some_and(|migration| migration.phase == Phase::HandingOver) {
        return None;
    }
    let admitted = migration.filter(|migration| migration.phase == Phase::Admitting);
    let target = admitted.and_then(|migration| migration.target.as_ref()).map(|target| &target.node);
    let is_full = |role: Role| matches!(role, Role::Primary | Role::Replica);
    let was_in = |node: &NodeId| assignment.in_sync.contains(node);
    let wanted = assignment.copies.iter().filter(|copy| {
        !copy.down && (is_full(copy.role) || Some(&copy.node) == target || was_in(&copy.node))
    });
    let members: Vec<InSyncMember> =
        wanted.map(|copy| InSyncMember { node: copy.node.clone(), incarnation: copy.incarnation }).collect();
    let names =
        |members: &[InSyncMember]| -> BTreeSet<NodeId> { members.iter().map(|m| m.node.clone()).collect() };
    let is_same = names(&members) == assignment.in_sync.iter().cloned().collect();
    let is_needed = assignment.founding || !is_same;
    is_needed.then_some(InSyncProposal { if_version: assignment.in_sync_version, members })
}
