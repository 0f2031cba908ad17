//! What can go wrong with an embedded cluster, one variant for each way out of it.

use std::net::SocketAddr;
use std::sync::Arc;

use ruvector_cluster_client::control::ControlError;
use ruvector_cluster_client::ids::MigrationId;
use ruvector_cluster_client::node::DataDirError;
use ruvector_cluster_client::wire::Problem;

use crate::server::ServerError;

/// What the methods of [`Cluster`](super::Cluster) answer.
pub type Result<T, E = ClusterError> = std::result::Result<T, E>;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A field of [`ClusterConfig`](super::ClusterConfig), or an argument, that can't be.
    #[error("{field}: {why}")]
    Config {
        /// Its name.
        field: &'static str,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// The address is taken, or none of this machine's.
    #[error(
        "{field}: cannot listen on {addr}: stop what listens there, or choose another address of this machine"
    )]
    Listen {
        /// `listen_addr` or `peer_addr`.
        field: &'static str,
        /// The address.
        addr: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// [`Cluster::start`](super::Cluster::start) comes first; and nothing is answered after [`Cluster::stop`](super::Cluster::stop).
    #[error("the cluster does not run: start it first")]
    NotRunning,
    /// The data directory can't be used as a data node's.
    #[error("data_dir")]
    DataDir(#[from] DataDirError),
    /// The control node does not start.
    #[error("the control node does not start")]
    Start(#[source] ServerError),
    /// The control node ended by itself: nothing that it says can be relied on any longer. Start it again.
    #[error("the control node of this process has ended")]
    Failed(#[source] Arc<ServerError>),
    /// The control nodes do not take this process as a data node, and would not later either.
    #[error("this process is refused as a data node: {0}")]
    Registration(String),
    /// Not known yet, since the control nodes have not met.
    #[error(
        "the cluster is not founded yet, so that its number of shards is not known: wait for it with wait_for_stable"
    )]
    NotFounded,
    /// It did not settle in time; it may still.
    #[error("not stable after {waited_ms} ms (stable_timeout); waiting for {}", .waiting_for.join("; "))]
    NotStable {
        /// How long was waited.
        waited_ms: u64,
        /// What was missing at the end, a sentence each.
        waiting_for: Vec<String>,
    },
    /// The migration ended without moving anything.
    #[error("migration {id} was aborted: {why}")]
    MigrationAborted {
        /// It.
        id: MigrationId,
        /// Why.
        why: String,
    },
    /// What is watched was changed more often than is kept: read the whole again, then watch anew.
    #[error("too much has changed since: begin anew")]
    Compacted(#[source] Box<ControlError>),
    /// The cluster refuses, and would again.
    #[error("refused with {} {}: {}", .0.status, .0.code, .0.detail)]
    Refused(Box<Problem>),
    /// No control node answered in time. What was asked for may have been done.
    #[error("no answer")]
    NoAnswer(#[source] ControlError),
}

/// An error with its causes, in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl From<ControlError> for ClusterError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Refused(problem) => Self::Refused(problem),
            other => Self::NoAnswer(other),
        }
    }
}
