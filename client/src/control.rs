//! The HTTP client to the control nodes.
//!
//! Any control node answers anything, so a request that one of them can't answer now (it is unreachable, silent, or
//! has no leader) goes to the next one. Who they are is learned from themselves, beginning with the seeds, which are
//! never forgotten; those of whom gossip tells are asked when no other answers. Whoever answers and is no control node (a data
//! node whose address was given as a seed) counts as silent. Writes go to the leader first where that is known. Everything is bounded: an attempt by
//! `attempt_timeout_ms`, a call with all its attempts by `deadline_ms`, and all calls' repetitions together by a budget, so
//! that many clients don't keep down what is down. Between two rounds over all control nodes the client waits, longer each
//! time, with full jitter, and no shorter than a `Retry-After` says.
//!
//! Invariants: every attempt of one write carries the same `Idempotency-Key`, so a repeated write takes effect once,
//! also after a 504 (`outcome_unknown`). A refusal that repeating can't change is returned at once, as [`Problem`].
//! What a lease hangs on (registering, heartbeats, assignments) is [urgent](Call::urgent): no budget holds it back, since
//! its own pace bounds it, and a data node that falls silent because others repeat too much would be taken for dead.
//! Caveats: a call that ends with [`ControlError::Unavailable`] or [`ControlError::RetriesExhausted`] may have taken
//! effect. A control node's index may come to mean another one when members change; it only says whom to ask first.

mod backoff;
mod budget;
mod call;
mod calls;
mod exchange;
mod judge;
mod known;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, header};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::wire::Problem;

pub use backoff::Backoff;
pub use budget::RetryBudget;
use budget::Tokens;
pub use call::Call;
pub use calls::{Changed, StaleReads};
pub(crate) use exchange::read_body;
pub use exchange::{Body, Exchange, ExchangeError, Http};
use judge::{Attempt, Raw, judge};
use known::Known;

/// The largest answer that is read, in bytes: a map of 100,000 shards has about 15 MB.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// How a [`ControlClient`] tries.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// `host:port` of control nodes, at least one; others are learned from them.
    pub coordinators: Vec<String>,
    /// An attempt at one control node that takes longer is given up.
    pub attempt_timeout_ms: u64,
    /// A call that takes longer, all its attempts included, is given up.
    pub deadline_ms: u64,
    /// How much may be repeated.
    pub retries: RetryBudget,
}

impl ControlOptions {
    /// The defaults for these control nodes: 2 s an attempt, 15 s a call.
    pub fn new(coordinators: Vec<String>) -> Self {
        let retries = RetryBudget::default();
        Self { coordinators, attempt_timeout_ms: 2_000, deadline_ms: 15_000, retries }
    }
}

/// Why a call had no success.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is nobody to ask.
    #[error("no address of a control node is known")]
    NoCoordinators,
    /// The HTTP client could not be set up.
    #[error("the HTTP client could not be set up")]
    Setup(#[source] reqwest::Error),
    /// A control node refused, and would again.
    #[error("refused with {} {}: {}", .0.status, .0.code, .0.detail)]
    Refused(Box<Problem>),
    /// An answer was not understood.
    #[error("{url} sent an answer that could not be read: {why}")]
    Malformed {
        /// Who sent it.
        url: String,
        /// What was wrong with it.
        why: String,
    },
    /// No control node answered in time. The request may have taken effect.
    #[error("no control node answered within {waited_ms} ms; the last attempt: {last}")]
    Unavailable {
        /// How long was tried.
        waited_ms: u64,
        /// What the last attempt met.
        last: String,
    },
    /// The call was not repeated, since too much is being repeated already. The request may have taken effect.
    #[error(
        "not tried again after {tries} attempts, as the budget for repeating is used up; the last attempt: {last}"
    )]
    RetriesExhausted {
        /// Attempts made.
        tries: u32,
        /// What the last attempt met.
        last: String,
    },
}

impl ControlError {
    /// The status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(problem) => Some(problem.status),
            Self::NoCoordinators
            | Self::Setup(_)
            | Self::Malformed { .. }
            | Self::Unavailable { .. }
            | Self::RetriesExhausted { .. } => None,
        }
    }

    /// The stable code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.code),
            Self::NoCoordinators
            | Self::Setup(_)
            | Self::Malformed { .. }
            | Self::Unavailable { .. }
            | Self::RetriesExhausted { .. } => None,
        }
    }
}

