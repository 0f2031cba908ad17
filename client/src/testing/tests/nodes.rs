//! Data nodes in this process: copies in memory, a network that is a map, and one coordinator.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::SHARD;
use crate::agent::{Agent, AgentConfig, HostError, LeaseWatch, Outbox};
use crate::clock::Clock;
use crate::copies::{Blocking, BlockingStore, Copies, CopySize, Messenger, NodeStore, Outcome, Parts, Spawn};
use crate::ids::{Epoch, NodeId, Position, ShardId};
use crate::replica::memory::MemoryStore;
use crate::replica::store::{ReplicaStore, StoreError, StoreState};
use crate::replica::wire::{Alignment, Answer, Chunk, Request, Write};
use crate::replica::{Key, Value};
use crate::testing::{Coordinator, CoordinatorOptions};
use crate::wire::NodeAddr;

pub(super) fn name(n: u64) -> NodeId {
    NodeId::new(&format!("d{n}")).unwrap()
}

struct TestClock(Instant);

impl Clock for TestClock {
    fn boot_ms(&self) -> u64 {
        1_000 + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
    fn wall_ms(&self) -> u64 {
        0
    }
}

/// A copy that outlives its node's process.
pub(super) struct Store(Arc<MemoryStore>);

impl ReplicaStore for Store {
    fn state(&self) -> Result<Option<StoreState>, StoreError> {
        self.0.state()
    }
    fn get(&self, key: &str) -> Result<Option<Value>, StoreError> {
        self.0.get(key)
    }
    fn create(&self) -> Result<(), StoreError> {
        self.0.create()
    }
    fn adopt(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.0.adopt(epoch)
    }
    fn append(&self, writes: &[Write]) -> Result<(), StoreError> {
        self.0.append(writes)
    }
    fn align(&self, alignment: &Alignment) -> Result<(), StoreError> {
        self.0.align(alignment)
    }
    fn begin_fill(&self, base: Position) -> Result<(), StoreError> {
        self.0.begin_fill(base)
    }
    fn fill_range(&self, epoch: Epoch, base: Position, chunk: &Chunk) -> Result<(), StoreError> {
        self.0.fill_range(epoch, base, chunk)
    }
    fn end_fill(&self) -> Result<(), StoreError> {
        self.0.end_fill()
    }
    fn read_keys(&self, keys: &[Key]) -> Result<Vec<Write>, StoreError> {
        self.0.read_keys(keys)
    }
    fn read_chunk(
        &self,
        after: Option<&Key>,
        until: Option<&Key>,
        max_bytes: u64,
    ) -> Result<Chunk, StoreError> {
        self.0.read_chunk(after, until, max_bytes)
    }
    fn delete(&self) -> Result<(), StoreError> {
        self.0.delete()
    }
}

impl BlockingStore for Store {
    fn size(&self) -> Option<CopySize> {
        let vectors = self.0.copy()?.writes.len() as u64;
        Some(CopySize { vectors, bytes: 10 * vectors })
    }
}

/// A node's disk, which outlives its process.
#[derive(Clone, Default)]
pub(super) struct Disk {
    stores: Arc<Mutex<BTreeMap<ShardId, Arc<MemoryStore>>>>,
    generation: Arc<AtomicU64>,
}

#[async_trait]
impl NodeStore for Disk {
    type Copy = Blocking<Store>;

