//! Each rule kept and broken by hand, and the checkers of registers compared with one another and with brute force.

mod consensus;
mod data;
mod linearizable;
mod registers;
mod watch;

use std::collections::BTreeSet;

use super::Violation;

fn rules(found: &[Violation]) -> BTreeSet<&'static str> {
    found.iter().map(|violation| violation.rule).collect()
}

#[track_caller]
fn assert_kept(found: &[Violation]) {
    assert_eq!(found, []);
}

/// Exactly these rules are broken.
#[track_caller]
fn assert_broken(found: &[Violation], expected: &[&'static str]) {
    assert_eq!(rules(found), expected.iter().copied().collect(), "{found:#?}");
}
