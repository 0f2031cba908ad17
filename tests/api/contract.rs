//! Calls each endpoint of API.md that is built, and fails if a field that it names is missing.

use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::{DEADLINE, wait_for};
use crate::{Served, call, call_with};

const NODE: &str = "id addr store_id zone rack labels capacity capacity_bytes status intent incarnation shards \
    primaries size_bytes last_heartbeat revision";
const SHARD: &str =
    "id epoch primary replicas learners in_sync in_sync_version status size_bytes vectors revision";
const MIGRATION: &str = "id shard kind from to epoch phase reason bytes_done bytes_total eta_ms error created_at \
    updated_at revision";
const PLAN: &str = "base_revision moves before after lower_bound_moves infeasible";
const BALANCE: &str = "imbalance max_copies min_copies";
const MEMBER: &str = "id raft_id role client_url peer_url matched last_contact_ms";
const POLICY: &str = "enabled max_migrations max_in_per_node max_out_per_node max_bytes_per_s start_imbalance \
    stop_imbalance down_grace_ms phase_timeout_ms mass_failure_share mass_failure_hold_ms hot_factor disk_watermark \
    strategy";

/// Every one of `fields`, separated by spaces, stands in what `path` leads to: `a.b`, and `a[]` for each of a list that
/// is not empty.
fn has(answer: &Answer, path: &str, fields: &str) {
    let mut values = vec![&answer.body];
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let (name, each) = match step.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (step, false),
        };
        let mut next = Vec::new();
        for value in values {
            let found = value.get(name).unwrap_or_else(|| panic!("{name} of {path} is missing in {value}"));
            if each {
                let items = found.as_array().unwrap_or_else(|| panic!("{name} is no list in {value}"));
                assert!(!items.is_empty(), "{name} of {path} is empty, so that nothing is checked");
                next.extend(items);
            } else {
                next.push(found);
            }
        }
        values = next;
    }
    for value in values {
        let object = value.as_object().unwrap_or_else(|| panic!("{path} is no object in {}", answer.body));
        for field in fields.split_whitespace() {
            assert!(object.contains_key(field), "field {field} is missing at {path:?} in {value}");
        }
    }
}

