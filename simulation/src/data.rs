//! Simulated data nodes and their clients: the shipped agent, replica and shell, over disks in memory that lose power.
//!
//! What is here takes the place of files ([`store`]) and sockets ([`message`], [`service`]) of examples/vector-node, and no
//! more than that. Who decides anything, and in which order a copy takes things in, is the client library's code.
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
pub mod service;
pub mod store;
#[cfg(test)]
mod tests;
