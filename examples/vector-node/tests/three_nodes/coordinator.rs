//! A control node for tests: the protocol's data node side of API.md, with decisions made by the test.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use ruvector_cluster_client::ids::{Epoch, Incarnation, MigrationId, NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::*;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub(crate) const LEASE_MS: u64 = 800;

#[derive(Clone)]
pub(crate) struct NodeRow {
    pub(crate) addr: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) down: bool,
    assigned: u64,
}

#[derive(Clone)]
pub(crate) struct ShardRow {
    pub(crate) epoch: Epoch,
    pub(crate) primary: NodeId,
    pub(crate) copies: Vec<NodeId>,
    pub(crate) learners: Vec<NodeId>,
    pub(crate) retiring: Vec<NodeId>,
    pub(crate) in_sync: Vec<NodeId>,
    pub(crate) version: u64,
    pub(crate) founding: bool,
    pub(crate) migration: Option<AssignedMigration>,
    done: BTreeSet<NodeId>,
}

#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) nodes: BTreeMap<NodeId, NodeRow>,
    pub(crate) shards: Vec<ShardRow>,
    revision: u64,
    migrations: u64,
    pub(crate) lost: Vec<(NodeId, ShardId)>,
}

#[derive(Clone)]
pub(crate) struct Coordinator {
    pub(crate) rows: Arc<Mutex<Rows>>,
    revision: Arc<watch::Sender<u64>>,
    pub(crate) addr: String,
    _server: Arc<Mutex<Option<AbortOnDropHandle<()>>>>,
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (rows, revision) = (Arc::default(), Arc::new(watch::channel(0).0));
        let coordinator = Self { rows, revision, addr, _server: Arc::default() };
        let app = Router::new()
            .route("/v1/nodes/{id}", put(register))
            .route("/v1/nodes/{id}/heartbeat", post(heartbeat))
            .route("/v1/nodes/{id}/assignments", get(assignments))
            .route("/v1/nodes/{id}/reports", post(reports))
            .route(
                "/v1/map",
                get(|State(c): State<Coordinator>| async move { Json(c.rows.lock().unwrap().map()) }),
            )
            .route("/v1/watch", get(watch_map))
            .with_state(coordinator.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        *coordinator._server.lock().unwrap() = Some(AbortOnDropHandle::new(server));
        coordinator
    }

    /// Changes the rows under a new revision.
    pub(crate) fn change<T>(&self, f: impl FnOnce(&mut Rows) -> T) -> T {
        let mut rows = self.rows.lock().unwrap();
        rows.revision += 1;
        let result = f(&mut rows);
        self.revision.send_replace(rows.revision);
        result
    }

    pub(crate) fn shard(&self, shard: usize) -> ShardRow {
        self.rows.lock().unwrap().shards[shard].clone()
    }

    /// Begins to hand the primaryship to an in-sync copy.
    pub(crate) fn hand_over(&self, shard: usize, to: &NodeId) {
        self.change(|rows| {
            let from = rows.shards[shard].primary.clone();
            let migration = rows.new_migration(MigrationKind::Promote, Phase::HandingOver, &from, to);
            rows.shards[shard].migration = Some(migration);
            rows.took_from(&from);
        });
    }

    /// Begins to move a replica's copy.
    pub(crate) fn move_copy(&self, shard: usize, from: &NodeId, to: &NodeId) {
        self.change(|rows| {
            let source = rows.shards[shard].primary.clone();
            let mut migration = rows.new_migration(MigrationKind::Move, Phase::Preparing, from, to);
            migration.source = rows.place(&source);
            rows.shards[shard].migration = Some(migration);
            rows.shards[shard].learners.push(to.clone());
        });
    }

    /// The verdict on a node whose lease ran out, with its failovers.
    pub(crate) fn declare_down(&self, node: &NodeId) {
        self.change(|rows| {
            if let Some(row) = rows.nodes.get_mut(node) {
                row.down = true;
            }
            let down: BTreeSet<NodeId> =
                rows.nodes.iter().filter(|(_, row)| row.down).map(|(id, _)| id.clone()).collect();
            for row in rows.shards.iter_mut().filter(|row| row.primary == *node) {
                if let Some(next) = row.in_sync.iter().find(|id| !down.contains(id)) {
                    row.primary = next.clone();
                    row.epoch.0 += 1;
                    row.migration = None;
                }
            }
            rows.took_from(node);
        });
    }
}

impl Rows {
    pub(crate) fn found(&mut self, count: usize, copies: usize) {
        let nodes: Vec<NodeId> = self.nodes.keys().cloned().collect();
        for shard in 0..count {
            let copies: Vec<NodeId> = (0..copies).map(|i| nodes[(shard + i) % nodes.len()].clone()).collect();
            self.shards.push(ShardRow {
                epoch: Epoch(1),
                primary: copies[0].clone(),
                in_sync: copies.clone(),
                copies,
                learners: vec![],
                retiring: vec![],
                version: 1,
                founding: true,
                migration: None,
                done: BTreeSet::new(),
            });
        }
    }

