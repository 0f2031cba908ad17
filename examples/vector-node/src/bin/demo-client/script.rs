//! What happens in the demo, in order, each step waited for by its condition.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use reqwest::Method;
use ruvector_cluster_client::control::{Call, ControlClient, ControlOptions};
use ruvector_cluster_client::hashing::shard_of_key;
use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::{
    ClusterView, Health, HealthStatus, Intent, LeaderInfo, MigrateRequest, Migration, Node, Phase, ShardMap,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::data::{DataClient, point};
use crate::digits::Digit;
use crate::ledger::{Gap, Ledger, Tally};
use crate::load::Load;
use crate::racks::RackWatch;
use crate::summary::Summary;
use crate::verify::verify;
use ruvector_cluster_local::narrator::{Narrator, count, spell};
use ruvector_cluster_local::processes::{CONTROL_NODES, Processes};

mod even;

/// The racks of d1 to d5, and of d6, which joins later: one more than there are copies, so that a node can leave any of them.
const RACKS: [&str; 6] = ["r1", "r2", "r3", "r4", "r1", "r2"];
/// Vector nodes at the start.
const FIRST: u16 = 5;
/// Points a request while loading.
const BATCH: usize = 100;
/// Any step that takes longer has failed.
const STEP_TIMEOUT: Duration = Duration::from_secs(90);
/// Nothing moves any more once nothing did for so long: between two plans, too, nothing may.
const AT_REST: Duration = Duration::from_millis(500);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(25);

#[derive(Deserialize)]
struct Migrations {
    migrations: Vec<Migration>,
}

/// The demo under way.
pub(crate) struct Demo<'a> {
    narrator: Narrator,
    digits: &'a [Digit],
    processes: &'a mut Processes,
    control: ControlClient,
    client: DataClient,
    tally: Tally,
    ledger: Ledger,
    racks: RackWatch,
    load: Option<Load>,
    gap: Option<Gap>,
    // Ends with the demo.
    _tasks: JoinSet<()>,
}

impl<'a> Demo<'a> {
    /// Starts the control nodes and waits for their leader.
    pub(crate) async fn start(
        narrator: Narrator,
        digits: &'a [Digit],
        processes: &'a mut Processes,
    ) -> Result<Self> {
        let coordinators = processes.coordinators();
        narrator.say(format!("3 control nodes start: {}", coordinators.join(", ")));
        for n in 1..=CONTROL_NODES {
            processes.start_control(n)?;
        }
        let control = ControlClient::new(ControlOptions::new(coordinators))?;
        let view = wait_for_leader(processes, &control, None).await?;
        let leader = view.leader.context("it was waited for")?;
        narrator.say(format!(
            "{} leads the control cluster; {} shards, {} copies each",
            leader.id, view.num_shards, view.replication_factor
        ));

        let tally = Tally::default();
        let client = DataClient::new(tally.clone(), view.num_shards)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(client.clone().follow_nodes(control.clone()));
        let racks = RackWatch::start(control.clone());
        let ledger = Ledger::default();
        Ok(Self {
            narrator,
            digits,
            processes,
            control,
            client,
            tally,
            ledger,
            racks,
            load: None,
            gap: None,
            _tasks: tasks,
        })
    }

    /// All of it, up to the summary.
    pub(crate) async fn play(mut self) -> Result<Summary> {
        self.start_vector_nodes().await.context("starting the vector nodes")?;
        self.load_digits().await.context("loading the digits")?;
        self.narrator.say("a client begins to read, write and search without pause");
        self.load = Some(Load::start(&self.client, &self.ledger, &self.tally, self.digits));
        self.join_a_node().await.context("joining a node")?;
        self.kill_the_leader().await.context("killing the leader")?;
        self.kill_a_vector_node().await.context("killing a vector node")?;
        self.migrate_a_shard().await.context("migrating a shard")?;
        self.drain_a_node().await.context("draining a node")?;
        self.heat_a_node().await.context("spreading a skewed load")?;
        self.finish().await.context("looking at what is left")
    }

