//! One cell's cluster, from its founding to the judgement.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use ruvector_cluster::client::ids::{MigrationId, NodeId, ShardId};
use ruvector_cluster::client::wire::{Phase, RebalancePolicy, Report};
use ruvector_cluster::metadata::{Answer, Command, Envelope, Metadata, NewMigration, Settings, ShardRow};
use ruvector_cluster::proposer::{COMMAND_VERSION, propose};
use ruvector_cluster_check::Violation;
use ruvector_cluster_raft::Compaction;
use serde_json::to_value;
use tokio::time::Instant;

use super::witness::{Watched, Witness};
use super::{Cell, CellReport, Kind, Stage};
use crate::api::Ask;
use crate::chance::Chance;
use crate::cluster::{Cluster, control_addresses};
use crate::control::{World, hash_of};
use crate::data::client::{ClientParts, DataClient, Mix, read_all};
use crate::data::keys::{self, PlacedKey};
use crate::data::record::{Events, Recorder as DataRecorder};
use crate::judge::judge;
use crate::monitor::Monitor;
use crate::net::{Net, Quality, Withheld};
use crate::panics;
use crate::plan::Plan;
use crate::record::Recorder;
use crate::reference::Reference;
use crate::trace::Trace;

/// The shard of the cell, and one whose migration takes the only slot where the cell's is to wait.
const SHARDS: (ShardId, ShardId) = (ShardId(0), ShardId(1));
/// Two nodes on each of three racks: each copy can move to another node of its rack.
const DATA_NODES: usize = 6;
/// Clients at work.
const CLIENTS: u32 = 2;
/// Who reads everything at the end.
const LAST_CLIENT: u32 = 900;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// So many looks of ours for one of the monitor's.
const MONITOR_EVERY: u32 = 8;
/// The longest until a cluster is founded, a phase reached, a later migration done.
pub(super) const REACHED_WITHIN: Duration = Duration::from_secs(15);
/// The longest until a migration has ended after its fault: some phases, with the time that each may take.
const ENDED_WITHIN: Duration = Duration::from_secs(30);
/// The longest until everything is as it should be after that: copies are rebuilt.
const REST_WITHIN: Duration = Duration::from_secs(40);

/// Who has which part in the cell's migration.
#[derive(Clone, Debug)]
pub(super) struct Parties {
    pub(super) primary: NodeId,
    pub(super) from: Option<NodeId>,
    pub(super) to: Option<NodeId>,
}

/// A cell in progress.
pub(super) struct Rig {
    pub(super) cell: Cell,
    pub(super) cluster: Arc<Cluster>,
    pub(super) witness: Witness,
    pub(super) parties: Option<Parties>,
    pub(super) migration: Option<MigrationId>,
    /// Nodes that never come back.
    pub(super) gone: BTreeSet<NodeId>,
    monitor: Monitor,
    looks: u32,
    data: ClientParts,
    keys: Vec<PlacedKey>,
    clients: Vec<DataClient>,
}

/// Why a cell ended early.
pub(super) type Step<T = ()> = Result<T, Violation>;

pub(super) fn broken<T>(rule: &'static str, detail: impl Into<String>) -> Step<T> {
    Err(Violation { rule, detail: detail.into() })
}

/// Runs a cell from beginning to end, on this thread; `seed` tells runs of it apart. `printed` prints each event.
///
/// # Panics
/// When the runtime cannot be built.
#[must_use]
pub fn run(cell: Cell, seed: u64, printed: bool) -> CellReport {
    panics::begin();
    let seed = hash_of(&[cell.to_string().as_bytes(), &seed.to_le_bytes()]);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime of one thread needs nothing that could be missing");
    let mut report = runtime.block_on(inside(cell, plan(cell, seed), printed));
    drop(runtime);
    let panicked = panics::end().into_iter();
    report.violations.extend(panicked.map(|detail| Violation { rule: "no-panic", detail }));
    report
}

/// Short leases: most of a cell's time is waiting for them.
fn plan(cell: Cell, seed: u64) -> Plan {
    Plan {
        seed,
        control_nodes: 3,
        rough_founding: false,
        expects: None,
        data_nodes: DATA_NODES,
        settings: Settings {
            num_shards: if cell.stage == Stage::Queued { 2 } else { 1 },
            replication_factor: 3,
            failure_timeout_ms: 1_000,
            lease_ms: 800,
            heartbeat_interval_ms: 150,
        },
        compaction: Compaction { snapshot_every_entries: 100, keep_entries: 50 },
        clients: (0, 0, 0),
        unsafe_time: Duration::ZERO,
        heal_time: REST_WITHIN,
        fault_every_ms: 0,
        faults: Vec::new(),
        quality: Quality::GOOD,
        restores: false,
    }
}

