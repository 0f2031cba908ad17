//! An exact answer to how few copyings a small problem takes: a min-cost flow from shards over zones and racks to nodes, solved
//! by shortest augmenting paths. It shares with the planner only what the problem is: caps, and each node's marks.

use std::collections::VecDeque;

use super::super::bound::Marks;
use super::super::caps::Caps;
use super::super::problem::{Problem, ShardUse};

/// Cost of a copy outside of the marks: more than all copyings.
const UNEVEN: i64 = 1_000_000;
/// Gain of keeping a copy that can't move: more than anything else.
const KEPT: i64 = 1_000_000_000;

#[derive(Clone, Copy)]
struct Edge {
    to: usize,
    room: i64,
    cost: i64,
}

#[derive(Default)]
struct Flow {
    edges: Vec<Edge>,
    from: Vec<Vec<usize>>,
}

impl Flow {
    fn vertex(&mut self) -> usize {
        self.from.push(Vec::new());
        self.from.len() - 1
    }

    fn edge(&mut self, from: usize, to: usize, room: i64, cost: i64) {
        self.from[from].push(self.edges.len());
        self.edges.push(Edge { to, room, cost });
        self.from[to].push(self.edges.len());
        self.edges.push(Edge { to: from, room: 0, cost: -cost });
    }

    /// Sends as much as goes, as cheaply as that can be: amount and cost.
    fn run(&mut self, source: usize, sink: usize) -> (i64, i64) {
        let (mut amount, mut total) = (0, 0);
        while let Some((cost, path)) = self.cheapest(source, sink) {
            let room = path.iter().map(|edge| self.edges[*edge].room).min().unwrap();
            for edge in path {
                self.edges[edge].room -= room;
                self.edges[edge ^ 1].room += room;
            }
            amount += room;
            total += room * cost;
        }
        (amount, total)
    }

    fn cheapest(&self, source: usize, sink: usize) -> Option<(i64, Vec<usize>)> {
        let mut best: Vec<Option<(i64, usize)>> = vec![None; self.from.len()];
        let mut queued = vec![false; self.from.len()];
        let mut queue = VecDeque::from([source]);
        best[source] = Some((0, usize::MAX));
        while let Some(vertex) = queue.pop_front() {
            queued[vertex] = false;
            let (cost, _) = best[vertex].unwrap();
            for id in self.from[vertex].iter().copied().filter(|id| self.edges[*id].room > 0) {
                let edge = self.edges[id];
                if best[edge.to].is_none_or(|(known, _)| cost + edge.cost < known) {
                    best[edge.to] = Some((cost + edge.cost, id));
                    if !queued[edge.to] {
                        queued[edge.to] = true;
                        queue.push_back(edge.to);
                    }
                }
            }
        }
        let (cost, _) = best[sink]?;
        let mut path = Vec::new();
        let mut vertex = sink;
        while vertex != source {
            let (_, id) = best[vertex].unwrap();
            path.push(id);
            vertex = self.edges[id ^ 1].to;
        }
        Some((cost, path))
    }
}

/// How far a result is from the marks, and how many copyings it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quality {
    /// Copies above high marks and missing below low marks.
    pub(super) uneven: i64,
    /// Copies that stand in the end where none stood before.
    pub(super) copyings: i64,
}

/// The best that any plan can do that gives each shard its wanted copies; none where that is impossible.
pub(super) fn best(problem: &Problem, marks: &[Marks]) -> Option<Quality> {
    let caps = Caps::of(problem);
    let mut flow = Flow::default();
    let (source, sink) = (flow.vertex(), flow.vertex());
    let nodes: Vec<usize> = problem.nodes.iter().map(|_| flow.vertex()).collect();
    let mut missing = 0;
    for (node, marks) in nodes.iter().zip(marks) {
        let low = i64::try_from(marks.low).unwrap();
        let high = i64::try_from(marks.high.min(1_000_000)).unwrap();
        flow.edge(*node, sink, low, -UNEVEN);
        flow.edge(*node, sink, high - low, 0);
        flow.edge(*node, sink, 1_000_000, UNEVEN);
        missing += low;
    }
    let mut kept = 0;
    for shard in &problem.shards {
        assert_eq!(shard.usage, ShardUse::Open);
        let of_shard = flow.vertex();
        flow.edge(source, of_shard, problem.replication_factor as i64, 0);
        let has = |node: usize| shard.copies.iter().any(|copy| copy.node == node);
        let is_fixed = |node: usize| {
            let usage = problem.nodes[node].usage;
            has(node) && usage.keeps() && !usage.gives()
        };
        let fixed_in = |is_there: &dyn Fn(usize) -> bool| {
            (0..nodes.len()).filter(|node| is_fixed(*node) && is_there(*node)).count()
        };
        let zone_of = |node: usize| problem.zone_of_rack[problem.nodes[node].rack];
        let zones: Vec<usize> = (0..problem.zones).map(|_| flow.vertex()).collect();
        for (zone, vertex) in zones.iter().enumerate() {
            let fixed = fixed_in(&|node| zone_of(node) == zone);
            flow.edge(of_shard, *vertex, caps.zone.max(fixed) as i64, 0);
        }
        for rack in 0..problem.zone_of_rack.len() {
            let vertex = flow.vertex();
            let fixed = fixed_in(&|node| problem.nodes[node].rack == rack);
            flow.edge(zones[problem.zone_of_rack[rack]], vertex, caps.rack.max(fixed) as i64, 0);
            for (node, spec) in problem.nodes.iter().enumerate().filter(|(_, spec)| spec.rack == rack) {
                if is_fixed(node) {
                    kept += 1;
                    flow.edge(vertex, nodes[node], 1, -KEPT);
                } else if has(node) && spec.usage.keeps() {
                    flow.edge(vertex, nodes[node], 1, 0);
                } else if spec.usage.takes() && spec.weight > 0 {
                    flow.edge(vertex, nodes[node], 1, 1);
                }
            }
        }
    }
    let (amount, cost) = flow.run(source, sink);
    if amount != (problem.shards.len() * problem.replication_factor) as i64 {
        return None;
    }
    let cost = cost + kept * KEPT + missing * UNEVEN;
    Some(Quality { uneven: cost.div_euclid(UNEVEN), copyings: cost.rem_euclid(UNEVEN) })
}
