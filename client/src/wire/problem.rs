use serde::{Deserialize, Serialize};

/// An error answer (RFC 9457), sent as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:ruvector-cluster:problem:` followed by the code.
    pub r#type: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status, again.
    pub status: u16,
    /// What was wrong with this request, and what to do.
    pub detail: String,
    /// The stable code that programs branch on, such as `not_found` or `stale_epoch`.
    pub code: String,
    /// Whether the same request may succeed later, unchanged.
    pub retryable: bool,
    /// Where the leader is, when the answer depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_url: Option<String>,
    /// The id under which this request stands in the log.
    pub request_id: String,
}
