//! A data node's replicated row.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::{Incarnation, NodeId, Revision, Thousandths};
use ruvector_cluster_client::wire::Intent;
use serde::{Deserialize, Serialize};

/// What is committed of a node's life; suspicion is soft and stands nowhere here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Its lease is taken to run.
    Alive,
    /// Its lease ran out and was waited for.
    Down {
        /// Log time of the verdict, in milliseconds since 1970.
        since_ms: u64,
    },
}

/// A registered data node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its name.
    pub id: NodeId,
    /// `host:port` where it answers.
    pub addr: String,
    /// The random id of its data directory.
    pub store_id: String,
    /// Failure domain above racks.
    pub zone: Option<String>,
    /// Failure domain above nodes.
    pub rack: Option<String>,
    /// Free text of the operator's.
    pub labels: BTreeMap<String, String>,
    /// Share of copies relative to other nodes; 0 takes none.
    pub capacity: Thousandths,
    /// Bytes that it may hold.
    pub capacity_bytes: Option<u64>,
    /// Alive or down.
    pub verdict: Verdict,
    /// The operator's wish.
    pub intent: Intent,
    /// Log time at which a maintenance ends by itself.
    pub maintenance_until_ms: Option<u64>,
    /// Raised by each registration.
    pub incarnation: Incarnation,
    /// The last revision that took, or began to take, a primaryship from this node (DESIGN.md section 5, rule 4).
    pub assigned_revision: Revision,
    /// The last revision at which something in the node's assignments changed.
    pub assignments_revision: Revision,
    /// Log time of the first registration.
    pub joined_ms: u64,
    /// Of the fields above but the two revisions.
    pub revision: Revision,
}

impl NodeRow {
    /// Whether the verdict is `down`.
    pub fn is_down(&self) -> bool {
        match self.verdict {
            Verdict::Alive => false,
            Verdict::Down { .. } => true,
        }
    }
}
