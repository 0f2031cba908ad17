//! What one attempt came to.

use http::header::HeaderMap;
use http::{HeaderName, StatusCode, header};

use crate::clock::{Clock, SystemClock};
use crate::wire::Problem;

/// On every answer of a control node.
const CLUSTER_REVISION: HeaderName = HeaderName::from_static("x-cluster-revision");

/// The longest wait that an answer can ask for.
const MAX_RETRY_AFTER_MS: u64 = 5_000;

/// An answer that is a success, or says that nothing changed.
pub(super) struct Raw {
    pub(super) status: StatusCode,
    pub(super) tag: Option<String>,
    pub(super) body: bytes::Bytes,
}

impl Raw {
    pub(super) fn new(parts: &http::response::Parts, body: bytes::Bytes) -> Self {
        let tag = parts.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        Self { status: parts.status, tag, body }
    }
}

/// What one attempt came to.
pub(super) enum Attempt {
    Answer(Raw),
    /// Another control node may answer.
    Elsewhere {
        why: String,
        retry_after_ms: u64,
        leader_url: Option<String>,
    },
    /// Another control node may answer; this one did not say anything.
    Silent {
        why: String,
    },
    Refused(Box<Problem>),
}

/// What an answer that is no success means.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Attempt {
    let told = serde_json::from_slice::<Problem>(body);
    let is_refusal = !matches!(status.as_u16(), 408 | 421 | 425 | 429 | 500 | 502..=599);
    if is_refusal && told.is_err() && !headers.contains_key(CLUSTER_REVISION) {
        // A data node, say, whose address was given as a control node's: it knows nothing of what it was asked.
        return Attempt::Silent { why: format!("{status}, and it is no control node") };
    }
    let problem = told.unwrap_or_else(|_| Problem {
        r#type: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or("").to_owned(),
        status: status.as_u16(),
        detail: String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned(),
        code: "unknown".to_owned(),
        retryable: false,
        leader_url: None,
        request_id: String::new(),
    });
    if is_refusal {
        return Attempt::Refused(Box::new(problem));
    }
    // Bounded, so that one odd answer can't put a data node to sleep for longer than its lease.
    let retry_after_ms = retry_after_ms(headers).unwrap_or(0).min(MAX_RETRY_AFTER_MS);
    let why = format!("{status} {}: {}", problem.code, problem.detail);
    Attempt::Elsewhere { why, retry_after_ms, leader_url: problem.leader_url }
}

/// `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3), which is counted from the answer's own date, so that
/// clocks that disagree don't matter.
fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let value = text(header::RETRY_AFTER)?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(seconds.saturating_mul(1_000));
    }
    let date_ms = |text: &str| {
        let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
        u64::try_from(date.timestamp_millis()).ok()
    };
    let until = date_ms(value)?;
    let now = text(header::DATE).and_then(date_ms).unwrap_or_else(|| SystemClock.wall_ms());
    Some(until.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(retry: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, retry.parse().unwrap());
        if let Some(date) = date {
            headers.insert(header::DATE, date.parse().unwrap());
        }
        retry_after_ms(&headers)
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(after("3", now), Some(3_000));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:41 GMT", now), Some(4_000));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:31 GMT", now), Some(0), "it is past");
        assert_eq!(after("Sun, 06 Nov 1994 08:49:41 GMT", None), Some(0), "by our own clock too");
        assert_eq!(after("soon", now), None);
        assert_eq!(after("-1", now), None);
    }

    #[test]
    fn only_a_control_node_refuses() {
        let is_refused = |headers: &HeaderMap, body: &[u8]| {
            matches!(judge(StatusCode::NOT_FOUND, headers, body), Attempt::Refused(_))
        };
        let mut theirs = HeaderMap::new();
        assert!(!is_refused(&theirs, b""), "another server's 404");
        assert!(!is_refused(&theirs, b"{\"error\": \"no such path\"}"));
        let problem = br#"{"type":"urn:x","title":"t","status":404,"detail":"d","code":"not_found","retryable":false,"request_id":"r"}"#;
        assert!(is_refused(&theirs, problem));
        theirs.insert(CLUSTER_REVISION, http::HeaderValue::from_static("7"));
        assert!(is_refused(&theirs, b""));
    }

    #[test]
    fn retry_after_is_bounded_whatever_it_says() {
        for odd in ["99999999999999999999", "86400", "Sun, 06 Nov 2994 08:49:37 GMT"] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, odd.parse().unwrap());
            match judge(StatusCode::SERVICE_UNAVAILABLE, &headers, b"{}") {
                Attempt::Elsewhere { retry_after_ms, .. } => assert!(retry_after_ms <= MAX_RETRY_AFTER_MS),
                Attempt::Answer(_) | Attempt::Refused(_) | Attempt::Silent { .. } => panic!("{odd}"),
            }
        }
    }
}
