//! The leader-only task that runs [`decide`] and proposes what it says, and the door for what data nodes say.
//!
//! It starts and stops with this control node's leadership. Each round recomputes everything from the published state and from
//! [`Soft`]; nothing is retried inside a round, the next one decides anew. One proposal is awaited before the next is made, so
//! that verdicts of one term enter the log in the order in which they were decided. What can wait is decided beside the rounds
//! (`rounds.rs`).
//!
//! Invariants
//! 1. A heartbeat is granted only after a round with a quorum, begun after it arrived, confirmed the very leadership whose
//!    leases are counted here.
//! 2. The published state is read under the same lock as the counts, so that counts are never combined with an older row.
//! 3. Every proposal is fenced by the leadership under which it was decided.

mod aside;
mod rounds;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ruvector_cluster_client::clock::Clock;
use ruvector_cluster_client::ids::{Incarnation, NodeId};
use ruvector_cluster_client::wire::{HeartbeatRequest, HeartbeatResponse, Report, ReportResult};
use ruvector_cluster_raft::{Leadership, LeadershipState, MemberInfo, ProposeError, ReadError};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::decide::{Decision, Scope, decide};
use crate::liveness::{Beat, Committed, Grant};
use crate::metadata::{Envelope, Metadata, Outcome};
use crate::soft::{HeardOf, Now, Soft};
use rounds::Driver;

pub use aside::aside;

/// Decides what can wait.
type Planner = Arc<dyn Fn(&Metadata, &Soft, Now) -> Decision + Send + Sync>;

/// What the coordinator needs of the control cluster. Implemented by raft's node; a test has its own.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Who leads, as this control node knows.
    fn leadership(&self) -> watch::Receiver<LeadershipState>;

    /// Proposes, refused unless this node still leads in that very term.
    ///
    /// # Errors
    /// Why there is no outcome; it may still come to be where that is unknown.
    async fn propose_fenced(
        &self,
        leadership: Leadership,
        envelope: &Envelope,
    ) -> Result<Outcome, ProposeError>;

    /// Returns once a quorum has confirmed, after this call, that this node leads in that very term, and all that was
    /// acknowledged before the call is published here.
    ///
    /// # Errors
    /// When that could not be confirmed: the leadership may be over.
    async fn confirm(&self, leadership: Leadership) -> Result<(), ReadError>;
}

/// Why a heartbeat got no answer, and extended no lease.
#[derive(Debug, thiserror::Error)]
pub enum HeartbeatError {
    /// This control node does not lead (any more).
    #[error("this control node does not lead")]
    NotLeader {
        /// Who does, when known.
        leader: Option<MemberInfo>,
    },
    /// The node is not registered.
    #[error("no data node is registered under this name")]
    NotFound,
    /// The node has registered again since.
    #[error("another run of this data node has registered: its incarnation is {current}")]
    StaleIncarnation {
        /// The run that counts.
        current: Incarnation,
    },
    /// No quorum confirmed the leadership in time.
    #[error("no quorum confirmed the leadership")]
    Unconfirmed(#[source] ReadError),
}

/// A handle to the coordinator of this control node. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator {
    shared: Arc<Shared>,
}

struct Shared {
    control: Arc<dyn Control>,
    published: watch::Receiver<Arc<Metadata>>,
    clock: Arc<dyn Clock>,
    /// Set while this node leads and counts leases.
    leading: Mutex<Option<Leading>>,
    /// Something was heard that a decision may rest on.
    heard: Notify,
    /// Whom gossip tells of, whoever leads. Locked for a moment, and behind `leading` where both are.
    heard_of: Mutex<HeardOf>,
}

struct Leading {
    leadership: Leadership,
    soft: Soft,
}

impl Coordinator {
    /// A coordinator, and its task: that acts while this control node leads, and ends when `shutdown` is cancelled.
    pub fn new(
        control: Arc<dyn Control>,
        published: watch::Receiver<Arc<Metadata>>,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let planner: Planner = Arc::new(|metadata, soft, now| decide(metadata, soft, now, Scope::Patient));
        Self::with_planner(control, published, clock, shutdown, planner)
    }

    fn with_planner(
        control: Arc<dyn Control>,
        published: watch::Receiver<Arc<Metadata>>,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
        planner: Planner,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (leading, heard, heard_of) = (Mutex::new(None), Notify::new(), Mutex::default());
        let shared = Arc::new(Shared { control, published, clock, leading, heard, heard_of });
        let driver = Driver { shared: shared.clone(), planner };
        let task = async move {
            shutdown.run_until_cancelled(driver.run()).await;
        };
        (Self { shared }, task)
    }

    /// Takes in a data node's heartbeat and grants its lease, after a quorum has confirmed this leadership.
    ///
    /// `lease_ms` of the answer is 0 where nothing is granted: the node is down until `alive` is committed, or is being expired.
    ///
    /// # Errors
    /// [`HeartbeatError`]; no lease is extended then.
    pub async fn heartbeat(
        &self,
        node: &NodeId,
        request: &HeartbeatRequest,
    ) -> Result<HeartbeatResponse, HeartbeatError> {
        let shared = &self.shared;
        let received = shared.now();
        let leadership = shared.leading().as_ref().map(|leading| leading.leadership);
        let Some(leadership) = leadership else { return Err(shared.not_leader()) };
        if !mutants::is_on(mutants::Mutant::LeaseWithoutRound) {
            shared.control.confirm(leadership).await.map_err(HeartbeatError::Unconfirmed)?;
        }
        let mut leading = shared.leading();
        let Some(leading) = leading.as_mut().filter(|leading| leading.leadership == leadership) else {
            return Err(shared.not_leader());
        };
        let metadata = shared.published.borrow().clone();
        let (answer, grant) = observe_heartbeat(&metadata, &mut leading.soft, node, request, received)?;
        if grant == Grant::Returning {
            shared.heard.notify_one();
        }
        Ok(answer)
    }

