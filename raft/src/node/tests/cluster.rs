//! A cluster of small key-value machines, each on a disk of its own that outlives crashes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ruvector_cluster_storage::{MemRows, OpenError, OpenOptions, RealDisk, SimDisk, SledRows, Storage};
use tokio::time::Instant;

use crate::config::{Compaction, NodeConfig, Timing};
use crate::error::{ProposeError, StartError};
use crate::http::HttpTransport;
use crate::memory::MemoryNetwork;
use crate::model::{KvMachine, KvView};
use crate::node::{AppHandler, Committed, Node};
use crate::transport::Transport;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Answers calls with who was asked and by whom.
struct Echo(String);

#[async_trait::async_trait]
impl AppHandler for Echo {
    async fn handle(&self, from: u64, body: Bytes) -> Bytes {
        format!("{} heard {} from {from}", self.0, String::from_utf8_lossy(&body)).into()
    }
}

enum Wires {
    Memory(MemoryNetwork),
    Http(Vec<std::net::TcpListener>),
}

pub(super) struct Member {
    pub(super) disk: SimDisk,
    pub(super) rows: MemRows,
    pub(super) view: KvView,
    pub(super) node: Option<Node>,
}

/// Nodes by number, from 0. Their client ports are fictitious; seeds find the peer port 1,000 above.
pub(super) struct Cluster {
    wires: Wires,
    base_port: u16,
    pub(super) size: usize,
    pub(super) members: BTreeMap<usize, Member>,
    pub(super) adjust: fn(usize, &mut NodeConfig),
    /// Nodes that are on real files, in these directories.
    pub(super) real: BTreeMap<usize, PathBuf>,
    pub(super) segment_bytes: u64,
    /// By chance where there is none.
    pub(super) raft_id: fn(usize) -> Option<u64>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, node) in self.running() {
            node.abort();
        }
    }
}