async fn inside(cell: Cell, plan: Plan, printed: bool) -> CellReport {
    let began = Instant::now();
    let (chance, trace, recorder) = (Chance::new(plan.seed), Trace::new(printed), Recorder::default());
    let net = Net::new(chance.fork(), trace.clone());
    let (plan, reference) = (Arc::new(plan), Reference::default());
    let world = World { net, chance, recorder: recorder.clone(), trace: trace.clone(), plan, reference };
    let mut rig = Rig::new(cell, world);
    rig.cluster.start();
    let ended = rig.go().await;
    let mut violations = rig.witness.take();
    violations.extend(ended.err());
    let lost = rig.monitor.lost.clone();
    let records = rig.data.recorder.records();
    violations.extend(judge(&recorder.take(), &records, &[], &lost, &[]));
    let failures = rig.cluster.failures.seen().into_iter();
    violations.extend(failures.map(|detail| Violation { rule: "data-node-failed", detail }));
    rig.cluster.end();
    let row = rig.witness.row();
    CellReport {
        cell,
        end: rig.witness.end(),
        error: row.as_ref().and_then(|row| row.error.clone()),
        attempts: row.map_or(0, |row| row.attempts),
        violations,
        trace: trace.hash().0,
        simulated_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

impl Rig {
    fn new(cell: Cell, world: World) -> Self {
        let cluster = Cluster::new(world.clone());
        let shards = world.plan.settings.num_shards;
        let own = (1..=CLIENTS).flat_map(|n| keys::own(shards, 1, n));
        let data = ClientParts {
            net: world.net.clone(),
            control: control_addresses(&world.plan),
            recorder: DataRecorder::new(Events::default()),
            failures: cluster.failures.clone(),
            mix: Mix { pause_ms: (5, 60), ..Mix::default() },
        };
        Self {
            cell,
            witness: Witness::new(&cluster),
            cluster,
            parties: None,
            migration: None,
            gone: BTreeSet::new(),
            monitor: Monitor::new(world),
            looks: 0,
            data,
            keys: keys::shared(shards, 2).into_iter().chain(own).collect(),
            clients: Vec::new(),
        }
    }

    async fn go(&mut self) -> Step {
        self.found().await?;
        self.begin().await?;
        let late = self.inject().await?;
        let ended = self.wait(ENDED_WITHIN, |rig, _| rig.witness.end().is_some()).await;
        if !ended {
            return broken("the migration ends", self.told());
        }
        self.put_right(late).await?;
        if let Some(why) = self.rest_within(REST_WITHIN).await {
            return broken("everything comes to rest", format!("{why}; {}", self.told()));
        }
        self.migrate_again().await?;
        self.read_back().await
    }

    /// What stands where the cell is stuck.
    pub(super) fn told(&self) -> String {
        let state = self.cluster.newest_state();
        let shards = state.map(|state| {
            let shards: Vec<String> = state.shards().map(|row| format!("{row:?}")).collect();
            let active: Vec<String> = state.active_migrations().map(|row| format!("{row:?}")).collect();
            let nodes: Vec<String> = state
                .nodes()
                .map(|row| format!("{}/{:?}/{:?}/{}", row.id, row.verdict, row.intent, row.incarnation))
                .collect();
            let retiring: Vec<String> = state.retiring().map(|row| format!("{row:?}")).collect();
            format!("{shards:?} {active:?} {nodes:?} {retiring:?}")
        });
        format!("{:?}; {}", self.witness.row(), shards.unwrap_or_default())
    }

    /// Time passes, and everything is looked at.
    pub(super) async fn look(&mut self) {
        tokio::time::sleep(LOOK_EVERY).await;
        self.looks += 1;
        if self.looks.is_multiple_of(MONITOR_EVERY) {
            self.cluster.revive();
            self.monitor.look(&self.cluster.control());
            self.monitor.look_at_data(&self.cluster);
        }
    }

    pub(super) async fn sleep_ms(&mut self, ms: u64) {
        let until = Instant::now() + Duration::from_millis(ms);
        while Instant::now() < until {
            self.look().await;
        }
    }

    /// Waits until something holds of the newest state; says whether it came to that.
    pub(super) async fn wait(&mut self, bound: Duration, holds: impl Fn(&Self, &Metadata) -> bool) -> bool {
        let until = Instant::now() + bound;
        loop {
            if self.cluster.newest_state().is_some_and(|state| holds(self, &state)) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            self.look().await;
        }
    }

    /// An operator asks until he is answered.
    pub(super) async fn ask(&mut self, ask: Ask) -> Step<crate::api::Reply> {
        let cluster = self.cluster.clone();
        let answered = |reply: &crate::api::Reply| reply.status < 500;
        let told = format!("{ask:?}");
        match cluster.insist_for(&ask, REACHED_WITHIN, answered).await {
            Some(reply) => Ok(reply),
            None => broken("an operator is answered", told),
        }
    }

    /// A founded cluster with all copies, and clients at work.
    async fn found(&mut self) -> Step {
        let founded = self
            .wait(REACHED_WITHIN, |rig, state| state.num_nodes() == DATA_NODES && rig.unrest(state).is_none())
            .await;
        if !founded {
            return broken("the cluster is founded", self.told());
        }
        let policy = RebalancePolicy {
            // What is levelled is not what is tested here.
            enabled: false,
            max_migrations: if self.cell.stage == Stage::Queued { 1 } else { 8 },
            down_grace_ms: 500,
            phase_timeout_ms: 5_000,
            mass_failure_hold_ms: 500,
            ..RebalancePolicy::default()
        };
        let ask = Ask::write(Method::PUT, "/v1/rebalance/policy", to_value(policy).ok());
        self.ask(ask).await?;
        for n in 1..=CLIENTS {
            let own = |key: &&PlacedKey| key.owner.is_none_or(|owner| owner == n);
            let keys = self.keys.iter().filter(own).cloned().collect();
            self.clients.push(DataClient::start(n, &self.data, keys, self.cluster.world.chance.fork()));
        }
        self.sleep_ms(200).await;
        Ok(())
    }

    /// Brings the migration to its phase, where it stays until the gate is opened.
    async fn begin(&mut self) -> Step {
        let Some(state) = self.cluster.newest_state() else { return broken("a state", "there is none") };
        let Some(parties) = state.shard(SHARDS.0).and_then(|row| parties(self.cell.kind, &state, row)) else {
            return broken("there are parties", self.told());
        };
        self.parties = Some(parties.clone());
        self.cluster.world.net.withhold(Some(withheld(self.cell.stage, parties.to.clone())));
        if self.cell.stage == Stage::Queued {
            let row = state.shard(SHARDS.1);
            let avoided = [Some(&parties.primary), parties.from.as_ref(), parties.to.as_ref()];
            let Some((from, to)) = row.and_then(|row| bystanders(&state, row, &avoided)) else {
                return broken("there are bystanders", self.told());
            };
            let id = self.migrate(SHARDS.1, Kind::MoveReplica, Some(from), Some(to)).await?;
            self.reach(id, Phase::Preparing).await?;
        }
        let (kind, from, to) = (self.cell.kind, parties.from, parties.to);
        let epoch = state.shard(SHARDS.0).map(|row| row.epoch).unwrap_or_default();
        let id = self.migrate(SHARDS.0, kind, from, to).await?;
        self.migration = Some(id);
        self.witness.watch(Watched { id, kind, epoch });
        match self.cell.stage {
            Stage::Queued => self.reach(id, Phase::Queued).await?,
            Stage::Preparing => self.reach(id, Phase::Preparing).await?,
            Stage::Copying => self.reach(id, Phase::Copying).await?,
            Stage::Admitting => self.reach(id, Phase::Admitting).await?,
            Stage::HandingOver => self.reach(id, Phase::HandingOver).await?,
            Stage::CleaningDone => self.reach(id, Phase::Done).await?,
            Stage::CleaningAborted => {
                self.reach(id, Phase::Copying).await?;
                self.ask(Ask::write(Method::DELETE, format!("/v1/migrations/{id}"), None)).await?;
                self.reach(id, Phase::Aborted).await?;
            }
        }
        let held = |rig: &Self, _: &Metadata| {
            rig.cell.stage == Stage::Queued || !rig.cluster.world.net.kept_reports().is_empty()
        };
        if !self.wait(REACHED_WITHIN, held).await {
            return broken("the phase's report is sent", self.told());
        }
        Ok(())
    }

    async fn reach(&mut self, id: MigrationId, phase: Phase) -> Step {
        let is_there =
            move |_: &Self, state: &Metadata| state.migration(id).is_some_and(|m| m.phase == phase);
        if self.wait(REACHED_WITHIN, is_there).await {
            return Ok(());
        }
        broken("the phase is reached", format!("{phase:?}: {}", self.told()))
    }

    /// Queues a migration, as an operator's request would.
    pub(super) async fn migrate(
        &mut self,
        shard: ShardId,
        kind: Kind,
        from: Option<NodeId>,
        to: Option<NodeId>,
    ) -> Step<MigrationId> {
        let reason = "asked for by an operator".to_owned();
        let asked = NewMigration { shard, kind: Some(kind.asked()), from, to, if_epoch: None, reason };
        let command = Command::Migrate { migrations: vec![asked], plan: None };
        let envelope = Envelope { version: COMMAND_VERSION, actor: "client".to_owned(), key: None, command };
        let Some(live) = self.cluster.leader().and_then(|leader| leader.live()) else {
            return broken("somebody leads", self.told());
        };
        match propose(&live.node, &envelope).await {
            Ok(outcome) => match outcome.result {
                Ok(Answer::Migrations { started, .. }) => match started.into_iter().next() {
                    Some(Ok(id)) => Ok(id),
                    other => broken("a migration is queued", format!("{other:?}; {}", self.told())),
                },
                other => broken("a migration is queued", format!("{other:?}")),
            },
            Err(error) => broken("a migration is queued", error.to_string()),
        }
    }

    /// The shard is no worse for it: its primary moves once more.
    async fn migrate_again(&mut self) -> Step {
        let state = self.cluster.newest_state();
        let row = state.as_ref().and_then(|state| Some((state.clone(), state.shard(SHARDS.0)?.clone())));
        let Some((state, row)) = row else { return broken("a state", "there is none") };
        let free = |node: &&ruvector_cluster::metadata::NodeRow| {
            row.role_of(&node.id).is_none() && state.is_alive(&node.id)
        };
        let to = state.nodes().find(free).map(|node| node.id.clone());
        let id = self.migrate(SHARDS.0, Kind::MovePrimary, row.primary.clone(), to).await?;
        self.reach(id, Phase::Done).await?;
        match self.rest_within(REST_WITHIN).await {
            Some(why) => broken("a later migration comes to rest", format!("{why}; {}", self.told())),
            None => Ok(()),
        }
    }

    async fn read_back(&mut self) -> Step {
        for client in std::mem::take(&mut self.clients) {
            client.stop().await;
        }
        let chance = self.cluster.world.chance.fork();
        let (data, keys) = (self.data.clone(), self.keys.clone());
        let reading = read_all(LAST_CLIENT, &data, keys, chance, REACHED_WITHIN);
        let read = reading.await;
        self.witness.look_at_disks();
        self.monitor.look_at_rest(&self.cluster.control());
        read.or_else(|unread| broken("everything can be read", unread))
    }
}

/// Which reports end the stage.
fn withheld(stage: Stage, to: Option<NodeId>) -> Withheld {
    let done =
        |report: &Report, shard, phase| report.shard == shard && report.done && report.phase == Some(phase);
    Arc::new(move |report| match stage {
        Stage::Queued => done(report, SHARDS.1, Phase::Preparing),
        Stage::Preparing => done(report, SHARDS.0, Phase::Preparing),
        Stage::Copying => done(report, SHARDS.0, Phase::Copying),
        Stage::Admitting => report.in_sync_set.as_ref().is_some_and(|set| {
            report.shard == SHARDS.0 && set.members.iter().any(|member| Some(&member.node) == to.as_ref())
        }),
        Stage::HandingOver => done(report, SHARDS.0, Phase::HandingOver),
        Stage::CleaningDone => report.shard == SHARDS.0 && report.retired,
        Stage::CleaningAborted => {
            report.shard == SHARDS.0 && (report.retired || done(report, SHARDS.0, Phase::Copying))
        }
    })
}

fn rack(state: &Metadata, node: &NodeId) -> Option<String> {
    state.node(node).and_then(|row| row.rack.clone())
}

/// A node without a copy on the rack of `copy`: the plan finds nothing to put right after such a move.
fn neighbour(state: &Metadata, shard: &ShardRow, copy: &NodeId) -> Option<NodeId> {
    let mut nodes = state.nodes().map(|row| &row.id);
    nodes.find(|node| shard.role_of(node).is_none() && rack(state, node) == rack(state, copy)).cloned()
}

fn parties(kind: Kind, state: &Metadata, shard: &ShardRow) -> Option<Parties> {
    let primary = shard.primary.clone()?;
    let replica = shard.replicas.first()?.clone();
    let (from, to) = match kind {
        Kind::MovePrimary => (Some(primary.clone()), Some(neighbour(state, shard, &primary)?)),
        Kind::MoveReplica => (Some(replica.clone()), Some(neighbour(state, shard, &replica)?)),
        Kind::Promote => (Some(primary.clone()), Some(replica)),
        Kind::Add => (None, Some(neighbour(state, shard, &replica)?)),
        Kind::Remove => (Some(replica), None),
    };
    Some(Parties { primary, from, to })
}

/// A replica and where it may go, apart from whom the cell is about as far as that can be.
fn bystanders(state: &Metadata, shard: &ShardRow, avoided: &[Option<&NodeId>]) -> Option<(NodeId, NodeId)> {
    let pair = |from: &NodeId| Some((from.clone(), neighbour(state, shard, from)?));
    let pairs = shard.replicas.iter().filter_map(pair);
    let met = |(from, to): &(NodeId, NodeId)| {
        avoided.iter().flatten().filter(|avoided| **avoided == from || **avoided == to).count()
    };
    pairs.min_by_key(met)
}
