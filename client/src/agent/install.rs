//! Assignments: the long poll, and putting in force what it or a heartbeat brings, one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::{AgentError, AssignmentUpdate, Session, SessionEnd, is_unknown};
use crate::control::{Backoff, ControlError};
use crate::ids::{Incarnation, Revision, ShardId};
use crate::wire::{Assignment, AssignmentsResponse};

/// A host that can't put assignments in force so often in a row can't at all.
const MAX_INSTALL_FAILURES: u32 = 100;

/// The assignments in force, behind a lock that makes installing one after the other.
pub(super) struct Installer {
    incarnation: Incarnation,
    held: Mutex<Held>,
    revision: watch::Sender<Revision>,
}

#[derive(Default)]
struct Held {
    revision: Revision,
    assignments: Arc<BTreeMap<ShardId, Assignment>>,
    failures: u32,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is in force now, or was no news.
    Yes,
    /// It is older than what is in force, or of an older generation.
    Older,
    /// The host could not; it is to be fetched again.
    Failed,
    /// It is for another incarnation.
    Unknown,
}

impl Installer {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self { incarnation, held: Mutex::default(), revision: watch::channel(Revision(0)).0 }
    }

    /// The revision in force.
    pub(super) fn revision(&self) -> Revision {
        *self.revision.borrow()
    }
}

impl Session<'_> {
    /// The long poll; ends with the session.
    pub(super) async fn poll_assignments(&self) -> Result<SessionEnd, AgentError> {
        let mut backoff = Backoff::new(20, 1_000);
        let mut since = Revision(0);
        loop {
            let node = &self.agent.config.node;
            let wait_ms = self.agent.config.poll_wait_ms;
            match self.agent.control.assignments(node, since, wait_ms, None).await {
                Ok(answered) => match self.take(answered.body).await? {
                    Taken::Yes => {
                        backoff = Backoff::new(20, 1_000);
                        since = self.installer.revision();
                        continue;
                    }
                    Taken::Unknown => return Ok(SessionEnd::Unknown),
                    Taken::Older | Taken::Failed => since = self.installer.revision(),
                },
                Err(error) if is_unknown(&error) => return Ok(SessionEnd::Unknown),
                Err(error) => {
                    tracing::debug!(%node, %error, "assignments could not be read");
                    // Of a compacted revision no delta is known: the whole set, then.
                    since = if is_compacted(&error) { Revision(0) } else { self.installer.revision() };
                }
            }
            tokio::time::sleep(Duration::from_millis(backoff.next_ms())).await;
        }
    }

    /// Fetches assignments of at least `assigned` from the control node `by`, which named that revision; others are
    /// tried when it doesn't answer.
    pub(super) async fn catch_up(
        &self,
        assigned: Revision,
        by: usize,
    ) -> Result<Option<SessionEnd>, AgentError> {
        let mut since = self.installer.revision();
        let mut backoff = Backoff::new(10, 200);
        while self.installer.revision() < assigned {
            match self.agent.control.assignments(&self.agent.config.node, since, 0, Some(by)).await {
                Ok(answered) => match self.take(answered.body).await? {
                    Taken::Unknown => return Ok(Some(SessionEnd::Unknown)),
                    Taken::Yes | Taken::Older | Taken::Failed => since = self.installer.revision(),
                },
                Err(error) if is_unknown(&error) => return Ok(Some(SessionEnd::Unknown)),
                Err(error) if is_compacted(&error) => since = Revision(0),
                // The next heartbeat finds out again, and asks whoever answers that.
                Err(_) => return Ok(None),
            }
            if self.installer.revision() < assigned {
                tokio::time::sleep(Duration::from_millis(backoff.next_ms())).await;
            }
        }
        Ok(None)
    }

    async fn take(&self, answer: AssignmentsResponse) -> Result<Taken, AgentError> {
        // The lock is held while the host installs, so that a newer answer can't overtake it.
        let mut held = self.installer.held.lock().await;
        if answer.incarnation > self.installer.incarnation {
            return Ok(Taken::Unknown);
        }
        let current = answer.incarnation == self.installer.incarnation
            && self.agent.generation_is_current(answer.generation).await?;
        if !current || answer.revision < held.revision {
            return Ok(Taken::Older);
        }
        let update = held.merge(answer);
        let is_news =
            !update.changed.is_empty() || !update.removed.is_empty() || held.revision == Revision(0);
        if is_news && let Err(error) = self.agent.host.install(&update).await {
            held.failures += 1;
            tracing::error!(node = %self.agent.config.node, %error, "assignments could not be put in force");
            return if held.failures < MAX_INSTALL_FAILURES { Ok(Taken::Failed) } else { Err(error.into()) };
        }
        held.failures = 0;
        held.revision = update.revision;
        held.assignments = update.all;
        self.agent.lease.installed(update.revision);
        self.installer.revision.send_replace(update.revision);
        Ok(Taken::Yes)
    }
}

impl Held {
    /// What `answer` makes of the held assignments. A delta since an older revision than the held one is as good: it
    /// has the newest state of each shard that it names.
    fn merge(&self, answer: AssignmentsResponse) -> AssignmentUpdate {
        let mut all = if answer.full { BTreeMap::new() } else { self.assignments.as_ref().clone() };
        for shard in &answer.removed {
            all.remove(shard);
        }
        all.extend(answer.assignments.into_iter().map(|assignment| (assignment.shard, assignment)));
        let changed = all.iter().filter(|(shard, now)| self.assignments.get(shard) != Some(now));
        let changed = changed.map(|(shard, _)| *shard).collect();
        let removed = self.assignments.keys().filter(|shard| !all.contains_key(shard)).copied().collect();
        AssignmentUpdate { revision: answer.revision, all: Arc::new(all), changed, removed }
    }
}

fn is_compacted(error: &ControlError) -> bool {
    error.status() == Some(410)
}
