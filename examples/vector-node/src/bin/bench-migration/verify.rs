//! After everything: every key is read again, and the vectors of all shards are counted.

use anyhow::Result;
use futures::StreamExt;
use ruvector_cluster_client::ids::ShardId;
use ruvector_cluster_client::wire::Role;
use vector_node::api::Stats;

use crate::client::DataClient;
use crate::history::History;
use crate::load::Targets;

/// Requests at once.
const AT_ONCE: usize = 16;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verified {
    /// Keys that were written.
    pub(crate) expected: usize,
    /// Of these, not there, or older than what was acknowledged.
    pub(crate) lost: Vec<String>,
    /// Vectors that the primaries hold, all together.
    pub(crate) held: u64,
}

/// Looks at everything. The last reads of the judged keys become part of the history.
pub(crate) async fn verify(
    client: &DataClient,
    targets: &Targets,
    history: &History,
    addrs: &[String],
) -> Result<Verified> {
    let keys = client.keys();
    let process = history.process();
    let judged: Vec<_> = (0..keys.shards()).flat_map(|shard| keys.judged(ShardId(shard))).collect();
    for key in &judged {
        history.read(client, process, &targets.any(), *key).await;
    }
    let reads = futures::stream::iter(0..keys.count()).map(async |key| {
        let versions = keys.versions(key);
        // Writers of judged keys overtake each other: which version is the last, the history says.
        let least = if judged.binary_search(&key).is_ok() { 1 } else { versions.acknowledged };
        let found = client.fetch(&targets.any(), key).await.map(|(version, _)| version);
        let is_there = found.flatten().is_some_and(|version| versions.allow(least, version));
        (!is_there).then(|| format!("{}: {found:?} found, {versions:?}", keys.name(key)))
    });
    let lost = reads.buffer_unordered(AT_ONCE).filter_map(async |lost| lost).collect().await;
    let mut held = 0;
    for addr in addrs {
        let stats: Stats = reqwest::get(format!("http://{addr}/v1/stats")).await?.json().await?;
        let led = stats.shards.iter().filter(|shard| shard.role == Some(Role::Primary));
        held += led.map(|shard| shard.vectors).sum::<u64>();
    }
    Ok(Verified { expected: keys.count(), lost, held })
}
