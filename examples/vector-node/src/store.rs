//! The database of one copy: ruvector-core, each row stamped with the position of its write.
//!
//! What ruvector-core 2.4 gives (read in its source): `insert_batch` is one redb transaction, durable when it returns; so
//! is each `delete`. Its index is in memory and rebuilt when opened. What it lacks: positions (the stamp goes into the
//! metadata, hence into the same transaction); a log of writes, atomicity over several keys and quick deletes (the client
//! library's journal before it); and overwriting: its HNSW keeps the old vector of an overwritten id in the graph and finds it
//! again under the new id, and an insert without metadata keeps the old ones. So the flat index is used, which is exact, and
//! every row has metadata.
//!
//! Its pool keeps databases by path for as long as somebody uses them; the library gives each copy a path of its own.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;

use ruvector_cluster_client::ids::{Epoch, Position};
use ruvector_cluster_client::node::{Row, ShardStore, Stamp, StoreFault, View};
use ruvector_cluster_client::replica::{Key, Value};
use ruvector_core::distance::euclidean_distance;
use ruvector_core::types::DbOptions;
use ruvector_core::{DistanceMetric, SearchQuery, VectorDB, VectorEntry};
use serde::{Deserialize, Serialize};

use crate::value::{Point, PointError};

/// Metadata fields of a row: the stamp, and the point's own metadata as JSON text, so that they stay as they were.
const EPOCH: &str = "epoch";
const N: &str = "n";
const TEXT: &str = "metadata";

/// What is looked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Nearest {
    /// As many components as the node's dimensions.
    pub vector: Vec<f32>,
    /// How many.
    pub k: usize,
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// Euclidean distance.
    pub score: f32,
}

/// One shard's vectors.
pub struct Vectors {
    db: VectorDB,
}

/// What a database may not be.
#[derive(Debug, thiserror::Error)]
pub enum VectorsError {
    /// It was made for other vectors.
    #[error("the database has {has} dimensions, the node {wants}")]
    Dimensions {
        /// Its.
        has: usize,
        /// The node's.
        wants: usize,
    },
    /// Something else wrote it.
    #[error("the row of {0:?} has no stamp")]
    Unstamped(String),
    /// It was listed a moment ago.
    #[error("the row of {0:?} is missing")]
    Missing(String),
}

impl ShardStore for Vectors {
    /// Components of each vector.
    type Options = usize;
    type Query = Nearest;
    /// Ascending by score, then by id.
    type Found = Vec<Found>;

    fn layout(dimensions: &usize) -> String {
        format!("vectors of {dimensions} dimensions")
    }

    fn open(path: &Path, dimensions: &usize) -> Result<Self, StoreFault> {
        let options = DbOptions {
            dimensions: *dimensions,
            distance_metric: DistanceMetric::Euclidean,
            storage_path: path.to_string_lossy().into_owned(),
            hnsw_config: None,
            quantization: None,
        };
        let db = VectorDB::new(options)?;
        let has = db.options().dimensions;
        if has != *dimensions {
            return Err(VectorsError::Dimensions { has, wants: *dimensions }.into());
        }
        Ok(Self { db })
    }

    fn stamps(&self) -> Result<Vec<Stamp>, StoreFault> {
        let mut stamps = Vec::new();
        for key in self.db.keys()? {
            let entry = self.db.get(&key)?.ok_or_else(|| VectorsError::Missing(key.clone()))?;
            let bytes = Point::encoded_bytes(entry.vector.len(), text(&entry).unwrap_or(""));
            let position = stamp(&entry).ok_or_else(|| VectorsError::Unstamped(key.clone()))?;
            stamps.push(Stamp { key: Key::from(key), position, bytes });
        }
        Ok(stamps)
    }

    fn get(&self, key: &str) -> Result<Option<Value>, StoreFault> {
        let Some(entry) = self.db.get(key)? else { return Ok(None) };
        let metadata = text(&entry).map(serde_json::from_str).transpose().map_err(PointError::from)?;
        Ok(Some(Point { vector: entry.vector, metadata }.encode()?))
    }

    fn write(&self, put: &[Row], remove: &[Key]) -> Result<(), StoreFault> {
        if !put.is_empty() {
            let entries: Result<Vec<VectorEntry>, PointError> = put.iter().map(entry).collect();
            self.db.insert_batch(entries?)?;
        }
        for key in remove {
            self.db.delete(key)?;
        }
        Ok(())
    }

    /// The `k` nearest, exactly.
    fn search(view: &View<'_, Self>, query: &Nearest) -> Result<Vec<Found>, StoreFault> {
        let Nearest { vector, k } = query;
        let all = SearchQuery {
            vector: vector.clone(),
            k: k.saturating_add(view.outdated()),
            filter: None,
            ef_search: None,
        };
        let hits = view.store().db.search(all)?.into_iter().filter(|hit| view.is_current(&hit.id));
        let mut found: Vec<Found> = hits.map(|hit| Found { id: hit.id, score: hit.score }).collect();
        for row in view.fresh() {
            let point = Point::decode(&row.value)?;
            if point.vector.len() == vector.len() {
                let score = euclidean_distance(vector, &point.vector);
                found.push(Found { id: row.key.to_string(), score });
            }
        }
        Ok(nearest_of(found, *k))
    }
}

/// The `k` nearest of all that was found.
#[must_use]
pub fn nearest_of(mut found: Vec<Found>, k: usize) -> Vec<Found> {
    found.sort_by(|a, b| a.score.total_cmp(&b.score).then_with(|| a.id.cmp(&b.id)));
    found.truncate(k);
    found
}

fn text(entry: &VectorEntry) -> Option<&str> {
    entry.metadata.as_ref()?.get(TEXT)?.as_str()
}

fn stamp(entry: &VectorEntry) -> Option<Position> {
    let metadata = entry.metadata.as_ref()?;
    Some(Position { epoch: Epoch(metadata.get(EPOCH)?.as_u64()?), n: metadata.get(N)?.as_u64()? })
}

fn entry(row: &Row) -> Result<VectorEntry, PointError> {
    let point = Point::decode(&row.value)?;
    let mut metadata = HashMap::from([
        (EPOCH.to_owned(), row.position.epoch.0.into()),
        (N.to_owned(), row.position.n.into()),
    ]);
    if let Some(own) = &point.metadata {
        metadata.insert(TEXT.to_owned(), serde_json::to_string(own)?.into());
    }
    Ok(VectorEntry { id: Some(row.key.to_string()), vector: point.vector, metadata: Some(metadata) })
}
