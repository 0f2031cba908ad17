//! All shards of a node: what the agent drives ([`ShardHost`]), and what is done for nodes and clients that ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ruvector_cluster_client::agent::{AssignmentUpdate, HostError, ShardHost};
use ruvector_cluster_client::ids::{Epoch, Incarnation, Position, ShardId, Thousandths};
use ruvector_cluster_client::replica::event::{Operation, Refusal, Reply, ReportOutcome};
use ruvector_cluster_client::replica::wire::{Answer, Write};
use ruvector_cluster_client::replica::{Key, ReportId, Status, Value};
use ruvector_cluster_client::wire::{HeldShard, Report, ReportResult};
use tokio::sync::oneshot;

use super::message::{Act, Message, Told, decode, encode};
use super::shard::{Input, ShardHandle, Shared};
use crate::net::DataService;

/// How often a read that lost its primary's authority between reading and answering is tried again here.
const MAX_READ_TRIES: usize = 3;
/// What a disk of a data node is said to have free.
const FREE_BYTES: u64 = 1 << 40;

/// The node's shards.
pub(crate) struct Shards {
    shared: Arc<Shared>,
    /// All shards that are or were assigned, or have a copy.
    all: Mutex<BTreeMap<ShardId, ShardHandle>>,
    assigned: Mutex<BTreeSet<ShardId>>,
    /// Requests answered up to the last heartbeat.
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    at_ms: u64,
    reads_and_writes: BTreeMap<ShardId, (u64, u64)>,
}

fn unpoison<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shards {
    /// Opens all copies on the disk.
    pub(crate) fn open(shared: Arc<Shared>) -> Arc<Self> {
        let found = shared.disk.shards();
        let shards = Arc::new(Self {
            shared,
            all: Mutex::default(),
            assigned: Mutex::default(),
            counted: Mutex::default(),
        });
        for shard in found {
            shards.start(shard);
        }
        shards
    }

    fn get(&self, shard: ShardId) -> Option<ShardHandle> {
        unpoison(&self.all).get(&shard).cloned()
    }

    fn all(&self) -> Vec<(ShardId, ShardHandle)> {
        unpoison(&self.all).iter().map(|(shard, handle)| (*shard, handle.clone())).collect()
    }

    fn start(&self, shard: ShardId) -> ShardHandle {
        if let Some(handle) = self.get(shard) {
            return handle;
        }
        let handle = ShardHandle::start(self.shared.clone(), shard);
        unpoison(&self.all).insert(shard, handle.clone());
        handle
    }

    /// The standing of each.
    pub(crate) fn statuses(&self) -> Vec<(ShardId, Status)> {
        self.all().into_iter().map(|(shard, handle)| (shard, handle.status())).collect()
    }

    async fn answer(&self, message: Message) -> Told {
        match message {
            Message::Peer { shard, from, request } => {
                let Some(handle) = self.get(shard) else { return Told::Peer(Answer::NoCopy) };
                let (answer, answered) = oneshot::channel();
                handle.tell(Input::Message { from, request, answer }).await;
                Told::Peer(answered.await.unwrap_or(Answer::NoCopy))
            }
            Message::Client { shard, epoch, key, act, patience_ms } => {
                let acting = self.act(shard, epoch, key.as_str().into(), act);
                // A client that hangs up is gone here, too.
                let acted = tokio::time::timeout(Duration::from_millis(patience_ms), acting).await;
                acted.unwrap_or(Told::Unknown)
            }
        }
    }

    async fn act(&self, shard: ShardId, epoch: Option<Epoch>, key: Key, act: Act) -> Told {
        let value = match act {
            Act::Get => return self.read(shard, epoch, &key).await,
            Act::Put(value) => Some(Value::from(value)),
            Act::Delete => None,
        };
        let Some(handle) = self.get(shard) else { return nowhere() };
        match handle.operate(epoch, Operation::Write { key, value }).await {
            Reply::Written { position } => Told::Written(position),
            Reply::Refused(refusal) => refusal.into(),
            Reply::ReadAt { .. } => panic!("a write was answered as a read"),
        }
    }

    /// Asks the replica, reads, and asks it again whether what was read may be answered.
    async fn read(&self, shard: ShardId, epoch: Option<Epoch>, key: &Key) -> Told {
        let Some(handle) = self.get(shard) else { return nowhere() };
        for _ in 0..MAX_READ_TRIES {
            let led = match handle.operate(epoch, Operation::Read).await {
                Reply::ReadAt { epoch } => epoch,
                Reply::Refused(Refusal::OutcomeUnknown) => return unavailable(),
                Reply::Refused(refusal) => return refusal.into(),
                Reply::Written { .. } => panic!("a read was answered as a write"),
            };
            // Reading takes as long before it happens as after it.
            tokio::time::sleep(self.shared.disk.sync_time() / 4).await;
            let Some(write) = self.shared.disk.read(shard, key) else { return unavailable() };
            tokio::time::sleep(self.shared.disk.sync_time() / 4).await;
            if handle.confirms_read(led).await {
                return told_of(led, &write);
            }
        }
        unavailable()
    }

    async fn tell_all(&self, inputs: Vec<(ShardHandle, Input)>, acknowledged: Vec<oneshot::Receiver<()>>) {
        for (handle, input) in inputs {
            handle.tell(input).await;
        }
        for done in acknowledged {
            if done.await.is_err() {
                self.shared.failures.add(format!("{}: a shard's task has ended", self.shared.node));
            }
        }
    }
}

