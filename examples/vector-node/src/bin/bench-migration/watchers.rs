//! How long it takes from a commit until many clients that watch have the new map, each with connections and a map of its own.
//!
//! They all run in this one process, so what is measured includes what it takes to read their streams on this machine. A watcher
//! that had the map before the writer had its acknowledgement counts as 0 from then.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use ruvector_cluster_client::control::{Call, ControlClient, ControlOptions};
use ruvector_cluster_client::ids::{NodeId, Revision};
use ruvector_cluster_client::router::Router;
use ruvector_cluster_client::wire::{Node, PatchNodeRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::record::Spread;

/// How many watch.
pub(crate) const WATCHERS: usize = 1_000;
/// Watchers that begin at once.
const STARTING: usize = 50;
/// Changes, one after the other.
const CHANGES: usize = 100;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(20);
/// A watcher has its first map, and a change is seen by all, within this time, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it took, in milliseconds, for each watcher and change.
pub(crate) struct Watched {
    /// From the sending of the write.
    pub(crate) from_sending: Spread,
    /// From its acknowledgement.
    pub(crate) from_acknowledgement: Spread,
}

/// Lets them watch `coordinators`, and changes the labels of `node`.
pub(crate) async fn measure(
    control: &ControlClient,
    coordinators: Vec<String>,
    node: &NodeId,
) -> Result<Watched> {
    raise_descriptors()?;
    let shutdown = CancellationToken::new();
    let _ended = shutdown.clone().drop_guard();
    let (tell, mut told) = mpsc::unbounded_channel();
    for first in (0..WATCHERS).step_by(STARTING) {
        let mut routers = Vec::new();
        for _ in first..WATCHERS.min(first + STARTING) {
            let own = ControlClient::new(ControlOptions::new(coordinators.clone()))?;
            routers.push(Router::start(own, shutdown.clone()));
        }
        for router in routers {
            if !router.newer_than(None, PATIENCE.as_millis() as u64).await {
                bail!("a watcher has no map: {:?}", router.freshness());
            }
            tokio::spawn(report(router, tell.clone()));
        }
    }
    let (mut from_sending, mut from_acknowledgement) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        tokio::time::sleep(PAUSE).await;
        while told.try_recv().is_ok() {}
        let labels = [("watchers-turn".to_owned(), change.to_string())].into();
        let body = PatchNodeRequest { labels: Some(labels), ..PatchNodeRequest::default() };
        let call = Call::write(Method::PATCH, format!("/v1/nodes/{node}"), &body)?;
        let sent = Instant::now();
        let revision = control.send::<Node>(&call).await?.body.revision;
        let acknowledged = Instant::now();
        let ms = |at: Instant, from: Instant| at.saturating_duration_since(from).as_secs_f64() * 1e3;
        let mut left = WATCHERS;
        while left > 0 {
            let seen = tokio::time::timeout(PATIENCE, told.recv()).await;
            let seen = seen.with_context(|| format!("{left} watchers did not see revision {revision}"))?;
            let (before, now, at) = seen.context("no watcher is left")?;
            // Each passes the revision once.
            if before < revision && now >= revision {
                from_sending.push(ms(at, sent));
                from_acknowledgement.push(ms(at, acknowledged));
                left -= 1;
            }
        }
    }
    Ok(Watched {
        from_sending: Spread::of(from_sending),
        from_acknowledgement: Spread::of(from_acknowledgement),
    })
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

/// Each stream takes one.
fn raise_descriptors() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the number of open files")
}
