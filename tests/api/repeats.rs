//! A repeat under the same Idempotency-Key is told what it was told, whatever has become of its conditions since.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::{Served, call, call_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_told_the_same_whatever_has_happened_since() {
    let served = Served::start().await;
    each_end_ends_its_own_wish(&served).await;
    a_condition_that_held_is_not_asked_again(&served).await;
    a_drain_is_not_judged_again(&served).await;
    a_used_key_is_refused_on_every_write(&served).await;
    a_rebalance_is_not_planned_again(&served).await;
}

/// Status, revisions and body are the same.
fn same(first: &Answer, again: &Answer) {
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!(first.number("x-cluster-revision"), again.number("x-cluster-revision"));
    assert_eq!(first.header("etag"), again.header("etag"));
}

/// The same but for what is soft.
fn same_node(first: &Answer, again: &Answer) {
    assert_eq!(first.status, again.status, "{}", again.body);
    for field in ["id", "intent", "incarnation", "labels", "revision"] {
        assert_eq!(first.body[field], again.body[field], "{field}");
    }
    assert_eq!(first.number("x-cluster-revision"), again.number("x-cluster-revision"));
    assert_eq!(first.header("etag"), again.header("etag"));
}

async fn each_end_ends_its_own_wish(served: &Served) {
    let api = &served.api;
    let intent = async |method: &str, what: &str, body: Option<Value>| {
        call(api, method, &format!("/v1/nodes/d4/{what}"), body, 200).await.body["intent"].clone()
    };
    assert_eq!(intent("POST", "maintenance", Some(json!({"duration_ms": 60_000}))).await, "maintenance");
    assert_eq!(intent("DELETE", "drain", None).await, "maintenance");
    assert_eq!(intent("DELETE", "maintenance", None).await, "schedulable");
    assert_eq!(intent("POST", "drain", None).await, "draining");
    assert_eq!(intent("DELETE", "maintenance", None).await, "draining");
    assert_eq!(intent("DELETE", "drain", None).await, "schedulable");
    assert_eq!(intent("DELETE", "drain", None).await, "schedulable");
}

async fn a_condition_that_held_is_not_asked_again(served: &Served) {
    let api = &served.api;
    let away = json!({"duration_ms": 60_000});
    for (method, what, body) in [
        ("POST", "maintenance", Some(away)),
        ("DELETE", "maintenance", None),
        ("POST", "drain", Some(json!({"dry_run": false}))),
        ("DELETE", "drain", None),
    ] {
        let node = call(api, "GET", "/v1/nodes/d4", None, 200).await;
        let tag = node.header("etag").unwrap().to_owned();
        let key = format!("conditional-{method}-{what}");
        let (path, headers) =
            (format!("/v1/nodes/d4/{what}"), [("if-match", &*tag), ("idempotency-key", &key)]);
        let first = call_with(api, method, &path, &headers, body.clone(), 200).await;
        let again = call_with(api, method, &path, &headers, body.clone(), 200).await;
        same_node(&first, &again);
        call_with(api, method, &path, &headers[..1], body, 412).await;
    }
    let registered = json!({"addr": "127.0.0.1:9", "store_id": "s-x1"});
    call_with(api, "PUT", "/v1/nodes/x1", &[("if-match", "\"1\"")], Some(registered.clone()), 412).await;
    let first = call(api, "PUT", "/v1/nodes/x1", Some(registered.clone()), 200).await;
    let tag = first.header("etag").unwrap().to_owned();
    let headers = [("if-match", &*tag), ("idempotency-key", "conditional-register")];
    let first = call_with(api, "PUT", "/v1/nodes/x1", &headers, Some(registered.clone()), 200).await;
    assert_eq!(first.body["incarnation"], 2);
    let again = call_with(api, "PUT", "/v1/nodes/x1", &headers, Some(registered.clone()), 200).await;
    assert_eq!(first.body["incarnation"], again.body["incarnation"]);
    assert_eq!(first.number("x-cluster-revision"), again.number("x-cluster-revision"));
    call_with(api, "PUT", "/v1/nodes/x1", &headers[..1], Some(registered), 412).await;
    // A node that is gone is still answered to who edited it.
    let (key, patch) = ([("idempotency-key", "edit-x1")], Some(json!({"labels": {"k": "v"}})));
    let first = call_with(api, "PATCH", "/v1/nodes/x1", &key, patch.clone(), 200).await;
    call(api, "DELETE", "/v1/nodes/x1", None, 200).await;
    same_node(&first, &call_with(api, "PATCH", "/v1/nodes/x1", &key, patch, 200).await);
}

