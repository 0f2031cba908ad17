//! The cluster under test, as its control nodes tell of it: started, asked, and told to move shards.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;
use ruvector_cluster_client::control::{Call, ControlClient, ControlOptions};
use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::{
    Health, HealthStatus, MapShard, MigrateRequest, Migration, RebalancePolicy, ShardMap,
};
use ruvector_cluster_local::processes::{CONTROL_NODES, Processes};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

/// Anything that is waited for longer has failed.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// The control nodes' client.
#[derive(Clone)]
pub(crate) struct Cluster {
    control: ControlClient,
}

impl Cluster {
    /// Starts all nodes and waits until every shard has its copies.
    pub(crate) async fn start(processes: &mut Processes, vector_nodes: u16) -> Result<Self> {
        for n in 1..=CONTROL_NODES {
            processes.start_control(n)?;
        }
        let control = ControlClient::new(ControlOptions::new(processes.coordinators()))?;
        control.send::<serde_json::Value>(&Call::get("/v1/cluster")).await.context("no leader")?;
        for n in 1..=vector_nodes {
            processes.start_vector(n, &format!("r{n}"))?;
        }
        let cluster = Self { control };
        cluster.wait_for_rest(processes, vector_nodes).await?;
        // What moves is what this benchmark moves.
        let policy = RebalancePolicy { enabled: false, ..cluster.get("/v1/rebalance/policy").await? };
        let call = Call::write(Method::PUT, "/v1/rebalance/policy", &policy)?;
        cluster.control.send::<serde_json::Value>(&call).await?;
        Ok(cluster)
    }

    /// The client.
    pub(crate) fn control(&self) -> &ControlClient {
        &self.control
    }

    /// Reads `path` as JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        Ok(self.control.send(&Call::get(path)).await.with_context(|| path.to_owned())?.body)
    }

    /// The map, linearizable.
    pub(crate) async fn map(&self) -> Result<ShardMap> {
        self.get("/v1/map").await
    }

    /// Waits until all copies are in sync on so many nodes and nothing moves.
    pub(crate) async fn wait_for_rest(&self, processes: &mut Processes, nodes: u16) -> Result<()> {
        let begun = Instant::now();
        loop {
            processes.check()?;
            let health = self.get::<Health>("/v1/health").await;
            let is_whole = health.as_ref().is_ok_and(|health| {
                health.status == HealthStatus::Healthy
                    && health.shards.active == health.shards.total
                    && health.healthy_nodes == u64::from(nodes)
            });
            if is_whole {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < STEP_TIMEOUT,
                "waited {STEP_TIMEOUT:?} for a healthy cluster: {health:?}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks for a migration of `shard`'s primary to `to`; where `to` holds a copy that is in sync, of the primaryship alone.
    /// Waits, within a bound, while what an earlier one left there is being deleted.
    pub(crate) async fn migrate(&self, shard: ShardId, to: &NodeId) -> Result<Migration> {
        let request = MigrateRequest { shard, to: to.clone(), from: None, if_epoch: None };
        let begun = Instant::now();
        loop {
            let call = Call::write(Method::POST, "/v1/migrations", &request)?;
            match self.control.send::<Migration>(&call).await {
                Ok(answer) => return Ok(answer.body),
                Err(error) if matches!(error.status(), Some(409 | 422)) && begun.elapsed() < STEP_TIMEOUT => {
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => return Err(error).with_context(|| format!("moving shard {shard} to {to}")),
            }
        }
    }

    /// Waits until a migration has ended.
    pub(crate) async fn ended(&self, migration: &Migration) -> Result<Migration> {
        let begun = Instant::now();
        while begun.elapsed() < STEP_TIMEOUT {
            let call = Call::get(format!("/v1/migrations/{}", migration.id))
                .query("wait_ms", 10_000)
                .within(15_000, 30_000);
            let now = self.control.send::<Migration>(&call).await?.body;
            if now.phase.is_ended() {
                return Ok(now);
            }
        }
        bail!("{migration:?} did not end within {STEP_TIMEOUT:?}: {}", json!(self.map().await?))
    }
}

/// Shards that `node` leads.
pub(crate) fn led_by(map: &ShardMap, node: &NodeId) -> Vec<ShardId> {
    let shards = (0..).map(ShardId).zip(&map.shards);
    shards.filter(|(_, shard)| shard.primary.as_ref() == Some(node)).map(|(id, _)| id).collect()
}

/// Whether `node` holds a full copy.
pub(crate) fn holds(shard: &MapShard, node: &NodeId) -> bool {
    shard.primary.as_ref() == Some(node) || shard.replicas.contains(node)
}
