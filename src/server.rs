//! A control node's parts put together: files, consensus, state, coordinator, API.
//!
//! Everything that reaches outside comes in through [`Parts`], so that tests and simulations embed a node with their own
//! disk, transport and clock. [`run`] ends when it is told to, or when the node can no longer be relied on.

mod founder;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::response::IntoResponse;
use axum::serve::ListenerExt;
use bytes::Bytes;
use ruvector_cluster_client::clock::{Clock, SystemClock};
use ruvector_cluster_client::gossip::{Gossip, Reach};
use ruvector_cluster_raft::http::HttpTransport;
use ruvector_cluster_raft::transport::Transport;
use ruvector_cluster_raft::{
    AppHandler, Compaction, FatalError, Leadership, LeadershipState, Node, NodeConfig, ProposeError,
    ReadError, StartError,
};
use ruvector_cluster_storage::{Disk, OpenError, OpenOptions, RealDisk, Rows, SledRows, Storage};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiError, App};
use crate::config::Config;
use crate::coordinator::{Control, Coordinator};
use crate::gossip;
use crate::machine::{self, LogClock, Machine, Observer};
use crate::metadata::{Envelope, Metadata, Outcome, Settings};
use crate::metrics::Metrics;
use crate::proposer;

/// How long a stopping node waits for requests to finish.
const FINISH_WAIT: Duration = Duration::from_secs(10);

/// How long a member that starts waits for its leader before it listens to clients: many elections.
const SETTLE_WAIT: Duration = Duration::from_secs(1);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// What a control node reaches the outside through.
pub struct Parts {
    /// Its files.
    pub disk: Arc<dyn Disk>,
    /// Its stored rows.
    pub rows: Arc<dyn Rows>,
    /// Its way to other control nodes.
    pub transport: Arc<dyn Transport>,
    /// Its clocks.
    pub clock: Arc<dyn Clock>,
    /// Whom it gossips with; none: it does not gossip.
    pub gossip: Option<Reach>,
    /// How its files are opened.
    pub open: OpenOptions,
    /// When snapshots are made and how much log stays.
    pub compaction: Compaction,
    /// For everything random in Raft; None draws from the system.
    pub seed: Option<u64>,
    /// Tells this process's request ids from others'.
    pub request_prefix: u64,
    /// Is told each entry that is applied: for simulations.
    pub observer: Option<Observer>,
}

impl Parts {
    /// The machine's own.
    ///
    /// # Errors
    /// When the HTTP client or the system's random source cannot be had.
    pub fn of_this_machine(config: &Config) -> Result<Self, ServerError> {
        let setup = |e: Box<dyn std::error::Error + Send + Sync>| ServerError::Setup(e);
        let transport = HttpTransport::new().map_err(|e| setup(e.into()))?;
        Ok(Self {
            disk: Arc::new(RealDisk::new(config.data_dir.clone())),
            rows: Arc::new(SledRows::new(config.data_dir.join("rows"))),
            transport: Arc::new(transport),
            clock: Arc::new(SystemClock),
            gossip: config.gossip.then(Reach::default),
            open: OpenOptions::new(config.node_id.as_str()),
            compaction: Compaction::default(),
            seed: None,
            request_prefix: getrandom::u64().map_err(|e| setup(e.to_string().into()))?,
            observer: None,
        })
    }
}

