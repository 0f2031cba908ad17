//! A cluster's parts while it runs, and the task that ends them in order.

use std::sync::Arc;

use ruvector_cluster_client::control::{Call, ControlClient, ControlOptions, Http};
use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_raft::{LeadershipState, Phase};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::config::Checked;
use super::embedded::DataPart;
use super::error::with_causes;
use super::own::{Held, OwnFirst, OwnRouter};
use super::{ClusterError, Result};
use crate::metadata::{Metadata, Settings};
use crate::server::{self, Parts, Running, ServerError};

/// What methods use.
pub(super) struct Live {
    /// This process's name, as control node and as data node.
    pub(super) name: NodeId,
    /// What this process was told that a cluster is founded with.
    pub(super) asked: Settings,
    /// Who leads.
    pub(super) leadership: watch::Receiver<LeadershipState>,
    /// Whether this node found its cluster.
    pub(super) phase: watch::Receiver<Phase>,
    /// The local replica, as published last.
    pub(super) state: watch::Receiver<Arc<Metadata>>,
    /// To this process's control node, then to the others.
    pub(super) control: ControlClient,
    /// Why this process is no data node, where it ended as one.
    pub(super) refused: watch::Receiver<Option<String>>,
    stage: watch::Receiver<Stage>,
}

/// How far it is. The channel closes without a word where the runtime ended.
#[derive(Clone)]
enum Stage {
    Runs,
    /// By itself; the rest is being ended.
    Fails(Arc<ServerError>),
    /// The address and the directory are free.
    Ended(Option<Arc<ServerError>>),
}

impl Stage {
    fn failure(&self) -> Option<ClusterError> {
        match self {
            Self::Runs => None,
            Self::Fails(error) | Self::Ended(Some(error)) => Some(ClusterError::Failed(error.clone())),
            Self::Ended(None) => Some(ClusterError::NotRunning),
        }
    }
}

/// The handle by which it is ended.
pub(super) struct Task {
    shutdown: CancellationToken,
    stage: watch::Receiver<Stage>,
}

/// What a start comes to; whoever drops it unread ends what was started.
pub(super) type Starting = oneshot::Receiver<Result<(Live, DropGuard)>>;

impl Task {
    /// Whether it runs, and is to go on.
    pub(super) fn is_well(&self) -> bool {
        let runs = matches!(*self.stage.borrow(), Stage::Runs);
        runs && self.stage.has_changed().is_ok() && !self.shutdown.is_cancelled()
    }

    pub(super) fn begin_stop(&self) {
        self.shutdown.cancel();
    }

    pub(super) async fn stop(&mut self) {
        self.begin_stop();
        let ended = self.stage.wait_for(|stage| matches!(stage, Stage::Ended(_))).await;
        if ended.is_err() {
            tracing::warn!("the task of this cluster ended with its runtime");
        }
    }
}

impl Live {
    /// Starts it all in a task of its own, which also ends it.
    pub(super) fn start(
        checked: Arc<Checked>,
        listener: TcpListener,
        met: Option<String>,
    ) -> (Task, Starting) {
        let (started, starting) = oneshot::channel();
        let (tells, stage) = watch::channel(Stage::Runs);
        let shutdown = CancellationToken::new();
        let (stop, seen) = (shutdown.clone(), stage.clone());
        tokio::spawn(async move {
            let failed = match begin(&checked, listener, met.as_deref(), seen).await {
                Ok((live, begun)) => {
                    // Dropped with the answer where nobody takes it, and then it stops.
                    let unread = started.send(Ok((live, stop.clone().drop_guard())));
                    drop(unread);
                    run(begun, &tells, stop).await
                }
                Err(error) => {
                    drop(started.send(Err(error)));
                    None
                }
            };
            tells.send_replace(Stage::Ended(failed));
        });
        (Task { shutdown, stage }, starting)
    }

    /// Asks this process's control node first.
    pub(super) async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let call = call.at(0);
        tokio::select! {
            answered = self.control.send(&call) => Ok(answered?.body),
            failure = self.failed() => Err(failure),
        }
    }

    /// Why nothing can be asked any more, if so.
    pub(super) fn failure(&self) -> Option<ClusterError> {
        let gone = || self.stage.has_changed().err().map(|_| ClusterError::NotRunning);
        let failure = self.stage.borrow().failure();
        failure.or_else(gone)
    }

    /// Returns once nothing can be asked any more.
    pub(super) async fn failed(&self) -> ClusterError {
        let mut stage = self.stage.clone();
        let failed = stage.wait_for(|stage| stage.failure().is_some()).await.ok();
        failed.and_then(|stage| stage.failure()).unwrap_or(ClusterError::NotRunning)
    }
}

