//! The abstract problem: nodes, racks and shards as plain integers.
//!
//! Nodes are numbered in ascending order of their ids and shards of theirs, so that the same state gives the same problem in
//! whatever order it was told.

use smallvec::SmallVec;

/// A node's number in a [`Problem`].
pub(crate) type NodeIndex = usize;

/// A shard's copies: hardly ever more than these, so that a hundred thousand shards are one piece of memory.
pub(crate) type Copies = SmallVec<[Copy; 4]>;

/// What may be done with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeUse {
    /// Takes and gives copies, leads.
    Open,
    /// Over its disk watermark or without capacity: keeps, gives and leads, takes nothing.
    Full,
    /// Will be away for a known while: keeps its copies, and hands its primaries over.
    Maintenance,
    /// Down, but not for long: its copies are expected back.
    Away,
    /// Being emptied by an operator.
    Draining,
    /// Down for good: its copies are to be replaced.
    Dead,
}

impl NodeUse {
    /// Whether new copies may be put there.
    pub(crate) fn takes(self) -> bool {
        match self {
            Self::Open => true,
            Self::Full | Self::Maintenance | Self::Away | Self::Draining | Self::Dead => false,
        }
    }

    /// Whether copies that are there may stay.
    pub(crate) fn keeps(self) -> bool {
        match self {
            Self::Open | Self::Full | Self::Maintenance | Self::Away => true,
            Self::Draining | Self::Dead => false,
        }
    }

    /// Whether copies may be levelled away from there.
    pub(crate) fn gives(self) -> bool {
        match self {
            Self::Open | Self::Full => true,
            Self::Maintenance | Self::Away | Self::Draining | Self::Dead => false,
        }
    }

    /// Whether primaries may be handed to it.
    pub(crate) fn leads(self) -> bool {
        match self {
            Self::Open | Self::Full => true,
            Self::Maintenance | Self::Away | Self::Draining | Self::Dead => false,
        }
    }

    /// Whether its process is expected to answer.
    pub(crate) fn is_up(self) -> bool {
        match self {
            Self::Open | Self::Full | Self::Maintenance | Self::Draining => true,
            Self::Away | Self::Dead => false,
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeSpec {
    /// Share of copies relative to other nodes, in thousandths.
    pub(crate) weight: u64,
    /// Its rack, numbered over all zones.
    pub(crate) rack: usize,
    /// What may be done with it.
    pub(crate) usage: NodeUse,
    /// Bytes that it may take until it is over its watermark; none when unlimited.
    pub(crate) free_bytes: Option<u64>,
}

/// One copy of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    /// Where.
    pub(crate) node: NodeIndex,
    /// Whether it has every acknowledged write, so that it may lead and be copied from.
    pub(crate) in_sync: bool,
}

/// Whether a plan may touch a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShardUse {
    /// Has no copy: gets its first ones, which costs nothing.
    Unassigned,
    /// May be changed.
    Open,
    /// Has a migration, or is founding: counts as it will be, and is left alone.
    Pinned,
    /// No in-sync copy answers: nothing can be copied from it.
    Unavailable,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardSpec {
    /// Whether it may be touched.
    pub(crate) usage: ShardUse,
    /// Full copies (primary first where there is one). A node stands here once at most.
    pub(crate) copies: Copies,
    /// Whether the first copy is the primary.
    pub(crate) has_primary: bool,
    /// Copies that are neither full nor being filled: to be readmitted or removed.
    pub(crate) idle: Vec<NodeIndex>,
    /// Nodes that can't take a copy of this shard yet, since they are still deleting one.
    pub(crate) barred: Vec<NodeIndex>,
    /// Bytes of one copy, as far as known.
    pub(crate) bytes: u64,
}

/// All that a plan is computed from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Ascending by id.
    pub(crate) nodes: Vec<NodeSpec>,
    /// The zone of each rack.
    pub(crate) zone_of_rack: Vec<usize>,
    /// How many zones there are.
    pub(crate) zones: usize,
    /// Ascending by id.
    pub(crate) shards: Vec<ShardSpec>,
    /// Copies wanted of each shard.
    pub(crate) replication_factor: usize,
}

/// How even a plan makes what it levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tolerance {
    /// Nodes up to so many thousandths of their share are left alone, and as far below it. 1,000 levels fully.
    pub(crate) upto_thousandths: u64,
}

impl Tolerance {
    /// Levels to the nearest whole copies.
    pub(crate) const NONE: Self = Self { upto_thousandths: 1_000 };
}

/// What a plan does, in order. Shards and nodes are numbers of the problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The shard.
    pub(crate) shard: usize,
    /// What.
    pub(crate) action: Action,
    /// Why.
    pub(crate) why: Why,
}

impl Step {
    /// Whether it is what comes back for `other`, an exchange for load or bytes.
    pub(crate) fn comes_back_for(&self, other: &Self) -> bool {
        let is_reverse = match (other.action, self.action) {
            (Action::Move { from, to }, Action::Move { from: giver, to: taker })
            | (Action::Promote { from, to }, Action::Promote { from: giver, to: taker }) => {
                (from, to) == (taker, giver)
            }
            _ => false,
        };
        is_reverse && self.why == other.why && self.why.is_for_load()
    }
}

/// What is done with a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A copy goes, with its primaryship if it has it.
    Move {
        /// Who gives.
        from: NodeIndex,
        /// Who takes.
        to: NodeIndex,
    },
    /// Primaryship goes to an in-sync copy.
    Promote {
        /// Who gives.
        from: NodeIndex,
        /// Who takes.
        to: NodeIndex,
    },
    /// One copy more.
    Add {
        /// Who takes.
        to: NodeIndex,
    },
    /// One copy less.
    Remove {
        /// Who gives.
        from: NodeIndex,
    },
}

/// Why a step is in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// The node that gives is being emptied.
    Drain,
    /// The node that gives will be away.
    Maintenance,
    /// The node that gives is dead.
    Replace,
    /// Copies are missing.
    Missing,
    /// A copy fell out of its shard and its node is back.
    Readmit,
    /// Copies stand in one zone or rack although others suffice.
    Spread,
    /// There are more copies than wanted.
    Surplus,
    /// Copies lie unevenly.
    Level,
    /// Primaries lie unevenly.
    LevelPrimaries,
    /// The node that gives carries more load than its share; or, of an exchange, what comes back.
    LevelLoad,
    /// The node that gives carries more bytes than its share; or, of an exchange, what comes back.
    LevelBytes,
}

impl Why {
    /// Whether the step restores a rule, rather than evens something out.
    pub(crate) fn is_forced(self) -> bool {
        self < Self::Level
    }

    /// Whether the step evens out what copies carry, load or bytes, rather than how many they are.
    pub(crate) fn is_for_load(self) -> bool {
        self >= Self::LevelLoad
    }
}

/// Why a copy can't be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// Fewer usable nodes than copies wanted.
    TooFewNodes,
    /// The only nodes left are over their disk watermark, or have no room for the shard.
    NoRoom,
    /// The only nodes left stand in zones or racks that have their share of copies.
    SpreadRule,
    /// No in-sync copy answers.
    Unavailable,
}
