//! A client of data nodes: it puts, gets and deletes, one operation at a time, and writes down what it was told.
//!
//! It routes by a cached map, which it reads from any control node as that has it, and reads again when it was refused or not
//! answered. Some requests go to any node instead, some without an epoch, some to whom a refusal named. A request is sent
//! once: what was refused is not done, what was not answered is unknown, and the next attempt writes another value.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ruvector_cluster_client::chance::seeded;
use ruvector_cluster_client::control::{Call, ControlClient, ControlOptions};
use ruvector_cluster_client::ids::{Epoch, NodeId};
use ruvector_cluster_client::map::{MapCache, shard_of};
use ruvector_cluster_client::wire::ShardMap;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::failures::Failures;
use super::keys::PlacedKey;
use super::message::{Act, Message, Told, decode, encode};
use super::record::{Found, Recorded, Recorder, WriteOutcome};
use crate::chance::Chance;
use crate::host::Host;
use crate::net::{CallError, Net, Repeatable};

/// How long an operation is waited for, in milliseconds.
const BOUND_MS: u64 = 3_000;
/// How long one control node is waited for when the map is read, and all of them together.
const MAP_MS: (u64, u64) = (500, 2_000);
/// The wait before keys that were not answered are read again.
const PAUSE: Duration = Duration::from_millis(100);

/// What a client does, in thousandths; what is left are gets.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Puts.
    pub puts_per_mille: u32,
    /// Deletes of own keys.
    pub deletes_per_mille: u32,
    /// So many requests go to a node drawn at random.
    pub astray_per_mille: u32,
    /// So many requests say no epoch.
    pub without_epoch_per_mille: u32,
    /// The pause between operations, at least and at most, in milliseconds.
    pub pause_ms: (u64, u64),
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            puts_per_mille: 500,
            deletes_per_mille: 50,
            astray_per_mille: 50,
            without_epoch_per_mille: 100,
            pause_ms: (0, 40),
        }
    }
}

/// What clients have in common.
#[derive(Clone)]
pub struct ClientParts {
    /// What they reach others through.
    pub net: Net,
    /// `host:port` of control nodes' client APIs.
    pub control: Vec<String>,
    /// Where operations are written down.
    pub recorder: Recorder,
    /// Where panics are written down.
    pub failures: Failures,
    /// What they do.
    pub mix: Mix,
}

/// A client that runs until it is stopped.
pub struct DataClient {
    host: Host,
    stop: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
}

impl DataClient {
    /// Starts client `number`, which draws from `chance`, on `keys`: shared ones and its own.
    #[must_use]
    pub fn start(number: u32, parts: &ClientParts, keys: Vec<PlacedKey>, chance: Chance) -> Self {
        let host = Host::new(&format!("c{number}"));
        let stop = Arc::new(AtomicBool::new(false));
        let (end, ended) = oneshot::channel();
        let (parts, at, stopped) = (parts.clone(), host.clone(), stop.clone());
        let failures = parts.failures.clone();
        let running = seeded(chance.bits(), async move {
            let mut client = Client::new(number, parts, at, chance);
            while !stopped.load(Ordering::Relaxed) {
                client.operate_once(&keys).await;
            }
            // Nobody waits where the client was not stopped but dropped.
            end.send(()).unwrap_or_default();
        });
        failures.spawn(&host, "the client", running);
        Self { host, stop, ended }
    }

    /// Its process, which is not to be killed: what it had under way would be missing from the history.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Finishes the operation under way, which takes a bounded time, and ends.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // A client that panicked has ended as well, and its failure is written down.
        self.ended.await.unwrap_or_default();
    }
}

