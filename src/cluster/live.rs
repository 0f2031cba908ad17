//! A cluster's parts while it runs, and the task that ends them in order.

use std::sync::Arc;

use ruvector_cluster_client::control::{Call, ControlClient, ControlOptions, Http};
use ruvector_cluster_client::ids::NodeId;
use ruvector_cluster_raft::Node;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::config::Checked;
use super::embedded::DataPart;
use super::own::OwnFirst;
use super::{ClusterError, Result};
use crate::metadata::Metadata;
use crate::server::{self, Parts, Running, ServerError};

/// What methods use.
pub(super) struct Live {
    /// This process's name, as control node and as data node.
    pub(super) name: NodeId,
    /// Consensus.
    pub(super) node: Node,
    /// The local replica, as published last.
    pub(super) state: watch::Receiver<Arc<Metadata>>,
    /// To this process's control node, then to the others.
    pub(super) control: ControlClient,
    /// Why this process was refused as a data node.
    pub(super) refused: watch::Receiver<Option<String>>,
    ended: watch::Receiver<Option<End>>,
}

/// How it ended.
#[derive(Clone)]
enum End {
    Stopped,
    Failed(Arc<ServerError>),
}

/// The handle by which it is ended.
pub(super) struct Task {
    shutdown: CancellationToken,
    ended: watch::Receiver<Option<End>>,
}

impl Task {
    pub(super) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    pub(super) fn begin_stop(&self) {
        self.shutdown.cancel();
    }

    pub(super) async fn stop(&mut self) {
        self.begin_stop();
        if self.ended.wait_for(Option::is_some).await.is_err() {
            tracing::error!("the task of this cluster ended badly");
        }
    }
}

impl Live {
    /// Starts it all in a task of its own, which also ends it: whoever drops this wait half way leaves nothing running.
    pub(super) async fn start(
        checked: Arc<Checked>,
        listener: TcpListener,
        met: Option<String>,
    ) -> Result<(Self, Task)> {
        let (started, starting) = oneshot::channel();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            let (ended_by, ended) = watch::channel(None);
            let (live, begun) = match begin(&checked, listener, met.as_deref(), ended.clone()).await {
                Ok(begun) => begun,
                Err(error) => return drop(started.send(Err(error))),
            };
            if started.send(Ok((live, Task { shutdown: stop.clone(), ended }))).is_err() {
                stop.cancel();
            }
            ended_by.send_replace(Some(run(begun, stop).await));
        });
        let failed = |_| ClusterError::Start(ServerError::Setup("the starting task ended badly".into()));
        starting.await.map_err(failed)?
    }

    /// Asks this process's control node first.
    pub(super) async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        Ok(self.control.send(&call.at(0)).await?.body)
    }

    /// Why nothing can be asked any more, if so.
    pub(super) fn failure(&self) -> Option<ClusterError> {
        self.ended.borrow().as_ref().map(failure_of)
    }

    /// Returns once nothing can be asked any more.
    pub(super) async fn failed(&self) -> ClusterError {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.as_ref().map(failure_of));
        end.unwrap_or(ClusterError::NotRunning)
    }
}

fn failure_of(end: &End) -> ClusterError {
    match end {
        End::Stopped => ClusterError::NotRunning,
        End::Failed(error) => ClusterError::Failed(error.clone()),
    }
}

/// What was begun, to be run.
struct Begun {
    running: Running,
    listener: TcpListener,
    part: DataPart,
    control: ControlClient,
    refused: watch::Sender<Option<String>>,
}

async fn begin(
    checked: &Checked,
    listener: TcpListener,
    met: Option<&str>,
    ended: watch::Receiver<Option<End>>,
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
    let exchange = OwnFirst { own, router: running.router.clone(), others };
    let control = ControlClient::over(options, Arc::new(exchange))?;
    let (refused_by, refused) = watch::channel(None);
    let live = Live {
        name: checked.server.node_id.clone(),
        node: running.node.clone(),
        state: running.state.clone(),
        control: control.clone(),
        refused,
        ended,
    };
    Ok((live, Begun { running, listener, part, control, refused: refused_by }))
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

/// Serves until told to stop or until the node fails. The data node ends first, since it needs a control node for that; the agent's
/// lease is then left to run out.
async fn run(begun: Begun, shutdown: CancellationToken) -> End {
    let Begun { running, listener, part, control, refused } = begun;
    let (stop_data, stop_serving) = (CancellationToken::new(), CancellationToken::new());
    let stopping = stop_data.clone();
    let data = tokio::spawn(async move {
        if let Err(error) = part.run(control, stopping).await {
            let why = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(why, "this process is no data node");
            refused.send_replace(Some(why));
        }
    });
    let name = running.node.name().to_owned();
    let mut serving = tokio::spawn(running.serve(listener, stop_serving.clone()));
    let by_itself = tokio::select! {
        served = &mut serving => Some(served),
        () = shutdown.cancelled() => None,
    };
    stop_data.cancel();
    if let Err(error) = data.await {
        tracing::error!(name, %error, "the data node's task ended badly");
    }
    stop_serving.cancel();
    let served = match by_itself {
        Some(served) => served,
        None => serving.await,
    };
    match served {
        Ok(Ok(())) => End::Stopped,
        Ok(Err(error)) => {
            tracing::error!(name, %error, "this cluster's control node has ended");
            End::Failed(Arc::new(error))
        }
        Err(error) => End::Failed(Arc::new(ServerError::Setup(error.into()))),
    }
}
