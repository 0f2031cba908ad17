//! Replication of opaque commands: the only crate that names openraft, behind a face of bytes.
//!
//! A node proposes commands and tells what they led to; the [`StateMachine`] that it drives gives
//! them a meaning. No domain and no client API are known here, and no file is touched except through
//! `ruvector-cluster-storage`.

pub mod bootstrap;
mod codec;
pub mod config;
pub mod error;
pub mod http;
mod log_store;
pub mod machine;
mod machine_store;
pub mod member;
pub mod membership;
pub mod memory;
#[cfg(test)]
mod model;
mod network;
pub mod node;
mod peer;
mod pipeline;
mod recover;
pub mod restore;
mod runtime;
mod trail;
pub mod transport;
mod types;

pub use bootstrap::{Phase, greet};
pub use config::{Compaction, NodeConfig, Timing};
pub use error::{
    CallError, FatalError, GreetError, MembershipError, ProposeError, REMOVED, ReadError, StartError,
};
pub use machine::{Applied, RestoreError, StateMachine};
pub use member::{Greeting, Leadership, LeadershipState, Member, MemberInfo, MemberRole};
pub use membership::Seat;
pub use node::{AppHandler, Committed, Node, Status};
pub use restore::{Beginning, RestoreDirectoryError, restore_directory};
