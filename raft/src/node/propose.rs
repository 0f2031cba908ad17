//! Proposals.

use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, ForwardToLeader};
use openraft::impls::ProgressResponder;
use ruvector_cluster_storage::Space;
use tokio::time::Instant;

use super::Node;
use crate::error::ProposeError;
use crate::member::Leadership;
use crate::types::{Command, TypeConfig};

/// The largest command, in bytes. Clients' requests end at 16 MiB and become smaller commands.
const COMMAND_LIMIT_BYTES: usize = 16 << 20;
/// A leader whose followers are late for a moment refuses writes before appending them; that passes or ends its lead.
const LEASE_PATIENCE: Duration = Duration::from_millis(1_000);
const LEASE_RETRY: Duration = Duration::from_millis(5);

/// A command that was committed and applied here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its place in the log.
    pub index: u64,
    /// Log time when it was applied. Milliseconds since 1970 in UTC.
    pub time_ms: u64,
    /// What the state machine said.
    pub outcome: Bytes,
}

enum Attempt {
    Done(Committed),
    /// Nothing was appended, since the lease had run out for the moment.
    LeaseExpired,
    Failed(ProposeError),
}

impl Node {
    /// Proposes a command; answers when it is committed, applied and published here. Only the leader can.
    ///
    /// # Errors
    /// [`ProposeError`]: all but `Unknown` say that nothing was appended.
    pub async fn propose(&self, command: Bytes) -> Result<Committed, ProposeError> {
        self.propose_with(None, command).await
    }

    /// As [`Node::propose`], and refused unless this node still leads in that very term when the command is appended.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose_fenced(
        &self,
        leadership: Leadership,
        command: Bytes,
    ) -> Result<Committed, ProposeError> {
        self.propose_with(Some(leadership), command).await
    }

    async fn propose_with(
        &self,
        fence: Option<Leadership>,
        command: Bytes,
    ) -> Result<Committed, ProposeError> {
        let core = &self.core;
        let fence = fence.filter(|_| !mutants::is_on(mutants::Mutant::UnfencedProposals));
        if command.len() > COMMAND_LIMIT_BYTES {
            return Err(ProposeError::TooLarge { len: command.len(), limit: COMMAND_LIMIT_BYTES });
        }
        if *core.stopping.borrow() {
            return Err(ProposeError::Stopped);
        }
        if *core.space.borrow() == Space::Full {
            return Err(ProposeError::DiskFull);
        }
        let Ok(_permit) = core.in_flight.try_acquire() else { return Err(ProposeError::Overloaded) };
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(core.config.timing.propose_timeout_ms);
        let mut stopping = core.stopping.subscribe();
        loop {
            let attempt = tokio::select! {
                attempt = self.attempt(fence, command.clone(), deadline) => attempt,
                _ = stopping.wait_for(|stopping| *stopping) => Attempt::Failed(ProposeError::Unknown),
            };
            match attempt {
                Attempt::Done(committed) => return Ok(committed),
                Attempt::Failed(error) => return Err(error),
                Attempt::LeaseExpired if begun.elapsed() < LEASE_PATIENCE => {
                    tokio::time::sleep(LEASE_RETRY).await;
                }
                Attempt::LeaseExpired => return Err(ProposeError::NotLeader { leader: None }),
            }
        }
    }

    async fn attempt(&self, fence: Option<Leadership>, body: Bytes, deadline: Instant) -> Attempt {
        let core = &self.core;
        let command = Command { stamp_ms: (core.config.wall_clock)(), body };
        let (responder, outcome) = ProgressResponder::<TypeConfig, _>::complete_only();
        let mut request = core.raft.write(command).responder(responder);
        if let Some(leadership) = fence {
            request = request.with_leader(leadership.term);
        }
        // Both may wait: the core's queue is bounded, and the outcome takes a quorum.
        let sent = tokio::time::timeout_at(deadline, request).await;
        let outcome = match sent {
            Ok(Ok(())) => tokio::time::timeout_at(deadline, outcome).await,
            Ok(Err(_fatal)) => return Attempt::Failed(ProposeError::Unknown),
            Err(_) => return Attempt::Failed(ProposeError::Unknown),
        };
        match outcome {
            Ok(Ok(Ok(written))) => Attempt::Done(Committed {
                index: written.log_id.index(),
                time_ms: written.data.time_ms,
                outcome: written.data.body,
            }),
            Ok(Ok(Err(error))) => self.refused(error),
            // The core dropped the proposal without a word, or time is up.
            Ok(Err(_)) | Err(_) => Attempt::Failed(ProposeError::Unknown),
        }
    }

    fn refused(&self, error: ClientWriteError<TypeConfig>) -> Attempt {
        use openraft::errors::ForwardReason;
        match error {
            ClientWriteError::ForwardToLeader(ForwardToLeader {
                reason: ForwardReason::LeaseExpired,
                ..
            }) => Attempt::LeaseExpired,
            ClientWriteError::ForwardToLeader(to) => {
                let known = to.leader_id.zip(to.leader_node).map(|(raft_id, peer)| peer.info(raft_id));
                let leader = known.filter(|leader| leader.raft_id != self.core.raft_id);
                Attempt::Failed(ProposeError::NotLeader { leader })
            }
            ClientWriteError::PreconditionFailed(_) => {
                Attempt::Failed(ProposeError::NotLeader { leader: self.core.leader() })
            }
            ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::ChangeMembershipError(_) => {
                Attempt::Failed(ProposeError::Unknown)
            }
        }
    }
}
