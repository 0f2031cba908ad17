//! One request to one control node, without retries: what its sender may conclude.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(3_000);
/// Loopback answers at once, or the process is paused.
const CONNECT: Duration = Duration::from_millis(1_000);

/// A client of its own, with connections of its own.
#[derive(Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
    /// `Idempotency-Key`.
    pub(crate) key: Option<String>,
    pub(crate) if_match: Option<u64>,
}

impl Ask {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, key: None, if_match: None }
    }

    pub(crate) fn write(method: Method, path: impl Into<String>, body: Value) -> Self {
        Self { method, path: path.into(), body: Some(body), key: None, if_match: None }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// `X-Cluster-Revision`.
    pub(crate) revision: u64,
    /// The row's revision, where there is a tag.
    pub(crate) etag: Option<u64>,
    pub(crate) body: Value,
}

impl Reply {
    /// A problem's code.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoReply {
    /// It was certainly not delivered.
    Refused,
    /// It may have been, and may yet take effect.
    Silence,
}

impl Api {
    /// # Errors
    /// When the HTTP client can't be set up.
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).build()?;
        Ok(Self { http })
    }

    /// The client beneath, for streams.
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Asks the control node at `addr` once.
    ///
    /// # Errors
    /// [`NoReply`].
    pub(crate) async fn ask(&self, addr: &str, ask: &Ask) -> Result<Reply, NoReply> {
        tokio::time::timeout(PATIENCE, self.exchange(addr, ask)).await.unwrap_or(Err(NoReply::Silence))
    }

    async fn exchange(&self, addr: &str, ask: &Ask) -> Result<Reply, NoReply> {
        let mut request = self.http.request(ask.method.clone(), format!("http://{addr}{}", ask.path));
        if let Some(key) = &ask.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(revision) = ask.if_match {
            request = request.header("if-match", format!("\"{revision}\""));
        }
        if let Some(body) = &ask.body {
            request = request.json(body);
        }
        let answer = request.send().await;
        let answer = answer.map_err(|e| if e.is_connect() { NoReply::Refused } else { NoReply::Silence })?;
        let number =
            |name: &str| answer.headers().get(name)?.to_str().ok()?.trim_matches('"').parse::<u64>().ok();
        let (status, revision, etag) =
            (answer.status().as_u16(), number("x-cluster-revision").unwrap_or(0), number("etag"));
        let body = answer.bytes().await.map_err(|_| NoReply::Silence)?;
        Ok(Reply { status, revision, etag, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
    }
}
