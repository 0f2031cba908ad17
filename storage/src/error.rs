//! What every part of this crate says about a file that it refuses.

/// A file that is not as it was written: which, where, why, and what an operator can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} is damaged at byte {offset}: {why}; {remedy}")]
pub struct Damage {
    /// The file, as a path where there is one.
    pub file: String,
    /// Byte offset of the first thing that is wrong.
    pub offset: u64,
    /// What is wrong there.
    pub why: String,
    /// What to do.
    pub remedy: &'static str,
}

/// The way out for a control node whose own files are lost: its peers still have everything that was acknowledged.
pub const REMEDY_REJOIN: &str = "restore the directory from a copy, or remove this node from its cluster, \
     empty the directory, and let it join again";

impl Damage {
    pub(crate) fn new(file: impl Into<String>, offset: u64, why: impl Into<String>) -> Self {
        Self { file: file.into(), offset, why: why.into(), remedy: REMEDY_REJOIN }
    }
}
