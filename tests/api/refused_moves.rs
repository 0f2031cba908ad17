//! Migrations that can't be: each is refused with its reason, and nothing changes.

use serde_json::{Value, json};

use crate::support::{DEADLINE, wait_for};
use crate::{Served, call};

struct Asked<'a> {
    served: &'a Served,
    shard: u64,
    /// Its primary, whose place the others would take.
    primary: String,
    /// The node that has no copy of it.
    free: String,
}

impl<'a> Asked<'a> {
    async fn of(served: &'a Served, shard: u64) -> Self {
        let row = call(&served.api, "GET", &format!("/v1/shards/{shard}"), None, 200).await.body;
        let holds = |node: &str| {
            row["primary"] == node || row["replicas"].as_array().unwrap().iter().any(|copy| copy == node)
        };
        let free = ["d1", "d2", "d3", "d4"].into_iter().find(|node| !holds(node)).unwrap();
        let primary = row["primary"].as_str().unwrap().to_owned();
        Self { served, shard, primary, free: free.to_owned() }
    }

    /// Asked for a move to `to`, which must be refused in these words.
    async fn is_refused(&self, to: &str, status: u16, code: &str, says: &[&str]) {
        self.body_is_refused(json!({"shard": self.shard, "to": to}), status, code, says).await;
    }

    async fn body_is_refused(&self, body: Value, status: u16, code: &str, says: &[&str]) {
        let before = self.seen().await;
        let refused = call(&self.served.api, "POST", "/v1/migrations", Some(body), status).await.body;
        assert_eq!(refused["code"], code, "{refused}");
        let detail = refused["detail"].as_str().unwrap();
        for part in says {
            assert!(detail.contains(part), "{part:?} is missing: {detail}");
        }
        assert_eq!(self.seen().await, before, "a refusal changes nothing");
    }

    /// What a migration would change: the shard's copies, and how many migrations there are. Revisions rise by what goes on besides.
    async fn seen(&self) -> ([Value; 3], usize) {
        let shard = format!("/v1/shards/{}", self.shard);
        let shard = call(&self.served.api, "GET", &shard, None, 200).await.body;
        let migrations = call(&self.served.api, "GET", "/v1/migrations", None, 200).await.body;
        (
            ["epoch", "primary", "replicas"].map(|field| shard[field].clone()),
            migrations["migrations"].as_array().unwrap().len(),
        )
    }

    async fn post(&self, path: &str, body: Option<Value>) {
        call(&self.served.api, "POST", &format!("/v1/nodes/{}/{path}", self.free), body, 200).await;
    }

