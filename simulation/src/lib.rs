//! Whole clusters of the code that serves, in one process on virtual time, under faults, from a seed.

pub mod check;
