//! The client of the vector nodes: each request is sent once, to one node; nothing is repeated.

use std::time::Duration;

use anyhow::Result;
use reqwest::StatusCode;
use ruvector_cluster_client::ids::Epoch;
use serde::Deserialize;
use serde_json::{Value, json};
use vector_node::api::SHARD_EPOCH;

use crate::keys::{KeyIndex, Keys, Written, point, version_of};
use crate::record::{Kind, Records, Sample};

/// A request that takes longer has failed: more than the 10 s for which a node holds it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Neighbours that a search asks for.
const NEIGHBOURS: usize = 10;

#[derive(Deserialize)]
struct Found {
    vector: Vec<f32>,
}

#[derive(Deserialize)]
struct Neighbour {
    id: String,
    score: f64,
}

#[derive(Deserialize)]
struct Searched {
    results: Vec<Neighbour>,
    shards_searched: u32,
}

/// Why a request failed.
struct Failed {
    why: String,
    /// Nothing was done, for certain.
    nothing_done: bool,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct DataClient {
    http: reqwest::Client,
    keys: std::sync::Arc<Keys>,
    records: Records,
}

impl DataClient {
    /// A client that writes down what it does.
    pub(crate) fn new(keys: std::sync::Arc<Keys>, records: Records) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .retry(reqwest::retry::never())
            .timeout(REQUEST_TIMEOUT)
            .build()?;
        Ok(Self { http, keys, records })
    }

    /// The keys that it is about.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Where it writes things down.
    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    /// Writes many points, for loading: not counted.
    pub(crate) async fn load(&self, addr: &str, keys: &[KeyIndex]) -> Result<(), String> {
        let points: Vec<Value> = keys.iter().map(|key| point(self.keys.name(*key), 1)).collect();
        let sent = self.post(addr, "/v1/vectors", &json!({ "points": points })).await;
        sent.map_err(|failed| failed.why)?;
        for key in keys {
            self.keys.attempt_judged(*key);
            self.keys.settle(*key, 1, Written::Yes);
        }
        Ok(())
    }

    /// Writes `version` of a key at the node of `addr`; says what came of it.
    pub(crate) async fn write(&self, addr: &str, key: KeyIndex, version: u32) -> (Written, Option<Epoch>) {
        let called = self.records.now();
        let body = json!({ "points": [point(self.keys.name(key), version)] });
        let shard = Some(self.keys.shard(key));
        let (written, epoch) = match self.post(addr, "/v1/vectors", &body).await {
            Ok((answer, epoch)) if answer["written"] == 1 => {
                let returned = self.records.now();
                self.records.answered(Sample { kind: Kind::Write, shard, called, returned, epoch });
                (Written::Yes, epoch)
            }
            Ok((answer, _)) => {
                self.records.failed(Kind::Write, shard, called, &format!("{addr}: {answer}"));
                (Written::Unknown, None)
            }
            Err(Failed { why, nothing_done }) => {
                self.records.failed(Kind::Write, shard, called, &format!("{addr}: {why}"));
                (if nothing_done { Written::No } else { Written::Unknown }, None)
            }
        };
        self.keys.settle(key, version, written);
        (written, epoch)
    }

    /// Reads a key at the node of `addr`; the version that was found, if any, and its epoch, where it was answered.
    pub(crate) async fn fetch(&self, addr: &str, key: KeyIndex) -> Option<(Option<u32>, Option<Epoch>)> {
        let called = self.records.now();
        let (name, shard) = (self.keys.name(key), Some(self.keys.shard(key)));
        let sent = self.http.get(format!("http://{addr}/v1/vectors/{name}")).send().await;
        match answered(sent).await {
            Err(Failed { why, .. }) => {
                self.records.failed(Kind::Read, shard, called, &format!("{addr}: {why}"));
                None
            }
            Ok((answer, epoch)) => {
                let returned = self.records.now();
                self.records.answered(Sample { kind: Kind::Read, shard, called, returned, epoch });
                let found = serde_json::from_value::<Found>(answer).ok();
                Some((found.and_then(|found| version_of(name, &found.vector)), epoch))
            }
        }
    }

