//! The JSON types of the API, shared by the control nodes that answer and everyone who asks.
//!
//! One type for each shape of API.md, nothing else: no logic, no I/O. Types that an operator types in refuse
//! unknown fields and name them; those that data nodes send let them pass, since a newer data node may say more.
//! Fields that API.md marks as soft are `Option` and `null` where nobody has reported them.

mod admin;
mod assignment;
mod cluster;
mod explain;
mod node;
mod problem;
mod shard;
mod watch;

pub use admin::*;
pub use assignment::*;
pub use cluster::*;
pub use explain::*;
pub use node::*;
pub use problem::*;
pub use shard::*;
pub use watch::*;

/// RFC 3339 in UTC on the wire.
pub type Time = chrono::DateTime<chrono::Utc>;
