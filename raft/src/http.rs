//! The [`Transport`] between processes: HTTP/2 with prior knowledge, axum on the listening side, reqwest on the other.
//!
//! Every message is a POST to `/peer/v1/<kind>` with the wire version, the sender, the receiver and the cluster in headers.
//! A conversation is one such request whose body and answer are streams of messages, each behind its length, in both directions
//! at once. A refusal is a 409 with the reason as JSON.
//!
//! Invariants: heartbeats, votes and reads never wait behind log entries or snapshots (each has a connection of its own); what
//! arrives under another wire version is refused before it is looked at; bodies are bounded.
//!
//! Caveat: closing the listener ends the requests in flight, as a crash would.

mod framing;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::{Client, RequestBuilder, Response, StatusCode};

use crate::transport::{
    Envelope, Listening, Messages, PeerHandler, Refusal, RpcKind, Transport, TransportError, WIRE_VERSION,
};

/// The wire version's header.
const HEADER_WIRE: &str = "x-ruvector-wire";
/// The sender's Raft id.
const HEADER_FROM: &str = "x-ruvector-from";
/// The receiver's Raft id.
const HEADER_TO: &str = "x-ruvector-to";
/// The sender's cluster.
const HEADER_CLUSTER: &str = "x-ruvector-cluster";

/// No message is larger: an append request holds at most a few MiB of entries, a piece of a snapshot less.
const MESSAGE_LIMIT_BYTES: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A connection on which nothing comes back for this long, though pinged, is dropped.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// HTTP/2 to other processes.
pub struct HttpTransport {
    urgent: Client,
    entries: Client,
    bulk: Client,
}

impl HttpTransport {
    /// Without any connection yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = || {
            Client::builder()
                .http2_prior_knowledge()
                .no_proxy()
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .http2_keep_alive_timeout(KEEP_ALIVE)
                .http2_initial_stream_window_size(4 << 20)
                .http2_initial_connection_window_size(16 << 20)
                .build()
        };
        Ok(Self { urgent: client()?, entries: client()?, bulk: client()? })
    }

    fn request(&self, peer_url: &str, kind: RpcKind, envelope: &Envelope) -> RequestBuilder {
        let client = match kind {
            RpcKind::AppendStream => &self.entries,
            RpcKind::Snapshot | RpcKind::App => &self.bulk,
            RpcKind::Hello
            | RpcKind::Promise
            | RpcKind::Release
            | RpcKind::Join
            | RpcKind::Append
            | RpcKind::Vote
            | RpcKind::PreVote
            | RpcKind::TransferLeader
            | RpcKind::ReadIndex => &self.urgent,
        };
        let mut request = client
            .post(format!("{}/peer/v1/{}", peer_url.trim_end_matches('/'), kind.name()))
            .header(HEADER_WIRE, WIRE_VERSION)
            .header(HEADER_FROM, envelope.from);
        if let Some(to) = envelope.to {
            request = request.header(HEADER_TO, to);
        }
        if let Some(cluster_id) = &envelope.cluster_id {
            request = request.header(HEADER_CLUSTER, cluster_id);
        }
        request
    }
}

fn failed(peer: &str, error: &reqwest::Error) -> TransportError {
    let mut why = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        why = format!("{why}: {cause}");
        source = cause.source();
    }
    let peer = peer.to_owned();
    if error.is_connect() || error.is_builder() {
        TransportError::Unreachable { peer, why }
    } else {
        TransportError::NoAnswer { peer, why }
    }
}

fn too_late(peer: &str) -> TransportError {
    TransportError::NoAnswer { peer: peer.to_owned(), why: "no answer in time".to_owned() }
}

async fn accepted(peer: &str, response: Response) -> Result<Response, TransportError> {
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::CONFLICT => {
            let body = response.bytes().await.map_err(|error| failed(peer, &error))?;
            let refusal = serde_json::from_slice(&body)
                .unwrap_or_else(|_| Refusal::Unable("an unreadable refusal".to_owned()));
            Err(TransportError::Refused { peer: peer.to_owned(), refusal })
        }
        // Only a refusal says that nothing was done: a listener that closes gives up what it has begun.
        status => {
            Err(TransportError::NoAnswer { peer: peer.to_owned(), why: format!("HTTP status {status}") })
        }
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn rpc(
        &self,
        peer_url: &str,
        kind: RpcKind,
        envelope: Envelope,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let request = self.request(peer_url, kind, &envelope).body(body);
        let exchange = async {
            let response = request.send().await.map_err(|error| failed(peer_url, &error))?;
            accepted(peer_url, response).await?.bytes().await.map_err(|error| failed(peer_url, &error))
        };
        tokio::time::timeout(timeout, exchange).await.map_err(|_| too_late(peer_url))?
    }

    async fn duplex(
        &self,
        peer_url: &str,
        kind: RpcKind,
        envelope: Envelope,
        messages: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> Result<Messages, TransportError> {
        let body =
            reqwest::Body::wrap_stream(messages.map(framing::frame).map(Ok::<_, std::convert::Infallible>));
        let request = self.request(peer_url, kind, &envelope).body(body);
        let opening = async {
            let response = request.send().await.map_err(|error| failed(peer_url, &error))?;
            accepted(peer_url, response).await
        };
        let response = tokio::time::timeout(timeout, opening).await.map_err(|_| too_late(peer_url))??;
        let peer = peer_url.to_owned();
        let bytes = response.bytes_stream().map_err(move |error| failed(&peer, &error));
        Ok(framing::messages(peer_url.to_owned(), bytes.boxed()))
    }

    async fn hello(&self, seed: &str, timeout: Duration) -> Result<Bytes, TransportError> {
        // The client listener speaks HTTP/1.1 as well; prior knowledge of HTTP/2 works on both.
        let exchange = async {
            let request = self.urgent.get(format!("http://{seed}/v1/hello"));
            let response = request.send().await.map_err(|error| failed(seed, &error))?;
            if response.status() == StatusCode::NOT_FOUND {
                let refusal = Refusal::Unable("it has no such path, so it is no control node".to_owned());
                return Err(TransportError::Refused { peer: seed.to_owned(), refusal });
            }
            accepted(seed, response).await?.bytes().await.map_err(|error| failed(seed, &error))
        };
        tokio::time::timeout(timeout, exchange).await.map_err(|_| too_late(seed))?
    }

    async fn listen(&self, addr: SocketAddr, handler: Arc<dyn PeerHandler>) -> std::io::Result<Listening> {
        server::listen(addr, handler).await
    }
}

#[cfg(test)]
mod tests;