    async fn start_vector_nodes(&mut self) -> Result<()> {
        let started = Instant::now();
        for n in 1..=FIRST {
            self.processes.start_vector(n, RACKS[usize::from(n) - 1])?;
        }
        self.narrator.say("5 vector nodes start: d1 and d5 in rack r1, d2 in r2, d3 in r3, d4 in r4");
        self.wait_for_rest(u64::from(FIRST)).await?;
        self.client.refresh(&self.control).await;
        self.narrator.say(format!("every shard has its copies in sync after {}", spell(started.elapsed())));
        Ok(())
    }

    async fn load_digits(&mut self) -> Result<()> {
        let started = Instant::now();
        for (turn, batch) in self.digits.chunks(BATCH).enumerate() {
            let points: Vec<Value> = batch.iter().map(point_of).collect();
            self.client.write(turn, &points).await?;
        }
        let loaded = count(self.digits.len());
        self.narrator.say(format!("{loaded} digit vectors are written in {}", spell(started.elapsed())));
        Ok(())
    }

    async fn join_a_node(&mut self) -> Result<()> {
        let started = Instant::now();
        self.processes.start_vector(6, RACKS[5])?;
        let is_there = async |control: &ControlClient| get_some::<Node>(control, "/v1/nodes/d6").await;
        self.wait("d6 to be registered", is_there).await?;
        let copies = self.copies().await?;
        self.narrator.say(format!("d6 joins, in rack r2: {copies}"));
        let holds_some = async |control: &ControlClient| {
            let node: Node = get(control, "/v1/nodes/d6").await?;
            Ok((!node.shards.is_empty()).then_some(()))
        };
        self.wait("d6 to be given a copy", holds_some).await?;
        self.wait_for_rest(6).await?;
        let node: Node = get(&self.control, "/v1/nodes/d6").await?;
        let (copies, primaries) = (node.shards.len(), node.primaries);
        let (took, now) = (spell(started.elapsed()), self.copies().await?);
        self.narrator
            .say(format!("d6 holds {copies} copies and leads {primaries} shards after {took}: {now}"));
        Ok(())
    }

    async fn kill_the_leader(&mut self) -> Result<()> {
        let old = leader_of(&get(&self.control, "/v1/cluster").await?)?;
        let started = Instant::now();
        self.processes.kill(old.id.as_str())?;
        self.narrator.say(format!("{}, the Raft leader, is killed with SIGKILL", old.id));
        let view = wait_for_leader(self.processes, &self.control, Some(&old.id)).await?;
        let new = leader_of(&view)?;
        self.narrator.say(format!("{} leads and answers after {}", new.id, spell(started.elapsed())));

        let started = Instant::now();
        self.processes.restart(old.id.as_str())?;
        let addr = old.url.trim_start_matches("http://").to_owned();
        let itself = ControlClient::new(ControlOptions::new(vec![addr]))?;
        let caught_up = async |_: &ControlClient| {
            let call = Call::get("/v1/cluster").query("consistency", "stale").within(1_000, 1_000);
            let seen = itself.send::<ClusterView>(&call).await.ok().map(|answer| answer.body);
            Ok(seen.filter(|seen| seen.revision >= view.revision))
        };
        self.wait("the killed control node to catch up", caught_up).await?;
        self.narrator.say(format!(
            "{}, started again, has caught up after {}",
            old.id,
            spell(started.elapsed())
        ));
        Ok(())
    }

    async fn kill_a_vector_node(&mut self) -> Result<()> {
        self.wait_for_rest(6).await?;
        let victim = NodeId::new("d2")?;
        let map: ShardMap = get(&self.control, "/v1/map").await?;
        let led = shards_led_by(&map, &victim);
        ensure!(!led.is_empty(), "{victim} leads no shard");
        let from = Instant::now();
        self.processes.kill(victim.as_str())?;
        self.narrator.say(format!("{victim}, which leads {} shards, is killed with SIGKILL", led.len()));
        let moved = async |control: &ControlClient| {
            let map: ShardMap = get(control, "/v1/map").await?;
            Ok(shards_led_by(&map, &victim).is_empty().then_some(()))
        };
        self.wait("the shards of the killed node to be led by others", moved).await?;
        let verdict = spell(from.elapsed());
        self.answer_for(&led, map.num_shards).await?;
        // The gap lasts until the client, too, knows that the node is down: its list of nodes trails by some 100 ms.
        self.client.refresh(&self.control).await;
        let gap = Gap { from, to: Instant::now() };
        self.gap = Some(gap);
        let answered = spell(gap.to - gap.from);
        self.narrator.say(format!(
            "in-sync copies lead them after {verdict}, and answer for all of them after {answered}"
        ));

        let started = Instant::now();
        self.processes.restart(victim.as_str())?;
        self.wait_for_rest(6).await?;
        self.narrator
            .say(format!("{victim}, started again, is in sync again after {}", spell(started.elapsed())));
        Ok(())
    }

