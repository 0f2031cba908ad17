//! Nodes to test the shell with: their disks are in memory, their network is a map, and the test is the coordinator.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::agent::{AssignmentUpdate, HostError, LeaseWatch, Outbox, ShardHost};
use crate::clock::Clock;
use crate::copies::{Blocking, BlockingStore, Copies, CopySize, Messenger, NodeStore, Outcome, Parts, Spawn};
use crate::ids::{Epoch, Incarnation, MigrationId, NodeId, Position, Revision, ShardId};
use crate::replica::memory::{MemoryCopy, MemoryStore};
use crate::replica::store::{ReplicaStore, StoreAction, StoreError, StoreResult, StoreState};
use crate::replica::wire::{Alignment, Answer, Chunk, Request, Write};
use crate::replica::{Key, Value};
use crate::wire::{
    AssignedMigration, Assignment, CopyInfo, MigrationKind, NodeAddr, Phase, Report, ReportResult, Role,
};

pub(super) const SHARD: ShardId = ShardId(0);

/// The boot clock follows the paused runtime.
struct TestClock(Instant);

impl Clock for TestClock {
    fn boot_ms(&self) -> u64 {
        1_000 + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
    fn wall_ms(&self) -> u64 {
        0
    }
}

/// What can be wrong with a disk.
#[derive(Default)]
pub(super) struct Trouble {
    pub(super) is_full: AtomicBool,
    /// Tries that found no space.
    pub(super) refused: AtomicU64,
    /// The next action panics.
    pub(super) panics: AtomicBool,
}

/// A copy in memory on such a disk.
pub(super) struct TestStore {
    memory: MemoryStore,
    trouble: Arc<Trouble>,
}

impl ReplicaStore for TestStore {
    fn state(&self) -> Result<Option<StoreState>, StoreError> {
        self.memory.state()
    }
    fn get(&self, key: &str) -> Result<Option<Value>, StoreError> {
        self.memory.get(key)
    }
    fn create(&self) -> Result<(), StoreError> {
        self.memory.create()
    }
    fn adopt(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.memory.adopt(epoch)
    }
    fn append(&self, writes: &[Write]) -> Result<(), StoreError> {
        self.memory.append(writes)
    }
    fn align(&self, alignment: &Alignment) -> Result<(), StoreError> {
        self.memory.align(alignment)
    }
    fn begin_fill(&self, base: Position) -> Result<(), StoreError> {
        self.memory.begin_fill(base)
    }
    fn fill_range(&self, epoch: Epoch, base: Position, chunk: &Chunk) -> Result<(), StoreError> {
        self.memory.fill_range(epoch, base, chunk)
    }
    fn end_fill(&self) -> Result<(), StoreError> {
        self.memory.end_fill()
    }
    fn read_keys(&self, keys: &[Key]) -> Result<Vec<Write>, StoreError> {
        self.memory.read_keys(keys)
    }
    fn read_chunk(
        &self,
        after: Option<&Key>,
        until: Option<&Key>,
        max_bytes: u64,
    ) -> Result<Chunk, StoreError> {
        self.memory.read_chunk(after, until, max_bytes)
    }
    fn delete(&self) -> Result<(), StoreError> {
        self.memory.delete()
    }
    fn carry_out(&self, action: &StoreAction) -> Result<StoreResult, StoreError> {
        assert!(!self.trouble.panics.swap(false, Ordering::SeqCst), "as the test wants it");
        if self.trouble.is_full.load(Ordering::SeqCst) {
            self.trouble.refused.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Full);
        }
        self.memory.carry_out(action)
    }
}

impl BlockingStore for TestStore {
    fn size(&self) -> Option<CopySize> {
        let vectors = self.memory.copy()?.writes.len() as u64;
        Some(CopySize { vectors, bytes: 10 * vectors })
    }
}

/// A node's disk.
#[derive(Default)]
pub(super) struct TestDisk {
    trouble: Arc<Trouble>,
    generation: AtomicU64,
    /// What an earlier process left.
    left: Option<MemoryCopy>,
}

#[async_trait]
impl NodeStore for TestDisk {
    type Copy = Blocking<TestStore>;

