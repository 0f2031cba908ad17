//! The path of a write: labels of 1,000 data nodes, beside etcd's puts of keys and values of the same length.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ruvector_cluster_local::processes::Processes;

use crate::Common;
use crate::client::Client;
use crate::figures::{goal, median, ms, table, whole};
use crate::load::{self, Measured};
use crate::machine;
use crate::peers::{self, DATA_NODES, Peer};

/// As many as FACTS of the comparison: one, many, very many.
const CONNECTIONS: [usize; 3] = [1, 64, 256];

/// What one load cost, beside what wrk measured.
struct Cost {
    measured: Measured,
    /// CPU time of each process, the leader first.
    cpu: Vec<Duration>,
    /// Syncs of the leader's log, and entries made durable by them; etcd counts the first only.
    syncs: f64,
    entries: Option<f64>,
}

/// The Lua script that changes labels.
pub(crate) fn our_script(nodes: usize) -> String {
    format!(
        r#"
local n = 0
local head = {{ ["Content-Type"] = "application/json" }}
function request()
  n = n + 1
  return wrk.format("PATCH", "/v1/nodes/d" .. n % {nodes}, head, '{{"labels":{{"version":"' .. 10000000 + n .. '"}}}}')
end
"#
    )
}

/// The one that puts keys and values as long.
pub(crate) fn etcd_script() -> String {
    let keys: Vec<String> =
        (0..DATA_NODES).map(|n| format!("\"{}\"", peers::base64(&format!("nodes/d{n}")))).collect();
    let values: Vec<String> = (0..DATA_NODES)
        .map(|n| {
            format!(
                "\"{}\"",
                peers::base64(&format!("{{\"labels\":{{\"version\":\"{}\"}}}}", 10_000_000 + n))
            )
        })
        .collect();
    format!(
        r#"
local n = 0
local keys = {{ {} }}
local values = {{ {} }}
function request()
  n = n + 1
  local body = '{{"key":"' .. keys[n % {DATA_NODES} + 1] .. '","value":"' .. values[n * 7 % {DATA_NODES} + 1] .. '"}}'
  return wrk.format("POST", "/v3/kv/put", nil, body)
end
"#,
        keys.join(","),
        values.join(",")
    )
}

/// Measures and prints.
///
/// # Errors
/// When a cluster fails, or answers an error.
pub(crate) async fn run(common: &Common, all: &mut Processes) -> Result<()> {
    let client = Client::new()?;
    let mut costs: Vec<[Vec<Cost>; 2]> = CONNECTIONS.map(|_| [Vec::new(), Vec::new()]).into();
    for round in 0..common.rounds {
        let ours = peers::start_ours(&client, all).await?;
        peers::register(&client, &ours, DATA_NODES).await?;
        for (n, connections) in CONNECTIONS.into_iter().enumerate() {
            costs[n][0]
                .push(measure(common, &client, all, &ours, &our_script(DATA_NODES), connections).await?);
        }
        ours.end(all)?;
        let etcd = peers::start_etcd(&client, all).await?;
        for (n, connections) in CONNECTIONS.into_iter().enumerate() {
            costs[n][1].push(measure(common, &client, all, &etcd, &etcd_script(), connections).await?);
        }
        etcd.end(all)?;
        eprintln!("round {} of {} done", round + 1, common.rounds);
    }
    let disk = machine::fdatasyncs_per_s(&common.work_dir)?;
    print(&costs, disk);
    Ok(())
}

