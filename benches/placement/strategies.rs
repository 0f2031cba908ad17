//! What the strategies copy, and how even they leave a cluster, when nodes join and leave: a table for the README.
//!
//! The product's strategies plan through the same call as in service. Consistent hashing with bounded loads (Mirrokni,
//! Thorup, Zadimoghaddam 2016) is here alone, to compare with: on libketama's ring, shards in ascending order, a node full at
//! c times its share; under the same rule on racks, or it would be given an advantage.
//!
//! Each begins with a cluster that it laid out itself. The least that can be copied is what an even result asks for: the
//! newcomer's share, and what the leaver held.

use std::collections::BTreeSet;

use ruvector_cluster::client::hashing::Ring;
use ruvector_cluster::client::ids::NodeId;
use ruvector_cluster::client::wire::{MigrationKind, RebalancePolicy, Strategy};
use ruvector_cluster::placement::{PlanOptions, planned};

use super::cluster::{Cluster, Condition, NOW_MS, Node};

/// How copies are placed.
#[derive(Clone, Copy)]
enum Contender {
    Product(Strategy),
    /// A node is full at so many hundredths of its share.
    Bounded(usize),
}

const CONTENDERS: [(&str, Contender); 5] = [
    ("balanced", Contender::Product(Strategy::Balanced)),
    ("ketama", Contender::Product(Strategy::Ketama)),
    ("jump", Contender::Product(Strategy::Jump)),
    ("bounded-load, c = 1.25", Contender::Bounded(125)),
    ("bounded-load, c = 1.05", Contender::Bounded(105)),
];

/// One more event of a case: it changes the cluster, and answers the least that is to be copied.
type Event = fn(&mut Cluster) -> u64;

impl Contender {
    /// Carries out what the contender makes of the cluster as it is. Answers how many copies were made.
    fn place(self, cluster: &mut Cluster) -> u64 {
        match self {
            Self::Product(strategy) => {
                let policy = RebalancePolicy { strategy, ..RebalancePolicy::default() };
                let (metadata, soft) = cluster.state();
                let options = PlanOptions::for_operator(NOW_MS, &policy);
                let planned = planned(&metadata, &soft, &policy, &options);
                assert_eq!(cluster.carry_out(&planned).first(), None);
                let copying = |kind| matches!(kind, MigrationKind::Move | MigrationKind::Add);
                planned.plan.moves.iter().filter(|step| copying(step.kind)).count() as u64
            }
            Self::Bounded(hundredths) => place_bounded(cluster, hundredths),
        }
    }
}

/// Each shard's copies on the first nodes of the ring that are not full, in different racks. Nodes weigh the same here.
fn place_bounded(cluster: &mut Cluster, hundredths: usize) -> u64 {
    let is_open = |place: &usize| cluster.nodes[*place].condition == Condition::Up;
    let mut open: Vec<usize> = (0..cluster.nodes.len()).filter(is_open).collect();
    open.sort_by_key(|place| cluster.nodes[*place].name.clone());
    let names: Vec<NodeId> =
        open.iter().map(|place| NodeId::new(&cluster.nodes[*place].name).unwrap()).collect();
    let ring = Ring::new(&names);
    let copies = cluster.replication_factor as usize;
    let most = (cluster.shards.len() * copies * hundredths).div_ceil(open.len() * 100);
    let racks: BTreeSet<_> = open.iter().map(|place| &cluster.nodes[*place].rack).collect();
    let is_spread = racks.len() >= copies;
    let mut held = vec![0; cluster.nodes.len()];
    let mut copied = 0;
    for (number, shard) in cluster.shards.iter_mut().enumerate() {
        let mut chosen: Vec<usize> = Vec::new();
        for place in ring.places_from(&number.to_string()).map(|place| open[place]) {
            let is_taken = |other: &usize| {
                *other == place || (is_spread && cluster.nodes[*other].rack == cluster.nodes[place].rack)
            };
            if chosen.len() < copies && held[place] < most && !chosen.iter().any(is_taken) {
                held[place] += 1;
                chosen.push(place);
            }
        }
        assert_eq!(chosen.len(), copies, "every shard finds its nodes");
        let is_new = |place: &&usize| !shard.copies.is_empty() && !shard.copies.contains(place);
        copied += chosen.iter().filter(is_new).count() as u64;
        shard.copies = chosen;
    }
    copied
}

fn counts(cluster: &Cluster) -> Vec<u64> {
    let mut counts = vec![0; cluster.nodes.len()];
    cluster.shards.iter().flat_map(|shard| &shard.copies).for_each(|place| counts[*place] += 1);
    counts
}

/// A node more, in the rack that has the fewest.
fn join(cluster: &mut Cluster) -> u64 {
    let in_rack = |rack: &Option<String>| cluster.nodes.iter().filter(|node| node.rack == *rack).count();
    let racks: BTreeSet<_> = cluster.nodes.iter().map(|node| node.rack.clone()).collect();
    let rack = racks.into_iter().min_by_key(in_rack).flatten().unwrap_or_default();
    let name = format!("n{:05}", cluster.nodes.len());
    cluster.nodes.push(Node::new(&name, &rack));
    (cluster.shards.len() * cluster.replication_factor as usize / cluster.nodes.len()) as u64
}

/// One in the middle goes.
fn leave(cluster: &mut Cluster) -> u64 {
    let leaver = cluster.nodes.len() / 2;
    cluster.set_condition(leaver, Condition::Draining);
    counts(cluster)[leaver]
}

fn print(case: &str, name: &str, contender: Contender, mut cluster: Cluster, events: &[Event]) {
    contender.place(&mut cluster);
    let (mut copied, mut least) = (0, 0);
    let (mut fullest, mut emptiest) = (0.0_f64, f64::MAX);
    for event in events {
        least += event(&mut cluster);
        copied += contender.place(&mut cluster);
        let is_open = |(node, _): &(&Node, u64)| node.condition == Condition::Up;
        let held: Vec<u64> =
            cluster.nodes.iter().zip(counts(&cluster)).filter(is_open).map(|(_, count)| count).collect();
        let mean = held.iter().sum::<u64>() as f64 / held.len() as f64;
        fullest = fullest.max(held.iter().copied().max().unwrap() as f64 / mean);
        emptiest = emptiest.min(held.iter().copied().min().unwrap() as f64 / mean);
    }
    let ratio = copied as f64 / least as f64;
    println!("| {case} | {name} | {copied} | {least} | {ratio:.2} | {fullest:.2} | {emptiest:.2} |");
}

/// Prints the table. `max / mean` and `min / mean` are the worst after any of a case's events.
pub(crate) fn table() {
    println!("| case | strategy | copied | least | copied / least | max / mean | min / mean |");
    println!("|---|---|---|---|---|---|---|");
    let cases: [(&str, Cluster, Vec<Event>); 5] = [
        ("join: 100 -> 101 nodes in 10 racks", Cluster::empty(10_000, 100, 10), vec![join]),
        ("join: 100 -> 101 nodes, no racks", Cluster::empty(10_000, 100, 1), vec![join]),
        ("leave: 100 -> 99 nodes in 10 racks", Cluster::empty(10_000, 100, 10), vec![leave]),
        ("growth: 10 -> 20 nodes in 5 racks", Cluster::empty(2_000, 10, 5), vec![join; 10]),
        ("growth: 10 -> 20 nodes, no racks", Cluster::empty(2_000, 10, 1), vec![join; 10]),
    ];
    for (case, cluster, events) in cases {
        for (name, contender) in CONTENDERS {
            print(case, name, contender, cluster.clone(), &events);
        }
    }
}