    async fn shards(&self) -> Result<Vec<ShardId>, HostError> {
        Ok(self.left.iter().map(|_| SHARD).collect())
    }
    async fn open(&self, _: ShardId) -> Result<Self::Copy, HostError> {
        Ok(Blocking::new(TestStore { memory: self.left.clone().into(), trouble: self.trouble.clone() }))
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
pub(super) struct Net(Arc<Mutex<BTreeMap<String, Weak<Copies<TestDisk>>>>>);

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

/// One node, and what an agent would hold.
pub(super) struct Node {
    pub(super) copies: Arc<Copies<TestDisk>>,
    pub(super) lease: LeaseWatch,
    pub(super) trouble: Arc<Trouble>,
    outbox: Outbox,
    clock: Arc<TestClock>,
    name: NodeId,
    revision: u64,
}

pub(super) fn name(n: u64) -> NodeId {
    NodeId::new(&format!("d{n}")).unwrap()
}

impl Node {
    /// Node `n`, in the session of its first incarnation.
    pub(super) async fn start(n: u64, net: &Net, spawn: Arc<dyn Spawn>) -> Self {
        Self::restart(n, net, spawn, None).await
    }

    /// The same on a disk with what an earlier process left.
    pub(super) async fn restart(n: u64, net: &Net, spawn: Arc<dyn Spawn>, left: Option<MemoryCopy>) -> Self {
        let clock = Arc::new(TestClock(Instant::now()));
        let lease = LeaseWatch::new(clock.clone());
        let (reporter, outbox) = Outbox::new();
        let disk = TestDisk { left, ..TestDisk::default() };
        let trouble = disk.trouble.clone();
        let parts = Parts {
            node: name(n),
            clock: clock.clone(),
            lease: lease.clone(),
            reporter,
            messenger: Arc::new(net.clone()),
            spawn,
        };
        let copies = Copies::open(parts, disk).await.unwrap();
        net.0.lock().unwrap().insert(format!("d{n}:1"), Arc::downgrade(&copies));
        let node = Self { copies, lease, trouble, outbox, clock, name: name(n), revision: 0 };
        node.begin(1).await;
        node
    }

    /// The session of `incarnation` begins.
    pub(super) async fn begin(&self, incarnation: u64) {
        self.lease.begin(Incarnation(incarnation));
        self.copies.begin(Incarnation(incarnation)).await;
    }

    /// The session is over.
    pub(super) async fn end(&self) {
        self.lease.reset();
        self.copies.pause().await;
    }

    /// A lease from now on.
    pub(super) fn grant(&self, lease_ms: u64) {
        self.lease.granted(self.clock.boot_ms(), lease_ms, Revision(0));
    }

    /// Puts in force what a coordinator would assign, or that nothing is.
    pub(super) async fn install(&mut self, assigned: Option<Assignment>) -> Result<(), HostError> {
        self.revision += 1;
        let update = AssignmentUpdate {
            revision: Revision(self.revision),
            changed: assigned.iter().map(|assignment| assignment.shard).collect(),
            all: Arc::new(assigned.into_iter().map(|assignment| (assignment.shard, assignment)).collect()),
            removed: Vec::new(),
        };
        self.copies.install(&update).await
    }

    /// What it reports next.
    pub(super) async fn report(&mut self) -> (Incarnation, u64, Report) {
        for _ in 0..1_000 {
            if let Some(report) = self.outbox.take() {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} reports nothing: {:?}", self.name, self.copies.statuses());
    }

    /// The coordinator accepts the report of that tag.
    pub(super) async fn accept(&self, (_, tag, report): &(Incarnation, u64, Report)) {
        self.copies.reported(*tag, report, &ReportResult { accepted: true, code: None }).await;
    }

    pub(super) async fn write(&self, key: &str, epoch: Option<Epoch>) -> Outcome<Position> {
        let write = Write { position: Position::default(), key: key.into(), value: Some("v".into()) };
        self.copies.write(SHARD, epoch, vec![write]).await.pop().unwrap()
    }

    pub(super) async fn read(&self, key: &str) -> Outcome<Option<Value>> {
        let read = |store: Arc<Blocking<TestStore>>| {
            let key = key.to_owned();
            async move { store.run(move |store| store.get(&key)).await?.ok() }
        };
        self.copies.read_with(SHARD, None, read).await
    }

    /// What is on its disk.
    pub(super) async fn disk(&self) -> MemoryCopy {
        let store = self.copies.get(SHARD).unwrap().store.clone();
        store.run(|store| store.memory.copy()).await.unwrap().unwrap()
    }
}

/// The first node is primary, the shard is `founding` or was opened with all of `nodes` in sync.
pub(super) fn assignment(of: u64, nodes: u64, epoch: u64, founding: bool) -> Assignment {
    let role = |n| if n == 1 { Role::Primary } else { Role::Replica };
    let copy = |n| CopyInfo {
        node: name(n),
        addr: format!("d{n}:1"),
        incarnation: Incarnation(1),
        role: role(n),
        down: false,
    };
    Assignment {
        shard: SHARD,
        epoch: Epoch(epoch),
        founding,
        role: role(of),
        in_sync_version: 1,
        in_sync: (1..=nodes).map(name).collect(),
        copies: (1..=nodes).map(copy).collect(),
        migration: None,
    }
}

/// The same while the second node takes the primaryship.
pub(super) fn handing_over(assignment: Assignment) -> Assignment {
    let at = |n| Some(NodeAddr { node: name(n), addr: format!("d{n}:1") });
    let (phase, kind) = (Phase::HandingOver, MigrationKind::Promote);
    let migration = AssignedMigration { id: MigrationId(1), phase, kind, source: at(1), target: at(2) };
    Assignment { migration: Some(migration), ..assignment }
}
