//! Control nodes as processes.

use std::path::{Path, PathBuf};

use ruvector_cluster::client::wire::{ClusterView, Health, HealthStatus, ShardMap};
use tempfile::TempDir;

use super::http::Api;
use super::ports::PortPair;
use super::process::{Process, program};
use super::wait::{DEADLINE, wait_for};

/// How a test's cluster is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Control nodes.
    pub count: usize,
    /// Shards.
    pub num_shards: u32,
    /// More flags, for all of them.
    pub flags: Vec<String>,
    /// Each is given the first one's address as its only seed.
    pub one_seed: bool,
}

impl Default for Options {
    fn default() -> Self {
        // Data nodes fail faster than by default, so that a test that waits for it ends sooner.
        let flags = ["--failure-timeout", "2500ms", "--heartbeat-interval", "300ms"];
        Self { count: 3, num_shards: 16, flags: flags.map(str::to_owned).to_vec(), one_seed: false }
    }
}

impl Options {
    /// The same with so many shards.
    pub fn shards(self, num_shards: u32) -> Self {
        Self { num_shards, ..self }
    }

    /// The same with more flags.
    pub fn flags(mut self, more: &[&str]) -> Self {
        self.flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        self
    }
}

struct ControlNode {
    name: String,
    ports: PortPair,
    process: Option<Process>,
}

/// A control cluster; its processes die and its files go with it.
pub struct ControlCluster {
    nodes: Vec<ControlNode>,
    options: Options,
    // Dropped behind the processes.
    folder: TempDir,
}

impl ControlCluster {
    /// Names and ports, nothing running yet.
    pub fn prepare(options: Options) -> Self {
        let nodes = (1..=options.count)
            .map(|n| ControlNode { name: format!("n{n}"), ports: PortPair::reserve(), process: None })
            .collect();
        Self { nodes, options, folder: tempfile::tempdir().unwrap() }
    }

    /// `count` control nodes with a leader.
    pub async fn start(count: usize) -> Self {
        Self::start_with(Options { count, ..Options::default() }).await
    }

    /// A cluster with a leader.
    pub async fn start_with(options: Options) -> Self {
        let mut cluster = Self::prepare(options);
        for node in 0..cluster.nodes.len() {
            cluster.spawn(node);
        }
        cluster.wait_for_leader().await;
        cluster
    }

    /// Starts control node `node` (again), with the flags of all.
    pub fn spawn(&mut self, node: usize) {
        self.spawn_with(node, &[]);
    }

    /// Starts it with more flags.
    pub fn spawn_with(&mut self, node: usize, more: &[&str]) {
        let args = self.args(node, more);
        let log = self.folder.path().join(format!("{}.log", self.nodes[node].name));
        let node = &mut self.nodes[node];
        assert!(node.process.is_none(), "{} runs", node.name);
        let program = program("ruvector-cluster");
        node.process = Some(Process::spawn(&node.name, &program, &args, &log));
    }

    fn args(&self, node: usize, more: &[&str]) -> Vec<String> {
        let mut args: Vec<String> = vec!["server".into()];
        args.extend(self.server_flags(node));
        args.extend(more.iter().map(|flag| (*flag).to_owned()));
        args
    }

    /// The flags that control node `node` is started with.
    pub fn server_flags(&self, node: usize) -> Vec<String> {
        let seeds = if self.options.one_seed { &self.nodes[..1] } else { &self.nodes[..] };
        let seeds: Vec<String> = seeds.iter().map(|node| node.ports.addr()).collect();
        let mut args: Vec<String> = Vec::new();
        let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
        flag("--node-id", self.nodes[node].name.clone());
        flag("--listen", self.nodes[node].ports.addr());
        flag("--data-dir", self.data_dir(node).to_str().unwrap().to_owned());
        flag("--seeds", seeds.join(","));
        flag("--num-shards", self.options.num_shards.to_string());
        if self.options.one_seed {
            flag("--bootstrap-expect", self.options.count.to_string());
        }
        args.extend(self.options.flags.iter().cloned());
        args
    }

