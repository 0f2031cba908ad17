//! Whoever lost a shard does not answer for it: silent nodes lose their primaries, returning ones are refused by epoch,
//! paused ones answer nothing that was asked after their successor's first answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ruvector_cluster::client::ids::ShardId;
use ruvector_cluster::client::wire::{InSyncMember, InSyncProposal, MapShard, Node, NodeStatus, Report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Api, ControlCluster, DEADLINE, DataNode, Options, ScriptedNode, wait_for};

async fn wait_for_status(cluster: &ControlCluster, node: &str, status: NodeStatus) {
    wait_for(&format!("{node} to be {status:?}"), DEADLINE, async || {
        let node: Node = cluster.any().get_as(&format!("/v1/nodes/{node}")).await?;
        if node.status == status { Ok(()) } else { Err(format!("{node:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_loses_its_primaries_to_in_sync_copies_and_is_refused_by_epoch() {
    let cluster = ControlCluster::start(3).await;
    let mut nodes = Vec::new();
    for name in ["d1", "d2", "d3"] {
        nodes.push(ScriptedNode::start(&cluster, name, None).await);
    }
    cluster.wait_for_healthy(3).await;
    let before = cluster.map().await;
    let silent = &nodes[0];
    let led = |shard: &MapShard| shard.primary.as_ref() == Some(silent.id());
    assert!(before.shards.iter().any(led), "the node to fall silent has no primary");

    silent.fall_silent();
    wait_for_status(&cluster, "d1", NodeStatus::Down).await;
    wait_for("the primaries to move", DEADLINE, async || {
        let left = cluster.map().await.shards.iter().filter(|shard| led(shard)).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} left")) }
    })
    .await;
    let after = cluster.map().await;
    for (old, new) in before.shards.iter().zip(&after.shards).filter(|(old, _)| led(old)) {
        let primary = new.primary.as_ref().unwrap();
        assert!(old.in_sync.contains(primary), "{primary} was not in sync: {old:?}, {new:?}");
        assert!(new.epoch > old.epoch, "{old:?}, {new:?}");
    }

    // It returns and speaks as the primary that it was: refused, and nothing changes.
    silent.speak();
    wait_for_status(&cluster, "d1", NodeStatus::Alive).await;
    let lost = before.shards.iter().position(led).unwrap();
    let mut report = Report::new(ShardId(u32::try_from(lost).unwrap()), before.shards[lost].epoch);
    let alone = InSyncMember { node: silent.id().clone(), incarnation: silent.incarnation() };
    report.in_sync_set = Some(InSyncProposal { if_version: u64::MAX, members: vec![alone] });
    let answer = silent.report(vec![report]).await.unwrap();
    assert!(!answer.results[0].accepted);
    assert_eq!(answer.results[0].code.as_deref(), Some("stale_epoch"));
}

/// Reads under way at each node, at most.
const READS_AT_ONCE: usize = 48;
/// Reads left at the paused node. With those under way they fit into the 128 connections that wait to be accepted.
const LATE_READS: usize = 40;

/// One answered read.
#[derive(Clone, Copy, Debug)]
struct Answered {
    shard: usize,
    epoch: u64,
    invoked: Instant,
    answered: Instant,
}

/// Reads `keys` at one node, many at once, until it is stopped.
async fn read_on(api: Api, keys: Vec<(String, usize)>, answers: Arc<Mutex<Vec<Answered>>>) {
    let mut reads = JoinSet::new();
    for turn in 0.. {
        let (id, shard) = keys[turn % keys.len()].clone();
        let (api, answers) = (api.clone(), Arc::clone(&answers));
        reads.spawn(async move {
            let invoked = Instant::now();
            let Ok(answer) = api.get(&format!("/v1/vectors/{id}")).await else { return };
            if let (200, Some(epoch)) = (answer.status, answer.number("x-shard-epoch")) {
                let answered = Answered { shard, epoch, invoked, answered: Instant::now() };
                answers.lock().unwrap().push(answered);
            }
        });
        while reads.len() > READS_AT_ONCE {
            reads.join_next().await;
        }
        while reads.try_join_next().is_some() {}
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends a read; on return it is in the hands of the kernel, though nobody may run who reads it.
async fn invoke_read(addr: &str, id: &str) -> TcpStream {
    let connected = tokio::time::timeout(DEADLINE, TcpStream::connect(addr)).await;
    let mut stream = connected.expect("room among the connections to be accepted").unwrap();
    let request = format!("GET /v1/vectors/{id} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// The epoch under which that read was answered, if it was.
async fn epoch_answered(mut stream: TcpStream) -> Option<u64> {
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("an end").ok()?;
    let answer = answer.to_ascii_lowercase();
    let is_success = answer.starts_with("http/1.1 200");
    let epoch = answer.lines().find_map(|line| line.strip_prefix("x-shard-epoch:"));
    epoch.filter(|_| is_success)?.trim().parse().ok()
}

/// Answers under an older epoch to reads that were invoked after the first answer under a newer one.
fn too_old(answers: &[Answered]) -> Vec<Answered> {
    let mut first: BTreeMap<(usize, u64), Instant> = BTreeMap::new();
    for answer in answers {
        let at = first.entry((answer.shard, answer.epoch)).or_insert(answer.answered);
        *at = (*at).min(answer.answered);
    }
    let newer_before = |old: &&Answered| {
        let newer = first.range((old.shard, old.epoch + 1)..(old.shard + 1, 0));
        newer.into_iter().any(|(_, at)| *at < old.invoked)
    };
    answers.iter().filter(newer_before).copied().collect()
}

#[test]
fn the_check_sees_an_answer_under_an_epoch_that_is_over() {
    let start = Instant::now();
    let answer = |epoch, invoked: u64, answered: u64| Answered {
        shard: 3,
        epoch,
        invoked: start + Duration::from_millis(invoked),
        answered: start + Duration::from_millis(answered),
    };
    assert!(too_old(&[answer(1, 0, 50), answer(2, 10, 20), answer(1, 15, 60)]).is_empty());
    assert_eq!(too_old(&[answer(1, 0, 50), answer(2, 10, 20), answer(1, 21, 60)]).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_paused_past_its_lease_answers_nothing_asked_after_its_successors_first_answer() {
    let cluster = ControlCluster::start_with(Options::default().shards(8)).await;
    let nodes: Vec<DataNode> =
        ["d1", "d2", "d3"].iter().map(|name| DataNode::start(&cluster, name, None)).collect();
    cluster.wait_for_healthy(3).await;
    let keys: Vec<String> = (0..64).map(|n| format!("key-{n}")).collect();
    for (n, key) in (0_u8..).zip(&keys) {
        wait_for("a write", DEADLINE, async || nodes[0].write(key, [f32::from(n), 0.0, 1.0, 2.0]).await)
            .await;
    }
    let map = cluster.map().await;
    let shard_of = |key: &String| {
        usize::try_from(ruvector_cluster::client::hashing::shard_of_key(key, map.num_shards).0).unwrap()
    };
    let paused = &nodes[0];
    let is_led = |key: &&String| {
        map.shards[shard_of(key)].primary.as_ref().is_some_and(|primary| primary.as_str() == paused.name())
    };
    let led: Vec<(String, usize)> =
        keys.iter().filter(is_led).map(|key| (key.clone(), shard_of(key))).collect();
    assert!(!led.is_empty(), "the node to pause leads no shard with a key");

    let answers = Arc::new(Mutex::new(Vec::new()));
    let mut readers = JoinSet::new();
    for node in &nodes {
        readers.spawn(read_on(node.api(), led.clone(), Arc::clone(&answers)));
    }
    let answered_above = async |epochs: &BTreeMap<usize, u64>| {
        wait_for("every shard to be answered under a newer epoch", DEADLINE, async || {
            let seen = epochs_of(&answers.lock().unwrap());
            let newer = |(shard, epoch): (&usize, &u64)| seen.get(shard).is_some_and(|newest| newest > epoch);
            if epochs.iter().all(newer) { Ok(()) } else { Err(format!("{seen:?} after {epochs:?}")) }
        })
        .await;
    };
    answered_above(&led.iter().map(|(_, shard)| (*shard, 0)).collect()).await;
    let old = epochs_of(&answers.lock().unwrap());
    paused.process().pause();
    wait_for_status(&cluster, paused.name(), NodeStatus::Down).await;
    answered_above(&old).await;
    // Reads that are invoked only now lie at the paused node when it runs again.
    let mut late = Vec::new();
    for (id, shard) in led.iter().cycle().take(LATE_READS) {
        let invoked = Instant::now();
        late.push((*shard, invoked, invoke_read(&paused.addr(), id).await));
    }
    paused.process().resume();
    let resumed = Instant::now();
    wait_for_status(&cluster, paused.name(), NodeStatus::Alive).await;
    wait_for("reads that are invoked after the node resumed to be answered", DEADLINE, async || {
        let late = answers.lock().unwrap().iter().filter(|answer| answer.invoked > resumed).count();
        if late > 100 { Ok(()) } else { Err(late) }
    })
    .await;
    readers.shutdown().await;
    let mut answers = answers.lock().unwrap().clone();
    let before = answers.len();
    for (shard, invoked, stream) in late {
        if let Some(epoch) = epoch_answered(stream).await {
            answers.push(Answered { shard, epoch, invoked, answered: Instant::now() });
        }
    }
    assert!(answers.len() > before, "the node that was paused answered none of the reads that it found");
    let wrong = too_old(&answers);
    assert!(
        wrong.is_empty(),
        "{} of {} answers under an epoch that was over: {wrong:?}",
        wrong.len(),
        answers.len()
    );
}

/// The newest epoch of each shard that an answer named.
fn epochs_of(answers: &[Answered]) -> BTreeMap<usize, u64> {
    let mut newest = BTreeMap::new();
    for answer in answers {
        let epoch = newest.entry(answer.shard).or_insert(answer.epoch);
        *epoch = answer.epoch.max(*epoch);
    }
    newest
}
