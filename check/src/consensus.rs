//! What was seen at the control nodes, judged by what Raft promises.
//!
//! 1. A term has one leader.
//! 2. An index that any node applied has the same entry on each node, at each time.
//! 3. Equal index means equal state.
//! 4. Term and vote never go back, not even across restarts; in one term a node votes once.
//! 5. Committed and applied never go back within a run; a later run that caught up is at least as far as any before it.
//! 6. A node applies nothing beyond what it knows to be committed.
//! 7. What a node knew to be committed, and had on its disk, stays on its disk.
//!
//! A node here is a Raft id, i.e. a data directory; one that was wiped comes back under another.
//!
//! Caveat: rule 5 says nothing of a run that has not caught up. The commit index is not synced, since Raft doesn't need it:
//! after a power failure a node learns it again from the leader.

use std::collections::BTreeMap;

use super::Violation;
use super::history::{Event, NodeRecord, Seen, Standing};

/// Rule 1.
pub const ONE_LEADER: &str = "a term has one leader";
/// Rule 2.
pub const COMMITTED_CHANGED: &str = "a committed entry never changes";
/// Rule 3.
pub const STATE_DIFFERS: &str = "equal applied index means equal state";
/// Rule 4.
pub const TERM_WENT_BACK: &str = "a term never goes back";
/// Rule 4.
pub const VOTE_CHANGED: &str = "a node votes once in a term";
/// Rule 5.
pub const COMMITTED_WENT_BACK: &str = "the commit index never goes back";
/// Rule 5.
pub const APPLIED_WENT_BACK: &str = "the applied index never goes back";
/// Rule 6.
pub const APPLIED_UNCOMMITTED: &str = "only what is committed is applied";
/// Rule 7.
pub const LOG_LOST: &str = "what is committed and on disk stays there";

/// Every breach of the rules above. The records of each node are judged in the order of their event numbers.
#[must_use]
pub fn check(records: &[NodeRecord]) -> Vec<Violation> {
    let mut sorted: Vec<&NodeRecord> = records.iter().collect();
    sorted.sort_by_key(|record| record.at);
    let mut found = Vec::new();
    let mut known = Known::default();
    for record in sorted {
        let node = record.raft_id;
        match &record.seen {
            Seen::Leads { term } => known.leaders.see(*term, node, record, ONE_LEADER, &mut found),
            Seen::Applied { index, digest } => {
                known.entries.see(*index, *digest, record, COMMITTED_CHANGED, &mut found);
            }
            Seen::State { index, hash } => {
                known.states.see(*index, *hash, record, STATE_DIFFERS, &mut found);
            }
            Seen::Standing(standing) => {
                let before = known.nodes.entry(node).or_insert_with(|| Past::new(*standing));
                before.check(standing, record, &mut found);
                before.learn(standing);
            }
        }
    }
    found
}

#[derive(Default)]
struct Known {
    leaders: Agreed,
    entries: Agreed,
    states: Agreed,
    nodes: BTreeMap<u64, Past>,
}

/// What all must say alike, and who said it first.
#[derive(Default)]
struct Agreed(BTreeMap<u64, (u64, u64, Event)>);

impl Agreed {
    fn see(
        &mut self,
        of: u64,
        value: u64,
        record: &NodeRecord,
        rule: &'static str,
        found: &mut Vec<Violation>,
    ) {
        let (first, node, at) = *self.0.entry(of).or_insert((value, record.raft_id, record.at));
        if first != value {
            found.push(Violation::new(
                rule,
                format!("{first} at {of} by node {node}, event {at}: {record:?}"),
            ));
        }
    }
}

/// The farthest that a node was seen.
struct Past {
    last: Standing,
    committed: u64,
    applied: u64,
    /// Known to be committed, and on disk, at one time.
    kept: u64,
}

impl Past {
    fn new(first: Standing) -> Self {
        Self { last: first, committed: 0, applied: 0, kept: 0 }
    }

    fn check(&self, now: &Standing, record: &NodeRecord, found: &mut Vec<Violation>) {
        let last = &self.last;
        let mut wrong = |rule, before: String| {
            found.push(Violation::new(rule, format!("before: {before}; now: {record:?}")));
        };
        if now.term < last.term {
            wrong(TERM_WENT_BACK, format!("{last:?}"));
        }
        if now.term == last.term && last.vote.is_some() && now.vote.is_some() && now.vote != last.vote {
            wrong(VOTE_CHANGED, format!("{last:?}"));
        }
        let (committed, applied) = match (now.run == last.run, now.caught_up) {
            (_, true) => (self.committed, self.applied),
            (true, false) => (last.committed, last.applied),
            (false, false) => (0, 0),
        };
        if now.committed < committed {
            wrong(COMMITTED_WENT_BACK, committed.to_string());
        }
        if now.applied < applied {
            wrong(APPLIED_WENT_BACK, applied.to_string());
        }
        if now.applied > now.committed {
            wrong(APPLIED_UNCOMMITTED, String::from("nothing"));
        }
        if now.durable < self.kept {
            wrong(LOG_LOST, self.kept.to_string());
        }
    }

    fn learn(&mut self, now: &Standing) {
        self.last = *now;
        self.committed = self.committed.max(now.committed);
        self.applied = self.applied.max(now.applied);
        self.kept = self.kept.max(now.committed.min(now.durable));
    }
}
