//! What goes wrong. Each fault begins here; what it leaves behind is put right by [`Cluster::heal`].

mod members;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use reqwest::Method;
use serde_json::json;

use crate::api::Ask;
use crate::chance::Chance;
use crate::cluster::{Cluster, ON_SMALL_DISK, SHARDS};
use crate::links::Link;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// SIGKILL of one control node.
    Kill,
    /// SIGKILL of the leader.
    KillLeader,
    /// SIGKILL of so many at once that no quorum is left.
    KillQuorum,
    /// SIGKILL of all at once.
    KillAll,
    /// SIGKILL again and again while one opens its files.
    KillOpening,
    /// SIGSTOP of one.
    Pause,
    /// SIGSTOP of the leader.
    PauseLeader,
    /// Some directed links swallow everything.
    Drop,
    /// Some, or all, directed links are slow.
    Delay,
    /// Some directed links end their connections and let none come, for a while each.
    Cut,
    /// Nothing that one sends arrives, or nothing that is sent to it.
    OneWay,
    /// Both.
    Isolate,
    /// One node's disk is full; half of the time it is killed and started again meanwhile.
    DiskFull,
    /// Leadership is handed over on request.
    Transfer,
    /// Shards are moved on request.
    Move,
    /// One more control node joins.
    MemberAdded,
    /// It is removed.
    MemberRemoved,
    /// A control node loses its disk, is removed, and comes back empty.
    MemberReplaced,
}

impl Kind {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Changes of the membership come alone, with small faults of their own.
    pub(crate) fn is_of_members(self) -> bool {
        matches!(self, Self::MemberAdded | Self::MemberRemoved | Self::MemberReplaced)
    }
}

/// Injects faults and counts those that took effect.
pub(crate) struct Faults {
    chance: Chance,
    pub(crate) counts: BTreeMap<Kind, u64>,
    /// Processes that were killed and are started again on the same files.
    pub(crate) reopened: u64,
    /// Those of them that were killed before they had opened their files.
    pub(crate) killed_opening: u64,
    numbered: u64,
}

impl Faults {
    pub(crate) fn new(chance: Chance) -> Self {
        Self { chance, counts: BTreeMap::new(), reopened: 0, killed_opening: 0, numbered: 0 }
    }

    /// Begins a fault; whether it took effect.
    pub(crate) async fn begin(&mut self, cluster: &mut Cluster, kind: Kind) -> Result<bool> {
        cluster.note(&kind.name());
        let took_effect = match kind {
            Kind::Kill => self.kill(cluster, 1),
            Kind::KillLeader => self.kill_leader(cluster).await,
            Kind::KillQuorum => self.kill(cluster, cluster.members().len().div_ceil(2)),
            Kind::KillAll => self.kill(cluster, cluster.members().len()),
            Kind::KillOpening => self.kill_opening(cluster).await?,
            Kind::Pause => self.any(cluster).inspect(|node| cluster.pause(*node)).is_some(),
            Kind::PauseLeader => cluster.leader().await.inspect(|leader| cluster.pause(*leader)).is_some(),
            Kind::Drop => self.some_links(cluster, Link::Drop),
            Kind::Delay => self.delay(cluster),
            Kind::Cut => self.cut(cluster).await,
            Kind::OneWay => self.one_way(cluster),
            Kind::Isolate => self.isolate(cluster),
            Kind::DiskFull => self.fill_disk(cluster).await?,
            Kind::Transfer => self.transfer(cluster).await,
            Kind::Move => self.move_shards(cluster).await,
            Kind::MemberAdded => self.add_member(cluster).await?,
            Kind::MemberRemoved => self.remove_member(cluster).await?,
            Kind::MemberReplaced => self.replace_member(cluster).await?,
        };
        if took_effect {
            *self.counts.entry(kind).or_default() += 1;
        }
        Ok(took_effect)
    }

    fn any(&self, cluster: &Cluster) -> Option<usize> {
        let up: Vec<usize> = cluster.members().into_iter().filter(|node| cluster.is_up(*node)).collect();
        self.chance.pick(&up)
    }

    fn kill(&mut self, cluster: &mut Cluster, count: usize) -> bool {
        let mut killed = 0;
        while killed < count {
            let Some(node) = self.any(cluster) else { break };
            cluster.kill(node);
            killed += 1;
        }
        self.reopened += killed as u64;
        killed > 0
    }

    async fn kill_leader(&mut self, cluster: &mut Cluster) -> bool {
        let Some(leader) = cluster.leader().await else { return false };
        cluster.kill(leader);
        self.reopened += 1;
        true
    }

