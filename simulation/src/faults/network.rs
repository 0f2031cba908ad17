//! What goes wrong between machines.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{BEYOND_LEASES_MS, FaultKind, Faults};
use crate::net::Quality;

/// A direction from one machine to another.
type Link = (String, String);

impl Faults {
    pub(super) async fn cut(&self, kind: FaultKind) -> bool {
        let chance = &self.cluster.world.chance;
        let names = self.cluster.names();
        let Some(one) = chance.pick(&names).cloned() else { return false };
        let side: BTreeSet<&String> = names.iter().filter(|_| chance.per_mille(400)).collect();
        let links = links(&names, |from, to| match kind {
            FaultKind::Isolation => *from == one || *to == one,
            FaultKind::Partition => side.contains(from) != side.contains(to),
            FaultKind::OneWayCut => *from == one,
            _ => chance.per_mille(200),
        });
        self.without(&links, (50, 5_000)).await
    }

    /// Clients reach both sides: whoever is asked on the leader's may answer only as long as its lease runs.
    pub(super) async fn depose_leader(&self) -> bool {
        let Some(leader) = self.cluster.leader() else { return false };
        let chance = &self.cluster.world.chance;
        let data = self.cluster.data_names();
        let mut side: BTreeSet<String> = data.iter().filter(|_| chance.per_mille(300)).cloned().collect();
        side.extend(chance.pick(&data).cloned());
        side.insert(leader.name.clone());
        let links = links(&self.cluster.names(), |from, to| side.contains(from) != side.contains(to));
        self.without(&links, BEYOND_LEASES_MS).await
    }

    /// Cuts the links for a while; whether there are any.
    async fn without(&self, links: &[Link], (least_ms, most_ms): (u64, u64)) -> bool {
        let net = &self.cluster.world.net;
        links.iter().for_each(|(from, to)| net.set_cut(from, to, true));
        self.wait(least_ms, most_ms).await;
        links.iter().for_each(|(from, to)| net.set_cut(from, to, false));
        !links.is_empty()
    }

    /// The node learns late what is committed, and so do those that read there.
    pub(super) async fn slow_links(&self) -> bool {
        let late = locked(&self.cluster.late).clone();
        let Some(node) = self.any_control().filter(|node| !late.contains(&node.addr())) else { return false };
        let (net, us) = (&self.cluster.world.net, self.between(5_000, 80_000));
        let others = self.cluster.control().into_iter().filter(|other| other.name != node.name);
        let others: Vec<String> = others.map(|other| other.name.clone()).collect();
        others.iter().for_each(|other| net.set_slow(other, &node.name, us));
        locked(&self.cluster.late).push(node.addr());
        self.wait(500, 6_000).await;
        others.iter().for_each(|other| net.set_slow(other, &node.name, 0));
        locked(&self.cluster.late).retain(|addr| *addr != node.addr());
        true
    }

    pub(super) async fn bad_network(&self) -> bool {
        let net = &self.cluster.world.net;
        let slowest = self.between(1_000, 30_000);
        net.set_quality(Quality {
            delay_us: (50, slowest),
            straggle_per_mille: 50,
            loss_per_mille: u32::try_from(self.between(1, 100)).unwrap_or(1),
            repeat_per_mille: 100,
        });
        self.wait(100, 4_000).await;
        net.set_quality(self.cluster.world.plan.quality);
        true
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those of all links that are to be cut.
fn links(names: &[String], is_cut: impl Fn(&String, &String) -> bool) -> Vec<Link> {
    let all = names.iter().flat_map(|from| names.iter().map(move |to| (from, to)));
    let cut = all.filter(|(from, to)| from != to && is_cut(from, to));
    cut.map(|(from, to)| (from.clone(), to.clone())).collect()
}
