//! Whole clusters of the code that serves, in one process on virtual time, under faults, from a seed.
//!
//! A [`run`] starts control nodes (the server as it ships, over a simulated disk, network and clock) and data nodes (the
//! shipped agent and replicas over a store that loses power), lets clients work while faults come, heals everything, and puts what
//! was seen before the checkers of [`ruvector_cluster_check`]. All that is drawn follows from the seed, and one thread does everything on
//! tokio's paused clock, so that a seed runs the same each time; [`trace`] shows it.
//!
//! Invariants: nothing here decides what the cluster should do; it has no copy of any of its logic. `select!` is biased, and no
//! map with an order of its own is iterated.
//!
//! Caveat: tokio's own chance (in `select!` and `watch` within libraries) follows from the seed only in builds with
//! `--cfg tokio_unstable`; scripts/simulate.sh sees to that.

pub mod api;
pub mod campaign;
pub mod chance;
pub mod cluster;
pub mod control;
pub mod data;
pub mod faults;
pub mod host;
pub mod judge;
pub mod monitor;
pub mod net;
pub mod panics;
pub mod plan;
pub mod record;
pub mod reference;
pub mod registers;
pub mod run;
pub mod serving;
pub mod stats;
pub mod table;
pub mod trace;
pub mod watcher;
