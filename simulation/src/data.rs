//! Data nodes.
pub mod clock;
