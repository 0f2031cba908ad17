//! How evenly copies and load lie, before and after: what a join, a drain and a skewed load come to.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use ruvector_cluster_client::control::{Call, ControlClient};
use ruvector_cluster_client::hashing::shard_of_key;
use ruvector_cluster_client::ids::{NodeId, Thousandths};
use ruvector_cluster_client::wire::{Hotspots, Intent, Node, Plan, ShardMap};
use serde_json::json;
use tokio::time::Instant;

use super::{Demo, get, shards_led_by};
use crate::asked::Spread;
use crate::data::Nodes;
use crate::digits::Digit;
use ruvector_cluster_local::narrator::{count, spell};

/// The skewed load counts as known once a node is shown to carry so much more than its share.
const KNOWN_FACTOR: Thousandths = Thousandths(1_300);
/// It counts as spread once the hottest node carries no more than that over the mean.
const SPREAD_FACTOR: f64 = 1.2;
/// How long requests are counted to tell who carries how many.
const COUNTED: Duration = Duration::from_secs(3);

impl Demo<'_> {
    /// How the copies lie on the nodes that are to have some, in words; one that holds none yet counts.
    pub(super) async fn copies(&self) -> Result<String> {
        let map: ShardMap = get(&self.control, "/v1/map").await?;
        let nodes = self.nodes_in_use().await?;
        let mut held: BTreeMap<NodeId, u64> = nodes.into_iter().map(|node| (node, 0)).collect();
        for node in map.shards.iter().flat_map(|shard| shard.primary.iter().chain(&shard.replicas)) {
            held.entry(node.clone()).and_modify(|held| *held += 1);
        }
        let Spread { most, least, factor, .. } = Spread::of(&held).context("there are no copies")?;
        Ok(format!("{least} to {most} copies a node, the fullest {factor:.2} times the mean"))
    }

    /// Readers want what one node leads, and nothing else; then that load is spread.
    pub(super) async fn heat_a_node(&mut self) -> Result<()> {
        let hot = NodeId::new("d1")?;
        let map: ShardMap = get(&self.control, "/v1/map").await?;
        let led = shards_led_by(&map, &hot);
        ensure!(!led.is_empty(), "{hot} leads no shard");
        let is_hot = |digit: &&Digit| led.contains(&shard_of_key(&digit.id, map.num_shards));
        let wanted: Vec<Digit> = self.digits.iter().filter(is_hot).cloned().collect();
        let readers = self.load.as_mut().context("the load runs")?.focus(&self.client, &self.tally, &wanted);
        let shards = led.len();
        self.narrator.say(format!("{readers} more readers want only what the {shards} shards of {hot} hold"));

        let started = Instant::now();
        let known = async |control: &ControlClient| {
            let hotspots: Hotspots = get(control, "/v1/hotspots").await?;
            Ok(hotspots.nodes.into_iter().next().filter(|node| node.factor >= KNOWN_FACTOR))
        };
        let shown = self.wait("the hot node to be shown", known).await?;
        let (took, factor) = (spell(started.elapsed()), shown.factor);
        self.narrator
            .say(format!("GET /v1/hotspots after {took}: {} carries {factor} times its share", shown.id));
        let before = self.fullest().await?;
        self.narrator.say(format!(
            "of the client's requests {} fell on {} within {}, {:.2} times the mean",
            count(before.most as usize),
            before.fullest,
            spell(COUNTED),
            before.factor
        ));
        self.spread_the_load().await
    }

    async fn spread_the_load(&mut self) -> Result<()> {
        let started = Instant::now();
        let mut moves = 0;
        let after = loop {
            let call = Call::write(Method::POST, "/v1/rebalance", &json!({}))?;
            moves += self.control.send::<Plan>(&call).await?.body.moves.len();
            self.wait_for_rest(6).await?;
            let after = self.fullest().await?;
            if after.factor <= SPREAD_FACTOR {
                break after;
            }
            ensure!(
                started.elapsed() < super::STEP_TIMEOUT,
                "{} still carries {:.2} times the mean",
                after.fullest,
                after.factor
            );
        };
        self.narrator.say(format!(
            "POST /v1/rebalance: after {moves} moves and {} {} fell on {}, {:.2} times the mean",
            spell(started.elapsed()),
            count(after.most as usize),
            after.fullest,
            after.factor
        ));
        Ok(())
    }

    /// Who carries most of what the client asks for now.
    async fn fullest(&mut self) -> Result<Spread> {
        let before = self.client.asked().counts();
        let until = Instant::now() + COUNTED;
        self.wait("the requests to be counted", async |_| Ok((Instant::now() >= until).then_some(())))
            .await?;
        let map: ShardMap = get(&self.control, "/v1/map").await?;
        let nodes = self.nodes_in_use().await?;
        Spread::of(&self.client.asked().counts().by_node(&before, &map, &nodes)).context("nothing was asked")
    }

    async fn nodes_in_use(&self) -> Result<Vec<NodeId>> {
        let nodes: Nodes = get(&self.control, "/v1/nodes").await?;
        let is_in_use = |node: &Node| node.intent == Intent::Schedulable;
        Ok(nodes.nodes.into_iter().filter(is_in_use).map(|node| node.id).collect())
    }
}
