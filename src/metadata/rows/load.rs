//! The state from its rows: everything that is derived is computed anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruvector_cluster_client::ids::{NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::{Role, ShardCounts};
use serde::de::DeserializeOwned;

use super::super::migration::MigrationRow;
use super::super::node::NodeRow;
use super::super::shard::{RetiringRow, ShardRow};
use super::super::state::{
    EventRow, Founded, Head, Holdings, Metadata, PolicyRow, Remembered, Restored, ShardEntry, counts_of,
};
use super::FORMAT;

/// Why rows are no state of this build's.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// Written by a newer version, or damaged.
    #[error("row {key} has format {format:?}, this version reads {FORMAT}: use the version that wrote it")]
    Format {
        /// The row's key, made readable.
        key: String,
        /// Its first byte.
        format: Option<u8>,
    },
    /// Written by a newer version, or damaged.
    #[error("row {key} is of no kind that this version knows")]
    Key {
        /// The row's key, made readable.
        key: String,
    },
    /// Damaged.
    #[error("row {key} can't be read")]
    Malformed {
        /// The row's key, made readable.
        key: String,
        /// Where it ends to be JSON of that shape.
        #[source]
        source: serde_json::Error,
    },
    /// A row without one that it rests on.
    #[error("row {key} belongs to nothing that is there")]
    Orphan {
        /// The row's key, made readable.
        key: String,
    },
}

/// Rows that rest on others, kept until those are there.
#[derive(Default)]
struct Pending {
    shards: Vec<ShardRow>,
    remembered: BTreeMap<(Revision, u32), Vec<u8>>,
}

impl Metadata {
    /// The state of which these are all rows, in any order.
    ///
    /// # Errors
    /// [`RowsError`] when a row is not of this version's format, damaged, or without what it rests on.
    pub fn from_rows<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        rows: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, RowsError> {
        let mut state = Self::new();
        let mut pending = Pending::default();
        for (key, value) in rows {
            let Some((&FORMAT, json)) = value.as_ref().split_first() else {
                let format = value.as_ref().first().copied();
                return Err(RowsError::Format { key: readable(key.as_ref()), format });
            };
            state.load(key.as_ref(), json, &mut pending)?;
        }
        state.complete(pending)?;
        Ok(state)
    }

    fn load(&mut self, key: &[u8], json: &[u8], pending: &mut Pending) -> Result<(), RowsError> {
        match key {
            b"head" => self.head = parse::<Head>(key, json)?,
            b"founded" => self.founded = Some(Arc::new(parse::<Founded>(key, json)?)),
            b"restored" => self.restored = Some(Arc::new(parse::<Restored>(key, json)?)),
            b"policy" => self.policy = Arc::new(parse::<PolicyRow>(key, json)?),
            [b'n', b'/', ..] => {
                let row: NodeRow = parse(key, json)?;
                self.nodes.insert(row.id.clone(), Arc::new(row));
            }
            [b's', b'/', ..] => pending.shards.push(parse(key, json)?),
            [b'r', b'/', ..] => {
                let row: RetiringRow = parse(key, json)?;
                self.retiring.insert((row.shard, row.node.clone()), Arc::new(row));
            }
            [b'm', b'/', ..] => {
                let row: MigrationRow = parse(key, json)?;
                if row.phase.is_ended() {
                    self.ended.insert((row.revision, row.id), ());
                } else {
                    self.active.insert(row.id, ());
                }
                self.migrations.insert(row.id, Arc::new(row));
            }
            [b'e', b'/', ..] => {
                let row: EventRow = parse(key, json)?;
                self.events.insert((row.revision, row.seq), Arc::new(row));
            }
            [b'k', b'/', index @ ..] => {
                let part = part_of(index).ok_or_else(|| RowsError::Key { key: readable(key) })?;
                pending.remembered.insert(part, json.to_vec());
            }
            _ => return Err(RowsError::Key { key: readable(key) }),
        }
        Ok(())
    }

    fn complete(&mut self, pending: Pending) -> Result<(), RowsError> {
        if let Some(founded) = self.founded.clone() {
            self.add_unassigned_shards(&founded);
        }
        for row in pending.shards {
            let id = row.id;
            let orphan = || RowsError::Orphan { key: format!("s/{id}") };
            self.shards.get_mut(&id).ok_or_else(orphan)?.row = Arc::new(row);
        }
        let mut requests: BTreeMap<Revision, Vec<u8>> = BTreeMap::new();
        for ((index, _), part) in pending.remembered {
            requests.entry(index).or_default().extend(part);
        }
        for (index, json) in requests {
            let row: Remembered = parse(format!("k/{index}").as_bytes(), &json)?;
            self.keys.insert(Arc::clone(&row.key), index);
            self.remembered.insert(index, Arc::new(row));
        }
        self.derive();
        Ok(())
    }

    /// Statuses and who holds what.
    fn derive(&mut self) {
        let mut holdings: BTreeMap<NodeId, Holdings> = BTreeMap::new();
        for node in self.nodes() {
            let known_since = node.assignments_revision;
            holdings.insert(node.id.clone(), Holdings { known_since, ..Holdings::default() });
        }
        let mut hold = |node: &NodeId, shard: ShardId, role: Role| {
            if let Some(holdings) = holdings.get_mut(node) {
                holdings.set(shard, Some(role), holdings.known_since);
            }
        };
        let mut counts = ShardCounts { total: self.counts.total, ..ShardCounts::default() };
        let mut shards = self.shards.clone();
        for (id, ShardEntry { row, .. }) in self.shards.iter() {
            for node in row.copies() {
                row.role_of(node).into_iter().for_each(|role| hold(node, row.id, role));
            }
            let status = self.shard_status(row);
            *counts_of(&mut counts, status) += 1;
            shards.insert(*id, ShardEntry { row: Arc::clone(row), status });
        }
        for row in self.retiring() {
            hold(&row.node, row.shard, Role::Retiring);
        }
        self.shards = shards;
        self.counts = counts;
        for (node, holdings) in holdings {
            self.holdings.insert(node, Arc::new(holdings));
        }
    }
}

fn parse<T: DeserializeOwned>(key: &[u8], json: &[u8]) -> Result<T, RowsError> {
    serde_json::from_slice(json).map_err(|source| RowsError::Malformed { key: readable(key), source })
}

fn part_of(index: &[u8]) -> Option<(Revision, u32)> {
    let (index, part) = index.split_first_chunk::<8>()?;
    let part: [u8; 4] = part.try_into().ok()?;
    Some((Revision(u64::from_be_bytes(*index)), u32::from_be_bytes(part)))
}

fn readable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}
