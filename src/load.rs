//! How loaded shards are: averages of the rates that heartbeats tell, and for how long load has been uneven.
//!
//! Of each shard the reads and writes at its primary are averaged over two windows, a short and a long one. What counts is the
//! lower of the two ([`Rate::sure`]): a rise counts as far as the long window believes it, a fall as soon as the short one
//! does. An exponential average forgets slowly, so a short burst may lift both for a while; therefore load must also have been
//! uneven without interruption for [`SUSTAINED_MS`] before anything is moved for it ([`LoadWatch`]).
//!
//! Averages follow the shard: when its primary changes, the new one's begin where the old one's were. Else a shard that was
//! handed over for its load would look idle for a minute, and the next would be handed over too.
//!
//! Invariants
//! 1. A shard that never told of a request has no entry: an idle cluster costs nothing here.
//! 2. No average is above the highest rate that was told.
//!
//! Caveats: rates are kept in 32 bits, so one shard's count up to four million requests a second. Averages round down, by less
//! than a window's length over a heartbeat's interval in thousandths of a request a second.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use ruvector_cluster_client::ids::{ShardId, Thousandths};
use serde::{Deserialize, Serialize};

/// The short window: a fall is believed so soon.
pub const SHORT_MS: u64 = 10_000;

/// The long window: a rise is believed so slowly.
pub const LONG_MS: u64 = 60_000;

/// Load is levelled once it was uneven for so long without a break. Two long windows: a burst that is over within one has left
/// the short window again before, unless it was more than e^6 times what is normal.
pub const SUSTAINED_MS: u64 = 2 * LONG_MS;

/// A break in looking, after which the counting begins anew.
const BREAK_MS: u64 = LONG_MS;

/// One heartbeat tells of at most so long: what a node did while it was not heard is not known.
const MAX_TOLD_MS: u64 = SHORT_MS;

/// Requests a second, in thousandths, averaged over both windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// Over the short window.
    pub short: u32,
    /// Over the long window.
    pub long: u32,
}

impl Rate {
    /// What both windows say at least.
    pub fn sure(self) -> u64 {
        u64::from(self.short.min(self.long))
    }

    fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// Takes in that the rate was `told` for `for_ms`, after `heard_ms` that were averaged already.
    fn take_in(&mut self, told: Thousandths, for_ms: u64, heard_ms: u64) {
        // Until a window has passed once, it is a plain mean of what was told.
        let averaged = |average: u32, window_ms: u64| {
            let before_ms = u128::from(window_ms.min(heard_ms));
            let sum = u128::from(average) * before_ms + u128::from(told.0) * u128::from(for_ms);
            let mean = sum.checked_div(before_ms + u128::from(for_ms));
            mean.map_or(average, |mean| u32::try_from(mean).unwrap_or(u32::MAX))
        };
        *self = Self { short: averaged(self.short, SHORT_MS), long: averaged(self.long, LONG_MS) };
    }

    fn or_higher(self, other: Self) -> Self {
        Self { short: self.short.max(other.short), long: self.long.max(other.long) }
    }
}

/// A shard's averages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShardLoad {
    /// Reads that the primary answered.
    pub reads: Rate,
    /// Writes that the primary answered; each copy has them all.
    pub writes: Rate,
    /// How long was averaged, at most [`LONG_MS`].
    heard_ms: u32,
}

/// The averages of the shards that a node leads, and led until their new primary is heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    /// By shard.
    pub shards: BTreeMap<ShardId, ShardLoad>,
    /// Boot clock of the last heartbeat that was taken in; none yet.
    last_boot_ms: Option<u64>,
    /// For how long the node has been heard, at most [`LONG_MS`].
    heard_ms: u64,
}

/// Times say nothing as long as no shard has an entry; so that a model of the protocol, whose shards have no load, does not tell
/// states apart by them.
impl Hash for NodeLoad {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.shards.hash(hasher);
        if !self.shards.is_empty() {
            (self.last_boot_ms, self.heard_ms).hash(hasher);
        }
    }
}

/// What a heartbeat tells of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The shard.
    pub shard: ShardId,
    /// Reads a second.
    pub reads: Thousandths,
    /// Writes a second.
    pub writes: Thousandths,
}

