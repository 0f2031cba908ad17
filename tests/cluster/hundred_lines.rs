//! The data node of a hundred lines (examples/data-node) keeps what the library promises for it, under three real control nodes.

use std::path::PathBuf;

use ruvector_cluster::client::wire::ShardMap;
use serde_json::{Value, json};

use crate::support::ports::PortPair;
use crate::support::process::{Process, program};
use crate::support::{Api, ControlCluster, DEADLINE, Options, wait_for};

const VECTORS: usize = 60;

struct Node {
    name: String,
    ports: PortPair,
    folder: PathBuf,
    process: Option<Process>,
}

impl Node {
    fn start(cluster: &ControlCluster, name: &str) -> Self {
        let folder = cluster.folder().join(name);
        let mut node = Self { name: name.to_owned(), ports: PortPair::reserve(), folder, process: None };
        node.spawn(cluster);
        node
    }

    fn spawn(&mut self, cluster: &ControlCluster) {
        let args = [&self.name, &self.ports.addr(), self.folder.to_str().unwrap(), &cluster.addrs()];
        let args = args.map(str::to_owned);
        let log = self.folder.with_extension("log");
        self.process = Some(Process::spawn(&self.name, &program("data-node"), &args, &log));
    }

    fn api(&self) -> Api {
        Api::new(&self.ports.addr())
    }

    async fn write(&self, n: usize) {
        wait_for(&format!("vector v{n} to be written"), DEADLINE, async || {
            let answer = self.api().send("PUT", &format!("/vectors/v{n}"), &[], Some(&vector(n))).await?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }

    async fn assert_has(&self, vectors: usize) {
        for n in 0..vectors {
            let found = wait_for(&format!("vector v{n} of {}", self.name), DEADLINE, async || {
                self.api().get_as::<Value>(&format!("/vectors/v{n}")).await
            })
            .await;
            assert_eq!(found, vector(n));
        }
        let query = json!([[0.25, 1.0], 3]);
        let nearest: Value = self.api().post_as("/search", &query).await.unwrap();
        assert_eq!(nearest, json!([[0.25, "v0"], [0.75, "v1"], [1.75, "v2"]]), "{}", self.name);
    }
}

fn vector(n: usize) -> Value {
    json!([n as f64, 1.0])
}

async fn only_what_is_asked_for_moves(api: &Api) {
    api.post_as::<Value>("/v1/rebalance/pause", &json!({})).await.unwrap();
    wait_for("what moves already to end", DEADLINE, async || {
        let active: Value = api.get_as("/v1/migrations?active=true").await?;
        if active["migrations"] == json!([]) { Ok(()) } else { Err(active.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_node_of_a_hundred_lines_is_replicated_moved_and_failed_over() {
    let options = Options::default().shards(4).flags(&["--replication-factor", "2"]);
    let cluster = ControlCluster::start_with(options).await;
    let mut nodes: Vec<Node> = ["d1", "d2", "d3"].map(|name| Node::start(&cluster, name)).into();
    cluster.wait_for_healthy(3).await;
    for n in 0..VECTORS / 2 {
        nodes[n % 3].write(n).await;
    }
    let api = cluster.any();
    only_what_is_asked_for_moves(&api).await;
    let map: ShardMap = cluster.map().await;
    for (shard, row) in map.shards.iter().enumerate() {
        let has = |id: &str| row.in_sync.iter().any(|node| node.as_str() == id);
        let to = nodes.iter().find(|node| !has(&node.name)).unwrap();
        let asked: Value =
            api.post_as("/v1/migrations", &json!({"shard": shard, "to": to.name})).await.unwrap();
        let ended: Value =
            api.get_as(&format!("/v1/migrations/{}?wait_ms=30000", asked["id"])).await.unwrap();
        assert_eq!(ended["phase"], "done", "{ended}");
    }
    for n in VECTORS / 2..VECTORS {
        nodes[n % 3].write(n).await;
    }
    for node in &nodes {
        node.assert_has(VECTORS).await;
    }
    nodes[0].process.take().unwrap().kill();
    for node in &nodes[1..] {
        node.assert_has(VECTORS).await;
    }
    nodes[0].spawn(&cluster);
    cluster.wait_for_healthy(3).await;
    nodes[0].assert_has(VECTORS).await;
}
