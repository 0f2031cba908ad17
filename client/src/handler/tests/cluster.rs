//! Handlers under agents, and the in-memory coordinator over all.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::rig::{Does, Recorder, TestClock, node};
use crate::agent::{Agent, AgentConfig, AgentError, LeaseWatch, Outbox};
use crate::copies::TokioSpawn;
use crate::handler::{HandlerHost, HandlerOptions, ShardHandler};
use crate::ids::ShardId;
use crate::testing::{Coordinator, CoordinatorOptions};
use crate::wire::{Phase, Role};

/// Is told, and says that all is well.
struct Told;

impl ShardHandler for Told {}

struct Process {
    lease: LeaseWatch,
    _agent: AbortOnDropHandle<Result<(), AgentError>>,
}

fn start(n: u64, coordinator: &Coordinator, handler: Arc<dyn ShardHandler>) -> Process {
    let clock = Arc::new(TestClock(Instant::now()));
    let (lease, (reporter, outbox)) = (LeaseWatch::new(clock.clone()), Outbox::new());
    let (spawn, options) = (Arc::new(TokioSpawn), HandlerOptions::default());
    let host = HandlerHost::start(node(n), handler, lease.clone(), reporter, spawn, options);
    let registration = format!(r#"{{"addr":"d{n}:1","store_id":"s{n}"}}"#);
    let config = AgentConfig::new(node(n), serde_json::from_str(&registration).unwrap());
    let agent = Agent::new(config, coordinator.client().unwrap(), host, clock, lease.clone(), outbox);
    Process { lease, _agent: AbortOnDropHandle::new(tokio::spawn(agent.run(CancellationToken::new()))) }
}

async fn founded(handlers: [Arc<dyn ShardHandler>; 3]) -> (Coordinator, Vec<Process>) {
    let coordinator = Coordinator::new(CoordinatorOptions::default());
    let start = |(n, handler)| start(n, &coordinator, handler);
    let processes = (1..).zip(handlers).map(start).collect();
    coordinator.until("registrations", |c| (1..=3).all(|n| c.node(&node(n)).is_some())).await;
    coordinator.found();
    coordinator.until_opened().await;
    (coordinator, processes)
}

const SHARD: ShardId = ShardId(0);

#[tokio::test(start_paused = true)]
async fn a_handler_of_defaults_goes_through_every_kind_of_migration_and_a_failover() {
    let told = || -> Arc<dyn ShardHandler> { Arc::new(Told) };
    let (coordinator, mut processes) = founded([told(), told(), told()]).await;
    let shard = || coordinator.shard(SHARD).unwrap();
    assert_eq!((shard().primary, shard().replicas), (Some(node(1)), vec![node(2)]));
    coordinator.until("leases", |_| processes.iter().all(|process| process.lease.runs())).await;

    let moved = coordinator.migrate(SHARD, &node(3), Some(&node(2))).unwrap();
    assert_eq!(coordinator.until_ended(moved).await.phase, Phase::Done);
    assert_eq!((shard().primary, shard().replicas), (Some(node(1)), vec![node(3)]));
    let retired = |c: &Coordinator| c.assignments(&node(2)).iter().all(|held| held.role != Role::Retiring);
    coordinator.until("the old copy's end", retired).await;

    let moved = coordinator.migrate(SHARD, &node(2), None).unwrap();
    assert_eq!(coordinator.until_ended(moved).await.phase, Phase::Done);
    assert_eq!((shard().primary, shard().in_sync), (Some(node(2)), vec![node(2), node(3)]));
    let promoted = coordinator.migrate(SHARD, &node(3), None).unwrap();
    assert_eq!(coordinator.until_ended(promoted).await.phase, Phase::Done);
    let epoch = shard().epoch;

    drop(processes.remove(2));
    coordinator.expire(&node(3)).await;
    assert_eq!(shard().primary, Some(node(2)));
    assert!(shard().epoch > epoch);
    processes.push(start(3, &coordinator, told()));
    coordinator
        .until("its return", |c| c.node(&node(3)).unwrap().status != crate::wire::NodeStatus::Down)
        .await;
    let removed = coordinator.remove(SHARD, &node(3)).unwrap();
    assert_eq!(coordinator.migration(removed).unwrap().phase, Phase::Done);
    coordinator
        .until("the copy's end", |c| c.assignments(&node(3)).iter().all(|held| held.shard != SHARD))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_restarts_in_the_middle_of_copying_is_called_again() {
    let (first, again) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
    first.does("copy", Does::WaitForRelease);
    let (coordinator, mut processes) = founded([Arc::new(Told), Arc::new(Told), first.clone()]).await;
    let moved = coordinator.migrate(SHARD, &node(3), None).unwrap();
    first.until("copy 0").await;
    drop(processes.pop());
    processes.push(start(3, &coordinator, again.clone()));
    assert_eq!(coordinator.until_ended(moved).await.phase, Phase::Done);
    let calls: Vec<String> =
        again.calls().into_iter().filter(|call| call == "create 0" || call == "copy 0").collect();
    assert_eq!(calls, ["create 0", "copy 0"]);
    assert_eq!(coordinator.shard(SHARD).unwrap().primary, Some(node(3)));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_migration_ends_its_call_and_deletes_what_it_made() {
    let handler = Arc::new(Recorder::default());
    handler.does("copy", Does::WaitForCancel);
    let (coordinator, _processes) = founded([Arc::new(Told), Arc::new(Told), handler.clone()]).await;
    let moved = coordinator.migrate(SHARD, &node(3), Some(&node(2))).unwrap();
    handler.until("copy 0").await;
    coordinator.cancel(moved).unwrap();
    handler.until("delete 0").await;
    assert_eq!(handler.count("copy 0 ends"), 1);
    coordinator
        .until("the row's end", |c| c.assignments(&node(3)).iter().all(|held| held.shard != SHARD))
        .await;
    assert_eq!(coordinator.shard(SHARD).unwrap().in_sync, [node(1), node(2)]);
}
