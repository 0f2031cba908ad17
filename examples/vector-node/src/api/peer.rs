//! What other data nodes ask: the client library's business.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::post;

use super::App;

pub(super) fn router() -> Router<App> {
    Router::new().route("/{*path}", post(answer))
}

async fn answer(State(app): State<App>, Path(path): Path<String>, body: Bytes) -> Response {
    app.node.answer(&path, &body).await.map(Body::from)
}
