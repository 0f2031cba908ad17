//! Clusters of real processes for the tests: the built binaries on loopback, killed with the test that started them.
//!
//! Tests wait for conditions, never for a time; every wait has a deadline and says what it waited for. What the
//! processes logged is printed when a test fails.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]
#![allow(dead_code, unused_imports, reason = "every test binary that includes this uses another part of it")]
#![allow(unreachable_pub, reason = "a module of test binaries, which have no outside")]

pub mod control;
pub mod data;
pub mod http;
pub mod ports;
pub mod process;
pub mod scripted;
pub mod wait;
pub mod watch;

pub use control::{ControlCluster, Options};
pub use data::DataNode;
pub use http::Api;
pub use scripted::ScriptedNode;
pub use wait::{DEADLINE, wait_for};
pub use watch::Watcher;