    async fn shards(&self) -> Result<Vec<ShardId>, HostError> {
        Ok(self.stores.lock().unwrap().keys().copied().collect())
    }
    async fn open(&self, shard: ShardId) -> Result<Self::Copy, HostError> {
        let mut stores = self.stores.lock().unwrap();
        let store = stores.entry(shard).or_insert_with(|| Arc::new(MemoryStore::from(None)));
        Ok(Blocking::new(Store(store.clone())))
    }
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
    async fn save_generation(&self, generation: u64) -> Result<(), HostError> {
        self.generation.store(generation, Ordering::SeqCst);
        Ok(())
    }
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

/// Who is at which address.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<BTreeMap<String, Weak<Copies<Disk>>>>>);

#[async_trait]
impl Messenger for Net {
    async fn message(
        &self,
        to: &NodeAddr,
        shard: ShardId,
        from: &NodeId,
        request: Request,
    ) -> Option<Answer> {
        let copies = self.0.lock().unwrap().get(&to.addr)?.upgrade()?;
        Some(copies.message(shard, from.clone(), request).await)
    }
}

/// The tasks of a process: they end with it.
#[derive(Default)]
struct Tasks(Mutex<Vec<AbortOnDropHandle<()>>>);

impl Spawn for Tasks {
    fn spawn(&self, _what: &str, future: BoxFuture<'static, ()>) {
        self.0.lock().unwrap().push(AbortOnDropHandle::new(tokio::spawn(future)));
    }
}

struct Process {
    copies: Arc<Copies<Disk>>,
    lease: LeaseWatch,
    tasks: Arc<Tasks>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.tasks.0.lock().unwrap().clear();
    }
}

pub(super) struct Cluster {
    pub(super) coordinator: Coordinator,
    net: Net,
    disks: BTreeMap<u64, Disk>,
    processes: BTreeMap<u64, Process>,
}

/// Tries until it is so.
pub(super) async fn retried<F: Future<Output = bool>>(attempt: impl Fn() -> F) {
    for _ in 0..5_000 {
        if attempt().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("in vain");
}

impl Cluster {
    /// `count` nodes with shards of two copies, all opened.
    pub(super) async fn start(count: u64) -> Self {
        let coordinator = Coordinator::new(CoordinatorOptions::default());
        let (net, disks, processes) = (Net::default(), BTreeMap::new(), BTreeMap::new());
        let mut cluster = Self { coordinator, net, disks, processes };
        for n in 1..=count {
            cluster.restart(n).await;
        }
        cluster.coordinator.until("registrations", |c| (1..=count).all(|n| c.node(&name(n)).is_some())).await;
        cluster.coordinator.found();
        cluster.coordinator.until_opened().await;
        cluster
    }

    pub(super) async fn restart(&mut self, n: u64) {
        let disk = self.disks.entry(n).or_default().clone();
        let clock = Arc::new(TestClock(Instant::now()));
        let (lease, (reporter, outbox)) = (LeaseWatch::new(clock.clone()), Outbox::new());
        let tasks = Arc::new(Tasks::default());
        let parts = Parts {
            node: name(n),
            clock: clock.clone(),
            lease: lease.clone(),
            reporter,
            messenger: Arc::new(self.net.clone()),
            spawn: tasks.clone(),
        };
        let copies = Copies::open(parts, disk).await.unwrap();
        self.net.0.lock().unwrap().insert(format!("d{n}:1"), Arc::downgrade(&copies));
        let registration = format!(r#"{{"addr":"d{n}:1","store_id":"s{n}"}}"#);
        let config = AgentConfig::new(name(n), serde_json::from_str(&registration).unwrap());
        let client = self.coordinator.client().unwrap();
        let agent = Agent::new(config, client, copies.clone(), clock, lease.clone(), outbox);
        let running = async { agent.run(CancellationToken::new()).await.unwrap() };
        tasks.spawn("the agent", Box::pin(running));
        self.processes.insert(n, Process { copies, lease, tasks });
    }

    /// As SIGKILL does.
    pub(super) fn kill(&mut self, n: u64) {
        self.net.0.lock().unwrap().remove(&format!("d{n}:1"));
        assert!(self.processes.remove(&n).is_some());
    }

    /// Nothing is left on its disk, but for its name.
    pub(super) fn wipe(&mut self, n: u64) {
        self.disks.insert(n, Disk::default());
    }

    pub(super) fn lease(&self, n: u64) -> &LeaseWatch {
        &self.processes[&n].lease
    }

    fn primary(&self) -> Option<&Process> {
        let primary = self.coordinator.shard(SHARD)?.primary?;
        self.processes.iter().find(|(n, _)| name(**n) == primary).map(|(_, process)| process)
    }

    pub(super) async fn write_once(&self, key: &str) -> Outcome<Position> {
        let Some(process) = self.primary() else { return Outcome::Unavailable };
        let write = Write { position: Position::default(), key: key.into(), value: Some("v".into()) };
        process.copies.write(SHARD, None, vec![write]).await.pop().unwrap()
    }

    /// Writes to shard 0 wherever its primary is, until that is acknowledged.
    pub(super) async fn write(&self, key: &str) {
        retried(|| async { matches!(self.write_once(key).await, Outcome::Done { .. }) }).await;
    }

    /// Whether the primary of shard 0 has the key.
    pub(super) async fn has(&self, key: &str) -> bool {
        for _ in 0..5_000 {
            let read = |store: Arc<Blocking<Store>>| {
                let key = key.to_owned();
                async move { store.run(move |store| store.get(&key)).await?.ok() }
            };
            if let Some(process) = self.primary()
                && let Outcome::Done { body, .. } = process.copies.read_with(SHARD, None, read).await
            {
                return body.is_some();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no primary answers for {key}");
    }
}
