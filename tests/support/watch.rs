//! Following `GET /v1/watch`: the map at every revision, across the death of the control node that is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use ruvector_cluster::client::ids::{NodeId, Revision, ShardId};
use ruvector_cluster::client::wire::{Node, Shard, ShardMap, WatchChange, WatchEvent};
use tokio::task::JoinSet;

use super::control::ControlCluster;
use super::http::Api;
use super::wait::{DEADLINE, wait_for};

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The map that it began with.
    pub start: Option<ShardMap>,
    /// Every change since, in order.
    pub events: Vec<WatchEvent>,
    /// Up to where the watch is known to be complete.
    pub revision: Revision,
    /// What the watch did wrong.
    pub wrong: Vec<String>,
}

/// A follower of the watch.
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    // Ends with the watcher.
    _tasks: JoinSet<()>,
}

impl Watcher {
    /// Begins to watch; the first snapshot is there on return.
    pub async fn start(cluster: &ControlCluster) -> Self {
        let apis = cluster.running().into_iter().map(|node| cluster.api(node)).collect();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(apis, Arc::clone(&seen)));
        let watcher = Self { seen, _tasks: tasks };
        wait_for("the watch's first snapshot", DEADLINE, async || {
            watcher.seen().start.map(|_| ()).ok_or("none yet")
        })
        .await;
        watcher
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// What was seen up to `revision`, or further.
    pub async fn up_to(&self, revision: Revision) -> Seen {
        wait_for(&format!("the watch to reach revision {revision}"), DEADLINE, async || {
            let seen = self.seen();
            if seen.revision >= revision { Ok(seen) } else { Err(format!("at {}", seen.revision)) }
        })
        .await
    }
}

/// Shards and nodes as they were after each event.
pub fn replay(
    seen: &Seen,
    mut at_each: impl FnMut(Revision, &BTreeMap<ShardId, Shard>, &BTreeMap<NodeId, Node>),
) {
    let (mut shards, mut nodes) = (BTreeMap::new(), BTreeMap::new());
    for event in &seen.events {
        for change in &event.changes {
            match change {
                WatchChange::Shard(shard) => {
                    shards.insert(shard.id, shard.clone());
                }
                WatchChange::Node(node) => {
                    nodes.insert(node.id.clone(), node.clone());
                }
                WatchChange::NodeRemoved { id } => {
                    nodes.remove(id);
                }
                WatchChange::Migration(_) | WatchChange::Policy { .. } | WatchChange::Other => {}
            }
        }
        at_each(event.revision, &shards, &nodes);
    }
}

async fn follow(apis: Vec<Api>, seen: Arc<Mutex<Seen>>) {
    for turn in 0.. {
        let from = {
            let seen = seen.lock().unwrap();
            seen.start.as_ref().map(|_| seen.revision)
        };
        // A broken stream is resumed at the next control node from the last revision seen.
        read_stream(&apis[turn % apis.len()], from, &seen).await.ok();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn read_stream(api: &Api, from: Option<Revision>, seen: &Mutex<Seen>) -> Result<(), reqwest::Error> {
    let query = from.map(|from| format!("?from={from}")).unwrap_or_default();
    // The client of Api has a timeout, which an endless stream must not have.
    let http = reqwest::Client::builder().no_proxy().build()?;
    let response = http.get(format!("{}/v1/watch{query}", api.base())).send().await?.error_for_status()?;
    let mut stream = response.bytes_stream();
    let mut pending = String::new();
    while let Some(chunk) = stream.next().await {
        pending.push_str(&String::from_utf8_lossy(&chunk?).replace("\r\n", "\n"));
        while let Some((message, rest)) = pending.split_once("\n\n") {
            note(message, &mut seen.lock().unwrap());
            pending = rest.to_owned();
        }
    }
    Ok(())
}

fn note(message: &str, seen: &mut Seen) {
    let field = |name: &str| {
        let line = message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim_start)
    };
    let Some(data) = field("data") else { return };
    match field("event") {
        Some("snapshot") => {
            let map: ShardMap = serde_json::from_str(data).unwrap();
            seen.revision = map.revision;
            seen.start = Some(map);
        }
        Some("change") => {
            let event: WatchEvent = serde_json::from_str(data).unwrap();
            if event.revision <= seen.revision {
                seen.wrong.push(format!("{} told after {}", event.revision, seen.revision));
            }
            seen.revision = event.revision;
            seen.events.push(event);
        }
        Some("bookmark") => {
            let id = field("id").and_then(|id| id.parse().ok()).unwrap_or(0);
            seen.revision = seen.revision.max(Revision(id));
        }
        other => seen.wrong.push(format!("an event of type {other:?}")),
    }
}
