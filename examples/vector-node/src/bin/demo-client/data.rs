//! The client of the vector nodes: asks any node that is alive, and on a failure another one, until it is answered.
//!
//! Every request is counted in the [`Tally`], and so is every failure, with its time: a repeated request that succeeds
//! does not hide the one that failed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use ruvector_cluster_client::control::{Call, ControlClient};
use ruvector_cluster_client::wire::{Node, NodeStatus};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::asked::Asked;
use crate::ledger::{Operation, Tally};

/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// An operation that is not answered within this, with all its repetitions, ends the demo.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(60);
/// Before a failed request is repeated.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two looks at which vector nodes are alive.
const REFRESH: Duration = Duration::from_millis(250);

/// What came of asking for one vector.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Found {
    /// Its numbers.
    pub(crate) vector: Vec<f32>,
    /// What was written with it.
    #[serde(default)]
    pub(crate) metadata: Value,
}

/// One neighbour.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Neighbour {
    /// Whose.
    pub(crate) id: String,
    /// Euclidean distance.
    pub(crate) score: f64,
}

/// `GET /v1/nodes`.
#[derive(Deserialize)]
pub(crate) struct Nodes {
    /// Up to the limit that was asked for.
    pub(crate) nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Searched {
    results: Vec<Neighbour>,
    shards_searched: u64,
}

/// A point as `POST /v1/vectors` takes it.
pub(crate) fn point(id: &str, vector: &[f32], metadata: Value) -> Value {
    json!({"id": id, "vector": vector, "metadata": metadata})
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct DataClient {
    http: reqwest::Client,
    alive: Arc<Mutex<Vec<String>>>,
    tally: Tally,
    asked: Arc<Asked>,
    num_shards: u32,
}

enum Answer {
    Ok(Value),
    NotFound,
}

impl DataClient {
    /// A client that counts in `tally`; `alive` is filled by [`DataClient::follow_nodes`].
    pub(crate) fn new(tally: Tally, num_shards: u32) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build()?;
        Ok(Self { http, alive: Arc::default(), tally, asked: Arc::new(Asked::new(num_shards)), num_shards })
    }

    /// What it asked of each shard.
    pub(crate) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Keeps the list of alive nodes fresh.
    pub(crate) async fn follow_nodes(self, control: ControlClient) {
        loop {
            self.refresh(&control).await;
            tokio::time::sleep(REFRESH).await;
        }
    }

    /// Looks once; a failure leaves the list as it was.
    pub(crate) async fn refresh(&self, control: &ControlClient) {
        let call = Call::get("/v1/nodes").query("consistency", "stale").query("limit", 1_000);
        if let Ok(answer) = control.send::<Nodes>(&call).await {
            let is_up = |node: &Node| node.status != NodeStatus::Down;
            let addrs = answer.body.nodes.into_iter().filter(is_up).map(|node| node.addr).collect();
            *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = addrs;
        }
    }

    fn target(&self, turn: usize) -> Option<String> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        (!alive.is_empty()).then(|| alive[turn % alive.len()].clone())
    }

    /// Writes points; on return they are acknowledged.
    pub(crate) async fn write(&self, turn: usize, points: &[Value]) -> Result<()> {
        let body = json!({ "points": points });
        let check = |answer: &Answer| match answer {
            Answer::Ok(body) if body["written"] == points.len() => Ok(()),
            Answer::Ok(body) => Err(format!("wrote something else: {body}")),
            Answer::NotFound => Err("404".to_owned()),
        };
        self.until_answered(Operation::Write, turn, "POST", "/v1/vectors", Some(&body), check).await?;
        points.iter().filter_map(|point| point["id"].as_str()).for_each(|id| self.asked.wrote(id));
        Ok(())
    }

    /// Reads one vector; None where the answer is that there is none.
    pub(crate) async fn read(&self, turn: usize, id: &str) -> Result<Option<Found>> {
        let check = |answer: &Answer| match answer {
            Answer::Ok(body) => serde_json::from_value(body.clone()).map(Some).map_err(|e| e.to_string()),
            Answer::NotFound => Ok(None),
        };
        let path = format!("/v1/vectors/{id}");
        let found = self.until_answered(Operation::Read, turn, "GET", &path, None, check).await?;
        self.asked.read(id);
        Ok(found)
    }

    /// The `k` nearest over all shards; an answer from fewer shards is a failed request.
    pub(crate) async fn search(&self, turn: usize, vector: &[f32], k: usize) -> Result<Vec<Neighbour>> {
        let body = json!({"vector": vector, "k": k});
        let check = |answer: &Answer| match answer {
            Answer::Ok(body) => {
                let found: Searched = serde_json::from_value(body.clone()).map_err(|e| e.to_string())?;
                let (some, all) = (found.shards_searched, u64::from(self.num_shards));
                if some == all { Ok(found.results) } else { Err(format!("searched {some} of {all} shards")) }
            }
            Answer::NotFound => Err("404".to_owned()),
        };
        let path = "/v1/search";
        let found = self.until_answered(Operation::Search, turn, "POST", path, Some(&body), check).await?;
        self.asked.searched();
        Ok(found)
    }

    async fn until_answered<T>(
        &self,
        operation: Operation,
        turn: usize,
        method: &str,
        path: &str,
        body: Option<&Value>,
        check: impl Fn(&Answer) -> Result<T, String>,
    ) -> Result<T> {
        let begun = Instant::now();
        let mut last = String::from("no vector node is alive");
        for attempt in 0.. {
            if begun.elapsed() > OPERATION_TIMEOUT {
                bail!("{method} {path} was not answered within {OPERATION_TIMEOUT:?}: {last}");
            }
            if let Some(target) = self.target(turn + attempt) {
                let sent = Instant::now();
                let answer = self.send(&target, method, path, body).await.and_then(|answer| check(&answer));
                match answer {
                    Ok(answer) => {
                        self.tally.answered(operation, begun);
                        return Ok(answer);
                    }
                    Err(why) => {
                        last = format!("{target}: {why}");
                        self.tally.failed(operation, sent, &last);
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("{method} {path}: {last}")
    }

    async fn send(
        &self,
        target: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let url = format!("http://{target}{path}");
        let request = match method {
            "POST" => self.http.post(url),
            _ => self.http.get(url),
        };
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await.map_err(|e| chain(&e))?;
        let status = response.status();
        let text = response.text().await.map_err(|e| chain(&e))?;
        if status == reqwest::StatusCode::NOT_FOUND {
            return Ok(Answer::NotFound);
        }
        if !status.is_success() {
            return Err(format!("{status} {text}"));
        }
        serde_json::from_str(&text).map(Answer::Ok).map_err(|e| format!("{e}: {text}"))
    }
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
