//! Follows `GET /v1/watch` at one control node after the other, and takes down what it is told.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use ruvector_cluster_check::history::{Change, WatchItem, WatchRecord};
use ruvector_cluster_client::ids::Revision;
use ruvector_cluster_client::watch::{Event, EventReader};
use serde_json::Value;

use crate::api::Api;
use crate::chance::Chance;

/// A connection that says nothing for so long is left.
const SILENCE: Duration = Duration::from_secs(4);

/// One watcher.
pub(crate) struct Watcher {
    addrs: Arc<Mutex<Vec<String>>>,
    api: Api,
    chance: Chance,
    /// What it was told, to be read while it watches.
    pub(crate) record: Arc<Mutex<WatchRecord>>,
    revision: Option<u64>,
}

impl Watcher {
    pub(crate) fn new(addrs: Arc<Mutex<Vec<String>>>, api: Api, chance: Chance, stream: u32) -> Self {
        let record = WatchRecord { stream, generation: 0, items: Vec::new() };
        Self { addrs, api, chance, record: Arc::new(Mutex::new(record)), revision: None }
    }

    /// Watches without end.
    pub(crate) async fn run(mut self) {
        loop {
            let addrs = self.addrs.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let addr = self.chance.pick(&addrs).unwrap_or_default();
            // Also leaves connections that work, so that many are resumed.
            let stay = Duration::from_millis(self.chance.between(500, 10_000));
            drop(tokio::time::timeout(stay, self.follow(&addr)).await);
            self.chance.wait(1, 200).await;
        }
    }

    fn note(&self, item: WatchItem) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).items.push(item);
    }

    async fn follow(&mut self, addr: &str) -> Option<()> {
        let query = self.revision.map_or_else(String::new, |from| format!("?from={from}"));
        let request = self.api.http().get(format!("http://{addr}/v1/watch{query}"));
        let request = request.header("accept", "text/event-stream").send();
        let answer = tokio::time::timeout(SILENCE, request).await.ok()?.ok()?;
        match answer.status().as_u16() {
            200 => {}
            410 => {
                self.revision = None;
                self.note(WatchItem::Compacted);
                return None;
            }
            _ => return None,
        }
        if let Some(from) = self.revision {
            self.note(WatchItem::From(Revision(from)));
        }
        let (mut body, mut reader) = (answer.bytes_stream(), EventReader::default());
        loop {
            let piece = tokio::time::timeout(SILENCE, body.next()).await.ok()??.ok()?;
            for event in reader.push(&piece).ok()? {
                self.take(&event)?;
            }
        }
    }

    fn take(&mut self, event: &Event) -> Option<()> {
        let body: Value = serde_json::from_str(&event.data).ok()?;
        let revision = body["revision"].as_u64()?;
        match event.name.as_str() {
            "snapshot" => {
                let generation = body["generation"].as_u64()?;
                self.record.lock().unwrap_or_else(PoisonError::into_inner).generation = generation;
                self.note(WatchItem::Snapshot(Revision(revision)));
            }
            "change" => {
                let digests = body["changes"].as_array()?.iter().map(|change| hash_of(&change.to_string()));
                let change = Change { revision: Revision(revision), digests: digests.collect() };
                self.note(WatchItem::Change(change));
            }
            "bookmark" => self.note(WatchItem::Bookmark(Revision(revision))),
            _ => return Some(()),
        }
        self.revision = Some(revision);
        Some(())
    }
}

/// Equal for equal texts, within one process.
pub(crate) fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
