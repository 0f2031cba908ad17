//! The client API of API.md, over HTTP.
//!
//! A request passes `observe` (its id, problems, metrics), then, where only the leader can answer, `forward`, then a handler:
//! extract and check, read the published state or propose, answer. Handlers hold no state of their own and decide nothing:
//! what may be is decided by the replicated state, what should be by the coordinator. HTTP statuses stand in `error` alone.

mod answer;
mod app;
mod assignments;
mod backup;
mod cluster;
mod drain;
mod error;
mod explain;
mod extract;
mod forward;
mod health;
mod hotspots;
mod members;
mod migrations;
mod nodes;
mod observe;
mod rebalance;
mod reports;
mod resume;
mod shards;
mod soft;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post, put};

pub use app::{App, Limits};
pub use error::{ApiError, Code};
use forward::Kind;
pub use forward::answer_forwarded;

/// All endpoints.
pub fn router(app: Arc<App>) -> Router {
    let routes = writes()
        .route_layer(from_fn_with_state((app.clone(), Kind::Write), forward::to_leader))
        .merge(
            node_writes().route_layer(from_fn_with_state((app.clone(), Kind::NodeWrite), forward::to_leader)),
        )
        .merge(
            soft_reads().route_layer(from_fn_with_state((app.clone(), Kind::SoftRead), forward::to_leader)),
        )
        .merge(reads());
    routes
        .fallback(async || ApiError::new(Code::NotFound, "there is no such path"))
        .layer(from_fn_with_state(app.clone(), observe::observe))
        .with_state(app)
}

/// Only the leader proposes.
fn writes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/nodes/{id}", put(nodes::register).patch(nodes::patch).delete(nodes::delete))
        .route("/v1/nodes/{id}/drain", post(nodes::drain).delete(nodes::end_drain))
        .route("/v1/nodes/{id}/maintenance", post(nodes::maintain).delete(nodes::end_maintenance))
        .route("/v1/shards/{id}/force-primary", post(shards::force_primary))
        .route("/v1/migrations", post(migrations::start))
        .route("/v1/migrations/{id}", delete(migrations::cancel))
        .route("/v1/rebalance", post(rebalance::rebalance))
        .route("/v1/rebalance/policy", put(rebalance::set_policy))
        .route("/v1/rebalance/pause", post(rebalance::pause))
        .route("/v1/rebalance/resume", post(rebalance::resume))
        .route("/v1/cluster/resume", post(resume::resume))
        .route("/v1/members", post(members::add))
        .route("/v1/members/{id}", delete(members::remove))
        .route("/v1/leader/transfer", post(members::transfer))
}

/// Large bodies, and many of them.
fn node_writes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/nodes/{id}/heartbeat", post(nodes::heartbeat))
        .route("/v1/nodes/{id}/reports", post(reports::report))
}

/// Answers with fields that only the leader knows.
fn soft_reads() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{id}", get(nodes::get))
        .route("/v1/shards", get(shards::list))
        .route("/v1/shards/{id}", get(shards::get))
        .route("/v1/shards/{id}/explain", get(explain::explain))
        .route("/v1/migrations", get(migrations::list))
        .route("/v1/migrations/{id}", get(migrations::get))
        .route("/v1/hotspots", get(hotspots::hotspots))
        .route("/v1/members", get(members::list))
}

/// Answered by any control node from what is published.
fn reads() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/nodes/{id}/assignments", get(assignments::assignments))
        .route("/v1/route", get(shards::route).post(shards::route_many))
        .route("/v1/map", get(shards::map))
        .route("/v1/watch", get(watch::watch))
        .route("/v1/rebalance/policy", get(rebalance::policy))
        .route("/v1/health", get(health::health))
        .route("/v1/cluster", get(cluster::cluster))
        .route("/v1/events", get(cluster::events))
        .route("/v1/snapshot", get(backup::snapshot))
        .route("/v1/hello", get(cluster::hello))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/version", get(health::version))
}
