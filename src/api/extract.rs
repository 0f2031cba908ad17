//! What a handler takes out of a request, checked: query parameters, ids, bodies, and the headers of writes.
//!
//! Whatever is wrong is told by name: the parameter, the field, the header. Nothing here knows the state.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query};
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, header};
use http_body_util::BodyExt;
use ruvector_cluster_client::hashing;
use ruvector_cluster_client::ids::{NodeId, Revision, ShardId};
use serde::de::DeserializeOwned;

use super::error::{ApiError, Code};
use crate::metadata::RequestKey;

/// The longest body of most requests.
pub(super) const BODY_LIMIT_BYTES: usize = 1 << 20;

/// The longest body of heartbeats and reports.
pub(super) const LARGE_BODY_LIMIT_BYTES: usize = 16 << 20;

/// What is read and dropped of a body beyond its limit, so that the sender gets to read the answer.
const DRAIN_LIMIT_BYTES: usize = 64 << 20;

/// The longest Idempotency-Key.
pub(super) const KEY_LIMIT_BYTES: usize = 256;

/// Longest wait of a long poll.
pub(super) const MAX_WAIT_MS: u64 = 60_000;

/// `Idempotency-Key`.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consistency {
    /// Contains every change that was acknowledged before the request came.
    Linearizable,
    /// What this control node has.
    Stale,
}

/// The query's parameters. Each handler names those that it knows; others are refused.
#[derive(Clone, Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|e| ApiError::malformed(format!("the query is not understood: {e}")))?;
        Ok(Self(pairs))
    }
}

impl Params {
    /// Refuses parameters other than `names`, and any given twice.
    ///
    /// # Errors
    /// 400 naming the parameter.
    pub(super) fn only(&self, names: &[&str]) -> Result<&Self, ApiError> {
        for (at, (name, _)) in self.0.iter().enumerate() {
            if !names.contains(&name.as_str()) {
                let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(ApiError::malformed(format!(
                    "unknown query parameter `{name}`; known here: {known}"
                )));
            }
            if self.0.iter().take(at).any(|(earlier, _)| earlier == name) {
                return Err(ApiError::malformed(format!("query parameter `{name}` is given twice")));
            }
        }
        Ok(self)
    }

    /// A parameter's text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A parameter that is parsed; absent and empty are the same.
    ///
    /// # Errors
    /// 400 naming the parameter and what it should be.
    pub(super) fn parsed<T: std::str::FromStr>(&self, name: &str, what: &str) -> Result<Option<T>, ApiError> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| ApiError::malformed(format!("query parameter `{name}` is not {what}: {text:?}")))
        };
        self.text(name).filter(|t| !t.is_empty()).map(parse).transpose()
    }

    /// An integer.
    ///
    /// # Errors
    /// 400 naming the parameter.
    pub(super) fn integer(&self, name: &str) -> Result<Option<u64>, ApiError> {
        self.parsed(name, "an integer from 0")
    }

    /// `true` or `false`; absent is false.
    ///
    /// # Errors
    /// 400 naming the parameter.
    pub(super) fn switch(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.parsed(name, "true or false")?.unwrap_or(false))
    }

    /// `wait_ms`, at most [`MAX_WAIT_MS`]; longer waits are shortened.
    ///
    /// # Errors
    /// 400 where it is no integer.
    pub(super) fn wait(&self) -> Result<std::time::Duration, ApiError> {
        let ms = self.integer("wait_ms")?.unwrap_or(0).min(MAX_WAIT_MS);
        Ok(std::time::Duration::from_millis(ms))
    }

    /// `consistency`.
    ///
    /// # Errors
    /// 400 where it is neither.
    pub(super) fn consistency(&self) -> Result<Consistency, ApiError> {
        match self.text("consistency") {
            None | Some("" | "linearizable") => Ok(Consistency::Linearizable),
            Some("stale") => Ok(Consistency::Stale),
            Some(other) => Err(ApiError::malformed(format!(
                "query parameter `consistency` is `linearizable` or `stale`, not {other:?}"
            ))),
        }
    }
}

/// A data or control node's name from the path.
///
/// # Errors
/// 400 where it is outside the alphabet.
pub(super) fn node_id(text: &str) -> Result<NodeId, ApiError> {
    NodeId::new(text).map_err(|e| ApiError::malformed(e.to_string()))
}

