use http::Method;
use serde::Serialize;

#[cfg(doc)]
use super::ControlClient;
use super::ControlError;

/// One request, to be sent by [`ControlClient::send`].
#[derive(Clone, Debug)]
pub struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Option<bytes::Bytes>,
    pub(super) key: Option<String>,
    pub(super) first: Option<usize>,
    pub(super) attempt_timeout_ms: Option<u64>,
    pub(super) deadline_ms: Option<u64>,
    pub(super) if_none_match: Option<String>,
    pub(super) urgent: bool,
}

impl Call {
    /// The path with its query.
    pub(super) fn target(&self) -> String {
        let pairs: Vec<String> = self.query.iter().map(|(k, v)| format!("{k}={}", encode_query(v))).collect();
        let mark = if pairs.is_empty() { "" } else { "?" };
        format!("{}{mark}{}", self.path, pairs.join("&"))
    }

    fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            query: Vec::new(),
            body: None,
            key: None,
            first: None,
            attempt_timeout_ms: None,
            deadline_ms: None,
            if_none_match: None,
            urgent: false,
        }
    }

    /// Reads `path`, which begins with `/v1/`.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path.into())
    }

    /// Writes `body` as JSON under a fresh idempotency key.
    ///
    /// # Errors
    /// [`ControlError::Malformed`] when the body has no JSON form.
    pub fn write(
        method: Method,
        path: impl Into<String>,
        body: &impl Serialize,
    ) -> Result<Self, ControlError> {
        let path = path.into();
        let json = serde_json::to_vec(body)
            .map_err(|e| ControlError::Malformed { url: path.clone(), why: e.to_string() })?;
        let mut call = Self::new(method, path);
        call.body = Some(json.into());
        call.key = Some(fresh_key());
        Ok(call)
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    /// Leaves the idempotency key out: for requests that are not logged, as heartbeats.
    #[must_use]
    pub fn unkeyed(mut self) -> Self {
        self.key = None;
        self
    }

    /// Neither held back by the budget for repeating nor counted in it: for what a lease hangs on. Its sender's own pace and
    /// its deadline are to bound it.
    #[must_use]
    pub fn urgent(mut self) -> Self {
        self.urgent = true;
        self
    }

    /// Begins with the control node that gave an earlier answer.
    #[must_use]
    pub fn at(mut self, coordinator: usize) -> Self {
        self.first = Some(coordinator);
        self
    }

    /// Other bounds than the client's, in milliseconds: of one attempt, and of the call.
    #[must_use]
    pub fn within(mut self, attempt_timeout_ms: u64, deadline_ms: u64) -> Self {
        self.attempt_timeout_ms = Some(attempt_timeout_ms);
        self.deadline_ms = Some(deadline_ms);
        self
    }
}

/// 128 random bits in hex.
fn fresh_key() -> String {
    format!("{:032x}", crate::chance::bits())
}

/// Percent-encodes all but unreserved characters (RFC 3986, section 2.3).
fn encode_query(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
