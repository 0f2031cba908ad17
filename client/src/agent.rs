//! A data node's side of DESIGN.md, section 5: registration, heartbeats, lease, assignments and reports.
//!
//! The agent talks to the control nodes and drives one [`ShardHost`], which holds the copies. A *session* is one
//! incarnation: it begins with a registration and ends when the control nodes no longer know that incarnation; then the
//! host stops answering under it, and the node registers again. Within a session three loops run side by side:
//! heartbeats, the long poll of assignments, and reports.
//!
//! Invariants:
//! - The lease is counted from when the answered heartbeat was *sent*, on the boot clock, and only once assignments as
//!   new as the grant names are installed ([`Lease`]). Nothing else extends it; when it runs out, nobody has to act.
//! - Assignments are installed one after the other, never an older revision after a newer one.
//! - A lower generation than the host's is refused; a higher one is on disk before anything of it is acted upon.
//!
//! Caveat: whether the lease still runs is asked when a request is answered, not only when it came; that is the host's
//! part ([`LeaseWatch::runs`]).

mod heartbeat;
mod install;
mod lease;
mod reports;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::control::{Backoff, ControlClient, ControlError};
use crate::ids::{Incarnation, NodeId, Revision, ShardId};
use crate::wire::{Assignment, HeldShard, RegisterRequest, RegisterResponse, Report, ReportResult};

pub use lease::{Lease, LeaseWatch};
pub use reports::{Outbox, Reporter};

use install::Installer;

/// Assignments that are to be put in force.
#[derive(Clone, Debug)]
pub struct AssignmentUpdate {
    /// The revision that they are of.
    pub revision: Revision,
    /// The whole set, by shard.
    pub all: Arc<BTreeMap<ShardId, Assignment>>,
    /// Shards of `all` that are new or differ from before.
    pub changed: Vec<ShardId>,
    /// Shards that were assigned before and no longer are.
    pub removed: Vec<ShardId>,
}

/// A host could not do what it must have done before the agent goes on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// Who holds the copies. To ensure correctness:
/// - after [`begin`](ShardHost::begin) nothing is answered under an earlier incarnation;
/// - [`install`](ShardHost::install) returns once the assignments are in force: from there nothing is answered under older
///   ones, and nothing under an epoch of theirs before that epoch is on disk;
/// - a primary answers only while [`LeaseWatch::runs`].
#[async_trait]
pub trait ShardHost: Send + Sync + 'static {
    /// The highest generation seen, from disk; 0 for none.
    fn generation(&self) -> u64;

    /// Puts a generation on disk that is higher than the one there.
    ///
    /// # Errors
    /// When it is not on disk.
    async fn save_generation(&self, generation: u64) -> Result<(), HostError>;

    /// The process is about to register (again): from here nothing is answered under any incarnation.
    async fn pause(&self);

    /// A session begins.
    async fn begin(&self, incarnation: Incarnation);

    /// Puts assignments in force.
    ///
    /// # Errors
    /// When they are not in force; they are offered again.
    async fn install(&self, update: &AssignmentUpdate) -> Result<(), HostError>;

    /// All copies held, ascending by shard, assigned or not.
    fn held(&self) -> Vec<HeldShard>;

    /// Free bytes where the copies are.
    fn disk_free_bytes(&self) -> Option<u64>;

    /// The answer to a report of this session, with its tag. A report whose session ended has none.
    async fn reported(&self, tag: u64, report: &Report, result: &ReportResult);
}

/// What an agent needs.
#[derive(Clone)]
pub struct AgentConfig {
    /// The node's name.
    pub node: NodeId,
    /// What it says of itself.
    pub registration: RegisterRequest,
    /// How long a long poll of assignments waits, in milliseconds.
    pub poll_wait_ms: u64,
}

impl AgentConfig {
    /// With long polls of 30 s.
    pub fn new(node: NodeId, registration: RegisterRequest) -> Self {
        Self { node, registration, poll_wait_ms: 30_000 }
    }
}

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The control nodes refuse this node, and would again.
    #[error("the control nodes refuse this node")]
    Refused(#[source] ControlError),
    /// The host failed.
    #[error("the copies' host failed: {0}")]
    Host(#[from] HostError),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionEnd {
    /// The control nodes don't know this incarnation.
    Unknown,
}

/// The agent; [`Agent::run`] drives it.
pub struct Agent {
    config: AgentConfig,
    control: ControlClient,
    host: Arc<dyn ShardHost>,
    clock: Arc<dyn Clock>,
    lease: LeaseWatch,
    outbox: Outbox,
}

/// What the loops of one session share.
struct Session<'a> {
    agent: &'a Agent,
    incarnation: Incarnation,
    heartbeat_interval_ms: u64,
    installer: Installer,
}

