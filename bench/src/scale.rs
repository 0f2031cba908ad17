//! A state that grows: 10,000 shards on 100 data nodes, then ten and a hundred times as much. What it takes in memory and time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use reqwest::Method;
use ruvector_cluster_local::processes::Processes;
use serde_json::Value;
use tokio::time::Instant;

use crate::Common;
use crate::client::{Client, PATIENCE, until};
use crate::figures::{ms, percentile, table, whole};
use crate::load;
use crate::machine;
use crate::peers::{self, Peer};
use crate::writes;

/// Shards a data node.
const SHARDS_A_NODE: usize = 100;
const WATCHERS: usize = 5_000;
const CONNECTIONS: usize = 64;
/// The rate that the share of a core is told for: a heartbeat a second of 10,000 data nodes.
const BEATS_PER_S: f64 = 10_000.0;

/// One size, measured.
struct Size {
    shards: usize,
    assigned: Duration,
    leader_bytes: u64,
    follower_bytes: u64,
    restarted: Duration,
    map_first: Duration,
    map_again: Duration,
    map_bytes: usize,
    beats: load::Measured,
    beat_cpu: Duration,
    writes: load::Measured,
    told: Vec<Duration>,
}

/// Measures and prints.
///
/// # Errors
/// When a cluster fails, or answers an error.
pub(crate) async fn run(common: &Common, shards: &[usize], all: &mut Processes) -> Result<()> {
    let mut sizes = Vec::new();
    for shards in shards {
        let size = measure(common, *shards, all).await.with_context(|| format!("with {shards} shards"))?;
        eprintln!("{} shards done", whole(*shards as f64));
        sizes.push(size);
    }
    print(&sizes);
    Ok(())
}

async fn measure(common: &Common, shards: usize, all: &mut Processes) -> Result<Size> {
    let client = Client::new()?;
    let nodes = shards / SHARDS_A_NODE;
    all.set_control_args(peers::control_args_for(shards));
    let ours = peers::start_ours(&client, all).await?;
    let began = Instant::now();
    peers::register(&client, &ours, nodes).await?;
    let revision = wait_until_assigned(&client, &ours, shards).await?;
    let assigned = began.elapsed();
    let time = Duration::from_secs(common.seconds);
    let writes =
        load::put(&common.work_dir, &ours.urls[0], &writes::our_script(nodes), CONNECTIONS, time).await?;
    let (beats, beat_cpu) = measure_beats(common, all, &ours, nodes, revision).await?;
    let map_began = Instant::now();
    let map_bytes = client.text(&format!("{}/v1/map", ours.urls[0])).await?.len();
    let map_first = map_began.elapsed();
    let again_began = Instant::now();
    client.text(&format!("{}/v1/map", ours.urls[0])).await?;
    let map_again = again_began.elapsed();
    let told = tell_watchers(&client, &ours).await?;
    let leader_bytes = machine::resident_bytes(all.pid(&ours.names[0])?)?;
    let follower_bytes = machine::resident_bytes(all.pid(&ours.names[1])?)?;
    let restarted = restart(&client, all, &ours).await?;
    ours.end(all)?;
    ensure!(
        beats.errors + writes.errors == 0,
        "{} heartbeats, {} writes failed",
        beats.errors,
        writes.errors
    );
    Ok(Size {
        shards,
        assigned,
        leader_bytes,
        follower_bytes,
        restarted,
        map_first,
        map_again,
        map_bytes,
        beats,
        beat_cpu,
        writes,
        told,
    })
}

