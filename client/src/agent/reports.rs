//! Reports: a bounded outbox, sent in batches, one request at a time.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{AgentError, Session, SessionEnd, is_unknown};
use crate::control::{Backoff, ControlClient};
use crate::ids::Incarnation;
use crate::wire::{Report, ReportsRequest, ReportsResponse};

/// Reports of one request: control nodes take up to 1,000 changes in one command.
const MAX_BATCH: usize = 500;

/// Reports that wait; a host that has more to say says it again.
const MAX_WAITING: usize = 8_192;

#[derive(Debug)]
struct Queued {
    incarnation: Incarnation,
    tag: u64,
    report: Report,
}

/// Where a host's reports go; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Reporter {
    queue: mpsc::Sender<Queued>,
}

impl Reporter {
    /// Queues a report of the session of `incarnation`; one of an older session is dropped unsent. `tag` comes back with
    /// the answer. Says whether it was queued: a host whose report was not has to say it again.
    pub fn send(&self, incarnation: Incarnation, tag: u64, report: Report) -> bool {
        self.queue.try_send(Queued { incarnation, tag, report }).is_ok()
    }
}

/// The other end of [`Reporter`].
#[derive(Debug, Default)]
pub struct Outbox {
    queue: Option<mpsc::Receiver<Queued>>,
}

impl Outbox {
    /// An outbox and what fills it.
    pub fn new() -> (Reporter, Self) {
        let (queue, receiver) = mpsc::channel(MAX_WAITING);
        (Reporter { queue }, Self { queue: Some(receiver) })
    }

    /// Drops what an earlier session left.
    pub(super) fn begin(&mut self) {
        if let Some(queue) = &mut self.queue {
            while queue.try_recv().is_ok() {}
        }
    }

    /// A report that waits, with its session and its tag.
    #[cfg(test)]
    pub(crate) fn take(&mut self) -> Option<(Incarnation, u64, Report)> {
        let queued = self.queue.as_mut()?.try_recv().ok()?;
        Some((queued.incarnation, queued.tag, queued.report))
    }

    /// The reports that wait, at least one.
    async fn next_batch(&mut self, incarnation: Incarnation) -> (Vec<u64>, Vec<Report>) {
        let Some(queue) = &mut self.queue else { return std::future::pending().await };
        loop {
            let mut taken = Vec::new();
            if queue.recv_many(&mut taken, MAX_BATCH).await == 0 {
                // Nobody can report any more; the session goes on.
                return std::future::pending().await;
            }
            taken.retain(|queued: &Queued| queued.incarnation == incarnation);
            if !taken.is_empty() {
                return taken.into_iter().map(|queued| (queued.tag, queued.report)).unzip();
            }
        }
    }
}

impl Session<'_> {
    /// Sends reports as they come; ends with the session.
    pub(super) async fn send_reports(&self, outbox: &mut Outbox) -> Result<SessionEnd, AgentError> {
        loop {
            let (tags, reports) = outbox.next_batch(self.incarnation).await;
            let request = ReportsRequest { incarnation: self.incarnation, reports };
            if let Some(ended) = self.send_batch(&tags, &request).await? {
                return Ok(ended);
            }
        }
    }

    /// Sends until it is answered: a report that is lost would hold a migration up until its timeout.
    async fn send_batch(
        &self,
        tags: &[u64],
        request: &ReportsRequest,
    ) -> Result<Option<SessionEnd>, AgentError> {
        let call = ControlClient::reports(&self.agent.config.node, request).map_err(AgentError::Refused)?;
        let mut backoff = Backoff::new(50, 1_000);
        loop {
            match self.agent.control.send::<ReportsResponse>(&call).await {
                Ok(answered) => {
                    let results = request.reports.iter().zip(&answered.body.results);
                    for (tag, (report, result)) in tags.iter().zip(results) {
                        self.agent.host.reported(*tag, report, result).await;
                    }
                    return Ok(None);
                }
                Err(error) if is_unknown(&error) => return Ok(Some(SessionEnd::Unknown)),
                Err(error) if error.status().is_some() => {
                    tracing::error!(%error, "reports were refused as a whole, and are dropped");
                    return Ok(None);
                }
                Err(error) => tracing::warn!(%error, "reports were not answered, sending them again"),
            }
            tokio::time::sleep(Duration::from_millis(backoff.next_ms())).await;
        }
    }
}
