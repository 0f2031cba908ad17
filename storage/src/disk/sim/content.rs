//! What the simulated device holds: what readers see, what is durable, and what a crash makes of the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;

/// What a device writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// All files.
#[derive(Default)]
pub(super) struct Content {
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
}

/// One file, with a name or without.
#[derive(Default)]
pub(super) struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// How many changes left `pending` before the first that is in it.
    settled: u64,
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

pub(super) fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl Content {
    pub(super) fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    pub(super) fn find(&self, name: &str) -> Option<u64> {
        self.names.get(name).copied()
    }

    pub(super) fn named(&self, name: &str) -> Option<&Inode> {
        self.inodes.get(self.names.get(name)?)
    }

    pub(super) fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| io::Error::other("no such inode"))
    }

    pub(super) fn create(&mut self, name: &str) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        self.names.insert(name.to_owned(), inode);
        self.name_changes.push(NameChange::Set { name: name.to_owned(), inode });
        inode
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let inode = self.names.remove(from).ok_or_else(|| not_found(from))?;
        self.names.insert(to.to_owned(), inode);
        self.name_changes.push(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        self.names.remove(name).ok_or_else(|| not_found(name))?;
        self.name_changes.push(NameChange::Remove { name: name.to_owned() });
        Ok(())
    }

    pub(super) fn settle_names(&mut self) {
        self.name_changes.clear();
        self.durable_names = self.names.clone();
    }

    /// Bytes of all files that have a name, once `inode` has `len`; `None` where it does not grow.
    pub(super) fn bytes_when_grown(&self, inode: u64, len: usize) -> Option<u64> {
        let grows = len.checked_sub(self.inodes.get(&inode)?.content.len()).filter(|grows| *grows > 0)?;
        let used: usize =
            self.names.values().filter_map(|n| self.inodes.get(n)).map(|i| i.content.len()).sum();
        Some((used + grows) as u64)
    }

    /// What a power failure leaves; `seed` decides what of the unsynced.
    pub(super) fn after_crash(&mut self, seed: u64) -> Self {
        let mut random = SplitMix(seed);
        let mut names = std::mem::take(&mut self.durable_names);
        let kept = random.below(self.name_changes.len() as u64 + 1) as usize;
        for change in self.name_changes.drain(..).take(kept) {
            change.apply(&mut names);
        }
        let named: BTreeSet<u64> = names.values().copied().collect();
        let mut inodes = BTreeMap::new();
        for (id, inode) in std::mem::take(&mut self.inodes) {
            let content = inode.after_crash(&mut random);
            if named.contains(&id) {
                inodes.insert(id, Inode::durable(content));
            }
        }
        let durable_names = names.clone();
        Self { next_inode: self.next_inode, inodes, names, durable_names, name_changes: Vec::new() }
    }

    /// What is certain to be there after a power failure: a copy of the synced, and nothing else.
    pub(super) fn synced(&self) -> Self {
        let names = self.durable_names.clone();
        let of = |id: &u64| self.inodes.get(id).map(|inode| (*id, Inode::durable(inode.durable.clone())));
        let inodes = names.values().filter_map(of).collect();
        Self {
            next_inode: self.next_inode,
            inodes,
            durable_names: names.clone(),
            names,
            name_changes: Vec::new(),
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
    fn durable(content: Vec<u8>) -> Self {
        Self { durable: content.clone(), content, pending: Vec::new(), settled: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.content
    }

    pub(super) fn write(&mut self, offset: usize, bytes: Bytes) {
        put(&mut self.content, offset, &bytes);
        self.pending.push(Change::Write { offset, bytes });
    }

    pub(super) fn resize(&mut self, len: usize) {
        self.content.resize(len, 0);
        self.pending.push(Change::Resize { len });
    }

    /// How many changes were ever made.
    pub(super) fn changes(&self) -> u64 {
        self.settled + self.pending.len() as u64
    }

    /// The first `upto` changes are durable. Only what changed is copied: logs are preallocated, and synced at each append.
    pub(super) fn settle(&mut self, upto: u64) {
        let count =
            usize::try_from(upto.saturating_sub(self.settled)).unwrap_or(usize::MAX).min(self.pending.len());
        for change in self.pending.drain(..count) {
            match change {
                Change::Resize { len } => self.durable.resize(len, 0),
                Change::Write { offset, bytes } => put(&mut self.durable, offset, &bytes),
            }
        }
        self.settled += count as u64;
    }

    /// A sync failed: readers go on seeing what was written, and no later sync will write it.
    pub(super) fn forget(&mut self) {
        self.settled = self.changes();
        self.pending.clear();
    }

    pub(super) fn damage(&mut self, offset: usize, bytes: &[u8]) {
        self.content[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.settle(u64::MAX);
        self.durable.clone_from(&self.content);
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
