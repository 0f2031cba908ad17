//! What data nodes and clients of a ruvector cluster embed.
//!
//! - [`ids`] and [`wire`]: the identifiers and JSON types that the control nodes speak.
//!
//! The crate knows neither openraft, sled nor axum.

pub mod clock;
pub mod hashing;
pub mod ids;
pub mod replica;
pub mod wire;
