//! Three whole data nodes, each in a runtime of its own, under a control node whose decisions the test makes.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod coordinator;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use coordinator::Coordinator;
use ruvector_cluster_client::hashing::shard_of_key;
use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::testing::CoordinatorOptions;
use ruvector_cluster_client::wire::{Phase, Role, Shard};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vector_node::api::{IdPoint, SearchRequest, SearchResponse, Stats, WriteRequest};
use vector_node::node::{self, NodeError};
use vector_node::options::Options;

const DIMENSIONS: usize = 8;
const SHARDS: usize = 4;
const NODES: [&str; 3] = ["d1", "d2", "d3"];

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A node; dropping it is a crash.
struct Process {
    runtime: Option<Runtime>,
    shutdown: CancellationToken,
    ended: std::sync::mpsc::Receiver<Result<(), NodeError>>,
    addr: String,
}

impl Process {
    fn start(name: &str, coordinator: &str, dir: &Path, port: u16) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let dir = dir.join(name);
        let line = [
            "vector-node",
            "--node-id",
            name,
            "--listen",
            &addr,
            "--coordinators",
            coordinator,
            "--dimensions",
            "8",
        ];
        let mut options =
            Options::try_parse_from(line.into_iter().chain(["--data-dir", dir.to_str().unwrap()])).unwrap();
        options.data_dir = dir;
        let shutdown = CancellationToken::new();
        let (tell, ended) = std::sync::mpsc::channel();
        let stop = shutdown.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tell.send(node::run_on(listener, options, stop).await).unwrap_or_default();
        });
        Self { runtime: Some(runtime), shutdown, ended, addr }
    }

    fn stop(&mut self) {
        self.shutdown.cancel();
        self.ended.recv_timeout(Duration::from_secs(15)).expect("the node ends").expect("and ends well");
        self.kill();
    }

    /// Ends it wherever it is, and waits until address and directory are free.
    fn kill(&mut self) {
        // On a thread of its own, since this one drives another runtime. Waits for connections, which hold the directory.
        if let Some(runtime) = self.runtime.take() {
            std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5))).join().unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Cluster {
    coordinator: Coordinator,
    nodes: BTreeMap<&'static str, Process>,
    http: reqwest::Client,
    dir: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        // RUST_LOG tells what the nodes say; other tests of this process may have set it up already.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).try_init().unwrap_or_default();
        let options = CoordinatorOptions { num_shards: SHARDS as u32, ..CoordinatorOptions::default() };
        let (coordinator, dir) = (Coordinator::start(options).await, tempfile::tempdir().unwrap());
        let start = |name| (name, Process::start(name, &coordinator.addr, dir.path(), 0));
        let nodes: BTreeMap<_, _> = ["d1", "d2", "d3"].map(start).into();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let cluster = Self { coordinator, nodes, http, dir };
        let all = |c: &Self| NODES.iter().all(|node| c.coordinator.node(&id(node)).is_some());
        cluster.until("three registrations", all).await;
        cluster.coordinator.found();
        cluster.coordinator.until_opened().await;
        cluster
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..3_000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("in vain: {what}");
    }

    fn url(&self, node: &str, path: &str) -> String {
        format!("http://{}{path}", self.nodes[node].addr)
    }

    async fn write(&self, node: &str, points: Vec<IdPoint>) {
        let request = WriteRequest { points };
        let answer = self.http.post(self.url(node, "/v1/vectors")).json(&request).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }

    async fn search(&self, node: &str, vector: Vec<f32>, k: usize) -> Vec<(String, f32)> {
        let request = SearchRequest { vector, k };
        let answer = self.http.post(self.url(node, "/v1/search")).json(&request).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        let answer: SearchResponse = answer.json().await.unwrap();
        assert_eq!(answer.shards_searched as usize, SHARDS);
        answer.results.into_iter().map(|found| (found.id, found.score)).collect()
    }

    async fn read(&self, node: &str, id: &str) -> Option<IdPoint> {
        let answer = self.http.get(self.url(node, &format!("/v1/vectors/{id}"))).send().await.unwrap();
        match answer.status().as_u16() {
            200 => {
                assert!(answer.headers().contains_key("x-shard-epoch"));
                Some(answer.json().await.unwrap())
            }
            404 => None,
            status => panic!("{status}: {}", answer.text().await.unwrap()),
        }
    }

    async fn stats(&self, node: &str) -> Stats {
        self.http.get(self.url(node, "/v1/stats")).send().await.unwrap().json().await.unwrap()
    }

    /// Declares a crashed node down once its lease has run out.
    async fn fail_over(&mut self, node: &'static str) {
        self.nodes.get_mut(node).unwrap().runtime.take().unwrap().shutdown_background();
        self.coordinator.expire(&id(node)).await;
    }

    fn shard(&self, shard: usize) -> Shard {
        self.coordinator.shard(ShardId(shard as u32)).unwrap()
    }

    /// Moves a copy, or the primaryship to one that is there, and waits for the end.
    async fn migrate(&self, shard: usize, to: &NodeId, from: Option<&NodeId>) {
        let migration = self.coordinator.migrate(ShardId(shard as u32), to, from).unwrap();
        let ended = self.coordinator.until_ended(migration).await;
        assert_eq!(ended.phase, Phase::Done, "{ended:?}");
    }

    fn has_lost_nothing(&self) -> bool {
        self.coordinator.reports().iter().all(|taken| !taken.report.lost)
    }

    fn restart(&mut self, node: &'static str) {
        let port = self.nodes[node].addr.rsplit(':').next().unwrap().parse().unwrap();
        let process = Process::start(node, &self.coordinator.addr, self.dir.path(), port);
        self.nodes.insert(node, process);
    }
}

