//! The one place where errors get a status.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ruvector_cluster_client::ids::Epoch;
use ruvector_cluster_client::node::GatewayError;
use ruvector_cluster_client::wire::Problem;

use super::SHARD_EPOCH;

/// An answer that is no success.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: String,
    epoch: Option<Epoch>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, detail: String) -> Self {
        Self { status, code, detail, epoch: None }
    }

    /// Well formed, but not possible.
    pub(crate) fn invalid(detail: String) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
    }

    /// There is no such vector.
    pub(crate) fn not_found(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no vector {id}"))
    }

    /// A stored value can't be read.
    pub(crate) fn damaged(detail: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", detail)
    }

    /// Of an answer about one shard.
    pub(crate) fn with_epoch(mut self, epoch: Epoch) -> Self {
        self.epoch = Some(epoch);
        self
    }
}

impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        let detail = error.to_string();
        match error {
            GatewayError::StaleEpoch(epoch) => {
                Self::new(StatusCode::CONFLICT, "stale_epoch", detail).with_epoch(epoch)
            }
            GatewayError::Unavailable(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail),
            GatewayError::Unknown => Self::new(StatusCode::GATEWAY_TIMEOUT, "outcome_unknown", detail),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", rejection.body_text())
            }
            _ => Self::new(StatusCode::BAD_REQUEST, "malformed", rejection.body_text()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let retryable = matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
        let problem = Problem {
            r#type: format!("urn:ruvector-cluster:problem:{}", self.code),
            title: self.code.replace('_', " "),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
            retryable,
            leader_url: None,
            request_id: format!("{:016x}", random_id()),
        };
        let mut response = (self.status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if retryable {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(epoch) = self.epoch {
            headers.insert(SHARD_EPOCH, epoch.0.into());
        }
        response
    }
}

/// 0 where the system gives no random bytes: the id only helps to find a line in a log.
fn random_id() -> u64 {
    getrandom::u64().unwrap_or(0)
}
