use std::sync::atomic::{AtomicU32, Ordering};

use super::scripted::{Say, Scripted, problem};
use super::*;

fn client_of(nodes: &[&Scripted]) -> ControlClient {
    let options = ControlOptions {
        coordinators: nodes.iter().map(|node| node.addr.to_string()).collect(),
        attempt_timeout_ms: 300,
        deadline_ms: 3_000,
    };
    ControlClient::new(options).unwrap()
}

fn ok() -> Say {
    Say::Json(200, "7".to_owned())
}

#[tokio::test]
async fn a_call_goes_on_to_the_next_control_node_on_503_silence_and_refused_connections() {
    let without_leader = Scripted::start(|_| problem(503, "no_leader")).await;
    let silent = Scripted::start(|_| Say::Silence).await;
    let well = Scripted::start(|_| ok()).await;
    let gone = Scripted::start(|_| ok()).await;
    let gone_addr = gone.addr;
    drop(gone);
    let mut options = ControlOptions::new(vec![gone_addr.to_string()]);
    options.coordinators.extend([&without_leader, &silent, &well].map(|node| node.addr.to_string()));
    options.attempt_timeout_ms = 300;
    let client = ControlClient::new(options).unwrap();
    let answered = client.send::<u64>(&Call::get("/v1/x").at(0)).await.unwrap();
    assert_eq!((answered.body, answered.by), (7, 3));
    assert_eq!(client.preferred(), 3, "who answered is asked first next time");
    assert_eq!((without_leader.asked().len(), silent.asked().len()), (1, 1));
}

#[tokio::test]
async fn every_attempt_of_a_write_carries_the_same_key_also_after_an_unknown_outcome() {
    let count = AtomicU32::new(0);
    let node = Scripted::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => problem(504, "outcome_unknown"),
        1 => problem(503, "no_leader"),
        _ => ok(),
    })
    .await;
    let client = client_of(&[&node]);
    client.send::<u64>(&Call::write(Method::POST, "/v1/x", &5).unwrap()).await.unwrap();
    client.send::<u64>(&Call::write(Method::POST, "/v1/x", &5).unwrap()).await.unwrap();
    let keys: Vec<String> = node.asked().into_iter().map(|asked| asked.key.unwrap()).collect();
    assert_eq!(keys.len(), 4);
    assert!(keys[0] == keys[1] && keys[1] == keys[2]);
    assert_ne!(keys[2], keys[3]);
}

#[tokio::test]
async fn a_refusal_that_repeating_cannot_change_is_returned_at_once() {
    let node = Scripted::start(|_| problem(409, "stale_incarnation")).await;
    let error = client_of(&[&node]).send::<u64>(&Call::get("/v1/x")).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (Some(409), Some("stale_incarnation")));
    assert_eq!(node.asked().len(), 1);
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_says_what_the_last_attempt_met() {
    let node = Scripted::start(|_| problem(503, "no_leader")).await;
    let call = Call::get("/v1/x").within(100, 400);
    let error = client_of(&[&node]).send::<u64>(&call).await.unwrap_err();
    assert!(
        matches!(&error, ControlError::Unavailable { last, .. } if last.contains("no_leader")),
        "{error}"
    );
    assert!(node.asked().len() >= 2, "it was tried again before");
}

#[tokio::test]
async fn retry_after_is_waited_for_when_all_were_asked() {
    let count = AtomicU32::new(0);
    let node =
        Scripted::start(
            move |_| if count.fetch_add(1, Ordering::Relaxed) == 0 { Say::Later(503, 1) } else { ok() },
        )
        .await;
    let begun = tokio::time::Instant::now();
    client_of(&[&node]).send::<u64>(&Call::get("/v1/x")).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn query_values_are_percent_encoded() {
    let node = Scripted::start(|_| ok()).await;
    client_of(&[&node]).send::<u64>(&Call::get("/v1/route").query("key", "a b/ü&c")).await.unwrap();
    assert_eq!(node.asked()[0].target, "/v1/route?key=a%20b%2F%C3%BC%26c");
}