async fn get(served: &Served, path: &str) -> Answer {
    call(&served.api, "GET", path, None, 200).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_the_contract_is_there() {
    let served = Served::start().await;
    data_nodes(&served).await;
    shards(&served).await;
    migrations(&served).await;
    rebalancing(&served).await;
    control_cluster(&served).await;
    force_primary(&served).await;
}

async fn data_nodes(served: &Served) {
    let api = &served.api;
    let body = json!({
        "addr": "127.0.0.1:9", "store_id": "s-x1", "zone": "z", "rack": "r9", "labels": {"k": "v"},
        "capacity": 0.5, "capacity_bytes": 1_000_000, "accept_data_loss": false,
    });
    let registered = call(api, "PUT", "/v1/nodes/x1", Some(body), 200).await;
    has(
        &registered,
        "",
        "node incarnation lease_ms heartbeat_interval_ms generation revision assigned_revision",
    );
    has(&registered, "node", NODE);
    let run = registered.body["incarnation"].clone();

    let beat = json!({
        "incarnation": run, "installed_revision": 0, "partial": false, "disk_free_bytes": 5, "newer_field": 1,
        "shards": [{"id": 0, "epoch": 0, "position": 0, "size_bytes": 1, "vectors": 1, "reads_per_s": 0.5,
            "writes_per_s": 0.25, "newer_field": 1}],
    });
    let beaten = call(api, "POST", "/v1/nodes/x1/heartbeat", Some(beat), 200).await;
    has(&beaten, "", "lease_ms assigned_revision generation revision want_all");

    let report = json!({"shard": 0, "epoch": 999, "lost": true, "newer_field": 1});
    let reports = json!({"incarnation": run, "reports": [report]});
    let reported = call(api, "POST", "/v1/nodes/x1/reports", Some(reports), 200).await;
    has(&reported, "", "revision results");
    has(&reported, "results[]", "accepted code");
    assert_eq!(reported.body["results"][0], json!({"accepted": false, "code": "stale_epoch"}));

    let assigned = get(served, "/v1/nodes/d1/assignments?since=0&wait_ms=0").await;
    has(&assigned, "", "generation revision node incarnation full assignments removed");
    has(&assigned, "assignments[]", "shard epoch founding role in_sync_version in_sync copies migration");
    has(&assigned, "assignments[].copies[]", "node addr incarnation role down");

    let nodes = get(served, "/v1/nodes").await;
    has(&nodes, "", "nodes next_cursor");
    has(&nodes, "nodes[]", NODE);
    let node = get(served, "/v1/nodes/d1").await;
    has(&node, "", NODE);
    assert!(node.header("etag").is_some());
    assert!(node.body["last_heartbeat"].is_string() && node.body["size_bytes"].is_number(), "{}", node.body);

    let patched = call(api, "PATCH", "/v1/nodes/x1", Some(json!({"zone": "z2", "capacity": 1.5})), 200).await;
    has(&patched, "", NODE);
    assert_eq!((&patched.body["zone"], &patched.body["capacity"]), (&json!("z2"), &json!(1.5)));
    let dry = call(api, "POST", "/v1/nodes/x1/drain", Some(json!({"dry_run": true})), 200).await;
    has(&dry, "", PLAN);
    let drained = call(api, "POST", "/v1/nodes/x1/drain", None, 200).await;
    assert!(["draining", "drained"].contains(&drained.body["intent"].as_str().unwrap()), "{}", drained.body);
    has(&call(api, "DELETE", "/v1/nodes/x1/drain", None, 200).await, "", NODE);
    let away = call(api, "POST", "/v1/nodes/x1/maintenance", Some(json!({"duration_ms": 60_000})), 200).await;
    assert_eq!(away.body["intent"], "maintenance");
    let back = call(api, "DELETE", "/v1/nodes/x1/maintenance", None, 200).await;
    assert_eq!(back.body["intent"], "schedulable");
    assert_eq!(call(api, "DELETE", "/v1/nodes/d1", None, 409).await.body["code"], "holds_shards");
    // The copy that its heartbeat listed is nobody's: it is to be deleted, and is in the way until it is.
    wait_for("x1 to go", DEADLINE, async || {
        let retired = json!({"shard": 0, "epoch": 999, "retired": true});
        let reports = json!({"incarnation": run, "reports": [retired]});
        call(api, "POST", "/v1/nodes/x1/reports", Some(reports), 200).await;
        let gone = api.send("DELETE", "/v1/nodes/x1", &[], None).await?;
        if gone.status == 200 { Ok(()) } else { Err(gone.body.to_string()) }
    })
    .await;
    call(api, "GET", "/v1/nodes/x1", None, 404).await;
}

async fn shards(served: &Served) {
    let shards = get(served, "/v1/shards?node=d1&status=active").await;
    has(&shards, "", "shards next_cursor");
    has(&shards, "shards[]", SHARD);
    let shard = get(served, "/v1/shards/0").await;
    has(&shard, "", SHARD);
    assert!(shard.header("etag").is_some());

    let route = get(served, "/v1/route?key=vector-123").await;
    has(&route, "", "key shard epoch primary replicas generation revision");
    has(&route, "primary", "id addr");
    has(&route, "replicas[]", "id addr");
    let keys = Some(json!({"keys": ["a", "b"]}));
    let routes = call(&served.api, "POST", "/v1/route", keys, 200).await;
    has(&routes, "", "revision routes");
    has(&routes, "routes[]", "key shard epoch primary replicas generation revision");

    let map = get(served, "/v1/map").await;
    has(
        &map,
        "",
        "generation revision cluster_id key_hash shard_hash num_shards replication_factor nodes shards",
    );
    has(&map, "nodes.d1", "addr zone rack status");
    has(&map, "shards[]", "epoch primary replicas in_sync");
    assert_eq!((&map.body["key_hash"], &map.body["shard_hash"]), (&json!("xxh64"), &json!("jump")));
    assert!(map.header("etag").is_some());
}

/// A shard with one of its replicas, and a node without a copy of it.
pub(crate) async fn shard_and_ends(served: &Served) -> (u64, String, String, String) {
    let shards = get(served, "/v1/shards?status=active").await;
    let shard = &shards.body["shards"][0];
    let (primary, replica) = (shard["primary"].as_str().unwrap(), shard["replicas"][0].as_str().unwrap());
    let holders: Vec<&str> = shard["replicas"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let free = ["d1", "d2", "d3", "d4"].into_iter().find(|n| *n != primary && !holders.contains(n)).unwrap();
    (shard["id"].as_u64().unwrap(), primary.to_owned(), replica.to_owned(), free.to_owned())
}

async fn migrations(served: &Served) {
    let api = &served.api;
    let (shard, _, replica, free) = shard_and_ends(served).await;
    let started =
        call(api, "POST", "/v1/migrations", Some(json!({"shard": shard, "to": replica})), 202).await;
    has(&started, "", MIGRATION);
    assert_eq!((&started.body["kind"], &started.body["phase"]), (&json!("promote"), &json!("queued")));
    let id = started.body["id"].as_u64().unwrap();
    let ended = get(served, &format!("/v1/migrations/{id}?wait_ms=20000")).await;
    has(&ended, "", MIGRATION);
    assert_eq!(ended.body["phase"], "done", "{}", ended.body);
    let listed = get(served, &format!("/v1/migrations?shard={shard}")).await;
    has(&listed, "", "migrations next_cursor");
    has(&listed, "migrations[]", MIGRATION);
    call(api, "DELETE", &format!("/v1/migrations/{id}"), None, 409).await;

    let from = replica;
    let body = json!({"shard": shard, "from": from, "to": free});
    let moved = call(api, "POST", "/v1/migrations", Some(body), 202).await;
    let id = moved.body["id"].as_u64().unwrap();
    let active = get(served, "/v1/migrations?active=true").await;
    assert!(active.body["migrations"].is_array());
    let cancelled = api.send("DELETE", &format!("/v1/migrations/{id}"), &[], None).await.unwrap();
    match cancelled.status {
        202 => has(&cancelled, "", MIGRATION),
        409 => assert!(["too_late", "conflict"].contains(&cancelled.body["code"].as_str().unwrap())),
        other => panic!("{other}: {}", cancelled.body),
    }
    get(served, &format!("/v1/migrations/{id}?wait_ms=20000")).await;
}

async fn rebalancing(served: &Served) {
    let api = &served.api;
    let dry =
        call(api, "POST", "/v1/rebalance", Some(json!({"dry_run": true, "strategy": "jump"})), 200).await;
    has(&dry, "", PLAN);
    has(&dry, "before", BALANCE);
    has(&dry, "after", BALANCE);
    has(&dry, "moves[]", "shard kind from to bytes reason");
    let planned = call(api, "POST", "/v1/rebalance", Some(json!({"max_moves": 1})), 202).await;
    has(&planned, "", PLAN);

    has(&get(served, "/v1/hotspots").await, "", "shards nodes");

    let policy = get(served, "/v1/rebalance/policy").await;
    has(&policy, "", POLICY);
    let tag = policy.header("etag").unwrap();
    let path = "/v1/rebalance/policy";
    let mut body = policy.body.clone();
    body["max_migrations"] = json!(3);
    let set = call_with(api, "PUT", path, &[("if-match", tag)], Some(body.clone()), 200).await;
    has(&set, "", POLICY);
    assert_eq!(set.body["max_migrations"], 3);
    let refused = call_with(api, "PUT", path, &[("if-match", tag)], Some(body), 412).await;
    assert_eq!(refused.body["code"], "precondition_failed");
    call(api, "POST", "/v1/rebalance/resume", None, 200).await;
    call(api, "POST", "/v1/rebalance/pause", None, 200).await;
}

async fn control_cluster(served: &Served) {
    let api = &served.api;
    let cluster = get(served, "/v1/cluster").await;
    has(
        &cluster,
        "",
        "cluster_id generation version leader term revision members num_shards replication_factor lease_ms",
    );
    has(&cluster, "leader", "id url");
    has(&cluster, "members[]", MEMBER);
    let members = get(served, "/v1/members").await;
    has(&members, "", "members next_cursor");
    has(&members, "members[]", MEMBER);

    let health = wait_for("a healthy answer", DEADLINE, async || {
        let health = get(served, "/v1/health?wait_for=healthy&wait_ms=5000").await;
        if health.body["status"] == "healthy" { Ok(health) } else { Err(health.body.to_string()) }
    })
    .await;
    has(&health, "", "status reasons healthy_nodes total_nodes shards leader failures_tolerated");
    has(&health, "shards", "total active degraded migrating unavailable unassigned");

    let events = get(served, "/v1/events?since=0&limit=5").await;
    has(&events, "", "events next_cursor");
    has(&events, "events[]", "revision seq at kind detail actor");

    let member = json!({"id": "n9", "client_url": "http://127.0.0.1:9", "peer_url": "http://127.0.0.1:9"});
    call(api, "POST", "/v1/members", Some(member), 422).await;
    let own = &members.body["members"][0];
    let itself =
        json!({"id": "n1", "client_url": own["client_url"], "peer_url": own["peer_url"], "replaces": "n1"});
    let refused = call(api, "POST", "/v1/members", Some(itself), 422).await;
    assert!(
        refused.body["detail"].as_str().is_some_and(|detail| detail.contains("`replaces`")),
        "{refused:?}"
    );
    call(api, "DELETE", "/v1/members/n9", None, 404).await;
    assert_eq!(call(api, "DELETE", "/v1/members/n1", None, 409).await.body["code"], "quorum_lost");
    call(api, "POST", "/v1/leader/transfer", Some(json!({"to": "n9"})), 404).await;

    has(&get(served, "/livez").await, "", "status");
    has(&get(served, "/readyz").await, "", "status");
    has(&get(served, "/version").await, "", "version");
    has(&get(served, "/v1/hello").await, "", "member");
    let metrics = get(served, "/metrics").await;
    let text = metrics.body.as_str().unwrap();
    assert!(text.contains("ruvector_cluster_http_requests_total{"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

async fn force_primary(served: &Served) {
    let (shard, primary, _, free) = shard_and_ends(served).await;
    let path = format!("/v1/shards/{shard}/force-primary");
    let force = |accept: bool| Some(json!({"node": free, "accept_data_loss": accept}));
    call(&served.api, "POST", &path, force(false), 422).await;
    let needless = Some(json!({"node": primary, "accept_data_loss": true}));
    call(&served.api, "POST", &path, needless, 409).await;
    for node in served.nodes.iter().filter(|node| node.id().as_str() != free) {
        node.fall_silent();
    }
    wait_for("the shard to lose its copies", DEADLINE, async || {
        let shard = get(served, &format!("/v1/shards/{shard}")).await.body;
        if shard["status"] == "unavailable" { Ok(()) } else { Err(shard.to_string()) }
    })
    .await;
    let forced = call(&served.api, "POST", &path, force(true), 200).await;
    has(&forced, "", SHARD);
    assert_eq!((&forced.body["primary"], &forced.body["in_sync"]), (&json!(free), &json!([free])));
}
