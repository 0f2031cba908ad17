//! From a command to its outcome.

use ruvector_cluster_raft::{Leadership, Node, ProposeError};

use crate::machine::{decode, encode};
use crate::metadata::{Envelope, Outcome};

pub use crate::metadata::COMMAND_VERSION;

/// Proposes a command and waits for its outcome. Only the leader can.
///
/// # Errors
/// Why there is no outcome; [`ProposeError::Unknown`] also where the outcome is not understood.
pub async fn propose(node: &Node, envelope: &Envelope) -> Result<Outcome, ProposeError> {
    let command = encode(envelope).map_err(|_| ProposeError::Unknown)?;
    let committed = node.propose(command).await?;
    decode(&committed.outcome).map_err(|_| ProposeError::Unknown)
}

/// As [`propose`], refused unless this node still leads in that very term.
///
/// # Errors
/// As there.
pub async fn propose_fenced(
    node: &Node,
    leadership: Leadership,
    envelope: &Envelope,
) -> Result<Outcome, ProposeError> {
    let command = encode(envelope).map_err(|_| ProposeError::Unknown)?;
    let committed = node.propose_fenced(leadership, command).await?;
    decode(&committed.outcome).map_err(|_| ProposeError::Unknown)
}
