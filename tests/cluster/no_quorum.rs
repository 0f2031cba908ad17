//! A leader whose followers are gone answers what it can, and says of the rest that there is no leader.

use serde_json::json;

use crate::support::{ControlCluster, Options};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_quorum_answers_a_write_with_no_leader() {
    let mut cluster = ControlCluster::start_with(Options::default().shards(1)).await;
    let leader = cluster.wait_for_leader().await;
    for node in (0..cluster.len()).filter(|node| *node != leader) {
        cluster.kill(node);
    }
    // The lease of a leader that just lost its followers may still run; then the write is appended, and its outcome unknown.
    let mut codes = Vec::new();
    for _ in 0..2 {
        let answer = cluster.api(leader).post("/v1/rebalance/pause", &json!({})).await.unwrap();
        codes.push((answer.status, answer.body["code"].as_str().unwrap_or_default().to_owned()));
    }
    assert!(
        [(503, "no_leader".to_owned()), (504, "outcome_unknown".to_owned())].contains(&codes[0]),
        "{codes:?}"
    );
    assert_eq!(codes[1], (503, "no_leader".to_owned()));
}
