//! The listening side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::ListenerExt;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::{HEADER_CLUSTER, HEADER_FROM, HEADER_TO, HEADER_WIRE, MESSAGE_LIMIT_BYTES, framing};
use crate::transport::{Envelope, Listening, PeerHandler, Refusal, RpcKind, TransportError, WIRE_VERSION};

const BIND_PATIENCE: Duration = Duration::from_secs(1);
const BIND_RETRY: Duration = Duration::from_millis(10);

#[derive(Clone)]
struct Shared {
    handler: Arc<dyn PeerHandler>,
    closed: CancellationToken,
}

/// Binds and serves until the answer is dropped.
pub(super) async fn listen(addr: SocketAddr, handler: Arc<dyn PeerHandler>) -> std::io::Result<Listening> {
    let listener = bind(addr).await?;
    let addr = listener.local_addr()?;
    let closed = CancellationToken::new();
    let router = Router::new()
        .route("/peer/v1/{kind}", post(receive))
        .layer(DefaultBodyLimit::max(MESSAGE_LIMIT_BYTES))
        .with_state(Shared { handler, closed: closed.clone() });
    let listener = listener.tap_io(|io| {
        if let Err(error) = io.set_nodelay(true) {
            tracing::debug!(%error, "a peer connection keeps its delay");
        }
    });
    let serving = axum::serve(listener, router).with_graceful_shutdown(closed.clone().cancelled_owned());
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the peer listener ended");
        }
    });
    Ok(Listening::new(addr, closed.drop_guard()))
}

/// A listener that was closed a moment ago, in this process or by the one before it, may still hold the port.
async fn bind(addr: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let give_up = tokio::time::Instant::now() + BIND_PATIENCE;
    loop {
        match tokio::net::TcpListener::bind(addr).await {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && tokio::time::Instant::now() < give_up =>
            {
                tokio::time::sleep(BIND_RETRY).await;
            }
            bound => return bound,
        }
    }
}

async fn receive(State(shared): State<Shared>, Path(kind): Path<String>, request: Request) -> Response {
    let closed = shared.closed.clone();
    match closed.run_until_cancelled(answer(shared, &kind, request)).await {
        Some(Ok(response)) => response,
        Some(Err(refusal)) => refused(&refusal),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn refused(refusal: &Refusal) -> Response {
    match serde_json::to_vec(refusal) {
        Ok(body) => (StatusCode::CONFLICT, body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn answer(shared: Shared, kind: &str, request: Request) -> Result<Response, Refusal> {
    let kind = RpcKind::ALL.into_iter().find(|known| known.name() == kind);
    let kind = kind.ok_or_else(|| Refusal::Malformed("an unknown kind of message".to_owned()))?;
    let envelope = envelope(request.headers())?;
    if matches!(kind, RpcKind::AppendStream | RpcKind::Snapshot) {
        let bytes = request.into_body().into_data_stream();
        let peer = envelope.from.to_string();
        let bytes = bytes
            .map_err(move |error| TransportError::NoAnswer { peer: peer.clone(), why: error.to_string() });
        let messages = framing::messages(envelope.from.to_string(), bytes.boxed());
        let messages = messages.take_until(shared.closed.clone().cancelled_owned()).boxed();
        let answers = shared.handler.duplex(kind, envelope, messages).await?;
        let answers = answers.take_until(shared.closed.cancelled_owned());
        return Ok(Body::from_stream(answers.map_ok(framing::frame)).into_response());
    }
    let body = axum::body::to_bytes(request.into_body(), MESSAGE_LIMIT_BYTES).await;
    let body = body.map_err(|error| Refusal::Malformed(error.to_string()))?;
    let body: Bytes = shared.handler.rpc(kind, envelope, body).await?;
    Ok(body.into_response())
}

fn envelope(headers: &HeaderMap) -> Result<Envelope, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| {
        let parse =
            |text: &str| text.parse::<u64>().map_err(|_| Refusal::Malformed(format!("{name} is a number")));
        text(name).map(parse).transpose()
    };
    let theirs = number(HEADER_WIRE)?;
    if theirs != Some(u64::from(WIRE_VERSION)) {
        let theirs =
            theirs.map_or("none (is this a control node's peer?)".to_owned(), |theirs| theirs.to_string());
        return Err(Refusal::WrongVersion(format!(
            "it speaks wire version {WIRE_VERSION}, and the message names {theirs}: run builds whose wire versions fit"
        )));
    }
    Ok(Envelope {
        from: number(HEADER_FROM)?.ok_or_else(|| Refusal::Malformed(format!("{HEADER_FROM} is missing")))?,
        to: number(HEADER_TO)?,
        cluster_id: text(HEADER_CLUSTER).map(str::to_owned),
    })
}
