//! One HTTP request and its answer: the seam at which a simulation stands in for the network.

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::ControlError;

/// An answer's body, as it comes.
pub type Body = BoxStream<'static, Result<Bytes, ExchangeError>>;

/// Why there is no answer, or no more of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ExchangeError(pub String);

/// Carries requests to control nodes. Bounds in time are its caller's.
#[async_trait]
pub trait Exchange: Send + Sync + 'static {
    /// Sends `request`, whose URI is absolute; returns with the answer's headers.
    ///
    /// # Errors
    /// When there is no answer. The request may have taken effect.
    async fn exchange(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, ExchangeError>;
}

/// Over HTTP/1.1, or HTTP/2 where the other side offers it.
pub struct Http(reqwest::Client);

impl Http {
    /// Connects within `connect_timeout_ms`, past any proxy.
    ///
    /// # Errors
    /// [`ControlError::Setup`].
    pub fn new(connect_timeout_ms: u64) -> Result<Self, ControlError> {
        let builder = reqwest::Client::builder().no_proxy();
        let builder = builder.connect_timeout(Duration::from_millis(connect_timeout_ms));
        Ok(Self(builder.build().map_err(ControlError::Setup)?))
    }
}

#[async_trait]
impl Exchange for Http {
    async fn exchange(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, ExchangeError> {
        let failed = |error: reqwest::Error| ExchangeError(super::chain(&error));
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        let answer = self.0.request(parts.method, url).headers(parts.headers).body(body).send().await;
        let answer = answer.map_err(failed)?;
        let mut response = http::Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            headers.clone_from(answer.headers());
        }
        let body: Body = answer.bytes_stream().map(move |piece| piece.map_err(failed)).boxed();
        response.body(body).map_err(|error| ExchangeError(error.to_string()))
    }
}

/// The whole of a body.
///
/// # Errors
/// When it breaks off, or is longer than `max_bytes`.
pub(crate) async fn read_body(mut body: Body, max_bytes: u64) -> Result<Bytes, ExchangeError> {
    let mut whole = BytesMut::new();
    while let Some(piece) = body.next().await {
        whole.extend_from_slice(&piece?);
        if whole.len() as u64 > max_bytes {
            return Err(ExchangeError("an answer beyond all bounds".to_owned()));
        }
    }
    Ok(whole.freeze())
}
