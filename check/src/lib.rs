//! What must hold of every run, simulated or of real processes, judged on its history alone.
//!
//! A [`history`] says what clients, watchers and an onlooker at the nodes saw; how it came about is unknown here, so a
//! checker can't repeat an error of the code under test. Each `check` is a pure function from records to violations,
//! and none of them waits, draws chance or reads a clock.
//!
//! - [`linearizable`] judges metadata by revisions, which order all writes; [`wgl`] judges the same operations, and
//!   those on data keys, without them.
//! - [`data`] judges data operations by epoch and position, and key by key.
//! - [`watch`] compares what watches told with what was committed.
//! - [`consensus`] judges what was seen at the control nodes.
//!
//! Caveat: a history in which little happened keeps every rule. How much happened is for the caller to count.

use std::fmt;

pub mod consensus;
pub mod data;
pub mod history;
pub mod linearizable;
pub mod watch;
pub mod wgl;
mod writes;
mod zones;

#[cfg(test)]
mod tests;

/// A rule that a history breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name; the same for every breach of it.
    pub rule: &'static str,
    /// What was seen, with the numbers of the events concerned.
    pub detail: String,
}

impl Violation {
    pub(crate) fn new(rule: &'static str, detail: impl Into<String>) -> Self {
        Self { rule, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}
