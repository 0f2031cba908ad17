//! HTTP, as API.md's last section says: for clients under `/v1`, for other data nodes under `/peer/v1`.
//!
//! Nothing is decided here: what came is checked, handed to the [`DataNode`], and told with a status.

mod peer;
mod problem;

use std::collections::BTreeMap;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ruvector_cluster_client::ids::{Epoch, ShardId};
use ruvector_cluster_client::node::DataNode;
use ruvector_cluster_client::replica::Key;
use ruvector_cluster_client::wire::Role;
use serde::{Deserialize, Serialize};

use crate::store::{Found, Nearest, Vectors, nearest_of};
use crate::value::Point;

pub use problem::ApiError;

/// The epoch of the shard that an answer is about; in a request, the one that the asker routed by.
pub const SHARD_EPOCH: &str = "x-shard-epoch";
/// Largest request: 10,000 points of 384 dimensions as JSON.
const MAX_BODY_BYTES: usize = 64 << 20;
/// Most points of one request.
const MAX_POINTS: usize = 10_000;
/// Longest id, in bytes.
const MAX_ID_BYTES: usize = 512;
/// Most results of a search.
const MAX_RESULTS: usize = 10_000;

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    /// The node.
    pub node: DataNode<Vectors>,
    /// Components of each vector.
    pub dimensions: usize,
}

/// A point with its id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdPoint {
    /// 1 to 512 bytes.
    pub id: String,
    /// As many components as the node's dimensions.
    pub vector: Vec<f32>,
    /// Anything.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, serde_json::Value>>,
}

/// `POST /v1/vectors`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteRequest {
    /// Of several with one id the last counts.
    pub points: Vec<IdPoint>,
}

/// Answer to `POST /v1/vectors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteResponse {
    /// How many points were given.
    pub written: usize,
}

/// `POST /v1/search`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SearchRequest {
    /// The query.
    pub vector: Vec<f32>,
    /// How many to find.
    pub k: usize,
}

/// Answer to `POST /v1/search`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchResponse {
    /// Ascending by score.
    pub results: Vec<Found>,
    /// All there are.
    pub shards_searched: u32,
}

/// One copy in `GET /v1/stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStats {
    /// The shard.
    pub id: ShardId,
    /// As assigned; null for a copy that is kept though not assigned.
    pub role: Option<Role>,
    /// The highest epoch known.
    pub epoch: Epoch,
    /// Vectors held.
    pub vectors: u64,
    /// Bytes of ids, vectors and metadata.
    pub size_bytes: u64,
}

/// `GET /v1/stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Copies here, ascending.
    pub shards: Vec<ShardStats>,
}

/// All routes.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/vectors", post(write_points))
        .route("/v1/vectors/{id}", get(read_point).delete(delete_point))
        .route("/v1/search", post(search))
        .route("/v1/stats", get(stats))
        .route("/livez", get(|| async { "ok" }))
        .nest("/peer/v1", peer::router())
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(app)
}

async fn write_points(
    State(app): State<App>,
    headers: HeaderMap,
    body: Result<Json<WriteRequest>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(request) = body?;
    if request.points.len() > MAX_POINTS {
        return Err(ApiError::invalid(format!("at most {MAX_POINTS} points a request")));
    }
    let written = request.points.len();
    let mut points = BTreeMap::new();
    for IdPoint { id, vector, metadata } in request.points {
        check_id(&id)?;
        check_vector(&vector, app.dimensions)?;
        let value = Point { vector, metadata }.encode().map_err(|e| ApiError::invalid(e.to_string()))?;
        points.insert(Key::from(id), Some(value));
    }
    let epoch = app.node.write(points.into_iter().collect(), asked_epoch(&headers)?).await?;
    Ok(with_epoch(epoch, Json(WriteResponse { written })))
}

async fn read_point(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    check_id(&id)?;
    let (epoch, value) = app.node.read(&Key::from(id.as_str()), asked_epoch(&headers)?).await?;
    let value = value.ok_or_else(|| ApiError::not_found(&id).with_epoch(epoch))?;
    let point = Point::decode(&value).map_err(|e| ApiError::damaged(e.to_string()))?;
    Ok(with_epoch(Some(epoch), Json(IdPoint { id, vector: point.vector, metadata: point.metadata })))
}

async fn delete_point(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    check_id(&id)?;
    let epoch = app.node.write(vec![(Key::from(id), None)], asked_epoch(&headers)?).await?;
    Ok(with_epoch(epoch, axum::http::StatusCode::NO_CONTENT))
}

async fn search(
    State(app): State<App>,
    body: Result<Json<SearchRequest>, JsonRejection>,
) -> Result<Json<SearchResponse>, ApiError> {
    let Json(request) = body?;
    check_vector(&request.vector, app.dimensions)?;
    if request.k > MAX_RESULTS {
        return Err(ApiError::invalid(format!("k is at most {MAX_RESULTS}")));
    }
    let k = request.k;
    let by_shard = app.node.search(Nearest { vector: request.vector, k }).await?;
    let shards_searched = u32::try_from(by_shard.len()).unwrap_or(u32::MAX);
    let results = nearest_of(by_shard.into_iter().flatten().collect(), k);
    Ok(Json(SearchResponse { results, shards_searched }))
}

async fn stats(State(app): State<App>) -> Json<Stats> {
    let held = app.node.held().into_iter();
    let shards = held.map(|copy| ShardStats {
        id: copy.shard,
        role: copy.status.role,
        epoch: copy.status.epoch,
        vectors: copy.size.vectors,
        size_bytes: copy.size.bytes,
    });
    Json(Stats { shards: shards.collect() })
}

fn check_id(id: &str) -> Result<(), ApiError> {
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        return Err(ApiError::invalid(format!("an id has 1 to {MAX_ID_BYTES} bytes")));
    }
    Ok(())
}

fn check_vector(vector: &[f32], dimensions: usize) -> Result<(), ApiError> {
    if vector.len() != dimensions {
        return Err(ApiError::invalid(format!("a vector has {dimensions} components, not {}", vector.len())));
    }
    if vector.iter().any(|component| !component.is_finite()) {
        return Err(ApiError::invalid("a vector's components are finite".to_owned()));
    }
    Ok(())
}

fn asked_epoch(headers: &HeaderMap) -> Result<Option<Epoch>, ApiError> {
    let Some(value) = headers.get(SHARD_EPOCH) else { return Ok(None) };
    let epoch = value.to_str().ok().and_then(|text| text.parse().ok()).map(Epoch);
    epoch.map(Some).ok_or_else(|| ApiError::invalid(format!("{SHARD_EPOCH} is no number")))
}

fn with_epoch(epoch: Option<Epoch>, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    if let Some(epoch) = epoch {
        response.headers_mut().insert(SHARD_EPOCH, epoch.0.into());
    }
    response
}
