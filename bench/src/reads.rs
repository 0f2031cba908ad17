//! The path of a read: a shard asked for on 64 connections, beside etcd's ranges and a bare axum handler that answers the same bytes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::routing::get;
use bytes::Bytes;
use reqwest::Method;
use ruvector_cluster_local::processes::Processes;

use crate::Common;
use crate::client::{Client, until};
use crate::figures::{goal, median, ms, table, whole};
use crate::load::{self, Measured};
use crate::peers::{self, DATA_NODES, Peer, SHARDS};
use crate::writes;

const CONNECTIONS: usize = 64;
/// Of the writes beside which reads are measured.
const WRITERS: usize = 64;

/// What is asked, and of whom.
const KINDS: [&str; 9] = [
    "bare axum handler",
    "stale",
    "linearizable, leader",
    "linearizable, follower",
    "stale, beside full writes",
    "etcd serializable",
    "etcd linearizable, leader",
    "etcd linearizable, follower",
    "etcd serializable, beside full writes",
];

fn get_script(query: &str) -> String {
    format!(
        r#"
local n = 0
local made = {{}}
function init(args)
  for i = 0, {SHARDS} - 1 do made[i] = wrk.format("GET", "/v1/shards/" .. i .. "{query}") end
end
function request()
  n = n + 1
  return made[n % {SHARDS}]
end
"#
    )
}

fn range_script(serializable: bool) -> String {
    let more = if serializable { ",\"serializable\":true" } else { "" };
    let bodies: Vec<String> = (0..SHARDS)
        .map(|n| format!("'{{\"key\":\"{}\"{more}}}'", peers::base64(&format!("shards/{n}"))))
        .collect();
    format!(
        r#"
local n = 0
local made = {{}}
function init(args)
  for i, body in ipairs({{ {} }}) do made[i - 1] = wrk.format("POST", "/v3/kv/range", nil, body) end
end
function request()
  n = n + 1
  return made[n % {SHARDS}]
end
"#,
        bodies.join(",")
    )
}

/// Measures and prints.
///
/// # Errors
/// When a cluster fails, or answers an error.
pub(crate) async fn run(common: &Common, all: &mut Processes) -> Result<()> {
    let client = Client::new()?;
    let mut measured: [Vec<Measured>; KINDS.len()] = Default::default();
    for round in 0..common.rounds {
        let ours = peers::start_ours(&client, all).await?;
        peers::register(&client, &ours, DATA_NODES).await?;
        let shard = wait_for_shards(&client, &ours).await?;
        let bare = start_bare(common, &client, all, &ours).await?;
        let ask = async |kind: usize, url: &str, script: &str, into: &mut Vec<Measured>| {
            let time = Duration::from_secs(common.seconds);
            let one = load::put(&common.work_dir, url, script, CONNECTIONS, time).await?;
            ensure!(one.errors == 0, "{}: {} of {} failed", KINDS[kind], one.errors, one.requests);
            into.push(one);
            anyhow::Ok(())
        };
        let stale = get_script("?consistency=stale");
        ask(0, &bare, &stale, &mut measured[0]).await?;
        all.kill("bare")?;
        ask(1, &ours.urls[0], &stale, &mut measured[1]).await?;
        ask(2, &ours.urls[0], &get_script(""), &mut measured[2]).await?;
        ask(3, &ours.urls[1], &get_script(""), &mut measured[3]).await?;
        measured[4].push(beside_writes(common, &ours, &stale, &writes::our_script(DATA_NODES)).await?);
        ours.end(all)?;
        let etcd = peers::start_etcd(&client, all).await?;
        for n in 0..SHARDS {
            peers::etcd_put(&client, &etcd.urls[0], &format!("shards/{n}"), &shard).await?;
        }
        ask(5, &etcd.urls[0], &range_script(true), &mut measured[5]).await?;
        ask(6, &etcd.urls[0], &range_script(false), &mut measured[6]).await?;
        ask(7, &etcd.urls[1], &range_script(false), &mut measured[7]).await?;
        measured[8].push(beside_writes(common, &etcd, &range_script(true), &writes::etcd_script()).await?);
        etcd.end(all)?;
        eprintln!("round {} of {} done", round + 1, common.rounds);
    }
    print(&measured);
    Ok(())
}

