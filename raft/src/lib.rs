//! Replication of opaque commands: the only crate that names openraft, behind a face of bytes.
//!
//! A node proposes commands and tells what they led to; the [`StateMachine`] that it drives gives
//! them a meaning. No domain and no client API are known here, and no file is touched except through
//! `ruvector-cluster-storage`.

mod codec;
pub mod config;
pub mod error;
pub mod http;
mod log_store;
pub mod machine;
mod machine_store;
pub mod member;
pub mod memory;
#[cfg(test)]
mod model;
mod network;
mod pipeline;
mod recover;
mod runtime;
mod trail;
pub mod transport;
mod types;

pub use config::{Compaction, NodeConfig, Timing};
pub use error::{CallError, FatalError, MembershipError, ProposeError, ReadError, StartError};
pub use machine::{Applied, RestoreError, StateMachine};
pub use member::{Leadership, LeadershipState, Member, MemberInfo, MemberRole};