/// Waits until each shard has copies; answers the revision of then.
async fn wait_until_assigned(client: &Client, ours: &Peer, shards: usize) -> Result<u64> {
    let last = format!("{}/v1/shards/{}?consistency=stale", ours.urls[0], shards - 1);
    let began = Instant::now();
    loop {
        let shard = client.ask(Method::GET, &last, None).await?;
        let view = client.ask(Method::GET, &format!("{}/v1/health", ours.urls[0]), None).await?;
        let is_quiet =
            shard["primary"].is_string() && shard["replicas"].as_array().is_some_and(|r| r.len() == 2);
        if is_quiet {
            let cluster = client.ask(Method::GET, &format!("{}/v1/cluster", ours.urls[0]), None).await?;
            return cluster["revision"].as_u64().context("it tells no revision");
        }
        ensure!(began.elapsed() < PATIENCE * 3, "not all shards are assigned: {}", view["shards"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Heartbeats as fast as they are answered; the leader's CPU time for each.
async fn measure_beats(
    common: &Common,
    all: &Processes,
    ours: &Peer,
    nodes: usize,
    revision: u64,
) -> Result<(load::Measured, Duration)> {
    let script = format!(
        r#"
local n = 0
local head = {{ ["Content-Type"] = "application/json" }}
local body = '{{"incarnation":1,"installed_revision":{revision},"partial":true,"shards":[]}}'
local made = {{}}
function init(args)
  for i = 0, {nodes} - 1 do made[i] = wrk.format("POST", "/v1/nodes/d" .. i .. "/heartbeat", head, body) end
end
function request()
  n = n + 1
  return made[n % {nodes}]
end
"#
    );
    let pid = all.pid(&ours.names[0])?;
    let before = machine::cpu_time(pid)?;
    let time = Duration::from_secs(common.seconds);
    let beats = load::put(&common.work_dir, &ours.urls[0], &script, CONNECTIONS, time).await?;
    let cpu = machine::cpu_time(pid)?.saturating_sub(before);
    Ok((beats, cpu.div_f64(beats.requests.max(1.0))))
}

/// From a write's acknowledgement on, how long it takes until each of many watchers has it.
async fn tell_watchers(client: &Client, ours: &Peer) -> Result<Vec<Duration>> {
    let view = client.ask(Method::GET, &format!("{}/v1/cluster", ours.urls[1]), None).await?;
    let from = view["revision"].as_u64().context("it tells no revision")?;
    let url = format!("{}/v1/watch?from={from}", ours.urls[1]);
    let opened: Vec<Result<reqwest::Response>> =
        futures::stream::iter(0..WATCHERS).map(|_| client.stream(&url)).buffer_unordered(64).collect().await;
    let opened: Vec<reqwest::Response> = opened.into_iter().collect::<Result<_>>()?;
    let label = "told-to-watchers";
    let watchers: Vec<_> = opened.into_iter().map(|stream| tokio::spawn(wait_for(stream, label))).collect();
    let body = serde_json::json!({"labels": {"version": label}});
    client.ask(Method::PATCH, &format!("{}/v1/nodes/d0", ours.urls[0]), Some(&body)).await?;
    let acknowledged = Instant::now();
    let mut told = Vec::new();
    for watcher in watchers {
        let at = tokio::time::timeout(PATIENCE, watcher).await.context("a watcher is not told")???;
        told.push(at.saturating_duration_since(acknowledged));
    }
    Ok(told)
}

async fn wait_for(mut stream: reqwest::Response, what: &str) -> Result<Instant> {
    let mut seen = Vec::new();
    while let Some(bytes) = stream.chunk().await? {
        seen.extend_from_slice(&bytes);
        if String::from_utf8_lossy(&seen).contains(what) {
            return Ok(Instant::now());
        }
    }
    anyhow::bail!("the stream ended")
}

/// Kills a follower and starts it again: to its first answer that is up to date.
async fn restart(client: &Client, all: &mut Processes, ours: &Peer) -> Result<Duration> {
    all.kill(&ours.names[2])?;
    let began = Instant::now();
    all.restart(&ours.names[2])?;
    let ready = format!("{}/readyz", ours.urls[2]);
    let answer: Value =
        until("a restarted follower", async || client.ask(Method::GET, &ready, None).await).await?;
    ensure!(!answer.is_null(), "it answers nothing");
    let url = format!("{}/v1/shards/0", ours.urls[2]);
    until("its linearizable answer", async || client.ask(Method::GET, &url, None).await).await?;
    Ok(began.elapsed())
}

fn print(sizes: &[Size]) {
    let row = |what: &str, of: &dyn Fn(&Size) -> String| {
        [what.to_owned()].into_iter().chain(sizes.iter().map(of)).collect::<Vec<String>>()
    };
    let bytes_a_shard =
        |bytes: u64, size: &Size| format!("{} bytes", whole(bytes as f64 / size.shards as f64));
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20));
    let rows = [
        row("data nodes registered and all shards assigned after", &|s| {
            format!("{:.1} s", s.assigned.as_secs_f64())
        }),
        row("memory of the leader", &|s| mib(s.leader_bytes as f64)),
        row("of it a shard", &|s| bytes_a_shard(s.leader_bytes, s)),
        row("memory of a follower", &|s| mib(s.follower_bytes as f64)),
        row("of it a shard", &|s| bytes_a_shard(s.follower_bytes, s)),
        row("a killed follower answers up to date after", &|s| format!("{:.2} s", s.restarted.as_secs_f64())),
        row("GET /v1/map, first of a revision", &|s| ms(s.map_first)),
        row("GET /v1/map, again", &|s| ms(s.map_again)),
        row("its length", &|s| mib(s.map_bytes as f64)),
        row("heartbeats a second at most", &|s| whole(s.beats.per_s())),
        row("the leader's CPU at 10,000 heartbeats a second", &|s| {
            format!("{:.0} % of a core", s.beat_cpu.as_secs_f64() * BEATS_PER_S * 100.0)
        }),
        row("writes a second at 64 connections", &|s| whole(s.writes.per_s())),
        row("their p99", &|s| ms(s.writes.p99)),
        row("5,000 watchers told of a change: p50", &|s| ms(percentile(&s.told, 50))),
        row("5,000 watchers told of a change: p99", &|s| ms(percentile(&s.told, 99))),
    ];
    let shards: Vec<String> =
        sizes.iter().map(|size| format!("{} shards", whole(size.shards as f64))).collect();
    let head: Vec<&str> = [""].into_iter().chain(shards.iter().map(String::as_str)).collect();
    table("A state that grows, 100 shards a data node, 3 copies each", &head, &rows);
}
