//! What changes in the cluster, as it is committed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ruvector_cluster_client::control::ControlError;
use ruvector_cluster_client::ids::Revision;
use ruvector_cluster_client::wire::WatchEvent;

use super::live::Live;
use super::{ClusterError, Result};

/// How long one request waits for a change, in milliseconds.
const WAIT_MS: u64 = 30_000;

/// The pause after a wait that brought nothing.
const PAUSE: Duration = Duration::from_millis(20);

/// Follows the cluster's changes. Made by [`Cluster::watch`](super::Cluster::watch).
#[must_use]
pub struct ClusterWatch {
    live: Arc<Live>,
    from: Revision,
    told: VecDeque<WatchEvent>,
}

impl ClusterWatch {
    pub(super) fn new(live: Arc<Live>) -> Result<Self> {
        let from = {
            let state = live.state.borrow();
            state.founded().ok_or(ClusterError::NotFounded)?;
            state.revision()
        };
        Ok(Self { live, from, told: VecDeque::new() })
    }

    /// The revision up to which changes were returned.
    pub fn revision(&self) -> Revision {
        self.from
    }

    /// The next revision's changes; waits for them. To drop the wait loses nothing.
    ///
    /// # Errors
    /// [`ClusterError::Compacted`] where so much changed that the next is no longer kept; others pass: call it again.
    pub async fn next(&mut self) -> Result<WatchEvent> {
        loop {
            if let Some(event) = self.told.pop_front() {
                self.from = event.revision;
                return Ok(event);
            }
            if let Some(failure) = self.live.failure() {
                return Err(failure);
            }
            // The process's own control node is asked first.
            let asked = self.live.control.changes(self.from, WAIT_MS, 0);
            let told = tokio::select! {
                told = asked => told,
                failure = self.live.failed() => return Err(failure),
            };
            let told = told.map_err(|error| match &error {
                ControlError::Refused(problem) if problem.status == 410 => {
                    ClusterError::Compacted(Box::new(error))
                }
                _ => error.into(),
            })?;
            if told.events.is_empty() {
                self.from = self.from.max(told.revision);
                // A control node that stops answers at once, and with nothing.
                tokio::time::sleep(PAUSE).await;
            }
            self.told = told.events.into();
        }
    }
}
