//! Placement as an operator sees it: a cluster in, a plan out.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod cluster;
mod golden;
