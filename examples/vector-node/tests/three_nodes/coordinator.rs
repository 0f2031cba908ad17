//! The in-memory coordinator behind HTTP: nodes in this test are whole processes that know it by its address.

use std::ops::Deref;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use ruvector_cluster_client::control::Exchange;
use ruvector_cluster_client::testing::{self, CoordinatorOptions};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// The largest request that is taken, as of a control node.
const MAX_BODY_BYTES: usize = 16 << 20;

pub(crate) struct Coordinator {
    inner: testing::Coordinator,
    pub(crate) addr: String,
    _server: AbortOnDropHandle<()>,
}

impl Deref for Coordinator {
    type Target = testing::Coordinator;
    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl Coordinator {
    pub(crate) async fn start(options: CoordinatorOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let inner = testing::Coordinator::new(options);
        let app = Router::new().fallback(pass_on).with_state(inner.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { inner, addr, _server: AbortOnDropHandle::new(server) }
    }
}

async fn pass_on(State(coordinator): State<testing::Coordinator>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    parts.uri = format!("http://{host}{}", parts.uri).parse::<Uri>().unwrap();
    match coordinator.exchange(Request::from_parts(parts, body)).await {
        Ok(answer) => answer.map(Body::from_stream),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
