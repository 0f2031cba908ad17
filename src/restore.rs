//! `ruvector-cluster snapshot restore`: a backup becomes the data directory of the first control node of a new cluster.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ruvector_cluster_client::ids::Revision;
use ruvector_cluster_raft::{Beginning, RestoreDirectoryError, restore_directory};
use ruvector_cluster_storage::{Disk, OpenOptions, RealDisk, Rows, SledRows};

use crate::backup::{self, Backup, BackupError};
use crate::config::Config;
use crate::metadata::RowsError;

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster's.
    pub cluster_id: String,
    /// One above the backup's.
    pub generation: u64,
    /// Above every revision of the old cluster.
    pub revision: Revision,
    /// The control node's, drawn with the directory.
    pub raft_id: u64,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file.
    #[error("the backup cannot be used")]
    Backup(#[from] BackupError),
    /// The new state: a bug.
    #[error("the backup's state cannot be carried over")]
    State(#[from] RowsError),
    /// The backup was made before its cluster was founded: a bug, since none is made then.
    #[error("the backup holds no founded cluster")]
    NotFounded,
    /// The new cluster's id can't be drawn.
    #[error("the system has no random numbers: {0}")]
    Random(String),
    /// The directory.
    #[error("the data directory cannot be restored")]
    Directory(#[from] RestoreDirectoryError),
}

/// Restores into the data directory that `config` names, which is empty or missing, for the control node that it describes.
///
/// # Errors
/// [`RestoreError`]. A directory in which a restore began and did not end is refused by everybody until it is emptied.
pub async fn restore(from: &Path, config: &Config) -> Result<Restored, RestoreError> {
    let target = Target {
        disk: Arc::new(RealDisk::new(config.data_dir.clone())),
        rows: Arc::new(SledRows::new(config.data_dir.join("rows"))),
        options: OpenOptions::new(config.node_id.as_str()),
    };
    restore_into(target, backup::read(from)?, config, draw_cluster_id()?).await
}

/// Where a backup is restored to.
pub struct Target {
    /// The files.
    pub disk: Arc<dyn Disk>,
    /// The stored rows.
    pub rows: Arc<dyn Rows>,
    /// How they are opened.
    pub options: OpenOptions,
}

/// As [`restore`], from a backup that was read, under a cluster id that is drawn.
///
/// # Errors
/// As there.
pub async fn restore_into(
    target: Target,
    from: Backup,
    config: &Config,
    cluster_id: String,
) -> Result<Restored, RestoreError> {
    let state = from.state.restored_as(&cluster_id)?.ok_or(RestoreError::NotFounded)?;
    let beginning = Beginning {
        cluster_id: cluster_id.clone(),
        name: config.node_id.as_str().to_owned(),
        client_url: config.client_url(config.listen),
        peer_url: config.peer_url(),
        index: state.revision().0,
        time_ms: state.log_time_ms(),
    };
    let content = state.to_rows().map(|(key, value)| (key, Bytes::from(value)));
    let Target { disk, rows, options } = target;
    let raft_id = restore_directory(disk, rows, options, beginning, Box::new(content)).await?;
    let generation = state.founded().map_or(0, |founded| founded.generation);
    Ok(Restored { cluster_id, generation, revision: state.revision(), raft_id })
}

fn draw_cluster_id() -> Result<String, RestoreError> {
    let draw = || getrandom::u64().map_err(|error| RestoreError::Random(error.to_string()));
    Ok(format!("{:016x}{:016x}", draw()?, draw()?))
}
