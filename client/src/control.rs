//! The HTTP client to the control nodes.
//!
//! Any control node answers anything, so a request that one of them can't answer now (it is unreachable, silent, or
//! has no leader) goes to the next one. Everything is bounded: an attempt by `attempt_timeout_ms`, a call with all its
//! attempts by `deadline_ms`; between two rounds over all control nodes the client waits, longer each time, with jitter,
//! and no shorter than a `Retry-After` says.
//!
//! Invariants: every attempt of one write carries the same `Idempotency-Key`, so a repeated write takes effect once,
//! also after a 504 (`outcome_unknown`). A refusal that repeating can't change is returned at once, as [`Problem`].
//! Caveat: a call that ends with [`ControlError::Unavailable`] may have taken effect.

mod backoff;
mod call;
mod exchange;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, StatusCode, header};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::chance;
use crate::ids::{NodeId, Revision};
use crate::wire::{
    AssignmentsResponse, HeartbeatRequest, HeartbeatResponse, Problem, RegisterRequest, ReportsRequest,
    ShardMap,
};

pub use backoff::Backoff;
pub use call::Call;
use exchange::Http;
pub(crate) use exchange::read_body;
pub use exchange::{Body, Exchange, ExchangeError};

/// The largest answer that is read, in bytes: a map of 100,000 shards has about 15 MB.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// How a [`ControlClient`] tries.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// `host:port` of control nodes, at least one.
    pub coordinators: Vec<String>,
    /// An attempt at one control node that takes longer is given up.
    pub attempt_timeout_ms: u64,
    /// A call that takes longer, all its attempts included, is given up.
    pub deadline_ms: u64,
}

impl ControlOptions {
    /// The defaults for these control nodes: 2 s an attempt, 15 s a call.
    pub fn new(coordinators: Vec<String>) -> Self {
        Self { coordinators, attempt_timeout_ms: 2_000, deadline_ms: 15_000 }
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
}

impl ControlError {
    /// The status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(problem) => Some(problem.status),
            Self::NoCoordinators | Self::Setup(_) | Self::Malformed { .. } | Self::Unavailable { .. } => None,
        }
    }

    /// The stable code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.code),
            Self::NoCoordinators | Self::Setup(_) | Self::Malformed { .. } | Self::Unavailable { .. } => None,
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
    /// Who answered last is asked first.
    preferred: AtomicUsize,
}

/// What one attempt came to.
enum Attempt {
    Answer(bytes::Bytes),
    /// Another control node may answer.
    Elsewhere {
        why: String,
        retry_after_ms: u64,
    },
    Refused(Box<Problem>),
}