    /// A name, ports and an empty directory for one more; all that are started from now on know its address.
    pub fn add(&mut self) -> usize {
        let name = format!("n{}", self.nodes.len() + 1);
        self.nodes.push(ControlNode { name, ports: PortPair::reserve(), process: None });
        self.nodes.len() - 1
    }

    /// What `POST /v1/members` is told of control node `node`.
    pub fn as_member(&self, node: usize) -> serde_json::Value {
        serde_json::json!({
            "id": self.nodes[node].name,
            "client_url": format!("http://{}", self.addr(node)),
            "peer_url": format!("http://{}", self.peer_addr(node)),
        })
    }

    /// Where control node `node` keeps its files.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.folder.path().join(&self.nodes[node].name)
    }

    /// A folder that goes with the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Every control node's address, separated by commas.
    pub fn addrs(&self) -> String {
        let addrs: Vec<String> = self.nodes.iter().map(|node| node.ports.addr()).collect();
        addrs.join(",")
    }

    /// The address of control node `node`.
    pub fn addr(&self, node: usize) -> String {
        self.nodes[node].ports.addr()
    }

    /// Where control node `node` hears its peers, and gossips.
    pub fn peer_addr(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[node].ports.port + 1_000)
    }

    /// How many control nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Control nodes that were started and not killed.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].process.is_some()).collect()
    }

    /// The API of control node `node`.
    pub fn api(&self, node: usize) -> Api {
        Api::new(&self.nodes[node].ports.addr())
    }

    /// The API of some running control node.
    pub fn any(&self) -> Api {
        self.api(*self.running().first().expect("no control node runs"))
    }

    /// The process of control node `node`.
    pub fn process(&mut self, node: usize) -> &mut Process {
        self.nodes[node].process.as_mut().expect("it runs")
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].process.take().expect("it runs").kill();
    }

    /// Forgets a process that has ended by itself.
    pub fn forget(&mut self, node: usize) {
        self.nodes[node].process = None;
    }

    /// What control node `node` says of the cluster, asked for what it has applied itself.
    pub async fn view(&self, node: usize) -> Result<ClusterView, String> {
        self.api(node).get_as("/v1/cluster?consistency=stale").await
    }

    /// The leader that every running control node agrees on.
    pub async fn leader(&self) -> Result<usize, String> {
        let mut agreed = None;
        for node in self.running() {
            let view = self.view(node).await?;
            let leader = view.leader.ok_or_else(|| format!("n{} knows none", node + 1))?;
            let index = self.nodes.iter().position(|node| node.name == leader.id.as_str());
            let index = index.ok_or_else(|| format!("{} leads, and is none of ours", leader.id))?;
            if self.nodes[index].process.is_none() {
                return Err(format!("{} is named, and dead", leader.id));
            }
            if *agreed.get_or_insert((index, view.term)) != (index, view.term) {
                return Err("they do not agree".to_owned());
            }
        }
        agreed.map(|(index, _)| index).ok_or_else(|| "none runs".to_owned())
    }

    /// Waits for that, and for a linearizable answer.
    pub async fn wait_for_leader(&self) -> usize {
        wait_for("a leader that all running control nodes agree on", DEADLINE, async || {
            let leader = self.leader().await?;
            self.api(leader).get_as::<ClusterView>("/v1/cluster").await?;
            Ok::<_, String>(leader)
        })
        .await
    }

    /// Waits until every shard has all its copies on alive nodes.
    pub async fn wait_for_healthy(&self, nodes: u64) {
        wait_for(&format!("{nodes} healthy nodes and all shards active"), DEADLINE * 2, async || {
            let health: Health = self.any().get_as("/v1/health").await?;
            let all = health.shards.active == health.shards.total && health.healthy_nodes == nodes;
            if health.status == HealthStatus::Healthy && all { Ok(()) } else { Err(format!("{health:?}")) }
        })
        .await;
    }

    /// The map, as the cluster agrees on it now.
    pub async fn map(&self) -> ShardMap {
        wait_for("the map", DEADLINE, async || self.any().get_as("/v1/map").await).await
    }
}
