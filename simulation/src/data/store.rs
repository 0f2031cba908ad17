//! A data node's disk: it survives its process, and what a process had not synced it survives only in part.
//!
//! Actions come in groups that share a sync. While a group is *in flight* nobody sees anything of it; when its sync ends
//! all of it is durable and visible. Where the process ends in between, a prefix of the group has happened, by chance, and the
//! rest never will. Each process has a *life*; what an earlier one left in flight is settled when the next begins, and its
//! workers can change nothing any more. The content is [`MemoryStore`]'s, the contract `ReplicaStore`'s.

mod copy;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ruvector_cluster_client::copies::CopySize;
use ruvector_cluster_client::ids::ShardId;
use ruvector_cluster_client::replica::Key;
use ruvector_cluster_client::replica::memory::{MemoryCopy, MemoryStore};
use ruvector_cluster_client::replica::store::{ReplicaStore, StoreAction, StoreResult, StoreState};
use ruvector_cluster_client::replica::wire::Write;

use crate::chance::Chance;

pub(crate) use copy::{DiskCopy, OpenDisk};

/// A process's turn at the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life(u64);

/// How often what befell the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Groups that became durable.
    pub syncs: u64,
    /// Groups that a process left in flight.
    pub cut: u64,
    /// Of those, groups of which some but not all happened.
    pub torn: u64,
    /// Groups that failed.
    pub failed: u64,
    /// Tries that found no space.
    pub full: u64,
    /// Times that everything was lost.
    pub wipes: u64,
}

/// One data node's disk; clones share it.
#[derive(Clone)]
pub struct DataDisk {
    state: Arc<Mutex<State>>,
    chance: Chance,
}

struct State {
    store_id: String,
    generation: u64,
    life: u64,
    copies: BTreeMap<ShardId, Slot>,
    is_full: bool,
    fail_next: u32,
    sync_us: (u64, u64),
    counts: DiskCounts,
}

#[derive(Default)]
struct Slot {
    content: MemoryStore,
    /// A failed copy refuses everything until it is made anew.
    damage: Option<Damage>,
    in_flight: Vec<StoreAction>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// For good.
    Lasting,
    /// Until another process opens it: what failed was the sync, and what had been synced is there.
    UntilOpened,
}

impl DataDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(chance: Chance) -> Self {
        let state = State {
            store_id: fresh_store_id(&chance),
            generation: 0,
            life: 0,
            copies: BTreeMap::new(),
            is_full: false,
            fail_next: 0,
            sync_us: (100, 2_000),
            counts: DiskCounts::default(),
        };
        Self { state: Arc::new(Mutex::new(state)), chance }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory's random id.
    #[must_use]
    pub fn store_id(&self) -> String {
        self.state().store_id.clone()
    }

    /// How long a sync takes from now on, at least and at most, in microseconds.
    pub fn set_sync_us(&self, sync_us: (u64, u64)) {
        self.state().sync_us = sync_us;
    }

    /// Lets the disk be full, or have space again. What was begun is finished.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// So many of the next groups fail, each with its copy.
    pub fn fail_next(&self, groups: u32) {
        self.state().fail_next = groups;
    }

    /// Power is lost, or the process was killed: what is in flight has happened or not. The process must not run any more.
    pub fn crash(&self) {
        let mut state = self.state();
        state.life += 1;
        let State { copies, counts, .. } = &mut *state;
        for slot in copies.values_mut().filter(|slot| !slot.in_flight.is_empty()) {
            let actions = std::mem::take(&mut slot.in_flight);
            let happened = slot.apply_prefix(&actions, &self.chance);
            counts.cut += 1;
            counts.torn += u64::from(happened > 0 && happened < actions.len());
        }
    }

    /// Everything is lost, and the directory is a new one. The process must not run any more.
    pub fn wipe(&self) {
        let store_id = fresh_store_id(&self.chance);
        let mut state = self.state();
        state.life += 1;
        state.store_id = store_id;
        state.generation = 0;
        state.copies.clear();
        state.fail_next = 0;
        state.counts.wipes += 1;
    }

