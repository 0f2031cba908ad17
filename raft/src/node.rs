//! A control node: openraft, its files and its peers behind one handle.
//!
//! Tasks: openraft's own; the writer of rows; one that brings the node into its cluster; one that tells who leads; one that hands
//! over when the disk is full; one that places reads; one that promotes learners while this node leads; one that notices when the node was removed.
//! All live in the node's scope and end with it.
//!
//! Invariants: a proposal is answered as failed only when nothing was appended; whatever was appended and has no outcome is
//! unknown. `mine` is set only while this node holds every acknowledged write. A fatal error is told once and nothing is
//! answered after it.

mod hand_over;
mod others;
mod propose;
mod raft_config;
mod reads;
mod removed;
mod status;
mod watch_leader;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use ruvector_cluster_storage::{SnapshotStore, Space, Storage, Wal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bootstrap::messages::{Hello, Opaque, Proposal};
use crate::bootstrap::promise::{Founding, PromiseError};
use crate::bootstrap::{self, Phase, with_port};
use crate::config::NodeConfig;
use crate::error::{FatalError, StartError};
use crate::machine::StateMachine;
use crate::machine_store::{MachineStore, Published};
use crate::member::{LeadershipState, Member, MemberInfo, MemberRole};
use crate::network::{Links, Network};
use crate::peer::PeerService;
use crate::recover::recover;
use crate::runtime::Scope;
use crate::trail::Trail;
use crate::transport::{Listening, Transport};
use crate::types::{Peer, TypeConfig};

pub use propose::Committed;
pub use status::Status;

/// Proposals that may wait for their outcome at once; more are refused, so that a slow disk shows as an error and not as a
/// growing queue.
const IN_FLIGHT_PROPOSALS: usize = 8_192;
/// How long a stopping node tries to have its rows written; they are only a cache.
const STORE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a stopping node waits for the consensus core, then for the log; a disk may be full or hang. To end without either
/// is to be killed, for which all files are made.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Answers what the same layer on another control node asks by [`Node::call`].
#[async_trait]
pub trait AppHandler: Send + Sync + 'static {
    /// Answers one message of the control node with that Raft id.
    async fn handle(&self, from_raft_id: u64, body: Bytes) -> Bytes;
}

/// What a node's tasks share.
pub(crate) struct Core {
    pub(crate) config: NodeConfig,
    pub(crate) raft_id: u64,
    pub(crate) raft: Raft<TypeConfig, MachineStore>,
    pub(crate) links: Arc<Links>,
    pub(crate) founding: Founding,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) app: Arc<dyn AppHandler>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) phase: watch::Sender<Phase>,
    /// One change of the membership at a time is asked for from here.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// The cluster goes on without this node.
    removed: watch::Sender<bool>,
    /// When a leader was last heard here, in this run.
    leader_heard: watch::Sender<Option<Instant>>,
    /// Where control nodes may be, beside the seeds.
    more_seeds: Mutex<Vec<String>>,
    info: MemberInfo,
    peer_addr: SocketAddr,
    leadership: watch::Sender<LeadershipState>,
    applied: watch::Receiver<u64>,
    published: watch::Receiver<Published>,
    fatal: watch::Sender<Option<FatalError>>,
    stopping: watch::Sender<bool>,
    in_flight: Semaphore,
    reads: reads::Reads,
    trail: Trail,
    files: Mutex<Option<Files>>,
    wal: Wal,
    space: watch::Receiver<Space>,
}

/// What must go when the node ends, so that its directory and port are free.
struct Files {
    _listening: Listening,
    _storage: Storage,
}

/// A running control node. Clones are handles to the same one.
#[derive(Clone)]
pub struct Node {
    pub(crate) core: Arc<Core>,
}

fn storage_failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
) -> impl FnOnce(E) -> StartError {
    move |source| StartError::Storage { what, source: source.into() }
}

impl Node {
    /// Starts on open files and returns; finding the cluster goes on in the background (see [`Node::phase`]).
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub async fn start(
        config: NodeConfig,
        storage: Storage,
        machine: Box<dyn StateMachine>,
        transport: Arc<dyn Transport>,
        app: Arc<dyn AppHandler>,
    ) -> Result<Self, StartError> {
        let wal = storage.wal.clone();
        let started = Self::start_on(config, storage, machine, transport, app).await;
        if started.is_err()
            && let Err(error) = wal.close().await
        {
            tracing::warn!(%error, "the log was not closed");
        }
        started
    }