    async fn patch_free(&self, body: Value) {
        call(&self.served.api, "PATCH", &format!("/v1/nodes/{}", self.free), Some(body), 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_cannot_be_is_refused_with_its_reason_and_changes_nothing() {
    let served = Served::start().await;
    let asked = Asked::of(&served, 3).await;
    unknown_or_useless(&asked).await;
    nodes_that_take_nothing(&asked).await;
    a_full_node(&asked).await;
    a_rack_that_has_its_copy(&asked).await;
    a_node_that_is_down_and_a_second_migration(&asked).await;
}

async fn unknown_or_useless(asked: &Asked<'_>) {
    let shard = asked.shard;
    let there = format!("{} has a copy of shard {shard} already", asked.primary);
    asked.is_refused(&asked.primary, 422, "invalid", &[&there]).await;
    asked.is_refused("nobody", 422, "invalid", &["nobody is not registered"]).await;
    let to = asked.free.as_str();
    asked.body_is_refused(json!({"shard": 999, "to": to}), 404, "not_found", &["shard 999"]).await;
    let stale = json!({"shard": shard, "to": to, "if_epoch": 0});
    asked.body_is_refused(stale, 409, "stale_epoch", &["epoch"]).await;
    let from_nowhere = json!({"shard": shard, "to": to, "from": to});
    asked
        .body_is_refused(from_nowhere, 422, "invalid", &[&format!("{to} has no copy of shard {shard}")])
        .await;
}

async fn nodes_that_take_nothing(asked: &Asked<'_>) {
    let (free, path) = (asked.free.as_str(), format!("/v1/nodes/{}", asked.free));
    for (wish, body, says) in [
        ("drain", None, "is being emptied"),
        ("maintenance", Some(json!({"duration_ms": 600_000})), "is in maintenance"),
    ] {
        asked.post(wish, body).await;
        asked.is_refused(free, 422, "invalid", &[free, says]).await;
        call(&asked.served.api, "DELETE", &format!("{path}/{wish}"), None, 200).await;
    }
    asked.patch_free(json!({"capacity": 0})).await;
    asked.is_refused(free, 422, "invalid", &[free, "has capacity 0"]).await;
    asked.patch_free(json!({"capacity": 1})).await;
}

/// One that holds more than its watermark allows.
async fn a_full_node(asked: &Asked<'_>) {
    let api = &asked.served.api;
    let body = json!({"addr": "x.invalid:1", "store_id": "s-full", "rack": "r5", "capacity_bytes": 1_000});
    let run = call(api, "PUT", "/v1/nodes/full", Some(body), 200).await.body["incarnation"].clone();
    let held = json!({"incarnation": run, "installed_revision": 0, "partial": false,
        "shards": [{"id": 7, "epoch": 0, "position": 0, "size_bytes": 950, "vectors": 1, "reads_per_s": 0, "writes_per_s": 0}]});
    call(api, "POST", "/v1/nodes/full/heartbeat", Some(held), 200).await;
    let could = format!("what could take it: {}", asked.free);
    let says = ["full holds 950 of its 1000 bytes", "disk_watermark", &could];
    asked.is_refused("full", 422, "invalid", &says).await;
    wait_for("the full node to go", DEADLINE, async || {
        let retired = json!({"incarnation": run, "reports": [{"shard": 7, "epoch": 999, "retired": true}]});
        call(api, "POST", "/v1/nodes/full/reports", Some(retired), 200).await;
        let gone = api.send("DELETE", "/v1/nodes/full", &[], None).await?;
        if gone.status == 200 { Ok(()) } else { Err(gone.body.to_string()) }
    })
    .await;
}

/// In the rack of a replica, where another node stands in a rack without a copy.
async fn a_rack_that_has_its_copy(asked: &Asked<'_>) {
    let api = &asked.served.api;
    let row = call(api, "GET", &format!("/v1/shards/{}", asked.shard), None, 200).await.body;
    let replica = row["replicas"][0].as_str().unwrap().to_owned();
    let rack = format!("r{}", replica.trim_start_matches('d'));
    let body = json!({"addr": "y.invalid:1", "store_id": "s-same", "rack": rack});
    let run = call(api, "PUT", "/v1/nodes/same", Some(body), 200).await.body["incarnation"].clone();
    let taken = format!("rack {rack} has the 1 copy that it may have, on {replica}");
    let could = format!("what could take it: {}", asked.free);
    asked.is_refused("same", 422, "invalid", &[&taken, &could]).await;
    // What is wrong with the node itself is told first.
    call(api, "POST", "/v1/nodes/same/drain", None, 200).await;
    asked.is_refused("same", 422, "invalid", &["same is being emptied"]).await;
    call(api, "DELETE", "/v1/nodes/same/drain", None, 200).await;
    // In the place of that replica it keeps the rule.
    let instead = json!({"shard": asked.shard, "from": replica, "to": "same"});
    let id = call(api, "POST", "/v1/migrations", Some(instead), 202).await.body["id"].clone();
    call(api, "DELETE", &format!("/v1/migrations/{id}"), None, 202).await;
    a_move_inside_a_crowded_rack(asked, &replica, &run).await;
}

/// Two copies share a rack already: a move from one of them to a third node there changes nothing about that, and is an operator's way
/// off a bad disk. `run` is that of `same`, which has to be kept alive, and to say that what the cancelled migration left there is gone.
async fn a_move_inside_a_crowded_rack(asked: &Asked<'_>, replica: &str, run: &Value) {
    let api = &asked.served.api;
    for node in [replica, asked.primary.as_str(), "same"] {
        call(api, "PATCH", &format!("/v1/nodes/{node}"), Some(json!({"rack": "shared"})), 200).await;
    }
    let body = json!({"shard": asked.shard, "to": "same"});
    let beat = json!({"incarnation": run, "installed_revision": 1_000_000, "shards": []});
    let gone =
        json!({"incarnation": run, "reports": [{"shard": asked.shard, "epoch": 999, "retired": true}]});
    let moved = async || {
        call(api, "POST", "/v1/nodes/same/heartbeat", Some(beat.clone()), 200).await;
        call(api, "POST", "/v1/nodes/same/reports", Some(gone.clone()), 200).await;
        let asked = api.send("POST", "/v1/migrations", &[], Some(&body)).await?;
        if asked.status == 202 { Ok(asked.body["id"].clone()) } else { Err(asked.body.to_string()) }
    };
    let id = wait_for("the move inside the rack", DEADLINE, moved).await;
    call(api, "DELETE", &format!("/v1/migrations/{id}"), None, 202).await;
}

async fn a_node_that_is_down_and_a_second_migration(asked: &Asked<'_>) {
    let api = &asked.served.api;
    let asked = &Asked::of(asked.served, (asked.shard + 1) % 8).await;
    let silent = asked.served.nodes.iter().find(|node| node.id().as_str() == asked.free).unwrap();
    // Whom nothing is heard of does nothing, so the migration lasts until it is declared down.
    silent.fall_silent();
    let body = json!({"shard": asked.shard, "to": asked.free});
    let id = call(api, "POST", "/v1/migrations", Some(body), 202).await.body["id"].clone();
    let says = format!("shard {} has migration {id} already", asked.shard);
    asked.is_refused(&asked.free, 409, "already_migrating", &[&says]).await;
    let ended = call(api, "GET", &format!("/v1/migrations/{id}?wait_ms=20000"), None, 200).await.body;
    assert_eq!(ended["phase"], "aborted", "{ended}");
    wait_for("the silent node to be down", DEADLINE, async || {
        let node = api.get_as::<Value>(&format!("/v1/nodes/{}", asked.free)).await?;
        if node["status"] == "down" { Ok(()) } else { Err(node["status"].to_string()) }
    })
    .await;
    asked.is_refused(&asked.free, 422, "invalid", &[&asked.free, "is down"]).await;
}
