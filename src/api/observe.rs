//! The outermost layer: gives each request an id, writes problems out, answers 304, counts and logs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};

use super::answer::CLUSTER_REVISION;
use super::app::App;
use super::error::{ApiError, Code};

/// The request's id: taken over where the client sends a sane one.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MAX_REQUEST_ID_BYTES: usize = 128;

/// The layer.
pub(super) async fn observe(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    let started = tokio::time::Instant::now();
    let id = sane_id(request.headers()).unwrap_or_else(|| app.next_request_id());
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let if_none_match = request.headers().get(header::IF_NONE_MATCH).cloned();
    // A request that another control node forwards keeps its id.
    if let Ok(value) = HeaderValue::from_str(&id) {
        request.headers_mut().insert(REQUEST_ID, value);
    }

    let mut response = next.run(request).await;
    write_problem(&mut response, &id);
    answer_not_modified(&mut response, &method, if_none_match.as_ref());
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    if !headers.contains_key(CLUSTER_REVISION) {
        headers.insert(CLUSTER_REVISION, HeaderValue::from(app.published().revision().0));
    }

    let (status, elapsed) = (response.status(), started.elapsed());
    app.metrics.observe_request(&route, &method, status, elapsed);
    if status.is_server_error() {
        tracing::warn!(request_id = %id, %method, %path, status = status.as_u16(), elapsed_ms = elapsed.as_millis(), "request failed");
    } else {
        tracing::debug!(request_id = %id, %method, %path, status = status.as_u16(), elapsed_ms = elapsed.as_millis(), "request");
    }
    response
}

fn sane_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let sane = !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && id.bytes().all(|b| b.is_ascii_graphic());
    sane.then(|| id.to_owned())
}

/// Writes out what a handler refused; what axum itself refused gets a problem too.
fn write_problem(response: &mut Response, id: &str) {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return;
    }
    let written = response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v == PROBLEM_JSON);
    if written {
        return;
    }
    let error = response.extensions_mut().remove::<ApiError>().unwrap_or_else(|| match status {
        StatusCode::NOT_FOUND => ApiError::new(Code::NotFound, "there is no such path"),
        StatusCode::METHOD_NOT_ALLOWED => {
            ApiError::new(Code::MethodNotAllowed, "this path has other methods; see the `Allow` header")
        }
        StatusCode::SERVICE_UNAVAILABLE => ApiError::stopping(),
        status if status.is_client_error() => ApiError::malformed("the request is not understood"),
        _ => ApiError::new(Code::Internal, "this control node failed; its log says how"),
    });
    if let Ok(bytes) = serde_json::to_vec(&error.problem(id)) {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        *response.status_mut() = error.status();
        *response.body_mut() = Body::from(bytes);
    }
}

/// RFC 9457.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

fn answer_not_modified(response: &mut Response, method: &Method, if_none_match: Option<&HeaderValue>) {
    if response.status() != StatusCode::OK || !(method == Method::GET || method == Method::HEAD) {
        return;
    }
    let (Some(tag), Some(asked)) = (response.headers().get(header::ETAG), if_none_match) else { return };
    let (Ok(tag), Ok(asked)) = (tag.to_str(), asked.to_str()) else { return };
    let same = |candidate: &str| {
        let candidate = candidate.trim();
        candidate == "*" || candidate.strip_prefix("W/").unwrap_or(candidate) == tag
    };
    if asked.split(',').any(same) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
}
