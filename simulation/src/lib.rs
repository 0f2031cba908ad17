//! Whole clusters of the code that serves, in one process on virtual time, under faults, from a seed.

pub mod chance;
pub mod check;
pub mod data;
pub mod host;
pub mod net;
pub mod trace;