    async fn start_on(
        config: NodeConfig,
        mut storage: Storage,
        machine: Box<dyn StateMachine>,
        transport: Arc<dyn Transport>,
        app: Arc<dyn AppHandler>,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let raft_config = Arc::new(raft_config::of(&config)?);
        let identity = storage.identity.get();
        let recovered = recover(&mut storage, machine).await?;
        let service = Arc::new(PeerService::default());
        let listening = transport.listen(config.listen_peer, service.clone()).await;
        let listening =
            listening.map_err(|source| StartError::Listen { addr: config.listen_peer, source })?;
        let info = MemberInfo {
            name: config.name.clone(),
            raft_id: identity.raft_id,
            client_url: config.client_url.clone(),
            peer_url: with_port(&config.peer_url, listening.addr),
        };
        let links = Links::new(transport, identity.raft_id, identity.cluster_id);
        let scope = Scope::new(config.seed);
        let (published, applied) = (recovered.machine.published(), recovered.machine.applied());
        let network = Network::new(links.clone());
        let starting = Raft::new(identity.raft_id, raft_config, network, recovered.log, recovered.machine);
        let raft = scope.enter(starting).await.map_err(storage_failed("start the consensus core"))?;
        let (settings, diff) = (config.bootstrap_settings.clone(), config.settings_diff.clone());
        let (identity_file, promise) = (storage.identity.clone(), storage.promise.clone());
        let draft = u128::from(scope.draw()) << 64 | u128::from(scope.draw());
        let founding = Founding::open(identity.raft_id, settings, diff, identity_file, promise, draft).await;
        let (reads, read_requests) = reads::Reads::new();
        let core = Arc::new(Core {
            raft_id: identity.raft_id,
            raft,
            links,
            founding: founding.map_err(storage_failed("read the promise"))?,
            snapshots: storage.snapshots.clone(),
            app,
            phase: watch::Sender::new(Phase::Waiting { why: "starting".to_owned() }),
            changing: tokio::sync::Mutex::new(()),
            removed: watch::Sender::new(false),
            leader_heard: watch::Sender::new(None),
            more_seeds: Mutex::default(),
            info,
            peer_addr: listening.addr,
            leadership: watch::Sender::new(LeadershipState::default()),
            applied,
            published,
            fatal: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
            in_flight: Semaphore::new(IN_FLIGHT_PROPOSALS),
            reads,
            trail: recovered.trail,
            wal: storage.wal.clone(),
            space: storage.wal.space(),
            files: Mutex::new(Some(Files { _listening: listening, _storage: storage })),
            scope,
            config,
        });
        service.set(core.clone());
        core.spawn_tasks(read_requests);
        Ok(Self { core })
    }

    /// The random id of its data directory.
    #[must_use]
    pub fn raft_id(&self) -> u64 {
        self.core.raft_id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.config.name
    }

    /// What it tells others about itself.
    #[must_use]
    pub fn info(&self) -> MemberInfo {
        self.core.info()
    }

