//! The long poll of assignments, and the watch.

use std::time::Duration;

use futures::StreamExt;
use serde::Serialize;
use tokio::sync::watch;

use super::Coordinator;
use super::answer::{Answer, Query, json};
use super::places::Refusal;
use crate::control::{Body, ExchangeError};
use crate::ids::{NodeId, Revision};
use crate::wire::WatchBookmark;

/// A watch with nothing to tell says so that often.
const BOOKMARK: Duration = Duration::from_millis(500);

/// Where a watch is.
struct Watching {
    coordinator: Coordinator,
    /// All up to here was told; none before the snapshot.
    told: Option<Revision>,
    published: watch::Receiver<Revision>,
}

impl Coordinator {
    pub(super) async fn poll_assignments(&self, node: &NodeId, query: &Query) -> Result<Answer, Refusal> {
        let since = Revision(query.number("since")?.unwrap_or(0));
        let wait = Duration::from_millis(query.number("wait_ms")?.unwrap_or(0).min(60_000));
        let asks_delta = query.get("delta") == Some("true");
        let delta = Some(since).filter(|since| asks_delta && *since > Revision(0));
        let mut published = self.inner.published.subscribe();
        let news = published.wait_for(|_| {
            let rows = self.rows();
            let too_old = delta.is_some_and(|since| since < rows.compacted);
            since == Revision(0) || too_old || !rows.nodes.contains_key(node) || rows.has_news(node, since)
        });
        // Past its wait it is answered as it is.
        if tokio::time::timeout(wait, news).await.is_err() {
            tracing::trace!(%node, "no news");
        }
        json(200, &self.rows().assignments_answer(node, delta)?)
    }

    pub(super) fn watch(&self, query: &Query) -> Result<Answer, Refusal> {
        let from = query.number("from")?.map(Revision);
        let mut published = self.inner.published.subscribe();
        published.mark_changed();
        if from.is_some_and(|from| from < self.rows().compacted) {
            return Err(Refusal::new(410, "compacted", "that is too long ago"));
        }
        let watching = Watching { coordinator: self.clone(), told: from, published };
        let pieces = futures::stream::unfold(watching, |mut watching| async move {
            let piece = watching.next().await?;
            Some((piece, watching))
        });
        let body: Body = pieces.boxed();
        Ok(Answer { status: 200, kind: "text/event-stream", body })
    }
}

impl Watching {
    async fn next(&mut self) -> Option<Result<bytes::Bytes, ExchangeError>> {
        let mut faults = self.coordinator.inner.faults.subscribe();
        let faulty = faults.wait_for(|faults| faults.silent || faults.unavailable);
        let changed = tokio::time::timeout(BOOKMARK, self.published.changed());
        let quiet = tokio::select! {
            biased;
            _ = faulty => return None,
            changed = changed => changed.is_err(),
        };
        let rows = self.coordinator.rows();
        let mut text = String::new();
        match self.told {
            None => text = event("snapshot", rows.revision, &rows.map()),
            // Who lags behind a compaction begins anew.
            Some(told) if told < rows.compacted => return None,
            Some(told) => {
                for change in rows.events.iter().filter(|event| event.revision > told) {
                    text.push_str(&event("change", change.revision, change));
                }
            }
        }
        if text.is_empty() || quiet {
            text.push_str(&event("bookmark", rows.revision, &WatchBookmark { revision: rows.revision }));
        }
        self.told = Some(rows.revision);
        Some(Ok(text.into()))
    }
}

fn event(name: &str, revision: Revision, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("id: {revision}\nevent: {name}\ndata: {data}\n\n")
}
