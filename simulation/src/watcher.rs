//! Follows `GET /v1/watch` at one control node after the other, and takes down what it is told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use ruvector_cluster::client::control::{Body, Exchange};
use ruvector_cluster::client::ids::Revision;
use ruvector_cluster::client::watch::{Event, EventReader};
use serde_json::Value;

use crate::chance::Chance;
use crate::control::hash_of;
use crate::host::Host;
use crate::net::{Net, NetExchange};
use ruvector_cluster_check::history::{Change, WatchItem, WatchRecord};

/// A connection that says nothing for so long is left.
const SILENCE: Duration = Duration::from_secs(4);

/// One watcher.
pub struct Watcher {
    addrs: Arc<Mutex<Vec<String>>>,
    exchange: Arc<NetExchange>,
    chance: Chance,
    /// What it was told, to be read when the run ends.
    pub record: Arc<Mutex<WatchRecord>>,
    revision: Option<u64>,
}

impl Watcher {
    /// The watcher with this number.
    #[must_use]
    pub fn new(addrs: Arc<Mutex<Vec<String>>>, net: &Net, chance: Chance, stream: u32) -> Self {
        let exchange = net.exchange(&Host::new(&format!("w{stream}")));
        let record = WatchRecord { stream, generation: 0, items: Vec::new() };
        Self { addrs, exchange, chance, record: Arc::new(Mutex::new(record)), revision: None }
    }

    /// Watches without end.
    pub async fn run(mut self) {
        loop {
            let addr = {
                let addrs = self.addrs.lock().unwrap_or_else(PoisonError::into_inner);
                self.chance.pick(&addrs).cloned().unwrap_or_default()
            };
            // Also leaves connections that work, so that many are resumed.
            let stay = Duration::from_millis(self.chance.between(500, 10_000));
            drop(tokio::time::timeout(stay, self.follow(&addr)).await);
            let pause = self.chance.between(1, 200);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn note(&self, item: WatchItem) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).items.push(item);
    }

    async fn follow(&mut self, addr: &str) -> Option<()> {
        let query = self.revision.map_or_else(String::new, |from| format!("?from={from}"));
        let request = http::Request::get(format!("http://{addr}/v1/watch{query}"));
        let request = request.header("accept", "text/event-stream").body(Bytes::new()).ok()?;
        let answer = tokio::time::timeout(SILENCE, self.exchange.exchange(request)).await.ok()?.ok()?;
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
        self.read(answer.into_body()).await
    }

    async fn read(&mut self, mut body: Body) -> Option<()> {
        let mut reader = EventReader::default();
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
                let digests = body["changes"].as_array()?.iter();
                let digests = digests.map(|change| hash_of(&[change.to_string().as_bytes()])).collect();
                self.note(WatchItem::Change(Change { revision: Revision(revision), digests }));
            }
            "bookmark" => self.note(WatchItem::Bookmark(Revision(revision))),
            _ => return Some(()),
        }
        self.revision = Some(revision);
        Some(())
    }
}