async fn a_drain_is_not_judged_again(served: &Served) {
    let api = &served.api;
    let drain = async |node: &str, key: &'static str, status: u16| {
        let path = format!("/v1/nodes/{node}/drain");
        call_with(api, "POST", &path, &[("idempotency-key", key)], None, status).await
    };
    // Four nodes hold three copies of everything: one may go, two may not.
    let first = drain("d4", "drain-d4", 200).await;
    let refused = drain("d3", "drain-d3", 422).await;
    call(api, "DELETE", "/v1/nodes/d4/drain", None, 200).await;
    let again = drain("d3", "drain-d3", 422).await;
    assert_eq!(refused.body["detail"], again.body["detail"]);
    drain("d3", "drain-d3-again", 200).await;
    drain("d4", "drain-d4-anew", 422).await;
    same_node(&first, &drain("d4", "drain-d4", 200).await);
    assert_eq!(call(api, "GET", "/v1/nodes/d4", None, 200).await.body["intent"], "schedulable");
    call(api, "DELETE", "/v1/nodes/d3/drain", None, 200).await;
}

async fn a_used_key_is_refused_on_every_write(served: &Served) {
    let api = &served.api;
    let key = [("idempotency-key", "used")];
    call_with(api, "POST", "/v1/rebalance/pause", &key, None, 200).await;
    let policy = call(api, "GET", "/v1/rebalance/policy", None, 200).await.body;
    let lost = json!({"incarnation": 1, "reports": [{"shard": 0, "epoch": 999, "lost": true}]});
    let before = served.revision().await;
    for (method, path, body) in [
        ("PUT", "/v1/nodes/d1", json!({"addr": "127.0.0.1:9", "store_id": "s"})),
        ("PATCH", "/v1/nodes/d1", json!({"labels": {"k": "v"}})),
        ("DELETE", "/v1/nodes/d1", json!({})),
        ("POST", "/v1/nodes/d1/drain", json!({})),
        ("POST", "/v1/nodes/d1/drain", json!({"dry_run": true})),
        ("DELETE", "/v1/nodes/d1/drain", json!({})),
        ("POST", "/v1/nodes/d1/maintenance", json!({"duration_ms": 1})),
        ("DELETE", "/v1/nodes/d1/maintenance", json!({})),
        ("POST", "/v1/nodes/d1/reports", lost.clone()),
        ("POST", "/v1/nodes/nobody/reports", lost),
        ("POST", "/v1/shards/0/force-primary", json!({"node": "d1", "accept_data_loss": true})),
        ("POST", "/v1/migrations", json!({"shard": 0, "to": "d1"})),
        ("DELETE", "/v1/migrations/1", json!({})),
        ("POST", "/v1/rebalance", json!({})),
        ("POST", "/v1/rebalance", json!({"dry_run": true})),
        ("PUT", "/v1/rebalance/policy", policy),
        ("POST", "/v1/rebalance/pause", json!({})),
        ("POST", "/v1/rebalance/resume", json!({})),
        ("POST", "/v1/members", json!({"id": "n9", "client_url": "http://a:1", "peer_url": "http://a:2"})),
        ("DELETE", "/v1/members/n9", json!({})),
        ("POST", "/v1/leader/transfer", json!({})),
    ] {
        let refused = call_with(api, method, path, &key, Some(body), 422).await;
        assert_eq!(refused.body["title"], "Idempotency-Key used for another request", "{method} {path}");
    }
    assert_eq!(served.revision().await, before);
}

/// Last, since it moves copies.
async fn a_rebalance_is_not_planned_again(served: &Served) {
    let api = &served.api;
    let whole = Some(json!({"dry_run": true, "strategy": "jump"}));
    let whole = call(api, "POST", "/v1/rebalance", whole, 200).await;
    let mut shards = BTreeSet::new();
    let mut startable = whole.body["moves"].as_array().unwrap().clone();
    assert!(startable.len() > 3, "{}", whole.body);
    startable.retain(|step| shards.insert(step["shard"].as_u64().unwrap()));
    startable.truncate(3);
    let key = [("idempotency-key", "rebalance-1")];
    let body = Some(json!({"strategy": "jump", "max_moves": 3}));
    let first = call_with(api, "POST", "/v1/rebalance", &key, body.clone(), 202).await;
    assert_eq!(first.body["moves"], Value::Array(startable.clone()));
    let listed = async || {
        let all = call(api, "GET", "/v1/migrations", None, 200).await;
        all.body["migrations"].as_array().unwrap().clone()
    };
    let queued = listed().await;
    for step in &startable {
        let is_its = |m: &&Value| ["shard", "kind", "from", "to", "reason"].iter().all(|f| m[*f] == step[*f]);
        assert!(queued.iter().any(|m| is_its(&m)), "{step} is not among {queued:?}");
    }
    same(&first, &call_with(api, "POST", "/v1/rebalance", &key, body, 202).await);
    assert_eq!(listed().await.len(), queued.len());
    // Without a key it is another request: of what is being moved nothing is moved again.
    let next = call(api, "POST", "/v1/rebalance", Some(json!({"strategy": "jump"})), 202).await;
    let next = next.body["moves"].as_array().unwrap();
    let moved: BTreeSet<u64> = next.iter().map(|step| step["shard"].as_u64().unwrap()).collect();
    assert_eq!(moved.len(), next.len(), "{next:?}");
    assert_eq!(listed().await.len(), queued.len() + next.len());
}
