use std::sync::atomic::{AtomicU32, Ordering};

use super::scripted::{Say, Scripted, problem};
use super::*;
use crate::ids::{Incarnation, NodeId, Revision};
use crate::wire::{ClusterView, HeartbeatRequest, LeaderInfo, Member, MemberRole, RegisterRequest};
use http::Method;

fn client_of(nodes: &[&Scripted]) -> ControlClient {
    let options = ControlOptions {
        coordinators: nodes.iter().map(|node| node.addr.to_string()).collect(),
        attempt_timeout_ms: 300,
        deadline_ms: 3_000,
        retries: RetryBudget::default(),
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
    let node = Scripted::start(move |asked| match asked.path() {
        "/v1/x" => match count.fetch_add(1, Ordering::Relaxed) {
            0 => problem(504, "outcome_unknown"),
            1 => problem(503, "no_leader"),
            _ => ok(),
        },
        _ => problem(404, "not_found"),
    })
    .await;
    let client = client_of(&[&node]);
    client.send::<u64>(&Call::write(Method::POST, "/v1/x", &5).unwrap()).await.unwrap();
    client.send::<u64>(&Call::write(Method::POST, "/v1/x", &5).unwrap()).await.unwrap();
    let keys: Vec<String> = node.asked_for("/v1/x").into_iter().map(|asked| asked.key.unwrap()).collect();
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

fn view_of(leader: Option<&Scripted>, members: &[&Scripted]) -> String {
    let id = |node: &Scripted| NodeId::new(&format!("n{}", node.addr.port())).unwrap();
    let member = |node: &&Scripted| Member {
        id: id(node),
        raft_id: 1,
        role: MemberRole::Voter,
        client_url: node.url(),
        peer_url: "http://h:1".to_owned(),
        matched: None,
        last_contact_ms: None,
    };
    let view = ClusterView {
        cluster_id: "c".to_owned(),
        generation: 1,
        version: "v".to_owned(),
        leader: leader.map(|node| LeaderInfo { id: id(node), url: node.url() }),
        term: 1,
        revision: Revision(1),
        members: members.iter().map(member).collect(),
        num_shards: 4,
        replication_factor: 2,
        lease_ms: 4_000,
        suspended: false,
        state_hash: None,
    };
    serde_json::to_string(&view).unwrap()
}

fn write() -> Call {
    Call::write(Method::POST, "/v1/x", &5).unwrap()
}

#[tokio::test]
async fn members_are_learned_and_seeds_stay() {
    let (other, third) = (Scripted::start(|_| ok()).await, Scripted::start(|_| ok()).await);
    let view = view_of(None, &[&other, &third]);
    let seed = Scripted::start(move |asked| match asked.path() {
        "/v1/cluster" => Say::Json(200, view.clone()),
        _ => problem(503, "no_leader"),
    })
    .await;
    let client = client_of(&[&seed]);
    client.keep_members().await;
    let known: Vec<String> = (0..client.coordinators()).map(|at| client.url_of(at)).collect();
    assert_eq!(known, [seed.url(), other.url(), third.url()], "the seed is kept though it is no member");
    client.keep_members().await;
    assert_eq!(seed.asked_for("/v1/cluster").len(), 1, "it was just asked");
    assert!(client.send::<u64>(&Call::get("/v1/x")).await.unwrap().by > 0);
}

#[tokio::test]
async fn when_all_that_are_known_fail_whoever_still_speaks_is_asked_for_members() {
    let other = Scripted::start(|_| ok()).await;
    let view = view_of(None, &[&other]);
    let seed = Scripted::start(move |asked| match asked.path() {
        "/v1/cluster" => Say::Json(200, view.clone()),
        _ => problem(503, "no_leader"),
    })
    .await;
    let client = client_of(&[&seed]);
    client.send::<u64>(&Call::get("/v1/x")).await.unwrap();
    assert_eq!((seed.asked_for("/v1/cluster").len(), other.asked_for("/v1/x").len()), (1, 1));
}

#[tokio::test]
async fn writes_go_to_the_leader_first_and_to_any_when_it_fails() {
    let leads = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let still = leads.clone();
    let leader =
        Scripted::start(
            move |_| {
                if still.load(Ordering::Relaxed) { ok() } else { problem(503, "no_leader") }
            },
        )
        .await;
    let view = view_of(Some(&leader), &[&leader]);
    let seed = Scripted::start(move |asked| match asked.path() {
        "/v1/cluster" => Say::Json(200, view.clone()),
        _ => ok(),
    })
    .await;
    let client = client_of(&[&seed]);
    client.keep_members().await;
    client.send::<u64>(&Call::get("/v1/x").at(0)).await.unwrap();
    assert_eq!((seed.asked_for("/v1/x").len(), leader.asked().len()), (1, 0), "a read goes to anybody");
    client.send::<u64>(&write()).await.unwrap();
    assert_eq!((seed.asked_for("/v1/x").len(), leader.asked().len()), (1, 1));
    leads.store(false, Ordering::Relaxed);
    client.send::<u64>(&write()).await.unwrap();
    client.send::<u64>(&write().at(0)).await.unwrap();
    assert_eq!((seed.asked_for("/v1/x").len(), leader.asked().len()), (3, 2));
    assert_eq!(client.leader(), None, "until it is learned anew");
}

#[tokio::test]
async fn whoever_does_not_lead_names_the_leader_and_that_is_asked_next() {
    let leader = Scripted::start(|_| ok()).await;
    let url = leader.url();
    let follower = Scripted::start(move |_| {
        let body = format!(
            r#"{{"type":"urn:x","title":"t","status":421,"detail":"d","code":"not_leader","retryable":true,"request_id":"r","leader_url":"{url}"}}"#
        );
        Say::Json(421, body)
    })
    .await;
    let others = [Scripted::start(|_| ok()).await, Scripted::start(|_| ok()).await];
    let client = client_of(&[&follower, &others[0], &others[1]]);
    client.send::<u64>(&write().at(0)).await.unwrap();
    assert_eq!((follower.asked().len(), leader.asked().len()), (1, 1), "though it is no seed");
    assert!(others.iter().all(|other| other.asked().is_empty()));
    client.send::<u64>(&write()).await.unwrap();
    assert_eq!(leader.asked().len(), 2);
}

#[tokio::test]
async fn a_used_up_budget_ends_calls_and_never_holds_back_what_a_lease_hangs_on() {
    let node = Scripted::start(|_| problem(503, "no_leader")).await;
    let mut options = ControlOptions::new(vec![node.addr.to_string()]);
    (options.attempt_timeout_ms, options.deadline_ms) = (200, 1_000);
    options.retries = RetryBudget { percent: 0, per_s: 0, most: 2 };
    let client = ControlClient::new(options).unwrap();
    let error = client.send::<u64>(&Call::get("/v1/x")).await.unwrap_err();
    assert!(
        matches!(&error, ControlError::RetriesExhausted { tries: 3, last } if last.contains("no_leader"))
    );
    assert!(error.to_string().contains("budget"), "{error}");
    let error = client.send::<u64>(&Call::get("/v1/x")).await.unwrap_err();
    assert!(matches!(error, ControlError::RetriesExhausted { tries: 1, .. }), "but each is tried once");
    assert_eq!(node.asked_for("/v1/x").len(), 4);

    let id = NodeId::new("d1").unwrap();
    let beat = HeartbeatRequest {
        incarnation: Incarnation(1),
        installed_revision: Revision(0),
        partial: true,
        shards: vec![],
        disk_free_bytes: None,
    };
    let error = client.heartbeat(&id, &beat, 100, 400).await.unwrap_err();
    assert!(matches!(error, ControlError::Unavailable { .. }), "{error}");
    assert!(node.asked_for("/v1/nodes/d1/heartbeat").len() >= 2);
    let error = client.assignments(&id, Revision(0), 0, None).await;
    assert!(matches!(error, Err(ControlError::Unavailable { .. })));
    assert!(node.asked_for("/v1/nodes/d1/assignments").len() >= 2);
    let request: RegisterRequest = serde_json::from_str(r#"{"addr":"h:1","store_id":"s"}"#).unwrap();
    let call = ControlClient::registration(&id, &request).unwrap().within(100, 400);
    assert!(matches!(client.send::<u64>(&call).await, Err(ControlError::Unavailable { .. })));
    assert!(node.asked_for("/v1/nodes/d1").len() >= 2);
}

#[tokio::test]
async fn urgent_calls_leave_the_budget_to_others() {
    let count = AtomicU32::new(0);
    let node = Scripted::start(move |asked| match asked.path() {
        // Each call meets one refusal.
        "/v1/x" if count.fetch_add(1, Ordering::Relaxed) % 2 == 1 => ok(),
        _ => problem(503, "no_leader"),
    })
    .await;
    let mut options = ControlOptions::new(vec![node.addr.to_string()]);
    options.retries = RetryBudget { percent: 0, per_s: 0, most: 1 };
    let client = ControlClient::new(options).unwrap();
    for _ in 0..5 {
        client.send::<u64>(&write().urgent()).await.unwrap();
    }
    client.send::<u64>(&write()).await.unwrap();
    let error = client.send::<u64>(&write()).await.unwrap_err();
    assert!(matches!(error, ControlError::RetriesExhausted { tries: 1, .. }));
}
