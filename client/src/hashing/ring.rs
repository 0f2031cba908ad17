//! libketama's ring, point for point, so that a cluster that was laid out with it can be compared with it.

use md5::{Digest, Md5};

use crate::ids::NodeId;

/// Digests taken of each node; each gives four points.
const DIGESTS_PER_NODE: u32 = 40;

/// A consistent hash ring with 160 points a node: the digests MD5("node-0") to MD5("node-39"), each cut into four
/// little-endian words (libketama's `ketama_create_continuum` with equal weights).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    nodes: Vec<NodeId>,
    /// Ascending; the second is an index into `nodes`. Equal points are in the order of the nodes' names.
    points: Vec<(u32, usize)>,
}

impl Ring {
    /// The ring of these nodes; their order and repetitions don't matter.
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> Self {
        let mut nodes: Vec<NodeId> = nodes.into_iter().cloned().collect();
        nodes.sort();
        nodes.dedup();
        let mut points = Vec::with_capacity(nodes.len() * 160);
        for (index, node) in nodes.iter().enumerate() {
            for i in 0..DIGESTS_PER_NODE {
                points.extend(words(&format!("{node}-{i}")).map(|point| (point, index)));
            }
        }
        points.sort_unstable();
        Self { nodes, points }
    }

    /// All nodes in the order in which the ring meets them from `key`'s place on, each once: the first is the one that
    /// libketama would name, the next ones take its copies.
    pub fn nodes_from(&self, key: &str) -> Vec<&NodeId> {
        let [place, ..] = words(key);
        let start = self.points.partition_point(|(point, _)| *point < place);
        let mut seen = vec![false; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        for (_, index) in self.points[start..].iter().chain(&self.points[..start]) {
            if !std::mem::replace(&mut seen[*index], true) {
                order.push(&self.nodes[*index]);
                if order.len() == self.nodes.len() {
                    break;
                }
            }
        }
        order
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
    fn an_empty_ring_names_nobody() {
        assert!(Ring::new(&[]).nodes_from("key").is_empty());
    }
}
