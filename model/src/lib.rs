//! The protocol explored exhaustively: a model checker over the functions that serve.
//!
//! One shard, three data nodes, the coordinator's leader and its successor. Everything that decides is the shipped code: the
//! replicated state's `apply`, the leader's `decide` with its leases, the data node's `Replica` and `Lease`. The model has only
//! what lies between them: the network, time, disks, crashes, and the order in which things happen (`world`, `actions`).
//! docs/model.md tells the bounds, the abstractions and what was found.
//!
//! Invariants: nothing here decides what the protocol decides; a step is a function of the state and the action, so that a trace
//! can be replayed; a bound of a [`scenario::Scenario`] is spent by an action and never given back, so that each space is finite.
//!
//! Caveat: a state is its fingerprint. Log indices, and the order of messages in flight, are left out of it.

mod actions;
mod benign;
pub mod checker;
mod control;
mod fingerprint;
mod ghost;
mod node;
pub mod run;
pub mod scenario;
mod trace;
mod world;

#[cfg(test)]
mod tests;
