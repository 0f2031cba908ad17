//! The state as rows for storage and snapshots: a key of a prefix and an id, a value of a format tag and JSON.
//!
//! | key | value |
//! |---|---|
//! | `head`, `founded`, `policy` | one each |
//! | `restored` | that it began from a backup, if it did |
//! | `n/` id | a node |
//! | `s/` number (4 bytes) | a shard; those never assigned have none |
//! | `r/` number, id | a copy to be deleted |
//! | `m/` number (8 bytes) | a migration |
//! | `e/` revision (8), number (4) | an event |
//! | `k/` log index (8), part (4) | a remembered request, in parts |
//!
//! Numbers are big-endian, so that keys ascend with them. Values stay below 64 KiB, the most that sled keeps well: all texts
//! are bounded at apply, and a remembered outcome, which may list a thousand refusals, is cut into parts.

mod load;

use ruvector_cluster_client::ids::{MigrationId, NodeId, Revision, ShardId};
use serde::Serialize;

pub use load::RowsError;

use super::apply::RowChange;
use super::migration::MigrationRow;
use super::node::NodeRow;
use super::shard::{RetiringRow, ShardRow};
use super::state::{EventRow, Founded, Metadata, PolicyRow, Remembered, Restored};

/// First byte of each value: JSON, as this build writes it.
const FORMAT: u8 = 1;

/// Bytes of a remembered outcome's part.
const PART_BYTES: usize = 32 * 1024;

fn written(key: Vec<u8>, row: &impl Serialize) -> RowChange {
    let mut value = vec![FORMAT];
    serde_json::to_writer(&mut value, row).expect("rows are plain data with string keys");
    RowChange { key, value: Some(value) }
}

fn gone(key: Vec<u8>) -> RowChange {
    RowChange { key, value: None }
}

fn key(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(super) fn head(state: &Metadata) -> RowChange {
    written(key(&[b"head"]), &state.head)
}

pub(super) fn founded(row: &Founded) -> RowChange {
    written(key(&[b"founded"]), row)
}

pub(super) fn restored(row: &Restored) -> RowChange {
    written(key(&[b"restored"]), row)
}

pub(super) fn policy(row: &PolicyRow) -> RowChange {
    written(key(&[b"policy"]), row)
}

fn node_key(id: &NodeId) -> Vec<u8> {
    key(&[b"n/", id.as_str().as_bytes()])
}

pub(super) fn node(row: &NodeRow) -> RowChange {
    written(node_key(&row.id), row)
}

pub(super) fn no_node(id: &NodeId) -> RowChange {
    gone(node_key(id))
}

pub(super) fn shard(row: &ShardRow) -> RowChange {
    written(key(&[b"s/", &row.id.0.to_be_bytes()]), row)
}

fn retiring_key(shard: ShardId, node: &NodeId) -> Vec<u8> {
    key(&[b"r/", &shard.0.to_be_bytes(), node.as_str().as_bytes()])
}

pub(super) fn retiring(row: &RetiringRow) -> RowChange {
    written(retiring_key(row.shard, &row.node), row)
}

pub(super) fn no_retiring(shard: ShardId, node: &NodeId) -> RowChange {
    gone(retiring_key(shard, node))
}

fn migration_key(id: MigrationId) -> Vec<u8> {
    key(&[b"m/", &id.0.to_be_bytes()])
}

pub(super) fn migration(row: &MigrationRow) -> RowChange {
    written(migration_key(row.id), row)
}

pub(super) fn no_migration(id: MigrationId) -> RowChange {
    gone(migration_key(id))
}

fn event_key(revision: Revision, seq: u32) -> Vec<u8> {
    key(&[b"e/", &revision.0.to_be_bytes(), &seq.to_be_bytes()])
}

pub(super) fn event(row: &EventRow) -> RowChange {
    written(event_key(row.revision, row.seq), row)
}

pub(super) fn no_event(revision: Revision, seq: u32) -> RowChange {
    gone(event_key(revision, seq))
}

pub(super) fn remembered(index: Revision, row: &Remembered) -> Vec<RowChange> {
    let json = serde_json::to_vec(row).expect("rows are plain data with string keys");
    let parts = json.chunks(PART_BYTES).zip(0_u32..);
    let parts = parts.map(|(part, number)| RowChange {
        key: key(&[b"k/", &index.0.to_be_bytes(), &number.to_be_bytes()]),
        value: Some(key(&[&[FORMAT], part])),
    });
    parts.collect()
}

pub(super) fn no_remembered(index: Revision, row: &Remembered) -> Vec<RowChange> {
    remembered(index, row).into_iter().map(|part| gone(part.key)).collect()
}

impl Metadata {
    /// All rows as they are now, whatever is applied meanwhile: what a snapshot holds.
    pub fn to_rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + use<> {
        let never_assigned = self.founded().map(|founded| founded.revision);
        let once = std::iter::once(head(self)).chain(self.founded().map(founded));
        let once = once.chain(self.restored().map(restored));
        let once: Vec<RowChange> = once.chain(self.founded().map(|_| policy(&self.policy))).collect();
        let shards = self.shards.owned().filter(move |(_, entry)| Some(entry.row.revision) != never_assigned);
        let remembers = !mutants::is_on(mutants::Mutant::SnapshotWithoutRequests);
        let requests = self.remembered.owned().filter(move |_| remembers);
        let rows = once
            .into_iter()
            .chain(self.nodes.owned().map(|(_, row)| node(&row)))
            .chain(shards.map(|(_, entry)| shard(&entry.row)))
            .chain(self.retiring.owned().map(|(_, row)| retiring(&row)))
            .chain(self.migrations.owned().map(|(_, row)| migration(&row)))
            .chain(self.events.owned().map(|(_, row)| event(&row)))
            .chain(requests.flat_map(|(index, row)| remembered(index, &row)));
        rows.filter_map(|row| row.value.map(|value| (row.key, value)))
    }
}
