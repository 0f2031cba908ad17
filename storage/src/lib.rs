//! Durable files of a control node: the log, the vote, the rows of the state machine, and snapshots.
//!
//! **Memory is the state, the log is the truth, the rows trail.** A record of the log ([`wal`]) is acknowledged only
//! after the `fdatasync` that covers it. The rows ([`rows`]) are a cache of what the log and the newest snapshot
//! ([`snapshot`]) imply: they shorten a restart, and nothing rests on them alone.
//!
//! This crate knows indices, keys, bytes and files. It knows neither Raft nor the domain, and is the only one that
//! names sled. All of its files but sled's own go through [`disk::Disk`], which a simulation replaces.
//!
//! Invariants: nothing is reported durable before it is; a file that can't be what this crate wrote is refused with
//! its name, the offset and what to do ([`error::Damage`]); only an unfinished write at the very end of the log is cut.

pub mod disk;
pub mod error;
pub mod identity;
pub mod open;
pub mod rows;
pub mod snapshot;
pub mod vote;
pub mod wal;

pub use disk::{Disk, DiskCounts, DiskFile, RealDisk, SimDisk};
pub use error::Damage;
pub use identity::{Identity, IdentityFile};
pub use open::{OpenError, OpenOptions, Storage};
pub use rows::{MemRows, Rows, RowsBatch, RowsError, RowsImage, SledRows};
pub use snapshot::{
    SnapshotBytes, SnapshotDecoder, SnapshotEncoder, SnapshotError, SnapshotFile, SnapshotReceiver,
    SnapshotStore, SnapshotWriter,
};
pub use vote::{SlotError, Slots, VoteFile};
pub use wal::{AppendDone, Space, Wal, WalError, WalOptions, Written};
