//! What the demo found, and whether it is what was promised.

use std::time::Duration;

use crate::ledger::{Operation, Totals};
use crate::verify::Verified;
use ruvector_cluster_local::narrator::{count, spell};

/// Wrong things are told in words, at most so many of a kind.
const TOLD: usize = 5;

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// What was found at the end.
    pub(crate) verified: Verified,
    /// What the client met under way.
    pub(crate) totals: Totals,
    /// From the kill of a vector node until all its shards were answered for.
    pub(crate) gap: Option<Duration>,
    /// Revisions of the map that were looked at.
    pub(crate) revisions: usize,
    /// Two copies of a shard in one rack.
    pub(crate) rack_violations: Vec<String>,
}

impl Summary {
    /// Nothing lost, nothing wrong, nothing failed outside the gap, no two copies in a rack.
    pub(crate) fn is_clean(&self) -> bool {
        let verified = &self.verified;
        let is_kept = verified.found == verified.expected && verified.expected > 0;
        let is_right = verified.lost.is_empty() && verified.wrong.is_empty() && self.totals.wrong == 0;
        let agrees = verified.disagreeing.is_empty() && verified.searches > 0;
        is_kept && is_right && agrees && self.totals.failed_outside == 0 && self.rack_violations.is_empty()
    }

    /// The lines that end the demo.
    pub(crate) fn print(&self) {
        let Self { verified, totals, .. } = self;
        let of = |operation| count(totals.answered.get(&operation).copied().unwrap_or(0));
        let answered: usize = totals.answered.values().sum();
        let failed = totals.failed_in_gap + totals.failed_outside;
        let agreeing = verified.searches - verified.disagreeing.len();
        let gap = self.gap.map_or_else(|| "none".to_owned(), spell);
        println!();
        println!("vectors expected     {}", count(verified.expected));
        println!(
            "vectors found        {}; lost {}, wrong {}",
            count(verified.found),
            verified.lost.len(),
            verified.wrong.len()
        );
        println!("nearest neighbours   {agreeing} of {} searches agree with brute force", verified.searches);
        println!(
            "requests sent        {}: {} reads, {} writes, {} searches answered; wrong {}",
            count(answered + failed),
            of(Operation::Read),
            of(Operation::Write),
            of(Operation::Search),
            totals.wrong
        );
        println!(
            "requests failed      {}: {} in the gap of {gap} that killing a primary cost, {} outside it",
            count(failed),
            count(totals.failed_in_gap),
            count(totals.failed_outside)
        );
        println!(
            "longest gap          {} until one operation was answered; {} without any answer at all",
            spell(totals.longest_wait),
            spell(totals.longest_silence)
        );
        println!(
            "rack violations      {} at {} revisions",
            self.rack_violations.len(),
            count(self.revisions)
        );
        self.print_what_is_wrong();
        println!("{}", if self.is_clean() { "fine: nothing lost, nothing wrong" } else { "FAILED" });
    }

    fn print_what_is_wrong(&self) {
        let kinds: [(&str, &[String]); 6] = [
            ("lost", &self.verified.lost),
            ("wrong at the end", &self.verified.wrong),
            ("not what brute force finds", &self.verified.disagreeing),
            ("wrong under way", &self.totals.wrong_words),
            ("failed outside the gap", &self.totals.outside),
            ("copies in one rack", &self.rack_violations),
        ];
        for (kind, cases) in kinds {
            for case in cases.iter().take(TOLD) {
                println!("  {kind}: {case}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn clean() -> Summary {
        let verified = Verified { expected: 2, found: 2, searches: 1, ..Verified::default() };
        let totals = Totals {
            answered: BTreeMap::new(),
            failed_in_gap: 3,
            failed_outside: 0,
            outside: Vec::new(),
            wrong: 0,
            wrong_words: Vec::new(),
            longest_silence: Duration::ZERO,
            longest_wait: Duration::ZERO,
        };
        Summary { verified, totals, gap: None, revisions: 1, rack_violations: Vec::new() }
    }

    #[test]
    fn anything_lost_wrong_or_failed_outside_the_gap_fails_the_demo() {
        assert!(clean().is_clean());
        let spoil: [fn(&mut Summary); 7] = [
            |summary| summary.verified.found = 1,
            |summary| summary.verified.lost.push("x".to_owned()),
            |summary| summary.verified.wrong.push("x".to_owned()),
            |summary| summary.verified.disagreeing.push("x".to_owned()),
            |summary| summary.totals.wrong = 1,
            |summary| summary.totals.failed_outside = 1,
            |summary| summary.rack_violations.push("x".to_owned()),
        ];
        for (n, spoil) in spoil.iter().enumerate() {
            let mut summary = clean();
            spoil(&mut summary);
            assert!(!summary.is_clean(), "case {n}");
        }
    }
}