    fn new_migration(
        &mut self,
        kind: MigrationKind,
        phase: Phase,
        from: &NodeId,
        to: &NodeId,
    ) -> AssignedMigration {
        self.migrations += 1;
        let (source, target) = (self.place(from), self.place(to));
        AssignedMigration { id: MigrationId(self.migrations), phase, kind, source, target }
    }

    fn place(&self, node: &NodeId) -> Option<NodeAddr> {
        Some(NodeAddr { node: node.clone(), addr: self.nodes.get(node)?.addr.clone() })
    }

    fn took_from(&mut self, node: &NodeId) {
        let revision = self.revision;
        if let Some(row) = self.nodes.get_mut(node) {
            row.assigned = revision;
        }
    }

    fn assignment(&self, shard: usize, node: &NodeId) -> Option<Assignment> {
        let row = &self.shards[shard];
        let role_of = |id: &NodeId| match id {
            id if row.primary == *id => Role::Primary,
            id if row.copies.contains(id) => Role::Replica,
            id if row.learners.contains(id) => Role::Learner,
            _ => Role::Retiring,
        };
        let mut ids: Vec<&NodeId> = row.copies.iter().chain(&row.learners).collect();
        if row.retiring.contains(node) && !ids.contains(&node) {
            ids.push(node);
        }
        ids.contains(&node).then_some(())?;
        let copy = |id: &NodeId| {
            let at = &self.nodes[id];
            CopyInfo {
                node: id.clone(),
                addr: at.addr.clone(),
                incarnation: at.incarnation,
                role: role_of(id),
                down: at.down,
            }
        };
        Some(Assignment {
            shard: ShardId(shard as u32),
            epoch: row.epoch,
            founding: row.founding,
            role: role_of(node),
            in_sync_version: row.version,
            in_sync: row.in_sync.clone(),
            copies: ids.into_iter().map(copy).collect(),
            migration: row.migration.clone(),
        })
    }

    fn map(&self) -> ShardMap {
        let nodes = self.nodes.iter().map(|(id, row)| {
            let status = if row.down { NodeStatus::Down } else { NodeStatus::Alive };
            (id.clone(), MapNode { addr: row.addr.clone(), zone: None, rack: None, status })
        });
        let shards = self.shards.iter().map(|row| MapShard {
            epoch: row.epoch,
            primary: (!row.founding).then(|| row.primary.clone()),
            replicas: row.copies.iter().filter(|id| **id != row.primary).cloned().collect(),
            in_sync: row.in_sync.clone(),
        });
        ShardMap {
            generation: 1,
            revision: Revision(self.revision),
            cluster_id: "test".to_owned(),
            key_hash: "xxh64".to_owned(),
            shard_hash: "jump".to_owned(),
            num_shards: u32::try_from(self.shards.len()).unwrap(),
            replication_factor: 2,
            nodes: nodes.collect(),
            shards: shards.collect(),
        }
    }

    fn report(&mut self, node: &NodeId, report: &Report) -> Result<(), &'static str> {
        let incarnations: BTreeMap<NodeId, Incarnation> =
            self.nodes.iter().map(|(id, row)| (id.clone(), row.incarnation)).collect();
        if report.lost {
            self.lost.push((node.clone(), report.shard));
            return Ok(());
        }
        let row = &mut self.shards[report.shard.0 as usize];
        if report.retired {
            row.retiring.retain(|id| id != node);
            return Ok(());
        }
        if report.epoch != row.epoch {
            return Err("stale_epoch");
        }
        if let Some(set) = &report.in_sync_set {
            if set.if_version != row.version {
                return Err("stale_version");
            }
            if set.members.iter().any(|member| incarnations.get(&member.node) != Some(&member.incarnation)) {
                return Err("stale_incarnation");
            }
            row.in_sync = set.members.iter().map(|member| member.node.clone()).collect();
            row.version += 1;
            row.founding = false;
        }
        let Some(mut migration) = row.migration.clone() else { return Ok(()) };
        let target = migration.target.clone().unwrap().node;
        let has_target = row.in_sync.contains(&target);
        if report.migration == Some(migration.id) && report.phase == Some(migration.phase) {
            if report.error.is_some() {
                migration.phase = Phase::Preparing;
                row.done.clear();
            } else if report.done {
                row.done.insert(node.clone());
            }
        }
        migration.phase = match migration.phase {
            Phase::Preparing if row.done.len() == 2 => Phase::Copying,
            Phase::Copying if row.done.contains(&target) => Phase::Admitting,
            Phase::Admitting if has_target => {
                let from = row.copies.iter().position(|id| *id != row.primary).unwrap();
                let left = std::mem::replace(&mut row.copies[from], target.clone());
                row.learners.clear();
                row.in_sync.retain(|id| *id != left);
                row.version += 1;
                row.retiring.push(left);
                Phase::Done
            }
            Phase::HandingOver if row.done.contains(&row.primary) => {
                row.primary = target;
                row.epoch.0 += 1;
                Phase::Done
            }
            same => {
                row.migration = Some(AssignedMigration { phase: same, ..migration });
                return Ok(());
            }
        };
        row.done.clear();
        row.migration = (migration.phase != Phase::Done).then_some(migration);
        Ok(())
    }
}

