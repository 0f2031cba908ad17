//! A disk in memory that behaves as badly as a real one may.
//!
//! Reads see every write at once. A [`SimDisk::crash`] keeps what was synced; of each write since the last sync it
//! keeps, sector by sector, whatever the seed says. Names behave like a journal: of the creations, renames and
//! removals since the last `sync_dir`, a prefix survives. The old disk's calls never return after a crash, as the
//! calls of a killed process never do. After a failed sync, what it should have written is seen by readers and gone at
//! the next crash, whatever is synced later. A sync covers what was written before it began.
//!
//! [`SimDisk::die_after`] puts the crash at one file operation: that one takes effect as far as a crash lets it, and is
//! never answered.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use super::{Disk, DiskFile, OpenMode};

mod content;

use content::{Content, Inode, not_found};

/// See the module. Clones share the disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when calls that wait may go on, or when the disk died.
    changed: Notify,
}

#[derive(Default)]
struct State {
    dead: bool,
    /// Dead by [`SimDisk::die_after`].
    died: bool,
    /// How many operations until then, that one included.
    dies_in: Option<u64>,
    locked: bool,
    content: Content,
    faults: Faults,
    counts: DiskCounts,
}

#[derive(Clone, Default)]
struct Faults {
    fail_syncs: bool,
    fail_reads: bool,
    fail_writes: bool,
    capacity_bytes: Option<u64>,
    sync_time: Option<Duration>,
    stalled: bool,
    syncs_held: bool,
}

/// How many operations a [`SimDisk`] was asked for, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Reads of contents and lengths.
    pub reads: u64,
    /// Writes, truncations and preallocations.
    pub writes: u64,
    /// Syncs of contents that succeeded.
    pub syncs: u64,
    /// Files opened or created, listings.
    pub opens: u64,
    /// Renames and removals.
    pub renames: u64,
    /// Syncs of the directory.
    pub dir_syncs: u64,
}

impl DiskCounts {
    fn of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
            Kind::Sync => &mut self.syncs,
            Kind::Open => &mut self.opens,
            Kind::Rename => &mut self.renames,
            Kind::SyncDir => &mut self.dir_syncs,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Sync,
    Open,
    Rename,
    SyncDir,
}