    async fn kill_opening(&mut self, cluster: &mut Cluster) -> Result<bool> {
        let Some(node) = self.any(cluster) else { return Ok(false) };
        for _ in 0..self.chance.between(3, 8) {
            cluster.kill(node);
            cluster.start(node)?;
            self.in_the_midst().await;
            self.killed_opening += u64::from(!cluster.has_opened(node));
            self.reopened += 1;
        }
        cluster.kill(node);
        Ok(true)
    }

    /// Up to 100 ms, mostly short: a node opens within some milliseconds.
    pub(crate) async fn in_the_midst(&self) {
        let step = self.chance.between(0, 100);
        tokio::time::sleep(Duration::from_micros(step * step * 10)).await;
    }

    /// All directed links between members.
    fn links(cluster: &Cluster) -> Vec<(usize, usize)> {
        let members = cluster.members();
        let pairs = members.iter().flat_map(|from| members.iter().map(|to| (*from, *to)));
        pairs.filter(|(from, to)| from != to).collect()
    }

    fn some_links(&self, cluster: &Cluster, link: Link) -> bool {
        let links = Self::links(cluster);
        for _ in 0..self.chance.between(1, 3) {
            if let Some((from, to)) = self.chance.pick(&links) {
                cluster.links.set(from, to, link);
            }
        }
        !links.is_empty()
    }

    fn delay(&self, cluster: &Cluster) -> bool {
        let delay = || Link::Delay(Duration::from_millis(self.chance.between(10, 500)));
        if self.chance.percent(50) {
            return self.some_links(cluster, delay());
        }
        for (from, to) in Self::links(cluster) {
            cluster.links.set(from, to, delay());
        }
        true
    }

    async fn cut(&self, cluster: &Cluster) -> bool {
        for _ in 0..self.chance.between(1, 5) {
            self.some_links(cluster, Link::Cut);
            self.chance.wait(10, 500).await;
            if self.chance.percent(50) {
                cluster.links.heal();
            }
        }
        true
    }

    fn one_way(&self, cluster: &Cluster) -> bool {
        let Some(node) = self.any(cluster) else { return false };
        let outward = self.chance.percent(50);
        for (from, to) in Self::links(cluster) {
            if (if outward { from } else { to }) == node {
                cluster.links.set(from, to, Link::Drop);
            }
        }
        true
    }

    fn isolate(&self, cluster: &Cluster) -> bool {
        let Some(node) = self.any(cluster) else { return false };
        let link = if self.chance.percent(50) { Link::Drop } else { Link::Cut };
        for (from, to) in Self::links(cluster) {
            if from == node || to == node {
                cluster.links.set(from, to, link);
            }
        }
        true
    }

    async fn fill_disk(&mut self, cluster: &mut Cluster) -> Result<bool> {
        let left = self.chance.between(0, 1 << 20);
        if !cluster.disk.as_ref().is_some_and(|disk| disk.fill(left)) {
            return Ok(false);
        }
        if self.chance.percent(50) && cluster.is_up(ON_SMALL_DISK) {
            // Only a start allocates a log segment so soon, which is what a full disk refuses.
            cluster.kill(ON_SMALL_DISK);
            cluster.start(ON_SMALL_DISK)?;
            self.reopened += 1;
            self.chance.wait(0, 3_000).await;
        }
        Ok(true)
    }

    async fn transfer(&self, cluster: &Cluster) -> bool {
        let body = match self.any(cluster).filter(|_| self.chance.percent(50)) {
            Some(node) => json!({ "to": cluster.name(node) }),
            None => json!({}),
        };
        let ask = Ask::write(Method::POST, "/v1/leader/transfer", body);
        let Some(leader) = cluster.leader().await else { return false };
        cluster.api.ask(&cluster.addr(leader), &ask).await.is_ok_and(|reply| reply.status == 200)
    }

    async fn move_shards(&mut self, cluster: &Cluster) -> bool {
        let mut moved = false;
        for _ in 0..self.chance.between(1, 4) {
            self.numbered += 1;
            let shard = self.chance.between(0, u64::from(SHARDS) - 1);
            let to = format!("d{}", self.chance.between(1, 4));
            let ask = Ask::write(Method::POST, "/v1/migrations", json!({ "shard": shard, "to": to }));
            let ask = Ask { key: Some(format!("move-{}", self.numbered)), ..ask };
            let Some(node) = self.any(cluster) else { break };
            moved |= cluster.api.ask(&cluster.addr(node), &ask).await.is_ok_and(|reply| reply.status == 202);
        }
        moved
    }
}