/// What was begun, to be run.
struct Begun {
    running: Running,
    listener: TcpListener,
    part: DataPart,
    control: ControlClient,
    refused: watch::Sender<Option<String>>,
    router: Held,
}

async fn begin(
    checked: &Checked,
    listener: TcpListener,
    met: Option<&str>,
    stage: watch::Receiver<Stage>,
) -> Result<(Live, Begun)> {
    let part = DataPart::open(checked)?;
    let parts = Parts::of_this_machine(&checked.server).map_err(ClusterError::Start)?;
    let bound = listener.local_addr().map_err(|e| ClusterError::Start(ServerError::Serve(e)))?;
    let own = checked.advertised().to_owned();
    let coordinators = std::iter::once(own.clone()).chain(checked.server.seeds.iter().cloned());
    let options = ControlOptions::new(coordinators.collect());
    let others = Http::new(options.attempt_timeout_ms)?;
    let running = server::start(&checked.server, bound, parts).await;
    let running = running.map_err(|error| checked.explained(error))?;
    if let Err(error) = is_of(&running, met) {
        running.stop().await;
        return Err(error);
    }
    let router = OwnRouter::of(&running);
    let held = router.until_dropped();
    let control = ControlClient::over(options, Arc::new(OwnFirst { own, router, others }))?;
    let (refused_by, refused) = watch::channel(None);
    let live = Live {
        name: checked.server.node_id.clone(),
        asked: checked.server.settings.clone(),
        leadership: running.node.leadership(),
        phase: running.node.phase(),
        state: running.state.clone(),
        control: control.clone(),
        refused,
        stage,
    };
    Ok((live, Begun { running, listener, part, control, refused: refused_by, router: held }))
}

/// Whether a node that has data is of the cluster that its seeds are of.
fn is_of(running: &Running, met: Option<&str>) -> Result<()> {
    match (running.node.cluster_id(), met) {
        (Some(own), Some(met)) if own != met => Err(ClusterError::Config {
            field: "seeds",
            why: format!(
                "they belong to cluster {met}, and the data of this node to {own}: correct the seeds, or give it another data_dir"
            ),
        }),
        _ => Ok(()),
    }
}

/// Serves until told to stop or until the node fails; why it failed, if it did. The data node ends first, since it needs a control
/// node for that.
async fn run(
    begun: Begun,
    tells: &watch::Sender<Stage>,
    shutdown: CancellationToken,
) -> Option<Arc<ServerError>> {
    let Begun { running, listener, part, control, refused, router: _router } = begun;
    let (stop_data, stop_serving) = (CancellationToken::new(), CancellationToken::new());
    let node = running.node.clone();
    let state = running.state.clone();
    let data = tokio::spawn(be_data_node(part, control, state, refused, stop_data.clone()));
    let mut serving = tokio::spawn(running.serve(listener, stop_serving.clone()));
    let by_itself = tokio::select! {
        biased;
        error = node.fatal() => {
            let error = Arc::new(ServerError::Fatal(error));
            tracing::error!(node = node.name(), %error, "this cluster's control node has ended");
            tells.send_replace(Stage::Fails(error));
            None
        }
        served = &mut serving => Some(served),
        () = shutdown.cancelled() => None,
    };
    stop_data.cancel();
    if let Err(error) = data.await {
        tracing::error!(node = node.name(), %error, "the data node's task ended badly");
    }
    stop_serving.cancel();
    let served = match by_itself {
        Some(served) => served,
        None => serving.await,
    };
    match served {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(Arc::new(error)),
        Err(error) => Some(Arc::new(ServerError::Setup(error.into()))),
    }
}

/// Until `stopping`; where it ends before, also by a panic of the handler, that is told.
async fn be_data_node(
    part: DataPart,
    control: ControlClient,
    state: watch::Receiver<Arc<Metadata>>,
    refused: watch::Sender<Option<String>>,
    stopping: CancellationToken,
) {
    let why = match tokio::spawn(part.run(control, state, stopping)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => with_causes(&error),
        Err(error) => format!("its handler failed: {error}"),
    };
    tracing::error!(why, "this process is no data node any more");
    refused.send_replace(Some(why));
}
