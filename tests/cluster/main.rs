//! The built binaries as processes: what a cluster promises, while control nodes and data nodes are killed and paused.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

#[path = "../support/harness.rs"]
mod support;

mod bootstrap;
mod fencing;
mod gossip;
mod hundred_lines;
mod keys;
mod kill_while_opening;
mod leader_kill;
mod member_mistakes;
mod members;
mod no_quorum;
mod phase_faults;
mod racks;
mod restart;
mod restored;
mod rolling_restart;
mod state_hash;
mod wiped_node;
