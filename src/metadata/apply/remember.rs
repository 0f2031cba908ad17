//! What was answered under an Idempotency-Key, so that a repeated request takes effect once.
//!
//! Kept for 24 hours of log time, at most 100,000. Refusals are kept too: the same request gets the same answer.
//! But for those of a resume, and before the cluster is founded: what they are for passes by waiting, and the request is
//! repeated until then.

use std::sync::Arc;

use ruvector_cluster_client::ids::Revision;

use super::{RowChange, reject};
use crate::metadata::command::{Outcome, RejectionCode, RequestKey};
use crate::metadata::rows;
use crate::metadata::state::{Metadata, Remembered};

/// How long an answer is kept, in log time.
const KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

/// How many answers are kept at most.
pub(in crate::metadata) const KEPT: usize = 100_000;

/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 256;

/// Answers forgotten by one command at most: a bound on its time; more than one comes in with it, so that the rest follows.
const FORGOTTEN_AT_ONCE: usize = 64;

impl Metadata {
    /// The outcome that this request had before, or its refusal when its key stands for another one. What is checked of a
    /// request outside of apply is asked only where this is none: a repeat is told what it was told.
    pub fn earlier_outcome(&self, key: &RequestKey) -> Option<Outcome> {
        let refuse = |code, detail: String| {
            Some(Outcome { revision: self.head.revision, result: Err(reject(code, detail)) })
        };
        if key.key.is_empty() || key.key.len() > MAX_KEY_BYTES || key.fingerprint.len() > MAX_KEY_BYTES {
            let detail = format!("an Idempotency-Key has 1 to {MAX_KEY_BYTES} bytes");
            return refuse(RejectionCode::Invalid, detail);
        }
        let index = self.keys.get(&Arc::from(key.key.as_str()))?;
        let earlier = self.remembered.get(index)?;
        if is_old(self, earlier) {
            None
        } else if earlier.fingerprint == key.fingerprint {
            Some(earlier.outcome.clone())
        } else {
            let detail = "this Idempotency-Key was used for another request: choose a new one".to_owned();
            refuse(RejectionCode::KeyReused, detail)
        }
    }
}

/// Keeps the outcome, and forgets what is too old or too many.
pub(super) fn remember(
    state: &mut Metadata,
    index: Revision,
    key: &RequestKey,
    outcome: &Outcome,
    stored: &mut Vec<RowChange>,
) {
    let name: Arc<str> = Arc::from(key.key.as_str());
    if let Some(expired) = state.keys.get(&name).copied() {
        forget(state, expired, stored);
    }
    let row = Remembered {
        key: Arc::clone(&name),
        fingerprint: key.fingerprint.clone(),
        at_ms: state.head.log_time_ms,
        outcome: outcome.clone(),
    };
    stored.extend(rows::remembered(index, &row));
    state.remembered.insert(index, Arc::new(row));
    state.keys.insert(name, index);
    for _ in 0..FORGOTTEN_AT_ONCE {
        let Some((&oldest, row)) = state.remembered.first() else { return };
        if state.remembered.len() <= KEPT && !is_old(state, row) {
            return;
        }
        forget(state, oldest, stored);
    }
}

fn is_old(state: &Metadata, row: &Remembered) -> bool {
    state.head.log_time_ms.saturating_sub(row.at_ms) > KEPT_MS
}

fn forget(state: &mut Metadata, index: Revision, stored: &mut Vec<RowChange>) {
    if let Some(row) = state.remembered.remove(&index) {
        state.keys.remove(&row.key);
        stored.extend(rows::no_remembered(index, &row));
    }
}
