//! Traffic between control nodes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::BodyExt;
use ruvector_cluster_raft::transport::{
    Envelope, Listening, Messages, PeerHandler, Refusal, RpcKind, Transport, TransportError,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::stream::{Pipe, pump};
use super::{CallError, Net, Repeatable, Service, address_of, text_of};
use crate::host::Host;

/// One control node's way to the others.
pub struct NetTransport {
    net: Net,
    host: Host,
}

impl NetTransport {
    pub(super) fn new(net: Net, host: Host) -> Self {
        Self { net, host }
    }
}

fn no_answer(peer: &str, why: &str) -> TransportError {
    TransportError::NoAnswer { peer: peer.to_owned(), why: why.to_owned() }
}

fn failed(peer: &str, error: CallError) -> TransportError {
    match error {
        CallError::Refused => {
            TransportError::Unreachable { peer: peer.to_owned(), why: "nobody listens".to_owned() }
        }
        CallError::Broken => no_answer(peer, "the connection broke"),
    }
}

/// Raft's own messages may come twice; what changes something by itself may not.
fn repeatable(kind: RpcKind) -> Repeatable {
    match kind {
        RpcKind::Append | RpcKind::Vote | RpcKind::PreVote | RpcKind::Hello | RpcKind::ReadIndex => {
            Repeatable::Yes
        }
        RpcKind::Promise
        | RpcKind::Release
        | RpcKind::Join
        | RpcKind::AppendStream
        | RpcKind::Snapshot
        | RpcKind::TransferLeader
        | RpcKind::App => Repeatable::No,
    }
}

#[async_trait]
impl Transport for NetTransport {
    async fn rpc(
        &self,
        peer_url: &str,
        kind: RpcKind,
        envelope: Envelope,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let addr = address_of(peer_url);
        let call = self.net.call(&self.host, &addr, repeatable(kind), kind.name(), move |service, _| {
            let (envelope, body) = (envelope.clone(), body.clone());
            async move {
                match service {
                    Service::Peer(handler) => handler.rpc(kind, envelope, body).await,
                    Service::Http(_) | Service::Data(_) => Err(no_peer_listener()),
                }
            }
        });
        let answer =
            tokio::time::timeout(timeout, call).await.map_err(|_| no_answer(&addr, "no answer in time"))?;
        let answer = answer.map_err(|error| failed(&addr, error))?;
        answer.map_err(|refusal| TransportError::Refused { peer: addr, refusal })
    }

    async fn duplex(
        &self,
        peer_url: &str,
        kind: RpcKind,
        envelope: Envelope,
        messages: BoxStream<'static, Bytes>,
        timeout: Duration,
    ) -> Result<Messages, TransportError> {
        let addr = address_of(peer_url);
        let to = self.net.name_at(&addr).ok_or_else(|| failed(&addr, CallError::Refused))?;
        let own = self.host.name().to_owned();
        let (pipe, arriving) = Pipe::new();
        let broken = addr.clone();
        let arriving: Messages =
            arriving.map(move |item| item.map_err(|why| no_answer(&broken, &why))).boxed();
        // Taken by the one call that is made of it.
        let arriving = Arc::new(std::sync::Mutex::new(Some(arriving)));
        let (net, back) = (self.net.clone(), (to.clone(), own.clone()));
        let call = self.net.call(&self.host, &addr, Repeatable::No, kind.name(), move |service, host| {
            let (envelope, net, back) = (envelope.clone(), net.clone(), back.clone());
            let arriving = arriving.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            async move {
                let (Service::Peer(handler), Some(arriving)) = (service, arriving) else {
                    return Err(no_peer_listener());
                };
                let answers = handler.duplex(kind, envelope, arriving).await?;
                if kind == RpcKind::Snapshot {
                    net.count_snapshot();
                }
                let (pipe, pieces) = Pipe::new();
                let answers = answers.map(|item| item.map_err(|error| error.to_string()));
                drop(host.spawn(pump(net, back, answers.boxed(), pipe)));
                Ok(pieces)
            }
        });
        let sending = pump(self.net.clone(), (own, to), messages.map(Ok).boxed(), pipe);
        drop(self.host.spawn(sending));
        let opened =
            tokio::time::timeout(timeout, call).await.map_err(|_| no_answer(&addr, "no answer in time"))?;
        let pieces = opened
            .map_err(|error| failed(&addr, error))?
            .map_err(|refusal| TransportError::Refused { peer: addr.clone(), refusal })?;
        Ok(pieces.map(move |item| item.map_err(|why| no_answer(&addr, &why))).boxed())
    }

    async fn hello(&self, seed: &str, timeout: Duration) -> Result<Bytes, TransportError> {
        let call = self.net.call(&self.host, seed, Repeatable::Yes, "hello", move |service, _| async move {
            let Service::Http(router) = service else { return None };
            let request = http::Request::get("/v1/hello").body(axum::body::Body::empty()).ok()?;
            let response = router.oneshot(request).await.ok()?;
            let is_answer = response.status().is_success();
            let body = response.into_body().collect().await.ok()?.to_bytes();
            is_answer.then_some(body)
        });
        let answer =
            tokio::time::timeout(timeout, call).await.map_err(|_| no_answer(seed, "no answer in time"))?;
        let answer = answer.map_err(|error| failed(seed, error))?;
        answer.ok_or_else(|| no_answer(seed, "no hello"))
    }

    async fn listen(&self, addr: SocketAddr, handler: Arc<dyn PeerHandler>) -> std::io::Result<Listening> {
        let text = text_of(addr);
        self.net.listen(&text, &self.host, Service::Peer(handler));
        let closed = CancellationToken::new();
        let (net, waiting) = (self.net.clone(), closed.clone());
        drop(self.host.spawn(async move {
            waiting.cancelled().await;
            net.close(&text);
        }));
        Ok(Listening::new(addr, closed.drop_guard()))
    }
}

/// What another kind of listener says to a control node's message.
fn no_peer_listener() -> Refusal {
    Refusal::WrongVersion("no control node listens for its peers there".to_owned())
}
