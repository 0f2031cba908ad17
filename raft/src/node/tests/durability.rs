//! What is acknowledged is on disk by then: seen through the disks of three nodes, whose syncs are held back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ruvector_cluster_storage::{Wal, WalOptions};

use super::*;
use crate::codec;
use crate::error::ProposeError;
use crate::types::Payload;

/// Long enough for an acknowledgement that should not come, short against an election.
const HELD: Duration = Duration::from_millis(60);

async fn founded() -> Cluster {
    let mut cluster = Cluster::in_memory(3);
    cluster.start_all(&[0, 1, 2]).await;
    cluster.put("first", "1").await;
    cluster.converge("first", "1").await;
    cluster
}

/// On how many disks every crash of now would leave this command at this index.
async fn safe_copies(cluster: &Cluster, index: u64, command: &Bytes) -> usize {
    let mut copies = 0;
    for (at, node) in cluster.running() {
        // Of what is not synced, every seed of a crash may keep nothing.
        let disk = cluster.members[&at].disk.synced();
        let wal = Wal::open(Arc::new(disk), WalOptions::new(node.raft_id())).await.unwrap();
        let found = wal.read(index..index + 1, u64::MAX).await.unwrap();
        let is_it = |(at, record): &(u64, Bytes)| {
            let entry = codec::decode_entry(record.clone()).unwrap();
            *at == index && matches!(entry.payload, Payload::Normal(kept) if kept.body == *command)
        };
        copies += usize::from(found.first().is_some_and(is_it));
    }
    copies
}

fn hold(cluster: &Cluster, at: usize, held: bool) {
    cluster.members[&at].disk.set_syncs_held(held);
}

#[tokio::test]
async fn nothing_is_acknowledged_before_a_majority_has_synced_it() {
    let cluster = founded().await;
    let mut held_back = 0;
    for round in 0..24_usize {
        let leader = cluster.leader().await;
        // All pairs, the leader's too; in every fourth round one alone, of which nobody should notice anything.
        let (first, second) = (round % 3, (round + 1) % 3);
        let pair = round % 4 != 3;
        hold(&cluster, first, true);
        hold(&cluster, second, pair);
        let command = Bytes::from(format!("k{round}={round}"));
        let proposal = tokio::spawn({
            let (node, command) = (cluster.node(leader).clone(), command.clone());
            async move { node.propose(command).await }
        });
        if pair {
            tokio::time::sleep(HELD).await;
            if proposal.is_finished() {
                let answer = proposal.await.unwrap();
                assert!(
                    matches!(answer, Err(ProposeError::NotLeader { .. } | ProposeError::Unknown)),
                    "round {round}: acknowledged while {first} and {second} had not synced it: {answer:?}"
                );
            } else {
                held_back += 1;
                hold(&cluster, if round % 2 == 0 { first } else { second }, false);
                let answer = tokio::time::timeout(cluster::PATIENCE, proposal).await.unwrap().unwrap();
                if let Ok(committed) = answer {
                    let copies = safe_copies(&cluster, committed.index, &command).await;
                    assert!(copies >= 2, "round {round}: acknowledged with {copies} copies on disk");
                }
            }
        } else if let Ok(committed) =
            tokio::time::timeout(cluster::PATIENCE, proposal).await.unwrap().unwrap()
        {
            let copies = safe_copies(&cluster, committed.index, &command).await;
            assert!(copies >= 2, "round {round}: acknowledged with {copies} copies on disk");
        }
        (0..3).for_each(|at| hold(&cluster, at, false));
    }
    assert!(held_back >= 12, "only {held_back} proposals were held back");
    cluster.put("last", "1").await;
    cluster.converge("last", "1").await;
}

#[tokio::test]
async fn a_failed_sync_stops_the_node() {
    let cluster = founded().await;
    let leader = cluster.leader().await;
    cluster.members[&leader].disk.fail_syncs();
    let node = cluster.node(leader).clone();
    let unknown = node.propose(Bytes::from_static(b"first=2")).await;
    tokio::time::timeout(cluster::PATIENCE, node.fatal()).await.unwrap();
    // The two others may have it.
    assert!(!matches!(unknown, Err(ProposeError::DiskFull | ProposeError::Overloaded)), "{unknown:?}");
    node.propose(Bytes::from_static(b"first=3")).await.unwrap_err();
}

/// Writes that fill a segment, until they are refused for want of room.
async fn fill(cluster: &Cluster, at: usize) {
    let big = Bytes::from(format!("big={}", "x".repeat(100_000)));
    eventually("the log is full", async || {
        let write = tokio::time::timeout(Duration::from_millis(100), cluster.node(at).propose(big.clone()));
        drop(write.await);
        cluster.node(at).status().disk_full
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_full_disk_hands_over_and_serves_reads() {
    let cluster = founded().await;
    let old = cluster.leader().await;
    cluster.members[&old].disk.set_capacity(Some(0));
    fill(&cluster, old).await;
    eventually("another one leads", async || cluster.leader().await != old).await;
    cluster.put("after", "1").await;
    assert_eq!(cluster.members[&old].view.get("first"), Some(Bytes::from_static(b"1")));
    cluster.members[&old].disk.set_capacity(None);
    cluster.converge("after", "1").await;
    assert_eq!(cluster.get(old, "after").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_a_full_disk_holds_up_nobody_and_catches_up() {
    let cluster = founded().await;
    let leader = cluster.leader().await;
    let full = (leader + 1) % 3;
    cluster.members[&full].disk.set_capacity(Some(0));
    for n in 0..20 {
        cluster.put(&format!("k{n}"), &"x".repeat(100_000)).await;
    }
    let node = cluster.node(full);
    eventually("it says so", async || node.status().disk_full).await;
    let index = cluster.put("last", "1").await.index;
    let disk = cluster.members[&full].disk.synced();
    let wal = Wal::open(Arc::new(disk), WalOptions::new(node.raft_id())).await.unwrap();
    assert!(wal.last_index() < Some(index), "there was no room for it");
    cluster.members[&full].disk.set_capacity(None);
    cluster.converge("last", "1").await;
}
