//! Which nodes serve a shard at once, which must be one at most.

use std::collections::{BTreeMap, BTreeSet};

use ruvector_cluster::client::ids::{Epoch, NodeId, ShardId};

/// A copy learns within so many looks that it serves no longer: a replica looks at its lease at each tick.
const TICK_LOOKS: u32 = 4;

/// In so many looks, one after the other, a shard was served under this epoch by this node and by another one.
#[derive(Debug, Default)]
pub struct Twice(BTreeMap<(ShardId, Epoch, NodeId), u32>);

impl Twice {
    /// One more look: who serves which shard under which epoch. Tells each shard once that is served twice for too long.
    pub fn look(&mut self, serving: &[(ShardId, Epoch, NodeId)]) -> Vec<String> {
        let mut by_shard: BTreeMap<ShardId, BTreeSet<(Epoch, &NodeId)>> = BTreeMap::new();
        for (shard, epoch, node) in serving {
            by_shard.entry(*shard).or_default().insert((*epoch, node));
        }
        let mut looks = BTreeMap::new();
        let mut told = Vec::new();
        for (shard, nodes) in by_shard.iter().filter(|(_, nodes)| nodes.len() > 1) {
            // The newest is right; whoever else serves has to stop.
            let Some(((epoch, node), _)) = nodes.iter().zip(nodes.iter().skip(1)).next() else { continue };
            let key = (*shard, *epoch, (*node).clone());
            let count = self.0.get(&key).copied().unwrap_or(0) + 1;
            if count == TICK_LOOKS {
                told.push(format!("shard {shard} is served by {nodes:?}"));
            }
            looks.insert(key, count);
        }
        self.0 = looks;
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serves(node: &str, epoch: u64) -> (ShardId, Epoch, NodeId) {
        (ShardId(1), Epoch(epoch), NodeId::new(node).unwrap())
    }

    fn told(looks: &[&[(ShardId, Epoch, NodeId)]]) -> usize {
        let mut twice = Twice::default();
        looks.iter().map(|serving| twice.look(serving).len()).sum()
    }

    #[test]
    fn two_that_serve_for_long_are_told_once_whatever_their_epochs() {
        for other in [serves("d2", 4), serves("d2", 3)] {
            let both = [serves("d1", 3), other];
            assert_eq!(told(&[&both, &both, &both]), 0, "a tick may be due");
            assert_eq!(told(&[&both, &both, &both, &both, &both]), 1);
            assert_eq!(told(&[&both, &both, &[], &both, &both]), 0, "not one after the other");
        }
        assert_eq!(told(&[&[serves("d1", 3)][..]; 9]), 0);
    }
}