    /// Where it listens for control nodes.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.core.peer_addr
    }

    /// Its cluster, once it belongs to one.
    #[must_use]
    pub fn cluster_id(&self) -> Option<String> {
        self.core.links.cluster_id()
    }

    /// Where it is on its way into a cluster.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.core.phase.subscribe()
    }

    /// Client addresses (`host:port`) at which control nodes are said to be, instead of those said before. Nobody vouches for them: they
    /// are asked where the seeds are not enough to find the cluster or its founders (see `bootstrap.rs`), and what they answer
    /// counts as a seed's answer does.
    pub fn set_more_seeds(&self, addrs: Vec<String>) {
        *self.core.more_seeds.lock().unwrap_or_else(PoisonError::into_inner) = addrs;
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<LeadershipState> {
        self.core.leadership.subscribe()
    }

    /// Whether this node leads, as far as it knows.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.core.leadership.borrow().mine.is_some()
    }

    /// Returns once a leader was heard in this run, or this node leads.
    pub async fn hears_leader(&self) {
        let (mut heard, mut leadership) = (self.core.leader_heard.subscribe(), self.leadership());
        // Neither sender goes before this handle does.
        tokio::select! {
            _ = heard.wait_for(Option::is_some) => {}
            _ = leadership.wait_for(|state| state.mine.is_some()) => {}
        }
    }

    /// The index that readers see.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.core.applied.clone()
    }

    /// All members of the newest membership that this node has, by Raft id.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.core.members()
    }

    /// Resolves when this node must stop: nothing it says can be relied on any longer.
    pub async fn fatal(&self) -> FatalError {
        let mut fatal = self.core.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await.map(|error| error.clone()) {
            Ok(Some(error)) => error,
            // The sender lives in `core`, which this handle holds.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Hands leadership over where it can, then ends everything; the directory is free when this returns, unless its
    /// disk hangs.
    pub async fn shutdown(&self) {
        let core = &self.core;
        if self.leads()
            && let Err(error) = self.transfer(None).await
        {
            tracing::info!(%error, "stopping without handing over");
        }
        core.stopping.send_replace(true);
        match tokio::time::timeout(CLOSE_PATIENCE, core.raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the consensus core ended badly"),
            // It waits for the disk to take a vote.
            Err(_) => tracing::warn!("the consensus core did not end in time"),
        }
        if tokio::time::timeout(STORE_PATIENCE, core.trail.stored()).await.is_err() {
            tracing::warn!("the rows are not up to date; the next start takes longer");
        }
        match tokio::time::timeout(CLOSE_PATIENCE, core.wal.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the log was not closed"),
            Err(_) => {
                tracing::warn!("the log was not closed in time; the next start cuts what is unfinished")
            }
        }
        self.abort();
    }

    /// Runs `future` as a part of this node: it ends with it.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.core.scope.spawn(future)
    }

    /// Stops all of this node where it is, as SIGSTOP stops a process, or lets it go on. Only a node with a seed can be paused.
    pub fn set_paused(&self, paused: bool) {
        self.core.scope.set_paused(paused);
    }

    /// Ends everything at once, as a crash would: nothing more is written or answered.
    pub fn abort(&self) {
        self.core.stopping.send_replace(true);
        self.core.scope.end();
        self.core.files.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Core {
    fn spawn_tasks(self: &Arc<Self>, read_requests: reads::Requests) {
        let core = self.clone();
        self.scope.spawn(async move {
            let error = core.trail.run(core.wal.clone()).await;
            core.stop_with(FatalError::Storage(error.to_string()));
        });
        self.scope.spawn(watch_leader::run(self.clone()));
        self.scope.spawn(hand_over::run(self.clone()));
        self.scope.spawn(removed::run(self.clone()));
        self.scope.spawn(reads::run(self.clone(), read_requests));
        self.scope.spawn(crate::membership::run(self.clone()));
        self.scope.spawn(bootstrap::run(self.clone()));
    }

    pub(crate) fn info(&self) -> MemberInfo {
        self.info.clone()
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            member: self.info(),
            cluster_id: self.links.cluster_id(),
            bootstrap_expect: self.config.bootstrap_expect,
            settings: Opaque(self.config.bootstrap_settings.clone()),
            disk_full: *self.space.borrow() == Space::Full,
            command_version: self.config.command_version,
            knows_you: None,
        }
    }

    pub(crate) fn more_seeds(&self) -> Vec<String> {
        self.more_seeds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn leader(&self) -> Option<MemberInfo> {
        self.leadership.borrow().leader.clone()
    }

    pub(crate) fn leadership(&self) -> LeadershipState {
        self.leadership.borrow().clone()
    }

    pub(crate) fn leadership_watch(&self) -> watch::Receiver<LeadershipState> {
        self.leadership.subscribe()
    }

    /// Tells once why this node must stop.
    pub(crate) fn stop_with(&self, error: FatalError) {
        if *self.stopping.borrow() {
            return;
        }
        tracing::error!(node = self.config.name, %error, "this control node must stop");
        self.fatal.send_if_modified(|fatal| fatal.is_none() && fatal.replace(error).is_none());
    }

    /// As [`Founding::promise`], to its end even when whoever asked goes away: a save that is dropped half way is final.
    pub(crate) async fn promise(self: &Arc<Self>, proposal: Proposal) -> Result<(), PromiseError> {
        let core = self.clone();
        self.saved(async move { core.founding.promise(proposal).await }).await
    }

    /// The outcome of what writes to the directory. After a failure nothing more can be written there.
    async fn saved<T: Send + 'static>(
        &self,
        saving: impl Future<Output = Result<T, PromiseError>> + Send + 'static,
    ) -> Result<T, PromiseError> {
        let saved = self.scope.spawn(saving).await;
        let saved = saved.unwrap_or_else(|_| Err(PromiseError::Storage("it is stopping".to_owned())));
        if let Err(PromiseError::Storage(why)) = &saved {
            self.stop_with(FatalError::Storage(why.clone()));
        }
        saved
    }

    /// As [`Founding::adopt`], to its end; tells whether this node belongs to that cluster now.
    pub(crate) async fn adopt(self: &Arc<Self>, cluster_id: &str) -> Result<bool, PromiseError> {
        let (core, cluster_id) = (self.clone(), cluster_id.to_owned());
        self.saved(async move {
            let adopted = core.founding.adopt(&cluster_id).await?;
            if adopted {
                core.links.set_cluster_id(cluster_id);
            }
            Ok(adopted)
        })
        .await
    }

    /// This node as the newest membership describes it.
    pub(crate) fn own_entry(&self) -> Option<Peer> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&self.raft_id).cloned()
    }

    pub(crate) fn is_member(&self) -> bool {
        self.own_entry().is_some()
    }

    /// Starts Raft with a first membership. Doing it again does nothing.
    pub(crate) async fn initialize(&self, members: BTreeMap<u64, Peer>) -> Result<(), FatalError> {
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(FatalError::Core(error.to_string())),
        }
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
        let matched = |raft_id: u64| {
            let replication = metrics.replication.as_ref()?;
            replication.get(&raft_id).copied().flatten().map(|log_id| log_id.index())
        };
        let last_contact = |raft_id: u64| {
            let heard = (*metrics.heartbeat.as_ref()?.get(&raft_id)?)?;
            u64::try_from(openraft::Instant::elapsed(&*heard).as_millis()).ok()
        };
        let describe = |(raft_id, peer): (&u64, &Peer)| Member {
            info: peer.info(*raft_id),
            role: if voters.contains(raft_id) { MemberRole::Voter } else { MemberRole::Learner },
            learner_only: peer.learner_only,
            replaces: peer.replaces,
            matched: matched(*raft_id),
            last_contact_ms: last_contact(*raft_id),
        };
        membership.nodes().map(describe).collect()
    }
}

#[cfg(test)]
mod tests;