fn point(n: usize) -> IdPoint {
    let mut seed = n as u64 + 1;
    let vector = (0..DIMENSIONS).map(|_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / 65_536.0
    });
    let metadata = BTreeMap::from([("n".to_owned(), serde_json::json!(n))]);
    IdPoint { id: format!("p/{n} ü"), vector: vector.collect(), metadata: Some(metadata) }
}

fn path_of(n: usize) -> String {
    format!("p%2F{n}%20%C3%BC")
}

fn nearest(points: impl Iterator<Item = usize>, query: &[f32], k: usize) -> Vec<String> {
    let distance = |p: &IdPoint| p.vector.iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    let mut all: Vec<(f32, String)> = points.map(point).map(|p| (distance(&p), p.id)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().take(k).map(|(_, id)| id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_any_request_and_search_is_exact() {
    let cluster = Cluster::start().await;
    cluster.write("d1", (0..200).map(point).collect()).await;
    for node in ["d1", "d2", "d3"] {
        assert_eq!(cluster.read(node, &path_of(7)).await, Some(point(7)));
        assert_eq!(cluster.read(node, "none").await, None);
        let query = point(1_000).vector;
        let found: Vec<String> =
            cluster.search(node, query.clone(), 10).await.into_iter().map(|f| f.0).collect();
        assert_eq!(found, nearest(0..200, &query, 10), "{node}");
    }
    let deleted =
        cluster.http.delete(cluster.url("d2", &format!("/v1/vectors/{}", path_of(7)))).send().await.unwrap();
    assert!(deleted.status().is_success());
    assert_eq!(cluster.read("d3", &path_of(7)).await, None);
    assert_eq!(cluster.search("d3", point(7).vector, 200).await.len(), 199);
    let mut copies = 0;
    for node in ["d1", "d2", "d3"] {
        copies += cluster.stats(node).await.shards.iter().map(|shard| shard.vectors).sum::<u64>();
    }
    assert_eq!(copies, 2 * 199, "each point is on two nodes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_with_a_problem() {
    let cluster = Cluster::start().await;
    let write = |body: &'static str| {
        let request = cluster.http.post(cluster.url("d1", "/v1/vectors"));
        request.header("content-type", "application/json").body(body).send()
    };
    for (body, status) in [
        ("{", 400),
        (r#"{"points":[{"id":"a","vector":[1]}]}"#, 422),
        (r#"{"points":[{"id":"","vector":[1,2,3,4,5,6,7,8]}]}"#, 422),
        (r#"{"points":[{"id":"a","vector":[1,2,3,4,5,6,7,1e39]}]}"#, 422),
    ] {
        let answer = write(body).await.unwrap();
        assert_eq!(answer.status(), status, "{body}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    let stale = cluster
        .http
        .get(cluster.url("d1", "/v1/vectors/a"))
        .header("x-shard-epoch", "0")
        .send()
        .await
        .unwrap();
    assert_eq!(stale.status(), 409);
    assert_eq!(stale.json::<serde_json::Value>().await.unwrap()["code"], "stale_epoch");
}

/// Writers and readers that never pause; every answer but success is a failure.
struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(cluster: &Cluster, first: usize) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(first as u64)));
        let mut tasks = Vec::new();
        for node in ["d1", "d2", "d3"] {
            let (stop, written, http) = (stop.clone(), written.clone(), cluster.http.clone());
            let (url, read) = (cluster.url(node, "/v1/vectors"), cluster.url(node, "/v1/vectors/"));
            tasks.push(tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let n = written.fetch_add(1, Ordering::SeqCst) as usize;
                    let request = http.post(&url).json(&WriteRequest { points: vec![point(n)] });
                    let answer = request.send().await.unwrap();
                    if answer.status() != 200 {
                        failures.push(format!("write {n}: {}", answer.text().await.unwrap()));
                        continue;
                    }
                    let answer = http.get(format!("{read}{}", path_of(n))).send().await.unwrap();
                    if answer.status() != 200 {
                        failures.push(format!("read {n}: {}", answer.text().await.unwrap()));
                    }
                }
                failures
            }));
        }
        Self { stop, written, tasks }
    }

    /// How many points were written, and what failed.
    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.unwrap());
        }
        (self.written.load(Ordering::SeqCst) as usize, failures)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_overs_under_load_fail_no_request() {
    let cluster = Cluster::start().await;
    let load = Load::start(&cluster, 0);
    for _ in 0..3 {
        for shard in 0..SHARDS {
            let row = cluster.shard(shard);
            let to = row.in_sync.iter().find(|node| Some(*node) != row.primary.as_ref()).unwrap();
            cluster.migrate(shard, to, None).await;
        }
    }
    let written = load.written.load(Ordering::SeqCst);
    cluster.until("writes after it", |_| load.written.load(Ordering::SeqCst) > written + 30).await;
    let (count, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(cluster.search("d1", point(0).vector, 10_000).await.len(), count, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_moves_under_load_and_the_old_one_is_deleted() {
    let cluster = Cluster::start().await;
    cluster.write("d1", (0..500).map(point).collect()).await;
    let load = Load::start(&cluster, 500);
    let row = cluster.shard(0);
    let from = row.replicas[0].clone();
    let to = NODES.map(id).into_iter().find(|node| !row.in_sync.contains(node)).unwrap();
    cluster.migrate(0, &to, Some(&from)).await;
    let deleted =
        |c: &Cluster| c.coordinator.assignments(&from).iter().all(|held| held.role != Role::Retiring);
    cluster.until("the old copy's deletion", deleted).await;
    cluster.migrate(0, &to, None).await;
    let (count, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(
        cluster.search("d2", point(0).vector, 10_000).await.len(),
        count,
        "the moved copy has everything"
    );
    let left = cluster.stats(from.as_str()).await;
    assert!(left.shards.iter().all(|shard| shard.id.0 != 0), "{left:?}");
    let led = cluster.stats(to.as_str()).await;
    assert!(led.shards.iter().any(|shard| shard.id.0 == 0 && shard.role == Some(Role::Primary)), "{led:?}");
}

/// Passes connections on to `to`, counts the bytes that come back, and holds them back once they are `most`.
async fn counting_proxy(to: String, most: watch::Receiver<u64>) -> (String, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, count) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicU64::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((asker, _)) = listener.accept().await {
            let (to, count, mut most) = (to.clone(), counted.clone(), most.clone());
            tokio::spawn(async move {
                let (mut from_asker, mut to_asker) = asker.into_split();
                let Ok(answerer) = tokio::net::TcpStream::connect(to).await else { return };
                let (mut from_answerer, mut to_answerer) = answerer.into_split();
                let asks =
                    tokio::spawn(async move { tokio::io::copy(&mut from_asker, &mut to_answerer).await });
                let mut bytes = vec![0; 64 << 10];
                while let Ok(read @ 1..) = from_answerer.read(&mut bytes).await {
                    let passed = count.fetch_add(read as u64, Ordering::SeqCst);
                    if most.wait_for(|most| passed < *most).await.is_err() {
                        break;
                    }
                    if to_asker.write_all(&bytes[..read]).await.is_err() {
                        break;
                    }
                }
                asks.abort();
            });
        }
    });
    (addr, count)
}

/// A filling transferred everything again whenever it was interrupted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_restarts_in_the_middle_of_copying_is_sent_little_again() {
    const POINTS: usize = 1_280;
    const POINT_BYTES: usize = 8 << 10;
    let mut cluster = Cluster::start().await;
    let ids = (0..).map(|n| format!("big{n}")).filter(|id| shard_of_key(id, SHARDS as u32).0 == 0);
    let big = |id: String| {
        let metadata = BTreeMap::from([("text".to_owned(), serde_json::json!("x".repeat(POINT_BYTES)))]);
        IdPoint { id, metadata: Some(metadata), ..point(0) }
    };
    let points: Vec<IdPoint> = ids.take(POINTS).map(big).collect();
    for some in points.chunks(40) {
        cluster.write("d1", some.to_vec()).await;
    }
    let row = cluster.shard(0);
    let to = NODES.into_iter().find(|node| !row.in_sync.contains(&id(node))).unwrap();
    let source = cluster.nodes[row.primary.as_ref().unwrap().as_str()].addr.clone();
    let whole = (POINTS * POINT_BYTES * 4 / 3) as u64;
    let (release, most) = watch::channel(whole * 3 / 4);
    let (proxy, sent) = counting_proxy(source, most).await;
    cluster.coordinator.place_sources_at(proxy);
    let migration = cluster.coordinator.migrate(ShardId(0), &id(to), Some(&row.replicas[0])).unwrap();
    let mut copied = 0;
    for _ in 0..15_000 {
        let shards = cluster.stats(to).await.shards;
        copied = shards.iter().find(|shard| shard.id.0 == 0).map_or(0, |shard| shard.vectors as usize);
        if copied >= POINTS * 6 / 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!((POINTS * 6 / 10..POINTS).contains(&copied), "in the middle of it: {copied}");
    cluster.nodes.get_mut(to).unwrap().kill();
    release.send_replace(u64::MAX);
    cluster.restart(to);
    let ended = cluster.coordinator.until_ended(migration).await;
    assert_eq!(ended.phase, Phase::Done, "{ended:?}");
    let sent = sent.load(Ordering::SeqCst);
    // Up to three chunks of ten were under way. All of the first six again would be 1.6 times as much as there is.
    assert!((whole..whole * 14 / 10).contains(&sent), "{sent} bytes for {whole}");
    println!("{sent} bytes were sent for {whole}, restarted after {copied} of {POINTS} points");
    cluster.migrate(0, &id(to), None).await;
    assert_eq!(cluster.search("d1", point(0).vector, 10_000).await.len(), POINTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_crash_and_the_node_comes_back() {
    let mut cluster = Cluster::start().await;
    cluster.write("d2", (0..300).map(point).collect()).await;
    cluster.fail_over("d1").await;
    assert_eq!(cluster.search("d2", point(5).vector, 1_000).await.len(), 300);
    cluster.write("d3", (300..400).map(point).collect()).await;
    assert_eq!(cluster.search("d3", point(5).vector, 1_000).await.len(), 400);
    cluster.restart("d1");
    let all_in_sync = |c: &Cluster| (0..SHARDS).all(|shard| c.shard(shard).in_sync.len() == 2);
    cluster.until("all copies in sync again", all_in_sync).await;
    cluster.fail_over("d3").await;
    let found: Vec<String> =
        cluster.search("d1", point(777).vector, 20).await.into_iter().map(|found| found.0).collect();
    assert_eq!(found, nearest(0..400, &point(777).vector, 20), "what was written meanwhile was caught up");
    assert!(cluster.has_lost_nothing());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_stop_and_start_again_with_what_they_had() {
    let mut cluster = Cluster::start().await;
    cluster.write("d1", (0..150).map(point).collect()).await;
    for node in ["d1", "d2", "d3"] {
        cluster.nodes.get_mut(node).unwrap().stop();
    }
    for node in ["d1", "d2", "d3"] {
        cluster.restart(node);
    }
    let query = point(42).vector;
    let found: Vec<String> = cluster.search("d2", query.clone(), 15).await.into_iter().map(|f| f.0).collect();
    assert_eq!(found, nearest(0..150, &query, 15));
    assert!(cluster.has_lost_nothing());
}
