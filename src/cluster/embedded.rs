//! This process as a data node.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ruvector_cluster_client::agent::{
    Agent, AgentConfig, AgentError, AssignmentUpdate, HostError, LeaseWatch, Outbox, ShardHost,
};
use ruvector_cluster_client::clock::SystemClock;
use ruvector_cluster_client::control::ControlClient;
use ruvector_cluster_client::copies::TokioSpawn;
use ruvector_cluster_client::gossip::{Gossip, GossipConfig, Me, Reach};
use ruvector_cluster_client::handler::{HandlerHost, HandlerOptions, ShardHandler};
use ruvector_cluster_client::ids::{Incarnation, NodeId};
use ruvector_cluster_client::node::DataDir;
use ruvector_cluster_client::wire::{HeldShard, RegisterRequest, Report, ReportResult};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Result;
use super::config::Checked;
use crate::metadata::Metadata;

/// What the directory says of what is in it; the handler's own copies are its own affair.
const LAYOUT: &str = "embedded";

/// How long a stopping node waits for duties that are under way.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// The default handler: acknowledges at once whatever it is asked, for those who only want the map.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acknowledging;

impl ShardHandler for Acknowledging {}

/// The data node, open and not yet registered.
pub(super) struct DataPart {
    node: NodeId,
    registration: RegisterRequest,
    dir: Arc<DataDir>,
    handler: Arc<dyn ShardHandler>,
    gossip: Option<GossipConfig>,
}

impl DataPart {
    pub(super) fn open(checked: &Checked) -> Result<Self> {
        let node = checked.server.node_id.clone();
        let dir = Arc::new(DataDir::open(&checked.data_node_dir, &node, LAYOUT)?);
        let registration = checked.registration(dir.identity().store_id);
        let gossip = checked.server.gossip.then(|| gossip_of(checked, &registration));
        Ok(Self { node, registration, dir, handler: checked.handler.clone(), gossip })
    }

    /// Registers and serves until `shutdown`, then lets duties end.
    pub(super) async fn run(
        self,
        control: ControlClient,
        state: watch::Receiver<Arc<Metadata>>,
        shutdown: CancellationToken,
    ) -> std::result::Result<(), AgentError> {
        let clock = Arc::new(SystemClock);
        let lease = LeaseWatch::new(clock.clone());
        let (reporter, outbox) = Outbox::new();
        let options = HandlerOptions::default();
        let spawn = Arc::new(TokioSpawn);
        let handled =
            HandlerHost::start(self.node.clone(), self.handler, lease.clone(), reporter, spawn, options);
        let host = Arc::new(KeptHost { handled: handled.clone(), dir: self.dir });
        let config = AgentConfig::new(self.node, self.registration);
        let agent = Agent::new(config, control, host, clock, lease, outbox);
        let gossiping = async {
            match self.gossip {
                Some(config) => gossip(config, state).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = agent.run(shutdown) => ended,
            () = gossiping => Ok(()),
        };
        if tokio::time::timeout(CLOSE_WAIT, handled.close()).await.is_err() {
            tracing::warn!("some duties did not end in {} s; they are left", CLOSE_WAIT.as_secs());
        }
        ended
    }
}

/// This process as others hear of it: at the address of its API.
fn gossip_of(checked: &Checked, registration: &RegisterRequest) -> GossipConfig {
    let (node, addr) = (checked.server.node_id.clone(), registration.addr.clone());
    GossipConfig {
        me: Me::Data { node, addr, store_id: registration.store_id.clone() },
        listen: checked.server.listen,
        advertise: checked.advertised().to_owned(),
        seeds: GossipConfig::seeds_of(checked.server.seeds.iter().map(String::as_str)),
        reach: Reach::default(),
    }
}

/// Gossips until it is dropped, and tells the cluster once that is known.
async fn gossip(config: GossipConfig, mut state: watch::Receiver<Arc<Metadata>>) {
    let gossip = Gossip::start(config);
    let founded = state.wait_for(|state| state.founded().is_some()).await;
    let cluster_id = founded.ok().and_then(|state| Some(state.founded()?.cluster_id.clone()));
    if let Some(cluster_id) = cluster_id {
        gossip.set_cluster_id(&cluster_id);
    }
    std::future::pending().await
}

/// A handler's host whose generation is kept on disk, with the directory's free bytes where the handler names none.
struct KeptHost {
    handled: Arc<HandlerHost>,
    dir: Arc<DataDir>,
}

#[async_trait]
impl ShardHost for KeptHost {
    fn generation(&self) -> u64 {
        self.handled.generation().max(self.dir.identity().generation)
    }

    async fn save_generation(&self, generation: u64) -> std::result::Result<(), HostError> {
        let dir = self.dir.clone();
        let saved = tokio::task::spawn_blocking(move || dir.save_generation(generation)).await;
        let saved = saved.map_err(|error| HostError(error.to_string()))?;
        saved.map_err(|error| HostError(format!("the generation was not saved: {error}")))?;
        self.handled.save_generation(generation).await
    }

    async fn pause(&self) {
        self.handled.pause().await;
    }

    async fn begin(&self, incarnation: Incarnation) {
        self.handled.begin(incarnation).await;
    }

    async fn install(&self, update: &AssignmentUpdate) -> std::result::Result<(), HostError> {
        self.handled.install(update).await
    }

    fn held(&self) -> Vec<HeldShard> {
        self.handled.held()
    }

    fn disk_free_bytes(&self) -> Option<u64> {
        self.handled.disk_free_bytes().or_else(|| self.dir.free_bytes())
    }

    async fn reported(&self, tag: u64, report: &Report, result: &ReportResult) {
        self.handled.reported(tag, report, result).await;
    }
}
