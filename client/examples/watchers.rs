//! How long it takes from a commit until many clients that watch have the new map.
//!
//! `watchers --coordinators a,b,c --watchers 1000 --changes 200` follows the map so many times, each with connections and a map
//! of its own, by the library's own follower; then changes a data node's labels so many times, one after the other, and prints
//! the time from sending the write, and from its acknowledgement, until each watcher holds a map of that revision. It needs
//! a cluster with a data node; `--node ID` names it (default: the first), `--pause-ms N` waits between writes.
//!
//! The watchers run in this one process, so what is printed includes what it takes to read 1,000 streams on this machine. A
//! watcher that had the map before the writer had its acknowledgement counts as 0 from then.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use ruvector_cluster_client::control::{Call, ControlClient, ControlOptions, StaleReads};
use ruvector_cluster_client::ids::Revision;
use ruvector_cluster_client::router::Router;
use ruvector_cluster_client::wire::{Node, PatchNodeRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Watchers that begin at once.
const STARTING: usize = 50;

/// A write that is not seen by all for so long ends the run.
const PATIENCE: Duration = Duration::from_secs(30);

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

fn number(name: &str, default: usize) -> Result<usize> {
    argument(name)
        .map_or(Ok(default), |value| value.parse().with_context(|| format!("{name} takes a number")))
}

/// Each stream takes a descriptor.
fn raise_descriptors() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the number of open files")
}

#[tokio::main]
async fn main() -> Result<()> {
    let coordinators = argument("--coordinators").context("--coordinators HOST:PORT,... is missing")?;
    let coordinators: Vec<String> = coordinators.split(',').map(str::to_owned).collect();
    let (watchers, changes) = (number("--watchers", 1_000)?, number("--changes", 200)?);
    let pause = Duration::from_millis(number("--pause-ms", 20)? as u64);
    raise_descriptors()?;

    let control = ControlClient::new(ControlOptions::new(coordinators.clone()))?;
    let node = match argument("--node") {
        Some(node) => node,
        None => {
            let map = control.map(StaleReads::Refused).await?;
            map.nodes
                .keys()
                .next()
                .context("the cluster has no data node whose labels could be changed")?
                .to_string()
        }
    };
    let shutdown = CancellationToken::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    for first in (0..watchers).step_by(STARTING) {
        let mut routers = Vec::new();
        for _ in first..watchers.min(first + STARTING) {
            let own = ControlClient::new(ControlOptions::new(coordinators.clone()))?;
            routers.push(Router::start(own, shutdown.clone()));
        }
        for router in routers {
            if !router.newer_than(None, 30_000).await {
                bail!("a watcher has no map: {:?}", router.freshness());
            }
            tokio::spawn(report(router, tell.clone()));
        }
    }
    println!("{watchers} watchers have the map");

    let (mut from_sending, mut from_acknowledgement) = (Vec::new(), Vec::new());
    for change in 0..changes {
        tokio::time::sleep(pause).await;
        while told.try_recv().is_ok() {}
        let labels = [("watchers-turn".to_owned(), change.to_string())].into();
        let body = PatchNodeRequest { labels: Some(labels), ..PatchNodeRequest::default() };
        let call = Call::write(http::Method::PATCH, format!("/v1/nodes/{node}"), &body)?;
        let sent = Instant::now();
        let revision = control.send::<Node>(&call).await?.body.revision;
        let acknowledged = Instant::now();
        let mut left = watchers;
        while left > 0 {
            let seen = tokio::time::timeout(PATIENCE, told.recv()).await;
            let seen = seen.with_context(|| format!("{left} watchers did not see revision {revision}"))?;
            let (before, now, at) = seen.context("no watcher is left")?;
            // Each passes the revision once.
            if before < revision && now >= revision {
                from_sending.push(at.saturating_duration_since(sent));
                from_acknowledgement.push(at.saturating_duration_since(acknowledged));
                left -= 1;
            }
        }
    }
    print("from the write's sending", &mut from_sending);
    print("from its acknowledgement", &mut from_acknowledgement);
    shutdown.cancel();
    Ok(())
}

/// Says, of each new map, which one it replaced and when.
async fn report(router: Router, tell: mpsc::UnboundedSender<(Revision, Revision, Instant)>) {
    let mut versions = router.cache().subscribe();
    let mut before = versions.borrow_and_update().map_or(Revision(0), |version| version.revision);
    while versions.changed().await.is_ok() {
        let at = Instant::now();
        let now = versions.borrow_and_update().map_or(Revision(0), |version| version.revision);
        if tell.send((before, now, at)).is_err() {
            return;
        }
        before = now;
    }
}

fn print(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |share: usize| took.get((took.len() * share / 1_000).min(took.len().saturating_sub(1)));
    if let (Some(p50), Some(p99), Some(max)) = (at(500), at(990), took.last()) {
        let ms = |took: &Duration| took.as_secs_f64() * 1e3;
        println!(
            "{what}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms of {}",
            ms(p50),
            ms(p99),
            ms(max),
            took.len()
        );
    }
}
