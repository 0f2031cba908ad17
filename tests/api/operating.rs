//! What operators set: nodes' capacity, place and labels, maintenance, the policy, pausing. With good and with bad input, each
//! refusal naming the field and what to do.

use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::{Served, call, call_with, check_problem};

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_set_takes_effect_or_is_refused_by_name() {
    let served = Served::start().await;
    let before = served.revision().await;
    bad_nodes(&served).await;
    bad_maintenance(&served).await;
    bad_policies(&served).await;
    bad_rebalances(&served).await;
    assert_eq!(served.revision().await, before, "something was changed");
    nodes_change_while_they_run(&served).await;
    maintenance_begins_and_ends(&served).await;
    policies_are_set_whole_and_with_if_match(&served).await;
    pausing_repeats_harmlessly(&served).await;
}

/// A raw body that is refused; answers the detail.
async fn refused(served: &Served, method: &str, path: &str, body: &str, statuses: &[u16]) -> String {
    let url = format!("{}{path}", served.api.base());
    let verb = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let response = served.api.http().request(verb, url).body(body.to_owned()).send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let answer = Answer { status, headers, body: response.json().await.unwrap() };
    assert!(statuses.contains(&status), "{method} {path} {body}: {status} {}", answer.body);
    check_problem(&answer, status);
    answer.body["detail"].as_str().unwrap().to_owned()
}

fn assert_names(detail: &str, field: &str, of: &str) {
    assert!(detail.contains(&format!("`{field}`")), "{of}: `{field}` is not named: {detail}");
}

async fn bad_nodes(served: &Served) {
    let long = "x".repeat(65);
    let value = "v".repeat(257);
    let many: serde_json::Map<String, Value> = (0..65).map(|n| (format!("k{n}"), json!("v"))).collect();
    let fields = [
        ("capacity", "-1".to_owned()),
        ("capacity", "-0.001".to_owned()),
        ("capacity", "NaN".to_owned()),
        ("capacity", "\"NaN\"".to_owned()),
        ("capacity", "Infinity".to_owned()),
        ("capacity", "1e12".to_owned()),
        ("capacity", "1e400".to_owned()),
        ("capacity", "99999999999999999999999".to_owned()),
        ("capacity", "0.0001".to_owned()),
        ("capacity", "[1]".to_owned()),
        ("zone", "7".to_owned()),
        ("zone", format!("\"{long}\"")),
        ("zone", "\"a\\nb\"".to_owned()),
        ("rack", "{}".to_owned()),
        ("rack", format!("\"{long}\"")),
        ("rack", "\"\\u0000\"".to_owned()),
        ("labels", "[]".to_owned()),
        ("labels.k", "{\"k\": 1}".to_owned()),
        ("labels", "{\"\": \"v\"}".to_owned()),
        ("labels", format!("{{\"{long}\": \"v\"}}")),
        ("labels.k", format!("{{\"k\": \"{value}\"}}")),
        ("labels.k", "{\"k\": \"a\\tb\"}".to_owned()),
        ("labels", Value::from(many).to_string()),
    ];
    for (field, value) in &fields {
        let name = field.split('.').next().unwrap();
        for (method, path, rest) in [
            ("PATCH", "/v1/nodes/d1", ""),
            ("PUT", "/v1/nodes/x1", "\"addr\": \"a:1\", \"store_id\": \"s\", "),
        ] {
            let body = format!("{{{rest}\"{name}\": {value}}}");
            let detail = refused(served, method, path, &body, &[400, 422]).await;
            assert_names(&detail, field, &format!("{method} {body}"));
        }
    }
    for value in ["-1", "1.5", "\"1\"", "1e30"] {
        let body = format!("{{\"addr\": \"a:1\", \"store_id\": \"s\", \"capacity_bytes\": {value}}}");
        let detail = refused(served, "PUT", "/v1/nodes/x1", &body, &[400]).await;
        assert_names(&detail, "capacity_bytes", &body);
    }
    let kept = call(&served.api, "DELETE", "/v1/nodes/d1", None, 409).await;
    assert_eq!(kept.body["code"], "holds_shards");
    assert!(kept.body["detail"].as_str().unwrap().contains("drain it"), "{}", kept.body);
    // What only registering sets is no field of a PATCH.
    for field in ["capacity_bytes", "addr", "store_id", "intent"] {
        let detail = refused(served, "PATCH", "/v1/nodes/d1", &format!("{{\"{field}\": 1}}"), &[400]).await;
        assert_names(&detail, field, "PATCH");
        assert_names(&detail, "capacity", "what is known is listed");
    }
}

