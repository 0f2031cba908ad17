//! The coordinator, tested by what data nodes and clients do with it.

mod nodes;

use std::time::Duration;

use nodes::{Cluster, name};

use super::*;
use crate::control::{Call, ControlError, StaleReads};
use crate::copies::Outcome;
use crate::router::Router;
use crate::wire::{
    AssignmentsResponse, ClusterView, MigrateRequest, NodeStatus, Phase, RegisterRequest, Role,
};
use tokio_util::sync::CancellationToken;

const SHARD: ShardId = ShardId(0);

#[tokio::test(start_paused = true)]
async fn copies_keep_what_they_acknowledged_through_a_migration_and_a_failover() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..50 {
        cluster.write(&format!("k{n}")).await;
    }
    let shard = || cluster.coordinator.shard(SHARD).unwrap();
    assert_eq!((shard().primary, shard().in_sync), (Some(name(1)), vec![name(1), name(2)]));

    let moved = cluster.coordinator.migrate(SHARD, &name(3), None).unwrap();
    for n in 50..80 {
        cluster.write(&format!("k{n}")).await;
    }
    let moved = cluster.coordinator.until_ended(moved).await;
    assert_eq!((moved.phase, moved.error), (Phase::Done, None));
    assert_eq!((shard().primary, shard().in_sync), (Some(name(3)), vec![name(2), name(3)]));
    cluster
        .coordinator
        .until("the old copy's end", |c| c.assignments(&name(1)).iter().all(|a| a.role != Role::Retiring))
        .await;
    let held = |c: &Coordinator| c.held(&name(1)).iter().all(|held| held.id != SHARD);
    cluster.coordinator.until("a heartbeat that says so", held).await;

    cluster.kill(3);
    cluster.coordinator.expire(&name(3)).await;
    assert_eq!(cluster.coordinator.shard(SHARD).unwrap().primary, Some(name(2)));
    for n in 80..100 {
        cluster.write(&format!("k{n}")).await;
    }
    for n in 0..100 {
        assert!(cluster.has(&format!("k{n}")).await, "k{n}");
    }

    cluster.restart(3).await;
    let all = |c: &Coordinator| (0..4).all(|shard| c.shard(ShardId(shard)).unwrap().in_sync.len() == 2);
    cluster.coordinator.until("all copies in sync again", all).await;
    cluster.kill(2);
    cluster.coordinator.expire(&name(2)).await;
    for n in 0..100 {
        assert!(cluster.has(&format!("k{n}")).await, "k{n} was not caught up");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_copy_is_made_anew_by_a_migration() {
    let mut cluster = Cluster::start(3).await;
    cluster.write("k").await;
    cluster.kill(2);
    cluster.coordinator.expire(&name(2)).await;
    cluster.wipe(2);
    cluster.restart(2).await;
    let is_learner = |c: &Coordinator| c.shard(SHARD).unwrap().learners == [name(2)];
    cluster.coordinator.until("a report of the loss", is_learner).await;
    let added = cluster.coordinator.migrate(SHARD, &name(2), None).unwrap();
    assert_eq!(cluster.coordinator.until_ended(added).await.phase, Phase::Done);
    cluster.kill(1);
    cluster.coordinator.expire(&name(1)).await;
    assert!(cluster.has("k").await);
}

#[tokio::test(start_paused = true)]
async fn in_a_silence_leases_run_out_and_they_come_back_after_it() {
    let cluster = Cluster::start(2).await;
    cluster.write("before").await;
    cluster.coordinator.fault(|faults| faults.silent = true);
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(!cluster.lease(1).runs());
    assert_eq!(cluster.write_once("meanwhile").await, Outcome::Unavailable);
    cluster.coordinator.fault(|faults| faults.silent = false);
    cluster.write("after").await;
    assert!(cluster.lease(1).runs());
}

#[tokio::test(start_paused = true)]
async fn lost_requests_and_lost_answers_change_nothing_in_the_end() {
    let cluster = Cluster::start(3).await;
    cluster.coordinator.fault(|faults| {
        faults.lose_answers("/reports", 3);
        faults.lose_requests("/reports", 3);
        faults.lose_answers("/assignments", 2);
        faults.delay = Duration::from_millis(20);
    });
    let moved = cluster.coordinator.migrate(SHARD, &name(3), None).unwrap();
    assert_eq!(cluster.coordinator.until_ended(moved).await.phase, Phase::Done);
    cluster.coordinator.fault(|faults| assert!(faults.lost.iter().all(|lost| lost.left == 0)));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_forgotten_registers_again() {
    let cluster = Cluster::start(2).await;
    let epoch = cluster.coordinator.shard(SHARD).unwrap().epoch;
    cluster.coordinator.forget_run(&name(1));
    cluster
        .coordinator
        .until("another run", |c| c.node(&name(1)).unwrap().incarnation == Incarnation(3))
        .await;
    cluster.write("k").await;
    assert!(cluster.coordinator.shard(SHARD).unwrap().epoch > epoch);
}

fn registration(store_id: &str) -> RegisterRequest {
    serde_json::from_str(&format!(r#"{{"addr":"h:1","store_id":"{store_id}"}}"#)).unwrap()
}

async fn register(coordinator: &Coordinator, n: u64, store_id: &str) -> Result<(), ControlError> {
    let client = coordinator.client().unwrap();
    let call = ControlClient::registration(&name(n), &registration(store_id)).unwrap();
    client.send::<crate::wire::RegisterResponse>(&call).await.map(drop)
}

/// Two nodes that nobody runs; the shards are opened by hand.
async fn by_hand() -> Coordinator {
    let coordinator = Coordinator::new(CoordinatorOptions::default());
    register(&coordinator, 1, "s1").await.unwrap();
    register(&coordinator, 2, "s2").await.unwrap();
    coordinator.found();
    coordinator
}

#[tokio::test(start_paused = true)]
async fn assignments_are_told_as_deltas_and_below_a_compaction_as_a_whole() {
    let coordinator = by_hand().await;
    let client = coordinator.client().unwrap();
    let ask = async |since| -> Result<AssignmentsResponse, ControlError> {
        client.assignments(&name(1), Revision(since), 1_000, None).await.map(|answered| answered.body)
    };
    let whole = ask(0).await.unwrap();
    assert_eq!((whole.full, whole.assignments.len()), (true, 4));
    let begun = tokio::time::Instant::now();
    let none = ask(whole.revision.0).await.unwrap();
    assert_eq!((none.full, none.assignments.len(), none.removed.len()), (false, 0, 0));
    assert!(begun.elapsed() >= Duration::from_secs(1), "it waits for news");
    register(&coordinator, 2, "s2").await.unwrap();
    let delta = ask(whole.revision.0).await.unwrap();
    assert_eq!((delta.full, delta.assignments.len()), (false, 4), "all have a copy there");
    coordinator.compact();
    assert_eq!(ask(whole.revision.0).await.unwrap_err().status(), Some(410));
}

#[tokio::test(start_paused = true)]
async fn a_router_follows_the_watch() {
    let cluster = Cluster::start(3).await;
    let client = cluster.coordinator.client().unwrap();
    let router = Router::start(client.clone(), CancellationToken::new());
    let primary = || router.primary(SHARD).map(|node| node.id);
    cluster.coordinator.until("a map", |_| primary() == Some(name(1))).await;
    let moved = cluster.coordinator.migrate(SHARD, &name(3), None).unwrap();
    cluster.coordinator.until_ended(moved).await;
    cluster.coordinator.until("the news", |_| primary() == Some(name(3))).await;
    cluster.coordinator.compact();
    cluster.coordinator.fault(|faults| faults.unavailable = true);
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.coordinator.declare_down(&name(2));
    cluster.coordinator.fault(|faults| faults.unavailable = false);
    let caught_up = |c: &Coordinator| {
        let map = router.cache().get().unwrap();
        map.node(&name(2)).and_then(|node| node.status()) == Some(NodeStatus::Down)
            || map.revision >= c.shard(SHARD).unwrap().revision
    };
    cluster.coordinator.until("what came meanwhile", caught_up).await;
    let map = client.map(StaleReads::Allowed).await.unwrap();
    assert_eq!(map.shards.len(), 4);
    let view: ClusterView = client.send(&Call::get("/v1/cluster")).await.unwrap().body;
    assert_eq!((view.members.len(), view.num_shards), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_possible_is_refused_and_changes_nothing() {
    let cluster = Cluster::start(3).await;
    let (coordinator, client) = (&cluster.coordinator, cluster.coordinator.client().unwrap());
    let revision = || coordinator.shard(SHARD).unwrap().revision;
    let before = revision();
    let ask = async |shard, to: u64, if_epoch| {
        let request = MigrateRequest { shard, to: name(to), from: None, if_epoch };
        let call = Call::write(http::Method::POST, "/v1/migrations", &request).unwrap();
        let error = client.send::<Migration>(&call).await.unwrap_err();
        (error.status().unwrap(), error.code().unwrap().to_owned())
    };
    let refused = |status, code: &str| (status, code.to_owned());
    assert_eq!(ask(SHARD, 1, None).await, refused(422, "invalid"), "it is there");
    assert_eq!(ask(SHARD, 9, None).await, refused(422, "invalid"), "nobody knows it");
    assert_eq!(ask(ShardId(99), 3, None).await, refused(404, "not_found"));
    assert_eq!(ask(SHARD, 3, Some(crate::ids::Epoch(77))).await, refused(409, "stale_epoch"));
    assert_eq!(revision(), before);
    coordinator.migrate(SHARD, &name(3), None).unwrap();
    assert_eq!(ask(SHARD, 3, None).await, refused(409, "already_migrating"));
    assert_eq!(register(coordinator, 1, "another").await.unwrap_err().code(), Some("node_alive"));
}

#[tokio::test(start_paused = true)]
async fn a_write_repeated_under_its_key_takes_effect_once() {
    let coordinator = by_hand().await;
    let client = coordinator.client().unwrap();
    let call = ControlClient::registration(&name(1), &registration("s1")).unwrap();
    let send = async || client.send::<crate::wire::RegisterResponse>(&call).await.unwrap().body.incarnation;
    coordinator.fault(|faults| faults.lose_answers("/v1/nodes/d1", 1));
    assert_eq!((send().await, send().await), (Incarnation(2), Incarnation(2)));
}