/// Reads on half of the connections, so that reads and writes are as many.
async fn beside_writes(common: &Common, peer: &Peer, reads: &str, writes: &str) -> Result<Measured> {
    let time = Duration::from_secs(common.seconds);
    let (read, written) = tokio::join!(
        load::put(&common.work_dir, &peer.urls[0], reads, WRITERS, time),
        load::put(&common.work_dir, &peer.urls[0], writes, WRITERS, time)
    );
    let (read, written) = (read?, written?);
    ensure!(
        read.errors + written.errors == 0,
        "{}: {} reads, {} writes failed",
        peer.title,
        read.errors,
        written.errors
    );
    Ok(read)
}

/// Waits until shards have copies; answers one of them.
async fn wait_for_shards(client: &Client, ours: &Peer) -> Result<String> {
    let url = format!("{}/v1/shards/{}?consistency=stale", ours.urls[0], SHARDS - 1);
    until("shards that are assigned", async || {
        let shard = client.ask(Method::GET, &url, None).await?;
        ensure!(shard["primary"].is_string(), "it has no primary yet: {shard}");
        Ok(shard.to_string())
    })
    .await
}

/// Starts this program as the bare handler, which answers what the leader answers.
async fn start_bare(common: &Common, client: &Client, all: &mut Processes, ours: &Peer) -> Result<String> {
    let body = client.text(&format!("{}/v1/shards/1?consistency=stale", ours.urls[0])).await?;
    let file = common.work_dir.join("bare.json");
    std::fs::write(&file, body)?;
    let addr = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let file = file.to_string_lossy().into_owned();
    let args = ["bare", "--listen", &addr, "--body", &file].map(str::to_owned).to_vec();
    all.start_program("bare", &addr, &std::env::current_exe()?, args)?;
    let url = format!("http://{addr}");
    until("the bare handler", async || client.text(&format!("{url}/v1/shards/1")).await).await?;
    Ok(url)
}

/// The bare handler: the same router, the same path, a body and headers made before.
///
/// # Errors
/// When it can't serve.
pub(crate) async fn serve_bare(listen: &str, body: &Path) -> Result<()> {
    let body = Bytes::from(std::fs::read(body).context("can't read the body")?);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ETAG, HeaderValue::from_static("\"1001\""));
    headers.insert(HeaderName::from_static("x-cluster-revision"), HeaderValue::from_static("1001"));
    headers.insert(HeaderName::from_static("x-request-id"), HeaderValue::from_static("5f1c3a77-1a2b"));
    let shared = Arc::new((headers, body));
    let answer = async |State(shared): State<Arc<(HeaderMap, Bytes)>>| (shared.0.clone(), shared.1.clone());
    let router = Router::new().route("/v1/shards/{id}", get(answer)).with_state(shared);
    let listener =
        tokio::net::TcpListener::bind(listen).await.with_context(|| format!("can't bind {listen}"))?;
    axum::serve(listener, router).await.context("the bare handler ended")
}

fn print(measured: &[Vec<Measured>; KINDS.len()]) {
    let over = |kind: usize, of: &dyn Fn(&Measured) -> f64| {
        median(&measured[kind].iter().map(of).collect::<Vec<f64>>())
    };
    let row = |kind: usize| {
        let time = |of: &dyn Fn(&Measured) -> Duration| {
            ms(Duration::from_secs_f64(over(kind, &|m| of(m).as_secs_f64())))
        };
        vec![
            KINDS[kind].to_owned(),
            whole(over(kind, &|m| m.per_s())),
            time(&|m| m.p50),
            time(&|m| m.p99),
            whole(over(kind, &|m| m.cpu.as_secs_f64() * 1e6 / m.requests)),
        ]
    };
    let rows: Vec<Vec<String>> = (0..KINDS.len()).map(row).collect();
    let title = format!("Reads of a shard at {CONNECTIONS} connections");
    table(&title, &["asked", "answers/s", "p50", "p99", "CPU us an answer: wrk"], &rows);
    let per_s = |kind: usize| over(kind, &|m| m.per_s());
    println!();
    goal("stale over etcd serializable", per_s(1) / per_s(5), 10.0);
    goal("stale over the bare handler", per_s(1) / per_s(0), 0.7);
    goal("linearizable on the leader over etcd's", per_s(2) / per_s(6), 10.0);
    goal("linearizable on a follower over etcd's", per_s(3) / per_s(7), 10.0);
}
