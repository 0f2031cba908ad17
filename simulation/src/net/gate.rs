//! Withholds reports of data nodes, so that a migration stays in a phase until a fault has come.
//!
//! What is withheld waits at its sender, as on a link that is slow for it alone, and is sent when the gate opens: late, but once.
//! Each such request is also kept, for whoever wants to send it again.

use std::sync::Arc;

use bytes::Bytes;
use ruvector_cluster_client::wire::{Report, ReportsRequest};
use tokio::sync::watch;

/// Which reports wait.
pub type Withheld = Arc<dyn Fn(&Report) -> bool + Send + Sync>;

/// A request that waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptReports {
    /// `/v1/nodes/{id}/reports`.
    pub path: String,
    /// As it was sent.
    pub body: Bytes,
}

/// The gate, open as long as nothing is withheld.
pub(super) struct Gate {
    rule: watch::Sender<Option<Withheld>>,
    kept: Vec<KeptReports>,
}

impl Gate {
    pub(super) fn open() -> Self {
        Self { rule: watch::Sender::new(None), kept: Vec::new() }
    }

    pub(super) fn set(&mut self, rule: Option<Withheld>) {
        self.rule.send_replace(rule);
    }

    pub(super) fn kept(&self) -> Vec<KeptReports> {
        self.kept.clone()
    }

    pub(super) fn keep(&mut self, path: &str, body: &Bytes) {
        let kept = KeptReports { path: path.to_owned(), body: body.clone() };
        // Its sender loses patience, and tries again.
        if !self.kept.contains(&kept) {
            self.kept.push(kept);
        }
    }

    /// What tells of the rules to come.
    pub(super) fn rules(&self) -> watch::Receiver<Option<Withheld>> {
        self.rule.subscribe()
    }
}

/// Whether the rule withholds something of this request.
pub(super) fn is_withheld(rule: Option<&Withheld>, body: &Bytes) -> bool {
    let Some(rule) = rule else { return false };
    let parsed: Result<ReportsRequest, _> = serde_json::from_slice(body);
    parsed.is_ok_and(|request| request.reports.iter().any(|report| rule(report)))
}
