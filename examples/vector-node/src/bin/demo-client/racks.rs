//! Follows `GET /v1/watch` and looks, at every revision, for two copies of a shard in one rack.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use ruvector_cluster_client::control::{Answered, Call, ControlClient};
use ruvector_cluster_client::ids::{NodeId, Revision, ShardId};
use ruvector_cluster_client::watch::{Event, EventReader};
use ruvector_cluster_client::wire::{ShardMap, WatchBookmark, WatchChange, WatchEvent};
use tokio::task::JoinSet;

/// Before a broken stream is resumed.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct Seen {
    racks: BTreeMap<NodeId, Option<String>>,
    /// The full copies of each shard.
    copies: BTreeMap<ShardId, Vec<NodeId>>,
    revision: Revision,
    revisions: usize,
    violations: Vec<String>,
}

impl Seen {
    fn begin(&mut self, map: ShardMap) {
        self.racks = map.nodes.into_iter().map(|(id, node)| (id, node.rack)).collect();
        let copies =
            map.shards.into_iter().map(|shard| shard.primary.into_iter().chain(shard.replicas).collect());
        self.copies = (0..).map(ShardId).zip(copies).collect();
        self.advance(map.revision);
    }

    fn change(&mut self, event: WatchEvent) {
        for change in event.changes {
            match change {
                WatchChange::Shard(shard) => {
                    let copies = shard.primary.into_iter().chain(shard.replicas).collect();
                    self.copies.insert(shard.id, copies);
                }
                WatchChange::Node(node) => {
                    self.racks.insert(node.id, node.rack);
                }
                WatchChange::NodeRemoved { .. }
                | WatchChange::Migration(_)
                | WatchChange::Policy { .. }
                | WatchChange::Other => {}
            }
        }
        self.advance(event.revision);
    }

    fn advance(&mut self, revision: Revision) {
        self.revision = revision;
        self.revisions += 1;
        for (shard, copies) in &self.copies {
            let mut racks = BTreeSet::new();
            let is_shared = !copies.iter().all(|node| racks.insert(self.racks.get(node)));
            if is_shared {
                self.violations.push(format!("revision {revision}: shard {shard} on {copies:?}"));
            }
        }
    }
}

/// The follower; it ends when dropped.
pub(crate) struct RackWatch {
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

impl RackWatch {
    /// Begins to watch.
    pub(crate) fn start(control: ControlClient) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(control, Arc::clone(&seen)));
        Self { seen, _tasks: tasks }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is.
    pub(crate) fn revision(&self) -> Revision {
        self.lock().revision
    }

    /// Revisions looked at, and what was wrong at them.
    pub(crate) fn result(&self) -> (usize, Vec<String>) {
        let seen = self.lock();
        (seen.revisions, seen.violations.clone())
    }
}

async fn follow(control: ControlClient, seen: Arc<Mutex<Seen>>) {
    for turn in 0.. {
        // Whoever was asked may be dead: the next one goes on where the stream broke off.
        read_stream(&control, turn, &seen).await.ok();
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read_stream(control: &ControlClient, turn: usize, seen: &Mutex<Seen>) -> Result<()> {
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let call = Call::get("/v1/watch").at(turn);
    let from = lock().revision;
    let call = if from == Revision(0) { call } else { call.query("from", from) };
    let Answered { body: mut bytes, .. } = control.open_stream(&call).await?;
    let mut reader = EventReader::default();
    while let Some(chunk) = bytes.next().await {
        for event in reader.push(&chunk?)? {
            take(&event, &mut lock()).with_context(|| event.name.clone())?;
        }
    }
    Ok(())
}

fn take(event: &Event, seen: &mut Seen) -> Result<()> {
    match event.name.as_str() {
        "snapshot" => seen.begin(serde_json::from_str(&event.data)?),
        "change" => seen.change(serde_json::from_str(&event.data)?),
        "bookmark" => {
            let bookmark: WatchBookmark = serde_json::from_str(&event.data)?;
            seen.revision = seen.revision.max(bookmark.revision);
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_copies_in_one_rack_are_seen() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let racks = [("a", "r1"), ("b", "r2"), ("c", "r1")].map(|(n, r)| (node(n), Some(r.to_owned())));
        let mut seen = Seen { racks: racks.into(), ..Seen::default() };
        seen.copies.insert(ShardId(0), vec![node("a"), node("b")]);
        seen.advance(Revision(1));
        assert!(seen.violations.is_empty());
        seen.copies.insert(ShardId(1), vec![node("a"), node("c")]);
        seen.advance(Revision(2));
        assert_eq!(seen.violations.len(), 1);
        assert_eq!(seen.revisions, 2);
    }
}
