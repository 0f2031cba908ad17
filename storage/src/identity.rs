//! Whose directory this is. The Raft id is drawn with the directory: a wiped disk gets another one, and can never vote
//! twice under the old.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::error::Damage;
use crate::open::OpenError;
use crate::vote::{SlotError, Slots, slot_names};

/// The version of a directory's layout that this version writes and reads.
pub const FORMAT: u32 = 1;
/// Raft ids have 53 bits, so that they survive any JSON reader.
pub const MAX_RAFT_ID: u64 = (1 << 53) - 1;
/// The name of the identity among the directory's values.
pub(crate) const NAME: &str = "identity";

/// What a directory is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Layout of the directory.
    pub format: u32,
    /// The control node's name.
    pub node_id: String,
    /// Random, from 1 to [`MAX_RAFT_ID`].
    pub raft_id: u64,
    /// The cluster that it belongs to, once it does.
    pub cluster_id: Option<String>,
}

/// The saved [`Identity`]. Clones share it.
#[derive(Clone)]
pub struct IdentityFile {
    slots: Slots,
    current: Arc<Mutex<Identity>>,
}

/// A new Raft id from the system's random source.
///
/// # Errors
/// When the system has none.
pub fn draw_raft_id() -> std::io::Result<u64> {
    let random = getrandom::u64().map_err(|e| std::io::Error::other(e.to_string()))?;
    Ok((random & MAX_RAFT_ID).max(1))
}

impl IdentityFile {
    /// Reads the identity, or gives the directory the one that `draw` makes, unless there are already `others` than the
    /// identity's own files, which are only ever made after it.
    pub(crate) async fn open(
        disk: &dyn Disk,
        others: Option<&str>,
        draw: impl FnOnce() -> Result<Identity, OpenError>,
    ) -> Result<Self, OpenError> {
        let slots = Slots::open(disk, NAME).await?;
        let identity = match slots.load().await {
            Some(bytes) => decode(&bytes, &disk.describe(&slot_names(NAME)[0]))?,
            None if let Some(other) = others => {
                let why = format!("it is empty, but {other} was written after it");
                return Err(Damage::new(disk.describe(&slot_names(NAME)[0]), 0, why).into());
            }
            None => {
                let identity = draw()?;
                slots.save(encode(&identity)).await?;
                identity
            }
        };
        Ok(Self { slots, current: Arc::new(Mutex::new(identity)) })
    }

    /// What the directory is bound to.
    pub fn get(&self) -> Identity {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Binds the directory to a cluster; durable when this returns. Binding to the same one again does nothing.
    ///
    /// # Errors
    /// [`BindError::Bound`] to another cluster; else the disk.
    pub async fn bind(&self, cluster_id: &str) -> Result<(), BindError> {
        let mut identity = self.get();
        match identity.cluster_id {
            Some(bound) if bound == cluster_id => return Ok(()),
            Some(bound) => return Err(BindError::Bound { bound, asked: cluster_id.to_owned() }),
            None => {}
        }
        identity.cluster_id = Some(cluster_id.to_owned());
        self.slots.save(encode(&identity)).await?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = identity;
        Ok(())
    }
}

fn encode(identity: &Identity) -> Bytes {
    Bytes::from(serde_json::to_vec(identity).expect("strings and numbers are always JSON"))
}

fn decode(bytes: &Bytes, file: &str) -> Result<Identity, OpenError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let unreadable = |e: serde_json::Error| Damage::new(file, 24, format!("unreadable identity: {e}"));
    let Format { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if format > FORMAT {
        return Err(OpenError::Newer { file: file.to_owned(), found: format, supported: FORMAT });
    }
    Ok(serde_json::from_slice(bytes).map_err(unreadable)?)
}

/// Why a directory was not bound to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It belongs to another one.
    #[error(
        "this data directory belongs to cluster {bound}, not {asked}; use an empty directory for another cluster"
    )]
    Bound {
        /// The cluster it belongs to.
        bound: String,
        /// The one asked for.
        asked: String,
    },
    /// The disk failed.
    #[error(transparent)]
    Slot(#[from] SlotError),
}
