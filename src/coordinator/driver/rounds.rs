//! Rounds of the leader: what can't wait in each, what can beside them.
//!
//! Each round decides verdicts, failovers and steps of migrations, and proposes them. What walks over the whole state (drains
//! that are complete, copies that nobody wants, the plan) is decided on a snapshot aside, taken under the lock like a round's, while
//! rounds go on; once it is there, one of its commands is proposed in each round, behind what can't wait. So a failover waits for
//! one proposal at most, never for a plan.
//!
//! Invariants: one snapshot is decided on at a time, and its commands are proposed or dropped before the next is taken. It holds no
//! verdict: those would be older than what was heard since. What the state has moved on from meanwhile is dropped
//! ([`still_meant`]), and what moves on later is refused by its epoch.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ruvector_cluster_client::ids::Revision;
use ruvector_cluster_raft::Leadership;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::{Leading, Planner, Shared, aside};
use crate::coordinator::decide::{Decision, Scope, decide, still_meant};
use crate::load::LoadWatch;
use crate::metadata::{Answer, COMMAND_VERSION, Change, Command, Envelope, Metadata, Outcome, Rejection};
use crate::soft::{Now, Soft};

/// Least time between two rounds.
const ROUND_EVERY: Duration = Duration::from_millis(10);

/// And the most that is made of it where rounds take long: what can't wait is put off by no more.
const ROUND_AT_LEAST_EVERY: Duration = Duration::from_millis(100);

/// All is looked at once so often, whether or not something changed.
const WHOLE_EVERY: Duration = Duration::from_secs(1);

/// After a change all is looked at again after so long at least, and never for more than a tenth of the time.
const WHOLE_AFTER: Duration = Duration::from_millis(50);

/// Who asks for what is proposed here.
const ACTOR: &str = "coordinator";

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) planner: Planner,
}

/// What a decision rests on.
struct Snapshot {
    metadata: Arc<Metadata>,
    soft: Soft,
    now: Now,
}

/// A decision that is being made, and how long that took.
type Deciding = Pin<Box<dyn Future<Output = Result<(Decision, Duration), JoinError>> + Send>>;

/// A decision on a snapshot that is being made.
struct Planning {
    began: Instant,
    base: Revision,
    decision: Deciding,
}

/// What a decision leaves for the next one's soft state.
struct Learnt {
    levelling: Option<bool>,
    load_watch: Option<LoadWatch>,
}

