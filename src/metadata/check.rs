//! What always holds, numbered; checked after each apply in debug builds, of the rows that changed, and of everything in tests.
//!
//! Of a state ([`check`]):
//!
//! 1. No node stands twice among a shard's copies. A shard has a primary from its first assignment on, and an epoch with it.
//! 2. The in-sync set is ascending, has the primary, and has copies only.
//! 3. A learner copy is in sync only as the target of its shard's move in `handing_over`.
//! 4. A founding shard has no migration and is not lost; a lost one has its primary alone in sync, and no migration.
//! 5. A shard and its migration that has not ended name each other; the migration has the shard's epoch.
//! 6. A migration's nodes play their parts: who gives has a copy; from `preparing` on the target is a learner copy; in
//!    `handing_over` the giver leads, and the target is in sync and alive; both sides were ready before `copying`.
//! 7. Every node named in a shard, a left-over copy or an active migration is registered.
//! 8. A left-over copy is none of its shard's copies, and its epoch is not above the shard's.
//! 9. Statuses, counts and indexes say what the rows say.
//! 10. No revision is above the state's; no log time above the head's; nothing is kept beyond its bound.
//!
//! Of a step ([`check_step`]):
//!
//! 11. A shard's epoch never falls, and another primary comes with a higher one, and with a later `assigned_revision` of the
//!     old one's node.
//! 12. Another in-sync set comes with a higher version.
//! 13. Whoever becomes primary was in sync, but for a forced or a founding one, or at the end of a suspension.
//! 14. Some member of the in-sync set stays, but for a forced, a founding or a given-up shard.
//! 15. Revision, log time and a node's run never fall; the revision stays unless something changed.

mod derived;
mod shard;
mod step;

use std::fmt;

pub use step::check_step;

use super::apply::{Applied, Changed};
use super::command::Command;
use super::state::Metadata;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number above.
    pub number: u8,
    /// Where, and how.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {}: {}", self.number, self.detail)
    }
}

/// Collects violations.
#[derive(Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn require(&mut self, holds: bool, number: u8, detail: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation { number, detail: detail() });
        }
    }
}

/// All that does not hold of the state. Walks everything.
pub fn check(state: &Metadata) -> Vec<Violation> {
    let mut findings = Findings::default();
    for row in state.shards() {
        shard::check_shard(state, row, &mut findings);
    }
    for row in state.active_migrations() {
        shard::check_migration(state, row, &mut findings);
    }
    for row in state.retiring() {
        shard::check_retiring(state, row, &mut findings);
    }
    derived::check_derived(state, &mut findings);
    findings.0
}

/// All that does not hold of what a command changed. Costs what changed.
pub(super) fn check_applied(
    before: &Metadata,
    after: &Metadata,
    command: &Command,
    applied: &Applied,
) -> Vec<Violation> {
    let mut findings = Findings::default();
    step::check_heads(before, after, applied.changes.is_empty(), &mut findings);
    for change in &applied.changes {
        match change {
            Changed::Shard(id) => {
                let (Some(was), Some(now)) = (before.shard(*id), after.shard(*id)) else { continue };
                shard::check_shard(after, now, &mut findings);
                after.retiring_in(*id).for_each(|row| shard::check_retiring(after, row, &mut findings));
                step::check_shard_step((before, was), (after, now), command, &mut findings);
            }
            Changed::Migration(id) => {
                let row = after.migration(*id).filter(|row| !row.phase.is_ended());
                row.into_iter().for_each(|row| shard::check_migration(after, row, &mut findings));
            }
            Changed::Node(id) => {
                let (was, now) = (before.node(id), after.node(id));
                was.zip(now)
                    .into_iter()
                    .for_each(|(was, now)| step::check_node_step(was, now, &mut findings));
            }
            Changed::Founded
            | Changed::NodeRemoved(_)
            | Changed::Assignments(_)
            | Changed::Policy
            | Changed::Event(..) => {}
        }
    }
    findings.0
}
