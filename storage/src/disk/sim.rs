//! A disk in memory that behaves as badly as a real one may.
//!
//! Reads see every write at once. A [`SimDisk::crash`] keeps what was synced; of each write since the last sync it
//! keeps, sector by sector, whatever the seed says. Names behave like a journal: of the creations, renames and
//! removals since the last `sync_dir`, a prefix survives. The old disk's calls never return after a crash, as the
//! calls of a killed process never do.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Disk, DiskFile, OpenMode};

/// What a device writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// See the module. Clones share the disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    dead: bool,
    locked: bool,
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    faults: Faults,
    syncs: u64,
}

#[derive(Default)]
struct Faults {
    fail_syncs: bool,
    fail_reads: bool,
    capacity_bytes: Option<u64>,
    sync_time: Option<Duration>,
}

#[derive(Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Bytes },
    Resize { len: usize },
}

enum NameChange {
    Set { name: String, inode: u64 },
    Remove { name: String },
    Rename { from: String, to: String },
}

impl SimDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power fails: the disk that the next process finds. `seed` decides what of the unsynced survives. Every call on
    /// this disk, running or new, waits forever from now on.
    pub fn crash(&self, seed: u64) -> SimDisk {
        let mut old = self.state();
        old.dead = true;
        let mut random = SplitMix(seed);
        let mut names = std::mem::take(&mut old.durable_names);
        let kept = random.below(old.name_changes.len() as u64 + 1) as usize;
        for change in old.name_changes.drain(..).take(kept) {
            change.apply(&mut names);
        }
        let mut next = State { next_inode: old.next_inode, ..State::default() };
        for (id, inode) in std::mem::take(&mut old.inodes) {
            let content = inode.after_crash(&mut random);
            next.inodes.insert(id, Inode { durable: content.clone(), content, pending: Vec::new() });
        }
        next.durable_names.clone_from(&names);
        next.names = names;
        SimDisk { state: Arc::new(Mutex::new(next)) }
    }

    /// The process is killed, the machine runs on: nothing written is lost. The old disk is dead as after a crash.
    pub fn kill(&self) -> SimDisk {
        let mut old = self.state();
        let next = State {
            next_inode: old.next_inode,
            inodes: std::mem::take(&mut old.inodes),
            names: std::mem::take(&mut old.names),
            durable_names: std::mem::take(&mut old.durable_names),
            name_changes: std::mem::take(&mut old.name_changes),
            ..State::default()
        };
        old.dead = true;
        SimDisk { state: Arc::new(Mutex::new(next)) }
    }

    /// Makes every later sync fail with an I/O error.
    pub fn fail_syncs(&self) {
        self.state().faults.fail_syncs = true;
    }

    /// Makes every later read fail with an I/O error.
    pub fn fail_reads(&self) {
        self.state().faults.fail_reads = true;
    }

    /// Limits the bytes of all files together, or lifts the limit.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.state().faults.capacity_bytes = capacity_bytes;
    }

    /// How long each sync takes from now on.
    pub fn set_sync_time(&self, time: Option<Duration>) {
        self.state().faults.sync_time = time;
    }

    /// Syncs of file contents so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Overwrites bytes behind everybody's back, durably: bit rot.
    ///
    /// # Panics
    /// When the file doesn't exist or is shorter than that.
    pub fn damage(&self, name: &str, offset: usize, bytes: &[u8]) {
        let mut state = self.state();
        let id = *state.names.get(name).expect("the file to damage exists");
        let inode = state.inodes.get_mut(&id).expect("every name has its inode");
        inode.content[offset..offset + bytes.len()].copy_from_slice(bytes);
        inode.settle();
    }

    /// The content of a file as a reader sees it.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let id = state.names.get(name)?;
        state.inodes.get(id).map(|inode| inode.content.clone())
    }

    /// Resolves while the process lives, never after a crash.
    async fn alive(&self) {
        let dead = self.state().dead;
        if dead {
            futures::future::pending::<()>().await;
        }
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Set { name, inode } => {
                names.insert(name, inode);
            }
            Self::Remove { name } => {
                names.remove(&name);
            }
            Self::Rename { from, to } => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
        }
    }
}

impl Inode {
    /// Only what changed is copied: logs are preallocated, and synced at each append.
    fn settle(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Resize { len } => self.durable.resize(len, 0),
                Change::Write { offset, bytes } => put(&mut self.durable, offset, &bytes),
            }
        }
    }

    fn after_crash(self, random: &mut SplitMix) -> Vec<u8> {
        let mut content = self.durable;
        for change in self.pending {
            match change {
                Change::Resize { len } => {
                    if random.below(2) == 0 {
                        content.resize(len, 0);
                    }
                }
                Change::Write { offset, bytes } => write_torn(&mut content, offset, &bytes, random),
            }
        }
        content
    }
}

