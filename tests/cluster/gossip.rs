//! Gossip between real processes: whoever knows one address finds all, and a node that the leader can't hear is heard of by others.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path as Part, State};
use axum::routing::post;
use bytes::Bytes;
use ruvector_cluster::client::control::{
    Body as AnswerBody, ControlClient, ControlOptions, Exchange, ExchangeError, Http,
};
use ruvector_cluster::client::gossip::Reach;
use ruvector_cluster::client::ids::{NodeId, Thousandths};
use ruvector_cluster::client::node::{
    DataNode, MAX_PEER_BODY_BYTES, NodeConfig, NodeGossip, Row, ShardStore, Stamp, StoreFault, View,
};
use ruvector_cluster::client::replica::{Key, Value};
use ruvector_cluster::client::wire::{Explanation, Health, Node, NodeStatus, Plan, RebalancePolicy};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::ports::PortPair;
use crate::support::process::{Process, program};
use crate::support::{Api, ControlCluster, DEADLINE, Options, wait_for};

/// A short data node as a process, which is given one address.
struct Short {
    name: String,
    ports: PortPair,
    process: Option<Process>,
}

impl Short {
    fn start(cluster: &ControlCluster, name: &str, seed: &str) -> Self {
        let folder = cluster.folder().join(name);
        let ports = PortPair::reserve();
        let args = [name, &ports.addr(), folder.to_str().unwrap(), seed].map(str::to_owned);
        let process = Process::spawn(name, &program("data-node"), &args, &folder.with_extension("log"));
        Self { name: name.to_owned(), ports, process: Some(process) }
    }

    fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }
}

/// The value of a metric line.
async fn metric(api: &Api, line: &str) -> Result<u64, String> {
    let text = api.get("/metrics").await?.body;
    let text = text.as_str().ok_or("no text")?.to_owned();
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
    value.ok_or_else(|| format!("no {line}"))
}

/// Waits until every running control node hears so many members of both kinds.
async fn wait_for_members(cluster: &ControlCluster, control: u64, data: u64) {
    wait_for(
        &format!("{control} control nodes and {data} data nodes in all gossips"),
        DEADLINE,
        async || {
            for node in cluster.running() {
                let api = cluster.api(node);
                let controls = metric(&api, "ruvector_cluster_gossip_members{kind=\"control\"}").await?;
                let datas = metric(&api, "ruvector_cluster_gossip_members{kind=\"data\"}").await?;
                if (controls, datas) != (control, data) {
                    return Err(format!("n{} hears {controls} and {datas}", node + 1));
                }
            }
            Ok(())
        },
    )
    .await;
}

async fn wait_for_alive(cluster: &ControlCluster, nodes: u64) {
    wait_for(&format!("{nodes} data nodes alive, and no shard without copies"), DEADLINE, async || {
        let health: Health = cluster.any().get_as("/v1/health").await?;
        let is_whole = health.shards.active == health.shards.total;
        if health.healthy_nodes == nodes && is_whole { Ok(()) } else { Err(format!("{health:?}")) }
    })
    .await;
}

