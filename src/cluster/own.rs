//! The way to control nodes: to this process's own without a network, to the others over HTTP.

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use futures::StreamExt;
use ruvector_cluster_client::control::{Body, Exchange, ExchangeError, Http};
use tower::ServiceExt;

/// Puts requests for `own` to the router itself.
pub(super) struct OwnFirst {
    /// `host:port`.
    pub(super) own: String,
    pub(super) router: Router,
    pub(super) others: Http,
}

#[async_trait]
impl Exchange for OwnFirst {
    async fn exchange(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, ExchangeError> {
        if request.uri().authority().is_none_or(|authority| authority.as_str() != self.own) {
            return self.others.exchange(request).await;
        }
        let answered = self.router.clone().oneshot(request.map(axum::body::Body::from)).await;
        let (parts, body) = match answered {
            Ok(response) => response.into_parts(),
            Err(never) => match never {},
        };
        let pieces = body.into_data_stream();
        let body: Body = pieces.map(|piece| piece.map_err(|error| ExchangeError(error.to_string()))).boxed();
        Ok(http::Response::from_parts(parts, body))
    }
}