impl SimDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next process's disk: it holds `content`, and is as full, slow and faulty as it was.
    fn with(content: Content, faults: Faults) -> Self {
        let faults = Faults { stalled: false, syncs_held: false, ..faults };
        let state = Mutex::new(State { content, faults, ..State::default() });
        Self { shared: Arc::new(Shared { state, changed: Notify::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
        self.shared.changed.notify_waiters();
    }

    /// Power fails: the disk that the next process finds. `seed` decides what of the unsynced survives. Every call on
    /// this disk, running or new, waits forever from now on.
    pub fn crash(&self, seed: u64) -> SimDisk {
        let mut old = self.state();
        old.dead = true;
        Self::with(old.content.after_crash(seed), old.faults.clone())
    }

    /// The process is killed, the machine runs on: nothing written is lost. The old disk is dead as after a crash.
    pub fn kill(&self) -> SimDisk {
        let mut old = self.state();
        old.dead = true;
        let content = std::mem::take(&mut old.content);
        Self::with(content, old.faults.clone())
    }

    /// What every crash of now would leave at least: a copy of what is synced. This disk goes on.
    pub fn synced(&self) -> SimDisk {
        Self::with(self.state().content.synced(), Faults::default())
    }

    /// The disk dies at the `operations`-th file operation from now (1 is the next): it takes effect as far as a crash
    /// lets it, and it and all later calls wait forever. [`SimDisk::crash`] or [`SimDisk::kill`] then give the disk
    /// that the next process finds.
    pub fn die_after(&self, operations: u64) {
        self.state().dies_in = Some(operations.max(1));
    }

    /// Resolves when the disk has died by [`SimDisk::die_after`].
    pub async fn died(&self) {
        self.wait(|state| state.died).await;
    }

    /// Makes every later sync fail with an I/O error.
    pub fn fail_syncs(&self) {
        self.set(|faults| faults.fail_syncs = true);
    }

    /// Makes every later read fail with an I/O error.
    pub fn fail_reads(&self) {
        self.set(|faults| faults.fail_reads = true);
    }

    /// Makes every later write, truncation and preallocation fail with an I/O error.
    pub fn fail_writes(&self) {
        self.set(|faults| faults.fail_writes = true);
    }

    /// Lifts [`SimDisk::fail_syncs`], [`SimDisk::fail_reads`] and [`SimDisk::fail_writes`].
    pub fn lift_failures(&self) {
        self.set(|faults| {
            (faults.fail_syncs, faults.fail_reads, faults.fail_writes) = (false, false, false);
        });
    }

    /// Limits the bytes of all files together, or lifts the limit.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.set(|faults| faults.capacity_bytes = capacity_bytes);
    }

    /// How long each sync takes from now on.
    pub fn set_sync_time(&self, time: Option<Duration>) {
        self.set(|faults| faults.sync_time = time);
    }

    /// Makes all calls, syncs under way too, wait until this is lifted: a disk that hangs.
    pub fn set_stalled(&self, stalled: bool) {
        self.set(|faults| faults.stalled = stalled);
    }

    /// Makes syncs of contents, those under way too, wait until this is lifted. Writes and reads go on.
    pub fn set_syncs_held(&self, held: bool) {
        self.set(|faults| faults.syncs_held = held);
    }

    /// Syncs of file contents so far.
    pub fn syncs(&self) -> u64 {
        self.state().counts.syncs
    }

    /// Operations so far.
    pub fn counts(&self) -> DiskCounts {
        self.state().counts
    }

    /// Overwrites bytes behind everybody's back, durably: bit rot.
    ///
    /// # Panics
    /// When the file doesn't exist or is shorter than that.
    pub fn damage(&self, name: &str, offset: usize, bytes: &[u8]) {
        let mut state = self.state();
        let id = state.content.find(name).expect("the file to damage exists");
        state.content.inode(id).expect("every name has its inode").damage(offset, bytes);
    }

    /// The content of a file as a reader sees it.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        self.state().content.named(name).map(|inode| inode.bytes().to_vec())
    }

    /// Waits until something holds. Whoever changes the state tells.
    async fn wait(&self, holds: impl Fn(&State) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if holds(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    /// Does one operation when the disk is ready for it, or never answers.
    async fn run<T>(&self, kind: Kind, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.wait(|state| !(state.faults.stalled || state.dead)).await;
        let (result, dies) = {
            let mut state = self.state();
            let dies = state.dies_in == Some(1);
            state.dies_in = state.dies_in.map(|left| left - 1);
            if kind != Kind::Sync {
                *state.counts.of(kind) += 1;
            }
            // A sync in the midst of which the disk dies leaves to the crash what of it was written.
            let result = match kind {
                Kind::Sync | Kind::SyncDir if dies => None,
                _ => Some(work(&mut state)),
            };
            if dies {
                (state.dead, state.died) = (true, true);
            }
            (result, dies)
        };
        match result {
            Some(result) if !dies => result,
            _ => {
                self.shared.changed.notify_waiters();
                futures::future::pending().await
            }
        }
    }
}

impl State {
    /// Removed files do not count: a real disk frees them when the last handle goes.
    fn check_room(&self, id: u64, len: usize) -> io::Result<()> {
        let Some(capacity) = self.faults.capacity_bytes else { return Ok(()) };
        match self.content.bytes_when_grown(id, len) {
            Some(bytes) if bytes > capacity => Err(io::Error::from(io::ErrorKind::StorageFull)),
            _ => Ok(()),
        }
    }

    fn writable(&mut self, id: u64, len: usize) -> io::Result<&mut Inode> {
        if self.faults.fail_writes {
            return Err(io::Error::other("injected write error"));
        }
        self.check_room(id, len)?;
        self.content.inode(id)
    }

    fn readable(&mut self, id: u64) -> io::Result<&mut Inode> {
        if self.faults.fail_reads {
            return Err(io::Error::other("injected read error"));
        }
        self.content.inode(id)
    }

    fn open(&mut self, name: &str, mode: OpenMode) -> io::Result<u64> {
        match (self.content.find(name), mode) {
            (Some(inode), OpenMode::Existing | OpenMode::Create) => Ok(inode),
            (Some(inode), OpenMode::Fresh) => {
                self.writable(inode, 0)?.resize(0);
                Ok(inode)
            }
            (None, OpenMode::Existing) => Err(not_found(name)),
            (None, OpenMode::Create | OpenMode::Fresh) => Ok(self.content.create(name)),
        }
    }
}

#[async_trait]
impl Disk for SimDisk {
    async fn lock(&self) -> io::Result<()> {
        self.run(Kind::Open, |state| {
            if std::mem::replace(&mut state.locked, true) {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "locked"));
            }
            Ok(())
        })
        .await
    }

    async fn restrict(&self) -> io::Result<()> {
        self.run(Kind::Open, |_| Ok(())).await
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        self.run(Kind::Open, |state| Ok(state.content.names())).await
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.run(Kind::Open, |state| state.open(name, mode)).await?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.run(Kind::Rename, |state| state.content.rename(from, to)).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.run(Kind::Rename, |state| state.content.remove(name)).await
    }

    async fn sync_dir(&self) -> io::Result<()> {
        self.run(Kind::SyncDir, |state| {
            state.content.settle_names();
            Ok(())
        })
        .await
    }

    fn describe(&self, name: &str) -> String {
        format!("sim/{name}")
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
}

fn offset_of(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(io::Error::other)
}

#[async_trait]
impl DiskFile for SimFile {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let offset = offset_of(offset)?;
        self.disk
            .run(Kind::Read, |state| {
                let content = state.readable(self.inode)?.bytes();
                let start = offset.min(content.len());
                let end = offset.saturating_add(len).min(content.len());
                Ok(Bytes::copy_from_slice(&content[start..end]))
            })
            .await
    }

    async fn write_at(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        let offset = offset_of(offset)?;
        self.disk
            .run(Kind::Write, |state| {
                state.writable(self.inode, offset + bytes.len())?.write(offset, bytes);
                Ok(())
            })
            .await
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.disk.wait(|state| !(state.faults.stalled || state.dead)).await;
        let (time, covered) = {
            let mut state = self.disk.state();
            (state.faults.sync_time, state.content.inode(self.inode)?.changes())
        };
        match time {
            Some(time) => tokio::time::sleep(time).await,
            None => tokio::task::yield_now().await,
        }
        self.disk.wait(|state| !state.faults.syncs_held).await;
        self.disk
            .run(Kind::Sync, |state| {
                let failing = state.faults.fail_syncs;
                let inode = state.content.inode(self.inode)?;
                if failing {
                    inode.forget();
                    return Err(io::Error::other("injected sync error"));
                }
                inode.settle(covered);
                state.counts.syncs += 1;
                Ok(())
            })
            .await
    }

    async fn size_bytes(&self) -> io::Result<u64> {
        self.disk.run(Kind::Read, |state| Ok(state.content.inode(self.inode)?.bytes().len() as u64)).await
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        let len = offset_of(len)?;
        self.disk
            .run(Kind::Write, |state| {
                state.writable(self.inode, len)?.resize(len);
                Ok(())
            })
            .await
    }

    async fn preallocate(&self, len: u64) -> io::Result<()> {
        let len = offset_of(len)?;
        self.disk
            .run(Kind::Write, |state| {
                let len = len.max(state.content.inode(self.inode)?.bytes().len());
                state.writable(self.inode, len)?.resize(len);
                Ok(())
            })
            .await
    }
}
