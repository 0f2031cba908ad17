//! The database of one copy: ruvector-core, each row stamped with the position of its write.
//!
//! What ruvector-core 2.4 gives (read in its source): `insert_batch` is one redb transaction, durable when it returns; so
//! is each `delete`. Its index is in memory and rebuilt when opened. What it lacks, and is added around it: positions
//! (the stamp goes into the metadata, hence into the same transaction), a log of writes (the journal), batches of deletes
//! (bounded, in the background), and overwriting: its HNSW keeps the old vector of an overwritten id in the graph and finds
//! it again under the new id, and an insert without metadata keeps the old ones. So the flat index is used, which is exact,
//! and every row has metadata.
//!
//! Its pool keeps databases by path for as long as somebody uses them; each copy's file therefore has a random name.

use std::collections::HashMap;
use std::path::Path;

use ruvector_cluster_client::ids::{Epoch, Position};
use ruvector_cluster_client::replica::wire::Write;
use ruvector_cluster_client::replica::{Key, Value};
use ruvector_core::types::DbOptions;
use ruvector_core::{DistanceMetric, RuvectorError, SearchQuery, VectorDB, VectorEntry};

use super::value::{Point, PointError};

/// Metadata fields of a row: the stamp, and the point's own metadata as JSON text, so that they stay as they were.
const EPOCH: &str = "epoch";
const N: &str = "n";
const TEXT: &str = "metadata";

pub(super) struct Rows {
    db: VectorDB,
}

/// Why the database can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowsError {
    #[error(transparent)]
    Database(#[from] RuvectorError),
    #[error(transparent)]
    Point(#[from] PointError),
    #[error("the database has {has} dimensions, the node {wants}")]
    Dimensions { has: usize, wants: usize },
    #[error("the row of {0:?} has no stamp")]
    Unstamped(String),
    #[error("the row of {0:?} is missing")]
    Missing(String),
}

impl Rows {
    /// Opens the database at `path`, or makes it.
    pub(super) fn open(path: &Path, dimensions: usize) -> Result<Self, RowsError> {
        let options = DbOptions {
            dimensions,
            distance_metric: DistanceMetric::Euclidean,
            storage_path: path.to_string_lossy().into_owned(),
            hnsw_config: None,
            quantization: None,
        };
        let db = VectorDB::new(options)?;
        let has = db.options().dimensions;
        if has != dimensions {
            return Err(RowsError::Dimensions { has, wants: dimensions });
        }
        Ok(Self { db })
    }

    /// All rows: key, stamp, bytes of the value.
    pub(super) fn stamps(&self) -> Result<Vec<(Key, Position, u64)>, RowsError> {
        let mut stamps = Vec::new();
        for key in self.db.keys()? {
            let entry = self.db.get(&key)?.ok_or_else(|| RowsError::Missing(key.clone()))?;
            let text =
                entry.metadata.as_ref().and_then(|m| m.get(TEXT)).and_then(|t| t.as_str()).unwrap_or("");
            let bytes = (5 + entry.vector.len() * 4 + text.len()) as u64;
            let position = stamp(&entry).ok_or(RowsError::Unstamped(key.clone()))?;
            stamps.push((Key::from(key), position, bytes));
        }
        Ok(stamps)
    }

    /// Puts all of `writes`, which have values, in one transaction.
    pub(super) fn put(&self, writes: &[Write]) -> Result<(), RowsError> {
        let entries: Result<Vec<VectorEntry>, RowsError> = writes.iter().filter_map(row).collect();
        self.db.insert_batch(entries?)?;
        Ok(())
    }

    /// Deletes `key`.
    pub(super) fn delete(&self, key: &str) -> Result<(), RowsError> {
        self.db.delete(key)?;
        Ok(())
    }

    /// The value of a row that is there.
    pub(super) fn get(&self, key: &str) -> Result<Value, RowsError> {
        let entry = self.db.get(key)?.ok_or_else(|| RowsError::Missing(key.to_owned()))?;
        let text = entry.metadata.as_ref().and_then(|m| m.get(TEXT)).and_then(|t| t.as_str());
        let metadata = text.map(serde_json::from_str).transpose().map_err(PointError::from)?;
        Ok(Point { vector: entry.vector, metadata }.encode()?)
    }

    /// The `k` nearest rows, exactly: id and Euclidean distance.
    pub(super) fn search(&self, vector: &[f32], k: usize) -> Result<Vec<(String, f32)>, RowsError> {
        let query = SearchQuery { vector: vector.to_vec(), k, filter: None, ef_search: None };
        Ok(self.db.search(query)?.into_iter().map(|hit| (hit.id, hit.score)).collect())
    }
}

fn stamp(entry: &VectorEntry) -> Option<Position> {
    let metadata = entry.metadata.as_ref()?;
    Some(Position { epoch: Epoch(metadata.get(EPOCH)?.as_u64()?), n: metadata.get(N)?.as_u64()? })
}

fn row(write: &Write) -> Option<Result<VectorEntry, RowsError>> {
    let value = write.value.as_ref()?;
    let entry = || {
        let point = Point::decode(value)?;
        let mut metadata = HashMap::from([
            (EPOCH.to_owned(), write.position.epoch.0.into()),
            (N.to_owned(), write.position.n.into()),
        ]);
        if let Some(own) = &point.metadata {
            metadata.insert(TEXT.to_owned(), serde_json::to_string(own).map_err(PointError::from)?.into());
        }
        Ok(VectorEntry { id: Some(write.key.to_string()), vector: point.vector, metadata: Some(metadata) })
    };
    Some(entry())
}
