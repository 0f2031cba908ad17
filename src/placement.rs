//! Where copies of shards stand: from the state, a plan.
//!
//! Pure, deterministic, integers: the same state in any order gives the same plan, and planning the plan's result gives none.
//! The state is first told as an abstract problem of numbered nodes, racks and shards; a solver in named phases turns it into
//! steps; these are told again in the domain's words.
//!
//! Hard rules, kept by every step's result and, where it can be, on the way: at most one copy of a shard a node; copies in
//! different zones, then racks, as far as these suffice; no new copy on a node that is down, drained, in maintenance, over its
//! disk watermark or without capacity. Then, in order: fewest moves, copies and primaries by capacity weight, then load, then bytes.
//!
//! Invariant: a plan never fails. What can't be placed is reported with a reason and left as it is.

mod asked;
mod bound;
mod build;
mod cancel;
mod caps;
mod chain;
mod explain;
mod forced;
mod hashed;
mod hotspots;
mod layout;
mod level;
mod level_load;
mod loads;
mod plan;
mod primaries;
mod problem;
mod room;
mod shares;
mod solve;
mod standing;
mod steps;
mod takers;
mod words;

pub use asked::objection;
pub use build::is_mass_failure;
pub use explain::{Explained, explain};
pub use hotspots::hotspots;
pub use loads::COOL_DOWN_MS;
pub use plan::{Extent, LoadMoves, PlanOptions, Planned, Purpose, plan, planned};
pub use room::Room;

#[cfg(test)]
mod tests;
