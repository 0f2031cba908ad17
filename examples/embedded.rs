//! Three processes on this machine, each with a control node inside, that form one cluster: no server to install.
//!
//!     scripts/embedded.sh        (or, as any example: cargo run --example embedded)
//!
//! The first process then looks around and moves a shard. Everything ends by itself, or by Ctrl-C, and
//! the files go with it. With three addresses (`-- 127.0.0.1:7001 ...`) it uses those; their ports + 1000 are for Raft.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ruvector_cluster::{Cluster, ClusterConfig, NodeStatus};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

type Done<T = ()> = Result<T, Box<dyn Error>>;

/// Argument that makes a process one node: its number, the folder, the addresses of all.
const NODE: &str = "--node";
const DEFAULT_ADDRS: [&str; 3] = ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"];

#[tokio::main]
async fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [flag, number, folder, addrs @ ..] if flag == NODE => {
            node(number.parse()?, Path::new(folder), addrs).await
        }
        [] => three_processes(&DEFAULT_ADDRS.map(str::to_owned)).await,
        [_, _, _] => three_processes(&args).await,
        _ => Err("give three addresses, or none".into()),
    }
}

async fn three_processes(addrs: &[String]) -> Done {
    let folder = tempfile::tempdir()?;
    let start = |number: usize| {
        let mut process = Command::new(std::env::current_exe()?);
        process.args([NODE, &number.to_string()]).arg(folder.path()).args(addrs);
        // A node ends when its input does, so that none is left behind, whatever happens to this process.
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()
    };
    let mut nodes = [start(0)?, start(1)?, start(2)?];
    tokio::select! {
        ran = direct(&mut nodes) => ran?,
        // The nodes get the signal too, and stop.
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    for mut node in nodes {
        let ended = node.wait().await?;
        if !ended.success() {
            return Err(format!("a node ended with {ended}").into());
        }
    }
    Ok(())
}

/// Waits until all are ready, then lets the first look around, and the others end behind it.
async fn direct(nodes: &mut [Child]) -> Done {
    let mut echoes = Vec::new();
    for node in &mut *nodes {
        let output = node.stdout.take().ok_or("no output")?;
        let mut lines = BufReader::new(output).lines();
        println!("{}", lines.next_line().await?.ok_or("a node ended before it was ready")?);
        echoes.push(tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                println!("{line}");
            }
        }));
    }
    for (node, echo) in nodes.iter_mut().zip(echoes) {
        // Its input ends.
        node.wait().await?;
        echo.await?;
    }
    Ok(())
}

/// One process.
async fn node(number: usize, folder: &Path, addrs: &[String]) -> Done {
    let seeds = addrs.iter().map(|addr| addr.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let node_id = format!("node-{}", number + 1);
    let config = ClusterConfig {
        listen_addr: *seeds.get(number).ok_or("no address of its own")?,
        seeds,
        data_dir: Some(folder.join(&node_id)),
        node_id: node_id.clone(),
        heartbeat_interval: Duration::from_millis(300),
        failure_timeout: Duration::from_secs(2),
        ..Default::default()
    };
    let cluster = Cluster::new(config).await?;
    cluster.start().await?;
    cluster.wait_for_stable().await?;
    println!(
        "{node_id}: cluster ready with {} nodes; leads: {}",
        cluster.node_count().await,
        cluster.is_leader().await
    );
    tokio::select! {
        () = end_of_input() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    let told = if number == 0 { look_around(&cluster).await } else { Ok(()) };
    cluster.stop().await?;
    println!("{node_id}: stopped");
    told
}

async fn end_of_input() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let read = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        ended.send(read).ok()
    });
    end.await.ok();
}

async fn look_around(cluster: &Cluster) -> Done {
    let shard = cluster.get_shard_for_key("vector-123")?;
    let hosts = cluster.get_shard_nodes(shard).await?;
    let names: Vec<&str> = hosts.iter().map(|node| node.id.as_str()).collect();
    println!("vector-123 is in shard {shard}, on {}: the first is its primary", names.join(", "));

    let target = names.last().ok_or("the shard has no nodes")?.to_string();
    let before = cluster.shard(shard).await?.epoch;
    cluster.migrate_shard(shard, &target).await?;
    let moved = cluster.shard(shard).await?;
    println!("shard {shard} is led by {} now, at epoch {} (it was {before})", moved.primary, moved.epoch);

    let health = cluster.health().await?;
    println!("{:?}: {}/{} nodes", health.status, health.healthy_nodes, health.total_nodes);
    for node in cluster.nodes().await? {
        let is_alive = node.status == NodeStatus::Alive;
        let status = if is_alive { "alive".to_owned() } else { format!("{:?}", node.status) };
        println!(
            "{} at {}: {status}, {} shards, last seen {}",
            node.id,
            node.addr,
            node.shards.len(),
            node.last_heartbeat
        );
    }
    Ok(())
}