async fn register(
    State(coordinator): State<Coordinator>,
    Path(id): Path<NodeId>,
    Json(request): Json<RegisterRequest>,
) -> Json<serde_json::Value> {
    coordinator.change(|rows| {
        let revision = rows.revision;
        let incarnation = Incarnation(rows.nodes.get(&id).map_or(0, |row| row.incarnation.0) + 1);
        let row = NodeRow { addr: request.addr.clone(), incarnation, down: false, assigned: revision };
        rows.nodes.insert(id.clone(), row);
        tracing::debug!(node = %id, %incarnation, "registered");
        for shard in rows.shards.iter_mut().filter(|shard| shard.primary == id) {
            shard.epoch.0 += 1;
        }
        Json(json!({
            "node": {"id": id, "addr": request.addr, "store_id": request.store_id, "zone": null, "rack": null,
                "labels": {}, "capacity": 1, "capacity_bytes": null, "status": "alive", "intent": "schedulable",
                "incarnation": incarnation, "shards": [], "primaries": 0, "size_bytes": null,
                "last_heartbeat": null, "revision": revision},
            "incarnation": incarnation, "lease_ms": LEASE_MS, "heartbeat_interval_ms": 100, "generation": 1,
            "revision": revision, "assigned_revision": revision,
        }))
    })
}

fn refuse(status: StatusCode, code: &str) -> Response {
    let body = json!({"type": "urn:t", "title": code, "status": status.as_u16(), "detail": "", "code": code,
        "retryable": false, "request_id": ""});
    (status, Json(body)).into_response()
}

async fn heartbeat(
    State(coordinator): State<Coordinator>,
    Path(id): Path<NodeId>,
    Json(request): Json<HeartbeatRequest>,
) -> Response {
    let rows = coordinator.rows.lock().unwrap();
    match rows.nodes.get(&id) {
        Some(row) if row.incarnation == request.incarnation && !row.down => Json(HeartbeatResponse {
            lease_ms: LEASE_MS,
            assigned_revision: Revision(row.assigned),
            generation: 1,
            revision: Revision(rows.revision),
            want_all: false,
        })
        .into_response(),
        Some(_) => refuse(StatusCode::CONFLICT, "stale_incarnation"),
        None => refuse(StatusCode::NOT_FOUND, "not_found"),
    }
}

async fn assignments(
    State(coordinator): State<Coordinator>,
    Path(id): Path<NodeId>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let (since, wait_ms): (u64, u64) = (query["since"].parse().unwrap(), query["wait_ms"].parse().unwrap());
    let mut revision = coordinator.revision.subscribe();
    let newer = revision.wait_for(|revision| *revision > since);
    // Past its wait it is answered as it is.
    tokio::time::timeout(Duration::from_millis(wait_ms), newer).await.map(drop).unwrap_or_default();
    let rows = coordinator.rows.lock().unwrap();
    let Some(row) = rows.nodes.get(&id) else { return refuse(StatusCode::NOT_FOUND, "not_found") };
    let assignments = (0..rows.shards.len()).filter_map(|shard| rows.assignment(shard, &id)).collect();
    Json(AssignmentsResponse {
        generation: 1,
        revision: Revision(rows.revision),
        node: id,
        incarnation: row.incarnation,
        full: true,
        assignments,
        removed: vec![],
    })
    .into_response()
}

async fn reports(
    State(coordinator): State<Coordinator>,
    Path(id): Path<NodeId>,
    Json(request): Json<ReportsRequest>,
) -> Json<ReportsResponse> {
    coordinator.change(|rows| {
        let current = rows.nodes.get(&id).is_some_and(|row| row.incarnation == request.incarnation);
        let mut results = Vec::new();
        for report in &request.reports {
            let result = if current { rows.report(&id, report) } else { Err("stale_incarnation") };
            tracing::debug!(node = %id, ?report, ?result, "reported");
            results.push(ReportResult { accepted: result.is_ok(), code: result.err().map(str::to_owned) });
        }
        Json(ReportsResponse { revision: Revision(rows.revision), results })
    })
}

async fn watch_map(
    State(coordinator): State<Coordinator>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let from: u64 = query["from"].parse().unwrap();
    let mut revision = coordinator.revision.subscribe();
    if *revision.borrow_and_update() > from {
        revision.mark_changed();
    }
    let events = futures::stream::unfold((coordinator, revision), |(coordinator, mut revision)| async move {
        revision.changed().await.ok()?;
        let map = serde_json::to_string(&coordinator.rows.lock().unwrap().map()).unwrap();
        let event: Result<Bytes, Infallible> = Ok(format!("event: snapshot\ndata: {map}\n\n").into());
        Some((event, (coordinator, revision)))
    });
    Body::from_stream(events).into_response()
}