/// Events of a kind, of all or of one node.
async fn events(cluster: &ControlCluster, kind: &str, node: Option<&str>) -> usize {
    let all: serde_json::Value =
        wait_for("events", DEADLINE, async || cluster.any().get_as("/v1/events?limit=1000").await).await;
    let is_meant =
        |event: &&serde_json::Value| event["kind"] == kind && node.is_none_or(|node| event["node"] == node);
    all["events"].as_array().unwrap().iter().filter(is_meant).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_control_nodes_and_twenty_data_nodes_find_each_other_from_one_seed_each_and_outlive_it() {
    let options = Options { one_seed: true, ..Options::default() };
    let mut cluster = ControlCluster::start_with(options.flags(&["--replication-factor", "2"])).await;
    let seed = cluster.addr(0);
    let mut nodes: Vec<Short> = Vec::new();
    for n in 1..=20 {
        // Half of them are given a data node's address: the one before, which may not have begun yet.
        let given = match nodes.last() {
            Some(before) if n % 2 == 0 => before.ports.addr(),
            _ => seed.clone(),
        };
        nodes.push(Short::start(&cluster, &format!("d{n:02}"), &given));
    }
    wait_for_alive(&cluster, 20).await;
    wait_for_members(&cluster, 3, 20).await;

    let downs = events(&cluster, "node_down", None).await;
    cluster.kill(0);
    cluster.wait_for_leader().await;
    let given = nodes[1].ports.addr();
    nodes.push(Short::start(&cluster, "d21", &given));
    wait_for_alive(&cluster, 21).await;
    wait_for_members(&cluster, 2, 21).await;

    // A control node that is given a data node's address joins the cluster that this one is of.
    let ports = PortPair::reserve();
    let folder = cluster.folder().join("n4");
    let flags = ["server", "--node-id", "n4", "--listen", &ports.addr(), "--seeds", &nodes[3].ports.addr()];
    let flags = flags.into_iter().chain(["--data-dir", folder.to_str().unwrap()]).map(str::to_owned);
    let args: Vec<String> = flags.collect();
    let _fourth = Process::spawn("n4", &program("ruvector-cluster"), &args, &folder.with_extension("log"));
    wait_for("n4 to be a member", DEADLINE, async || {
        let view = cluster.view(1).await?;
        let is_in = view.members.iter().any(|member| member.id.as_str() == "n4");
        if is_in { Ok(()) } else { Err(format!("{:?}", view.members)) }
    })
    .await;
    wait_for_members(&cluster, 3, 21).await;
    assert_eq!(events(&cluster, "node_down", None).await, downs, "nobody was missed");
}

/// Rows in memory: what is asked here is not what a disk keeps.
struct Memory(Mutex<std::collections::BTreeMap<Key, Row>>);

impl ShardStore for Memory {
    type Options = ();
    type Query = ();
    type Found = ();

    fn open(_path: &Path, (): &()) -> Result<Self, StoreFault> {
        Ok(Self(Mutex::default()))
    }

    fn stamps(&self) -> Result<Vec<Stamp>, StoreFault> {
        let stamp =
            |row: &Row| Stamp { key: row.key.clone(), position: row.position, bytes: row.value.len() as u64 };
        Ok(self.0.lock().unwrap().values().map(stamp).collect())
    }

    fn get(&self, key: &str) -> Result<Option<Value>, StoreFault> {
        Ok(self.0.lock().unwrap().values().find(|row| &*row.key == key).map(|row| row.value.clone()))
    }

    fn write(&self, put: &[Row], remove: &[Key]) -> Result<(), StoreFault> {
        let mut rows = self.0.lock().unwrap();
        rows.extend(put.iter().map(|row| (row.key.clone(), row.clone())));
        remove.iter().for_each(|key| drop(rows.remove(key)));
        Ok(())
    }

    fn search(_view: &View<'_, Self>, (): &()) -> Result<(), StoreFault> {
        Ok(())
    }
}

/// Addresses (`host:port`) that what a node sends does not come to; what they send comes to it.
#[derive(Clone)]
struct Cuts(Arc<watch::Sender<Cut>>);

#[derive(Default)]
struct Cut {
    requests: BTreeSet<String>,
    datagrams: BTreeSet<String>,
    all_datagrams: bool,
}

impl Cuts {
    fn set(&self, change: impl FnOnce(&mut Cut)) {
        self.0.send_modify(change);
    }

    fn reach(&self) -> Reach {
        let cuts = self.clone();
        Reach::new(move |to| {
            let cut = cuts.0.borrow();
            !cut.all_datagrams && !cut.datagrams.contains(&to.to_string())
        })
    }
}

/// Requests over the cut links come there once these have healed, as packets that are sent again do.
struct CutExchange {
    cuts: Cuts,
    http: Arc<dyn Exchange>,
}

#[async_trait]
impl Exchange for CutExchange {
    async fn exchange(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<AnswerBody>, ExchangeError> {
        let to = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let is_whole = |cut: &Cut| !cut.requests.contains(&to);
        self.cuts.0.subscribe().wait_for(is_whole).await.map_err(|error| ExchangeError(error.to_string()))?;
        self.http.exchange(request).await
    }
}

/// A data node in this process, whose links can be cut one way.
struct Embedded {
    cuts: Cuts,
    stop: CancellationToken,
    running: JoinHandle<()>,
    _ports: PortPair,
}

async fn peer(
    State(node): State<DataNode<Memory>>,
    Part(path): Part<String>,
    body: Bytes,
) -> http::Response<Body> {
    node.answer(&path, &body).await.map(Body::from)
}

impl Embedded {
    async fn start(cluster: &ControlCluster, name: &str) -> Self {
        let (ports, stop) = (PortPair::reserve(), CancellationToken::new());
        let cuts = Cuts(Arc::new(watch::Sender::new(Cut::default())));
        let listener = tokio::net::TcpListener::bind(ports.addr()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let options = ControlOptions::new(vec![cluster.addr(0)]);
        let http = Arc::new(Http::new(options.attempt_timeout_ms).unwrap());
        let control =
            ControlClient::over(options, Arc::new(CutExchange { cuts: cuts.clone(), http })).unwrap();
        let folder = cluster.folder().join(name);
        let mut config =
            NodeConfig::new(NodeId::new(name).unwrap(), addr.to_string(), [cluster.addr(0)], folder);
        config.gossip = Some(NodeGossip { listen: addr, reach: cuts.reach() });
        let (node, task) = DataNode::<Memory>::open_under(control, config, ()).await.unwrap();
        let app = Router::new()
            .route("/peer/v1/{*path}", post(peer))
            .layer(DefaultBodyLimit::max(MAX_PEER_BODY_BYTES))
            .with_state(node);
        let server = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
        let shutdown = stop.clone();
        let running = tokio::spawn(async move { task.run(shutdown, server).await.unwrap() });
        Self { cuts, stop, running, _ports: ports }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop.cancel();
        self.running.abort();
    }
}

async fn wait_for_node(
    cluster: &ControlCluster,
    name: &str,
    what: &str,
    holds: impl Fn(&Node) -> bool,
) -> Node {
    wait_for(&format!("{name} {what}"), DEADLINE, async || {
        let node: Node = cluster.any().get_as(&format!("/v1/nodes/{name}")).await?;
        if holds(&node) { Ok(node) } else { Err(format!("{node:?}")) }
    })
    .await
}

async fn has_reason(cluster: &ControlCluster, code: &str) -> Result<Option<String>, String> {
    let health: Health = cluster.any().get_as("/v1/health").await?;
    Ok(health.reasons.into_iter().find(|reason| reason.code == code).map(|reason| reason.detail))
}

/// Copies are rebuilt soon after their node is down, and two of six that are down are no partition.
async fn rebuild_soon(cluster: &ControlCluster) {
    let policy = RebalancePolicy {
        down_grace_ms: 500,
        mass_failure_share: Thousandths::ONE,
        ..RebalancePolicy::default()
    };
    let body = serde_json::to_value(policy).unwrap();
    cluster.any().put_as::<RebalancePolicy>("/v1/rebalance/policy", &body).await.unwrap();
}

/// What it sends the leader gets lost, and comes by way of another: nothing happens.
async fn a_cut_from_the_leader_alone_does_nothing(cluster: &ControlCluster, node: &Embedded) {
    let leader = cluster.wait_for_leader().await;
    node.cuts.set(|cut| {
        cut.requests = BTreeSet::from([cluster.addr(leader)]);
        cut.datagrams = BTreeSet::from([cluster.peer_addr(leader)]);
    });
    let before = wait_for_node(cluster, "d0", "is heard", |node| node.last_heartbeat.is_some()).await;
    let heard = before.last_heartbeat.unwrap();
    // Longer than a lease and the grace together.
    let after = wait_for_node(cluster, "d0", "is heard for another while", |node| {
        node.last_heartbeat.is_some_and(|last| (last - heard).num_milliseconds() > 4_000)
    })
    .await;
    assert_eq!((after.status, after.heard_by_gossip), (NodeStatus::Alive, Some(true)));
    assert_eq!((after.primaries, after.shards), (before.primaries, before.shards));
    assert_eq!(events(cluster, "node_down", Some("d0")).await, 0);
}

/// No control node gets its requests, and the leader nothing at all; others hear it.
async fn while_others_hear_it_its_primaries_fail_over_and_its_copies_stay(
    cluster: &ControlCluster,
    node: &Embedded,
    other: &mut Short,
) {
    let leader = cluster.wait_for_leader().await;
    node.cuts.set(|cut| {
        cut.requests = (0..cluster.len()).map(|node| cluster.addr(node)).collect();
        cut.datagrams = BTreeSet::from([cluster.peer_addr(leader)]);
    });
    let down = wait_for_node(cluster, "d0", "is down, its primaries elsewhere", |node| {
        node.status == NodeStatus::Down && node.primaries == 0
    })
    .await;
    assert!(!down.shards.is_empty());
    assert_eq!(down.heard_by_gossip, Some(true));
    let detail = wait_for("heard_by_others in the health", DEADLINE, async || {
        has_reason(cluster, "heard_by_others").await?.ok_or("no such reason".to_owned())
    })
    .await;
    assert!(detail.contains("while others do: d0;"), "{detail}");
    assert_eq!(metric(&cluster.any(), "ruvector_cluster_data_nodes_heard_by_others").await, Ok(1));

    // Another node that dies after it is rebuilt: so the grace has passed for this one too, and rebuilding works.
    other.kill();
    wait_for_node(cluster, &other.name, "is rebuilt on others", |node| {
        node.status == NodeStatus::Down && node.shards.is_empty()
    })
    .await;
    let still = wait_for_node(cluster, "d0", "is down", |node| node.status == NodeStatus::Down).await;
    assert_eq!(still.shards, down.shards, "none of its copies was rebuilt");
    let path = format!("/v1/shards/{}/explain", still.shards[0]);
    let told: Explanation = cluster.any().get_as(&path).await.unwrap();
    assert!(told.waits.iter().any(|wait| wait.code == "heard_by_others"), "{told:?}");
    let plan: Plan = cluster.any().post_as("/v1/rebalance", &json!({"dry_run": true})).await.unwrap();
    let is_off_it = |from: &Option<NodeId>| from.as_ref().is_some_and(|from| from.as_str() == "d0");
    assert!(!plan.moves.iter().any(|step| is_off_it(&step.from)), "{plan:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_the_leader_can_not_hear_is_not_rebuilt_while_others_hear_it() {
    let cluster = ControlCluster::start_with(Options::default()).await;
    let mut others: Vec<Short> =
        (1..=5).map(|n| Short::start(&cluster, &format!("d{n}"), &cluster.addr(n % 3))).collect();
    let node = Embedded::start(&cluster, "d0").await;
    wait_for_alive(&cluster, 6).await;
    wait_for_members(&cluster, 3, 6).await;
    rebuild_soon(&cluster).await;

    a_cut_from_the_leader_alone_does_nothing(&cluster, &node).await;
    while_others_hear_it_its_primaries_fail_over_and_its_copies_stay(&cluster, &node, &mut others[0]).await;

    // The cut heals.
    node.cuts.set(|cut| *cut = Cut::default());
    wait_for_node(&cluster, "d0", "is back", |node| node.status == NodeStatus::Alive).await;
    wait_for("nothing heard by others alone", DEADLINE, async || {
        has_reason(&cluster, "heard_by_others").await?.map_or(Ok(()), Err)
    })
    .await;
    wait_for_alive(&cluster, 5).await;

    // Nobody hears it any more.
    node.cuts.set(|cut| {
        cut.requests = (0..cluster.len()).map(|node| cluster.addr(node)).collect();
        cut.all_datagrams = true;
    });
    wait_for_node(&cluster, "d0", "is rebuilt on others", |node| {
        node.status == NodeStatus::Down && node.heard_by_gossip == Some(false) && node.shards.is_empty()
    })
    .await;
    wait_for_alive(&cluster, 4).await;
}