async fn measure(
    common: &Common,
    client: &Client,
    all: &Processes,
    peer: &Peer,
    script: &str,
    connections: usize,
) -> Result<Cost> {
    let pids: Vec<u32> = peer.names.iter().map(|name| all.pid(name)).collect::<Result<_>>()?;
    let cpu = || pids.iter().map(|pid| machine::cpu_time(*pid)).collect::<Result<Vec<Duration>>>();
    let before = (cpu()?, log_work(client, peer).await?);
    let time = Duration::from_secs(common.seconds);
    let measured = load::put(&common.work_dir, &peer.urls[0], script, connections, time).await?;
    let after = (cpu()?, log_work(client, peer).await?);
    ensure!(
        measured.errors == 0,
        "{} of {} requests failed at {}",
        measured.errors,
        measured.requests,
        peer.title
    );
    Ok(Cost {
        measured,
        cpu: after.0.iter().zip(&before.0).map(|(after, before)| after.saturating_sub(*before)).collect(),
        syncs: after.1.0 - before.1.0,
        entries: after.1.1.zip(before.1.1).map(|(after, before)| after - before),
    })
}

/// Syncs of the leader's log so far, and entries in it, as its metrics tell.
async fn log_work(client: &Client, peer: &Peer) -> Result<(f64, Option<f64>)> {
    let text = client.text(&format!("{}/metrics", peer.urls[0])).await?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse::<f64>().ok())
    };
    let ours = number("ruvector_cluster_raft_log_syncs_total");
    let syncs = ours.or_else(|| number("etcd_disk_wal_fsync_duration_seconds_count"));
    Ok((syncs.context("its metrics tell no syncs")?, number("ruvector_cluster_raft_log_entries_total")))
}

fn print(costs: &[[Vec<Cost>; 2]], disk: f64) {
    let mut rows = Vec::new();
    let over =
        |costs: &[Cost], of: &dyn Fn(&Cost) -> f64| median(&costs.iter().map(of).collect::<Vec<f64>>());
    for (connections, pair) in CONNECTIONS.iter().zip(costs) {
        for (title, costs) in ["ruvector-cluster", "etcd"].iter().zip(pair) {
            let micros = |cpu: &dyn Fn(&Cost) -> Duration| {
                whole(over(costs, &|cost| cpu(cost).as_secs_f64() * 1e6 / cost.measured.requests))
            };
            let time = |of: &dyn Fn(&Cost) -> Duration| {
                ms(Duration::from_secs_f64(over(costs, &|cost| of(cost).as_secs_f64())))
            };
            let syncs = over(costs, &|cost| cost.syncs / cost.measured.time.as_secs_f64());
            rows.push(vec![
                connections.to_string(),
                (*title).to_owned(),
                whole(over(costs, &|cost| cost.measured.per_s())),
                time(&|cost| cost.measured.p50),
                time(&|cost| cost.measured.p99),
                micros(&|cost| cost.cpu[0]),
                format!("{}, {}", micros(&|cost| cost.cpu[1]), micros(&|cost| cost.cpu[2])),
                micros(&|cost| cost.measured.cpu),
                format!(
                    "{:.1}",
                    over(costs, &|cost| cost.entries.unwrap_or(cost.measured.requests) / cost.syncs)
                ),
                format!("{:.0} %", syncs * 100.0 / disk),
            ]);
        }
    }
    let head = [
        "connections",
        "cluster",
        "writes/s",
        "p50",
        "p99",
        "CPU us a write: leader",
        "followers",
        "wrk",
        "writes a sync",
        "syncs of the disk's",
    ];
    table(&format!("Writes; the disk does {} syncs a second alone", whole(disk)), &head, &rows);
    let per_s = |costs: &[Cost]| over(costs, &|cost| cost.measured.per_s());
    let p50 = |costs: &[Cost]| over(costs, &|cost| cost.measured.p50.as_secs_f64());
    println!();
    goal("p50 of etcd over ours at 1 connection", p50(&costs[0][1]) / p50(&costs[0][0]), 2.0);
    for (n, connections) in CONNECTIONS.iter().enumerate().skip(1) {
        goal(
            &format!("writes of ours over etcd's at {connections}"),
            per_s(&costs[n][0]) / per_s(&costs[n][1]),
            3.0,
        );
    }
}