/// Reads every one of `keys` at its primary, as client `number`, until each was answered.
///
/// # Errors
/// The keys that were not within `bound`, or the panic that was in the way.
pub async fn read_all(
    number: u32,
    parts: &ClientParts,
    keys: Vec<PlacedKey>,
    chance: Chance,
    bound: Duration,
) -> Result<(), String> {
    let host = Host::new(&format!("c{number}"));
    let (mut parts, at) = (parts.clone(), host.clone());
    parts.mix = Mix { astray_per_mille: 0, without_epoch_per_mille: 0, ..parts.mix };
    let reading = host.spawn(seeded(chance.bits(), async move {
        let mut client = Client::new(number, parts, at, chance);
        let until = Instant::now() + bound;
        let mut left = keys;
        while !left.is_empty() && Instant::now() < until {
            let mut unread = Vec::new();
            for key in left {
                if !client.read(&key).await {
                    unread.push(key);
                }
            }
            left = unread;
            if !left.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        left
    }));
    match reading.await {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(format!("not answered within {bound:?}: {left:?}")),
        Err(error) => Err(error.to_string()),
    }
}

struct Client {
    number: u32,
    parts: ClientParts,
    host: Host,
    chance: Chance,
    control: Option<ControlClient>,
    map: MapCache,
    /// Whom the last refusal named, and of which shard's key.
    hint: Option<(PlacedKey, Target)>,
    written: u64,
}

/// Who is asked, and by which epoch.
#[derive(Clone, Debug)]
struct Target {
    node: NodeId,
    addr: String,
    epoch: Option<Epoch>,
}

impl Client {
    fn new(number: u32, parts: ClientParts, host: Host, chance: Chance) -> Self {
        let options = ControlOptions::new(parts.control.clone());
        let control = ControlClient::over(options, parts.net.exchange(&host)).ok();
        let map = MapCache::new();
        Self { number, parts, host, chance, control, map, hint: None, written: 0 }
    }

    async fn operate_once(&mut self, keys: &[PlacedKey]) {
        let (low, high) = self.parts.mix.pause_ms;
        tokio::time::sleep(Duration::from_millis(self.chance.between(low, high))).await;
        let mix = self.parts.mix;
        let draw = self.chance.between(0, 999);
        let own: Vec<PlacedKey> = keys.iter().filter(|key| key.owner == Some(self.number)).cloned().collect();
        let puts = u64::from(mix.puts_per_mille);
        let writable = |key: &&PlacedKey| key.owner.is_none_or(|owner| owner == self.number);
        let picked = if draw < puts {
            let writable: Vec<PlacedKey> = keys.iter().filter(writable).cloned().collect();
            self.chance.pick(&writable).cloned()
        } else if draw < puts + u64::from(mix.deletes_per_mille) {
            self.chance.pick(&own).cloned()
        } else {
            self.chance.pick(keys).cloned()
        };
        let Some(key) = picked else { return };
        if draw < puts {
            self.written += 1;
            let value = format!("{}.{}", self.number, self.written);
            self.write(&key, Some(value)).await;
        } else if draw < puts + u64::from(mix.deletes_per_mille) {
            self.write(&key, None).await;
        } else {
            self.read(&key).await;
        }
    }

    async fn write(&mut self, key: &PlacedKey, value: Option<String>) {
        let act = value.clone().map_or(Act::Delete, Act::Put);
        let Some(target) = self.target(key).await else { return };
        let call = self.parts.recorder.call();
        let (told, by) = self.ask(key, act, &target).await;
        let outcome = match told {
            Ok(Told::Written(position)) => WriteOutcome::Acknowledged { by, position },
            Ok(Told::Refused { .. }) | Err(CallError::Refused) => WriteOutcome::NotDone,
            Ok(Told::Unknown) | Err(CallError::Broken) => WriteOutcome::Unknown,
            Ok(other) => panic!("{by} answered a write with {other:?}"),
        };
        self.parts.recorder.returned(self.number, call, key, Recorded::Write { value, outcome });
    }

    /// Says whether it was answered.
    async fn read(&mut self, key: &PlacedKey) -> bool {
        let Some(target) = self.target(key).await else { return false };
        let call = self.parts.recorder.call();
        let (told, by) = self.ask(key, Act::Get, &target).await;
        let found = match told {
            Ok(Told::Read { epoch, position, value }) => Some(Found { by, epoch, position, value }),
            Ok(Told::Refused { .. } | Told::Unknown) | Err(_) => None,
            Ok(other) => panic!("{by} answered a read with {other:?}"),
        };
        let answered = found.is_some();
        self.parts.recorder.returned(self.number, call, key, Recorded::Read(found));
        answered
    }

    /// Sends once. What is not answered in time counts as broken.
    async fn ask(&mut self, key: &PlacedKey, act: Act, target: &Target) -> (Result<Told, CallError>, NodeId) {
        let message = encode(&Message::Client {
            shard: key.shard,
            epoch: target.epoch,
            key: key.key.to_string(),
            act,
            patience_ms: BOUND_MS,
        });
        let asked = self.parts.net.ask_data(&self.host, &target.addr, Repeatable::No, message);
        let answered = tokio::time::timeout(Duration::from_millis(BOUND_MS), asked).await;
        let told = answered.unwrap_or(Err(CallError::Broken)).map(|bytes| {
            let told: Told = decode(&bytes).expect("what nodes answer can be read");
            told
        });
        self.learn(key, &told).await;
        (told, target.node.clone())
    }

    /// Routes better after a refusal or silence.
    async fn learn(&mut self, key: &PlacedKey, told: &Result<Told, CallError>) {
        match told {
            Ok(Told::Refused { epoch, primary: Some((node, addr)) }) if self.chance.per_mille(500) => {
                let target = Target { node: node.clone(), addr: addr.clone(), epoch: *epoch };
                self.hint = Some((key.clone(), target));
            }
            Ok(Told::Refused { .. } | Told::Unknown) | Err(_) => self.refresh().await,
            Ok(_) => {}
        }
    }

    /// Whom to ask; none without a map, or without a primary in it.
    async fn target(&mut self, key: &PlacedKey) -> Option<Target> {
        if let Some((of, target)) = self.hint.take()
            && of.shard == key.shard
        {
            return Some(target);
        }
        if self.map.get().is_none() {
            self.refresh().await;
        }
        let map = self.map.get()?;
        let row = shard_of(&map, key.shard)?;
        let mix = self.parts.mix;
        let named = if self.chance.per_mille(mix.astray_per_mille) {
            let nodes: Vec<NodeId> = map.nodes().map(|node| node.id.clone()).collect();
            self.chance.pick(&nodes).cloned()
        } else {
            row.primary().map(|primary| primary.id.clone())
        };
        let epoch = (!self.chance.per_mille(mix.without_epoch_per_mille)).then_some(row.epoch);
        let at = named.and_then(|node| Some((map.node(&node)?.addr()?.to_owned(), node)));
        let Some((addr, node)) = at else {
            self.refresh().await;
            return None;
        };
        Some(Target { node, addr, epoch })
    }

    /// Reads the map of some control node, which may be behind.
    async fn refresh(&mut self) {
        let Some(control) = &self.control else { return };
        let at = usize::try_from(self.chance.between(0, control.coordinators() as u64 - 1)).unwrap_or(0);
        let call = Call::get("/v1/map").query("consistency", "stale").at(at).within(MAP_MS.0, MAP_MS.1);
        if let Ok(answered) = control.send::<ShardMap>(&call).await {
            self.map.install(answered.body);
        }
    }
}
