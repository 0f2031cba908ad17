//! How long nobody's writes are taken: the leader killed with SIGKILL, and the leader asked to hand over.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use ruvector_cluster_local::processes::{CONTROL_NODES, Processes};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::Common;
use crate::client::{Client, PATIENCE, until};
use crate::figures::{goal, median, ms, percentile, table};
use crate::peers::{self, Peer};

/// Leaders of ours that are killed.
const KILLS: usize = 20;
/// Leaders of etcd that are: its figure is long and steady.
const ETCD_KILLS: usize = 7;
const TRANSFERS: usize = 20;
/// Between two attempts to write, at each survivor.
const ATTEMPT_EVERY: Duration = Duration::from_millis(5);
/// Between a start and the next kill: leases and streams have settled.
const SETTLE: Duration = Duration::from_millis(1_500);

/// Measures and prints.
///
/// # Errors
/// When a cluster fails.
pub(crate) async fn run(_: &Common, all: &mut Processes) -> Result<()> {
    let client = Client::new()?;
    let (killed, handed_over) = ours(&client, all).await?;
    let etcd = etcd(&client, all).await?;
    let row = |what: &str, times: &[Duration]| {
        let seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
        let middle = Duration::from_secs_f64(median(&seconds));
        vec![
            what.to_owned(),
            times.len().to_string(),
            ms(middle),
            ms(percentile(times, 90)),
            ms(percentile(times, 100)),
        ]
    };
    let rows = [
        row("ruvector-cluster, leader killed", &killed),
        row("etcd, leader killed", &etcd),
        row("ruvector-cluster, leadership transferred", &handed_over),
    ];
    table(
        "To the next acknowledged write, default settings",
        &["event", "times", "median", "p90", "longest"],
        &rows,
    );
    let middle = |times: &[Duration]| median(&times.iter().map(Duration::as_secs_f64).collect::<Vec<f64>>());
    println!();
    goal("0.5 s over the median after a kill", 0.5 / middle(&killed), 1.0);
    goal("0.05 s over the median of a transfer", 0.05 / middle(&handed_over), 1.0);
    goal("etcd's median after a kill over ours", middle(&etcd) / middle(&killed), 1.0);
    Ok(())
}

async fn ours(client: &Client, all: &mut Processes) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let mut peer = peers::start_ours(client, all).await?;
    peers::register(client, &peer, 1).await?;
    let write = |url: &str, n: u64| {
        (Method::PATCH, format!("{url}/v1/nodes/d0"), json!({"labels": {"version": n.to_string()}}))
    };
    let mut killed = Vec::new();
    for _ in 0..KILLS {
        tokio::time::sleep(SETTLE).await;
        killed.push(kill(client, all, &peer, write).await?);
        all.restart(&peer.names[0])?;
        peer = peers::find_our_leader(client, all).await?;
    }
    let mut handed_over = Vec::new();
    for _ in 0..TRANSFERS {
        tokio::time::sleep(SETTLE).await;
        handed_over.push(longest_gap_in_transfer(client, &peer).await?);
        peer = peers::find_our_leader(client, all).await?;
    }
    peer.end(all)?;
    Ok((killed, handed_over))
}

async fn etcd(client: &Client, all: &mut Processes) -> Result<Vec<Duration>> {
    let mut peer = peers::start_etcd(client, all).await?;
    let write = |url: &str, n: u64| {
        let body = json!({"key": peers::base64("nodes/d0"), "value": peers::base64(&n.to_string())});
        (Method::POST, format!("{url}/v3/kv/put"), body)
    };
    let mut killed = Vec::new();
    for _ in 0..ETCD_KILLS {
        tokio::time::sleep(SETTLE).await;
        killed.push(kill(client, all, &peer, write).await?);
        all.restart(&peer.names[0])?;
        let put = || async { peers::etcd_put(client, &peer.urls[0], "nodes/d0", "again").await };
        until("the killed one to take writes again", async || put().await).await?;
        peer = peers::find_etcd_leader(client, peer).await?;
    }
    peer.end(all)?;
    Ok(killed)
}

/// Kills the leader; from then to the first acknowledged write of many attempts at all who are left. Each attempt begins at its own
/// time and waits for as long as it takes, so that no client's timeout is measured.
async fn kill(
    client: &Client,
    all: &mut Processes,
    peer: &Peer,
    write: impl Fn(&str, u64) -> (Method, String, Value),
) -> Result<Duration> {
    all.kill(&peer.names[0])?;
    let killed = Instant::now();
    let (send, mut receive) = mpsc::unbounded_channel::<Instant>();
    let mut attempts = Vec::new();
    let mut n = 0;
    let mut tick = tokio::time::interval(ATTEMPT_EVERY);
    let first = loop {
        tokio::select! {
            first = receive.recv() => break first.context("no attempt is left")?,
            _ = tick.tick() => {}
        }
        if killed.elapsed() > PATIENCE {
            bail!("no write was taken for {PATIENCE:?} after the leader was killed");
        }
        for url in &peer.urls[1..] {
            n += 1;
            let (method, url, body) = write(url, n);
            let (client, send) = (client.clone(), send.clone());
            attempts.push(tokio::spawn(async move {
                if client.ask(method, &url, Some(&body)).await.is_ok() {
                    // Whoever is not the first finds nobody listening.
                    send.send(Instant::now()).ok();
                }
            }));
        }
    };
    for attempt in attempts {
        attempt.abort();
    }
    Ok(first - killed)
}

/// One writer a control node writes all the time; the longest time between two acknowledged writes of any of them while the lead
/// changes hands.
async fn longest_gap_in_transfer(client: &Client, peer: &Peer) -> Result<Duration> {
    let (send, mut receive) = mpsc::unbounded_channel::<Instant>();
    let writers: Vec<_> = peer
        .urls
        .iter()
        .map(|url| tokio::spawn(write_on(client.clone(), url.clone(), send.clone())))
        .collect();
    let ended = Arc::new(writers);
    tokio::time::sleep(SETTLE / 3).await;
    let begun = Instant::now();
    client.ask(Method::POST, &format!("{}/v1/leader/transfer", peer.urls[0]), Some(&json!({}))).await?;
    tokio::time::sleep(SETTLE / 3).await;
    ended.iter().for_each(tokio::task::JoinHandle::abort);
    drop(send);
    let (mut last, mut longest) = (begun, Duration::ZERO);
    while let Some(at) = receive.recv().await {
        if at > begun {
            longest = longest.max(at - last);
            last = at;
        }
    }
    if last == begun {
        bail!("no write was taken by any of {CONTROL_NODES} control nodes");
    }
    Ok(longest)
}

async fn write_on(client: Client, url: String, acknowledged: mpsc::UnboundedSender<Instant>) {
    for n in 0u64.. {
        let body = json!({"labels": {"version": n.to_string()}});
        if client.ask(Method::PATCH, &format!("{url}/v1/nodes/d0"), Some(&body)).await.is_ok()
            && acknowledged.send(Instant::now()).is_err()
        {
            return;
        }
    }
}
