//! The replicated state as raft/ drives it: bytes in, [`Metadata`] inside, an immutable copy out after each batch.
//!
//! One task applies; readers take the published copy without locks. What watches tell is noted when it is applied, as it then
//! was, so that a watcher who is behind still sees each state.
//!
//! An entry that this build does not understand stops the process: to skip it would make this copy differ from the others.

mod changes;
mod codec;
mod log_clock;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use ruvector_cluster_client::fail_point;
use ruvector_cluster_raft::{Applied, RestoreError, StateMachine};
use tokio::sync::watch;

use crate::metadata::{COMMAND_VERSION, Changed, Envelope, Metadata, RowChange, RowsError, apply};

pub use changes::{ChangeLog, Compacted, Logged};
pub use codec::{CodecError, decode, encode};
pub use log_clock::LogClock;

/// Is told each entry that is applied, with its index and log time.
pub type Observer = Arc<dyn Fn(u64, u64, &[u8]) + Send + Sync>;

/// Drives [`Metadata`].
pub struct Machine {
    observer: Option<Observer>,
    state: Metadata,
    published: watch::Sender<Arc<Metadata>>,
    changes: Arc<ChangeLog>,
}

impl Machine {
    /// An empty state, its readers' end, and the log of its changes.
    pub fn new(observer: Option<Observer>) -> (Self, watch::Receiver<Arc<Metadata>>, Arc<ChangeLog>) {
        let state = Metadata::new();
        let (published, reader) = watch::channel(Arc::new(state.clone()));
        let changes = Arc::new(ChangeLog::default());
        (Self { observer, state, published, changes: changes.clone() }, reader, changes)
    }
}

/// What is known of a command of any version.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

/// An entry's command.
///
/// # Panics
/// Where this build does not know its version, which is looked at first: a newer command may be anything; or where it is damaged.
fn understand(index: u64, command: &[u8]) -> Envelope {
    if let Ok(Versioned { version }) = decode(command) {
        assert!(
            version <= COMMAND_VERSION,
            "log entry {index} has command version {version}, and this build understands {COMMAND_VERSION}: run a build whose \
             `command_version` (GET /version) is at least {version}; nothing is lost, it goes on where it is"
        );
    }
    match decode(command) {
        Ok(envelope) => envelope,
        Err(error) => panic!("log entry {index} is not understood ({error}): run the newest build"),
    }
}

/// The fail points of tests that kill a control node which has applied a phase, and told nobody yet.
fn pass_fail_points(state: &Metadata, changes: &[Changed]) {
    for change in changes {
        if let Changed::Migration(id) = change
            && let Some(row) = state.migration(*id)
        {
            fail_point::pass("applied", row.phase.name());
        }
    }
}

impl StateMachine for Machine {
    fn apply(&mut self, index: u64, time_ms: u64, command: &[u8]) -> Applied {
        let envelope = understand(index, command);
        if let Some(observer) = &self.observer {
            observer(index, time_ms, command);
        }
        let applied = apply(&mut self.state, index, time_ms, &envelope);
        self.changes.note(&self.state, &applied.changes);
        pass_fail_points(&self.state, &applied.changes);
        let outcome = encode(&applied.outcome).expect("an outcome is plain data with string keys");
        let rows = applied.rows.into_iter().map(|RowChange { key, value }| (key, value.map(Bytes::from)));
        Applied { outcome, rows: rows.collect() }
    }

    fn publish(&mut self, _applied: u64, _time_ms: u64) {
        self.published.send_replace(Arc::new(self.state.clone()));
    }

    fn rows(&self) -> Box<dyn Iterator<Item = (Vec<u8>, Bytes)> + Send> {
        Box::new(self.state.to_rows().map(|(key, value)| (key, Bytes::from(value))))
    }

    fn restore(
        &mut self,
        _applied: u64,
        _time_ms: u64,
        rows: Vec<(Vec<u8>, Bytes)>,
    ) -> Result<(), RestoreError> {
        self.state = Metadata::from_rows(rows).map_err(restore_error)?;
        self.changes.forget_before(&self.state);
        Ok(())
    }
}

fn restore_error(error: RowsError) -> RestoreError {
    let row = match &error {
        RowsError::Format { key, .. }
        | RowsError::Key { key }
        | RowsError::Malformed { key, .. }
        | RowsError::Orphan { key } => key.clone(),
    };
    RestoreError { row, why: error.to_string() }
}