async fn bad_maintenance(served: &Served) {
    let path = "/v1/nodes/d1/maintenance";
    for (body, statuses) in [
        ("{\"duration_ms\": 0}", [422]),
        ("{\"duration_ms\": 2592000001}", [422]),
        ("{\"duration_ms\": 18446744073709551615}", [422]),
        ("{\"duration_ms\": 18446744073709551616}", [400]),
        ("{\"duration_ms\": -1}", [400]),
        ("{\"duration_ms\": 1.5}", [400]),
        ("{\"duration_ms\": \"1h\"}", [400]),
        ("{}", [400]),
    ] {
        let detail = refused(served, "POST", path, body, &statuses).await;
        assert_names(&detail, "duration_ms", body);
    }
    let detail = refused(served, "POST", path, "{\"duration_ms\": 0}", &[422]).await;
    assert!(detail.contains("DELETE"), "the remedy is missing: {detail}");
    let detail = refused(served, "POST", path, "{\"duration_ms\": 1, \"until\": 1}", &[400]).await;
    assert_names(&detail, "until", "an unknown field");
    let detail = refused(served, "POST", "/v1/nodes/d1/drain", "{\"force\": true}", &[400]).await;
    assert_names(&detail, "force", "an unknown field");
}

/// The policy as it is, with one field changed.
async fn changed(served: &Served, field: &str, value: Value) -> Value {
    let mut policy = call(&served.api, "GET", "/v1/rebalance/policy", None, 200).await.body;
    policy[field] = value;
    policy
}

async fn bad_policies(served: &Served) {
    let path = "/v1/rebalance/policy";
    for (field, value, statuses) in [
        ("max_migrations", json!(0), [422]),
        ("max_migrations", json!(100_001), [422]),
        ("max_migrations", json!(-1), [400]),
        ("max_migrations", json!(4_294_967_296_u64), [400]),
        ("max_in_per_node", json!(0), [422]),
        ("max_out_per_node", json!(0), [422]),
        ("max_out_per_node", json!("2"), [400]),
        ("max_bytes_per_s", json!(-1), [400]),
        ("max_bytes_per_s", json!(0.5), [400]),
        ("start_imbalance", json!(0.9), [422]),
        ("start_imbalance", json!(2.001), [422]),
        ("start_imbalance", json!(-1), [400]),
        ("stop_imbalance", json!(0), [422]),
        ("stop_imbalance", json!(1.5), [422]),
        ("stop_imbalance", json!(1.0001), [400]),
        ("down_grace_ms", json!(-1), [400]),
        ("phase_timeout_ms", json!(0), [422]),
        ("mass_failure_share", json!(1.001), [422]),
        ("mass_failure_share", json!(-0.1), [400]),
        ("mass_failure_hold_ms", json!("5m"), [400]),
        ("hot_factor", json!(0.999), [422]),
        ("disk_watermark", json!(1.1), [422]),
        ("disk_watermark", json!(0), [422]),
        ("strategy", json!("best"), [400]),
        ("strategy", json!(1), [400]),
        ("enabled", json!("yes"), [400]),
        ("enabled", Value::Null, [400]),
        ("colour", json!(1), [400]),
    ] {
        let policy = changed(served, field, value).await;
        let detail = refused(served, "PUT", path, &policy.to_string(), &statuses).await;
        assert_names(&detail, field, &policy.to_string());
    }
    // A stop above its start names both, with their values.
    let mut policy = changed(served, "start_imbalance", json!(1.05)).await;
    policy["stop_imbalance"] = json!(1.2);
    let detail = refused(served, "PUT", path, &policy.to_string(), &[422]).await;
    assert!(detail.contains("1.200") && detail.contains("start_imbalance, 1.050"), "{detail}");
    let detail =
        refused(served, "PUT", path, &changed(served, "max_migrations", json!(0)).await.to_string(), &[422])
            .await;
    assert!(detail.contains("/v1/rebalance/pause"), "the remedy is missing: {detail}");
    let detail =
        refused(served, "PUT", path, &changed(served, "strategy", json!("best")).await.to_string(), &[400])
            .await;
    assert!(detail.contains("balanced") && detail.contains("ketama") && detail.contains("jump"), "{detail}");
    // A policy is set whole.
    let mut policy = changed(served, "enabled", json!(true)).await;
    policy.as_object_mut().unwrap().remove("down_grace_ms");
    let detail = refused(served, "PUT", path, &policy.to_string(), &[400]).await;
    assert_names(&detail, "down_grace_ms", "a field that is missing");
}

