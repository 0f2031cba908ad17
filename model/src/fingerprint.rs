//! When two states count as the same one.
//!
//! What can't make a difference is left out: the log's index (revisions only have an order), events, the order of the messages
//! under way.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::control::Control;
use crate::world::World;

fn hash_control(control: &Control, hasher: &mut impl Hasher) {
    let metadata = &control.metadata;
    metadata.revision().hash(hasher);
    metadata.nodes().for_each(|row| row.hash(hasher));
    metadata.shards().for_each(|row| row.hash(hasher));
    metadata.migrations().for_each(|row| row.hash(hasher));
    metadata.retiring().for_each(|row| row.hash(hasher));
    control.soft.hash(hasher);
    for command in &control.proposals {
        format!("{command:?}").hash(hasher);
    }
}

fn number(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.now_ms.hash(hasher);
        hash_control(&self.control, hasher);
        self.nodes.hash(hasher);
        let sum = self.net.iter().fold(0_u64, |sum, message| sum.wrapping_add(number(message)));
        (sum, self.net.len()).hash(hasher);
        (self.cut, self.apart, self.deaf, self.left).hash(hasher);
        self.ghost.hash(hasher);
    }
}

impl World {
    pub(crate) fn fingerprint(&self) -> u64 {
        number(self)
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint() == other.fingerprint()
    }
}
