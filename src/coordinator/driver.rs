//! The leader-only task that runs [`decide`] and proposes what it says, and the door for what data nodes say.
//!
//! It starts and stops with this control node's leadership. Each round recomputes everything from the published state and from
//! [`Soft`]; nothing is retried inside a round, the next one decides anew. One proposal is awaited before the next is made, so
//! that verdicts of one term enter the log in the order in which they were decided.
//!
//! Invariants
//! 1. A heartbeat is granted only after a round with a quorum, begun after it arrived, confirmed the very leadership whose
//!    leases are counted here.
//! 2. The published state is read under the same lock as the counts, so that counts are never combined with an older row.
//! 3. Every proposal is fenced by the leadership under which it was decided.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ruvector_cluster_client::clock::Clock;
use ruvector_cluster_client::ids::{Incarnation, NodeId};
use ruvector_cluster_client::wire::{HeartbeatRequest, HeartbeatResponse, Report, ReportResult};
use ruvector_cluster_raft::{Leadership, LeadershipState, MemberInfo, ProposeError, ReadError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::decide::{Decision, Scope, decide};
use crate::liveness::{Beat, Committed, Grant};
use crate::metadata::{Answer, COMMAND_VERSION, Change, Command, Envelope, Metadata, Outcome, Rejection};
use crate::soft::{Now, Soft};

/// Least time between two rounds.
const ROUND_EVERY: Duration = Duration::from_millis(10);

/// All is looked at once so often, whether or not something changed.
const WHOLE_EVERY: Duration = Duration::from_secs(1);

/// After a change all is looked at again after so long at least, and never for more than a tenth of the time.
const WHOLE_AFTER: Duration = Duration::from_millis(50);

/// Who asks for what is proposed here.
const ACTOR: &str = "coordinator";

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
        let shared =
            Arc::new(Shared { control, published, clock, leading: Mutex::new(None), heard: Notify::new() });
        let driver = Driver { shared: shared.clone() };
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

    /// What this leader knows beyond the replicated state; none elsewhere.
    pub fn soft(&self) -> Option<Arc<Soft>> {
        let boot_ms = self.shared.clock.boot_ms();
        let mut leading = self.shared.leading();
        let soft = &mut leading.as_mut()?.soft;
        soft.suspects = soft.liveness.suspects(boot_ms).cloned().collect();
        Some(Arc::new(soft.clone()))
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

    fn now(&self) -> Now {
        Now { boot_ms: self.clock.boot_ms(), wall_ms: self.clock.wall_ms() }
    }

    fn not_leader(&self) -> HeartbeatError {
        HeartbeatError::NotLeader { leader: self.control.leadership().borrow().leader.clone() }
    }
}

struct Driver {
    shared: Arc<Shared>,
}

impl Driver {
    /// Leads whenever this control node does.
    async fn run(self) {
        let mut leadership = self.shared.control.leadership();
        loop {
            let mine = match leadership.wait_for(|state| state.mine.is_some()).await {
                Ok(state) => state.mine,
                // Raft has ended.
                Err(_) => return,
            };
            if let Some(mine) = mine {
                info!(term = mine.term, "this control node begins to lead");
                tokio::select! {
                    () = self.lead(mine) => {}
                    _ = leadership.wait_for(|state| state.mine != Some(mine)) => {}
                }
                *self.shared.leading() = None;
                info!(term = mine.term, "this control node leads no more");
            }
        }
    }

    /// Decides and proposes until it is dropped, or raft has ended.
    async fn lead(&self, leadership: Leadership) {
        let mut published = self.shared.published.clone();
        let Ok(metadata) =
            published.wait_for(|metadata| metadata.founded().is_some()).await.map(|state| state.clone())
        else {
            return;
        };
        self.begin(leadership, &metadata);
        let mut whole_at = Instant::now();
        let mut whole_by = whole_at;
        loop {
            let round_began = Instant::now();
            let scope = if round_began >= whole_at { Scope::Whole } else { Scope::Urgent };
            let Some((decision, next_expiry)) = self.decide(&mut published, scope) else { return };
            if scope == Scope::Whole {
                let took = round_began.elapsed();
                whole_at = round_began + WHOLE_AFTER.max(took * 10);
                whole_by = round_began + WHOLE_EVERY.max(took * 10);
            }
            if !self.propose(leadership, decision).await {
                // Whatever it was, all is decided anew.
                tokio::time::sleep(WHOLE_AFTER).await;
            }
            sleep_until(round_began + ROUND_EVERY).await;
            let expiry = next_expiry.map_or(whole_by, |after| round_began + after).min(whole_by);
            tokio::select! {
                changed = published.changed() => if changed.is_err() { return },
                () = self.shared.heard.notified() => {}
                () = sleep_until(expiry.max(round_began + ROUND_EVERY)) => {}
                // What changed since all was last looked at is looked at again soon.
                () = sleep_until(whole_at), if scope == Scope::Urgent => {}
            }
        }
    }

    fn begin(&self, leadership: Leadership, metadata: &Metadata) {
        let mut soft = Soft::default();
        if let Some(founded) = metadata.founded() {
            let nodes = metadata.nodes().map(|row| (&row.id, row.incarnation));
            let settings = &founded.settings;
            let boot_ms = self.shared.clock.boot_ms();
            soft.liveness.begin_leading(boot_ms, settings.lease_ms, settings.heartbeat_interval_ms, nodes);
        }
        *self.shared.leading() = Some(Leading { leadership, soft });
    }

    /// Decides from what is published and heard; also how long until a lease ends.
    fn decide(
        &self,
        published: &mut watch::Receiver<Arc<Metadata>>,
        scope: Scope,
    ) -> Option<(Decision, Option<Duration>)> {
        let now = self.shared.now();
        let (metadata, soft) = {
            let mut leading = self.shared.leading();
            let metadata = published.borrow_and_update().clone();
            let soft = &mut leading.as_mut()?.soft;
            soft.observe_state(&metadata, now.boot_ms);
            soft.stop_granting(&metadata, now.boot_ms);
            (metadata, soft.clone())
        };
        let decision = decide(&metadata, &soft, now, scope);
        if let Some(leading) = self.shared.leading().as_mut() {
            leading.soft.observe_decision(decision.levelling, decision.load_watch);
        }
        let next_expiry_ms = soft.liveness.next_expiry_ms(now.boot_ms);
        let next_expiry =
            next_expiry_ms.map(|at_ms| Duration::from_millis(at_ms.saturating_sub(now.boot_ms)));
        Some((decision, next_expiry))
    }

    /// Proposes in order; false when something had no outcome or was refused.
    async fn propose(&self, leadership: Leadership, decision: Decision) -> bool {
        for command in decision.commands {
            let envelope = Envelope { version: COMMAND_VERSION, actor: ACTOR.to_owned(), key: None, command };
            match self.shared.control.propose_fenced(leadership, &envelope).await {
                Ok(outcome) => {
                    if note_rejections(&envelope.command, &outcome) > 0 {
                        return false;
                    }
                }
                Err(error) => {
                    warn!(%error, "a decision has no outcome; it is decided anew");
                    return false;
                }
            }
        }
        true
    }
}

/// Logs what was refused: the state moved on between deciding and applying, or deciding and applying disagree.
fn note_rejections(command: &Command, outcome: &Outcome) -> usize {
    let note = |what: &dyn std::fmt::Debug, rejection: &Rejection| {
        debug!(?what, code = rejection.code.as_str(), detail = %rejection.detail, "a decision was refused");
    };
    match (&outcome.result, command) {
        (Ok(Answer::Coordinated { changes: results }), Command::Coordinate { changes }) => {
            let refused: Vec<(&Change, &Rejection)> = changes
                .iter()
                .zip(results)
                .filter_map(|(change, result)| Some((change, result.as_ref().err()?)))
                .collect();
            refused.iter().for_each(|(change, rejection)| note(change, rejection));
            refused.len()
        }
        (Ok(_), _) => 0,
        (Err(rejection), _) => {
            note(command, rejection);
            1
        }
    }
}

#[cfg(test)]
mod tests;
