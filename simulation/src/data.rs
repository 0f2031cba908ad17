//! Simulated data nodes and their clients: the shipped agent and replica, over disks in memory that lose power.
//!
//! What is here takes the place of examples/vector-node, and no more than that: files ([`store`]), the tasks that feed a
//! shard's replica and carry out its effects ([`shard`], [`shards`]), and messages ([`message`]). Who decides anything is the
//! client library's code. The order in which a shard's task takes things in is the reference node's.
//!
//! Invariants: nothing here draws from the system or reads its time; maps are ordered, and `select!` is biased. A task that
//! panics, or an agent that ends, is written down in [`failures`].

pub mod client;
pub mod clock;
pub mod failures;
pub mod keys;
pub mod message;
pub mod node;
pub mod record;
pub mod shard;
pub mod shards;
pub mod store;
#[cfg(test)]
mod tests;