/// Keeps all, none, or some sectors of a write.
fn write_torn(content: &mut Vec<u8>, offset: usize, bytes: &[u8], random: &mut SplitMix) {
    let mode = random.below(3);
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(((offset + at) / SECTOR_BYTES + 1) * SECTOR_BYTES - offset);
        let keep = match mode {
            0 => false,
            1 => true,
            _ => random.below(2) == 0,
        };
        if keep {
            put(content, offset + at, &bytes[at..end]);
        }
        at = end;
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

#[async_trait]
impl Disk for SimDisk {
    async fn lock(&self) -> io::Result<()> {
        self.alive().await;
        let mut state = self.state();
        if state.locked {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "locked"));
        }
        state.locked = true;
        Ok(())
    }

    async fn restrict(&self) -> io::Result<()> {
        self.alive().await;
        Ok(())
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        self.alive().await;
        Ok(self.state().names.keys().cloned().collect())
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.alive().await;
        let mut state = self.state();
        let found = state.names.get(name).copied();
        let inode = match (found, mode) {
            (Some(inode), OpenMode::Existing | OpenMode::Create) => inode,
            (Some(inode), OpenMode::Fresh) => {
                state.resize(inode, 0)?;
                inode
            }
            (None, OpenMode::Existing) => return Err(not_found(name)),
            (None, OpenMode::Create | OpenMode::Fresh) => {
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.names.insert(name.to_owned(), inode);
                state.name_changes.push(NameChange::Set { name: name.to_owned(), inode });
                inode
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.alive().await;
        let mut state = self.state();
        let inode = state.names.remove(from).ok_or_else(|| not_found(from))?;
        state.names.insert(to.to_owned(), inode);
        state.name_changes.push(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.alive().await;
        let mut state = self.state();
        state.names.remove(name).ok_or_else(|| not_found(name))?;
        state.name_changes.push(NameChange::Remove { name: name.to_owned() });
        Ok(())
    }

    async fn sync_dir(&self) -> io::Result<()> {
        self.alive().await;
        let mut state = self.state();
        state.name_changes.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        format!("sim/{name}")
    }
}

impl State {
    fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| io::Error::other("no such inode"))
    }

    /// Removed files count on: a real disk frees them only when the last handle goes.
    fn check_room(&mut self, id: u64, len: usize) -> io::Result<()> {
        let Some(capacity) = self.faults.capacity_bytes else { return Ok(()) };
        let named: Vec<u64> = self.names.values().copied().collect();
        let used: u64 = named.iter().filter_map(|n| self.inodes.get(n)).map(|i| i.content.len() as u64).sum();
        let grows = (len as u64).saturating_sub(self.inode(id)?.content.len() as u64);
        if grows > 0 && used + grows > capacity {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }

    fn resize(&mut self, id: u64, len: usize) -> io::Result<()> {
        self.check_room(id, len)?;
        let inode = self.inode(id)?;
        inode.content.resize(len, 0);
        inode.pending.push(Change::Resize { len });
        Ok(())
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
        self.disk.alive().await;
        let offset = offset_of(offset)?;
        let mut state = self.disk.state();
        if state.faults.fail_reads {
            return Err(io::Error::other("injected read error"));
        }
        let content = &state.inode(self.inode)?.content;
        let start = offset.min(content.len());
        let end = offset.saturating_add(len).min(content.len());
        Ok(Bytes::copy_from_slice(&content[start..end]))
    }

    async fn write_at(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        self.disk.alive().await;
        let offset = offset_of(offset)?;
        let mut state = self.disk.state();
        state.check_room(self.inode, offset + bytes.len())?;
        let inode = state.inode(self.inode)?;
        put(&mut inode.content, offset, &bytes);
        inode.pending.push(Change::Write { offset, bytes });
        Ok(())
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.disk.alive().await;
        let time = self.disk.state().faults.sync_time;
        match time {
            Some(time) => tokio::time::sleep(time).await,
            None => tokio::task::yield_now().await,
        }
        self.disk.alive().await;
        let mut state = self.disk.state();
        if state.faults.fail_syncs {
            return Err(io::Error::other("injected sync error"));
        }
        state.syncs += 1;
        state.inode(self.inode)?.settle();
        Ok(())
    }

    async fn size_bytes(&self) -> io::Result<u64> {
        self.disk.alive().await;
        Ok(self.disk.state().inode(self.inode)?.content.len() as u64)
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.alive().await;
        let len = offset_of(len)?;
        self.disk.state().resize(self.inode, len)
    }

    async fn preallocate(&self, len: u64) -> io::Result<()> {
        self.disk.alive().await;
        let len = offset_of(len)?;
        let mut state = self.disk.state();
        let len = len.max(state.inode(self.inode)?.content.len());
        state.resize(self.inode, len)
    }
}
