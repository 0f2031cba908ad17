//! Whose seeds these are, asked before anything is started.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use ruvector_cluster_raft::http::HttpTransport;
use ruvector_cluster_raft::transport::TransportError;
use ruvector_cluster_raft::{GreetError, greet};

use super::config::Checked;
use super::{ClusterError, Result};
use crate::server::ServerError;

/// A seed that does not answer for so long is silent.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// The cluster that the seeds belong to, if any does. Silent ones may be started later; until then
/// [`wait_for_stable`](super::Cluster::wait_for_stable) says who they are.
///
/// # Errors
/// [`ClusterError::Config`] when they belong to several, or when something else than a control node answers.
pub(super) async fn greet_all(checked: &Checked) -> Result<Option<String>> {
    let transport = HttpTransport::new();
    let transport = transport.map_err(|error| ClusterError::Start(ServerError::Setup(error.into())))?;
    let others = checked.server.seeds.iter().filter(|seed| *seed != checked.advertised());
    let transport = &transport;
    let asked = others.map(|seed| async move { (seed, greet(transport, seed, ASK_TIMEOUT).await) });
    let mut clusters: BTreeMap<String, &str> = BTreeMap::new();
    for (seed, answer) in join_all(asked).await {
        match answer {
            Ok(greeting) => {
                if let Some(cluster) = greeting.cluster_id {
                    clusters.insert(cluster, seed);
                }
            }
            Err(GreetError::Foreign(_) | GreetError::NoAnswer(TransportError::Refused { .. })) => {
                return refuse(format!("what answers at {seed} is no control node: give their listen_addr"));
            }
            Err(GreetError::NoAnswer(error)) => tracing::debug!(seed, %error, "a seed is silent"),
        }
    }
    if clusters.len() > 1 {
        let named: Vec<String> = clusters.iter().map(|(id, seed)| format!("{seed} to {id}")).collect();
        return refuse(format!("they belong to different clusters ({}): leave one's", named.join(", ")));
    }
    Ok(clusters.into_keys().next())
}

fn refuse<T>(why: String) -> Result<T> {
    Err(ClusterError::Config { field: "seeds", why })
}