    /// Writes one digit of each of `shards` as it is: whoever leads the shard has to answer.
    async fn answer_for(&self, shards: &[ShardId], num_shards: u32) -> Result<()> {
        let writes = shards.iter().map(|shard| {
            let digit = self.digits.iter().find(|digit| shard_of_key(&digit.id, num_shards) == *shard);
            async move {
                match digit {
                    Some(digit) => self.client.write(0, &[point_of(digit)]).await,
                    None => Ok(()),
                }
            }
        });
        try_join_all(writes).await.map(|_| ())
    }

    async fn migrate_a_shard(&mut self) -> Result<()> {
        let map: ShardMap = get(&self.control, "/v1/map").await?;
        let (shard, from, to) = a_move(&map).context("no shard's primary can move to another node")?;
        let started = Instant::now();
        let request = MigrateRequest { shard, to: to.clone(), from: None, if_epoch: None };
        let call = Call::write(Method::POST, "/v1/migrations", &request)?;
        let migration = self.control.send::<Migration>(&call).await?.body;
        self.narrator.say(format!("shard {shard} and its primaryship move from {from} to {to}"));
        let path = format!("/v1/migrations/{}", migration.id);
        let ended = async |control: &ControlClient| {
            let migration: Migration = get(control, &path).await?;
            Ok(migration.phase.is_ended().then_some(migration))
        };
        let ended = self.wait("the migration to end", ended).await?;
        ensure!(ended.phase == Phase::Done, "the migration was aborted: {:?}", ended.error);
        let map: ShardMap = get(&self.control, "/v1/map").await?;
        ensure!(shards_led_by(&map, &to).contains(&shard), "{to} does not lead shard {shard}");
        self.narrator.say(format!("{to} leads shard {shard} after {}", spell(started.elapsed())));
        Ok(())
    }

    async fn drain_a_node(&mut self) -> Result<()> {
        self.wait_for_rest(6).await?;
        let started = Instant::now();
        let before: Node = get(&self.control, "/v1/nodes/d5").await?;
        let call = Call::write(Method::POST, "/v1/nodes/d5/drain", &json!({}))?;
        self.control.send::<Value>(&call).await?;
        let (held, copies) = (before.shards.len(), self.copies().await?);
        self.narrator.say(format!("d5, which holds {held} copies, is drained; on the others {copies}"));
        let emptied = async |control: &ControlClient| {
            let node: Node = get(control, "/v1/nodes/d5").await?;
            Ok((node.intent == Intent::Drained && node.shards.is_empty()).then_some(()))
        };
        self.wait("d5 to be empty", emptied).await?;
        self.wait_for_rest(6).await?;
        let (took, copies) = (spell(started.elapsed()), self.copies().await?);
        self.narrator.say(format!("d5 holds nothing after {took}: {copies}"));
        Ok(())
    }

    async fn finish(mut self) -> Result<Summary> {
        if let Some(mut load) = self.load.take() {
            load.check()?;
            load.stop().await;
        }
        self.narrator.say("the client stops; every vector is read again");
        let totals = self.tally.totals(self.gap);
        let verified = verify(&self.client, self.digits, &self.ledger).await?;
        let end = get::<ShardMap>(&self.control, "/v1/map").await?.revision;
        let racks = &self.racks;
        let watched = async |_: &ControlClient| Ok((racks.revision() >= end).then(|| racks.result()));
        let seen =
            wait(self.processes, &mut None, &self.control, "the watch to reach the end", watched).await?;
        let (revisions, rack_violations) = seen;
        let gap = self.gap.map(|gap| gap.to - gap.from);
        Ok(Summary { verified, totals, gap, revisions, rack_violations })
    }