    /// Reads a key that has one writer, and judges what was found.
    pub(crate) async fn read(&self, addr: &str, key: KeyIndex) {
        let before = self.keys.versions(key).acknowledged;
        let Some((version, epoch)) = self.fetch(addr, key).await else { return };
        let versions = self.keys.versions(key);
        if !version.is_some_and(|version| versions.allow(before, version)) {
            let (name, shard, sent) = (self.keys.name(key), self.keys.shard(key), versions.attempted);
            self.records.stale(format!(
                "{name} of shard {shard} read at {addr}: version {version:?} under {epoch:?}; {before} was acknowledged before, \
                 {sent} was sent last"
            ));
        }
    }

    /// Searches for a key that never changes, and judges what was found.
    pub(crate) async fn search(&self, addr: &str, key: KeyIndex) {
        let called = self.records.now();
        let name = self.keys.name(key);
        let body = json!({ "vector": crate::keys::vector_of(name, 1), "k": NEIGHBOURS });
        match self.post(addr, "/v1/search", &body).await {
            Err(Failed { why, .. }) => {
                self.records.failed(Kind::Search, None, called, &format!("{addr}: {why}"));
            }
            Ok((answer, epoch)) => {
                let returned = self.records.now();
                self.records.answered(Sample { kind: Kind::Search, shard: None, called, returned, epoch });
                if let Some(wrong) = self.wrong_search(name, answer) {
                    self.records.wrong_search(format!("the search for {name} at {addr}: {wrong}"));
                }
            }
        }
    }

    fn wrong_search(&self, name: &str, answer: Value) -> Option<String> {
        let found: Searched = match serde_json::from_value(answer) {
            Ok(found) => found,
            Err(error) => return Some(error.to_string()),
        };
        let mut ids: Vec<&str> = found.results.iter().map(|neighbour| neighbour.id.as_str()).collect();
        ids.sort_unstable();
        let twice = ids.windows(2).find(|pair| pair[0] == pair[1]);
        let nearest = found.results.first().map(|nearest| (nearest.id.as_str(), nearest.score.abs() < 1e-3));
        if let Some(twice) = twice {
            return Some(format!("{} was found twice", twice[0]));
        }
        if found.shards_searched != self.keys.shards() || ids.len() != NEIGHBOURS {
            return Some(format!("{} neighbours of {} shards", ids.len(), found.shards_searched));
        }
        (nearest != Some((name, true))).then(|| format!("the nearest is {nearest:?}"))
    }

    async fn post(&self, addr: &str, path: &str, body: &Value) -> Result<(Value, Option<Epoch>), Failed> {
        answered(self.http.post(format!("http://{addr}{path}")).json(body).send().await).await
    }
}

async fn answered(sent: Result<reqwest::Response, reqwest::Error>) -> Result<(Value, Option<Epoch>), Failed> {
    let lost = |error: reqwest::Error| Failed { nothing_done: error.is_connect(), why: chain(&error) };
    let response = sent.map_err(lost)?;
    let status = response.status();
    let epoch = response.headers().get(SHARD_EPOCH).and_then(|value| value.to_str().ok()?.parse().ok());
    let text = response.text().await.map_err(lost)?;
    if status == StatusCode::NOT_FOUND {
        // An answer, if a wrong one: every key was written.
        return Ok((Value::Null, epoch.map(Epoch)));
    }
    if !status.is_success() {
        // Refused as unavailable, but perhaps after some of it was done elsewhere: known only of single points.
        let nothing_done = status == StatusCode::SERVICE_UNAVAILABLE;
        return Err(Failed { why: format!("{status} {text}"), nothing_done });
    }
    let body = serde_json::from_str(&text)
        .map_err(|error| Failed { why: format!("{error}: {text}"), nothing_done: false })?;
    Ok((body, epoch.map(Epoch)))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
