//! A skewed load: heartbeats tell it, the hot spots show it, a rebalance spreads it.

use std::collections::BTreeMap;

use ruvector_cluster::client::ids::ShardId;
use serde_json::{Value, json};

use crate::support::{DEADLINE, wait_for};
use crate::{Served, call};

async fn hotspots(served: &Served) -> Value {
    call(&served.api, "GET", "/v1/hotspots", None, 200).await.body
}

/// The factor of the hottest node, in thousandths; 0 where none is hot.
fn hottest(hot: &Value) -> u64 {
    hot["nodes"][0]["factor"].as_f64().map_or(0, |factor| (factor * 1_000.0).round() as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skewed_load_is_shown_and_spread() {
    let served = Served::start().await;
    let api = &served.api;
    assert_eq!(hotspots(&served).await, json!({"shards": [], "nodes": []}));

    // The two shards that d1 leads carry most; the four nodes lead two each.
    let shards = call(api, "GET", "/v1/shards", None, 200).await.body["shards"].as_array().unwrap().clone();
    let of_d1 = |shard: &Value| shard["primary"] == "d1";
    assert_eq!(shards.iter().filter(|shard| of_d1(shard)).count(), 2);
    let load = |shard: &Value| if of_d1(shard) { (150_000, 0) } else { (40_000, 0) };
    let id = |shard: &Value| ShardId(u32::try_from(shard["id"].as_u64().unwrap()).unwrap());
    let load: BTreeMap<_, _> = shards.iter().map(|shard| (id(shard), load(shard))).collect();
    served.nodes.iter().for_each(|node| node.tell_load(load.clone()));

    // 300 of 540 reads a second; a quarter is the mean. Of a shard 150, where 67.5 is the mean.
    let hot = wait_for("the hot node", DEADLINE, async || {
        let hot = hotspots(&served).await;
        let is_known = hottest(&hot).abs_diff(2_222) <= 30 && hot["shards"].as_array().unwrap().len() == 2;
        if is_known { Ok(hot) } else { Err(hot.to_string()) }
    })
    .await;
    assert_eq!(hot["nodes"][0]["id"], "d1");
    assert_eq!(hot["nodes"].as_array().unwrap().len(), 1, "{hot}");
    for spot in hot["shards"].as_array().unwrap() {
        assert_eq!(spot["primary"], "d1");
        let factor = spot["factor"].as_f64().unwrap();
        assert!((2.15..2.3).contains(&factor), "{spot}");
        // The long window rises to 150 slowly.
        assert!((1.0..151.0).contains(&spot["load"].as_f64().unwrap()), "{spot}");
    }
    // One of the two is more than any node's share of 135; balancing is paused, and an operator may ask.
    let advice = hot["shards"][0]["advice"].as_str().unwrap();
    assert!(advice.contains("more than any node's share"), "{advice}");
    let advice = hot["nodes"][0]["advice"].as_str().unwrap();
    assert!(advice.contains("go to other nodes") && advice.contains("/v1/rebalance/resume"), "{advice}");

    let dry = call(api, "POST", "/v1/rebalance", Some(json!({"dry_run": true})), 200).await.body;
    let plan = call(api, "POST", "/v1/rebalance", None, 202).await.body;
    assert_eq!(dry["moves"], plan["moves"]);
    let moves = plan["moves"].as_array().unwrap();
    assert!(!moves.is_empty() && moves.iter().all(|step| step["kind"] == "promote"), "{plan}");
    assert!(moves.iter().all(|step| step["reason"].as_str().unwrap().contains("load")), "{plan}");
    call(api, "POST", "/v1/rebalance/resume", None, 200).await;
    // The shards stay as hot as they were; while a primaryship changes hands, a heartbeat may tell less of one.
    wait_for("an even load", DEADLINE, async || {
        let hot = hotspots(&served).await;
        // The shard of 150 and one of 40 are the least that a node can lead which leads the first.
        let is_even = hottest(&hot) < 1_450 && hot["shards"].as_array().unwrap().len() == 2;
        if is_even { Ok(()) } else { Err(hot.to_string()) }
    })
    .await;
    let active = "/v1/migrations?active=true";
    wait_for("the end of the migrations", DEADLINE, async || {
        let active = call(api, "GET", active, None, 200).await.body["migrations"].as_array().unwrap().len();
        if active == 0 { Ok(()) } else { Err(active.to_string()) }
    })
    .await;
    // For some seconds shards of the same load look different, by when each node first told of it.
    wait_for("a second plan with nothing to do", DEADLINE, async || {
        let again = call(api, "POST", "/v1/rebalance", Some(json!({"dry_run": true})), 200).await.body;
        if again["moves"] == json!([]) { Ok(()) } else { Err(again.to_string()) }
    })
    .await;

    let refused = call(api, "GET", "/v1/hotspots?colour=red", None, 400).await;
    assert!(refused.body["detail"].as_str().unwrap().contains("colour"), "{}", refused.body);
    call(api, "GET", "/v1/hotspots?consistency=stale", None, 400).await;
    call(api, "POST", "/v1/hotspots", None, 405).await;
}
