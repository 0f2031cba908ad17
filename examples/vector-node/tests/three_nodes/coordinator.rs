//! The in-memory coordinator behind HTTP: nodes in this test are whole processes that know it by its address.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use ruvector_cluster_client::control::Exchange;
use ruvector_cluster_client::testing::{self, CoordinatorOptions};
use ruvector_cluster_client::wire::AssignmentsResponse;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// The largest request that is taken, as of a control node.
const MAX_BODY_BYTES: usize = 16 << 20;

pub(crate) struct Coordinator {
    inner: testing::Coordinator,
    sources_at: Arc<Mutex<Option<String>>>,
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
        let sources_at = Arc::default();
        let front = Front { inner: inner.clone(), sources_at: Arc::clone(&sources_at) };
        let app = Router::new().fallback(pass_on).with_state(front);
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { inner, sources_at, addr, _server: AbortOnDropHandle::new(server) }
    }

    /// From now on targets are told that what they copy from is at `addr`.
    pub(crate) fn place_sources_at(&self, addr: String) {
        *self.sources_at.lock().unwrap() = Some(addr);
    }
}

#[derive(Clone)]
struct Front {
    inner: testing::Coordinator,
    sources_at: Arc<Mutex<Option<String>>>,
}

async fn pass_on(State(front): State<Front>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    parts.uri = format!("http://{host}{}", parts.uri).parse::<Uri>().unwrap();
    let sources_at =
        front.sources_at.lock().unwrap().clone().filter(|_| parts.uri.path().ends_with("/assignments"));
    match front.inner.exchange(Request::from_parts(parts, body)).await {
        Ok(answer) if answer.status().is_success() && sources_at.is_some() => {
            let body = Body::from_stream(answer.into_body());
            let bytes = axum::body::to_bytes(body, MAX_BODY_BYTES).await.unwrap();
            let mut told: AssignmentsResponse = serde_json::from_slice(&bytes).unwrap();
            let migrations = told.assignments.iter_mut().filter_map(|held| held.migration.as_mut());
            for source in migrations.filter_map(|migration| migration.source.as_mut()) {
                source.addr = sources_at.clone().unwrap();
            }
            axum::Json(told).into_response()
        }
        Ok(answer) => answer.map(Body::from_stream),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
