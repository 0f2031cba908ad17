//! The library's face: a control node in the caller's process, which is registered as a data node too.
//!
//! ```text
//!   your process
//!   +---------------------------------------------------------+
//!   | Cluster --- requests ---> API ---> replicated state     |  listen_addr: clients, other Clusters
//!   |    |                       ^                            |  + 1000: Raft
//!   |    '-- agent: registers, --'                            |
//!   |        heartbeats, assignments ---> your ShardHandler   |
//!   +---------------------------------------------------------+
//! ```
//!
//! [`Cluster::new`] checks the configuration and takes the address; nothing runs before [`Cluster::start`]. All requests go to
//! the API of this process's own control node, without a network between, and from there to the leader where they must; a
//! node that is no voter answers from its replica just so. Several Clusters may live in one process.
//!
//! Invariants: whatever begins in [`Cluster::start`] ends with [`Cluster::stop`], or after the Cluster was dropped. An error that
//! ends the control node ends that Cluster, never the process; from then on its methods say [`ClusterError::Failed`].
//!
//! Caveats: the tasks live on the runtime in which `start` was called. When that ends first, the node ends as by a crash, for
//! which its files are made. There is no TLS: listen on a trusted network.

mod config;
mod embedded;
mod error;
mod live;
mod own;
mod places;
mod seeds;
mod stable;
mod watch;

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use http::Method;
use ruvector_cluster_client::control::{Call, ControlClient};
use ruvector_cluster_client::hashing::shard_of_key;
use ruvector_cluster_client::ids::{MigrationId, ShardId};
use ruvector_cluster_client::wire::{
    Health, MigrateRequest, Migration, Phase, Plan, RebalanceRequest, Shard as ShardView,
};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use config::Checked;
pub use config::ClusterConfig;
pub use error::{ClusterError, Result};
use live::Live;
pub use places::{Node, NodeId, Shard};
pub use watch::ClusterWatch;

/// Rows asked for at once, of a list.
const PAGE: u64 = 1_000;
/// How long one request waits for the end of a migration, in milliseconds; it is repeated until then.
const MIGRATION_WAIT_MS: u64 = 10_000;

/// A control node in this process, and the process as a data node. See the [module](self).
pub struct Cluster {
    checked: Arc<Checked>,
    stage: Mutex<Stage>,
    live: RwLock<Option<Arc<Live>>>,
    /// Fixed when the cluster was founded, so it is looked up once.
    num_shards: OnceLock<u32>,
}

enum Stage {
    /// Not started; the listener that holds the address, the first time.
    Idle(Option<TcpListener>),
    /// Its start was not waited for to its end, or goes on.
    Starting(live::Task),
    Running(live::Task),
}

impl Stage {
    /// What runs, or may.
    fn task(&mut self) -> Option<&mut live::Task> {
        match self {
            Self::Idle(_) => None,
            Self::Starting(task) | Self::Running(task) => Some(task),
        }
    }
}

#[derive(Deserialize)]
struct NodePage {
    nodes: Vec<ruvector_cluster_client::wire::Node>,
    next_cursor: Option<String>,
}

impl Cluster {
    /// Checks `config` and takes its address. Nothing runs yet, and nothing is on disk.
    ///
    /// # Errors
    /// [`ClusterError::Config`], which names the field and what would be right; [`ClusterError::Listen`] when the address is taken.
    pub async fn new(config: ClusterConfig) -> Result<Self> {
        let (checked, listener) = Checked::of(config).await?;
        Ok(Self {
            checked: Arc::new(checked),
            stage: Mutex::new(Stage::Idle(Some(listener))),
            live: RwLock::new(None),
            num_shards: OnceLock::new(),
        })
    }

