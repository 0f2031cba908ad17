//! The two clusters that are measured: three control nodes, and three of etcd over its JSON gateway.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt;
use reqwest::Method;
use ruvector_cluster_local::processes::{CONTROL_NODES, Processes};
use serde_json::{Value, json};

use crate::client::{Client, until};

/// Data nodes whose labels are written.
pub(crate) const DATA_NODES: usize = 1_000;
/// Shards that are asked for.
pub(crate) const SHARDS: usize = 64;

/// Flags beside addresses and folders: nobody sends heartbeats for the data nodes here, and nothing shall fail over.
pub(crate) fn control_args_for(shards: usize) -> Vec<String> {
    ["--failure-timeout", "1h", "--num-shards", &shards.to_string()].map(str::to_owned).to_vec()
}

/// One of both, running.
#[derive(Clone)]
pub(crate) struct Peer {
    /// What a table calls it.
    pub(crate) title: &'static str,
    /// Names of its processes, the leader's first.
    pub(crate) names: Vec<String>,
    /// Where they answer, in that order.
    pub(crate) urls: Vec<String>,
}

impl Peer {
    /// The same, the leader asked for anew.
    fn led_by(mut self, leader: usize) -> Self {
        self.names.swap(0, leader);
        self.urls.swap(0, leader);
        self
    }

    /// Kills its processes.
    ///
    /// # Errors
    /// When one does not run.
    pub(crate) fn end(&self, all: &mut Processes) -> Result<()> {
        self.names.iter().try_for_each(|name| all.kill(name))
    }
}

/// Starts three control nodes on empty folders.
///
/// # Errors
/// When they find no leader.
pub(crate) async fn start_ours(client: &Client, all: &mut Processes) -> Result<Peer> {
    for n in 1..=CONTROL_NODES {
        empty(&all.folder(&format!("n{n}")))?;
        all.start_control(n)?;
    }
    find_our_leader(client, all).await
}

/// The same cluster, and who leads it now.
///
/// # Errors
/// When nobody does.
pub(crate) async fn find_our_leader(client: &Client, all: &Processes) -> Result<Peer> {
    let names: Vec<String> = (1..=CONTROL_NODES).map(|n| format!("n{n}")).collect();
    let urls: Vec<String> = (1..=CONTROL_NODES).map(|n| format!("http://{}", all.control_addr(n))).collect();
    let leader = until("a leader that all know", async || {
        let mut known = Vec::new();
        for url in &urls {
            let view = client.ask(Method::GET, &format!("{url}/v1/cluster"), None).await?;
            known.push(view["leader"]["id"].as_str().unwrap_or_default().to_owned());
        }
        ensure!(known.iter().all(|name| *name == known[0]), "they do not agree: {known:?}");
        names.iter().position(|name| *name == known[0]).context("an unknown one leads")
    });
    let leader = leader.await?;
    Ok(Peer { title: "ruvector-cluster", names, urls }.led_by(leader))
}

/// Registers so many data nodes, `d0` and on.
///
/// # Errors
/// When one is refused.
pub(crate) async fn register(client: &Client, peer: &Peer, nodes: usize) -> Result<()> {
    let one = async |n: usize| {
        let body = json!({"addr": format!("10.0.{}.{}:7100", n / 256, n % 256), "store_id": format!("s{n}")});
        client.ask(Method::PUT, &format!("{}/v1/nodes/d{n}", peer.urls[0]), Some(&body)).await
    };
    let answers: Vec<Result<Value>> =
        futures::stream::iter(0..nodes).map(one).buffer_unordered(32).collect().await;
    answers.into_iter().try_for_each(|answer| answer.map(|_| ()))
}

/// The etcd on the path.
fn etcd_program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|program| program.exists());
    found.context("etcd is not on the PATH: install etcd-server")
}

/// Starts three etcd on empty folders, with its defaults.
///
/// # Errors
/// When they find no leader.
pub(crate) async fn start_etcd(client: &Client, all: &mut Processes) -> Result<Peer> {
    let program = etcd_program()?;
    let (client_urls, peer_urls) = (free_urls()?, free_urls()?);
    let names: Vec<String> = (1..=3).map(|n| format!("etcd{n}")).collect();
    let members: Vec<String> =
        names.iter().zip(&peer_urls).map(|(name, url)| format!("{name}={url}")).collect();
    for (n, name) in names.iter().enumerate() {
        let folder = all.folder(name);
        empty(&folder)?;
        let (client_url, peer_url, members) = (&client_urls[n], &peer_urls[n], members.join(","));
        let flags = [
            ("--name", name.as_str()),
            ("--data-dir", &folder),
            ("--listen-client-urls", client_url),
            ("--advertise-client-urls", client_url),
            ("--listen-peer-urls", peer_url),
            ("--initial-advertise-peer-urls", peer_url),
            ("--initial-cluster", &members),
            ("--initial-cluster-token", &members),
            ("--log-level", "error"),
        ];
        let args = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]).collect();
        all.start_program(name, client_url, &program, args)?;
    }
    find_etcd_leader(client, Peer { title: "etcd", names, urls: client_urls }).await
}

/// The same cluster, and who leads it now.
///
/// # Errors
/// When nobody does.
pub(crate) async fn find_etcd_leader(client: &Client, peer: Peer) -> Result<Peer> {
    let leader = until("a leader of etcd", async || {
        for (n, url) in peer.urls.iter().enumerate() {
            let status =
                client.ask(Method::POST, &format!("{url}/v3/maintenance/status"), Some(&json!({}))).await?;
            if status["leader"].is_string() && status["leader"] == status["header"]["member_id"] {
                return Ok(n);
            }
        }
        bail!("none leads")
    });
    let leader = leader.await?;
    Ok(peer.led_by(leader))
}

/// One put to etcd.
///
/// # Errors
/// When it is refused.
pub(crate) async fn etcd_put(client: &Client, url: &str, key: &str, value: &str) -> Result<()> {
    let body = json!({"key": BASE64.encode(key), "value": BASE64.encode(value)});
    client.ask(Method::POST, &format!("{url}/v3/kv/put"), Some(&body)).await.map(|_| ())
}

/// As etcd's JSON wants keys and values.
pub(crate) fn base64(text: &str) -> String {
    BASE64.encode(text)
}

fn empty(folder: &str) -> Result<()> {
    if Path::new(folder).exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("can't empty {folder}"))?;
    }
    Ok(())
}

fn free_urls() -> Result<Vec<String>> {
    let listeners: Vec<_> =
        (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(format!("http://{}", listener.local_addr()?))).collect()
}
