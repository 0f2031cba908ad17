//! That the shell works: one real control node, three data nodes, two clients.

mod cluster;

use std::time::Duration;

use cluster::Cluster;
use ruvector_cluster_client::ids::ShardId;

use super::client::Mix;
use super::message::{Act, Message, Told, decode, encode};
use super::node::AgentState;
use super::record::{Recorded, WriteOutcome};
use crate::host::Host;
use crate::net::{Quality, Repeatable};

const SHARD: ShardId = ShardId(0);

#[tokio::test(start_paused = true)]
async fn writes_and_reads_are_answered_and_all_copies_become_equal() {
    let mut cluster = Cluster::start(1, Mix::default()).await;
    cluster.until("writes and reads are answered", 60, Cluster::has_answered(500, 400)).await;
    assert!(cluster.recorder.counts().unknown < 50, "{:?}", cluster.recorder.counts());
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn another_node_answers_for_a_primary_that_was_killed_once_its_lease_is_over() {
    let mut cluster = Cluster::start(2, Mix::default()).await;
    cluster.until("writes are answered", 60, Cluster::has_answered(100, 50)).await;
    let (at, epoch) = cluster.primary(SHARD).unwrap();
    let before = cluster.records().len();
    cluster.nodes[at].kill();
    let killed = tokio::time::Instant::now();
    cluster.until("another primary", 60, |c| c.primary(SHARD).is_some_and(|(_, e)| e > epoch)).await;
    // The last grant was sent at most one heartbeat before the end, and is waited for 1.05 times as long as it lasts.
    let waited = killed.elapsed();
    assert!(waited >= Duration::from_millis(3_100), "{waited:?}: the lease may still have run");
    assert!(waited < Duration::from_secs(15), "{waited:?}");
    let acknowledged = |c: &Cluster| {
        c.records()[before..].iter().any(|record| match &record.act {
            Recorded::Write { outcome: WriteOutcome::Acknowledged { position, .. }, .. } => {
                record.key.shard == SHARD && position.epoch > epoch
            }
            _ => false,
        })
    };
    cluster.until("a write under the new epoch", 30, acknowledged).await;
    cluster.nodes[at] = cluster.nodes[at].restart();
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_was_paused_past_its_lease_answers_nothing_under_the_old_epoch() {
    let mix = Mix { astray_per_mille: 500, without_epoch_per_mille: 500, ..Mix::default() };
    let mut cluster = Cluster::start(3, mix).await;
    cluster.until("writes are answered", 60, Cluster::has_answered(100, 50)).await;
    let (at, epoch) = cluster.primary(SHARD).unwrap();
    cluster.nodes[at].set_paused(true);
    let asker = Host::new("asker");
    let key = cluster.keys.iter().find(|key| key.shard == SHARD).unwrap().key.to_string();
    let asked: Vec<_> = [Act::Get, Act::Put("late".to_owned())]
        .into_iter()
        .map(|act| {
            let message = Message::Client {
                shard: SHARD,
                epoch: Some(epoch),
                key: key.clone(),
                act,
                patience_ms: 120_000,
            };
            let (net, host, addr) =
                (cluster.net.clone(), asker.clone(), cluster.nodes[at].machine().addr.clone());
            asker.spawn(async move { net.ask_data(&host, &addr, Repeatable::No, encode(&message)).await })
        })
        .collect();
    let reads = cluster.recorder.counts().read;
    let succeeded = |c: &Cluster| {
        c.primary_but(at, SHARD).is_some_and(|e| e > epoch) && c.recorder.counts().read > reads + 30
    };
    cluster.until("another primary", 120, succeeded).await;
    cluster.nodes[at].set_paused(false);
    for asked in asked {
        let told: Told = decode(&asked.await.unwrap().unwrap()).unwrap();
        assert!(matches!(told, Told::Refused { .. }), "{told:?}");
    }
    cluster.until("it holds copies again", 60, |c| c.nodes[at].lease_runs()).await;
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_when_all_machines_lose_power() {
    let mut cluster = Cluster::start(4, Mix { pause_ms: (0, 4), ..Mix::default() }).await;
    for node in &cluster.nodes {
        node.machine().disk.set_sync_us((2_000, 20_000));
    }
    for round in 1..=4_u64 {
        let more = round * 200;
        cluster.until("writes are answered", 60, Cluster::has_answered(more, 1)).await;
        cluster.lose_power(round).await;
    }
    let cut: u64 = cluster.nodes.iter().map(|node| node.machine().disk.counts().cut).sum();
    assert!(cut > 0, "power was never lost while something was in flight");
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_failed_and_a_store_that_was_wiped_are_filled_again() {
    let mut cluster = Cluster::start(5, Mix::default()).await;
    cluster.until("writes are answered", 60, Cluster::has_answered(100, 50)).await;
    let (at, _) = cluster.primary(SHARD).unwrap();
    cluster.nodes[(at + 1) % 3].machine().disk.fail_next(2);
    cluster.until("it fails", 10, |c| c.nodes[(at + 1) % 3].machine().disk.counts().failed == 2).await;
    cluster.until("copies are equal again", 120, Cluster::is_whole).await;
    cluster.nodes[at] = cluster.nodes[at].restart_wiped();
    cluster.until("copies are equal again", 240, Cluster::is_whole).await;
    assert_eq!(cluster.nodes[at].agent(), AgentState::Runs);
    cluster.nodes[at].machine().disk.set_full(true);
    let before = cluster.recorder.counts().acknowledged;
    // Where it is primary itself its clients wait in vain, so this takes its time.
    cluster.until("others go on", 120, |c| c.recorder.counts().acknowledged > before + 40).await;
    cluster.nodes[at].machine().disk.set_full(false);
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_late_lost_and_repeated_do_no_harm() {
    let mut cluster = Cluster::start(6, Mix::default()).await;
    cluster.until("writes are answered", 60, Cluster::has_answered(50, 10)).await;
    cluster.net.set_quality(Quality {
        delay_us: (100, 5_000),
        straggle_per_mille: 50,
        loss_per_mille: 10,
        repeat_per_mille: 100,
    });
    cluster.until("operations are answered", 600, Cluster::has_answered(400, 250)).await;
    cluster.net.set_quality(Quality::GOOD);
    assert!(cluster.net.counts().repeated > 50);
    cluster.finish().await;
}

/// Which branch of a `select!` is looked at first, and whom a `watch` wakes first, follows from a seed only in such a build.
#[cfg(tokio_unstable)]
#[test]
fn the_same_seed_has_the_same_trace() {
    let run = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.rng_seed(tokio::runtime::RngSeed::from_bytes(b"7"));
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut cluster = Cluster::start(7, Mix::default()).await;
            cluster.until("writes are answered", 60, Cluster::has_answered(50, 10)).await;
            let (at, _) = cluster.primary(SHARD).unwrap();
            cluster.nodes[at] = cluster.nodes[at].restart();
            cluster.until("more are", 60, Cluster::has_answered(200, 100)).await;
            let records = cluster.records();
            cluster::assert_epochs_never_fall(&records);
            (cluster.trace.hash(), records)
        })
    };
    let (first, second) = (run(), run());
    assert_eq!(first.1, second.1);
    assert_eq!(first.0, second.0);
}
