//! A client's request, wherever its shards are: routed by the cached map, carried out here or handed to the primary, and
//! held, within a bound, while a shard has no primary that answers.
//!
//! A request is tried again only as long as nothing of it was done: a refusal says so, and so does a connection that never
//! came about. A write whose outcome is unknown is told as such; whoever asked may repeat it. Reads change nothing and are
//! tried again in any case. So a hand-over fails no request, and neither does a failover that ends within the bound, but
//! for writes that were under way at a primary that died.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::copies::Outcome;
use crate::ids::{Epoch, NodeId, Position, Revision, ShardId};
use crate::map;
use crate::replica::wire::Write;
use crate::replica::{Key, Value};
use crate::router::Router;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use super::directory::{self, NodeCopies};
use super::peers::{PeerError, Peers, ReadCall, SearchCall, WriteCall};
use super::store::ShardStore;

/// How long a request may wait for a primary: a failover with the default failure_timeout of 5 s, and some more.
pub const HOLD_MS: u64 = 10_000;
/// Most writes to one shard that a request has under way.
const WRITES_AT_A_TIME: usize = 256;
/// Most shards that a request is working on.
const SHARDS_AT_A_TIME: usize = 64;
/// A wait for a newer map, which is asked for; after it the same primary is asked again: it may just have opened.
const MAP_WAIT_MS: u64 = 50;
/// The same where a refusal said whom to ask next under the epoch that was asked for already; two nodes may name each other
/// until both know better. Who is named under a higher one is asked at once: epochs rise, so that comes to an end.
const HINT_WAIT_MS: u64 = 5;
/// An answer of a primary that is none any more is waited for so much longer. One that hands over answers within milliseconds; one
/// that is paused, or cut off, would be waited for until its connection counts as dead.
const SUPERSEDED_WAIT_MS: u64 = 300;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// The asker's epoch of the shard is older than this one.
    #[error("the shard's epoch is {0}")]
    StaleEpoch(Epoch),
    /// No primary answered in time. Nothing was done, or (a batch) not all.
    #[error("{0}")]
    Unavailable(String),
    /// Some writes may or may not take effect.
    #[error("the outcome of some writes is unknown; they may be repeated")]
    Unknown,
}

/// The HTTP status that says so, and a sentence: what many HTTP frameworks take for an answer.
impl From<GatewayError> for (http::StatusCode, String) {
    fn from(error: GatewayError) -> Self {
        let status = match error {
            GatewayError::StaleEpoch(_) => http::StatusCode::CONFLICT,
            GatewayError::Unavailable(_) => http::StatusCode::SERVICE_UNAVAILABLE,
            GatewayError::Unknown => http::StatusCode::GATEWAY_TIMEOUT,
        };
        (status, error.to_string())
    }
}

/// Routes clients' requests.
pub(super) struct Gateway<S: ShardStore> {
    node: NodeId,
    router: Router,
    copies: Arc<NodeCopies<S>>,
    peers: Peers,
}

/// Who is to be asked about a shard.
#[derive(Clone, Debug)]
struct Target {
    node: NodeId,
    addr: String,
    epoch: Epoch,
}

impl Target {
    /// Whom to ask after this refusal of this target, where it says so: the primary that it names, or, where it only
    /// knows a newer epoch, itself under that one.
    fn after<T>(&self, refusal: &Outcome<T>) -> Option<Self> {
        match refusal {
            Outcome::NotPrimary { epoch, primary: Some(primary) } => {
                Some(Self { node: primary.node.clone(), addr: primary.addr.clone(), epoch: *epoch })
            }
            Outcome::StaleEpoch { epoch } if *epoch > self.epoch => {
                Some(Self { epoch: *epoch, ..self.clone() })
            }
            Outcome::NotPrimary { primary: None, .. }
            | Outcome::StaleEpoch { .. }
            | Outcome::Done { .. }
            | Outcome::Unavailable
            | Outcome::Unknown => None,
        }
    }
}

/// Shards with one primary.
struct Led {
    addr: String,
    /// With the epochs that they are routed by.
    shards: Vec<(ShardId, Option<Epoch>)>,
}

