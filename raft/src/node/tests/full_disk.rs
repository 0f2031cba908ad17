//! Leaders without room: whom they hand over to, and that reads go on where there is nobody.
//!
//! Node 0 leads, and its segments are the smallest, so that its log says that the disk is full before any log is stuck.

use std::time::Duration;

use bytes::Bytes;
use ruvector_cluster_storage::Disk;
use tokio::time::Instant;

use super::*;
use crate::node::hand_over::PAUSE;

async fn led_by_the_first() -> Cluster {
    let mut cluster = Cluster::in_memory(3);
    cluster.segment_bytes = 110 << 10;
    cluster.start(0).await;
    cluster.segment_bytes = 256 << 10;
    cluster.start_all(&[1, 2]).await;
    cluster.put("first", "1").await;
    cluster.converge("first", "1").await;
    let leader = cluster.leader().await;
    if leader != 0 {
        cluster.node(leader).transfer(Some(cluster.node(0).raft_id())).await.unwrap();
    }
    eventually("node 0 leads", async || cluster.leader().await == 0).await;
    cluster
}

fn term(cluster: &Cluster) -> Option<u64> {
    cluster.node(0).leadership().borrow().mine.map(|mine| mine.term)
}

/// Leaves room for what grows by some bytes, such as a vote, and for no segment.
async fn leave_little_room(cluster: &Cluster, at: usize) {
    let disk = &cluster.members[&at].disk;
    let names = disk.list().await.unwrap();
    let used: usize = names.iter().filter_map(|name| disk.content(name)).map(|file| file.len()).sum();
    disk.set_capacity(Some(used as u64 + 2_000));
}

/// Writes until these say that their disks are full.
async fn fill(cluster: &Cluster, all: &[usize]) {
    for at in all {
        leave_little_room(cluster, *at).await;
    }
    let write = Bytes::from(format!("big={}", "x".repeat(30_000)));
    eventually("the disks are full", async || {
        if all.iter().all(|at| cluster.node(*at).status().disk_full) {
            return true;
        }
        drop(cluster.node(0).propose(write.clone()).await);
        false
    })
    .await;
}

/// Node 0 goes on leading in that term, and answers reads, for longer than it waits between two tries to hand over.
async fn reads_go_on(cluster: &Cluster, led: Option<u64>) {
    let begun = Instant::now();
    while begun.elapsed() < PAUSE + PAUSE / 2 {
        assert_eq!(cluster.get(0, "first").await.as_deref(), Some("1"));
        assert_eq!(term(cluster), led, "{:?}", cluster.describe());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn make_room_and_write(cluster: &Cluster) {
    cluster.members.values().for_each(|member| member.disk.set_capacity(None));
    eventually("writes are taken again", async || {
        let leader = cluster.leader().await;
        cluster.node(leader).propose(Bytes::from_static(b"after=1")).await.is_ok()
    })
    .await;
    cluster.converge("after", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_stays_and_serves_reads_where_all_disks_are_full() {
    let cluster = led_by_the_first().await;
    let led = term(&cluster);
    fill(&cluster, &[1, 2]).await;
    fill(&cluster, &[0]).await;
    let status = cluster.node(0).status();
    assert_eq!(status.committed, status.last_log, "nobody is stuck: {:?}", cluster.describe());
    reads_go_on(&cluster, led).await;
    make_room_and_write(&cluster).await;
}

/// The one with room could not commit its first entry, and would serve no read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_stays_where_the_log_waits_for_room_at_a_quorum() {
    let cluster = led_by_the_first().await;
    let led = term(&cluster);
    fill(&cluster, &[1]).await;
    leave_little_room(&cluster, 0).await;
    // One write that fits in no segment: more of them might be refused before the logs are stuck.
    let write = Bytes::from(format!("big={}", "x".repeat(300_000)));
    let node = cluster.node(0).clone();
    let held = tokio::spawn({
        let node = node.clone();
        async move { node.propose(write).await }
    });
    eventually("the log waits for room at two of three", async || {
        let status = node.status();
        status.disk_full
            && status.committed < status.last_log
            && cluster.node(2).status().durable == status.last_log
    })
    .await;
    reads_go_on(&cluster, led).await;
    make_room_and_write(&cluster).await;
    drop(held.await.unwrap());
}

/// The lead went to and fro between two full ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_voter_with_room_gets_the_lead_also_when_it_sorts_last() {
    let cluster = led_by_the_first().await;
    // Among equals the highest id was taken.
    let (roomy, full) = if cluster.node(1).raft_id() < cluster.node(2).raft_id() { (1, 2) } else { (2, 1) };
    fill(&cluster, &[full]).await;
    fill(&cluster, &[0]).await;
    eventually("another one leads", async || cluster.leader().await != 0).await;
    assert_eq!(cluster.leader().await, roomy, "{:?}", cluster.describe());
    cluster.put("after", "1").await;
    assert_eq!(cluster.get(roomy, "after").await.as_deref(), Some("1"));
    assert!(cluster.node(full).status().disk_full && !cluster.node(roomy).status().disk_full);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_on_a_full_disk_shuts_down() {
    let mut cluster = Cluster::in_memory(1);
    cluster.adjust = |_, config| config.seeds.clear();
    cluster.start(0).await;
    cluster.put("first", "1").await;
    cluster.members[&0].disk.set_capacity(Some(0));
    let write = Bytes::from(format!("big={}", "x".repeat(1 << 20)));
    let node = cluster.node(0).clone();
    let held = tokio::spawn(async move { node.propose(write).await });
    eventually("the write waits for room", async || {
        let status = cluster.node(0).status();
        status.disk_full && status.durable < status.last_log
    })
    .await;
    tokio::time::timeout(cluster::PATIENCE, cluster.stop(0)).await.expect("it ends");
    assert!(held.await.unwrap().is_err());
    cluster.members[&0].disk.set_capacity(None);
    cluster.start(0).await;
    cluster.leader().await;
    assert_eq!(cluster.get(0, "first").await.as_deref(), Some("1"));
}
