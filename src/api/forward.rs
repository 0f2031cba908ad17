//! Requests that only the leader can answer: writes, and reads of what only the leader knows.
//!
//! A control node that does not lead passes such a request on, once, over the peer listener, with its headers and body;
//! the leader runs it through the same router. While there is no leader it waits a little for one. Nothing is sent again
//! after it may have been delivered: then the answer is 504 `outcome_unknown`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use ruvector_cluster_client::wire::Problem;
use ruvector_cluster_raft::{CallError, LeadershipState, MemberInfo};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tower::ServiceExt;

use super::app::{App, Permit};
use super::error::{ApiError, Code};
use super::extract::{BODY_LIMIT_BYTES, IDEMPOTENCY_KEY, LARGE_BODY_LIMIT_BYTES, read_body};
use super::observe::REQUEST_ID;

/// Refuses to be forwarded.
pub(super) const X_NO_FORWARD: HeaderName = HeaderName::from_static("x-no-forward");

/// How long a request waits for a leader: longer than an election takes.
const LEADER_WAIT: Duration = Duration::from_secs(2);

/// How long a forwarded request may take: longer than a proposal waits for its outcome.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);

/// Between two looks at who leads, where nothing tells of a change.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Set on a request that another control node passed on: it is not passed on again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forwarded;

/// What a route is, as far as passing it on is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Changes something; its body is small.
    Write,
    /// A heartbeat or reports: large body, a limit of its own for how many run at once.
    NodeWrite,
    /// Reads soft fields, unless it is content with a stale answer.
    SoftRead,
}

impl Kind {
    fn body_limit(self) -> usize {
        match self {
            Self::Write | Self::SoftRead => BODY_LIMIT_BYTES,
            Self::NodeWrite => LARGE_BODY_LIMIT_BYTES,
        }
    }

    fn no_answer(self) -> ApiError {
        match self {
            Self::Write | Self::NodeWrite => ApiError::outcome_unknown(),
            Self::SoftRead => ApiError::new(Code::NoLeader, "the leader did not answer"),
        }
    }
}

/// The layer of routes that need the leader.
pub(super) async fn to_leader(
    State((app, kind)): State<(Arc<App>, Kind)>,
    request: Request<Body>,
    next: Next,
) -> Response {
    if kind == Kind::SoftRead && is_answered_here(request.uri()) {
        return next.run(request).await;
    }
    let permit = match kind {
        Kind::Write => app.limits.write(),
        Kind::NodeWrite => app.limits.node_write(),
        Kind::SoftRead => app.limits.read(),
    };
    match permit {
        Ok(permit) => {
            at_leader(&app, kind, permit, request, next).await.unwrap_or_else(ApiError::into_response)
        }
        Err(error) => error.into_response(),
    }
}

/// Stale reads need no leader, and long polls wait here and then ask it.
fn is_answered_here(uri: &Uri) -> bool {
    let pairs = uri.query().unwrap_or_default().split('&');
    pairs.into_iter().any(|pair| pair == "consistency=stale" || pair.starts_with("wait_ms="))
}

async fn at_leader(
    app: &Arc<App>,
    kind: Kind,
    _permit: Permit,
    request: Request<Body>,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let body = read_body(&parts.headers, body, kind.body_limit()).await?;
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::TRANSFER_ENCODING);
    let forwarded = parts.extensions.get::<Forwarded>().is_some();
    let stay = forwarded || (kind != Kind::SoftRead && parts.headers.contains_key(X_NO_FORWARD));
    let mut leadership = app.node.leadership();
    let removed = app.node.removed();
    let deadline = Instant::now() + LEADER_WAIT;
    loop {
        if *removed.borrow() {
            return Err(ApiError::removed());
        }
        let state: LeadershipState = leadership.borrow_and_update().clone();
        if state.mine.is_some() {
            let local = Request::from_parts(parts.clone(), Body::from(body.clone()));
            let response = next.clone().run(local).await;
            // Leadership was lost before anything was appended.
            let lost = response.extensions().get::<ApiError>().is_some_and(|e| e.code == Code::NotLeader);
            if !lost || (stay && Instant::now() >= deadline) {
                return Ok(response);
            }
        } else if let Some(leader) = state.leader.filter(|leader| leader.raft_id != app.node.raft_id()) {
            if stay {
                return Err(ApiError {
                    leader_url: Some(leader.client_url),
                    ..ApiError::new(
                        Code::NotLeader,
                        format!("control node {} leads; nothing was done", leader.name),
                    )
                });
            }
            if let Some(response) = pass_on(app, kind, &leader, &parts, &body).await? {
                return Ok(response);
            }
        }
        if Instant::now() >= deadline {
            return Err(ApiError::no_leader());
        }
        let changed = tokio::time::timeout(RETRY_PAUSE, leadership.changed()).await;
        // One that has handed over knows by whom it is answered.
        let has_leader = leadership.borrow().leader.as_ref().is_some_and(|l| l.raft_id != app.node.raft_id());
        if (app.shutdown.is_cancelled() && !has_leader) || matches!(changed, Ok(Err(_))) {
            // Who passed it on asks the next leader.
            return Err(if forwarded { ApiError::not_leading_any_more() } else { ApiError::stopping() });
        }
    }
}