impl Told {
    /// Whether it says nothing that an absent entry would not.
    pub fn is_zero(&self) -> bool {
        self.reads.0 == 0 && self.writes.0 == 0
    }
}

impl NodeLoad {
    /// A heartbeat of this node arrived: how long it tells of, and how long the node had been heard before.
    pub fn begin(&mut self, boot_ms: u64) -> (u64, u64) {
        let for_ms = self.last_boot_ms.map_or(0, |last| boot_ms.saturating_sub(last)).min(MAX_TOLD_MS);
        let heard_ms = self.heard_ms;
        self.last_boot_ms = Some(boot_ms);
        self.heard_ms = heard_ms.saturating_add(for_ms).min(LONG_MS);
        (for_ms, heard_ms)
    }

    /// Takes in what was told of a shard that the node leads, by what [`NodeLoad::begin`] said.
    pub fn take_in(&mut self, told: &Told, (for_ms, heard_ms): (u64, u64)) {
        // Without an entry the shard was idle for as long as the node has been heard.
        let idle =
            ShardLoad { heard_ms: u32::try_from(heard_ms).unwrap_or(u32::MAX), ..ShardLoad::default() };
        let load = self.shards.entry(told.shard).or_insert(idle);
        let heard = u64::from(load.heard_ms);
        load.reads.take_in(told.reads, for_ms, heard);
        load.writes.take_in(told.writes, for_ms, heard);
        load.heard_ms = u32::try_from(heard.saturating_add(for_ms).min(LONG_MS)).unwrap_or(u32::MAX);
        if load.reads.is_zero() && load.writes.is_zero() {
            self.shards.remove(&told.shard);
        }
    }

    /// The shard came from another primary, which had these averages: they go on here. What was told meanwhile is hardly
    /// anything, so the higher counts.
    pub fn inherit(&mut self, shard: ShardId, load: ShardLoad) {
        let own = self.shards.entry(shard).or_insert(load);
        own.reads = own.reads.or_higher(load.reads);
        own.writes = own.writes.or_higher(load.writes);
        own.heard_ms = own.heard_ms.max(load.heard_ms);
    }
}

/// For how long load has been uneven, and whether it, or bytes, is being levelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LoadWatch {
    /// Boot clock: uneven since then, without a break.
    uneven_since_ms: Option<u64>,
    /// Boot clock of the last look.
    seen_ms: u64,
    /// Levelling began, and something is left to do.
    is_levelling: bool,
    /// The same of bytes.
    #[serde(default)]
    levels_bytes: bool,
}

impl LoadWatch {
    /// Whether load may be levelled now.
    pub fn may_level(&self, boot_ms: u64) -> bool {
        let is_seen = boot_ms.saturating_sub(self.seen_ms) <= BREAK_MS;
        let is_sustained =
            self.uneven_since_ms.is_some_and(|since| boot_ms.saturating_sub(since) >= SUSTAINED_MS);
        is_seen && (self.is_levelling || is_sustained)
    }

    /// Whether levelling of bytes began, and something is left to do.
    pub fn levels_bytes(&self) -> bool {
        self.levels_bytes
    }

    /// The same watch, and whether bytes are being levelled.
    #[must_use]
    pub fn with_bytes(self, levels_bytes: bool) -> Self {
        Self { levels_bytes, ..self }
    }

    /// The watch after a look. `is_uneven` while it only looks: beyond the starting threshold; while load is being levelled:
    /// something was left to do.
    #[must_use]
    pub fn seen(&self, is_uneven: bool, boot_ms: u64) -> Self {
        if !is_uneven {
            return Self::default();
        }
        let is_levelling = self.may_level(boot_ms);
        let unbroken = |_: &u64| boot_ms.saturating_sub(self.seen_ms) <= BREAK_MS;
        let since_ms = self.uneven_since_ms.filter(unbroken).unwrap_or(boot_ms);
        Self { uneven_since_ms: Some(since_ms), seen_ms: boot_ms, is_levelling, levels_bytes: false }
    }
}

#[cfg(test)]
mod tests;