/// An answer, and which control node gave it.
#[derive(Clone, Debug)]
pub struct Answered<T> {
    /// The answer.
    pub body: T,
    /// Index of the control node that answered, for [`Call::at`].
    pub by: usize,
}

/// The client; cloning is cheap and shares connections.
#[derive(Clone)]
pub struct ControlClient {
    inner: Arc<Inner>,
}

struct Inner {
    http: Arc<dyn Exchange>,
    options: ControlOptions,
    known: Known,
    retries: Tokens,
}

impl ControlClient {
    /// A client for `options.coordinators`; connects on first use.
    ///
    /// # Errors
    /// [`ControlError::NoCoordinators`] and [`ControlError::Setup`].
    pub fn new(options: ControlOptions) -> Result<Self, ControlError> {
        let http = Http::new(options.attempt_timeout_ms)?;
        Self::over(options, Arc::new(http))
    }

    /// As [`ControlClient::new`], over another way to the control nodes.
    ///
    /// # Errors
    /// [`ControlError::NoCoordinators`].
    pub fn over(options: ControlOptions, http: Arc<dyn Exchange>) -> Result<Self, ControlError> {
        let known = Known::new(&options.coordinators).ok_or(ControlError::NoCoordinators)?;
        let retries = Tokens::new(options.retries);
        Ok(Self { inner: Arc::new(Inner { http, options, known, retries }) })
    }

    /// The base URL of a control node by its index, which wraps around.
    pub fn url_of(&self, coordinator: usize) -> String {
        self.inner.known.url_of(coordinator)
    }

    /// How many control nodes are known, seeds included.
    pub fn coordinators(&self) -> usize {
        self.inner.known.count()
    }

    /// The control node that answered last.
    pub fn preferred(&self) -> usize {
        self.inner.known.preferred()
    }

    /// Control nodes' base URLs that were heard of and that nobody vouches for, instead of those before: they are asked when none
    /// of the seeds and of the members that were learned answers. None says nothing.
    pub fn hear_of(&self, urls: &[String]) {
        self.inner.known.hear_of(urls);
    }

    /// The base URL of the control node that leads, where that is known.
    pub fn leader(&self) -> Option<String> {
        self.inner.known.leader_url()
    }

