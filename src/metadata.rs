//! The replicated state: nodes, shards, migrations, policy; changed by [`apply`] alone.
//!
//! Pure: no clock, no randomness, no float, no iteration over hash maps, no I/O; std, serde and the client's wire types only.
//! Two control nodes that applied the same entries hold equal states, byte for byte in their rows.

mod apply;
pub mod check;
mod command;
mod cow;
mod migration;
mod node;
mod read;
mod restore;
mod rows;
mod settings;
mod shard;
mod state;
pub mod view;

pub use apply::{Applied, COMMAND_VERSION, Changed, MAX_BATCH, RowChange, apply};
pub use command::{
    Answer, Change, Choice, Command, Envelope, HeardNode, NewMigration, Outcome, Register, Rejection,
    RejectionCode, RequestKey, Resume, Step, Wish,
};
pub use migration::MigrationRow;
pub use node::{NodeRow, Verdict};
pub use restore::RESTORE_STEP;
pub use rows::RowsError;
pub use settings::Settings;
pub use shard::{RetiringRow, ShardRow};
pub use state::{EventRow, Founded, Metadata, Restored};

#[cfg(test)]
pub(crate) mod tests;
