//! The leader killed with SIGKILL under writes loses no acknowledged write.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Api, ControlCluster, DEADLINE, Options, wait_for};

/// Writers at once.
const WRITERS: usize = 4;
/// Acknowledged writes before each kill.
const WRITES: usize = 40;

/// Registers nodes without pause, each until it is acknowledged, under one Idempotency-Key.
async fn write_on(writer: usize, apis: Vec<Api>, acknowledged: Arc<Mutex<BTreeSet<String>>>) {
    for n in 0.. {
        let name = format!("w{writer}-{n}");
        let body = json!({"addr": "127.0.0.1:1", "store_id": format!("store-{name}")});
        for attempt in 0.. {
            let api = &apis[(writer + attempt) % apis.len()];
            let key = [("Idempotency-Key", name.as_str())];
            let answer = api.send("PUT", &format!("/v1/nodes/{name}"), &key, Some(&body)).await;
            match answer {
                Ok(answer) if answer.status == 200 => break,
                Ok(answer) => assert!(
                    [503, 504].contains(&answer.status),
                    "a write under a killed leader was answered {} {}",
                    answer.status,
                    answer.body
                ),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        acknowledged.lock().unwrap().insert(name);
    }
}

async fn listed(api: &Api) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let page: Value = api.get_as(&format!("/v1/nodes?limit=100&cursor={cursor}")).await?;
        for node in page["nodes"].as_array().ok_or_else(|| page.to_string())? {
            names.insert(node["id"].as_str().ok_or_else(|| node.to_string())?.to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return Ok(names),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_under_writes_loses_no_acknowledged_write() {
    let mut cluster = ControlCluster::start_with(Options::default().shards(1)).await;
    let apis: Vec<Api> = (0..cluster.len()).map(|node| cluster.api(node)).collect();
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write_on(writer, apis.clone(), Arc::clone(&acknowledged)));
    }
    for kill in 1..=3 {
        let enough = acknowledged.lock().unwrap().len() + WRITES;
        wait_for(&format!("{enough} acknowledged writes"), DEADLINE, async || {
            let count = acknowledged.lock().unwrap().len();
            if count >= enough { Ok(()) } else { Err(count) }
        })
        .await;
        let leader = cluster.wait_for_leader().await;
        let killed = tokio::time::Instant::now();
        cluster.kill(leader);
        let successor = cluster.wait_for_leader().await;
        println!("kill {kill}: n{} after n{}, {:?}", successor + 1, leader + 1, killed.elapsed());
        assert_ne!(successor, leader);
        let before: BTreeSet<String> = acknowledged.lock().unwrap().clone();
        let found = wait_for("the nodes", DEADLINE, async || listed(&cluster.api(successor)).await).await;
        let lost: Vec<&String> = before.difference(&found).collect();
        assert!(lost.is_empty(), "lost with the leader: {lost:?}");
        cluster.spawn(leader);
        cluster.wait_for_leader().await;
    }
    writers.shutdown().await;
    let before = acknowledged.lock().unwrap().clone();
    for node in 0..cluster.len() {
        let found = wait_for("the nodes", DEADLINE, async || listed(&cluster.api(node)).await).await;
        let lost: Vec<&String> = before.difference(&found).collect();
        assert!(lost.is_empty(), "n{} lacks {lost:?}", node + 1);
    }
}