/// Why a control node did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The process lacks something.
    #[error("cannot set up this control node")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The data directory.
    #[error("cannot open the data directory")]
    Open(#[from] OpenError),
    /// Consensus.
    #[error("cannot start consensus")]
    Start(#[from] StartError),
    /// It can no longer be relied on.
    #[error("this control node stopped: start it again, and if it stops again see what its log says before")]
    Fatal(#[from] FatalError),
    /// The client listener.
    #[error("the client listener failed")]
    Serve(#[source] std::io::Error),
}

/// The node as the coordinator sees it.
struct ControlledNode(Node);

#[async_trait]
impl Control for ControlledNode {
    fn leadership(&self) -> watch::Receiver<LeadershipState> {
        self.0.leadership()
    }

    async fn propose_fenced(
        &self,
        leadership: Leadership,
        envelope: &Envelope,
    ) -> Result<Outcome, ProposeError> {
        proposer::propose_fenced(&self.0, leadership, envelope).await
    }

    async fn confirm(&self, leadership: Leadership) -> Result<(), ReadError> {
        self.0.confirm(leadership).await.map(drop)
    }
}

/// Requests from other control nodes, while the API is there to answer them.
#[derive(Default)]
struct Forwarding {
    router: Mutex<Option<Router>>,
    in_flight: watch::Sender<usize>,
}

impl Forwarding {
    fn set(&self, router: Option<Router>) {
        *self.router.lock().unwrap_or_else(PoisonError::into_inner) = router;
    }

    /// Answers what is under way, then nothing any more.
    async fn finish(&self) {
        let mut in_flight = self.in_flight.subscribe();
        if tokio::time::timeout(FINISH_WAIT, in_flight.wait_for(|count| *count == 0)).await.is_err() {
            tracing::warn!("some forwarded requests did not finish in {} s", FINISH_WAIT.as_secs());
        }
        self.set(None);
    }
}

/// Counts a request until it is answered or given up.
struct InFlight<'a>(&'a watch::Sender<usize>);

impl<'a> InFlight<'a> {
    fn begin(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[async_trait]
impl AppHandler for Forwarding {
    async fn handle(&self, _from_raft_id: u64, body: Bytes) -> Bytes {
        let _counted = InFlight::begin(&self.in_flight);
        let router = self.router.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Whoever passed it on does nothing wrong by asking the next leader.
        let router = router.unwrap_or_else(|| {
            Router::new().fallback(async || ApiError::not_leading_any_more().into_response())
        });
        api::answer_forwarded(router, body).await
    }
}

/// A control node that runs, without a client listener: requests are put to its `router`.
pub struct Running {
    /// Consensus.
    pub node: Node,
    /// The client API.
    pub router: Router,
    /// The replicated state, as published last.
    pub state: watch::Receiver<Arc<Metadata>>,
    ending: CancellationToken,
    forwarding: Arc<Forwarding>,
    tasks: Vec<(JoinHandle<()>, &'static str)>,
}

/// Starts a control node that tells others `client_addr` as where its client API is, unless the options say another.
///
/// # Errors
/// [`ServerError`]; nothing keeps running then.
pub async fn start(config: &Config, client_addr: SocketAddr, parts: Parts) -> Result<Running, ServerError> {
    let (machine, state, changes) = Machine::new(parts.observer.clone());
    let clock: Arc<dyn Clock> = Arc::new(LogClock::new(parts.clock.clone(), state.clone()));
    let node_config = node_config(config, client_addr, &parts, clock.clone())?;
    let storage = Storage::open(parts.disk, parts.rows, parts.open).await?;
    let forwarding = Arc::new(Forwarding::default());
    let node =
        Node::start(node_config, storage, Box::new(machine), parts.transport, forwarding.clone()).await?;
    let ending = CancellationToken::new();
    let control = Arc::new(ControlledNode(node.clone()));
    let (coordinator, coordinating) = Coordinator::new(control, state.clone(), clock.clone(), ending.clone());
    let founding = founder::run(node.clone(), state.clone(), config.settings.clone(), ending.clone());
    let mut tasks = vec![(node.spawn(coordinating), "the coordinator"), (node.spawn(founding), "founding")];
    let gossip = parts.gossip.map(|reach| gossip::start(config, &node, reach));
    let sightings = gossip.as_ref().map(Gossip::sightings);
    if let Some(gossip) = gossip {
        let passing_on = gossip::pass_on(gossip, node.clone(), coordinator.clone(), ending.clone());
        tasks.push((node.spawn(passing_on), "gossip"));
    }
    let app = App::new(
        node.clone(),
        state.clone(),
        changes,
        coordinator,
        sightings,
        Arc::new(Metrics::default()),
        clock,
        ending.clone(),
        parts.request_prefix,
    );
    let router = api::router(app);
    forwarding.set(Some(router.clone()));
    Ok(Running { node, router, state, ending, forwarding, tasks })
}

impl Running {
    /// Ends everything at once, as a crash would, and frees it.
    pub fn abort(&self) {
        self.node.abort();
        self.forwarding.set(None);
    }

    /// Cancelled once requests are no longer answered.
    pub fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }

    /// Ends watches and long polls; other requests finish.
    fn begin_ending(&self) {
        self.ending.cancel();
    }

    /// Ends the rest: in good order, or, where the node can no longer be relied on, at once.
    async fn end(mut self, fatal: Option<FatalError>) -> Result<(), ServerError> {
        match fatal {
            Some(_) => self.forwarding.set(None),
            None => self.forwarding.finish().await,
        }
        for (task, name) in std::mem::take(&mut self.tasks) {
            if let Err(error) = task.await {
                tracing::warn!(%error, "{name} ended badly");
            }
        }
        match fatal {
            Some(error) => {
                self.node.abort();
                Err(error.into())
            }
            None => {
                self.node.shutdown().await;
                Ok(())
            }
        }
    }

    /// Answers clients on `listener` until `shutdown`; then hands leadership over, finishes requests and ends everything. The
    /// directory is free when this returns.
    ///
    /// # Errors
    /// [`ServerError`] when the node can no longer be relied on, or the listener failed.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServerError> {
        let node = self.node.clone();
        tracing::info!(node = node.name(), url = %node.info().client_url, peers = %node.peer_addr(), "listening");
        let serving = CancellationToken::new();
        let server = tokio::spawn(serve(listener, self.router.clone(), serving.clone().cancelled_owned()));
        let fatal = tokio::select! {
            error = node.fatal() => Some(error),
            () = shutdown.cancelled() => None,
        };
        if fatal.is_none() {
            tracing::info!(node = node.name(), "stopping: handing leadership over, finishing requests");
            hand_over(&node).await;
        }
        self.begin_ending();
        serving.cancel();
        let served = finish(server).await;
        self.end(fatal).await?;
        served
    }

    /// Hands leadership over, then ends everything; the directory is free when this returns.
    pub async fn stop(self) {
        hand_over(&self.node).await;
        self.begin_ending();
        if let Err(error) = self.end(None).await {
            tracing::warn!(%error, "the node stopped badly");
        }
    }
}

/// Whoever drops it, or its runtime, leaves nothing that holds its files.
impl Drop for Running {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Runs a control node on a bound client socket until `shutdown`; then hands leadership over and finishes requests. Clients are
/// listened to, and `listening` is told, once they can be answered.
///
/// # Errors
/// [`ServerError`] when it does not start, or can no longer be relied on.
pub async fn run(
    config: Config,
    socket: TcpSocket,
    parts: Parts,
    listening: impl FnOnce(SocketAddr) -> std::io::Result<()>,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let bound = socket.local_addr().map_err(ServerError::Serve)?;
    let running = start(&config, bound, parts).await?;
    tokio::select! {
        () = settled(&running.node) => {}
        () = shutdown.cancelled() => {}
    }
    let listener = socket.listen(BACKLOG).map_err(ServerError::Serve)?;
    listening(bound).map_err(ServerError::Serve)?;
    running.serve(listener, shutdown).await
}

/// Where others serve, requests are better refused, and sent to those at once, than held until this node hears who leads.
async fn settled(node: &Node) {
    let has_others = node.members().len() > 1;
    if has_others && tokio::time::timeout(SETTLE_WAIT, node.hears_leader()).await.is_err() {
        tracing::info!(node = node.name(), "no leader is heard yet");
    }
}

async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    // Answers are small; waiting to fill a packet would cost more than it saves.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn finish(mut server: tokio::task::JoinHandle<std::io::Result<()>>) -> Result<(), ServerError> {
    match tokio::time::timeout(FINISH_WAIT, &mut server).await {
        Ok(Ok(served)) => served.map_err(ServerError::Serve),
        Ok(Err(error)) => Err(ServerError::Setup(error.into())),
        Err(_) => {
            tracing::warn!("some requests did not finish in {} s; they are dropped", FINISH_WAIT.as_secs());
            server.abort();
            Ok(())
        }
    }
}

async fn hand_over(node: &Node) {
    let leads = node.leads();
    let alone = node.members().len() < 2;
    if leads
        && !alone
        && let Err(error) = node.transfer(None).await
    {
        tracing::info!(%error, "stopping without handing over");
    }
}

fn node_config(
    config: &Config,
    bound: SocketAddr,
    parts: &Parts,
    clock: Arc<dyn Clock>,
) -> Result<NodeConfig, ServerError> {
    let settings = machine::encode(&config.settings).map_err(|e| ServerError::Setup(e.into()))?;
    Ok(NodeConfig {
        name: config.node_id.as_str().to_owned(),
        client_url: config.client_url(bound),
        peer_url: config.peer_url(),
        listen_peer: config.peer_listen,
        seeds: config.seeds.clone(),
        bootstrap_expect: config.bootstrap_expect,
        bootstrap_settings: settings,
        settings_diff: Arc::new(settings_diff),
        command_version: proposer::COMMAND_VERSION,
        max_voters: config.max_voters,
        timing: config.timing,
        compaction: parts.compaction,
        wall_clock: Arc::new(move || clock.wall_ms()),
        seed: parts.seed,
    })
}

/// The options in which two founders differ, with both values.
fn settings_diff(mine: &[u8], theirs: &[u8]) -> Vec<String> {
    let (Ok(mine), Ok(theirs)) = (machine::decode::<Settings>(mine), machine::decode::<Settings>(theirs))
    else {
        return vec!["settings are not understood: run the same version everywhere".to_owned()];
    };
    let rows = [
        ("--num-shards", u64::from(mine.num_shards), u64::from(theirs.num_shards)),
        ("--replication-factor", u64::from(mine.replication_factor), u64::from(theirs.replication_factor)),
        ("--failure-timeout (ms)", mine.failure_timeout_ms, theirs.failure_timeout_ms),
        ("lease (ms)", mine.lease_ms, theirs.lease_ms),
        ("--heartbeat-interval (ms)", mine.heartbeat_interval_ms, theirs.heartbeat_interval_ms),
    ];
    let differing = rows.iter().filter(|(_, mine, theirs)| mine != theirs);
    differing.map(|(name, mine, theirs)| format!("{name}: {mine} here, {theirs} there")).collect()
}