/// Waits until `check` holds.
pub(super) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Cluster {
    pub(super) fn in_memory(size: usize) -> Self {
        Self::new(Wires::Memory(MemoryNetwork::new()), 7_000, size)
    }

    /// Over sockets: a run of free ports is found and held until each node binds its own.
    pub(super) fn over_http(size: usize) -> Self {
        // No two clusters of this process try the same ports: a crashed node's must stay free for it.
        static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(9_000);
        for _ in 0..500 {
            let base = NEXT.fetch_add(37, std::sync::atomic::Ordering::SeqCst);
            let bind = |at: usize| {
                std::net::TcpListener::bind(("127.0.0.1", base + 1_000 + u16::try_from(at).unwrap()))
            };
            if let Ok(held) = (0..size).map(bind).collect::<Result<Vec<_>, _>>() {
                return Self::new(Wires::Http(held), base, size);
            }
        }
        panic!("no free ports");
    }

    fn new(wires: Wires, base_port: u16, size: usize) -> Self {
        // A simulated disk holds its files in memory, more than once.
        let segment_bytes = 256 << 10;
        Self {
            wires,
            base_port,
            size,
            members: BTreeMap::new(),
            adjust: |_, _| {},
            real: BTreeMap::new(),
            segment_bytes,
            raft_id: |_| None,
        }
    }

    pub(super) fn client(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.base_port + u16::try_from(at).unwrap())
    }

    fn peer(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.base_port + 1_000 + u16::try_from(at).unwrap())
    }

    pub(super) fn set_isolated(&self, at: usize, isolated: bool) {
        match &self.wires {
            Wires::Memory(network) => network.set_isolated(&self.peer(at), isolated),
            Wires::Http(_) => panic!("sockets are not cut here"),
        }
    }

    fn config(&self, at: usize) -> NodeConfig {
        let mut config = NodeConfig {
            name: format!("n{at}"),
            client_url: format!("http://{}", self.client(at)),
            peer_url: format!("http://{}", self.peer(at)),
            listen_peer: self.peer(at).parse().unwrap(),
            seeds: (0..self.size).map(|seed| self.client(seed)).collect(),
            bootstrap_expect: None,
            bootstrap_settings: Bytes::from_static(b"64"),
            settings_diff: Arc::new(|mine, theirs| {
                let text = String::from_utf8_lossy;
                match mine == theirs {
                    true => Vec::new(),
                    false => vec![format!("num-shards is {} here, {} there", text(mine), text(theirs))],
                }
            }),
            command_version: 1,
            max_voters: 5,
            // Tests share two cores with others; what is measured elsewhere is not repeated here.
            timing: Timing {
                heartbeat_ms: 50,
                election_min_ms: 300,
                election_max_ms: 500,
                ..Timing::default()
            },
            compaction: Compaction::default(),
            wall_clock: Arc::new(|| 1_000_000),
            seed: None,
        };
        (self.adjust)(at, &mut config);
        config
    }

    /// Starts a node on its disk as it is, or on a new one.
    pub(super) async fn start(&mut self, at: usize) {
        let storage = self.open(at).await.unwrap();
        self.start_on(at, storage).await.unwrap();
    }

    /// Opens the node's files.
    pub(super) async fn open(&mut self, at: usize) -> Result<Storage, OpenError> {
        let name = self.config(at).name;
        let options = OpenOptions {
            segment_bytes: self.segment_bytes,
            raft_id: (self.raft_id)(at),
            ..OpenOptions::new(name)
        };
        if let Some(dir) = self.real.get(&at) {
            let rows = Arc::new(SledRows::new(dir.join("rows")));
            return Storage::open(Arc::new(RealDisk::new(dir.clone())), rows, options).await;
        }
        let member = self.members.entry(at).or_insert_with(|| Member {
            disk: SimDisk::new(),
            rows: MemRows::new(),
            view: KvView::default(),
            node: None,
        });
        Storage::open(Arc::new(member.disk.clone()), Arc::new(member.rows.clone()), options).await
    }

    /// Starts the node on its open files.
    pub(super) async fn start_on(&mut self, at: usize, storage: Storage) -> Result<(), StartError> {
        let transport: Arc<dyn Transport> = match &mut self.wires {
            Wires::Memory(network) => {
                network.transport(&format!("127.0.0.1:{}", self.base_port + 1_000 + at as u16))
            }
            Wires::Http(held) => {
                let port = self.base_port + 1_000 + at as u16;
                held.retain(|listener| listener.local_addr().unwrap().port() != port);
                Arc::new(HttpTransport::new().unwrap())
            }
        };
        let config = self.config(at);
        let (disk, rows) = match self.members.remove(&at) {
            Some(Member { disk, rows, .. }) => (disk, rows),
            None => (SimDisk::new(), MemRows::new()),
        };
        let view = KvView::default();
        let machine = Box::new(KvMachine::new(view.clone()));
        let app = Arc::new(Echo(config.name.clone()));
        let node = Node::start(config, storage, machine, transport, app).await?;
        self.members.insert(at, Member { disk, rows, view, node: Some(node) });
        Ok(())
    }

    /// Starts all in this order.
    pub(super) async fn start_all(&mut self, order: &[usize]) {
        for at in order {
            self.start(*at).await;
        }
    }

    pub(super) fn node(&self, at: usize) -> &Node {
        self.members[&at].node.as_ref().unwrap()
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.members.iter().filter_map(|(at, member)| Some((*at, member.node.as_ref()?)))
    }

    /// Loses what was not synced, as a power failure does.
    pub(super) fn crash(&mut self, at: usize, seed: u64) {
        let member = self.members.get_mut(&at).unwrap();
        member.node.take().unwrap().abort();
        member.disk = member.disk.crash(seed);
        member.rows = member.rows.crash(seed);
    }

    /// Ends it in order.
    pub(super) async fn stop(&mut self, at: usize) {
        let node = self.members.get_mut(&at).unwrap().node.take().unwrap();
        node.shutdown().await;
        let member = self.members.get_mut(&at).unwrap();
        member.disk = member.disk.kill();
    }

    /// The node that leads, once one does.
    pub(super) async fn leader(&self) -> usize {
        let begun = Instant::now();
        loop {
            let leading = |node: &Node| node.leadership().borrow().mine;
            let leader = self.running().filter_map(|(at, node)| Some((leading(node)?, at))).max();
            if let Some((_, at)) = leader {
                return at;
            }
            assert!(begun.elapsed() < PATIENCE, "no leader: {:?}", self.describe());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) fn describe(&self) -> Vec<String> {
        self.running()
            .map(|(at, node)| {
                format!(
                    "{at}: {:?} {:?} {:?}",
                    *node.phase().borrow(),
                    node.status(),
                    *node.core.fatal.borrow()
                )
            })
            .collect()
    }

    /// Whether a count is reached; tells how the nodes stand when that takes long.
    pub(super) fn reached(&self, count: &std::sync::atomic::AtomicU64, target: u64) -> bool {
        let now = count.load(std::sync::atomic::Ordering::SeqCst);
        if now < target {
            eprintln!("{now} of {target}: {:?}", self.describe());
        }
        now >= target
    }

    /// Proposes through whoever leads until it is committed. What is unknown is tried again: sets are repeatable.
    pub(super) async fn put(&self, key: &str, value: &str) -> Committed {
        let command = Bytes::from(format!("{key}={value}"));
        let begun = Instant::now();
        loop {
            let leader = self.leader().await;
            match self.node(leader).propose(command.clone()).await {
                Ok(committed) => return committed,
                Err(ProposeError::NotLeader { .. } | ProposeError::Unknown) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(begun.elapsed() < PATIENCE, "never committed");
        }
    }

    /// A linearizable read on this node.
    pub(super) async fn get(&self, at: usize, key: &str) -> Option<String> {
        self.node(at).read_index().await.unwrap_or_else(|error| panic!("{error}: {:?}", self.describe()));
        self.members[&at].view.get(key).map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    /// Waits until all that run show the same state, and that the key has this value.
    pub(super) async fn converge(&self, key: &str, value: &str) {
        let (begun, mut told) = (Instant::now(), false);
        eventually("all nodes show the same state", async || {
            if begun.elapsed() > PATIENCE / 2 && !std::mem::replace(&mut told, true) {
                eprintln!("no equal states: {:?}", self.describe());
            }
            let states: Vec<_> = self.running().map(|(at, _)| self.members[&at].view.state()).collect();
            let has =
                |state: &crate::model::KvState| state.rows.get(key.as_bytes()).is_some_and(|v| v == value);
            states.windows(2).all(|pair| pair[0] == pair[1]) && states.iter().all(has)
        })
        .await;
    }
}