/// What can wait, between two looks at the whole.
struct Patience {
    planning: Option<Planning>,
    /// Decided on the state of `base`, not proposed yet.
    waiting: VecDeque<Command>,
    base: Revision,
    /// What the last snapshot was of.
    looked_at: Revision,
    /// Something happened since it was taken.
    is_dirty: bool,
    /// After a change, not before.
    not_before: Instant,
    /// At the latest.
    by: Instant,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self {
            planning: None,
            waiting: VecDeque::new(),
            base: Revision(0),
            looked_at: Revision(0),
            is_dirty: true,
            not_before: now,
            by: now,
        }
    }

    /// When the next snapshot is to be taken; none while one is decided on.
    fn due(&self) -> Option<Instant> {
        let is_idle = self.planning.is_none() && self.waiting.is_empty();
        is_idle.then_some(if self.is_dirty { self.not_before } else { self.by })
    }

    /// Returns once what is being decided is; never while nothing is. To drop the wait loses nothing.
    async fn decided(&mut self) -> Learnt {
        let Some(planning) = &mut self.planning else { return std::future::pending().await };
        let decided = planning.decision.as_mut().await;
        let (began, base) = (planning.began, planning.base);
        self.planning = None;
        match decided {
            Ok((decision, took)) => {
                self.not_before = began + WHOLE_AFTER.max(took * 10);
                self.by = began + WHOLE_EVERY.max(took * 10);
                (self.base, self.waiting) = (base, decision.commands.into());
                Learnt { levelling: decision.levelling, load_watch: decision.load_watch }
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The process ends.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// The next command, without what the state has moved on from.
    fn next(&mut self, metadata: &Metadata) -> Option<Command> {
        while let Some(command) = self.waiting.pop_front() {
            if let Some(command) = still_meant(command, self.base, metadata) {
                return Some(command);
            }
        }
        None
    }
}

impl Driver {
    /// Leads whenever this control node does.
    pub(super) async fn run(self) {
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
        let mut patience = Patience::new(Instant::now());
        loop {
            let round_began = Instant::now();
            let Some((commands, next_expiry)) = self.decide_urgent(&mut published) else { return };
            let took = round_began.elapsed();
            patience.is_dirty |= published.borrow().revision() > patience.looked_at;
            if !self.propose_round(leadership, commands, &mut patience).await {
                // Whatever it was, all is decided anew.
                patience.waiting.clear();
                patience.is_dirty = true;
                tokio::time::sleep(WHOLE_AFTER).await;
            }
            if !patience.waiting.is_empty() {
                continue;
            }
            if patience.due().is_some_and(|due| Instant::now() >= due) && !self.begin_planning(&mut patience)
            {
                return;
            }
            // To decide takes about a tenth of the time at most, however many nodes there are.
            let soonest = round_began + (took * 10).clamp(ROUND_EVERY, ROUND_AT_LEAST_EVERY);
            sleep_until(soonest).await;
            let wake = next_expiry.map(|after| round_began + after).into_iter().chain(patience.due()).min();
            let wake = wake.unwrap_or(round_began + WHOLE_EVERY).max(soonest);
            tokio::select! {
                biased;
                learnt = patience.decided() => self.note(leadership, learnt),
                changed = published.changed() => if changed.is_err() { return },
                () = self.shared.heard.notified() => patience.is_dirty = true,
                () = sleep_until(wake) => {}
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
        let mut leading = self.shared.leading();
        soft.heard_of = self.shared.heard_of().clone();
        *leading = Some(Leading { leadership, soft });
    }

    /// Looks at what is published and heard, read together; none where this node leads no more. Heartbeats wait meanwhile.
    fn look<T>(
        &self,
        published: impl FnOnce() -> Arc<Metadata>,
        look: impl FnOnce(Arc<Metadata>, &Soft, Now) -> T,
    ) -> Option<T> {
        let now = self.shared.now();
        let mut leading = self.shared.leading();
        let metadata = published();
        let soft = &mut leading.as_mut()?.soft;
        soft.observe_state(&metadata, now.boot_ms);
        soft.stop_granting(&metadata, now.boot_ms);
        Some(look(metadata, soft, now))
    }

    /// Decides what can't wait; also how long until a lease ends.
    fn decide_urgent(
        &self,
        published: &mut watch::Receiver<Arc<Metadata>>,
    ) -> Option<(Vec<Command>, Option<Duration>)> {
        self.look(
            || published.borrow_and_update().clone(),
            |metadata, soft, now| {
                let decision = decide(&metadata, soft, now, Scope::Urgent);
                let next_expiry = soft.liveness.next_expiry_ms(now.boot_ms);
                let after = |at_ms: u64| Duration::from_millis(at_ms.saturating_sub(now.boot_ms));
                (decision.commands, next_expiry.map(after))
            },
        )
    }

    /// Begins to decide what can wait, on the state as it is now; false where this node leads no more.
    fn begin_planning(&self, patience: &mut Patience) -> bool {
        let copied = |metadata, soft: &Soft, now| Snapshot { metadata, soft: soft.clone(), now };
        let Some(snapshot) = self.look(|| self.shared.published.borrow().clone(), copied) else {
            return false;
        };
        let base = snapshot.metadata.revision();
        (patience.is_dirty, patience.looked_at) = (false, base);
        let planner = self.planner.clone();
        let work = move || {
            let began = Instant::now();
            let decision = planner(&snapshot.metadata, &snapshot.soft, snapshot.now);
            (decision, began.elapsed())
        };
        patience.planning = Some(Planning { began: Instant::now(), base, decision: Box::pin(aside(work)) });
        true
    }

    fn note(&self, leadership: Leadership, learnt: Learnt) {
        let mut leading = self.shared.leading();
        if let Some(leading) = leading.as_mut().filter(|leading| leading.leadership == leadership) {
            leading.soft.observe_decision(learnt.levelling, learnt.load_watch);
        }
    }

    /// Proposes what can't wait, then one command of what can; false when something had no outcome or was refused.
    async fn propose_round(
        &self,
        leadership: Leadership,
        urgent: Vec<Command>,
        patience: &mut Patience,
    ) -> bool {
        for command in urgent {
            if !self.propose(leadership, command).await {
                return false;
            }
        }
        let metadata = self.shared.published.borrow().clone();
        match patience.next(&metadata) {
            Some(command) => self.propose(leadership, command).await,
            None => true,
        }
    }

    async fn propose(&self, leadership: Leadership, command: Command) -> bool {
        let envelope = Envelope { version: COMMAND_VERSION, actor: ACTOR.to_owned(), key: None, command };
        match self.shared.control.propose_fenced(leadership, &envelope).await {
            Ok(outcome) => note_rejections(&envelope.command, &outcome) == 0,
            Err(error) => {
                warn!(%error, "a decision has no outcome; it is decided anew");
                false
            }
        }
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
mod tests {
    use super::*;

    /// A proposal that took long beside a plan counted as the plan's time, and the next one was put off for ten times that.
    #[tokio::test]
    async fn a_plan_that_was_not_waited_for_puts_the_next_one_off_by_its_own_time_alone() {
        let began = Instant::now().checked_sub(Duration::from_secs(8)).unwrap();
        let mut patience = Patience::new(began);
        let decided = Ok((Decision::default(), Duration::from_millis(20)));
        let decision = Box::pin(std::future::ready(decided));
        patience.planning = Some(Planning { began, base: Revision(0), decision });
        patience.decided().await;
        assert_eq!(patience.due(), Some(began + Duration::from_millis(200)));
    }
}
