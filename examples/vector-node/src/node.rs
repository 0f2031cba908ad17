//! A whole node: opened, registered, serving, and stopped in order.

use std::net::SocketAddr;

use axum::serve::{Listener, ListenerExt};
use ruvector_cluster_client::node::{self, DataNode, NodeConfig, NodeGossip};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::api::{self, App};
use crate::options::{Gossip, Options};

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
    config.gossip = match options.gossip {
        Gossip::On => Some(NodeGossip::at(options.listen)),
        Gossip::Off => None,
    };
    let (node, task) = DataNode::open(config, dimensions).await?;
    let app = api::router(App { node, dimensions });
    let server =
        axum::serve(without_delay(listener), app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    Ok(task.run(shutdown, server).await?)
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