/// A shard's number from the path.
///
/// # Errors
/// 400 where it is no integer.
pub(super) fn shard_id(text: &str) -> Result<ShardId, ApiError> {
    let refuse = |_| ApiError::malformed(format!("a shard is an integer from 0, not {text:?}"));
    text.parse().map(ShardId).map_err(refuse)
}

/// A whole body, at most `limit` bytes.
///
/// # Errors
/// 413 over the limit, 400 where the body breaks off.
pub(super) async fn read_body(headers: &HeaderMap, mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::new(Code::TooLarge, format!("a body has at most {limit} bytes here"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let over = announced.is_some_and(|len| len > limit);
    if over && headers.contains_key(header::EXPECT) {
        return Err(too_large());
    }
    let mut kept = BytesMut::new();
    let mut seen = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::malformed("the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen <= limit {
            kept.extend_from_slice(&data);
        } else if seen > DRAIN_LIMIT_BYTES {
            break;
        }
    }
    if seen > limit { Err(too_large()) } else { Ok(kept.freeze()) }
}

/// Understands a JSON body; an empty one stands for `{}`.
///
/// # Errors
/// 400 naming the field.
pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    // Serde would take a list for a struct, field by field.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(ApiError::malformed("the body is not a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if cause.is_syntax() || cause.is_eof() {
            let place = if path == "." { String::new() } else { format!(", in field `{path}`") };
            ApiError::malformed(format!("the body is not JSON{place}: {cause}"))
        } else if path == "." {
            ApiError::malformed(format!("the body does not fit: {cause}"))
        } else {
            ApiError::malformed(format!("field `{path}`: {cause}"))
        }
    })?;
    deserializer.end().map_err(|e| ApiError::malformed(format!("the body is not JSON: {e}")))?;
    Ok(value)
}

/// A JSON body of a request that changes nothing.
pub(super) struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read_body(&parts.headers, body, BODY_LIMIT_BYTES).await?;
        Ok(Self(parse_json(&bytes)?))
    }
}

/// The body of a write that has none.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoBody {}

/// A write: its body and the headers that say under which conditions it takes effect.
pub(super) struct Write<T> {
    /// Its Idempotency-Key with the request's fingerprint.
    pub(super) key: Option<RequestKey>,
    /// `If-Match`.
    pub(super) if_match: Option<Revision>,
    /// What it says.
    pub(super) body: T,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Write<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        // The layer that forwards writes has read the body under the route's own limit.
        let bytes = read_body(&parts.headers, body, LARGE_BODY_LIMIT_BYTES).await?;
        let key = idempotency_key(&parts.headers)?.map(|key| RequestKey {
            key,
            fingerprint: fingerprint(parts.method.as_str(), parts.uri.path(), &bytes),
        });
        Ok(Self { key, if_match: if_match(&parts.headers)?, body: parse_json(&bytes)? })
    }
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::malformed(format!("header `{name}` is given twice")));
    }
    let refuse = |_| ApiError::malformed(format!("header `{name}` is not visible ASCII"));
    value.to_str().map(Some).map_err(refuse)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    match single(headers, &IDEMPOTENCY_KEY)? {
        Some(key) if key.is_empty() || key.len() > KEY_LIMIT_BYTES => Err(ApiError::malformed(format!(
            "header `Idempotency-Key` has 1 to {KEY_LIMIT_BYTES} bytes, not {}",
            key.len()
        ))),
        key => Ok(key.map(str::to_owned)),
    }
}

/// `If-Match: "R"`; `*` asks for nothing more than that the thing exists, which is asked of it anyway.
fn if_match(headers: &HeaderMap) -> Result<Option<Revision>, ApiError> {
    match single(headers, &header::IF_MATCH)?.map(str::trim) {
        None | Some("*") => Ok(None),
        Some(tag) => match parse_etag(tag) {
            Some(revision) => Ok(Some(revision)),
            None => Err(ApiError::malformed(format!(
                "header `If-Match` is one ETag as this API gives them, such as \"17\", or *, not {tag}"
            ))),
        },
    }
}

/// `"17"` as a revision.
pub(super) fn parse_etag(tag: &str) -> Option<Revision> {
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok().map(Revision)
}

fn fingerprint(method: &str, path: &str, body: &[u8]) -> String {
    // A body that is no UTF-8 is no JSON either and is refused, so that replacing its bytes confuses nothing.
    let text = format!("{method}\n{path}\n{}", String::from_utf8_lossy(body));
    format!("{:016x}", hashing::hash_of_key(&text))
}
