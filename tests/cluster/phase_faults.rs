//! A migration under every fault in each of its phases, on real processes: whoever is to die does so by its own SIGKILL at a
//! fail point (client/src/fail_point.rs), at the very moment when it learns of the phase.
//!
//! Whatever happens: the migration ends, as the table expects; its slot is free; every shard has its copies again, no node
//! holds a copy that is not its own; every vector that was acknowledged is found, and writes never ceased to be taken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ruvector_cluster::client::wire::{Migration, Phase, Shard, ShardMap};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::data::DIMENSIONS;
use crate::support::{Api, ControlCluster, DEADLINE, DataNode, Options, wait_for};

const SHARDS: u32 = 4;
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(10);

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    /// The primary, which gives; it is started again at once.
    Source,
    /// The same, and it is started again only when all is over.
    SourceForLong,
    Target,
    TargetForLong,
    Both,
    BothForLong,
    /// The control cluster's.
    Leader,
    /// The leader and a follower; they are started again at once.
    Majority,
}

/// How a migration may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Done,
    Aborted,
    /// Whichever comes first: a restart or the end of a lease.
    Either,
}

/// What is expected where `dies` meets `phase`.
fn expected(phase: Phase, dies: Dies) -> Ends {
    match (dies, phase) {
        // Nobody but the control nodes takes part in it, and they go on.
        (Dies::Leader | Dies::Majority, _) => Ends::Done,
        // Before the target is in sync it can't lead. Afterwards a failover may choose it, or the hand-over end before the verdict
        // that it is down: then that one's failover follows.
        (Dies::SourceForLong | Dies::TargetForLong | Dies::BothForLong, Phase::HandingOver) => Ends::Either,
        (Dies::SourceForLong | Dies::TargetForLong | Dies::BothForLong, _) => Ends::Aborted,
        (Dies::Source | Dies::Target | Dies::Both, _) => Ends::Either,
    }
}

/// Who does not act in a phase might not even see it, so short it is: then whoever acts is held back, and where.
fn held_back<'a>(
    phase: Phase,
    dies: Dies,
    source: &'a str,
    target: &'a str,
) -> Option<(&'a str, &'static str)> {
    match (phase, dies) {
        (Phase::Copying, Dies::Source | Dies::SourceForLong) => Some((target, "hold.report.copying")),
        (Phase::Admitting, Dies::Target | Dies::TargetForLong) => Some((source, "hold.report.in_sync_set")),
        (Phase::HandingOver, Dies::Target | Dies::TargetForLong) => {
            Some((source, "hold.report.handing_over"))
        }
        _ => None,
    }
}