    /// Waits for so many alive nodes, all shards with all their copies in sync, and nothing moving for a while.
    async fn wait_for_rest(&mut self, nodes: u64) -> Result<()> {
        let mut since = Instant::now();
        let rest = async |control: &ControlClient| {
            let health: Health = get(control, "/v1/health").await?;
            let active: Migrations = get(control, "/v1/migrations?active=true").await?;
            let is_whole =
                health.status == HealthStatus::Healthy && health.shards.active == health.shards.total;
            if !is_whole || health.healthy_nodes != nodes || !active.migrations.is_empty() {
                since = Instant::now();
            }
            Ok((since.elapsed() >= AT_REST).then_some(()))
        };
        self.wait(&format!("{nodes} healthy nodes and no migration under way"), rest).await
    }

    async fn wait<T>(
        &mut self,
        what: &str,
        look: impl AsyncFnMut(&ControlClient) -> Result<Option<T>>,
    ) -> Result<T> {
        wait(self.processes, &mut self.load, &self.control, what, look).await
    }
}

/// Looks until there is something to see, as long as all processes and the load run.
async fn wait<T>(
    processes: &mut Processes,
    load: &mut Option<Load>,
    control: &ControlClient,
    what: &str,
    mut look: impl AsyncFnMut(&ControlClient) -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        processes.check()?;
        if let Some(load) = load {
            load.check()?;
        }
        if let Some(found) = look(control).await? {
            return Ok(found);
        }
        if started.elapsed() > STEP_TIMEOUT {
            let health: Value = get(control, "/v1/health").await.unwrap_or_default();
            bail!("waited {} for {what}; health is {health}", spell(STEP_TIMEOUT));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A leader that answers, and is not `old`.
async fn wait_for_leader(
    processes: &mut Processes,
    control: &ControlClient,
    old: Option<&NodeId>,
) -> Result<ClusterView> {
    wait(processes, &mut None, control, "a leader", async |control: &ControlClient| {
        let call = Call::get("/v1/cluster").within(1_000, 1_000);
        let view = control.send::<ClusterView>(&call).await.ok().map(|answer| answer.body);
        let is_new = |view: &ClusterView| view.leader.as_ref().is_some_and(|leader| Some(&leader.id) != old);
        Ok(view.filter(is_new))
    })
    .await
}

async fn get<T: DeserializeOwned>(control: &ControlClient, path: &str) -> Result<T> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut call = Call::get(path);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        call = call.query(name, value);
    }
    Ok(control.send(&call).await.with_context(|| path.to_owned())?.body)
}

/// None where the answer is 404.
async fn get_some<T: DeserializeOwned>(control: &ControlClient, path: &str) -> Result<Option<T>> {
    match control.send(&Call::get(path)).await {
        Ok(answer) => Ok(Some(answer.body)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error).with_context(|| path.to_owned()),
    }
}

fn leader_of(view: &ClusterView) -> Result<LeaderInfo> {
    view.leader.clone().context("the control cluster has no leader")
}

fn point_of(digit: &Digit) -> Value {
    point(&digit.id, &digit.vector, json!({ "digit": digit.label }))
}

fn shards_led_by(map: &ShardMap, node: &NodeId) -> Vec<ShardId> {
    let shards = (0..).map(ShardId).zip(&map.shards);
    shards.filter(|(_, shard)| shard.primary.as_ref() == Some(node)).map(|(id, _)| id).collect()
}

/// A shard, its primary, and a node without a copy whose rack holds no other copy of it.
fn a_move(map: &ShardMap) -> Option<(ShardId, NodeId, NodeId)> {
    let rack = |node: &NodeId| map.nodes.get(node).and_then(|node| node.rack.clone());
    (0..).map(ShardId).zip(&map.shards).find_map(|(id, shard)| {
        let primary = shard.primary.as_ref()?;
        let taken: Vec<_> = shard.replicas.iter().map(rack).collect();
        let is_copy = |node: &NodeId| node == primary || shard.replicas.contains(node);
        let to = map.nodes.keys().find(|node| !is_copy(node) && !taken.contains(&rack(node)))?;
        Some((id, primary.clone(), to.clone()))
    })
}
