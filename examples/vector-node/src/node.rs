//! A whole node: opened, registered, serving, and stopped in order.
//!
//! Stopping: new connections are refused and requests under way are finished (bounded), the agent ends, so that nothing more
//! is granted, and the copies are flushed. Nothing depends on a clean stop; it only makes the next start shorter.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::{Listener, ListenerExt};
use ruvector_cluster_client::agent::{Agent, AgentConfig, AgentError, HostError, LeaseWatch, Outbox};
use ruvector_cluster_client::clock::{Clock, SystemClock};
use ruvector_cluster_client::control::{ControlClient, ControlError, ControlOptions};
use ruvector_cluster_client::copies::{Copies, Parts, TokioSpawn};
use ruvector_cluster_client::router::Router;
use ruvector_cluster_client::wire::RegisterRequest;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::api::{self, App};
use crate::gateway::Gateway;
use crate::identity::{DataDir, DataDirError};
use crate::options::Options;
use crate::peers::Peers;
use crate::shards::Directory;

/// How long requests under way may go on once the node is to stop.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The options don't fit together.
    #[error("{0}")]
    Options(String),
    /// The data directory can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The address can't be listened on.
    #[error("can't listen on {addr}")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The system refused.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
    /// The copies in the data directory can't be opened.
    #[error(transparent)]
    Copies(HostError),
    /// HTTP can't be set up.
    #[error("HTTP can't be set up")]
    Http(#[source] reqwest::Error),
    /// The control nodes can't be asked.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The agent ended.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// Runs a node until `shutdown`, or until it can't go on.
///
/// # Errors
/// [`NodeError`].
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), NodeError> {
    let listener = TcpListener::bind(options.listen)
        .await
        .map_err(|error| NodeError::Listen { addr: options.listen, error })?;
    run_on(listener, options, shutdown).await
}

/// Runs a node on a listener that is open already; `--listen` only says what is told to others.
///
/// # Errors
/// [`NodeError`].
pub async fn run_on(
    listener: TcpListener,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), NodeError> {
    let advertised = options.advertised().map_err(NodeError::Options)?;
    let dir = Arc::new(DataDir::open(&options.data_dir, &options.node_id, options.dimensions)?);
    let control = ControlClient::new(ControlOptions::new(options.coordinators.clone()))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let lease = LeaseWatch::new(clock.clone());
    let (reporter, outbox) = Outbox::new();
    let peers = Peers::new().map_err(NodeError::Http)?;
    let parts = Parts {
        node: options.node_id.clone(),
        clock: clock.clone(),
        lease: lease.clone(),
        reporter,
        messenger: Arc::new(peers.clone()),
        spawn: Arc::new(TokioSpawn),
    };
    let shards = Copies::open(parts, Directory::new(dir.clone())).await.map_err(NodeError::Copies)?;
    let router = Router::start(control.clone(), shutdown.clone());
    let gateway = Gateway::new(options.node_id.clone(), router, shards.clone(), peers);
    let app = App { gateway, shards: shards.clone(), dimensions: options.dimensions as usize };
    let registration = RegisterRequest {
        addr: advertised,
        store_id: dir.identity().store_id,
        zone: options.zone,
        rack: options.rack,
        labels: std::collections::BTreeMap::new(),
        capacity: options.capacity,
        capacity_bytes: None,
        accept_data_loss: false,
    };
    let config = AgentConfig::new(options.node_id, registration);
    let agent = Agent::new(config, control, shards.clone(), clock, lease, outbox);
    let ended = serve(listener, app, agent, shutdown).await;
    shards.close().await;
    ended
}

/// Serves until `shutdown`, then finishes what is under way; the agent runs until that is done, so that primaries keep
/// the lease that they need to answer.
async fn serve(
    listener: TcpListener,
    app: App,
    agent: Agent,
    shutdown: CancellationToken,
) -> Result<(), NodeError> {
    let (stop_agent, stopping) = (CancellationToken::new(), shutdown.clone());
    let server = axum::serve(without_delay(listener), api::router(app))
        .with_graceful_shutdown(stopping.cancelled_owned());
    let agent = agent.run(stop_agent.clone());
    tokio::pin!(agent);
    let server = server.into_future();
    tokio::pin!(server);
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(STOP_WAIT).await;
    };
    tokio::select! {
        ended = &mut agent => return Ok(ended?),
        served = &mut server => {
            served.map_err(|error| NodeError::Io { what: "serving ended", error })?;
        }
        () = late => tracing::warn!("some requests were not finished in time"),
    }
    stop_agent.cancel();
    Ok(agent.await?)
}

/// Whose connections send what is written at once: an answer is small, and its second packet would wait for the other side to
/// acknowledge the first, which that puts off for 40 ms.
fn without_delay(listener: TcpListener) -> impl Listener<Io = TcpStream, Addr = SocketAddr> {
    listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers to other nodes waited 40 ms for an acknowledgement now and then, and with them every hand-over.
    #[tokio::test]
    async fn no_connection_waits_to_fill_a_packet() {
        let mut listener = without_delay(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let addr = listener.local_addr().unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(addr));
        connected.unwrap();
        assert!(accepted.0.nodelay().unwrap());
    }
}