async fn bad_rebalances(served: &Served) {
    for (body, field) in [
        ("{\"max_moves\": -1}", "max_moves"),
        ("{\"max_moves\": 1.5}", "max_moves"),
        ("{\"dry_run\": \"yes\"}", "dry_run"),
        ("{\"strategy\": \"BALANCED\"}", "strategy"),
        ("{\"dry_run\": true, \"moves\": 1}", "moves"),
    ] {
        let detail = refused(served, "POST", "/v1/rebalance", body, &[400]).await;
        assert_names(&detail, field, body);
    }
    for path in ["/v1/rebalance/pause", "/v1/rebalance/resume"] {
        let detail = refused(served, "POST", path, "{\"for_ms\": 1}", &[400]).await;
        assert_names(&detail, "for_ms", path);
    }
}

async fn nodes_change_while_they_run(served: &Served) {
    let api = &served.api;
    let path = "/v1/nodes/d1";
    let tag = call(api, "GET", path, None, 200).await.header("etag").unwrap().to_owned();
    let heavier = Some(json!({"capacity": 2.5, "labels": {"disk": "nvme"}}));
    let patched = call_with(api, "PATCH", path, &[("if-match", &tag)], heavier, 200).await;
    assert_eq!(patched.body["capacity"], json!(2.5));
    assert_eq!(patched.body["labels"], json!({"disk": "nvme"}));
    assert_ne!(patched.header("etag"), Some(tag.as_str()));
    let lighter = Some(json!({"capacity": 1}));
    let stale = call_with(api, "PATCH", path, &[("if-match", &tag)], lighter.clone(), 412).await;
    let detail = stale.body["detail"].as_str().unwrap();
    assert!(detail.contains("If-Match") && detail.contains("again"), "{detail}");
    // What is absent stays; the node goes on serving.
    let patched = call(api, "PATCH", path, Some(json!({"zone": "z1"})), 200).await;
    assert_eq!((&patched.body["zone"], &patched.body["capacity"]), (&json!("z1"), &json!(2.5)));
    assert_eq!(patched.body["rack"], "r1");
    let patched = call(api, "PATCH", path, Some(json!({"zone": "", "labels": {}})), 200).await;
    assert_eq!((&patched.body["zone"], &patched.body["labels"]), (&Value::Null, &json!({})));
    assert_eq!(patched.body["status"], "alive");
    // Without capacity it is to hold nothing; with a huge one, all that the rules allow.
    for (capacity, most) in [(json!(0), false), (json!(999_999_999_999.999), true), (json!(0.001), false)] {
        call(api, "PATCH", path, Some(json!({"capacity": capacity})), 200).await;
        let plan = call(api, "POST", "/v1/rebalance", Some(json!({"dry_run": true})), 200).await.body;
        let ends = |end: &str| {
            let moves = plan["moves"].as_array().unwrap();
            moves.iter().any(|step| step["kind"] != "promote" && step[end] == "d1")
        };
        assert_eq!(ends("from"), !most && ends("from"), "{capacity}: {plan}");
        assert!(!ends("to") || most, "a node of capacity {capacity} is to take copies: {plan}");
        if capacity == json!(0) {
            assert!(ends("from"), "a node without capacity keeps its copies: {plan}");
        }
    }
    call(api, "PATCH", path, lighter, 200).await;
}

