//! libketama's ring, point for point, so that a cluster that was laid out with it can be compared with it.
//!
//! Integers, where libketama computes with floats: a node of weight `w` among `n` nodes that weigh `W` gets the whole part of
//! 40 w n / W digests. libketama multiplies a rounded quotient, so that where that is whole it may come to one digest less
//! (each of 61 equal nodes gets 39; memcached's clients made up for that by adding a little); here it never does.

use std::collections::BTreeMap;

use md5::{Digest, Md5};

use crate::ids::NodeId;

/// Digests taken of a node of average weight; each gives four points.
const DIGESTS_PER_NODE: u128 = 40;

/// A consistent hash ring with 160 points for a node of average weight: the digests MD5("node-0") to MD5("node-39"), each cut
/// into four little-endian words (libketama's `ketama_create_continuum`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Ascending.
    nodes: Vec<NodeId>,
    /// Ascending; the second is an index into `nodes`. Equal points are in the order of the nodes' names.
    points: Vec<(u32, usize)>,
}

impl Ring {
    /// The ring of these nodes, all of one weight; their order and repetitions don't matter.
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> Self {
        Self::weighted(nodes.into_iter().map(|node| (node, 1)))
    }

    /// The ring of these nodes with their weights; their order doesn't matter, and of a node that is named twice the last
    /// weight counts. One that weighs too little for a digest has no points, and is met last.
    pub fn weighted<'a>(nodes: impl IntoIterator<Item = (&'a NodeId, u64)>) -> Self {
        let weights: BTreeMap<&NodeId, u64> = nodes.into_iter().collect();
        let total: u128 = weights.values().map(|weight| u128::from(*weight)).sum();
        let mut points = Vec::with_capacity(weights.len() * 160);
        for (index, (node, weight)) in weights.iter().enumerate() {
            let parts = DIGESTS_PER_NODE * u128::from(*weight) * weights.len() as u128;
            for i in 0..parts.checked_div(total).unwrap_or(0) {
                points.extend(words(&format!("{node}-{i}")).map(|point| (point, index)));
            }
        }
        points.sort_unstable();
        Self { nodes: weights.into_keys().cloned().collect(), points }
    }

    /// All nodes in the order in which the ring meets them from `key`'s place on, each once: the first is the one that
    /// libketama would name, the next ones take its copies.
    pub fn nodes_from(&self, key: &str) -> Vec<&NodeId> {
        let mut seen = vec![false; self.nodes.len()];
        let news = |place: &usize| !std::mem::replace(&mut seen[*place], true);
        self.places_from(key).filter(news).take(self.nodes.len()).map(|place| &self.nodes[place]).collect()
    }

    /// The same as places among the nodes in ascending order, as the points come: a node comes once for each of its points.
    /// Nobody need walk farther than to the nodes that are wanted.
    pub fn places_from<'a>(&'a self, key: &str) -> impl Iterator<Item = usize> + use<'a> {
        let [place, ..] = words(key);
        let start = self.points.partition_point(|(point, _)| *point < place);
        let points = self.points[start..].iter().chain(&self.points[..start]);
        points.map(|(_, index)| *index).chain(0..self.nodes.len())
    }
}

fn words(text: &str) -> [u32; 4] {
    let digest: [u8; 16] = Md5::digest(text.as_bytes()).into();
    let word = |at: usize| u32::from_le_bytes([digest[at], digest[at + 1], digest[at + 2], digest[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u32) -> Vec<NodeId> {
        (1..=count).map(|i| NodeId::new(&format!("d{i}")).unwrap()).collect()
    }

    #[test]
    fn points_are_the_little_endian_words_of_md5() {
        // From `printf %s d1-0 | md5sum`.
        const D1_0: [u32; 4] = [0x4E36E7B2, 0xC03DA29F, 0x7F568865, 0xDE7DDC00];
        assert_eq!(words("d1-0"), D1_0);
        let ring = Ring::new(&nodes(3));
        assert_eq!(ring.points.len(), 480);
        for point in D1_0 {
            assert!(ring.points.contains(&(point, 0)));
        }
    }

    #[test]
    fn a_key_meets_the_first_point_not_below_it_and_wraps() {
        let ring = Ring::new(&nodes(5));
        for key in (0..500).map(|i| format!("key-{i}")) {
            let [place, ..] = words(&key);
            let above = ring.points.iter().find(|(point, _)| *point >= place);
            let first = above.or(ring.points.first()).unwrap().1;
            let order = ring.nodes_from(&key);
            assert_eq!(order[0], &ring.nodes[first]);
            assert_eq!(order.len(), 5);
        }
    }

    #[test]
    fn a_node_that_leaves_moves_only_its_own_keys() {
        let (before, after) = (Ring::new(&nodes(6)), Ring::new(&nodes(5)));
        for key in (0..500).map(|i| format!("key-{i}")) {
            let (old, new) = (before.nodes_from(&key)[0], after.nodes_from(&key)[0]);
            assert!(old == new || old.as_str() == "d6");
        }
    }

    #[test]
    fn points_are_by_weight_and_rounded_down() {
        let nodes = nodes(4);
        let points = |weights: [u64; 4]| {
            let ring = Ring::weighted(nodes.iter().zip(weights));
            [0, 1, 2, 3].map(|index| ring.points.iter().filter(|(_, of)| *of == index).count())
        };
        assert_eq!(points([7; 4]), [160; 4]);
        // 40 * 4 / 7 = 22.86, twice that 45.7, thrice 68.6.
        assert_eq!(points([1_000, 1_000, 2_000, 3_000]), [88, 88, 180, 272]);
        assert_eq!(points([u64::MAX, u64::MAX, u64::MAX, 1]), [212, 212, 212, 0]);
        assert_eq!(points([0; 4]), [0; 4]);
        let light = Ring::weighted(nodes.iter().zip([0, 1, 1, 1]));
        assert_eq!(light.nodes_from("key").last(), Some(&&nodes[0]), "without points it comes last");
    }

    /// libketama gives each of 61 equal nodes 156 points, since a 61st is no float.
    #[test]
    fn equal_nodes_have_160_points_each_however_many_there_are() {
        for count in 1..=100 {
            assert_eq!(Ring::new(&nodes(count)).points.len(), 160 * count as usize);
        }
    }

    /// Computed by another implementation, with libketama's floats.
    #[test]
    fn keys_land_on_the_node_that_libketama_names() {
        let nodes = nodes(5);
        let ring = Ring::weighted(nodes.iter().zip([600, 300, 200, 350, 1_000]));
        assert_eq!(ring.points.len(), 788);
        let landed = ["0", "1", "2", "3", "10", "99", "1000", "vector-123", "foo", "bar"]
            .map(|key| ring.nodes_from(key)[0].as_str());
        assert_eq!(landed, ["d2", "d5", "d2", "d3", "d3", "d4", "d1", "d5", "d2", "d1"]);
    }

    #[test]
    fn an_empty_ring_names_nobody() {
        assert!(Ring::new(&[]).nodes_from("key").is_empty());
    }
}
