//! HTTP between processes: requests go through the very router that serves, bodies come piece by piece.

use async_trait::async_trait;
use axum::body::Body as AxumBody;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use ruvector_cluster_client::control::{Body, Exchange, ExchangeError};
use tower::ServiceExt;

use super::stream::{Pipe, pump};
use super::{CallError, Net, Repeatable, Service, address_of};
use crate::host::Host;

/// The way of one process to client APIs.
pub struct NetExchange {
    net: Net,
    host: Host,
}

impl NetExchange {
    pub(super) fn new(net: Net, host: Host) -> Self {
        Self { net, host }
    }
}

#[async_trait]
impl Exchange for NetExchange {
    async fn exchange(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, ExchangeError> {
        let addr = address_of(&request.uri().to_string());
        let what = format!("{} {}", request.method(), request.uri().path());
        // A node's own: what others send in its name is not withheld.
        let own_reports = format!("/v1/nodes/{}/reports", self.host.name());
        if request.uri().path() == own_reports {
            self.net.pass_gate(request.uri().path(), request.body()).await;
            self.net.trace.note(&[self.host.name(), &String::from_utf8_lossy(request.body())]);
        }
        // A keyed write takes effect once, and heartbeats and reads may come twice.
        let keyed = request.headers().contains_key("idempotency-key");
        let beats = request.uri().path().ends_with("/heartbeat") || request.method() == http::Method::GET;
        let repeatable = if keyed || beats { Repeatable::Yes } else { Repeatable::No };
        let to = self.net.name_at(&addr).unwrap_or_default();
        let (net, own) = (self.net.clone(), self.host.name().to_owned());
        let answer = self.net.call(&self.host, &addr, repeatable, &what, move |service, at| {
            let (request, net) = (request.clone(), net.clone());
            let link = (to.clone(), own.clone());
            async move { act(service, request, &net, &at, link).await }
        });
        match answer.await {
            Ok(Some(response)) => Ok(response),
            Ok(None) | Err(CallError::Refused) => Err(ExchangeError(format!("{addr} refuses connections"))),
            Err(CallError::Broken) => Err(ExchangeError(format!("the connection to {addr} broke"))),
        }
    }
}

/// Runs in the process that was asked. Of a body that ends at once the answer has all; another one is pumped.
async fn act(
    service: Service,
    request: http::Request<Bytes>,
    net: &Net,
    at: &Host,
    link: (String, String),
) -> Option<http::Response<Body>> {
    let Service::Http(router) = service else { return None };
    let streamed = request.headers().get(http::header::ACCEPT).is_some_and(|v| v == "text/event-stream");
    let response = match router.oneshot(request.map(AxumBody::from)).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (parts, body) = response.into_parts();
    if !streamed || !parts.status.is_success() {
        let whole = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body: Body = futures::stream::iter([Ok(whole)]).boxed();
        return Some(http::Response::from_parts(parts, body));
    }
    let (pipe, pieces) = Pipe::new();
    let data = body.into_data_stream().map(|piece| piece.map_err(|error| error.to_string()));
    drop(at.spawn(pump(net.clone(), link, data.boxed(), pipe)));
    let body: Body = pieces.map(|piece| piece.map_err(ExchangeError)).boxed();
    Some(http::Response::from_parts(parts, body))
}