    /// Sends `call` until a control node gives a final answer, and reads that as JSON.
    ///
    /// # Errors
    /// As [`ControlError`] says.
    pub async fn send<T: DeserializeOwned>(&self, call: &Call) -> Result<Answered<T>, ControlError> {
        let (raw, by) = self.send_raw(call).await?;
        Ok(Answered { body: self.parse(&raw.body, by)?, by })
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8], by: usize) -> Result<T, ControlError> {
        serde_json::from_slice(body)
            .map_err(|e| ControlError::Malformed { url: self.url_of(by), why: e.to_string() })
    }

    async fn send_raw(&self, call: &Call) -> Result<(Raw, usize), ControlError> {
        let inner = &self.inner;
        let deadline_ms = call.deadline_ms.unwrap_or(inner.options.deadline_ms);
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(deadline_ms);
        let mut backoff = Backoff::new(50, 2_000);
        let mut last = String::from("none was made");
        let mut tries = 0_u32;
        while Instant::now() < deadline {
            let (mut retry_after_ms, mut spoke) = (0_u64, None);
            let mut round = inner.known.round(call);
            while let Some(by) = round.next().filter(|_| Instant::now() < deadline) {
                if !call.urgent && !if tries == 0 { inner.retries.first() } else { inner.retries.again() } {
                    return Err(ControlError::RetriesExhausted { tries, last });
                }
                tries += 1;
                match self.attempt(call, by, deadline).await {
                    Attempt::Answer(raw) => {
                        inner.known.answered(by);
                        return Ok((raw, by));
                    }
                    Attempt::Refused(problem) => return Err(ControlError::Refused(problem)),
                    Attempt::Elsewhere { why, retry_after_ms: wait, leader_url } => {
                        last = format!("{}: {why}", self.url_of(by));
                        tracing::debug!(last, path = call.path, "trying the next control node");
                        retry_after_ms = retry_after_ms.max(wait);
                        inner.known.failed(by);
                        if let Some(leader) = leader_url.and_then(|url| inner.known.led_by(&url)) {
                            round.redirect(leader);
                        }
                        spoke = spoke.or(Some(by));
                    }
                    Attempt::Silent { why } => {
                        last = format!("{}: {why}", self.url_of(by));
                        tracing::debug!(last, path = call.path, "trying the next control node");
                        inner.known.failed(by);
                    }
                }
            }
            if let Some(by) = spoke.filter(|_| !call.urgent) {
                // Whoever speaks without being able to answer may know who can.
                self.look_for_members(by, deadline).await;
            }
            let wait = Duration::from_millis(backoff.next_ms().saturating_add(retry_after_ms));
            tokio::time::sleep_until(deadline.min(Instant::now() + wait)).await;
        }
        Err(ControlError::Unavailable { waited_ms: millis(begun.elapsed()), last })
    }

    fn url(&self, call: &Call, by: usize) -> String {
        format!("{}{}", self.url_of(by), call.target())
    }

    async fn attempt(&self, call: &Call, by: usize, deadline: Instant) -> Attempt {
        let attempt_ms = call.attempt_timeout_ms.unwrap_or(self.inner.options.attempt_timeout_ms);
        let until = deadline.min(Instant::now() + Duration::from_millis(attempt_ms));
        match tokio::time::timeout_at(until, self.exchange(call, by)).await {
            Err(_) => Attempt::Silent { why: "no answer in time".to_owned() },
            Ok(Err(error)) => Attempt::Silent { why: error.to_string() },
            Ok(Ok(attempt)) => attempt,
        }
    }

    async fn exchange(&self, call: &Call, by: usize) -> Result<Attempt, ExchangeError> {
        let mut request = http::Request::builder().method(call.method.clone()).uri(self.url(call, by));
        if call.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &call.key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(tag) = &call.if_none_match {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        request = request.header(header::ACCEPT, "application/json");
        let (parts, body) = self.open(request, call.body.clone().unwrap_or_default()).await?.into_parts();
        let body = read_body(body, MAX_ANSWER_BYTES).await?;
        if parts.status.is_success() || parts.status == StatusCode::NOT_MODIFIED {
            return Ok(Attempt::Answer(Raw::new(&parts, body)));
        }
        Ok(judge(parts.status, &parts.headers, &body))
    }

    async fn open(
        &self,
        request: http::request::Builder,
        body: bytes::Bytes,
    ) -> Result<http::Response<Body>, ExchangeError> {
        let request = request.body(body).map_err(|error| ExchangeError(error.to_string()))?;
        self.inner.http.exchange(request).await
    }

    /// Opens a stream at one control node (`call` names it by [`Call::at`], else the preferred one), without retries:
    /// whoever reads a stream has to resume it anyway. The headers must come within the attempt's bound.
    ///
    /// # Errors
    /// [`ControlError::Refused`] or [`ControlError::Unavailable`].
    pub async fn open_stream(&self, call: &Call) -> Result<Answered<Body>, ControlError> {
        let by = call.first.unwrap_or_else(|| self.preferred()) % self.coordinators();
        let attempt_ms = call.attempt_timeout_ms.unwrap_or(self.inner.options.attempt_timeout_ms);
        let (url, wait) = (self.url(call, by), Duration::from_millis(attempt_ms));
        let unavailable = |last: String| ControlError::Unavailable { waited_ms: attempt_ms, last };
        let request = http::Request::get(&url).header(header::ACCEPT, "text/event-stream");
        let (parts, body) = match tokio::time::timeout(wait, self.open(request, bytes::Bytes::new())).await {
            Err(_) => return Err(unavailable(format!("{url}: no answer in time"))),
            Ok(Err(error)) => return Err(unavailable(format!("{url}: {error}"))),
            Ok(Ok(answer)) => answer.into_parts(),
        };
        if parts.status.is_success() {
            return Ok(Answered { body, by });
        }
        let reading = tokio::time::timeout(wait, read_body(body, MAX_ANSWER_BYTES));
        let body = reading.await.ok().and_then(Result::ok).unwrap_or_default();
        match judge(parts.status, &parts.headers, &body) {
            Attempt::Refused(problem) => Err(ControlError::Refused(problem)),
            Attempt::Elsewhere { why, .. } | Attempt::Silent { why } => {
                Err(unavailable(format!("{url}: {why}")))
            }
            Attempt::Answer(..) => Err(unavailable(format!("{url}: {}", parts.status))),
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
