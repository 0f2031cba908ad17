//! All control nodes are restarted, one after the other, under writes: a client that tries once more sees no error.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::http::Answer;
use crate::support::{Api, ControlCluster, DEADLINE, Options, wait_for};

/// Writers at once.
const WRITERS: usize = 8;

/// What the writers saw.
#[derive(Default)]
struct Seen {
    /// When a write was acknowledged.
    acknowledged: Vec<Instant>,
    /// Writes that were repeated, and why.
    retried: Vec<String>,
    /// Writes that met an error twice.
    failed: Vec<String>,
}

impl Seen {
    /// The longest time without an acknowledged write since `from`, and when it began.
    fn longest_pause(&self, from: Instant) -> (Duration, Duration) {
        let since: Vec<Instant> = self.acknowledged.iter().copied().filter(|at| *at >= from).collect();
        let pauses = since.windows(2).map(|pair| (pair[1] - pair[0], pair[0] - from));
        pauses.max().unwrap_or_default()
    }
}

fn judge(answer: Result<Answer, String>) -> Result<(), String> {
    match answer {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("{} {}", answer.status, answer.body)),
        Err(error) => Err(error),
    }
}

/// Edits a node's labels without pause, each time through the next control node, and where that fails once more through the one
/// behind it, under the same key.
async fn write_on(writer: usize, apis: Vec<Api>, seen: Arc<Mutex<Seen>>) {
    let path = format!("/v1/nodes/d{writer}");
    for n in 0.. {
        let (key, body) = (format!("{writer}-{n}"), json!({"labels": {"n": n.to_string()}}));
        let write = async |attempt: usize| {
            let api = &apis[(writer + n + attempt) % apis.len()];
            let headers = [("Idempotency-Key", key.as_str())];
            judge(api.send("PATCH", &path, &headers, Some(&body)).await)
                .map_err(|e| format!("{}: {e}", api.base()))
        };
        if let Err(first) = write(0).await {
            let again = write(1).await;
            let mut seen = seen.lock().unwrap();
            seen.retried.push(first.clone());
            if let Err(second) = again {
                seen.failed.push(format!("{first}, then {second}"));
                continue;
            }
        }
        seen.lock().unwrap().acknowledged.push(Instant::now());
    }
}

async fn restart(cluster: &mut ControlCluster, node: usize) {
    let status = cluster.process(node).terminate(DEADLINE).await;
    assert_eq!(status.code(), Some(0), "n{}", node + 1);
    cluster.forget(node);
    cluster.spawn(node);
    let api = cluster.api(node);
    wait_for("it to be back", DEADLINE, async || api.get("/readyz").await?.ok::<Value>()).await;
    cluster.wait_for_leader().await;
}

async fn wait_for_writes(seen: &Mutex<Seen>) {
    let enough = seen.lock().unwrap().acknowledged.len() + 10 * WRITERS;
    wait_for("writes to go on", DEADLINE, async || {
        let count = seen.lock().unwrap().acknowledged.len();
        if count >= enough { Ok(()) } else { Err(format!("{count} of {enough}")) }
    })
    .await;
}

/// The pauses are printed and not asserted, since a machine that runs other tests may hold a process up for longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_one_retry_sees_no_error_while_all_control_nodes_restart() {
    let mut cluster = ControlCluster::start_with(Options::default().shards(1)).await;
    let apis: Vec<Api> = (0..cluster.len()).map(|node| cluster.api(node)).collect();
    for writer in 0..WRITERS {
        let body = json!({"addr": "127.0.0.1:1", "store_id": format!("store-{writer}")});
        let path = format!("/v1/nodes/d{writer}");
        wait_for("a registration", DEADLINE, async || apis[0].put_as::<Value>(&path, &body).await).await;
    }
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write_on(writer, apis.clone(), Arc::clone(&seen)));
    }
    // As it is to be done: the leader last.
    let last = cluster.wait_for_leader().await;
    for node in [(last + 1) % 3, (last + 2) % 3, last] {
        wait_for_writes(&seen).await;
        let leads = cluster.wait_for_leader().await == node;
        let begun = Instant::now();
        restart(&mut cluster, node).await;
        wait_for_writes(&seen).await;
        let seen = seen.lock().unwrap();
        let (pause, at) = seen.longest_pause(begun);
        println!(
            "n{} restarted (leader: {leads}): writes paused for {pause:?}, {at:?} after SIGTERM",
            node + 1
        );
    }
    writers.shutdown().await;
    let seen = seen.lock().unwrap();
    let refused = seen.retried.iter().filter(|why| why.contains("ConnectionRefused")).count();
    println!(
        "{} writes, {} tried again, {refused} as nobody listened",
        seen.acknowledged.len(),
        seen.retried.len()
    );
    assert!(seen.failed.is_empty(), "{:#?}", seen.failed);
}
