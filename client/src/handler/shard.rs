//! One shard's duties: which runs, what came of the last one, and what is due now. Decides and does nothing.

use std::sync::Arc;

use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::reports::{Reports, Said};
use super::work::{Kind, Work};
use super::{DutyError, HandlerOptions, Progress, Standing};
use crate::control::Backoff;
use crate::ids::{Incarnation, NodeId};
use crate::wire::Assignment;

/// What came of a duty: of founding, which copies there are.
pub(super) type DutyResult = Result<Vec<NodeId>, DutyError>;

/// A call that runs, or waits for its turn.
pub(super) struct Running {
    id: u64,
    work: Work,
    cancel: CancellationToken,
    progress: Progress,
    backoff: Backoff,
    /// Since when nobody wants it any more.
    moot_since: Option<Instant>,
    complained: bool,
}

/// A call that ended and is still wanted.
pub(super) struct Ended {
    pub(super) work: Work,
    pub(super) result: DutyResult,
    /// Where it failed.
    again_at: Instant,
    backoff: Backoff,
}

/// A call to make.
pub(super) struct Start {
    pub(super) id: u64,
    pub(super) kind: Kind,
    pub(super) assignment: Arc<Assignment>,
    pub(super) cancel: CancellationToken,
    pub(super) progress: Progress,
}

/// A shard that is assigned here, or was and still has a call running.
#[derive(Default)]
pub(super) struct Shard {
    /// The handler may know it as assigned.
    pub(super) is_known: bool,
    /// The assignment in force; none while one is being put in force.
    pub(super) in_force: Option<Arc<Assignment>>,
    running: Option<Running>,
    ended: Option<Ended>,
    pub(super) reports: Reports,
}

impl Shard {
    /// Nothing is in force from here on; `due` is what will be. A call that is another one is cancelled.
    pub(super) fn unsettle(&mut self, due: Option<&Work>, now: Instant) {
        self.in_force = None;
        if self.ended.as_ref().is_some_and(|ended| Some(&ended.work) != due) {
            self.ended = None;
        }
        if let Some(running) = self.running.as_mut().filter(|running| Some(&running.work) != due) {
            running.cancel.cancel();
            running.moot_since.get_or_insert(now);
        }
    }

    /// The session is over: what was told in it has no answer, and counts for nothing in the next.
    pub(super) fn end_session(&mut self, now: Instant) {
        self.unsettle(None, now);
        self.reports = Reports::default();
    }

    /// The call of that id has ended; `None`: before it began.
    pub(super) fn ended(
        &mut self,
        id: u64,
        result: Option<DutyResult>,
        now: Instant,
        options: &HandlerOptions,
    ) {
        let Some(mut running) = self.running.take_if(|running| running.id == id) else { return };
        let (None, Some(result)) = (running.moot_since, result) else { return };
        let mut wait_ms = running.backoff.next_ms();
        if matches!(&result, Err(DutyError::Gap | DutyError::NoAnswer | DutyError::Failed(_))) {
            // The coordinator is told, and most often wants something else then.
            wait_ms = wait_ms.max(options.repeat_ms);
        }
        let again_at = now + Duration::from_millis(wait_ms);
        self.ended = Some(Ended { work: running.work, result, again_at, backoff: running.backoff });
    }

    /// The call that is due now, if it neither runs nor has to wait; it counts as running from here on.
    pub(super) fn start(
        &mut self,
        node: &NodeId,
        incarnation: Incarnation,
        id: u64,
        now: Instant,
        options: &HandlerOptions,
    ) -> Option<Start> {
        let assignment = self.in_force.clone()?;
        if self.running.is_some() {
            return None;
        }
        let work = Work::due(node, incarnation, &assignment)?;
        let mut backoff = Backoff::new(options.retry_ms, options.max_retry_ms);
        if let Some(ended) = self.ended.take_if(|ended| ended.work == work) {
            if ended.result.is_ok() || now < ended.again_at {
                self.ended = Some(ended);
                return None;
            }
            backoff = ended.backoff;
        }
        let (cancel, progress, kind) = (CancellationToken::new(), Progress::default(), work.kind);
        self.running = Some(Running {
            id,
            work,
            cancel: cancel.clone(),
            progress: progress.clone(),
            backoff,
            moot_since: None,
            complained: false,
        });
        Some(Start { id, kind, assignment, cancel, progress })
    }

    /// What there is to report now.
    pub(super) fn wanted(&self, node: &NodeId, standing: &Standing) -> Vec<Said> {
        let Some(assignment) = &self.in_force else { return Vec::new() };
        let wanted = self.running.as_ref().filter(|running| running.moot_since.is_none());
        let progress = wanted.map(|running| (&running.work, &running.progress));
        self.reports.wanted(node, assignment, self.ended.as_ref(), progress, standing)
    }

    /// Whether a call that nobody wants has not ended for `patience`; true once for each.
    pub(super) fn is_to_be_complained_of(&mut self, now: Instant, patience: Duration) -> bool {
        let late = |running: &&mut Running| {
            !running.complained && running.moot_since.is_some_and(|since| now >= since + patience)
        };
        self.running.as_mut().filter(late).map(|running| running.complained = true).is_some()
    }

    /// Whether a call that nobody wants was complained of and still runs.
    pub(super) fn is_overdue(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.complained)
    }

    /// Whether a call runs or waits for its turn.
    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Whether nothing is left to know of it.
    pub(super) fn is_forgotten(&self) -> bool {
        !self.is_known && self.in_force.is_none() && self.running.is_none()
    }
}
