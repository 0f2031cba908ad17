//! Keeps a [`MapCache`] fresh: reads the map, then follows what changes, by the best way that works.
//!
//! 1. An event stream of `GET /v1/watch`, resumed from the held revision where it broke off.
//! 2. Where streams can't be opened, or break again and again (there are proxies that hold them back or cut them off), although
//!    control nodes answer other requests: long polls of the same.
//! 3. Where there is no such thing either: `GET /v1/map`, again and again, with the tag of the last answer.
//!
//! From 2 and 3 it comes back to streams after a while, which grows. Every turn begins from what is held, so nothing is lost
//! or told twice when a way is left. A revision that is compacted makes the map be read whole; that is also how a restored
//! cluster is learned of, whose generation no event carries. Reads here are stale reads: a map is better read stale than not
//! at all, since the data nodes' epochs fence whoever holds an old one.

mod poll;
mod sse;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chance;
use crate::control::{Backoff, ControlClient, ControlError};
use crate::map::{MapCache, Way};

pub(crate) use poll::Reader;
use poll::{Found, is_compacted};
pub use sse::{Event, EventReader};
use stream::StreamError;

/// How the map is followed.
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// A stream that says nothing for so long is taken for dead. Control nodes say something every 5 s.
    pub silence_ms: u64,
    /// A stream that ends sooner has failed.
    pub steady_ms: u64,
    /// So many streams that fail in a row, while control nodes answer, are given up.
    pub stream_failures: u32,
    /// How long a long poll waits.
    pub long_poll_ms: u64,
    /// How often the map is read where nothing better works.
    pub poll_every_ms: u64,
    /// When streams are tried again, at first; twice as long each time that they fail again.
    pub back_after_ms: u64,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            silence_ms: 15_000,
            steady_ms: 10_000,
            stream_failures: 3,
            long_poll_ms: 10_000,
            poll_every_ms: 1_000,
            back_after_ms: 30_000,
        }
    }
}

/// The longest time without trying a stream.
const MAX_BACK_AFTER_MS: u64 = 600_000;

/// Follows the map into `cache` until `shutdown`.
pub async fn follow_map(control: ControlClient, cache: MapCache, shutdown: CancellationToken) {
    follow_map_by(FollowOptions::default(), control, cache, shutdown).await;
}

/// As [`follow_map`], by other bounds.
pub async fn follow_map_by(
    options: FollowOptions,
    control: ControlClient,
    cache: MapCache,
    shutdown: CancellationToken,
) {
    let mut follower = Follower::new(options, control, cache);
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = follower.run() => {}
    }
}

struct Follower {
    options: FollowOptions,
    control: ControlClient,
    cache: MapCache,
    reader: Reader,
    way: Way,
    /// Streams that failed in a row.
    failures: u32,
    /// Counts up, so that another control node is asked each time.
    turn: usize,
    /// When streams are tried again, and how long that was from when they were given up.
    back: Option<(Instant, u64)>,
    backoff: Backoff,
}

impl Follower {
    fn new(options: FollowOptions, control: ControlClient, cache: MapCache) -> Self {
        let reader = Reader::new(control.clone(), cache.clone());
        let backoff = first_backoff();
        Self { options, control, cache, reader, way: Way::Stream, failures: 0, turn: 0, back: None, backoff }
    }

    async fn run(&mut self) {
        loop {
            self.control.keep_members().await;
            let went = if self.cache.version().is_none() {
                self.reader.read_map().await.map(|()| Went::On)
            } else {
                match self.way {
                    Way::Stream => self.stream().await,
                    Way::LongPoll => self.long_poll().await,
                    Way::Poll => self.poll().await,
                }
            };
            match went {
                Ok(Went::On) => self.backoff = first_backoff(),
                Ok(Went::Nowhere) => tokio::time::sleep(self.pause()).await,
                Err(error) => {
                    self.fail(error.to_string());
                    tokio::time::sleep(self.pause()).await;
                }
            }
            self.come_back();
        }
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.backoff.next_ms())
    }

    fn fail(&mut self, error: String) {
        tracing::debug!(error, way = ?self.way, "following the map begins again");
        self.cache.note_error(error);
        self.turn = self.turn.wrapping_add(1);
    }

    /// One stream, to its end.
    async fn stream(&mut self) -> Result<Went, ControlError> {
        let begun = Instant::now();
        let (told, error) =
            stream::follow(&self.control, &self.cache, self.turn, self.options.silence_ms).await;
        let steady = told && begun.elapsed() >= Duration::from_millis(self.options.steady_ms);
        let compacted = matches!(&error, StreamError::Control(error) if is_compacted(error));
        let malformed = matches!(error, StreamError::Malformed(_));
        self.fail(error.to_string());
        if steady {
            self.failures = 0;
            return Ok(Went::Nowhere);
        }
        if compacted {
            return self.reader.read_map().await.map(|()| Went::On);
        }
        // Whether it is the stream's fault, or nobody answers at all, shows in a read, which also brings what the stream
        // would have. What could not be understood is left behind by reading the whole.
        let found = if malformed {
            self.reader.read_map().await.map(|()| Found::Map)?
        } else {
            self.reader.catch_up(0, self.turn).await?
        };
        self.failures += 1;
        if self.failures >= self.options.stream_failures {
            self.give_up_streams(found);
        }
        Ok(Went::Nowhere)
    }

    fn give_up_streams(&mut self, found: Found) {
        self.way = match found {
            Found::Changes => Way::LongPoll,
            Found::Map => Way::Poll,
        };
        let waited = self.back.map_or(0, |(_, waited)| waited.saturating_mul(2));
        let wait_ms =
            waited.clamp(self.options.back_after_ms, MAX_BACK_AFTER_MS.max(self.options.back_after_ms));
        // Those who were cut off together do not come back together.
        let jittered = chance::in_range(wait_ms.div_ceil(2)..=wait_ms);
        self.back = Some((Instant::now() + Duration::from_millis(jittered), wait_ms));
        tracing::info!(way = ?self.way, "event streams of the map do not work here");
    }

    fn come_back(&mut self) {
        let due = self.back.is_some_and(|(at, _)| at <= Instant::now());
        if self.way != Way::Stream && due {
            self.way = Way::Stream;
            // One failure is enough this time.
            self.failures = self.options.stream_failures.saturating_sub(1);
        }
    }

    async fn long_poll(&mut self) -> Result<Went, ControlError> {
        let (begun, before) = (Instant::now(), self.cache.version());
        match self.reader.catch_up(self.options.long_poll_ms, self.turn).await? {
            Found::Changes => {}
            Found::Map => self.way = Way::Poll,
        }
        // Whoever answers at once without news would be asked without pause.
        let in_vain = self.cache.version() == before && begun.elapsed() < Duration::from_millis(100);
        Ok(if in_vain { Went::Nowhere } else { Went::On })
    }

    async fn poll(&mut self) -> Result<Went, ControlError> {
        self.reader.read_map().await?;
        let every_ms = self.options.poll_every_ms;
        let wait_ms = chance::in_range(every_ms.div_ceil(2)..=every_ms);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        Ok(Went::On)
    }
}

/// Whether the next turn may begin at once.
enum Went {
    On,
    Nowhere,
}

fn first_backoff() -> Backoff {
    Backoff::new(50, 2_000)
}
