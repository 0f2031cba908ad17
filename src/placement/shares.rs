//! How many copies each node is to hold: by capacity weight, capped by what a node, a rack and a zone may hold.
//!
//! A share is real; a node is even when it holds the whole number below or above it. Nodes that can't give or can't take are
//! bounded by what they hold. Water is filled in: one level for all, lower where a rack or zone is full, so that what they
//! can't hold goes to the others. Integers throughout: shares have 20 binary places.

use super::caps::Caps;
use super::problem::Problem;

/// Binary places of a share.
const PLACES: u32 = 20;

/// Binary places of the water's level, beyond those that weights (below 2^50) may shift out.
const LEVEL_PLACES: u32 = 60;

/// A node's bounds and weight, in shares.
#[derive(Clone, Copy, Debug)]
struct Basin {
    weight: u64,
    low: u128,
    high: u128,
}

/// Each node's share, in units of 2^-20 copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shares(Vec<u64>);

impl Shares {
    /// Shares of all copies, of which the nodes hold `held` now.
    pub(crate) fn of_copies(problem: &Problem, caps: &Caps, held: &[u64]) -> Self {
        let shards = problem.shards.len() as u128;
        let basins: Vec<Basin> = problem
            .nodes
            .iter()
            .zip(held)
            .map(|(node, held)| {
                let held = u128::from(*held);
                let low = if node.usage.gives() { 0 } else { held };
                let high = if node.usage.takes() && node.weight > 0 { shards.max(low) } else { held };
                Basin { weight: node.weight, low: low << PLACES, high: high << PLACES }
            })
            .collect();
        Self::filled(
            problem,
            &basins,
            caps.rack as u128 * shards,
            caps.zone as u128 * shards,
            held.iter().sum(),
        )
    }

    /// Shares of all primaries: at most as many as copies, none where a node doesn't lead.
    pub(crate) fn of_primaries(problem: &Problem, copies: &[u64], primaries: &[u64]) -> Self {
        let basins: Vec<Basin> = problem
            .nodes
            .iter()
            .zip(copies.iter().zip(primaries))
            .map(|(node, (copies, primaries))| {
                let held = u128::from(*primaries);
                let (low, high) = if node.usage.leads() { (0, u128::from(*copies)) } else { (held, held) };
                Basin { weight: node.weight, low: low << PLACES, high: high << PLACES }
            })
            .collect();
        let uncapped = problem.shards.len() as u128;
        Self::filled(problem, &basins, uncapped, uncapped, primaries.iter().sum())
    }

    fn filled(problem: &Problem, basins: &[Basin], rack_cap: u128, zone_cap: u128, target: u64) -> Self {
        let mut racks: Vec<Vec<Basin>> = vec![Vec::new(); problem.zone_of_rack.len()];
        for (node, basin) in problem.nodes.iter().zip(basins) {
            racks[node.rack].push(*basin);
        }
        let mut zones: Vec<Vec<usize>> = vec![Vec::new(); problem.zones];
        for (rack, zone) in problem.zone_of_rack.iter().enumerate() {
            zones[*zone].push(rack);
        }
        let in_rack = |rack: usize, level: u128| {
            let free: u128 = racks[rack].iter().map(|basin| basin.at(level)).sum();
            let low: u128 = racks[rack].iter().map(|basin| basin.low).sum();
            free.min((rack_cap << PLACES).max(low))
        };
        let in_zone = |zone: usize, level: u128| {
            zones[zone].iter().map(|rack| in_rack(*rack, level)).sum::<u128>().min(zone_cap << PLACES)
        };
        let everywhere = |level: u128| (0..zones.len()).map(|zone| in_zone(zone, level)).sum::<u128>();
        let total = level_for(u128::from(target) << PLACES, everywhere);
        // A full zone or rack settles at its own level, below the common one.
        let mut rack_level = vec![0; racks.len()];
        for (zone, its_racks) in zones.iter().enumerate() {
            let content = in_zone(zone, total);
            let level = level_for(content, |level| its_racks.iter().map(|rack| in_rack(*rack, level)).sum())
                .min(total);
            for rack in its_racks {
                let content = in_rack(*rack, level);
                let own = level_for(content, |level| racks[*rack].iter().map(|basin| basin.at(level)).sum());
                rack_level[*rack] = own.min(level);
            }
        }
        let share = |(node, basin): (&super::problem::NodeSpec, &Basin)| {
            u64::try_from(basin.at(rack_level[node.rack])).unwrap_or(u64::MAX)
        };
        Self(problem.nodes.iter().zip(basins).map(share).collect())
    }

    /// The fewest a node holds when it is even, with `tolerance_thousandths` of its share (1,000: none) left alone.
    pub(crate) fn low(&self, node: usize, upto_thousandths: u64) -> u64 {
        let share = u128::from(self.0[node]);
        let loose = share * u128::from(2_000_u64.saturating_sub(upto_thousandths)) / 1_000;
        // A share that is whole but for rounding counts as whole.
        whole((loose + SLACK) >> PLACES).min(self.floor(node))
    }

