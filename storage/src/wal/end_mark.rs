//! How many parts the log had when it was last closed in order.
//!
//! A log that is cut between two parts looks whole. This number, kept beside it, tells at the next open that parts are
//! missing. It is only ever a lower bound: a process that is killed leaves the number of the close before.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::WalError;
use crate::disk::Disk;
use crate::error::Damage;
use crate::vote::{SlotError, Slots, slot_names};

/// The name of the mark among the directory's values.
const NAME: &str = "log-end";
const FORMAT: u8 = 1;
const BYTES: usize = 9;

pub(super) struct EndMark {
    slots: Slots,
    file: String,
}

impl EndMark {
    /// The mark of `disk`, and the number of parts that it says; `None` where no close in order came before.
    pub(super) async fn open(disk: &dyn Disk) -> Result<(Self, Option<u64>), WalError> {
        let file = disk.describe(&slot_names(NAME)[0]);
        let slots = Slots::open(disk, NAME).await.map_err(|e| failed(&file, e))?;
        let marked = slots.load().await.map(|bytes| decode(&bytes, &file)).transpose()?;
        Ok((Self { slots, file }, marked))
    }

    /// Durable when this returns, but for a full disk: then the mark before stands, which is a lower bound too. All of the parts
    /// must be durable before.
    pub(super) async fn save(&self, parts: u64) -> Result<(), WalError> {
        let mut bytes = BytesMut::with_capacity(BYTES);
        bytes.put_u8(FORMAT);
        bytes.put_u64_le(parts);
        match self.slots.save_once(bytes.freeze()).await {
            Err(SlotError::Full { file }) => {
                tracing::warn!(file, "the disk is full: where the log ends is not marked");
                Ok(())
            }
            saved => saved.map_err(|e| failed(&self.file, e)),
        }
    }
}

fn failed(file: &str, error: SlotError) -> WalError {
    match error {
        SlotError::Damaged(damage) => WalError::Damaged(damage),
        SlotError::Newer { file, found } => WalError::Newer { file, offset: 7, found, supported: FORMAT },
        other => {
            let source = Arc::new(std::io::Error::other(other));
            WalError::Failed { what: format!("cannot keep the log's end in {file}"), source }
        }
    }
}

fn decode(bytes: &Bytes, file: &str) -> Result<u64, WalError> {
    match (bytes.first(), <[u8; 8]>::try_from(bytes.get(1..).unwrap_or_default())) {
        (Some(&FORMAT), Ok(parts)) => Ok(u64::from_le_bytes(parts)),
        (Some(newer), _) if *newer > FORMAT => {
            Err(WalError::Newer { file: file.to_owned(), offset: 24, found: *newer, supported: FORMAT })
        }
        _ => Err(Damage::new(file, 24, "it does not hold a number of parts").into()),
    }
}
