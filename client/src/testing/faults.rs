//! What goes wrong on the way to the coordinator, and in it.

use std::time::Duration;

/// Requests that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Those whose path contains this, as `/reports`.
    pub path: String,
    /// How many more of them.
    pub left: u32,
    /// They take effect, and only their answers are lost.
    pub takes_effect: bool,
}

/// What goes wrong. Nothing, by default.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Nothing is answered while this is set, long polls and watches included: requests wait, and then break off without having taken effect.
    pub silent: bool,
    /// Everything is answered with 503 `no_leader`.
    pub unavailable: bool,
    /// Each request waits so long before it takes effect.
    pub delay: Duration,
    /// Requests to lose; the first that matches counts.
    pub lost: Vec<Lost>,
}

impl Faults {
    /// Loses the next `count` requests whose path contains `path`: they take no effect.
    pub fn lose_requests(&mut self, path: &str, count: u32) {
        self.lost.push(Lost { path: path.to_owned(), left: count, takes_effect: false });
    }

    /// Loses the answers to the next `count` requests whose path contains `path`.
    pub fn lose_answers(&mut self, path: &str, count: u32) {
        self.lost.push(Lost { path: path.to_owned(), left: count, takes_effect: true });
    }

    /// Whether a request to `path` is lost, and if so, whether it takes effect.
    pub(super) fn loses(&mut self, path: &str) -> Option<bool> {
        let lost = self.lost.iter_mut().find(|lost| lost.left > 0 && path.contains(&lost.path))?;
        lost.left -= 1;
        Some(lost.takes_effect)
    }
}
