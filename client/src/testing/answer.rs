//! From a request to its answer: what HTTP is in the real one.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Coordinator;
use super::places::Refusal;
use super::rows::Answered;
use crate::control::{Body, Exchange, ExchangeError};
use crate::ids::{MigrationId, NodeId, Revision, ShardId};
use crate::wire::{MigrateRequest, ReportsResponse};

/// An answer that is no refusal.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) body: Body,
}

/// A request, taken apart.
struct Asked {
    method: Method,
    path: String,
    query: Query,
    body: Bytes,
    authority: String,
}

/// A request's query.
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    fn new(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self(pairs.map(|(name, value)| (decoded(name), decoded(value))).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let malformed = |text: &str| Refusal::new(400, "malformed", format!("{name}={text} is no number"));
        self.get(name).map(|text| text.parse().map_err(|_| malformed(text))).transpose()
    }
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *byte == b'%') {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn json(status: u16, body: &impl Serialize) -> Result<Answer, Refusal> {
    let body = serde_json::to_vec(body).map_err(|error| Refusal::new(500, "internal", error.to_string()))?;
    Ok(Answer { status, kind: "application/json", body: whole(body.into()) })
}

fn whole(bytes: Bytes) -> Body {
    futures::stream::once(async { Ok(bytes) }).boxed()
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::new(400, "malformed", error.to_string()))
}

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| Refusal::new(404, "not_found", format!("there is no {text}")))
}

fn there<T>(found: Option<T>) -> Result<T, Refusal> {
    found.ok_or_else(|| Refusal::new(404, "not_found", "there is none of that name"))
}

#[async_trait]
impl Exchange for Coordinator {
    async fn exchange(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, ExchangeError> {
        let (parts, body) = request.into_parts();
        let asked = Asked {
            path: parts.uri.path().to_owned(),
            query: Query::new(parts.uri.query().unwrap_or("")),
            authority: parts.uri.authority().map(ToString::to_string).unwrap_or_default(),
            method: parts.method,
            body,
        };
        let key = parts.headers.get("Idempotency-Key").and_then(|key| key.to_str().ok());
        let loses = self.pass(&asked.path).await?;
        let answer = match loses {
            Some(false) => None,
            Some(true) | None => Some(self.answered(&asked, key).await),
        };
        if loses.is_some() {
            return Err(ExchangeError("lost, as the test wants it".to_owned()));
        }
        // A long poll may have waited into a silence.
        if self.inner.faults.borrow().silent {
            self.pass(&asked.path).await?;
        }
        let answer = answer.unwrap_or_else(|| Err(Refusal::new(500, "internal", "there is no answer")));
        let revision = self.rows().revision;
        let response = match answer {
            Ok(answer) => respond(answer, revision),
            Err(refusal) => {
                let body = serde_json::to_vec(&refusal.problem()).unwrap_or_default();
                let kind = "application/problem+json";
                respond(Answer { status: refusal.status, kind, body: whole(body.into()) }, revision)
            }
        };
        response.map_err(|error| ExchangeError(error.to_string()))
    }
}

fn respond(answer: Answer, revision: Revision) -> Result<http::Response<Body>, http::Error> {
    let response = http::Response::builder().status(answer.status).header(header::CONTENT_TYPE, answer.kind);
    response.header("X-Cluster-Revision", revision.to_string()).body(answer.body)
}

impl Coordinator {
    /// The faults on the way. `Some`: the request is to be lost, and whether it takes effect.
    async fn pass(&self, path: &str) -> Result<Option<bool>, ExchangeError> {
        let mut faults = self.inner.faults.subscribe();
        let now = faults.borrow_and_update().clone();
        if !now.delay.is_zero() {
            tokio::time::sleep(now.delay).await;
        }
        if faults.borrow_and_update().silent {
            // Whoever asks gives up before, or sees the connection break.
            drop(faults.wait_for(|faults| !faults.silent).await);
            return Err(ExchangeError("silence, as the test wants it".to_owned()));
        }
        let mut loses = None;
        self.inner.faults.send_if_modified(|faults| {
            loses = faults.loses(path);
            false
        });
        Ok(loses)
    }

    /// A write that was answered under its key is answered the same again; a refusal too.
    async fn answered(&self, asked: &Asked, key: Option<&str>) -> Result<Answer, Refusal> {
        if self.inner.faults.borrow().unavailable {
            return Err(Refusal::new(503, "no_leader", "as the test wants it"));
        }
        let Some(key) = key.filter(|_| asked.method != Method::GET) else { return self.route(asked).await };
        let what = (format!("{} {}", asked.method, asked.path), asked.body.clone());
        let before = self.rows().answered.get(key).cloned();
        if let Some(before) = before {
            if before.asked != what {
                return Err(Refusal::new(422, "invalid", "the key was used for another request"));
            }
            return Ok(Answer { status: before.status, kind: "application/json", body: whole(before.body) });
        }
        let (status, body) = match self.route(asked).await {
            Ok(answer) => {
                let body = crate::control::read_body(answer.body, u64::MAX).await;
                (answer.status, body.map_err(|error| Refusal::new(500, "internal", error.0))?)
            }
            Err(refusal) => {
                (refusal.status, serde_json::to_vec(&refusal.problem()).unwrap_or_default().into())
            }
        };
        let answered = Answered { asked: what, status, body: body.clone() };
        self.rows().answered.insert(key.to_owned(), answered);
        Ok(Answer { status, kind: "application/json", body: whole(body) })
    }

