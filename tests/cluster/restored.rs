//! All control nodes are lost, and a cluster is restored from a backup while the data nodes run.

use std::path::Path;
use std::process::{Command, Output};

use ruvector_cluster::client::wire::{ClusterView, Health, Node, ResumeResponse, ShardMap};
use serde_json::{Value, json};

use crate::support::data::DIMENSIONS;
use crate::support::http::Answer;
use crate::support::process::program;
use crate::support::{Api, ControlCluster, DEADLINE, DataNode, Options, wait_for};

const SHARDS: u32 = 8;

fn vector(n: usize) -> [f32; DIMENSIONS] {
    [n as f32, 1.0, 2.0, 3.0]
}

async fn write(node: &DataNode, numbers: std::ops::Range<usize>) {
    for n in numbers {
        wait_for(&format!("vector v{n} to be written"), DEADLINE, async || {
            node.write(&format!("v{n}"), vector(n)).await
        })
        .await;
    }
}

async fn back_up(api: &Api, file: &Path) {
    let answer = api.http().get(format!("{}/v1/snapshot", api.base())).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("x-cluster-revision"));
    std::fs::write(file, answer.bytes().await.unwrap()).unwrap();
}

fn run(args: &[&str]) -> Output {
    Command::new(program("ruvector-cluster")).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Moves every other shard away from its primary: afterwards the backup's map is wrong about those.
async fn move_shards(cluster: &ControlCluster) {
    let api = cluster.any();
    let before = cluster.map().await;
    for shard in (0..SHARDS).step_by(2) {
        wait_for("a move to be taken", DEADLINE, async || move_shard(&api, shard, &before).await).await;
    }
    wait_for("all moves to end", DEADLINE * 2, async || {
        let active: Value = api.get_as("/v1/migrations?active=true").await?;
        if active["migrations"].as_array().is_some_and(Vec::is_empty) {
            Ok(())
        } else {
            Err(active.to_string())
        }
    })
    .await;
}

/// Asks for a move of a shard away from its primary of before. The map is read each time: levelling moves copies too, and a request
/// whose answer was late may have been carried out.
async fn move_shard(api: &Api, shard: u32, before: &ShardMap) -> Result<(), String> {
    let map: ShardMap = api.get_as("/v1/map").await?;
    let row = &map.shards[shard as usize];
    if row.primary != before.shards[shard as usize].primary {
        return Ok(());
    }
    let spare =
        map.nodes.keys().find(|node| row.primary.as_ref() != Some(node) && !row.replicas.contains(node));
    let to = spare.ok_or("no node is without a copy")?;
    let answer = api.post("/v1/migrations", &json!({"shard": shard, "to": to})).await?;
    if answer.status == 202 { Ok(()) } else { Err(format!("{answer:?}")) }
}

/// All control nodes lose their disks, and the first gets a directory from the backup.
fn lose_and_restore(cluster: &mut ControlCluster, backup: &Path, before: &ClusterView) {
    for node in 0..3 {
        cluster.kill(node);
        std::fs::remove_dir_all(cluster.data_dir(node)).unwrap();
    }
    let from = backup.to_str().unwrap();
    let inspected = run(&["snapshot", "inspect", "--from", from]);
    assert!(inspected.status.success(), "{}", said(&inspected));
    assert!(said(&inspected).contains(&format!("cluster: {}", before.cluster_id)), "{}", said(&inspected));
    let mut restore: Vec<String> = ["snapshot", "restore", "--from", from].map(str::to_owned).to_vec();
    restore.extend(cluster.server_flags(0));
    let restore: Vec<&str> = restore.iter().map(String::as_str).collect();
    let restored = run(&restore);
    assert!(restored.status.success(), "{}", said(&restored));
    let again = run(&restore);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(said(&again).contains("not empty"), "{}", said(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_vector_is_found_after_all_control_nodes_were_lost() {
    let options = Options::default().shards(SHARDS).flags(&["--replication-factor", "2"]);
    let mut cluster = ControlCluster::start_with(options).await;
    let mut nodes: Vec<DataNode> =
        ["d1", "d2", "d3"].map(|name| DataNode::start(&cluster, name, None)).into();
    cluster.wait_for_healthy(3).await;
    write(&nodes[0], 0..40).await;
    let backup = cluster.folder().join("backup.snapshot");
    back_up(&cluster.any(), &backup).await;
    let before: ClusterView = cluster.any().get_as("/v1/cluster").await.unwrap();
    move_shards(&cluster).await;
    write(&nodes[1], 40..60).await;
    // A node that falls behind: of what it led by the backup's map it has the older copy.
    nodes[2].kill();
    write(&nodes[1], 60..80).await;
    let lost: ClusterView = cluster.any().get_as("/v1/cluster").await.unwrap();

    lose_and_restore(&mut cluster, &backup, &before);
    for node in 0..3 {
        cluster.spawn(node);
    }
    cluster.wait_for_leader().await;
    let api = cluster.api(0);
    let view: ClusterView = api.get_as("/v1/cluster").await.unwrap();
    assert_eq!((view.generation, view.suspended), (before.generation + 1, true));
    assert!(view.cluster_id != before.cluster_id && view.revision > lost.revision);
    wait_for("two data nodes to be heard, and the third to be missed", DEADLINE, async || {
        let dry: ResumeResponse = api.post_as("/v1/cluster/resume", &json!({"dry_run": true})).await?;
        let missing = dry.missing.iter().any(|node| node.as_str() == "d3");
        if dry.heard.len() == 2 && missing { Ok(()) } else { Err(format!("{dry:?}")) }
    })
    .await;
    let refused = resume(&api).await;
    assert_eq!((refused.status, refused.body["code"].as_str()), (409, Some("nodes_missing")), "{refused:?}");
    nodes[2].spawn();
    wait_for("all data nodes to be heard", DEADLINE, async || {
        let dry: ResumeResponse = api.post_as("/v1/cluster/resume", &json!({"dry_run": true})).await?;
        if dry.missing.is_empty() && dry.heard.len() == 3 { Ok(()) } else { Err(format!("{dry:?}")) }
    })
    .await;
    assert_nothing_is_served(&api, &nodes).await;

    let resumed: ResumeResponse = resume(&api).await.ok().unwrap();
    assert_eq!((resumed.suspended, resumed.led, resumed.unheld_total), (false, u64::from(SHARDS), 0));
    for n in 0..80 {
        wait_for(&format!("vector v{n}, acknowledged before the loss"), DEADLINE, async || {
            let found = nodes[n % 3].read(&format!("v{n}")).await?;
            if found == vector(n) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
    cluster.wait_for_healthy(3).await;
    write(&nodes[2], 80..90).await;
    let map = cluster.map().await;
    assert!(map.shards.iter().all(|row| row.epoch.0 > 1 << 32), "{map:?}");
    // Once more changes nothing.
    let again: ResumeResponse = api.post_as("/v1/cluster/resume", &json!({})).await.unwrap();
    assert!(!again.suspended && again.revision > resumed.revision);
    // And under its key it is told the revision that it was told.
    let again: ResumeResponse = resume(&api).await.ok().unwrap();
    assert_eq!((again.suspended, again.revision), (false, resumed.revision));
    assert_eq!((again.heard, again.led), (Vec::new(), 0));
}

/// Always under the same key: that of a refused resume is good for the next one, since what was missing is heard by then.
async fn resume(api: &Api) -> Answer {
    let key = [("idempotency-key", "resume-1")];
    api.send("POST", "/v1/cluster/resume", &key, Some(&json!({}))).await.unwrap()
}

async fn assert_nothing_is_served(api: &Api, nodes: &[DataNode]) {
    let health: Health = api.get_as("/v1/health").await.unwrap();
    assert!(health.reasons.iter().any(|reason| reason.code == "suspended"), "{health:?}");
    let refused = api.post("/v1/migrations", &json!({"shard": 0, "to": "d1"})).await.unwrap();
    assert_ne!(refused.status, 202, "{refused:?}");
    for (n, node) in nodes.iter().enumerate() {
        node.read(&format!("v{n}")).await.expect_err("nobody leads");
        let row: Node = api.get_as(&format!("/v1/nodes/{}", node.name())).await.unwrap();
        let assigned: Value = api.get_as(&format!("/v1/nodes/{}/assignments", node.name())).await.unwrap();
        assert_eq!(assigned["assignments"], json!([]));
        let beat =
            json!({"incarnation": row.incarnation, "installed_revision": row.revision, "partial": true});
        let beat: Value = api.post_as(&format!("/v1/nodes/{}/heartbeat", node.name()), &beat).await.unwrap();
        assert_eq!(beat["lease_ms"], 0, "{beat}");
    }
}

/// What an operator may hand to the command by mistake.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_refused_with_its_byte_and_leaves_no_directory() {
    let cluster = ControlCluster::start_with(Options { count: 1, ..Options::default() }.shards(4)).await;
    let file = cluster.folder().join("backup.snapshot");
    back_up(&cluster.any(), &file).await;
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let dir = cluster.folder().join("restored");
    let flags = ["--node-id", "n9", "--data-dir", dir.to_str().unwrap()];
    let from = ["--from", file.to_str().unwrap()];
    for output in [
        run(&[&["snapshot", "inspect"][..], &from].concat()),
        run(&[&["snapshot", "restore"][..], &from, &flags].concat()),
    ] {
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("byte"), "{}", said(&output));
    }
    assert!(!dir.exists());
}
