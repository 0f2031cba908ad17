//! A control node that is killed again and again while it opens its files finds them as they were.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{ControlCluster, DEADLINE, Options, wait_for};

const KILLS: u64 = 40;
const NODES: usize = 60;
const PAGE: &str = "/v1/nodes?limit=1000";

/// What no restart may change of the registered nodes.
async fn registered(cluster: &ControlCluster) -> Vec<Value> {
    let body: Value = wait_for("the nodes", DEADLINE, async || cluster.api(0).get_as(PAGE).await).await;
    let kept = |node: &Value| {
        json!([node["id"], node["store_id"], node["addr"], node["incarnation"], node["labels"]])
    };
    body["nodes"].as_array().unwrap().iter().map(kept).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_while_it_opens_finds_its_state_unchanged() {
    let flags = ["--failure-timeout", "600s", "--heartbeat-interval", "60s"].map(str::to_owned).to_vec();
    let mut cluster = ControlCluster::prepare(Options { count: 1, flags, ..Options::default() });
    cluster.spawn(0);
    cluster.wait_for_leader().await;
    for n in 0..NODES {
        let body =
            json!({"addr": "127.0.0.1:1", "store_id": format!("s{n}"), "labels": {"text": "x".repeat(200)}});
        let path = format!("/v1/nodes/d{n}");
        wait_for("a registration", DEADLINE, async || cluster.api(0).put_as::<Value>(&path, &body).await)
            .await;
    }
    let before = registered(&cluster).await;
    assert_eq!(before.len(), NODES);
    cluster.kill(0);
    let mut served = 0;
    for kill in 0..KILLS {
        cluster.spawn(0);
        // Up to 100 ms, in an order that is none; most are short, since a node opens within some milliseconds.
        let step = kill * 37 % 101;
        tokio::time::sleep(Duration::from_micros(step * step * 10)).await;
        assert!(cluster.process(0).is_running(), "it ended by itself, after {kill} kills");
        // No waiting for an answer here: that would let it finish what it is to be killed in.
        let addr = cluster.api(0).base().trim_start_matches("http://").to_owned();
        served += u64::from(std::net::TcpStream::connect(addr).is_ok());
        cluster.kill(0);
    }
    println!("{KILLS} kills, {served} of them of a node that already listened");
    assert!(
        served + 5 <= KILLS,
        "hardly a kill came before the node listened: it opens faster than this test kills"
    );
    cluster.spawn(0);
    cluster.wait_for_leader().await;
    assert_eq!(registered(&cluster).await, before);
    let body = json!({"addr": "127.0.0.1:1", "store_id": "late"});
    wait_for("a write", DEADLINE, async || cluster.api(0).put_as::<Value>("/v1/nodes/late", &body).await)
        .await;
}