    /// What is durable, by shard; nothing of a copy that can't be read.
    #[must_use]
    pub fn copies(&self) -> BTreeMap<ShardId, MemoryCopy> {
        let state = self.state();
        let readable = state.copies.iter().filter(|(_, slot)| slot.damage.is_none());
        readable.filter_map(|(shard, slot)| Some((*shard, slot.content.copy()?))).collect()
    }

    /// What befell it.
    #[must_use]
    pub fn counts(&self) -> DiskCounts {
        self.state().counts
    }

    /// A process begins, with what the one before left.
    fn open(&self) -> Life {
        self.crash();
        let mut state = self.state();
        for slot in state.copies.values_mut().filter(|slot| slot.damage == Some(Damage::UntilOpened)) {
            slot.damage = None;
        }
        Life(state.life)
    }

    fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Puts a generation on the disk, after the time that it takes.
    async fn save_generation(&self, life: Life, generation: u64) {
        tokio::time::sleep(self.sync_time()).await;
        let mut state = self.state();
        if state.life == life.0 {
            state.generation = state.generation.max(generation);
        }
    }

    /// The shards of which there is something.
    fn shards(&self) -> Vec<ShardId> {
        self.state().copies.keys().copied().collect()
    }

    /// As a replica is told when it is opened; none where there is none that can be read.
    fn found(&self, shard: ShardId) -> Option<StoreState> {
        self.readable(shard, |content| content.state().ok().flatten())
    }

    /// The last write of `key`; none without a copy that can be read.
    fn read(&self, shard: ShardId, key: &Key) -> Option<Write> {
        self.readable(shard, |content| content.read_keys(std::slice::from_ref(key)).ok()?.pop())
    }

    /// How many keys a copy has and their bytes.
    fn size(&self, shard: ShardId) -> Option<CopySize> {
        let copy = self.readable(shard, MemoryStore::copy)?;
        let bytes: usize = copy.writes.values().map(Write::size_bytes).sum();
        Some(CopySize { vectors: copy.writes.len() as u64, bytes: bytes as u64 })
    }

    fn readable<T>(&self, shard: ShardId, read: impl FnOnce(&MemoryStore) -> Option<T>) -> Option<T> {
        let state = self.state();
        read(&state.copies.get(&shard).filter(|slot| slot.damage.is_none())?.content)
    }

    /// How long this sync takes.
    fn sync_time(&self) -> Duration {
        let (low, high) = self.state().sync_us;
        Duration::from_micros(self.chance.between(low, high))
    }

    /// Puts a group in flight; says whether there was space for it.
    fn begin(&self, life: Life, shard: ShardId, group: &[StoreAction]) -> bool {
        let mut state = self.state();
        if state.is_full && group.iter().any(needs_space) {
            state.counts.full += 1;
            return false;
        }
        if state.life == life.0 {
            state.copies.entry(shard).or_default().in_flight = group.to_vec();
        }
        true
    }

    /// The sync of what is in flight has ended: what came of each action. `None` where the process ended meanwhile.
    fn finish(&self, life: Life, shard: ShardId) -> Option<Vec<StoreResult>> {
        let mut state = self.state();
        if state.life != life.0 {
            return None;
        }
        let State { copies, counts, fail_next, .. } = &mut *state;
        let slot = copies.entry(shard).or_default();
        let actions = std::mem::take(&mut slot.in_flight);
        if *fail_next > 0 && !actions.is_empty() {
            *fail_next -= 1;
            counts.failed += 1;
            slot.apply_prefix(&actions, &self.chance);
            let lasts = self.chance.per_mille(500);
            slot.damage = Some(if lasts { Damage::Lasting } else { Damage::UntilOpened });
            return Some(vec![StoreResult::Failed; actions.len()]);
        }
        counts.syncs += 1;
        Some(actions.iter().map(|action| slot.apply(action)).collect())
    }
}

impl Slot {
    fn apply(&mut self, action: &StoreAction) -> StoreResult {
        if matches!(action, StoreAction::Create | StoreAction::Delete) {
            self.damage = None;
        }
        if self.damage.is_some() {
            return StoreResult::Failed;
        }
        self.content.carry_out(action).unwrap_or(StoreResult::Failed)
    }

