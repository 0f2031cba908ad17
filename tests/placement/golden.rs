//! Golden scripts in `tests/golden/placement`: one behaviour a file, named for it.
//!
//! Above the line `---` stands what is said of the cluster, below it what `plan` answers; each plan is then carried out, and must
//! leave nothing to plan. `UPDATE_GOLDEN=1` writes what is below the lines anew: read the diff.
//!
//! `copies 3`, `shards 12`, `node a [rack=r1] [zone=z1] [capacity=2] [room=BYTES]`, `shard 0 a b c [bytes=N]` (the primary
//! first), `drain a`, `maintain a`, `down a`, `up a`, `heard a`, `unheard a` (by gossip), `capacity a 0.5`, `strategy ketama`, `wipe a` (it
//! comes back empty), `after SECONDS`; `settle` carries a plan out without telling it; `plan` tells it. A plan is made an hour
//! after the last command, when a node that is down is to be replaced, unless `after` said otherwise.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use ruvector_cluster::client::ids::{NodeId, Thousandths};
use ruvector_cluster::client::wire::{MigrationKind, Plan, RebalancePolicy, Strategy};
use ruvector_cluster::placement::{PlanOptions, Planned, planned};

use super::cluster::{Cluster, Condition, NOW_MS, Node, Shard};

/// Time enough for a node to count as dead.
const LATER_MS: u64 = 3_600_000;

struct Runner {
    cluster: Cluster,
    strategy: Strategy,
    later_ms: u64,
}

impl Runner {
    fn line(&mut self, line: &str) -> String {
        let (named, plain): (Vec<&str>, Vec<&str>) =
            line.split_whitespace().partition(|word| word.contains('='));
        let named: BTreeMap<&str, &str> = named.into_iter().filter_map(|word| word.split_once('=')).collect();
        let number = |text: &str| text.parse::<u64>().unwrap();
        match plain[..] {
            ["copies", copies] => self.cluster.replication_factor = copies.parse().unwrap(),
            ["shards", shards] => {
                self.cluster.shards = vec![Shard::default(); number(shards) as usize];
            }
            ["node", name] => {
                let mut node = Node::new(name, named.get("rack").copied().unwrap_or_default());
                node.zone = named.get("zone").map(|zone| (*zone).to_owned());
                node.capacity_bytes = named.get("room").map(|room| number(room));
                if let Some(capacity) = named.get("capacity") {
                    node.capacity = Thousandths::parse(capacity).unwrap();
                }
                self.cluster.nodes.push(node);
            }
            ["shard", shard, ref copies @ ..] => {
                let copies = copies.iter().map(|name| self.cluster.place_of(name).unwrap()).collect();
                let shard = &mut self.cluster.shards[number(shard) as usize];
                shard.copies = copies;
                shard.size_bytes = named.get("bytes").map_or(0, |bytes| number(bytes));
            }
            ["drain", name] => {
                let node = self.cluster.place_of(name).unwrap();
                let is_down = self.cluster.nodes[node].condition == Condition::Down;
                let condition = if is_down { Condition::DownAndDraining } else { Condition::Draining };
                self.cluster.set_condition(node, condition);
            }
            ["heard", name] => self.hear(name, true),
            ["unheard", name] => self.hear(name, false),
            ["maintain", name] => self.condition(name, Condition::Maintenance),
            ["down", name] => self.condition(name, Condition::Down),
            ["up", name] => self.condition(name, Condition::Up),
            ["capacity", name, capacity] => {
                let node = self.cluster.place_of(name).unwrap();
                self.cluster.nodes[node].capacity = Thousandths::parse(capacity).unwrap();
            }
            ["wipe", name] => self.cluster.wipe(self.cluster.place_of(name).unwrap()),
            ["after", seconds] => self.later_ms = number(seconds) * 1_000,
            ["strategy", name] => self.strategy = serde_json::from_value(name.into()).unwrap(),
            ["settle"] => {
                let planned = self.plan();
                self.carry_out(&planned);
            }
            ["plan"] => {
                let planned = self.plan();
                let mut text = told(&planned);
                self.carry_out(&planned);
                text.push_str(&self.held());
                assert_eq!(self.plan().plan.moves, [], "planning a plan's result gives none");
                return text;
            }
            _ => panic!("no such line: {line}"),
        }
        String::new()
    }

    fn condition(&mut self, name: &str, condition: Condition) {
        let node = self.cluster.place_of(name).unwrap();
        self.cluster.set_condition(node, condition);
    }

    fn hear(&mut self, name: &str, heard: bool) {
        let node = self.cluster.place_of(name).unwrap();
        self.cluster.nodes[node].heard = heard;
    }

    fn plan(&self) -> Planned {
        let policy = RebalancePolicy { strategy: self.strategy, ..RebalancePolicy::default() };
        let (metadata, soft) = self.cluster.state();
        planned(&metadata, &soft, &policy, &PlanOptions::for_operator(NOW_MS + self.later_ms, &policy))
    }

    fn carry_out(&mut self, planned: &Planned) {
        assert_eq!(self.cluster.carry_out(planned).first(), None);
    }

    /// What each node holds.
    fn held(&self) -> String {
        let mut text = String::new();
        for (place, node) in self.cluster.nodes.iter().enumerate() {
            let on = |shard: &&Shard| shard.copies.contains(&place);
            let copies = self.cluster.shards.iter().filter(on).count();
            let led = |shard: &&Shard| shard.copies.first() == Some(&place);
            let primaries = self.cluster.shards.iter().filter(led).count();
            writeln!(text, "    {} holds {copies}, leads {primaries}", node.name).unwrap();
        }
        text
    }
}

/// The plan, as an operator reads it.
fn told(planned: &Planned) -> String {
    let Plan { moves, lower_bound_moves, infeasible, .. } = &planned.plan;
    let copying = |kind: MigrationKind| matches!(kind, MigrationKind::Move | MigrationKind::Add);
    let copyings = moves.iter().filter(|step| copying(step.kind)).count();
    let mut text = String::new();
    writeln!(text, "copies {copyings} times (at least {lower_bound_moves}), {} moves", moves.len()).unwrap();
    for (shard, copies) in &planned.assigned {
        writeln!(text, "  shard {shard} begins on {}", names(copies)).unwrap();
    }
    for step in moves {
        let kind = serde_json::to_value(step.kind).unwrap();
        write!(text, "  {} shard {}", kind.as_str().unwrap(), step.shard).unwrap();
        step.from.iter().for_each(|from| write!(text, " from {from}").unwrap());
        step.to.iter().for_each(|to| write!(text, " to {to}").unwrap());
        writeln!(text, ": {}", step.reason).unwrap();
    }
    for what in infeasible {
        writeln!(text, "  shard {} stays as it is, {}: {}", what.shard, what.code, what.detail).unwrap();
    }
    text
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn plans_are_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/placement");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut differing = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let said = text.split("---\n").next().unwrap();
        let mut runner =
            Runner { cluster: Cluster::default(), strategy: Strategy::default(), later_ms: LATER_MS };
        let lines = said.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let answers: String = lines.map(|line| runner.line(line)).collect();
        let now = format!("{said}---\n{answers}");
        if update {
            fs::write(&path, &now).unwrap();
        } else if now != text {
            differing.push((path, now));
        }
    }
    assert!(differing.is_empty(), "not as written (UPDATE_GOLDEN=1 rewrites): {differing:#?}");
}
