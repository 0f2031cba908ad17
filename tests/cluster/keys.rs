//! An Idempotency-Key holds at whichever control node a request comes in, and when another leads by then.

use serde_json::json;

use crate::support::{ControlCluster, DEADLINE, Options, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_request_at_every_control_node_and_under_the_next_leader() {
    let mut cluster = ControlCluster::start_with(Options::default().shards(1)).await;
    let leader = cluster.wait_for_leader().await;
    let key = [("Idempotency-Key", "k1")];
    let body = json!({"addr": "127.0.0.1:1", "store_id": "s1"});
    let other = json!({"addr": "127.0.0.1:2", "store_id": "s1"});
    let followers: Vec<usize> = (0..cluster.len()).filter(|node| *node != leader).collect();
    let put = async |cluster: &ControlCluster, node: usize, body| {
        wait_for("an answer", DEADLINE, async || {
            let answer = cluster.api(node).send("PUT", "/v1/nodes/x", &key, Some(body)).await?;
            if [503, 504].contains(&answer.status) { Err(answer.body.to_string()) } else { Ok(answer) }
        })
        .await
    };
    let first = put(&cluster, followers[0], &body).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let told = |answer: &crate::support::http::Answer| {
        (answer.status, answer.number("x-cluster-revision"), answer.body["incarnation"].clone())
    };
    for node in 0..cluster.len() {
        assert_eq!(told(&put(&cluster, node, &body).await), told(&first), "n{}", node + 1);
        let refused = put(&cluster, node, &other).await;
        assert_eq!((refused.status, &refused.body["code"]), (422, &json!("invalid")), "n{}", node + 1);
    }
    cluster.kill(leader);
    for node in followers {
        assert_eq!(told(&put(&cluster, node, &body).await), told(&first), "n{}", node + 1);
        assert_eq!(put(&cluster, node, &other).await.status, 422, "n{}", node + 1);
    }
}
