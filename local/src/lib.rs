//! A cluster as processes on loopback, for the demo and the benchmarks: nodes that are started, killed, paused and always ended,
//! and plain lines with times that say what happens to them. Nothing of a data node is here.

pub mod interruption;
pub mod narrator;
pub mod processes;
