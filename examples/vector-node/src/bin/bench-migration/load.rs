//! The steady load: reads, writes and searches that arrive at fixed rates whether or not earlier ones were answered, each at
//! a node drawn at random; and, before it, how much of the same mix the machine bears.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rand::Rng;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::client::DataClient;
use crate::record::Kind;

/// Of so many requests,
const MIX: u64 = 400;
/// so many are writes,
const WRITES: u64 = 160;
/// and so many searches, each of which reads all vectors; the others are reads.
const SEARCHES: u64 = 1;
/// Requests under way; one more has failed.
const MAX_UNDER_WAY: usize = 2_048;
/// Clients that find out what the machine bears, each with one request under way.
const CLIENTS: usize = 16;

/// Requests a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) u64);

impl Rate {
    /// So many percent of it.
    pub(crate) fn share(self, percent: u64) -> Self {
        Self((self.0 * percent / 100).max(10))
    }

    /// In words.
    pub(crate) fn spell(self) -> String {
        let part = |of: u64| self.0 as f64 * of as f64 / MIX as f64;
        let reads = part(MIX - WRITES - SEARCHES);
        format!(
            "{} requests/s: {reads:.0} reads, {:.0} writes, {:.1} searches",
            self.0,
            part(WRITES),
            part(SEARCHES)
        )
    }
}

/// The nodes that requests go to; clones share them.
#[derive(Clone)]
pub(crate) struct Targets(Arc<RwLock<Vec<String>>>);

impl Targets {
    /// These addresses.
    pub(crate) fn new(addrs: Vec<String>) -> Self {
        Self(Arc::new(RwLock::new(addrs)))
    }

    /// One of them.
    pub(crate) fn any(&self) -> String {
        let addrs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        addrs[rand::rng().random_range(0..addrs.len())].clone()
    }

    /// No more requests to this one.
    pub(crate) fn leave_out(&self, addr: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|other| other != addr);
    }

    /// Requests to this one again.
    pub(crate) fn take_in(&self, addr: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(addr.to_owned());
    }
}

/// What the `turn`th request is for: the same mix in any stretch of them.
fn kind_of(turn: u64) -> Kind {
    // A step that is prime to the mix spreads each kind.
    match turn * 37 % MIX {
        place if place < WRITES => Kind::Write,
        place if place < WRITES + SEARCHES => Kind::Search,
        _ => Kind::Read,
    }
}

async fn request(client: &DataClient, target: &str, kind: Kind) {
    let keys = client.keys();
    let choice = rand::rng().random_range(0..1_usize << 40);
    match kind {
        Kind::Search => client.search(target, keys.still(choice)).await,
        Kind::Read => {
            // Half of them of keys that are written.
            let key = if choice % 2 == 0 { keys.live(choice / 2) } else { keys.still(choice / 2) };
            client.read(target, key).await;
        }
        Kind::Write => {
            let free = (0..64).find_map(|step| {
                let key = keys.live(choice + step);
                Some((key, keys.attempt(key)?))
            });
            match free {
                Some((key, version)) => {
                    client.write(target, key, version).await;
                }
                None => client.records().failed(Kind::Write, None, client.records().now(), "no key is free"),
            }
        }
    }
}

/// Requests a second that are answered when each client asks again as soon as it was answered.
pub(crate) async fn capacity(client: &DataClient, targets: &Targets, duration: Duration) -> Rate {
    let (turns, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let deadline = Instant::now() + duration;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, targets) = (client.clone(), targets.clone());
        let (turns, answered) = (turns.clone(), answered.clone());
        clients.spawn(async move {
            while Instant::now() < deadline {
                let kind = kind_of(turns.fetch_add(1, Ordering::Relaxed));
                request(&client, &targets.any(), kind).await;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    clients.join_all().await;
    Rate(answered.load(Ordering::Relaxed) * 1_000 / (duration.as_millis() as u64).max(1))
}

/// A load that goes on until it is stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    arrivals: tokio::task::JoinHandle<()>,
}

impl Load {
    /// Begins.
    pub(crate) fn start(client: DataClient, targets: Targets, rate: Rate) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let arrivals = tokio::spawn(arrive(client, targets, rate, stop.clone()));
        Self { stop, arrivals }
    }

    /// No more requests; those under way are waited for.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.arrivals.await.ok();
    }
}

async fn arrive(client: DataClient, targets: Targets, rate: Rate, stop: Arc<AtomicBool>) {
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / rate.0.max(1)));
    // Whatever should have arrived meanwhile arrives at once.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let room = Arc::new(Semaphore::new(MAX_UNDER_WAY));
    let mut under_way = JoinSet::new();
    for turn in 0.. {
        ticks.tick().await;
        while under_way.try_join_next().is_some() {}
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let kind = kind_of(turn);
        let Ok(permit) = room.clone().try_acquire_owned() else {
            client.records().failed(kind, None, client.records().now(), "too many are under way");
            continue;
        };
        let (client, targets) = (client.clone(), targets.clone());
        under_way.spawn(async move {
            request(&client, &targets.any(), kind).await;
            drop(permit);
        });
    }
    under_way.join_all().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_stretch_of_requests_have_the_same_mix() {
        for from in [0, 7, 250] {
            let of = |kind| (from..from + MIX).filter(|turn| kind_of(*turn) == kind).count() as u64;
            assert_eq!((of(Kind::Write), of(Kind::Search)), (WRITES, SEARCHES));
        }
    }
}
