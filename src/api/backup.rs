//! `GET /v1/snapshot`: a backup of the whole state, as a stream.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, header};

use super::answer::{Answer, CLUSTER_REVISION};
use super::app::{App, founded};
use super::error::ApiError;
use super::extract::Params;
use crate::backup;
use crate::metadata::view;

/// The state as of one revision, whatever is applied while it is sent. A stream that ends early lacks its end, and whoever
/// reads the file finds that.
pub(super) async fn snapshot(State(app): State<Arc<App>>, params: Params) -> Answer {
    params.only(&["consistency"])?;
    let permit = app.limits.stream()?;
    let state = app.read(&params).await?;
    let founded = founded(&state)?;
    let name = format!("{}-{}-{}.snapshot", founded.cluster_id, founded.generation, state.revision());
    let made_at = view::time(app.clock.wall_ms());
    let pieces = backup::pieces(&state, made_at).ok_or_else(|| ApiError::unexpected("a backup"))?;
    let pieces = pieces.map(move |piece| {
        // Held until the last piece is taken.
        let _held = &permit;
        Ok::<_, Infallible>(piece)
    });
    let mut response = Response::new(Body::from_stream(futures::stream::iter(pieces)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CLUSTER_REVISION, HeaderValue::from(state.revision().0));
    if let Ok(disposition) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}
