//! "Why is this shard there, and why does it not move?", asked of the built binary.

use serde_json::{Value, json};

use crate::support::http::{Answer, Api};
use crate::support::{ControlCluster, DEADLINE, Options, ScriptedNode, wait_for};
use crate::{Served, call};

async fn explain(api: &Api, shard: u64) -> Value {
    call(api, "GET", &format!("/v1/shards/{shard}/explain"), None, 200).await.body
}

/// The item of a list that has this in that field.
fn item<'v>(told: &'v Value, list: &str, field: &str, is: &str) -> &'v Value {
    let items = told[list].as_array().unwrap_or_else(|| panic!("{list} is no list in {told}"));
    items.iter().find(|item| item[field] == is).unwrap_or_else(|| panic!("no {is} among {list} of {told}"))
}

fn assert_says(text: &Value, parts: &[&str]) {
    let text = text.as_str().unwrap_or_else(|| panic!("{text} is no text"));
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// A shard with a copy on `with`, and none on `without`.
async fn shard_on(api: &Api, with: &str, without: &str) -> u64 {
    let shards = call(api, "GET", &format!("/v1/shards?node={with}"), None, 200).await;
    let holds = |shard: &Value, node: &str| {
        shard["primary"] == node || shard["replicas"].as_array().unwrap().iter().any(|copy| copy == node)
    };
    let found = shards.body["shards"].as_array().unwrap().iter().find(|shard| !holds(shard, without));
    found.unwrap_or_else(|| panic!("none on {with} and not on {without}"))["id"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_can_answer_why_a_shard_is_where_it_is_and_why_it_does_not_move() {
    let served = Served::start().await;
    nothing_to_do(&served).await;
    a_paused_drain(&served).await;
    nodes_that_take_nothing(&served).await;
    a_rack_that_has_its_copy(&served).await;
    a_drain_without_a_way_out(&served).await;
    what_a_migration_brought(&served).await;
    bad_input(&served).await;
}

async fn nothing_to_do(served: &Served) {
    let told = explain(&served.api, 7).await;
    let mut fields: Vec<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let mut expected = [
        "shard",
        "epoch",
        "revision",
        "from_leader",
        "summary",
        "copies",
        "nodes",
        "pending",
        "next",
        "waits",
    ];
    expected.sort_unstable();
    assert_eq!(fields, expected);
    assert_eq!((&told["shard"], &told["from_leader"]), (&json!(7), &json!(true)));
    assert_eq!((&told["pending"], &told["next"], &told["waits"]), (&Value::Null, &json!([]), &json!([])));
    assert_says(
        &told["summary"],
        &["Shard 7 has 3 of 3 copies in sync and alive", "Nothing is planned for it"],
    );
    let roles: Vec<&Value> = told["copies"].as_array().unwrap().iter().map(|copy| &copy["role"]).collect();
    assert_eq!(roles, ["primary", "replica", "replica"]);
    for copy in told["copies"].as_array().unwrap() {
        assert_eq!((&copy["code"], &copy["in_sync"]), (&json!("even"), &json!(true)), "{copy}");
        assert_says(&copy["detail"], &["it holds 6 copies, and its share is 6: nothing to level"]);
        assert_says(&copy["origin"]["detail"], &["since the shard was assigned first"]);
    }
    let nodes: Vec<&Value> = told["nodes"].as_array().unwrap().iter().map(|node| &node["node"]).collect();
    assert_eq!(nodes, ["d1", "d2", "d3", "d4"]);
    let free = told["nodes"].as_array().unwrap().iter().find(|node| node["code"] != "holds_copy").unwrap();
    assert_eq!((&free["code"], &free["may_take"]), (&json!("enough_copies"), &json!(true)), "{free}");
    assert_eq!(free["in_place_of"].as_array().unwrap().len(), 3);
}

/// The cluster of these tests is paused.
async fn a_paused_drain(served: &Served) {
    let api = &served.api;
    let shard = shard_on(api, "d3", "d4").await;
    call(api, "POST", "/v1/nodes/d3/drain", None, 200).await;
    let told = explain(api, shard).await;
    assert_eq!(item(&told, "copies", "node", "d3")["code"], "moves_next");
    assert_says(
        &item(&told, "copies", "node", "d3")["detail"],
        &["the plan moves it to d4: its node is being drained"],
    );
    let step = item(&told, "next", "kind", "move");
    assert_eq!((&step["kind"], &step["from"], &step["to"]), (&json!("move"), &json!("d3"), &json!("d4")));
    assert_says(&item(&told, "waits", "code", "paused")["detail"], &["POST /v1/rebalance/resume"]);
    let d4 = item(&told, "nodes", "node", "d4");
    assert_eq!(
        (&d4["code"], &d4["may_take"], &d4["in_place_of"]),
        (&json!("takes_next"), &json!(true), &json!(["d3"]))
    );
    assert_says(
        &told["summary"],
        &["The plan moves a copy from d3 to d4", "What waits: automatic migrations are paused"],
    );
    call(api, "DELETE", "/v1/nodes/d3/drain", None, 200).await;
}

async fn nodes_that_take_nothing(served: &Served) {
    let api = &served.api;
    let shard = shard_on(api, "d3", "d4").await;
    for (path, body, code, says) in [
        ("drain", None, "draining", "d4 is being drained"),
        ("maintenance", Some(json!({"duration_ms": 600_000})), "away", "d4 is in maintenance until"),
    ] {
        call(api, "POST", &format!("/v1/nodes/d4/{path}"), body, 200).await;
        let told = explain(api, shard).await;
        let d4 = item(&told, "nodes", "node", "d4");
        assert_eq!((&d4["code"], &d4["may_take"]), (&json!(code), &json!(false)));
        assert_says(&d4["detail"], &[says]);
        call(api, "DELETE", &format!("/v1/nodes/d4/{path}"), None, 200).await;
    }
    call(api, "PATCH", "/v1/nodes/d4", Some(json!({"capacity": 0})), 200).await;
    let told = explain(api, shard).await;
    assert_eq!(item(&told, "nodes", "node", "d4")["code"], "no_capacity");
    call(api, "PATCH", "/v1/nodes/d4", Some(json!({"capacity": 1})), 200).await;
    a_full_node(served, shard).await;
}

/// A node that holds more of something than its watermark allows.
async fn a_full_node(served: &Served, shard: u64) {
    let api = &served.api;
    let body = json!({"addr": "x.invalid:1", "store_id": "s-full", "rack": "r5", "capacity_bytes": 1_000});
    let run = call(api, "PUT", "/v1/nodes/full", Some(body), 200).await.body["incarnation"].clone();
    let other = (shard + 1) % 8;
    let held = |bytes: u64| {
        json!({"incarnation": run, "installed_revision": 0, "partial": false,
            "shards": [{"id": other, "epoch": 0, "position": 0, "size_bytes": bytes, "vectors": 1,
                "reads_per_s": 0, "writes_per_s": 0}]})
    };
    let told = wait_for("the full node to be so", DEADLINE, async || {
        call(api, "POST", "/v1/nodes/full/heartbeat", Some(held(950)), 200).await;
        let told = explain(api, shard).await;
        if item(&told, "nodes", "node", "full")["code"] == "full" { Ok(told) } else { Err(told.to_string()) }
    })
    .await;
    let full = item(&told, "nodes", "node", "full");
    assert_eq!(full["may_take"], false);
    assert_says(&full["detail"], &["full holds 950 of its 1000 bytes", "disk_watermark"]);
    wait_for("the full node to go", DEADLINE, async || {
        let retired =
            json!({"incarnation": run, "reports": [{"shard": other, "epoch": 999, "retired": true}]});
        call(api, "POST", "/v1/nodes/full/reports", Some(retired), 200).await;
        let gone = api.send("DELETE", "/v1/nodes/full", &[], None).await?;
        if gone.status == 200 { Ok(()) } else { Err(gone.body.to_string()) }
    })
    .await;
}

async fn a_rack_that_has_its_copy(served: &Served) {
    let api = &served.api;
    let shard = shard_on(api, "d3", "d4").await;
    call(api, "PATCH", "/v1/nodes/d4", Some(json!({"rack": "r3"})), 200).await;
    let told = explain(api, shard).await;
    let d4 = item(&told, "nodes", "node", "d4");
    assert_eq!(d4["in_place_of"], json!(["d3"]), "{d4}");
    if d4["code"] != "takes_next" {
        assert_says(
            &d4["detail"],
            &["no copy but that of d3", "rack r3 has the 1 copy that it may have, on d3"],
        );
    }
    call(api, "POST", "/v1/nodes/d3/maintenance", Some(json!({"duration_ms": 600_000})), 200).await;
    let told = explain(api, shard).await;
    let d4 = item(&told, "nodes", "node", "d4");
    assert_eq!((&d4["code"], &d4["may_take"]), (&json!("rack_taken"), &json!(false)), "{d4}");
    assert_says(&d4["detail"], &["rack r3 has the 1 copy that it may have, on d3"]);
    call(api, "DELETE", "/v1/nodes/d3/maintenance", None, 200).await;
    call(api, "PATCH", "/v1/nodes/d4", Some(json!({"rack": "r4"})), 200).await;
}

async fn a_drain_without_a_way_out(served: &Served) {
    let api = &served.api;
    let shard = shard_on(api, "d3", "d4").await;
    call(api, "PATCH", "/v1/nodes/d4", Some(json!({"capacity": 0})), 200).await;
    call(api, "POST", "/v1/nodes/d4/maintenance", Some(json!({"duration_ms": 600_000})), 200).await;
    let refused = call(api, "POST", "/v1/nodes/d3/drain", None, 422).await;
    assert_says(&refused.body["detail"], &["have nowhere to go", "what helps: DELETE /v1/nodes/"]);
    // What a dry run says of the whole cluster: nothing is infeasible as it is, and figures go with it.
    let plan = call(api, "POST", "/v1/rebalance", Some(json!({"dry_run": true})), 200).await.body;
    assert_eq!((&plan["infeasible"], &plan["lower_bound_moves"]), (&json!([]), &json!(0)), "{plan}");
    assert_eq!(plan["before"]["max_copies"], 6, "{plan}");
    call(api, "DELETE", "/v1/nodes/d4/maintenance", None, 200).await;
    // One drain after another: the second finds no way out once the first has taken the last node.
    call(api, "PATCH", "/v1/nodes/d4", Some(json!({"capacity": 1})), 200).await;
    call(api, "POST", "/v1/nodes/d3/drain", None, 200).await;
    call(api, "PATCH", "/v1/nodes/d4", Some(json!({"capacity": 0})), 200).await;
    let told = explain(api, shard).await;
    let d3 = item(&told, "copies", "node", "d3");
    assert_eq!(d3["code"], "stuck", "{d3}");
    let says =
        ["d3 is being drained", "3 copies are wanted, and 2 of 4 nodes can hold one", "d4 has capacity 0"];
    assert_says(&d3["detail"], &says);
    assert_says(&item(&told, "waits", "code", "too_few_nodes")["detail"], &says);
    let plan = call(api, "POST", "/v1/rebalance", Some(json!({"dry_run": true})), 200).await.body;
    let stuck = item(&plan, "infeasible", "code", "too_few_nodes");
    assert_says(&stuck["detail"], &["d3 is being drained", "d4 has capacity 0"]);
    call(api, "PATCH", "/v1/nodes/d4", Some(json!({"capacity": 1})), 200).await;
    let plan = call(api, "POST", "/v1/rebalance", Some(json!({"dry_run": true})), 200).await.body;
    assert_eq!(plan["infeasible"], json!([]));
    assert_eq!(plan["moves"].as_array().unwrap().iter().filter(|step| step["kind"] == "move").count(), 6);
    assert_eq!(plan["lower_bound_moves"], 6);
    assert_says(&plan["moves"][0]["reason"], &["its node is being drained"]);
    assert_eq!(
        (&plan["before"]["max_copies"], &plan["after"]["max_copies"]),
        (&json!(6), &json!(8)),
        "{plan}"
    );
    call(api, "DELETE", "/v1/nodes/d3/drain", None, 200).await;
}

async fn what_a_migration_brought(served: &Served) {
    let api = &served.api;
    let shard = shard_on(api, "d3", "d4").await;
    let body = json!({"shard": shard, "from": "d3", "to": "d4"});
    let id = call(api, "POST", "/v1/migrations", Some(body), 202).await.body["id"].clone();
    let told = explain(api, shard).await;
    if told["pending"]["id"] == id {
        assert_eq!((&told["pending"]["from"], &told["pending"]["to"]), (&json!("d3"), &json!("d4")));
        assert_eq!(item(&told, "copies", "node", "d3")["code"], "moving");
        assert_says(&told["summary"], &["moves a copy from d3 to d4: asked for by an operator."]);
    }
    let ended = call(api, "GET", &format!("/v1/migrations/{id}?wait_ms=20000"), None, 200).await;
    assert_eq!(ended.body["phase"], "done", "{}", ended.body);
    let told = explain(api, shard).await;
    let origin = &item(&told, "copies", "node", "d4")["origin"];
    assert_eq!(origin["migration"], id);
    assert_says(&origin["detail"], &["brought it from d3 at ", "asked for by an operator"]);
}

async fn bad_input(served: &Served) {
    let api = &served.api;
    let unknown = call(api, "GET", "/v1/shards/8/explain", None, 404).await;
    assert_says(&unknown.body["detail"], &["shard 8: there are 8, from 0"]);
    for bad in ["-1", "x", "1.5", "4294967296"] {
        let answer = call(api, "GET", &format!("/v1/shards/{bad}/explain"), None, 400).await;
        assert_says(&answer.body["detail"], &["a shard is an integer from 0"]);
    }
    let answer = call(api, "GET", "/v1/shards/0/explain?colour=1", None, 400).await;
    assert_says(&answer.body["detail"], &["`colour`"]);
    call(api, "GET", "/v1/shards/0/explain?consistency=strong", None, 400).await;
    call(api, "POST", "/v1/shards/0/explain", None, 405).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_control_node_explains_and_a_stale_answer_says_what_it_does_not_know() {
    let cluster = ControlCluster::start_with(Options::default().shards(4)).await;
    let mut nodes = Vec::new();
    for (name, rack) in [("d1", "r1"), ("d2", "r2"), ("d3", "r3")] {
        nodes.push(ScriptedNode::start(&cluster, name, Some(rack)).await);
    }
    cluster.wait_for_healthy(3).await;
    let ask = async |node: usize, query: &str| -> Answer {
        cluster.api(node).get(&format!("/v1/shards/0/explain{query}")).await.unwrap()
    };
    let leader = cluster.wait_for_leader().await;
    for node in 0..cluster.len() {
        let told = wait_for("an answer with what the leader heard", DEADLINE, async || {
            let answer = ask(node, "").await;
            if answer.status == 200 { Ok(answer.body) } else { Err(answer.body.to_string()) }
        })
        .await;
        assert_eq!(told["from_leader"], true, "{told}");
        assert_eq!(told["copies"].as_array().unwrap().len(), 3);
    }
    let follower = (0..cluster.len()).find(|node| *node != leader).unwrap();
    let stale = ask(follower, "?consistency=stale").await;
    assert_eq!(stale.status, 200, "{}", stale.body);
    assert!(stale.number("x-cluster-revision").is_some());
    // Where the leadership went over meanwhile, it knows.
    if cluster.leader().await == Ok(leader) {
        assert_eq!(stale.body["from_leader"], false, "{}", stale.body);
        assert_says(&stale.body["summary"], &["This control node does not lead"]);
    }
}