fn told_of(epoch: Epoch, write: &Write) -> Told {
    let there = write.position > Position::default();
    let value = write.value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned());
    Told::Read { epoch, position: there.then_some(write.position), value }
}

fn nowhere() -> Told {
    Told::Refused { epoch: Some(Epoch(0)), primary: None }
}

fn unavailable() -> Told {
    Refusal::Unavailable.into()
}

#[async_trait]
impl DataService for Shards {
    async fn serve(&self, message: Bytes) -> Bytes {
        let who = format!("{}: answering", self.shared.node);
        let told = self.shared.failures.watch(&who, async {
            let message: Message = decode(&message).expect("what nodes and clients send can be read");
            self.answer(message).await
        });
        // After a panic nobody knows what was done.
        encode(&told.await.unwrap_or(Told::Unknown))
    }
}

#[async_trait]
impl ShardHost for Shards {
    fn generation(&self) -> u64 {
        self.shared.disk.generation()
    }

    async fn save_generation(&self, generation: u64) -> Result<(), HostError> {
        self.shared.disk.save_generation(self.shared.life, generation).await;
        Ok(())
    }

    async fn pause(&self) {
        let (mut inputs, mut acknowledged) = (Vec::new(), Vec::new());
        for (_, handle) in self.all() {
            let (done, acknowledge) = oneshot::channel();
            inputs.push((handle, Input::LeaseLost(done)));
            acknowledged.push(acknowledge);
        }
        self.tell_all(inputs, acknowledged).await;
    }

    async fn begin(&self, incarnation: Incarnation) {
        tracing::info!(node = %self.shared.node, %incarnation, "a session begins");
    }

    async fn install(&self, update: &AssignmentUpdate) -> Result<(), HostError> {
        let (mut inputs, mut acknowledged) = (Vec::new(), Vec::new());
        for shard in &update.changed {
            let Some(assignment) = update.all.get(shard) else { continue };
            let (done, acknowledge) = oneshot::channel();
            inputs.push((self.start(*shard), Input::Assigned(Box::new(assignment.clone()), done)));
            acknowledged.push(acknowledge);
        }
        // Also what an earlier session was assigned, of which the update knows nothing.
        let left: Vec<ShardId> = {
            let mut assigned = unpoison(&self.assigned);
            let left = assigned.iter().filter(|shard| !update.all.contains_key(shard)).copied().collect();
            *assigned = update.all.keys().copied().collect();
            left
        };
        for handle in left.into_iter().filter_map(|shard| self.get(shard)) {
            let (done, acknowledge) = oneshot::channel();
            inputs.push((handle, Input::Unassigned(done)));
            acknowledged.push(acknowledge);
        }
        self.tell_all(inputs, acknowledged).await;
        Ok(())
    }

    fn held(&self) -> Vec<HeldShard> {
        let now_ms = self.shared.clock.boot_ms();
        let mut counted = unpoison(&self.counted);
        let passed_ms = now_ms.saturating_sub(counted.at_ms).max(1);
        let mut held = Vec::new();
        for (shard, handle) in self.all() {
            let status = handle.status();
            let size = self.shared.disk.size(shard).filter(|_| status.held);
            let Some((vectors, size_bytes)) = size else { continue };
            let reads = handle.counts.reads.load(Ordering::Relaxed);
            let writes = handle.counts.writes.load(Ordering::Relaxed);
            let before = counted.reads_and_writes.insert(shard, (reads, writes)).unwrap_or((reads, writes));
            // Thousandths a second are requests a millisecond, a million times.
            let rate = |now: u64, then: u64| {
                Thousandths(now.saturating_sub(then).saturating_mul(1_000_000) / passed_ms)
            };
            held.push(HeldShard {
                id: shard,
                epoch: status.position.epoch,
                position: status.position.n,
                size_bytes,
                vectors,
                reads_per_s: rate(reads, before.0),
                writes_per_s: rate(writes, before.1),
                filling: status.filling,
            });
        }
        counted.at_ms = now_ms;
        held
    }

    fn disk_free_bytes(&self) -> Option<u64> {
        Some(FREE_BYTES)
    }

    async fn reported(&self, tag: u64, report: &Report, result: &ReportResult) {
        let code = || result.code.clone().unwrap_or_else(|| "refused".to_owned());
        let outcome = if result.accepted { ReportOutcome::Accepted } else { ReportOutcome::Refused(code()) };
        if let Some(handle) = self.get(report.shard) {
            handle.tell(Input::Reported(ReportId(tag), outcome)).await;
        }
    }
}