    /// Starts the control node and registers this process as a data node; returns as soon as both are on their way
    /// ([`wait_for_stable`](Self::wait_for_stable) waits for the cluster). Does nothing on a Cluster that runs; one that failed is
    /// started anew.
    ///
    /// # Errors
    /// [`ClusterError::Config`] where the seeds belong to different clusters, or to another than this node's data;
    /// [`ClusterError::DataDir`] and [`ClusterError::Start`] where the files can't be used or a port is taken. Nothing keeps
    /// running then, and `start` may be called again.
    pub async fn start(&self) -> Result<()> {
        let mut stage = self.stage.lock().await;
        match &mut *stage {
            Stage::Running(task) if task.is_well() => return Ok(()),
            Stage::Starting(_) | Stage::Running(_) => self.end(&mut stage).await,
            Stage::Idle(_) => {}
        }
        let Stage::Idle(held) = &mut *stage else { return Ok(()) };
        let met = seeds::greet_all(&self.checked).await?;
        let listener = match held.take() {
            Some(listener) => listener,
            None => self.checked.listen().await?,
        };
        let (task, starting) = Live::start(self.checked.clone(), listener, met);
        // Where this wait is given up, it ends by itself, and whoever comes next waits for that.
        *stage = Stage::Starting(task);
        match starting.await.unwrap_or(Err(ClusterError::NotRunning)) {
            Ok((live, unless_taken)) => {
                if let Stage::Starting(task) = std::mem::replace(&mut *stage, Stage::Idle(None)) {
                    *stage = Stage::Running(task);
                }
                *self.live.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(live));
                unless_taken.disarm();
                Ok(())
            }
            Err(error) => {
                self.end(&mut stage).await;
                Err(error)
            }
        }
    }

    /// Ends what runs, and waits until the address and the directory are free.
    async fn end(&self, stage: &mut Stage) {
        if let Some(task) = stage.task() {
            task.stop().await;
        }
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = None;
        *stage = Stage::Idle(None);
    }

    /// Stops: no more duties for the [`ShardHandler`](ruvector_cluster_client::handler::ShardHandler), leadership handed over,
    /// requests finished, files closed. Once it returned the address and the directory are free. Stopping what does not run is
    /// no error. A Cluster that is dropped stops by itself, in the background.
    ///
    /// # Errors
    /// [`ClusterError::Failed`] where the node had ended by itself before.
    pub async fn stop(&self) -> Result<()> {
        let mut stage = self.stage.lock().await;
        let failed = self.live().err().filter(|error| matches!(error, ClusterError::Failed(_)));
        self.end(&mut stage).await;
        failed.map_or(Ok(()), Err)
    }

    /// Waits until the cluster has settled: it has a leader, all voters have its whole log, this process is registered and alive, no
    /// shard is unassigned and no migration active. Waits at most [`ClusterConfig::stable_timeout`].
    ///
    /// # Errors
    /// [`ClusterError::NotStable`], which says what was missing; at once [`ClusterError::Registration`] where this process was
    /// refused as a data node.
    pub async fn wait_for_stable(&self) -> Result<()> {
        stable::wait(&*self.live()?, self.checked.stable_timeout).await
    }

    /// All registered data nodes, by name.
    ///
    /// # Errors
    /// As [`ClusterError`] says.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        let live = self.live()?;
        let (mut nodes, mut cursor) = (Vec::new(), String::new());
        loop {
            let call = Call::get("/v1/nodes").query("limit", PAGE).query("cursor", &cursor);
            let page: NodePage = live.ask(call).await?;
            let known = live.state.borrow().clone();
            nodes.extend(join_all(page.nodes.into_iter().map(|row| places::node(row, known.clone()))).await);
            match page.next_cursor {
                Some(next) => cursor = next,
                None => return Ok(nodes),
            }
        }
    }

    /// How many data nodes are registered, alive or not, as far as this node knows; 0 while it does not run.
    pub async fn node_count(&self) -> usize {
        self.live().map_or(0, |live| live.state.borrow().num_nodes())
    }

    /// Whether this process leads the control cluster, as far as it knows: another one may have taken over a moment ago.
    pub async fn is_leader(&self) -> bool {
        self.live().is_ok_and(|live| live.leadership.borrow().mine.is_some())
    }

    /// The shard of `key`: computed, without I/O. The same on every node, for ever.
    ///
    /// # Errors
    /// [`ClusterError::NotFounded`] until the cluster's number of shards is known here.
    pub fn get_shard_for_key(&self, key: &str) -> Result<ShardId> {
        if let Some(num_shards) = self.num_shards.get() {
            return Ok(shard_of_key(key, *num_shards));
        }
        let live = self.live()?;
        let founded = live.state.borrow().founded().map(|founded| founded.settings.num_shards);
        let num_shards = founded.ok_or(ClusterError::NotFounded)?;
        Ok(shard_of_key(key, *self.num_shards.get_or_init(|| num_shards)))
    }

    /// The nodes that hold a full copy of `shard`, its primary first; empty while it is unassigned. As the cluster agreed when asked.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] with 404 where there is no such shard.
    pub async fn get_shard_nodes(&self, shard: ShardId) -> Result<Vec<Node>> {
        let live = self.live()?;
        let row: ShardView = live.ask(Call::get(format!("/v1/shards/{shard}"))).await?;
        let node = async |id: ruvector_cluster_client::ids::NodeId| {
            let row = live.ask(Call::get(format!("/v1/nodes/{id}"))).await?;
            let known = live.state.borrow().clone();
            Ok::<_, ClusterError>(places::node(row, known).await)
        };
        try_join_all(row.primary.into_iter().chain(row.replicas).map(node)).await
    }

    /// One shard.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] with 404 where there is no such shard.
    pub async fn shard(&self, shard: ShardId) -> Result<Shard> {
        let row: ShardView = self.live()?.ask(Call::get(format!("/v1/shards/{shard}"))).await?;
        Ok(places::shard(row))
    }

    /// Moves the primaryship of `shard`, with the data where `target` has none yet, and returns when that is done. Requests for the
    /// shard are served meanwhile. It goes on when nobody waits any more. A stalled phase is aborted after the policy's
    /// `phase_timeout_ms`.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] where it is not possible (says why), [`ClusterError::MigrationAborted`].
    pub async fn migrate_shard(&self, shard: ShardId, target: &NodeId) -> Result<()> {
        let migration = self.begin_migration(shard, target).await?;
        self.wait_for_migration(migration).await
    }

    /// As [`migrate_shard`](Self::migrate_shard), returning as soon as it is committed that the shard moves.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] where it is not possible; says why.
    pub async fn begin_migration(&self, shard: ShardId, target: &NodeId) -> Result<MigrationId> {
        let to = ruvector_cluster_client::ids::NodeId::new(target)
            .map_err(|error| ClusterError::Config { field: "target", why: error.to_string() })?;
        let request = MigrateRequest { shard, to, from: None, if_epoch: None };
        let call = Call::write(Method::POST, "/v1/migrations", &request)?;
        let migration: Migration = self.live()?.ask(call).await?;
        Ok(migration.id)
    }

    /// Waits until a migration ended.
    ///
    /// # Errors
    /// [`ClusterError::MigrationAborted`]; [`ClusterError::Refused`] with 404 where there is none of that id.
    pub async fn wait_for_migration(&self, id: MigrationId) -> Result<()> {
        let live = self.live()?;
        loop {
            let call = Call::get(format!("/v1/migrations/{id}")).query("wait_ms", MIGRATION_WAIT_MS);
            let migration: Migration = live.ask(call.within(MIGRATION_WAIT_MS + 2_000, 60_000)).await?;
            match migration.phase {
                Phase::Done => return Ok(()),
                Phase::Aborted => {
                    let why = migration.error.unwrap_or_else(|| "it was cancelled".to_owned());
                    return Err(ClusterError::MigrationAborted { id, why });
                }
                Phase::Queued | Phase::Preparing | Phase::Copying | Phase::Admitting | Phase::HandingOver => {
                }
            }
        }
    }

    /// Plans a better placement and begins its moves, as far as slots are free; the others follow by themselves. Returns once they are
    /// committed, not once they are done.
    ///
    /// # Errors
    /// As [`ClusterError`] says.
    pub async fn rebalance(&self) -> Result<()> {
        self.plan(RebalanceRequest::default()).await.map(drop)
    }

    /// As [`rebalance`](Self::rebalance), as `request` says, with the plan for an answer: each move and its reason. With `dry_run` nothing
    /// begins.
    ///
    /// # Errors
    /// As [`ClusterError`] says.
    pub async fn plan(&self, request: RebalanceRequest) -> Result<Plan> {
        self.live()?.ask(Call::write(Method::POST, "/v1/rebalance", &request)?).await
    }

    /// How the cluster does, and what is wrong.
    ///
    /// # Errors
    /// As [`ClusterError`] says. A cluster without a leader answers, too: it is unavailable.
    pub async fn health(&self) -> Result<Health> {
        // A control node looks for a leader for 5 s before it says that there is none.
        self.live()?.ask(Call::get("/v1/health").within(7_000, 15_000)).await
    }

    /// What changes from now on: shards, nodes, migrations, in order, without a gap.
    ///
    /// # Errors
    /// [`ClusterError::NotRunning`], [`ClusterError::NotFounded`].
    pub fn watch(&self) -> Result<ClusterWatch> {
        ClusterWatch::new(self.live()?)
    }

    /// The client under all of this, which reaches the whole API: this process's control node first, then the others.
    ///
    /// # Errors
    /// [`ClusterError::NotRunning`].
    pub fn client(&self) -> Result<ControlClient> {
        Ok(self.live()?.control.clone())
    }

    /// `host:port` under which others reach this process.
    pub fn advertised(&self) -> &str {
        self.checked.advertised()
    }

    fn live(&self) -> Result<Arc<Live>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).clone();
        let live = live.ok_or(ClusterError::NotRunning)?;
        match live.failure() {
            Some(failure) => Err(failure),
            None => Ok(live),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(task) = self.stage.get_mut().task() {
            task.begin_stop();
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("node_id", &self.checked.server.node_id)
            .field("advertised", &self.advertised())
            .field("running", &self.live().is_ok())
            .finish_non_exhaustive()
    }
}

/// A duration as whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
