//! One request to one control node, without retries: what its sender may conclude.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::Method;
use ruvector_cluster::client::control::Exchange;
use serde_json::Value;

use crate::host::Host;
use crate::net::{Net, NetExchange};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(3_000);

/// A client's way to the control nodes.
#[derive(Clone)]
pub struct Api {
    exchange: Arc<NetExchange>,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// GET, PATCH and so on.
    pub method: Method,
    /// With its query.
    pub path: String,
    /// A JSON body, or none.
    pub body: Option<Value>,
    /// `Idempotency-Key`.
    pub key: Option<String>,
    /// `If-Match`.
    pub if_match: Option<u64>,
}

impl Ask {
    /// Reads `path`.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, key: None, if_match: None }
    }

    /// Changes something.
    pub fn write(method: Method, path: impl Into<String>, body: Option<Value>) -> Self {
        Self { method, path: path.into(), body, key: None, if_match: None }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP's.
    pub status: u16,
    /// `X-Cluster-Revision`.
    pub revision: u64,
    /// The row's revision, where there is a tag.
    pub etag: Option<u64>,
    /// JSON, or null.
    pub body: Value,
    /// The body as it came.
    pub bytes: Bytes,
}

impl Reply {
    /// A problem's code.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReply {
    /// It was certainly not delivered.
    Refused,
    /// It may have been, and may yet take effect.
    Silence,
}

impl Api {
    /// The way of `host`.
    #[must_use]
    pub fn new(net: &Net, host: &Host) -> Self {
        Self { exchange: net.exchange(host) }
    }

    /// Asks the control node at `addr` once.
    ///
    /// # Errors
    /// [`NoReply`].
    pub async fn ask(&self, addr: &str, ask: &Ask) -> Result<Reply, NoReply> {
        tokio::time::timeout(PATIENCE, self.exchange(addr, ask)).await.unwrap_or(Err(NoReply::Silence))
    }

    async fn exchange(&self, addr: &str, ask: &Ask) -> Result<Reply, NoReply> {
        let mut request =
            http::Request::builder().method(&ask.method).uri(format!("http://{addr}{}", ask.path));
        if let Some(key) = &ask.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(revision) = ask.if_match {
            request = request.header("if-match", format!("\"{revision}\""));
        }
        let body = ask.body.as_ref().map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request =
            request.header("content-type", "application/json").body(body).map_err(|_| NoReply::Refused)?;
        let answer = self.exchange.exchange(request).await;
        let answer = answer.map_err(|error| match error.0.ends_with("refuses connections") {
            true => NoReply::Refused,
            false => NoReply::Silence,
        })?;
        let (parts, mut pieces) = answer.into_parts();
        let mut body = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            body.extend_from_slice(&piece.map_err(|_| NoReply::Silence)?);
        }
        let number =
            |name: &str| parts.headers.get(name)?.to_str().ok()?.trim_matches('"').parse::<u64>().ok();
        Ok(Reply {
            status: parts.status.as_u16(),
            revision: number("x-cluster-revision").unwrap_or(0),
            etag: number("etag"),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            bytes: body.freeze(),
        })
    }
}