    /// A registration was committed: the leader's count of the node's lease begins.
    pub fn observe_registration(&self, node: &NodeId, incarnation: Incarnation) {
        let boot_ms = self.shared.clock.boot_ms();
        if let Some(leading) = self.shared.leading().as_mut() {
            leading.soft.observe_registration(node, incarnation, boot_ms);
        }
    }

    /// Reports were answered: what was accepted of them is taken in. `results` are in the order of `reports`.
    pub fn observe_reports(&self, node: &NodeId, reports: &[Report], results: &[ReportResult]) {
        let boot_ms = self.shared.clock.boot_ms();
        if let Some(leading) = self.shared.leading().as_mut() {
            for (report, _) in reports.iter().zip(results).filter(|(_, result)| result.accepted) {
                leading.soft.observe_report(node, report, boot_ms);
            }
        }
    }

    /// Gossip tells who is alive, instead of what it told before. It is taken in whoever leads, for when this node does.
    pub fn observe_gossip(&self, heard_of: HeardOf) {
        let mut leading = self.shared.leading();
        if let Some(leading) = leading.as_mut() {
            leading.soft.heard_of = heard_of.clone();
        }
        *self.shared.heard_of() = heard_of;
        drop(leading);
        self.shared.heard.notify_one();
    }

    /// Whom gossip tells this control node of, whether or not it leads.
    pub fn heard_of(&self) -> HeardOf {
        self.shared.heard_of().clone()
    }

    /// What this leader knows beyond the replicated state; none elsewhere.
    pub fn soft(&self) -> Option<Arc<Soft>> {
        self.heard().map(|(_, soft)| soft)
    }

    /// A short look at that in its place, without a copy of it all; none elsewhere. Heartbeats wait meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&Soft) -> T) -> Option<T> {
        self.shared.leading().as_ref().map(|leading| look(&leading.soft))
    }

    /// What this leader heard, and the leadership under which it did: what is decided by it is to be proposed under no other.
    pub fn heard(&self) -> Option<(Leadership, Arc<Soft>)> {
        let leading = self.shared.leading();
        let leading = leading.as_ref()?;
        Some((leading.leadership, Arc::new(leading.soft.clone())))
    }

    /// Whether another store may take the name of `node`: the run whose lease is over, for `Register.lease_over_of`. That run
    /// is granted nothing for a while from then on. None while its lease may last, and where this node does not lead.
    /// The leadership is the one that waited: the registration is to be proposed under it, and under no later one.
    pub fn lease_over(&self, node: &NodeId) -> Option<(Leadership, Incarnation)> {
        let boot_ms = self.shared.clock.boot_ms();
        let mut leading = self.shared.leading();
        let metadata = self.shared.published.borrow().clone();
        let is_down = metadata.node(node)?.is_down();
        let leading = leading.as_mut()?;
        let run = leading.soft.liveness.hold_if_over(node, is_down, boot_ms)?;
        Some((leading.leadership, run))
    }
}

/// Takes a confirmed heartbeat in; the answer, and what was granted. Pure, and public for a model of the protocol: whoever calls
/// it has had a quorum confirm, after the heartbeat arrived, the leadership that `soft` is of.
///
/// # Errors
/// [`HeartbeatError`]; no lease is extended then.
pub fn observe_heartbeat(
    metadata: &Metadata,
    soft: &mut Soft,
    node: &NodeId,
    request: &HeartbeatRequest,
    received: Now,
) -> Result<(HeartbeatResponse, Grant), HeartbeatError> {
    let (Some(founded), Some(row)) = (metadata.founded(), metadata.node(node)) else {
        return Err(HeartbeatError::NotFound);
    };
    if row.incarnation != request.incarnation {
        return Err(HeartbeatError::StaleIncarnation { current: row.incarnation });
    }
    let want_all = soft.observe_heartbeat(node, request, received.wall_ms);
    soft.observe_load(metadata, node, received.boot_ms);
    let beat = Beat {
        node,
        incarnation: request.incarnation,
        received_ms: received.boot_ms,
        installed_revision: request.installed_revision,
    };
    let committed = Committed { down: row.is_down(), assigned_revision: row.assigned_revision };
    let grant = soft.liveness.observe_heartbeat(&beat, committed);
    let lease_ms = match grant {
        // After a restore it is not known yet who may lead. The count goes on as if it were, which is on the safe side.
        Grant::Granted(_) if metadata.is_suspended() => 0,
        Grant::Granted(_) => founded.settings.lease_ms,
        Grant::Returning | Grant::Behind(_) | Grant::Expiring => 0,
    };
    let answer = HeartbeatResponse {
        lease_ms,
        assigned_revision: row.assigned_revision,
        generation: founded.generation,
        revision: metadata.revision(),
        want_all,
    };
    Ok((answer, grant))
}

impl Shared {
    fn leading(&self) -> MutexGuard<'_, Option<Leading>> {
        // Nothing in here is left half done by a panic: each use is one assignment or one call of a pure function.
        self.leading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard_of(&self) -> MutexGuard<'_, HeardOf> {
        self.heard_of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now { boot_ms: self.clock.boot_ms(), wall_ms: self.clock.wall_ms() }
    }

    fn not_leader(&self) -> HeartbeatError {
        HeartbeatError::NotLeader { leader: self.control.leadership().borrow().leader.clone() }
    }
}

#[cfg(test)]
mod tests;