/// Asks the leader. None: it certainly did nothing, for it was not reached, or does not lead.
async fn pass_on(
    app: &App,
    kind: Kind,
    leader: &MemberInfo,
    parts: &http::request::Parts,
    body: &Bytes,
) -> Result<Option<Response>, ApiError> {
    let message = encode_request(parts, body)?;
    match app.node.call(leader.raft_id, message, CALL_TIMEOUT).await {
        Ok(answer) => {
            // An answer that is not understood says nothing of what happened.
            let response = decode_response(answer).map_err(|_| kind.no_answer())?;
            Ok((!did_nothing(&response)).then(|| response.map(Body::from)))
        }
        Err(CallError::UnknownMember { .. } | CallError::Unreachable(_)) => Ok(None),
        Err(CallError::NoAnswer(_)) => Err(kind.no_answer()),
    }
}

/// It does not lead, or (as older builds say) it is stopping.
fn did_nothing(response: &Response<Bytes>) -> bool {
    let is_unready = || {
        let problem = serde_json::from_slice::<Problem>(response.body());
        problem.is_ok_and(|problem| problem.code == "unready")
    };
    match response.status() {
        StatusCode::MISDIRECTED_REQUEST => true,
        StatusCode::SERVICE_UNAVAILABLE => is_unready(),
        _ => false,
    }
}

/// Runs a request that another control node passed on.
pub async fn answer_forwarded(router: Router, message: Bytes) -> Bytes {
    let response = match decode_request(message) {
        Ok(request) => match router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        Err(error) => error.into_response(),
    };
    encode_response(response).await
}

#[derive(Serialize, Deserialize)]
struct RequestHead {
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct ResponseHead {
    status: u16,
    headers: Vec<(String, String)>,
}

/// The headers that mean something to the leader.
const PASSED_ON: [HeaderName; 4] = [header::IF_MATCH, header::IF_NONE_MATCH, IDEMPOTENCY_KEY, REQUEST_ID];

fn encode_request(parts: &http::request::Parts, body: &Bytes) -> Result<Bytes, ApiError> {
    let mut headers = Vec::new();
    for name in PASSED_ON {
        for value in parts.headers.get_all(&name) {
            let value = value
                .to_str()
                .map_err(|_| ApiError::malformed(format!("header `{name}` is not visible ASCII")))?;
            headers.push((name.as_str().to_owned(), value.to_owned()));
        }
    }
    let uri = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let head = RequestHead { method: parts.method.as_str().to_owned(), uri, headers };
    frame(&head, body)
}

/// One line of JSON, then the body as it is.
fn frame(head: &impl Serialize, body: &[u8]) -> Result<Bytes, ApiError> {
    let head = serde_json::to_vec(head).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
    let mut message = BytesMut::with_capacity(head.len() + 1 + body.len());
    message.extend_from_slice(&head);
    message.put_u8(b'\n');
    message.extend_from_slice(body);
    Ok(message.freeze())
}

fn unframe<T: serde::de::DeserializeOwned>(mut message: Bytes) -> Result<(T, Bytes), ApiError> {
    let refuse =
        |why: String| ApiError::new(Code::Internal, format!("a forwarded message is not understood: {why}"));
    let end = message.iter().position(|b| *b == b'\n').ok_or_else(|| refuse("no head".into()))?;
    let head = message.split_to(end);
    let head = serde_json::from_slice(&head).map_err(|e| refuse(e.to_string()))?;
    Ok((head, message.slice(1..)))
}

fn decode_request(message: Bytes) -> Result<Request<Body>, ApiError> {
    let refuse =
        |e: http::Error| ApiError::new(Code::Internal, format!("a forwarded request is not understood: {e}"));
    let (head, body): (RequestHead, Bytes) = unframe(message)?;
    let mut builder = Request::builder().method(head.method.as_str()).uri(head.uri).extension(Forwarded);
    for (name, value) in head.headers {
        builder = builder.header(name, value);
    }
    builder.body(Body::from(body)).map_err(refuse)
}

async fn encode_response(response: Response) -> Bytes {
    let (parts, body) = response.into_parts();
    let headers = parts.headers.iter().filter(|(name, _)| *name != header::CONTENT_LENGTH);
    let headers =
        headers.filter_map(|(n, v)| Some((n.as_str().to_owned(), v.to_str().ok()?.to_owned()))).collect();
    let head = ResponseHead { status: parts.status.as_u16(), headers };
    // A body made in memory does not fail; were it to, the asker finds a message that it does not understand.
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    frame(&head, &bytes).unwrap_or_default()
}

fn decode_response(message: Bytes) -> Result<Response<Bytes>, ApiError> {
    let (head, body): (ResponseHead, Bytes) = unframe(message)?;
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(head.status)
        .map_err(|e| ApiError::new(Code::Internal, format!("a forwarded answer is not understood: {e}")))?;
    let mut headers = HeaderMap::new();
    for (name, value) in head.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    *response.headers_mut() = headers;
    Ok(response)
}

/// Asks the leader on behalf of a long poll that this control node answers.
///
/// # Errors
/// 500 where `uri` is none: a bug.
pub(super) async fn ask_leader(app: &Arc<App>, uri: &str) -> Result<Response, ApiError> {
    let refuse = |e: http::Error| ApiError::new(Code::Internal, e.to_string());
    let request = Request::builder().method(Method::GET).uri(uri).body(Body::empty()).map_err(refuse)?;
    match super::router(app.clone()).oneshot(request).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}