/// One request's patience.
struct Attempts {
    deadline: Instant,
    seen: Option<Revision>,
    /// A primary that a refusal named, newer than the map.
    hint: Option<Target>,
    /// The epoch under which somebody was asked last.
    asked: Epoch,
}

impl Attempts {
    fn new() -> Self {
        Self {
            deadline: Instant::now() + Duration::from_millis(HOLD_MS),
            seen: None,
            hint: None,
            asked: Epoch(0),
        }
    }

    fn left_ms(&self) -> u64 {
        u64::try_from((self.deadline - Instant::now().min(self.deadline)).as_millis()).unwrap_or(0)
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

impl<S: ShardStore> Gateway<S> {
    /// A gateway of `node`.
    pub(super) fn new(node: NodeId, router: Router, copies: Arc<NodeCopies<S>>, peers: Peers) -> Self {
        Self { node, router, copies, peers }
    }

    /// Writes each point or (no value) deletes it, once every in-sync copy has it on disk. Of a shard's writes the last
    /// epoch is told when all are of one shard.
    ///
    /// # Errors
    /// [`GatewayError`]; some of the writes may have been done.
    pub(super) async fn write(
        &self,
        points: Vec<(Key, Option<Value>)>,
        epoch: Option<Epoch>,
    ) -> Result<Option<Epoch>, GatewayError> {
        let mut by_shard: BTreeMap<ShardId, Vec<Write>> = BTreeMap::new();
        for (key, value) in points {
            let shard = self.shard_of(&key).await?;
            let write = Write { position: Position::default(), key, value };
            by_shard.entry(shard).or_default().push(write);
        }
        let alone = by_shard.len() == 1;
        let each = by_shard.into_iter().map(|(shard, writes)| self.write_shard(shard, writes, epoch));
        let done: Vec<Result<Epoch, GatewayError>> =
            stream::iter(each).buffer_unordered(SHARDS_AT_A_TIME).collect().await;
        let mut last = None;
        for result in done {
            last = Some(result?);
        }
        Ok(last.filter(|_| alone))
    }

    /// The value of `key` at its shard's primary, and the epoch under which it was read.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub(super) async fn read(
        &self,
        key: &Key,
        epoch: Option<Epoch>,
    ) -> Result<(Epoch, Option<Value>), GatewayError> {
        let shard = self.shard_of(key).await?;
        let mut attempts = Attempts::new();
        while !attempts.is_over() {
            let target = self.target(shard, &mut attempts, epoch)?;
            let outcome = match &target {
                None => Outcome::Unavailable,
                Some(target) if target.node == self.node => {
                    directory::read(&self.copies, shard, Some(target.epoch), key.clone()).await
                }
                Some(target) => {
                    let call = ReadCall { epoch: Some(target.epoch), key: key.clone() };
                    let read = self.peers.read(&target.addr, shard, &call, attempts.left_ms());
                    let read = self.while_it_leads(shard, target, read).await;
                    read.and_then(Result::ok).unwrap_or(Outcome::Unavailable)
                }
            };
            if let Outcome::Done { epoch, body } = outcome {
                return Ok((epoch, body.value));
            }
            attempts.hint = target.and_then(|target| target.after(&outcome));
            self.wait_for_map(&attempts).await;
        }
        Err(unavailable(shard))
    }

    /// What `query` finds, shard by shard: in all of them, never in some only.
    ///
    /// # Errors
    /// [`GatewayError::Unavailable`] when a shard could not be searched in time.
    pub(super) async fn search(&self, query: S::Query) -> Result<Vec<S::Found>, GatewayError> {
        let mut attempts = Attempts::new();
        let count = self.num_shards(&attempts).await?;
        let mut pending: Vec<ShardId> = (0..count).map(ShardId).collect();
        let mut hints: BTreeMap<ShardId, Target> = BTreeMap::new();
        let mut found = Vec::new();
        let query = Arc::new(query);
        while !pending.is_empty() && !attempts.is_over() {
            attempts.hint = None;
            let left_ms = attempts.left_ms();
            let asked =
                self.by_primary(&pending, &mut hints, &mut attempts)?.into_iter().map(|(node, at)| {
                    let query = query.clone();
                    async move { self.search_node(node, at, query, left_ms).await }
                });
            for (target, shard, outcome) in join_all(asked).await.into_iter().flatten() {
                if let Some(next) = target.after(&outcome) {
                    attempts.hint = Some(next.clone());
                    hints.insert(shard, next);
                }
                if let Outcome::Done { body, .. } = outcome {
                    found.push(body);
                    pending.retain(|other| *other != shard);
                }
            }
            if !pending.is_empty() {
                self.wait_for_map(&attempts).await;
            }
        }
        match pending.first() {
            Some(shard) => Err(unavailable(*shard)),
            None => Ok(found),
        }
    }

    /// The shards that have a primary now, by its node.
    fn by_primary(
        &self,
        shards: &[ShardId],
        hints: &mut BTreeMap<ShardId, Target>,
        attempts: &mut Attempts,
    ) -> Result<BTreeMap<NodeId, Led>, GatewayError> {
        let mut by_node: BTreeMap<NodeId, Led> = BTreeMap::new();
        for shard in shards {
            attempts.hint = hints.remove(shard);
            if let Some(target) = self.target(*shard, attempts, None)? {
                let led = by_node.entry(target.node).or_insert(Led { addr: target.addr, shards: Vec::new() });
                led.shards.push((*shard, Some(target.epoch)));
            }
        }
        Ok(by_node)
    }

    /// Searches shards that are here; outcomes in their order.
    pub(super) async fn search_here(
        &self,
        shards: Vec<(ShardId, Option<Epoch>)>,
        query: Arc<S::Query>,
    ) -> Vec<Outcome<S::Found>> {
        let each = shards
            .into_iter()
            .map(|(shard, epoch)| directory::search(&self.copies, shard, epoch, query.clone()));
        stream::iter(each).buffered(SHARDS_AT_A_TIME).collect().await
    }

    async fn search_node(
        &self,
        node: NodeId,
        Led { addr, shards }: Led,
        query: Arc<S::Query>,
        left_ms: u64,
    ) -> Vec<(Target, ShardId, Outcome<S::Found>)> {
        let asked = shards.clone();
        let outcomes = if node == self.node {
            self.search_here(shards, query).await
        } else {
            let call = SearchCall { query: &*query, shards };
            let answered = self.peers.search(&addr, &call, left_ms.min(HOLD_MS / 2)).await;
            answered.unwrap_or_else(|_| asked.iter().map(|_| Outcome::Unavailable).collect())
        };
        let target = |epoch: Option<Epoch>| Target {
            node: node.clone(),
            addr: addr.clone(),
            epoch: epoch.unwrap_or_default(),
        };
        asked
            .into_iter()
            .zip(outcomes)
            .map(|((shard, epoch), outcome)| (target(epoch), shard, outcome))
            .collect()
    }

    async fn write_shard(
        &self,
        shard: ShardId,
        writes: Vec<Write>,
        epoch: Option<Epoch>,
    ) -> Result<Epoch, GatewayError> {
        let mut attempts = Attempts::new();
        let mut last = Epoch(0);
        let mut rest = writes;
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(WRITES_AT_A_TIME));
            let mut part = rest;
            while !part.is_empty() {
                if attempts.is_over() {
                    return Err(unavailable(shard));
                }
                let target = self.target(shard, &mut attempts, epoch)?;
                let outcomes = self.try_writes(shard, &part, &attempts, target.as_ref()).await;
                if outcomes.contains(&Outcome::Unknown) {
                    return Err(GatewayError::Unknown);
                }
                let mut refused = None;
                let mut undone = Vec::new();
                for (write, outcome) in part.into_iter().zip(outcomes) {
                    match outcome {
                        Outcome::Done { epoch, .. } => last = last.max(epoch),
                        outcome => {
                            undone.push(write);
                            refused = Some(outcome);
                        }
                    }
                }
                part = undone;
                if let Some(refused) = refused {
                    attempts.hint = target.and_then(|target| target.after(&refused));
                    self.wait_for_map(&attempts).await;
                }
            }
            rest = later;
        }
        Ok(last)
    }

    /// Asks once; of an answer that never came it is said what that means for each write.
    async fn try_writes(
        &self,
        shard: ShardId,
        writes: &[Write],
        attempts: &Attempts,
        target: Option<&Target>,
    ) -> Vec<Outcome<Position>> {
        let none_done = || vec![Outcome::Unavailable; writes.len()];
        let Some(target) = target else { return none_done() };
        if target.node == self.node {
            return self.copies.write(shard, Some(target.epoch), writes.to_vec()).await;
        }
        let call = WriteCall { epoch: Some(target.epoch), writes: writes.to_vec() };
        let written = self.peers.write(&target.addr, shard, &call, attempts.left_ms().max(1));
        match self.while_it_leads(shard, target, written).await {
            Some(Ok(outcomes)) if outcomes.len() == writes.len() => outcomes,
            Some(Err(PeerError::NotReached(_))) => none_done(),
            None | Some(Ok(_) | Err(PeerError::NoAnswer(_) | PeerError::Status(_))) => {
                vec![Outcome::Unknown; writes.len()]
            }
        }
    }

    /// What `call` to `target` comes to; `None` where another has led the shard for a while and it has not come to anything.
    async fn while_it_leads<T>(
        &self,
        shard: ShardId,
        target: &Target,
        call: impl Future<Output = T>,
    ) -> Option<T> {
        let superseded = async {
            let mut held = self.router.cache().subscribe();
            let is_led_on = || {
                let map = self.router.cache().get()?;
                let row = map::shard_of(&map, shard)?;
                let primary = row.primary();
                Some(row.epoch > target.epoch && primary.is_none_or(|primary| *primary.id != target.node))
            };
            if held.wait_for(|_| is_led_on() == Some(true)).await.is_err() {
                // Nothing is heard of it any more: the node stops.
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(SUPERSEDED_WAIT_MS)).await;
        };
        tokio::select! {
            biased;
            answered = call => Some(answered),
            () = superseded => None,
        }
    }

    /// Who is to be asked now, if anybody is known.
    fn target(
        &self,
        shard: ShardId,
        attempts: &mut Attempts,
        asked_epoch: Option<Epoch>,
    ) -> Result<Option<Target>, GatewayError> {
        let held = self.router.cache().get();
        attempts.seen = held.as_ref().map(|map| map.revision);
        let known = held.and_then(|map| map::shard_of(&map, shard).map(|row| row.epoch)).unwrap_or_default();
        if let Some(asked) = asked_epoch.filter(|asked| *asked < known) {
            tracing::debug!(%shard, %asked, %known, "a client's epoch is older");
            return Err(GatewayError::StaleEpoch(known));
        }
        let hint = attempts.hint.take().filter(|hint| hint.epoch >= known);
        let routed = || {
            let primary = self.router.primary(shard)?;
            Some(Target { node: primary.id, addr: primary.addr, epoch: known })
        };
        let target = hint.or_else(routed);
        attempts.asked = target.as_ref().map_or(attempts.asked, |target| target.epoch);
        Ok(target)
    }

    /// Before the next try.
    async fn wait_for_map(&self, attempts: &Attempts) {
        let wait_ms = match &attempts.hint {
            Some(hint) if hint.epoch > attempts.asked => return,
            Some(_) => HINT_WAIT_MS,
            None => MAP_WAIT_MS,
        };
        self.router.refresh(attempts.seen, wait_ms.min(attempts.left_ms())).await;
    }

    async fn shard_of(&self, key: &str) -> Result<ShardId, GatewayError> {
        let count = self.num_shards(&Attempts::new()).await?;
        Ok(crate::hashing::shard_of_key(key, count))
    }

    /// From the map, for which a node that has just started waits.
    async fn num_shards(&self, attempts: &Attempts) -> Result<u32, GatewayError> {
        loop {
            if let Some(map) = self.router.cache().get() {
                return Ok(map.num_shards);
            }
            if attempts.is_over() {
                return Err(GatewayError::Unavailable("no shard map could be read yet".to_owned()));
            }
            self.router.newer_than(None, attempts.left_ms()).await;
        }
    }
}

fn unavailable(shard: ShardId) -> GatewayError {
    GatewayError::Unavailable(format!("no primary of shard {shard} answered within {HOLD_MS} ms"))
}