    /// The most a node holds when it is even.
    pub(crate) fn high(&self, node: usize, upto_thousandths: u64) -> u64 {
        let loose = u128::from(self.0[node]) * u128::from(upto_thousandths) / 1_000;
        whole(loose >> PLACES).max(self.ceil(node))
    }

    /// The whole number at or below the share.
    pub(crate) fn floor(&self, node: usize) -> u64 {
        whole((u128::from(self.0[node]) + SLACK) >> PLACES)
    }

    /// The whole number at or above the share.
    pub(crate) fn ceil(&self, node: usize) -> u64 {
        whole((u128::from(self.0[node]).saturating_sub(SLACK)).div_ceil(1 << PLACES))
    }

    /// How far `held` lies above the share (below: negative), in units of 2^-20 copies.
    pub(crate) fn excess(&self, node: usize, held: u64) -> i128 {
        (i128::from(held) << PLACES) - i128::from(self.0[node])
    }
}

/// A thousandth of a copy: what rounding may cost over some levels.
const SLACK: u128 = 1 << (PLACES - 10);

fn whole(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

impl Basin {
    fn at(&self, level: u128) -> u128 {
        let content = u128::from(self.weight).saturating_mul(level) >> LEVEL_PLACES;
        content.clamp(self.low, self.high)
    }
}

/// The highest level at which `content` is not above `target`. `content` rises with the level.
fn level_for(target: u128, content: impl Fn(u128) -> u128) -> u128 {
    let (mut low, mut high) = (0_u128, 1_u128 << 127);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if content(middle) <= target {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::super::problem::{NodeSpec, NodeUse, ShardSpec, ShardUse};
    use super::*;

    fn problem(shards: usize, nodes: &[(u64, usize, NodeUse)]) -> Problem {
        let racks = nodes.iter().map(|node| node.1 + 1).max().unwrap_or(0);
        let node = |(weight, rack, usage): &(u64, usize, NodeUse)| NodeSpec {
            weight: *weight,
            rack: *rack,
            usage: *usage,
            free_bytes: None,
        };
        let shard = ShardSpec {
            usage: ShardUse::Open,
            copies: Default::default(),
            has_primary: false,
            idle: Vec::new(),
            barred: Vec::new(),
            bytes: 0,
        };
        Problem {
            nodes: nodes.iter().map(node).collect(),
            zone_of_rack: vec![0; racks],
            zones: 1,
            shards: vec![shard; shards],
            replication_factor: 3,
        }
    }

    fn bounds(problem: &Problem, held: &[u64]) -> Vec<(u64, u64)> {
        let shares = Shares::of_copies(problem, &Caps::of(problem), held);
        (0..held.len()).map(|node| (shares.floor(node), shares.ceil(node))).collect()
    }

    #[test]
    fn shares_follow_the_weights() {
        let equal = problem(64, &[(1_000, 0, NodeUse::Open); 5]);
        assert_eq!(bounds(&equal, &[192, 0, 0, 0, 0]), [(38, 39); 5]);
        let open = NodeUse::Open;
        let double = problem(64, &[(2_000, 0, open), (1_000, 0, open), (1_000, 0, open), (2_000, 0, open)]);
        assert_eq!(bounds(&double, &[192, 0, 0, 0]), [(64, 64), (32, 32), (32, 32), (64, 64)]);
    }

    #[test]
    fn what_a_rack_can_not_hold_goes_to_the_others() {
        let open = NodeUse::Open;
        let uneven = problem(
            60,
            &[(1_000, 0, open), (1_000, 0, open), (1_000, 0, open), (1_000, 1, open), (1_000, 2, open)],
        );
        assert_eq!(bounds(&uneven, &[180, 0, 0, 0, 0]), [(20, 20), (20, 20), (20, 20), (60, 60), (60, 60)]);
    }

    #[test]
    fn a_node_that_neither_gives_nor_takes_keeps_what_it_has() {
        let open = NodeUse::Open;
        let away = problem(
            40,
            &[(1_000, 0, NodeUse::Away), (1_000, 0, open), (1_000, 0, open), (1_000, 0, NodeUse::Full)],
        );
        assert_eq!(
            bounds(&away, &[10, 40, 50, 20]),
            [(10, 10), (40, 40), (40, 40), (20, 20)].map(|pair| pair)
        );
    }

    #[test]
    fn the_weight_of_one_node_may_dwarf_the_others() {
        let open = NodeUse::Open;
        let dwarfed = problem(10, &[(1 << 49, 0, open), (1, 0, open), (1, 0, open), (1, 0, open)]);
        assert_eq!(bounds(&dwarfed, &[30, 0, 0, 0]), [(10, 10), (6, 7), (6, 7), (6, 7)]);
    }
}
