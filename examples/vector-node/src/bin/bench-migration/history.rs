//! Clients that write and read a few keys of each shard, all of them all keys, and what they saw: a history that the checkers
//! judge.
//!
//! Event numbers come from one counter, drawn before a request is sent and after its answer was read, so an operation that
//! ended before another one began has the lower number.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use ruvector_cluster_check::history::{DataAct, DataOp, DataRead, DataWriteOutcome, Span};
use ruvector_cluster_check::wgl::{self, Bounds};
use ruvector_cluster_client::ids::{Epoch, NodeId, Position, ShardId};
use tokio::task::JoinSet;

use crate::client::DataClient;
use crate::keys::{KeyIndex, Written};
use crate::load::Targets;

/// Between two operations of one client.
const PAUSE: Duration = Duration::from_millis(8);

/// Everything that was done; clones share it.
#[derive(Clone)]
pub(crate) struct History {
    events: Arc<AtomicU64>,
    ops: Arc<Mutex<Vec<DataOp>>>,
    process: Arc<AtomicU32>,
    /// Which node answered is not told, nor at which position; the checker used here looks at neither.
    unnamed: NodeId,
}

impl History {
    /// It begins with the values that the keys have, as written by one client before all others.
    pub(crate) fn begin(client: &DataClient) -> Result<Self> {
        let history = Self {
            events: Arc::new(AtomicU64::new(1)),
            ops: Arc::default(),
            process: Arc::new(AtomicU32::new(1)),
            unnamed: NodeId::new("any")?,
        };
        for key in (0..client.keys().shards()).flat_map(|shard| client.keys().judged(ShardId(shard))) {
            let (call, returned) = (history.event(), history.event());
            let value = client.keys().versions(key).acknowledged;
            let act = history.written(value, Written::Yes, None);
            history.push(client, 0, Span::new(call, returned), key, act);
        }
        Ok(history)
    }

    /// A client that has done nothing yet.
    pub(crate) fn process(&self) -> u32 {
        self.process.fetch_add(1, Ordering::SeqCst)
    }

    fn event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<DataOp>> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, client: &DataClient, process: u32, span: Span, key: KeyIndex, act: DataAct) {
        let keys = client.keys();
        let (shard, key) = (keys.shard(key), keys.name(key).to_owned());
        self.lock().push(DataOp { process, span, shard, key, act });
    }

    /// A write, sent to `addr`; what came of it.
    pub(crate) async fn write(
        &self,
        client: &DataClient,
        process: u32,
        addr: &str,
        key: KeyIndex,
    ) -> Written {
        let version = client.keys().attempt_judged(key);
        let call = self.event();
        let (outcome, epoch) = client.write(addr, key, version).await;
        let span = Span::new(call, self.event());
        self.push(client, process, span, key, self.written(version, outcome, epoch));
        outcome
    }

    /// A read, sent to `addr`.
    pub(crate) async fn read(&self, client: &DataClient, process: u32, addr: &str, key: KeyIndex) {
        let call = self.event();
        let read = client.fetch(addr, key).await;
        let span = Span::new(call, self.event());
        let read = read.map(|(version, epoch)| DataRead {
            by: self.unnamed.clone(),
            epoch: epoch.unwrap_or_default(),
            value: version.map(|version| version.to_string()),
            position: None,
        });
        self.push(client, process, span, key, DataAct::Read(read));
    }

    /// Starts `count` clients that ask any of `targets`, until `stop`.
    pub(crate) fn start_clients(
        &self,
        count: u32,
        client: &DataClient,
        targets: &Targets,
        stop: &Arc<AtomicBool>,
    ) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for _ in 0..count {
            let (history, client, targets) = (self.clone(), client.clone(), targets.clone());
            let (process, stop) = (self.process(), stop.clone());
            clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (key, is_write) = draw(&client);
                    if is_write {
                        history.write(&client, process, &targets.any(), key).await;
                    } else {
                        history.read(&client, process, &targets.any(), key).await;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        clients
    }

    /// How many operations, and what is wrong with them: an order of each key's operations must explain every answer.
    pub(crate) fn judge(&self) -> (usize, Vec<String>) {
        let ops = self.lock();
        let violations = wgl::check_data(&ops, Bounds::default());
        (ops.len(), violations.iter().map(ToString::to_string).collect())
    }

    fn written(&self, version: u32, outcome: Written, epoch: Option<Epoch>) -> DataAct {
        let outcome = match outcome {
            Written::Yes => DataWriteOutcome::Acknowledged {
                by: self.unnamed.clone(),
                position: Position { epoch: epoch.unwrap_or_default(), n: 0 },
            },
            Written::No => DataWriteOutcome::NotDone,
            Written::Unknown => DataWriteOutcome::Unknown,
        };
        DataAct::Write { value: version.to_string(), outcome }
    }
}

fn draw(client: &DataClient) -> (KeyIndex, bool) {
    let keys = client.keys();
    let mut chance = rand::rng();
    let judged = keys.judged(ShardId(chance.random_range(0..keys.shards())));
    (chance.random_range(judged), chance.random_bool(0.5))
}