impl ControlClient {
    /// A client for `options.coordinators`; connects on first use.
    ///
    /// # Errors
    /// [`ControlError::NoCoordinators`] and [`ControlError::Setup`].
    pub fn new(options: ControlOptions) -> Result<Self, ControlError> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_millis(options.attempt_timeout_ms))
            .build()
            .map_err(ControlError::Setup)?;
        Self::over(options, Arc::new(Http(http)))
    }

    /// As [`ControlClient::new`], over another way to the control nodes.
    ///
    /// # Errors
    /// [`ControlError::NoCoordinators`].
    pub fn over(options: ControlOptions, http: Arc<dyn Exchange>) -> Result<Self, ControlError> {
        if options.coordinators.is_empty() {
            return Err(ControlError::NoCoordinators);
        }
        // Nodes that start together should not all ask the same control node.
        let last = options.coordinators.len() as u64 - 1;
        let first = usize::try_from(chance::in_range(0..=last)).unwrap_or(0);
        Ok(Self { inner: Arc::new(Inner { http, options, preferred: AtomicUsize::new(first) }) })
    }

    /// The base URL of a control node by its index, which wraps around.
    pub fn url_of(&self, coordinator: usize) -> String {
        let all = &self.inner.options.coordinators;
        let addr = &all[coordinator % all.len()];
        if addr.contains("://") { addr.trim_end_matches('/').to_owned() } else { format!("http://{addr}") }
    }

    /// How many control nodes are known.
    pub fn coordinators(&self) -> usize {
        self.inner.options.coordinators.len()
    }

    /// The control node that answered last.
    pub fn preferred(&self) -> usize {
        self.inner.preferred.load(Ordering::Relaxed)
    }

    /// Sends `call` until a control node gives a final answer, and reads that as JSON.
    ///
    /// # Errors
    /// As [`ControlError`] says.
    pub async fn send<T: DeserializeOwned>(&self, call: &Call) -> Result<Answered<T>, ControlError> {
        let (body, by) = self.send_raw(call).await?;
        let body = serde_json::from_slice(&body)
            .map_err(|e| ControlError::Malformed { url: self.url_of(by), why: e.to_string() })?;
        Ok(Answered { body, by })
    }

    async fn send_raw(&self, call: &Call) -> Result<(bytes::Bytes, usize), ControlError> {
        let options = &self.inner.options;
        let deadline_ms = call.deadline_ms.unwrap_or(options.deadline_ms);
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(deadline_ms);
        let first = call.first.unwrap_or_else(|| self.preferred());
        let mut backoff = Backoff::new(50, 2_000);
        let mut last = String::from("none was made");
        let (mut tries, mut retry_after_ms) = (0_usize, 0_u64);
        while Instant::now() < deadline {
            let by = (first + tries) % options.coordinators.len();
            let attempt_ms = call.attempt_timeout_ms.unwrap_or(options.attempt_timeout_ms);
            let until = deadline.min(Instant::now() + Duration::from_millis(attempt_ms));
            match self.attempt(call, by, until).await {
                Attempt::Answer(body) => {
                    self.inner.preferred.store(by, Ordering::Relaxed);
                    return Ok((body, by));
                }
                Attempt::Refused(problem) => return Err(ControlError::Refused(problem)),
                Attempt::Elsewhere { why, retry_after_ms: wait } => {
                    tracing::debug!(
                        url = self.url_of(by),
                        path = call.path,
                        why,
                        "trying the next control node"
                    );
                    last = format!("{}: {why}", self.url_of(by));
                    retry_after_ms = retry_after_ms.max(wait);
                }
            }
            tries += 1;
            if tries % options.coordinators.len() == 0 {
                let wait = Duration::from_millis(backoff.next_ms().max(retry_after_ms));
                retry_after_ms = 0;
                tokio::time::sleep_until(deadline.min(Instant::now() + wait)).await;
            }
        }
        Err(ControlError::Unavailable { waited_ms: millis(begun.elapsed()), last })
    }

    fn url(&self, call: &Call, by: usize) -> String {
        format!("{}{}", self.url_of(by), call.target())
    }

    async fn attempt(&self, call: &Call, by: usize, until: Instant) -> Attempt {
        let elsewhere = |why: String| Attempt::Elsewhere { why, retry_after_ms: 0 };
        match tokio::time::timeout_at(until, self.exchange(call, by)).await {
            Err(_) => elsewhere("no answer in time".to_owned()),
            Ok(Err(error)) => elsewhere(error.to_string()),
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
        let (parts, body) = self.open(request, call.body.clone().unwrap_or_default()).await?.into_parts();
        let body = read_body(body, MAX_ANSWER_BYTES).await?;
        if parts.status.is_success() {
            return Ok(Attempt::Answer(body));
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
            Attempt::Elsewhere { why, .. } => Err(unavailable(format!("{url}: {why}"))),
            Attempt::Answer(..) => Err(unavailable(format!("{url}: {}", parts.status))),
        }
    }
}

