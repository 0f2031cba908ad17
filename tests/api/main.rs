//! The HTTP API on the built binary: every field of the contract, what is refused and how, and what repeats mean.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

#[path = "../support/harness.rs"]
mod support;

mod backups;
mod bad_input;
mod contract;
mod drains;
mod explain;
mod hotspots;
mod operating;
mod process;
mod refused_moves;
mod repeats;
mod semantics;
mod streams;

use serde_json::Value;
use support::http::{Answer, Api};
use support::{ControlCluster, Options, ScriptedNode};

/// A control node, and four data nodes on racks of their own that hold 8 shards.
pub struct Served {
    _cluster: ControlCluster,
    /// The control node's.
    pub api: Api,
    /// `d1` to `d4`.
    pub nodes: Vec<ScriptedNode>,
}

impl Served {
    /// All shards are active, and nothing moves by itself.
    pub async fn start() -> Self {
        let cluster = ControlCluster::start_with(Options { count: 1, ..Options::default() }.shards(8)).await;
        let mut nodes = Vec::new();
        for (name, rack) in [("d1", "r1"), ("d2", "r2"), ("d3", "r3"), ("d4", "r4")] {
            nodes.push(ScriptedNode::start(&cluster, name, Some(rack)).await);
        }
        cluster.wait_for_healthy(4).await;
        let api = cluster.api(0);
        // From here on nothing moves by itself.
        call(&api, "POST", "/v1/rebalance/pause", None, 200).await;
        Self { _cluster: cluster, api, nodes }
    }

    /// The revision that is published.
    pub async fn revision(&self) -> u64 {
        self.api.get("/v1/map").await.unwrap().number("x-cluster-revision").unwrap()
    }
}

/// A request that must be answered with `status`, and with the headers of every answer.
pub async fn call(api: &Api, method: &str, path: &str, body: Option<Value>, status: u16) -> Answer {
    call_with(api, method, path, &[], body, status).await
}

/// The same with headers.
pub async fn call_with(
    api: &Api,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
    status: u16,
) -> Answer {
    let answer = api.send(method, path, headers, body.as_ref()).await.unwrap();
    assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    assert!(answer.number("x-cluster-revision").is_some(), "{method} {path} has no X-Cluster-Revision");
    assert!(answer.header("x-request-id").is_some(), "{method} {path} has no X-Request-Id");
    if status >= 400 {
        check_problem(&answer, status);
    }
    answer
}

/// Every field of a problem, as RFC 9457 and API.md have it.
pub fn check_problem(answer: &Answer, status: u16) {
    let body = &answer.body;
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{body}");
    assert_eq!(body["status"].as_u64(), Some(u64::from(status)), "{body}");
    for field in ["type", "title", "detail", "code", "request_id"] {
        assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{field} is missing: {body}");
    }
    assert!(body["retryable"].is_boolean(), "{body}");
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"), "{body}");
    if status == 503 || status == 429 {
        assert!(answer.number("retry-after").is_some(), "no Retry-After: {body}");
    }
}