/// A writer that never pauses; it writes a vector until it is taken.
struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Writer {
    fn start(apis: Vec<Api>) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, done) = (stop.clone(), acknowledged.clone());
        let task = tokio::spawn(async move {
            for n in 0.. {
                let body = json!({"points": [{"id": format!("v{n}"), "vector": vector(n)}]});
                let mut tries = apis.iter().cycle();
                while tries.next().unwrap().post_as::<Value>("/v1/vectors", &body).await.is_err() {
                    tokio::time::sleep(PAUSE).await;
                }
                done.store(n + 1, Ordering::SeqCst);
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { stop, acknowledged, task }
    }

    fn count(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        self.acknowledged.load(Ordering::SeqCst)
    }
}

fn vector(n: usize) -> [f32; DIMENSIONS] {
    [n as f32, 1.0, 2.0, 3.0]
}

struct World {
    nodes: Vec<DataNode>,
    // Dropped behind the nodes, whose logs are in its folder.
    cluster: ControlCluster,
    next_shard: u32,
}

impl World {
    async fn start() -> Self {
        let flags = ["--replication-factor", "2"];
        let cluster = ControlCluster::start_with(Options::default().shards(SHARDS).flags(&flags)).await;
        let nodes: Vec<DataNode> =
            ["d1", "d2", "d3", "d4"].map(|name| DataNode::start(&cluster, name, None)).into();
        cluster.wait_for_healthy(4).await;
        // Only what a case asks for is to move.
        let api = cluster.any();
        let mut policy: Value = api.get_as("/v1/rebalance/policy").await.unwrap();
        policy["enabled"] = json!(false);
        api.put_as::<Value>("/v1/rebalance/policy", &policy).await.unwrap();
        Self { nodes, cluster, next_shard: 0 }
    }

    fn node(&mut self, name: &str) -> &mut DataNode {
        self.nodes.iter_mut().find(|node| node.name() == name).unwrap()
    }

    /// One cell of the table.
    async fn run(&mut self, phase: Phase, dies: Dies) {
        eprintln!("{dies:?} in {phase:?}");
        let shard = self.next_shard;
        self.next_shard = (shard + 1) % SHARDS;
        let map: ShardMap = self.cluster.map().await;
        let row = &map.shards[shard as usize];
        let source = row.primary.clone().unwrap().to_string();
        let spare = |node: &&DataNode| {
            source != node.name() && !row.replicas.iter().any(|replica| replica.as_str() == node.name())
        };
        let target = self.nodes.iter().find(spare).unwrap().name().to_owned();
        let leader = self.cluster.wait_for_leader().await;
        let controls = match dies {
            Dies::Leader => vec![leader],
            Dies::Majority => vec![leader, (leader + 1) % self.cluster.len()],
            _ => Vec::new(),
        };
        let victims: Vec<&str> = match dies {
            Dies::Source | Dies::SourceForLong => vec![&source],
            Dies::Target | Dies::TargetForLong => vec![&target],
            Dies::Both | Dies::BothForLong => vec![&source, &target],
            Dies::Leader | Dies::Majority => Vec::new(),
        };
        for node in &controls {
            self.cluster.process(*node).arm(&format!("kill.applied.{}", phase.name()));
        }
        for victim in &victims {
            self.node(victim).process().arm(&format!("kill.assigned.{}", phase.name()));
        }
        let held = held_back(phase, dies, &source, &target);
        if let Some((node, point)) = held {
            self.node(node).process().arm(point);
        }
        let asked = json!({"shard": shard, "to": target});
        let key = format!("{shard}-{}", map.revision);
        if controls.is_empty() {
            self.ask(&key, &asked).await;
        } else {
            // Whoever is asked may die before it answers.
            self.try_ask(&key, &asked).await.map_or_else(|| (), drop);
        }
        for node in &controls {
            self.cluster.process(*node).exit_status(DEADLINE).await;
            self.cluster.forget(*node);
        }
        for node in controls {
            self.cluster.spawn(node);
        }
        let id = self.ask(&key, &asked).await;
        for victim in &victims {
            self.node(victim).wait_for_death().await;
        }
        if let Some((node, point)) = held {
            self.node(node).process().disarm(point);
        }
        if matches!(dies, Dies::Source | Dies::Target | Dies::Both) {
            victims.iter().for_each(|victim| self.node(victim).spawn());
        }
        let ended = self.wait_for_end(id).await;
        self.nodes.iter_mut().filter(|node| !node.runs()).for_each(DataNode::spawn);
        let (may_be_done, may_be_aborted) = match expected(phase, dies) {
            Ends::Done => (true, false),
            Ends::Aborted => (false, true),
            Ends::Either => (true, true),
        };
        let is_expected = if ended.phase == Phase::Done { may_be_done } else { may_be_aborted };
        assert!(is_expected, "{dies:?} in {phase:?}: {ended:?}");
        assert!(ended.phase == Phase::Done || ended.error.is_some(), "it says why: {ended:?}");
        self.assert_whole(shard).await;
    }

    /// Asks for the migration, always under the same key.
    async fn ask(&self, key: &str, body: &Value) -> u64 {
        let asked = async || self.try_ask(key, body).await.ok_or("nobody takes it");
        wait_for("the migration to be taken", DEADLINE, asked).await.id.0
    }

    async fn try_ask(&self, key: &str, body: &Value) -> Option<Migration> {
        for node in self.cluster.running() {
            let (api, keyed) = (self.cluster.api(node), [("idempotency-key", key)]);
            if let Ok(answer) = api.send("POST", "/v1/migrations", &keyed, Some(body)).await
                && answer.status == 202
            {
                return answer.ok().ok();
            }
        }
        None
    }

    async fn wait_for_end(&self, id: u64) -> Migration {
        wait_for(&format!("migration {id} to end"), DEADLINE, async || {
            for node in self.cluster.running() {
                let asked = self.cluster.api(node).get_as::<Migration>(&format!("/v1/migrations/{id}")).await;
                if let Ok(row) = asked {
                    return if row.phase.is_ended() { Ok(row) } else { Err(format!("{row:?}")) };
                }
            }
            Err("nobody tells".to_owned())
        })
        .await
    }

    /// All shards are whole, nothing is under way, and each node holds what is its own and nothing else.
    async fn assert_whole(&self, shard: u32) {
        self.cluster.wait_for_healthy(4).await;
        let api = self.cluster.any();
        let row: Shard = api.get_as(&format!("/v1/shards/{shard}")).await.unwrap();
        assert!(row.learners.is_empty(), "{row:?}");
        let active: Value = api.get_as("/v1/migrations?active=true").await.unwrap();
        assert_eq!(active["migrations"], json!([]));
        let map = self.cluster.map().await;
        for node in &self.nodes {
            let is_on = |shard: &usize| {
                let row = &map.shards[*shard];
                row.primary.iter().chain(&row.replicas).any(|copy| copy.as_str() == node.name())
            };
            let own: BTreeSet<usize> = (0..map.shards.len()).filter(is_on).collect();
            wait_for(&format!("{} to hold its own copies alone", node.name()), DEADLINE, async || {
                let stats: Value = node.api().get_as("/v1/stats").await?;
                let held = stats["shards"].as_array().into_iter().flatten();
                let held: BTreeSet<usize> =
                    held.filter_map(|copy| copy["id"].as_u64()?.try_into().ok()).collect();
                if held == own { Ok(()) } else { Err(format!("it holds {held:?}, and {own:?} are its own")) }
            })
            .await;
        }
    }
}

/// Every phase under each of `faults`, while a writer goes on; afterwards every acknowledged vector is there.
async fn run_all(faults: &[Dies], phases: &[Phase]) {
    let mut world = World::start().await;
    let writer = Writer::start(world.nodes.iter().map(DataNode::api).collect());
    for phase in phases {
        for dies in faults {
            let before = writer.count();
            world.run(*phase, *dies).await;
            wait_for("writes to go on", DEADLINE, async || {
                if writer.count() > before { Ok(()) } else { Err("none was taken") }
            })
            .await;
        }
    }
    let written = writer.end().await;
    for n in 0..written {
        let node = &world.nodes[n % world.nodes.len()];
        let found =
            wait_for(&format!("vector v{n}"), DEADLINE, async || node.read(&format!("v{n}")).await).await;
        assert_eq!(found, vector(n));
    }
}

const PHASES: [Phase; 4] = [Phase::Preparing, Phase::Copying, Phase::Admitting, Phase::HandingOver];

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_ends_well_whichever_data_node_dies_in_any_phase() {
    let short = [Dies::Source, Dies::Target, Dies::Both];
    let long = [Dies::SourceForLong, Dies::TargetForLong, Dies::BothForLong];
    run_all(&[short, long].concat(), &PHASES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_done_although_the_leader_or_a_majority_dies_in_any_phase() {
    let phases = [&[Phase::Queued][..], &PHASES, &[Phase::Done]].concat();
    run_all(&[Dies::Leader, Dies::Majority], &phases).await;
}
