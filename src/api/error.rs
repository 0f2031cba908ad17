//! Errors as RFC 9457 problems: the one place where an error gets a status.
//!
//! A handler returns an [`ApiError`]. It travels as an extension of an empty response, and the outermost layer
//! ([`super::observe`]) writes it out with the request's id, so that nothing below needs to know that id.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ruvector_cluster_client::wire::Problem;
use ruvector_cluster_raft::{MembershipError, ProposeError, ReadError};

use crate::coordinator::HeartbeatError;
use crate::metadata::{Rejection, RejectionCode};

/// What went wrong, as programs branch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Not JSON, a wrong type, an unknown field or parameter, an id outside the alphabet.
    Malformed,
    /// No such thing.
    NotFound,
    /// The path exists, not with this method.
    MethodNotAllowed,
    /// Refused by the replicated state.
    Rejected(RejectionCode),
    /// The name or an address is taken.
    Conflict,
    /// Another membership change is under way.
    InProgress,
    /// The control cluster would lose its quorum.
    QuorumLost,
    /// What was asked for is no longer kept.
    Compacted,
    /// The thing is at another revision.
    PreconditionFailed,
    /// The body is over the limit.
    TooLarge,
    /// Well formed, not possible.
    Invalid,
    /// This control node does not lead, and was told not to forward.
    NotLeader,
    /// Too much at once.
    Overloaded,
    /// No leader, or no quorum behind it.
    NoLeader,
    /// The log's disk is full.
    DiskFull,
    /// This control node is stopping, or not ready yet.
    Unready,
    /// It may have happened, or may still.
    OutcomeUnknown,
    /// A bug: said, not hidden.
    Internal,
}

/// Status, code, title, whether repeating may help.
type Row = (StatusCode, &'static str, &'static str, bool);

impl Code {
    fn row(self) -> Row {
        match self {
            Self::Malformed => (StatusCode::BAD_REQUEST, "malformed", "Malformed request", false),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "Not found", false),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", false)
            }
            Self::Rejected(code) => rejection_row(code),
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "Conflict", false),
            Self::InProgress => (StatusCode::CONFLICT, "conflict", "Another change is under way", true),
            Self::QuorumLost => (StatusCode::CONFLICT, "quorum_lost", "Quorum would be lost", false),
            Self::Compacted => (StatusCode::GONE, "compacted", "No longer kept", false),
            Self::PreconditionFailed => rejection_row(RejectionCode::PreconditionFailed),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Body too large", false),
            Self::Invalid => rejection_row(RejectionCode::Invalid),
            Self::NotLeader => (StatusCode::MISDIRECTED_REQUEST, "not_leader", "Not the leader", true),
            Self::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "overloaded", "Too much at once", true),
            Self::NoLeader => (StatusCode::SERVICE_UNAVAILABLE, "no_leader", "No leader", true),
            Self::DiskFull => (StatusCode::SERVICE_UNAVAILABLE, "disk_full", "Disk full", true),
            Self::Unready => (StatusCode::SERVICE_UNAVAILABLE, "unready", "Not ready", true),
            Self::OutcomeUnknown => (StatusCode::GATEWAY_TIMEOUT, "outcome_unknown", "Outcome unknown", true),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", false),
        }
    }
}

fn rejection_row(code: RejectionCode) -> Row {
    let (status, title, retryable) = match code {
        RejectionCode::Founding => (StatusCode::SERVICE_UNAVAILABLE, "Not founded", true),
        RejectionCode::NotFound => (StatusCode::NOT_FOUND, "Not found", false),
        RejectionCode::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "Precondition failed", false),
        RejectionCode::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "Not possible", false),
        RejectionCode::KeyReused => {
            (StatusCode::UNPROCESSABLE_ENTITY, "Idempotency-Key used for another request", false)
        }
        RejectionCode::NodeAlive => (StatusCode::CONFLICT, "The old store's lease may still run", true),
        RejectionCode::LastCopy => (StatusCode::CONFLICT, "The last in-sync copy would be lost", false),
        RejectionCode::HoldsShards => (StatusCode::CONFLICT, "The node holds shards", false),
        RejectionCode::AlreadyMigrating => (StatusCode::CONFLICT, "Already migrating", true),
        RejectionCode::StaleEpoch => (StatusCode::CONFLICT, "Another epoch", false),
        RejectionCode::StalePhase => (StatusCode::CONFLICT, "Another phase", false),
        RejectionCode::StaleIncarnation => (StatusCode::CONFLICT, "Another incarnation", false),
        RejectionCode::StaleVersion => (StatusCode::CONFLICT, "Another version of the in-sync set", false),
        RejectionCode::TooLate => (StatusCode::CONFLICT, "Too late to cancel", false),
        RejectionCode::Conflict => (StatusCode::CONFLICT, "Conflict", false),
        RejectionCode::Suspended => (StatusCode::CONFLICT, "Restored and not resumed", false),
        RejectionCode::NodesMissing => (StatusCode::CONFLICT, "Data nodes are missing", true),
    };
    (status, code.as_str(), title, retryable)
}

