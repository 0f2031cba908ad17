//! How many copies of one shard a zone and a rack may hold, so that copies stand in different zones, then racks, as far as
//! these suffice.
//!
//! The caps are the lowest under which some choice of nodes still holds all copies. Racks lie inside zones, so whatever part of a
//! choice keeps the caps can be completed to a whole one: a greedy choice never paints itself into a corner.

use super::problem::{NodeSpec, Problem};

/// The rule for one shard's copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caps {
    /// Copies of a shard in one zone.
    pub(crate) zone: usize,
    /// Copies of a shard in one rack.
    pub(crate) rack: usize,
    /// Copies that a shard can have: fewer than wanted where nodes are too few.
    pub(crate) copies: usize,
}

impl Caps {
    /// The caps that the usable nodes allow.
    pub(crate) fn of(problem: &Problem) -> Self {
        let mut in_rack = vec![0_usize; problem.zone_of_rack.len()];
        for node in problem.nodes.iter().filter(|node| is_usable(node)) {
            in_rack[node.rack] += 1;
        }
        let copies = problem.replication_factor.min(in_rack.iter().sum());
        let holds = |zone_cap: usize, rack_cap: usize| {
            let mut in_zone = vec![0_usize; problem.zones];
            for (rack, nodes) in in_rack.iter().enumerate() {
                in_zone[problem.zone_of_rack[rack]] += (*nodes).min(rack_cap);
            }
            in_zone.iter().map(|nodes| (*nodes).min(zone_cap)).sum::<usize>() >= copies
        };
        let zone = (1..=copies).find(|cap| holds(*cap, copies)).unwrap_or(1);
        let rack = (1..=copies).find(|cap| holds(zone, *cap)).unwrap_or(1);
        let rack = rack + usize::from(mutants::is_on(mutants::Mutant::RackOffByOne));
        Self { zone, rack, copies }
    }
}

/// Whether a node counts for what zones and racks suffice for.
pub(crate) fn is_usable(node: &NodeSpec) -> bool {
    node.usage.keeps() && node.weight > 0
}

#[cfg(test)]
mod tests {
    use super::super::problem::NodeUse;
    use super::*;

    fn caps(replication_factor: usize, zones: &[&[usize]]) -> Caps {
        let mut problem = Problem { zones: zones.len(), replication_factor, ..Problem::default() };
        for (zone, racks) in zones.iter().enumerate() {
            for nodes in *racks {
                let rack = problem.zone_of_rack.len();
                problem.zone_of_rack.push(zone);
                let node = NodeSpec { weight: 1_000, rack, usage: NodeUse::Open, free_bytes: None };
                problem.nodes.extend(std::iter::repeat_n(node, *nodes));
            }
        }
        Caps::of(&problem)
    }

    #[test]
    fn copies_stand_in_different_zones_then_racks_as_far_as_these_suffice() {
        assert_eq!(caps(3, &[&[5]]), Caps { zone: 3, rack: 3, copies: 3 });
        assert_eq!(caps(3, &[&[2, 2, 1]]), Caps { zone: 3, rack: 1, copies: 3 });
        assert_eq!(caps(3, &[&[2, 2]]), Caps { zone: 3, rack: 2, copies: 3 });
        assert_eq!(caps(3, &[&[1, 1], &[2]]), Caps { zone: 2, rack: 1, copies: 3 });
        assert_eq!(caps(3, &[&[2], &[2], &[2]]), Caps { zone: 1, rack: 1, copies: 3 });
        assert_eq!(caps(5, &[&[1], &[9]]), Caps { zone: 4, rack: 4, copies: 5 });
        assert_eq!(caps(3, &[&[1], &[1]]), Caps { zone: 1, rack: 1, copies: 2 });
        assert_eq!(caps(3, &[]), Caps { zone: 1, rack: 1, copies: 0 });
    }
}