async fn maintenance_begins_and_ends(served: &Served) {
    let api = &served.api;
    let path = "/v1/nodes/d2/maintenance";
    let tag = call(api, "GET", "/v1/nodes/d2", None, 200).await.header("etag").unwrap().to_owned();
    let hour = Some(json!({"duration_ms": 3_600_000}));
    let away = call_with(api, "POST", path, &[("if-match", &tag)], hour.clone(), 200).await;
    assert_eq!(away.body["intent"], "maintenance");
    call_with(api, "POST", path, &[("if-match", &tag)], hour, 412).await;
    let longest = Some(json!({"duration_ms": 2_592_000_000_u64}));
    assert_eq!(call(api, "POST", path, longest, 200).await.body["intent"], "maintenance");
    for _ in 0..2 {
        assert_eq!(call(api, "DELETE", path, None, 200).await.body["intent"], "schedulable");
    }
    // The end of a drain ends no maintenance.
    call(api, "POST", path, Some(json!({"duration_ms": 60_000})), 200).await;
    let still = call(api, "DELETE", "/v1/nodes/d2/drain", None, 200).await;
    assert_eq!(still.body["intent"], "maintenance");
    call(api, "DELETE", path, None, 200).await;
}

async fn policies_are_set_whole_and_with_if_match(served: &Served) {
    let api = &served.api;
    let path = "/v1/rebalance/policy";
    let answer = call(api, "GET", path, None, 200).await;
    let (tag, first) = (answer.header("etag").unwrap().to_owned(), answer.body);
    let throttled = changed(served, "max_bytes_per_s", json!(50_000_000)).await;
    let set = call_with(api, "PUT", path, &[("if-match", &tag)], Some(throttled.clone()), 200).await;
    assert_eq!(set.body, throttled);
    let new_tag = set.header("etag").unwrap().to_owned();
    assert_ne!(new_tag, tag);
    let stale = call_with(api, "PUT", path, &[("if-match", &tag)], Some(first.clone()), 412).await;
    assert!(stale.body["detail"].as_str().unwrap().contains("If-Match"), "{}", stale.body);
    assert_eq!(call(api, "GET", path, None, 200).await.body, throttled);
    for malformed in ["17", "\"x\"", "W/\"1\"", "\"1\", \"2\""] {
        let answer = call_with(api, "PUT", path, &[("if-match", malformed)], Some(first.clone()), 400).await;
        assert!(answer.body["detail"].as_str().unwrap().contains("If-Match"), "{malformed}: {}", answer.body);
    }
    // The widest values that are allowed.
    let mut widest = first.clone();
    for (field, value) in [
        ("max_migrations", json!(100_000)),
        ("max_bytes_per_s", json!(u64::MAX)),
        ("down_grace_ms", json!(u64::MAX)),
        ("start_imbalance", json!(2)),
        ("stop_imbalance", json!(2)),
        ("mass_failure_share", json!(0)),
        ("mass_failure_hold_ms", json!(u64::MAX)),
        ("disk_watermark", json!(1)),
    ] {
        widest[field] = value;
    }
    call_with(api, "PUT", path, &[("if-match", &new_tag)], Some(widest), 200).await;
    call(api, "POST", "/v1/rebalance", Some(json!({"dry_run": true})), 200).await;
    call(api, "PUT", path, Some(first), 200).await;
}

async fn pausing_repeats_harmlessly(served: &Served) {
    let api = &served.api;
    for (path, paused) in [("resume", false), ("resume", false), ("pause", true), ("pause", true)] {
        let answer = call(api, "POST", &format!("/v1/rebalance/{path}"), None, 200).await;
        assert_eq!(answer.body["paused"], paused);
    }
}