/// The calls of a data node.
impl ControlClient {
    /// `PUT /v1/nodes/{id}`, to be sent by [`ControlClient::send`]; repeated as it is, it takes effect once, and gets the answer
    /// that it got. 409 `node_alive` and `last_copy` are refusals.
    ///
    /// # Errors
    /// [`ControlError::Malformed`].
    pub fn registration(node: &NodeId, request: &RegisterRequest) -> Result<Call, ControlError> {
        Call::write(Method::PUT, format!("/v1/nodes/{node}"), request)
    }

    /// `POST /v1/nodes/{id}/heartbeat`, with its own bounds.
    ///
    /// # Errors
    /// As [`ControlError`] says; 404 and 409 `stale_incarnation` mean: register again.
    pub async fn heartbeat(
        &self,
        node: &NodeId,
        request: &HeartbeatRequest,
        attempt_timeout_ms: u64,
        deadline_ms: u64,
    ) -> Result<Answered<HeartbeatResponse>, ControlError> {
        let call = Call::write(Method::POST, format!("/v1/nodes/{node}/heartbeat"), request)?;
        self.send(&call.unkeyed().within(attempt_timeout_ms, deadline_ms)).await
    }

    /// `GET /v1/nodes/{id}/assignments`, as a delta where that is known; `at` says whom to ask first.
    ///
    /// # Errors
    /// As [`ControlError`] says; 410 `compacted` means: ask with `since` 0.
    pub async fn assignments(
        &self,
        node: &NodeId,
        since: Revision,
        wait_ms: u64,
        at: Option<usize>,
    ) -> Result<Answered<AssignmentsResponse>, ControlError> {
        let timeout_ms = wait_ms.saturating_add(self.inner.options.attempt_timeout_ms);
        let mut call = Call::get(format!("/v1/nodes/{node}/assignments"))
            .query("since", since)
            .query("wait_ms", wait_ms)
            .within(timeout_ms, timeout_ms.saturating_add(self.inner.options.deadline_ms));
        if since > Revision(0) {
            call = call.query("delta", true);
        }
        call.first = at;
        self.send(&call).await
    }

    /// `POST /v1/nodes/{id}/reports`, to be sent by [`ControlClient::send`] until it is answered: repeated as it is, it
    /// takes effect once.
    ///
    /// # Errors
    /// [`ControlError::Malformed`].
    pub fn reports(node: &NodeId, request: &ReportsRequest) -> Result<Call, ControlError> {
        Call::write(Method::POST, format!("/v1/nodes/{node}/reports"), request)
    }

    /// `GET /v1/map`. With [`StaleReads::Allowed`] any control node answers from what it has, also without a quorum.
    ///
    /// # Errors
    /// As [`ControlError`] says.
    pub async fn map(&self, stale: StaleReads) -> Result<ShardMap, ControlError> {
        let mut call = Call::get("/v1/map");
        if stale == StaleReads::Allowed {
            call = call.query("consistency", "stale");
        }
        Ok(self.send(&call).await?.body)
    }
}

/// Whether a read may be answered from what one control node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReads {
    /// At once, from the published state of whoever is asked.
    Allowed,
    /// Linearizable.
    Refused,
}

/// What an answer that is no success means.
fn judge(status: StatusCode, headers: &header::HeaderMap, body: &[u8]) -> Attempt {
    let problem = serde_json::from_slice::<Problem>(body).unwrap_or_else(|_| Problem {
        r#type: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or("").to_owned(),
        status: status.as_u16(),
        detail: String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned(),
        code: "unknown".to_owned(),
        retryable: false,
        leader_url: None,
        request_id: String::new(),
    });
    if !matches!(status.as_u16(), 408 | 421 | 425 | 429 | 500..=599) {
        return Attempt::Refused(Box::new(problem));
    }
    let seconds =
        headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    // Bounded, so that one odd answer can't put a data node to sleep for longer than its lease.
    let retry_after_ms = seconds.unwrap_or(0).saturating_mul(1_000).min(5_000);
    Attempt::Elsewhere { why: format!("{status} {}: {}", problem.code, problem.detail), retry_after_ms }
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