    /// Applies so many of the first `actions` as chance will have it; says how many.
    fn apply_prefix(&mut self, actions: &[StoreAction], chance: &Chance) -> usize {
        let count = usize::try_from(chance.between(0, actions.len() as u64)).unwrap_or(0);
        for action in &actions[..count] {
            self.apply(action);
        }
        count
    }
}

/// Whether an action is refused by a disk without space.
fn needs_space(action: &StoreAction) -> bool {
    match action {
        StoreAction::ReadKeys(_) | StoreAction::ReadChunk { .. } | StoreAction::Delete => false,
        StoreAction::Create
        | StoreAction::Adopt(_)
        | StoreAction::Append(_)
        | StoreAction::Align(_)
        | StoreAction::BeginFill { .. }
        | StoreAction::FillRange { .. }
        | StoreAction::EndFill => true,
    }
}

fn fresh_store_id(chance: &Chance) -> String {
    format!("{:016x}", chance.bits())
}

#[cfg(test)]
mod tests {
    use ruvector_cluster_client::ids::{Epoch, Position};

    use super::*;

    const SHARD: ShardId = ShardId(3);

    fn append(n: u64) -> StoreAction {
        let position = Position { epoch: Epoch(1), n };
        let value = Some(format!("{n}").into());
        StoreAction::Append(vec![Write { position, key: format!("k{n}").as_str().into(), value }])
    }

    fn at(disk: &DataDisk) -> Option<u64> {
        Some(disk.copies().get(&SHARD)?.state.tail.last().n)
    }

    fn done(disk: &DataDisk, life: Life, group: &[StoreAction]) -> Vec<StoreResult> {
        assert!(disk.begin(life, SHARD, group));
        disk.finish(life, SHARD).unwrap()
    }

    #[test]
    fn a_process_that_ends_leaves_a_prefix_of_what_was_in_flight() {
        let mut left = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let disk = DataDisk::new(Chance::new(seed));
            let life = disk.open();
            assert_eq!(
                done(&disk, life, &[StoreAction::Create, append(1)]),
                [StoreResult::Done, StoreResult::Done]
            );
            assert!(disk.begin(life, SHARD, &[append(2), append(3)]));
            assert_eq!(at(&disk), Some(1), "what is in flight is not seen");
            disk.crash();
            left.insert(at(&disk).unwrap());
            assert!(disk.finish(life, SHARD).is_none(), "the dead change nothing");
        }
        assert_eq!(left.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_failed_copy_refuses_everything_until_it_is_made_anew() {
        let disk = DataDisk::new(Chance::new(1));
        let life = disk.open();
        done(&disk, life, &[StoreAction::Create, append(1)]);
        disk.fail_next(1);
        assert_eq!(done(&disk, life, &[append(2)]), [StoreResult::Failed]);
        assert_eq!(done(&disk, life, &[append(3)]), [StoreResult::Failed]);
        assert_eq!((disk.found(SHARD), at(&disk)), (None, None));
        assert_eq!(
            done(&disk, life, &[StoreAction::Create, append(1)]),
            [StoreResult::Done, StoreResult::Done]
        );
        assert_eq!(at(&disk), Some(1));
    }

    #[test]
    fn a_full_disk_still_reads_and_a_wiped_one_is_another() {
        let disk = DataDisk::new(Chance::new(1));
        let life = disk.open();
        done(&disk, life, &[StoreAction::Create, append(1)]);
        disk.set_full(true);
        assert!(!disk.begin(life, SHARD, &[append(2)]));
        let read = done(&disk, life, &[StoreAction::ReadKeys(vec!["k1".into()])]);
        assert!(matches!(&read[..], [StoreResult::Writes(writes)] if writes.len() == 1));
        let before = disk.store_id();
        disk.wipe();
        assert_ne!(disk.store_id(), before);
        assert_eq!(at(&disk), None);
        assert!(disk.finish(life, SHARD).is_none());
    }
}
