//! Bad input gets the right problem, names what is wrong, and changes nothing.

use serde_json::{Value, json};

use crate::{Served, call, call_with};

/// What answers with a problem of this status to a raw body; answers the problem.
async fn refused(
    served: &Served,
    method: &str,
    path: &str,
    body: impl Into<reqwest::Body>,
    status: u16,
) -> Value {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let url = format!("{}{path}", served.api.base());
    let response = served.api.http().request(method.clone(), url).body(body).send().await.unwrap();
    let (got, kind) = (response.status().as_u16(), response.headers()["content-type"].clone());
    let text = response.text().await.unwrap();
    assert_eq!(got, status, "{method} {path}: {text}");
    assert_eq!(kind, "application/problem+json", "{method} {path}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// Endpoints with a body, and whether an operator types it, so that unknown fields are refused.
const WITH_BODY: &[(&str, &str, bool)] = &[
    ("PUT", "/v1/nodes/x1", false),
    ("PATCH", "/v1/nodes/d1", true),
    ("POST", "/v1/nodes/d1/heartbeat", false),
    ("POST", "/v1/nodes/d1/reports", false),
    ("POST", "/v1/nodes/d1/drain", true),
    ("POST", "/v1/nodes/d1/maintenance", true),
    ("POST", "/v1/shards/0/force-primary", true),
    ("POST", "/v1/route", true),
    ("POST", "/v1/migrations", true),
    ("POST", "/v1/rebalance", true),
    ("PUT", "/v1/rebalance/policy", true),
    ("POST", "/v1/rebalance/pause", true),
    ("POST", "/v1/members", true),
    ("POST", "/v1/leader/transfer", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_and_changes_nothing() {
    let served = Served::start().await;
    let before = served.revision().await;
    bad_bodies(&served).await;
    wrong_fields(&served).await;
    bad_ids(&served).await;
    large_bodies(&served).await;
    bad_queries_and_headers(&served).await;
    impossible_wishes(&served).await;
    assert_eq!(served.revision().await, before, "something was changed");
}

async fn bad_bodies(served: &Served) {
    for (method, path, typed) in WITH_BODY {
        for malformed in ["{", "nonsense", "[1", "{\"a\":}", "{} {}"] {
            let problem = refused(served, method, path, malformed, 400).await;
            assert_eq!(problem["code"], "malformed", "{method} {path} {malformed}: {problem}");
        }
        for wrong in ["[]", "7", "\"text\"", "null"] {
            refused(served, method, path, wrong, 400).await;
        }
        refused(served, method, path, vec![0xff, 0xfe, b'{'], 400).await;
        if *typed {
            let problem = refused(served, method, path, r#"{"colour": 1}"#, 400).await;
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("colour"), "{method} {path}: {detail}");
        }
    }
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    refused(served, "POST", "/v1/route", nested, 400).await;
}

async fn wrong_fields(served: &Served) {
    let cases = [
        ("PUT", "/v1/nodes/x1", json!({"addr": 1, "store_id": "s"}), "addr"),
        ("PUT", "/v1/nodes/x1", json!({"addr": "a:1"}), "store_id"),
        ("PUT", "/v1/nodes/x1", json!({"addr": "a:1", "store_id": "s", "capacity": 1.2345}), "capacity"),
        ("PUT", "/v1/nodes/x1", json!({"addr": "a:1", "store_id": "s", "labels": {"k": 1}}), "labels.k"),
        ("PATCH", "/v1/nodes/d1", json!({"capacity": -1}), "capacity"),
        (
            "POST",
            "/v1/nodes/d1/heartbeat",
            json!({"incarnation": "1", "installed_revision": 0}),
            "incarnation",
        ),
        (
            "POST",
            "/v1/nodes/d1/reports",
            json!({"incarnation": 1, "reports": [{"shard": -1}]}),
            "reports[0].shard",
        ),
        ("POST", "/v1/migrations", json!({"shard": "0", "to": "d1"}), "shard"),
        ("POST", "/v1/migrations", json!({"shard": 0, "to": "not an id"}), "to"),
        ("POST", "/v1/rebalance", json!({"strategy": "best"}), "strategy"),
        ("POST", "/v1/nodes/d1/drain", json!({"dry_run": 1}), "dry_run"),
    ];
    for (method, path, body, field) in cases {
        let answer = call(&served.api, method, path, Some(body.clone()), 400).await;
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("`{field}`")), "{method} {path} {body}: {detail}");
    }
}

async fn bad_ids(served: &Served) {
    let api = &served.api;
    let long = "x".repeat(65);
    for bad in ["a%20b", "%C3%A4", "a%2Fb", long.as_str()] {
        call(api, "GET", &format!("/v1/nodes/{bad}"), None, 400).await;
        call(api, "DELETE", &format!("/v1/nodes/{bad}/drain"), None, 400).await;
        call(api, "GET", &format!("/v1/shards?node={bad}"), None, 400).await;
        let register = json!({"addr": "a:1", "store_id": "s"});
        call(api, "PUT", &format!("/v1/nodes/{bad}"), Some(register), 400).await;
    }
    for bad in ["-1", "x", "1.5", "4294967296"] {
        call(api, "GET", &format!("/v1/shards/{bad}"), None, 400).await;
    }
    call(api, "GET", "/v1/migrations/x", None, 400).await;
    for (method, path, body) in [
        ("GET", "/v1/nodes/nobody", None),
        ("PATCH", "/v1/nodes/nobody", Some(json!({"rack": "r"}))),
        ("DELETE", "/v1/nodes/nobody", None),
        ("POST", "/v1/nodes/nobody/drain", None),
        ("DELETE", "/v1/nodes/nobody/drain", None),
        ("POST", "/v1/nodes/nobody/maintenance", Some(json!({"duration_ms": 1_000}))),
        ("GET", "/v1/nodes/nobody/assignments", None),
        ("POST", "/v1/nodes/nobody/heartbeat", Some(json!({"incarnation": 1, "installed_revision": 0}))),
        ("POST", "/v1/nodes/nobody/reports", Some(json!({"incarnation": 1, "reports": []}))),
        ("GET", "/v1/shards?node=nobody", None),
        ("GET", "/v1/shards/8", None),
        ("GET", "/v1/shards/4294967295", None),
        ("POST", "/v1/shards/8/force-primary", Some(json!({"node": "d1", "accept_data_loss": true}))),
        ("GET", "/v1/migrations/999999", None),
        ("DELETE", "/v1/migrations/999999", None),
        ("GET", "/v1/nothing", None),
        ("GET", "/", None),
    ] {
        let answer = call(api, method, path, body, 404).await;
        assert_eq!(answer.body["code"], "not_found", "{method} {path}");
    }
    call(api, "DELETE", "/v1/map", None, 405).await;
    let stale = json!({"incarnation": 999, "installed_revision": 0});
    let answer = call(api, "POST", "/v1/nodes/d1/heartbeat", Some(stale), 409).await;
    assert_eq!(answer.body["code"], "stale_incarnation");
}

async fn large_bodies(served: &Served) {
    let padded =
        |bytes: usize| format!("{}{}", " ".repeat(bytes), r#"{"incarnation": 999, "installed_revision": 0}"#);
    for (method, path, _) in WITH_BODY.iter().filter(|(_, path, _)| !is_of_data_nodes(path)) {
        let problem = refused(served, method, path, padded(1 << 20), 413).await;
        assert_eq!(problem["code"], "too_large", "{method} {path}");
    }
    // Read whole, and refused for what it says.
    refused(served, "POST", "/v1/nodes/d1/heartbeat", padded(2 << 20), 409).await;
    refused(served, "POST", "/v1/nodes/d1/heartbeat", padded(16 << 20), 413).await;
    refused(served, "POST", "/v1/nodes/d1/reports", padded(16 << 20), 413).await;
}

fn is_of_data_nodes(path: &str) -> bool {
    path.ends_with("/heartbeat") || path.ends_with("/reports")
}

async fn bad_queries_and_headers(served: &Served) {
    let api = &served.api;
    for path in [
        "/v1/nodes?limit=0",
        "/v1/nodes?limit=1001",
        "/v1/nodes?limit=x",
        "/v1/nodes?colour=1",
        "/v1/nodes?limit=1&limit=2",
        "/v1/nodes?consistency=strong",
        "/v1/nodes?cursor=a%20b",
        "/v1/shards?status=fine",
        "/v1/shards?cursor=x",
        "/v1/migrations?active=maybe",
        "/v1/migrations?shard=x",
        "/v1/events?cursor=7",
        "/v1/events?since=-1",
        "/v1/route",
        "/v1/map?from=1",
        "/v1/watch?from=x",
        "/v1/health?wait_for=luck",
        "/v1/nodes/d1/assignments?since=x",
        "/v1/nodes/d1/assignments?delta=2",
    ] {
        let answer = call(api, "GET", path, None, 400).await;
        assert_eq!(answer.body["code"], "malformed", "{path}");
    }
    let pause = "/v1/rebalance/pause";
    let long = "k".repeat(257);
    for headers in [[("idempotency-key", "")], [("idempotency-key", long.as_str())], [("if-match", "17")]] {
        call_with(api, "POST", pause, &headers, None, 400).await;
    }
}

async fn impossible_wishes(served: &Served) {
    let api = &served.api;
    let many = json!({"keys": vec!["k"; 10_001]});
    let label = json!({"labels": {"k": "v".repeat(257)}});
    for (method, path, body) in [
        ("POST", "/v1/migrations", json!({"shard": 0, "to": "nobody"})),
        ("POST", "/v1/shards/0/force-primary", json!({"node": "d1", "accept_data_loss": false})),
        ("POST", "/v1/route", many),
        ("PATCH", "/v1/nodes/d1", label),
        ("PUT", "/v1/nodes/x1", json!({"addr": "no port", "store_id": "s"})),
    ] {
        let answer = served.api.send(method, path, &[], Some(&body)).await.unwrap();
        assert!([404, 422].contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
        crate::check_problem(&answer, answer.status);
    }
    let policy = json!({"enabled": true});
    call(api, "PUT", "/v1/rebalance/policy", Some(policy), 400).await;
}