/// An error answer, but for the request's id.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct ApiError {
    /// What programs branch on.
    pub code: Code,
    /// What was wrong with this request, and what to do.
    pub detail: String,
    /// Where the leader is, when the answer depends on it.
    pub leader_url: Option<String>,
}

impl ApiError {
    /// An error with its sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), leader_url: None }
    }

    /// 400.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Code::Malformed, detail)
    }

    /// 404: `what` is a noun with its name.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {what}"))
    }

    /// 422.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::Invalid, detail)
    }

    /// 500: a command has another answer than it should.
    pub fn unexpected(command: &str) -> Self {
        Self::new(Code::Internal, format!("{command} was answered by something else"))
    }

    /// 503 for want of a leader.
    pub fn no_leader() -> Self {
        Self::new(
            Code::NoLeader,
            "no control node leads with a quorum behind it at the moment; nothing was done",
        )
    }

    /// 503 while this node goes down.
    pub fn stopping() -> Self {
        Self::new(Code::Unready, "this control node is stopping; nothing was done")
    }

    /// 421 of a control node that has handed over, or does not lead yet: to be asked of the one that leads.
    pub fn not_leading_any_more() -> Self {
        Self::new(Code::NotLeader, "this control node is stopping or starting; nothing was done")
    }

    /// 503 of a control node that its cluster has removed.
    pub fn removed() -> Self {
        Self::new(Code::Unready, ruvector_cluster_raft::REMOVED)
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.code.row().0
    }

    /// The problem as it is sent.
    pub fn problem(&self, request_id: &str) -> Problem {
        let (status, code, title, retryable) = self.code.row();
        Problem {
            r#type: format!("urn:ruvector-cluster:problem:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail.clone(),
            code: code.to_owned(),
            retryable,
            leader_url: self.leader_url.clone(),
            request_id: request_id.to_owned(),
        }
    }

    fn retry_after_s(&self) -> Option<u16> {
        let (status, ..) = self.code.row();
        matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS).then_some(1)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        Self::new(Code::Rejected(rejection.code), rejection.detail)
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoLeader | ReadError::Timeout => Self::new(
                Code::NoLeader,
                format!("{error}; `?consistency=stale` reads what this control node has"),
            ),
            ReadError::Stopped => Self::stopping(),
            ReadError::Removed => Self::removed(),
        }
    }
}

const UNKNOWN: &str =
    "it is not known whether this took effect, and it still may; repeat it with the same Idempotency-Key";

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Self {
                leader_url: leader.map(|l| l.client_url),
                ..Self::new(Code::NotLeader, "this control node does not lead; nothing was done")
            },
            ProposeError::Unknown => Self::new(Code::OutcomeUnknown, UNKNOWN),
            ProposeError::DiskFull => Self::new(
                Code::DiskFull,
                "the leader's disk is full; nothing was done. Reads go on; free space there",
            ),
            ProposeError::Overloaded => {
                Self::new(Code::Overloaded, "too many writes are in flight; nothing was done")
            }
            ProposeError::TooLarge { .. } => Self::new(Code::TooLarge, error.to_string()),
            ProposeError::Stopped => Self::stopping(),
        }
    }
}

impl ApiError {
    /// A forwarded request that got no answer.
    pub fn outcome_unknown() -> Self {
        Self::new(Code::OutcomeUnknown, UNKNOWN)
    }
}

impl From<MembershipError> for ApiError {
    fn from(error: MembershipError) -> Self {
        let detail = error.to_string();
        match error {
            MembershipError::NotLeader { leader } => {
                Self { leader_url: leader.map(|l| l.client_url), ..Self::new(Code::NotLeader, detail) }
            }
            MembershipError::InProgress => Self::new(Code::InProgress, detail),
            MembershipError::NameTaken { .. } | MembershipError::AddressTaken { .. } => {
                Self::new(Code::Conflict, detail)
            }
            MembershipError::UnknownMember { .. } => Self::new(Code::NotFound, detail),
            MembershipError::QuorumLost { .. } => Self::new(Code::QuorumLost, detail),
            MembershipError::Unknown => Self::outcome_unknown(),
            MembershipError::NotTransferred { .. } => Self::new(Code::Invalid, detail),
        }
    }
}

impl From<HeartbeatError> for ApiError {
    fn from(error: HeartbeatError) -> Self {
        let detail = error.to_string();
        match error {
            HeartbeatError::NotLeader { leader } => {
                Self { leader_url: leader.map(|l| l.client_url), ..Self::new(Code::NotLeader, detail) }
            }
            HeartbeatError::NotFound => Self::new(Code::NotFound, format!("{detail}: register it")),
            HeartbeatError::StaleIncarnation { .. } => {
                Self::new(Code::Rejected(RejectionCode::StaleIncarnation), detail)
            }
            HeartbeatError::Unconfirmed(_) => {
                Self::new(Code::NoLeader, format!("{detail}: no lease was extended"))
            }
        }
    }
}
