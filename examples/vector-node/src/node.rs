//! A whole node: opened, registered, serving, and stopped in order.

use std::net::SocketAddr;

use ruvector_cluster_client::node::{self, DataNode, NodeConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{self, App};
use crate::options::Options;

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The options don't fit together.
    #[error("{0}")]
    Options(String),
    /// The address can't be listened on.
    #[error("can't listen on {addr}")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The node can't start, or can't go on.
    #[error(transparent)]
    Node(#[from] node::NodeError),
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
    let addr = options.advertised().map_err(NodeError::Options)?;
    let dimensions = options.dimensions as usize;
    let mut config = NodeConfig::new(options.node_id, addr, options.coordinators, options.data_dir);
    config.zone = options.zone;
    config.rack = options.rack;
    config.capacity = options.capacity;
    let (node, task) = DataNode::open(config, dimensions).await?;
    let app = api::router(App { node, dimensions });
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    Ok(task.run(shutdown, server).await?)
}
