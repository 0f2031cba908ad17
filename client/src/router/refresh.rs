//! One request for a newer map on behalf of all who wait for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::control::{Backoff, ControlClient};
use crate::ids::Revision;
use crate::map::{MapCache, Way};
use crate::watch::Reader;

/// A control node that is asked for changes waits so long for one, in milliseconds: what a data node was assigned is
/// committed, so it is told at once, unless that control node is behind.
const WAIT_MS: u64 = 1_000;

/// A stream that works has told after so long, in milliseconds, what a data node that refused was told.
const STREAM_GRACE_MS: u64 = 20;

/// A stream works that told something lately: control nodes do every 5 s.
const STREAM_WORKS_MS: u64 = 6_000;

/// Who waits for a map newer than which.
#[derive(Debug, Default)]
pub(super) struct Demand {
    waiting: Mutex<BTreeMap<Option<Revision>, usize>>,
    risen: Notify,
}

impl Demand {
    /// Stands until the guard is dropped.
    pub(super) fn wants_newer_than(&self, seen: Option<Revision>) -> Wanted<'_> {
        *self.waiting().entry(seen).or_insert(0) += 1;
        self.risen.notify_one();
        Wanted { demand: self, seen }
    }

    /// Whether somebody waits for a newer map than that of `held`.
    fn is_above(&self, held: Option<Revision>) -> bool {
        self.waiting().last_key_value().is_some_and(|(seen, _)| *seen >= held)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Option<Revision>, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits.
pub(super) struct Wanted<'a> {
    demand: &'a Demand,
    seen: Option<Revision>,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut waiting = self.demand.waiting();
        if let Some(count) = waiting.get_mut(&self.seen) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.seen);
            }
        }
    }
}

/// Reads what is wanted, one request after the other, until `shutdown`.
pub(super) async fn refresh_on_demand(
    control: ControlClient,
    cache: MapCache,
    demand: Arc<Demand>,
    shutdown: CancellationToken,
) {
    let mut refresher = Refresher { reader: Reader::new(control, cache.clone()), cache, demand, turn: 0 };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = refresher.run() => {}
    }
}

struct Refresher {
    reader: Reader,
    cache: MapCache,
    demand: Arc<Demand>,
    turn: usize,
}

impl Refresher {
    async fn run(&mut self) {
        let mut backoff = first_backoff();
        loop {
            while !self.is_wanted() {
                backoff = first_backoff();
                self.demand.risen.notified().await;
            }
            self.wait_for_stream().await;
            if !self.is_wanted() {
                continue;
            }
            if let Err(error) = self.reader.catch_up(WAIT_MS, self.turn).await {
                tracing::debug!(%error, "a newer map could not be read");
                self.cache.note_error(error.to_string());
                self.turn = self.turn.wrapping_add(1);
            }
            if self.is_wanted() {
                tokio::time::sleep(Duration::from_millis(backoff.next_ms())).await;
            }
        }
    }

    fn held(&self) -> Option<Revision> {
        self.cache.version().map(|version| version.revision)
    }

    fn is_wanted(&self) -> bool {
        self.demand.is_above(self.held())
    }

    /// A stream that works brings it anyway.
    async fn wait_for_stream(&self) {
        let freshness = self.cache.freshness();
        let lately = freshness.current_ms_ago.is_some_and(|ago| ago <= STREAM_WORKS_MS);
        if freshness.way == Some(Way::Stream) && lately {
            let held = self.held();
            let mut versions = self.cache.subscribe();
            let newer = versions.wait_for(|version| version.map(|version| version.revision) > held);
            drop(tokio::time::timeout(Duration::from_millis(STREAM_GRACE_MS), newer).await);
        }
    }
}

fn first_backoff() -> Backoff {
    Backoff::new(20, 1_000)
}