    async fn route(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let path: Vec<&str> = asked.path.trim_start_matches('/').split('/').collect();
        let rows = || self.rows();
        match (asked.method.as_str(), path.as_slice()) {
            ("PUT" | "POST" | "GET", ["v1", "nodes", node, rest @ ..]) => {
                self.route_node(asked, &parsed::<NodeId>(&decoded(node))?, rest).await
            }
            ("GET", ["v1", "nodes"]) => {
                let rows = rows();
                let nodes: Vec<_> = rows.nodes.keys().filter_map(|id| rows.node_view(id)).collect();
                list("nodes", &nodes)
            }
            ("GET", ["v1", "map"]) => json(200, &rows().map()),
            ("GET", ["v1", "watch"]) => self.watch(&asked.query),
            ("GET", ["v1", "cluster"]) => json(200, &rows().cluster(&asked.authority)),
            ("GET", ["v1", "members"]) => list("members", &rows().cluster(&asked.authority).members),
            ("GET", ["v1", "shards"]) => {
                let rows = rows();
                let shards: Vec<_> =
                    rows.shard_ids().into_iter().filter_map(|id| rows.shard_view(id)).collect();
                list("shards", &shards)
            }
            ("GET", ["v1", "shards", id]) => json(200, &there(self.shard(ShardId(parsed(id)?)))?),
            (_, ["v1", "migrations", rest @ ..]) => self.route_migrations(asked, rest),
            _ => Err(Refusal::new(
                404,
                "not_found",
                format!("{} {} is not answered here", asked.method, asked.path),
            )),
        }
    }

    async fn route_node(&self, asked: &Asked, node: &NodeId, rest: &[&str]) -> Result<Answer, Refusal> {
        match (asked.method.as_str(), rest) {
            ("PUT", []) => {
                let request = read(&asked.body)?;
                self.change(|rows| rows.register(node, &request))?;
                json(200, &self.rows().registered(node)?)
            }
            ("GET", []) => json(200, &there(self.node(node))?),
            ("POST", ["heartbeat"]) => {
                let request = read(&asked.body)?;
                json(200, &self.change(|rows| rows.heartbeat(node, &request))?)
            }
            ("GET", ["assignments"]) => self.poll_assignments(node, &asked.query).await,
            ("POST", ["reports"]) => {
                let request = read(&asked.body)?;
                let results = self.change(|rows| rows.report_all(node, &request))?;
                json(200, &ReportsResponse { revision: self.rows().revision, results })
            }
            _ => Err(Refusal::new(404, "not_found", format!("{} is not answered here", asked.path))),
        }
    }

    fn route_migrations(&self, asked: &Asked, rest: &[&str]) -> Result<Answer, Refusal> {
        match (asked.method.as_str(), rest) {
            ("POST", []) => {
                let MigrateRequest { shard, to, from, if_epoch } = read(&asked.body)?;
                let id = self.change(|rows| rows.migrate(shard, &to, from.as_ref(), if_epoch))?;
                json(202, &there(self.migration(id))?)
            }
            ("GET", []) => {
                let rows = self.rows();
                let all = rows.migrations.iter().filter_map(|row| rows.migration_view(row.id));
                let active = asked.query.get("active") == Some("true");
                let shown: Vec<_> = all.filter(|migration| !active || !migration.phase.is_ended()).collect();
                list("migrations", &shown)
            }
            ("GET", [id]) => json(200, &there(self.migration(MigrationId(parsed(id)?)))?),
            ("DELETE", [id]) => {
                let id = MigrationId(parsed(id)?);
                self.change(|rows| rows.cancel(id))?;
                json(202, &there(self.migration(id))?)
            }
            _ => Err(Refusal::new(404, "not_found", format!("{} is not answered here", asked.path))),
        }
    }
}

/// All on one page.
fn list<T: Serialize>(name: &str, all: &[T]) -> Result<Answer, Refusal> {
    let mut page = serde_json::Map::new();
    let all = serde_json::to_value(all).map_err(|error| Refusal::new(500, "internal", error.to_string()))?;
    page.insert(name.to_owned(), all);
    page.insert("next_cursor".to_owned(), serde_json::Value::Null);
    json(200, &page)
}
