//! Draining, as an operator meets it: what a dry run shows, what is refused and why, and that a drain ends.

use serde_json::{Value, json};

use crate::support::{DEADLINE, wait_for};
use crate::{Served, call, call_with};

#[tokio::test(flavor = "multi_thread")]
async fn drains_show_what_they_take_or_say_what_is_missing() {
    let served = Served::start().await;
    a_dry_run_shows_every_copy_leave_and_changes_nothing(&served).await;
    one_rack_is_enough(&served).await;
    a_drain_that_cannot_finish_names_who_could_help(&served).await;
    not_all_nodes_can_be_drained(&served).await;
    a_drain_ends_with_an_empty_node(&served).await;
}

fn dry_run() -> Option<Value> {
    Some(json!({"dry_run": true}))
}

async fn shards_of(served: &Served, node: &str) -> usize {
    let node = call(&served.api, "GET", &format!("/v1/nodes/{node}"), None, 200).await;
    node.body["shards"].as_array().unwrap().len()
}

async fn a_dry_run_shows_every_copy_leave_and_changes_nothing(served: &Served) {
    let before = served.revision().await;
    let held = shards_of(served, "d4").await;
    let plan = call(&served.api, "POST", "/v1/nodes/d4/drain", dry_run(), 200).await.body;
    let moves = plan["moves"].as_array().unwrap();
    let leaving = moves.iter().filter(|step| step["from"] == "d4" && step["kind"] == "move");
    assert_eq!(leaving.count(), held, "{plan}");
    assert!(moves.iter().all(|step| step["to"] != "d4"), "{plan}");
    assert!(plan["lower_bound_moves"].as_u64().unwrap() >= held as u64, "{plan}");
    assert_eq!(served.revision().await, before);
}

async fn one_rack_is_enough(served: &Served) {
    let api = &served.api;
    for node in ["d1", "d2", "d3", "d4"] {
        call(api, "PATCH", &format!("/v1/nodes/{node}"), Some(json!({"rack": "one"})), 200).await;
    }
    call(api, "POST", "/v1/nodes/d4/drain", dry_run(), 200).await;
    for (node, rack) in [("d1", "r1"), ("d2", "r2"), ("d3", "r3"), ("d4", "r4")] {
        call(api, "PATCH", &format!("/v1/nodes/{node}"), Some(json!({"rack": rack})), 200).await;
    }
}

async fn a_drain_that_cannot_finish_names_who_could_help(served: &Served) {
    let api = &served.api;
    // Nothing moves by itself here, so that d4 stays as it is.
    call(api, "POST", "/v1/nodes/d4/drain", None, 200).await;
    let before = served.revision().await;
    for body in [dry_run(), None] {
        let refused = call(api, "POST", "/v1/nodes/d3/drain", body, 422).await;
        assert_eq!(refused.body["code"], "invalid");
        let detail = refused.body["detail"].as_str().unwrap();
        for part in [
            "draining d3 could not finish",
            "are being emptied: d4",
            "have a copy already: d1",
            "what would stay is of shard ",
            "DELETE /v1/nodes/d4/drain",
            "add a data node",
        ] {
            assert!(detail.contains(part), "{part:?} is missing: {detail}");
        }
    }
    assert_eq!(served.revision().await, before, "a refusal changes nothing");
    assert_eq!(call(api, "GET", "/v1/nodes/d3", None, 200).await.body["intent"], "schedulable");
    call(api, "PATCH", "/v1/nodes/d4", Some(json!({"capacity": 0})), 200).await;
    call(api, "DELETE", "/v1/nodes/d4/drain", None, 200).await;
    let refused = call(api, "POST", "/v1/nodes/d3/drain", dry_run(), 422).await;
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("have capacity 0: d4") && detail.contains("PATCH /v1/nodes/d4"), "{detail}");
    call(api, "PATCH", "/v1/nodes/d4", Some(json!({"capacity": 1})), 200).await;
}

async fn not_all_nodes_can_be_drained(served: &Served) {
    let api = &served.api;
    let mut drained = Vec::new();
    for node in ["d1", "d2", "d3", "d4"] {
        let answer = api.send("POST", &format!("/v1/nodes/{node}/drain"), &[], None).await.unwrap();
        match answer.status {
            200 => drained.push(node),
            422 => {
                let detail = answer.body["detail"].as_str().unwrap();
                let emptied = format!("are being emptied: {}", drained.join(", "));
                assert!(detail.contains(&emptied), "{detail}");
            }
            other => panic!("{node}: {other} {}", answer.body),
        }
    }
    assert_eq!(drained, ["d1"], "three copies stay on three nodes");
    // Again is harmless.
    let again = call(api, "POST", "/v1/nodes/d1/drain", None, 200).await;
    assert_eq!(again.body["intent"], "draining");
    call(api, "DELETE", "/v1/nodes/d1/drain", None, 200).await;
}

async fn a_drain_ends_with_an_empty_node(served: &Served) {
    let api = &served.api;
    let tag = call(api, "GET", "/v1/nodes/d4", None, 200).await.header("etag").unwrap().to_owned();
    call_with(api, "POST", "/v1/nodes/d4/drain", &[("if-match", "\"1\"")], None, 412).await;
    call_with(api, "POST", "/v1/nodes/d4/drain", &[("if-match", &tag)], None, 200).await;
    call(api, "POST", "/v1/rebalance/resume", None, 200).await;
    wait_for("d4 to be empty", DEADLINE, async || {
        let node = api.get("/v1/nodes/d4").await?.body;
        if node["intent"] == "drained" && node["shards"] == json!([]) {
            Ok(())
        } else {
            Err(node.to_string())
        }
    })
    .await;
    let health = call(api, "GET", "/v1/health?wait_for=healthy&wait_ms=20000", None, 200).await;
    assert_eq!(health.body["shards"]["active"], 8, "{}", health.body);
    // What is drained already is drained, and goes.
    assert_eq!(call(api, "POST", "/v1/nodes/d4/drain", None, 200).await.body["intent"], "drained");
    call(api, "DELETE", "/v1/nodes/d4", None, 200).await;
    call(api, "GET", "/v1/nodes/d4", None, 404).await;
    call(api, "POST", "/v1/rebalance/pause", None, 200).await;
}