impl Agent {
    /// An agent for `host`; with it the handles that the host needs: its lease, and where its reports go.
    pub fn new(
        config: AgentConfig,
        control: ControlClient,
        host: Arc<dyn ShardHost>,
        clock: Arc<dyn Clock>,
        lease: LeaseWatch,
        outbox: Outbox,
    ) -> Self {
        Self { config, control, host, clock, lease, outbox }
    }

    /// Registers and serves sessions until `shutdown`. From its return the lease does not run, and nothing is answered under any
    /// assignment: a process that lives on may register again.
    ///
    /// # Errors
    /// [`AgentError`]: the process should end and say why.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), AgentError> {
        let ended = self.serve(&shutdown).await;
        self.lease.reset();
        self.host.pause().await;
        ended
    }

    async fn serve(&mut self, shutdown: &CancellationToken) -> Result<(), AgentError> {
        let mut outbox = std::mem::take(&mut self.outbox);
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ended = self.session(&mut outbox) => ended?,
            };
            tracing::warn!(node = %self.config.node, why = ?ended, "registering again");
        }
    }

    async fn session(&self, outbox: &mut Outbox) -> Result<SessionEnd, AgentError> {
        self.lease.reset();
        self.host.pause().await;
        let registered = self.register().await?;
        let incarnation = registered.incarnation;
        tracing::info!(node = %self.config.node, %incarnation, revision = %registered.revision, "registered");
        // Before anybody can report under the new incarnation: what is dropped here has no answer.
        outbox.begin();
        self.lease.begin(incarnation);
        self.host.begin(incarnation).await;
        let session = Session {
            agent: self,
            incarnation,
            heartbeat_interval_ms: registered.heartbeat_interval_ms.max(10),
            installer: Installer::new(incarnation),
        };
        tokio::select! {
            ended = session.heartbeats() => ended,
            ended = session.poll_assignments() => ended,
            ended = session.send_reports(outbox) => ended,
        }
    }

    /// Registers, as long as it takes: without the control nodes a data node can do nothing of use.
    async fn register(&self) -> Result<RegisterResponse, AgentError> {
        let registration = || ControlClient::registration(&self.config.node, &self.config.registration);
        let mut backoff = Backoff::new(100, 2_000);
        let mut call = registration().map_err(AgentError::Refused)?;
        loop {
            let error = match self.control.send::<RegisterResponse>(&call).await {
                Ok(answered) => {
                    if self.generation_is_current(answered.body.generation).await? {
                        return Ok(answered.body);
                    }
                    call = registration().map_err(AgentError::Refused)?;
                    format!(
                        "generation {} is older than {}",
                        answered.body.generation,
                        self.host.generation()
                    )
                }
                Err(error) if is_final(&error) => return Err(AgentError::Refused(error)),
                Err(error) => {
                    // One without an answer may still be committed: repeated under its key it counts once, and doesn't end a
                    // session that began with a later one. A refusal would be repeated under its key.
                    if error.status().is_some() {
                        call = registration().map_err(AgentError::Refused)?;
                    }
                    error.to_string()
                }
            };
            tracing::warn!(node = %self.config.node, error, "registering failed, trying again");
            tokio::time::sleep(std::time::Duration::from_millis(backoff.next_ms())).await;
        }
    }

    /// Whether an answer of `generation` counts; a higher one is put on disk first.
    async fn generation_is_current(&self, generation: u64) -> Result<bool, AgentError> {
        let held = self.host.generation();
        if generation > held {
            self.host.save_generation(generation).await?;
        }
        Ok(generation >= held)
    }
}

/// Whether registering again can't succeed. `node_alive` passes with the old lease, others may be put right by an
/// operator, but 422 and 400 say that the request itself is wrong.
fn is_final(error: &ControlError) -> bool {
    matches!(error.status(), Some(400 | 401 | 403 | 413 | 422)) || error.code() == Some("last_copy")
}

/// Whether the control nodes don't know the session's incarnation.
fn is_unknown(error: &ControlError) -> bool {
    error.status() == Some(404) || error.code() == Some("stale_incarnation")
}
