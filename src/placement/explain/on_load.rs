//! Why a copy stays although its node carries more load than its share.

use ruvector_cluster_client::ids::Thousandths;
use ruvector_cluster_client::wire::Reason;

use super::Case;
use crate::load::SUSTAINED_MS;
use crate::placement::loads::{COOL_DOWN_MS, NodeLoads, counts};
use crate::placement::plan::LoadMoves;

impl Case<'_> {
    /// Of the shard's most loaded node; none where no node of it is beyond the starting threshold, or the plan moves the shard.
    pub(super) fn on_load(&self) -> Option<Reason> {
        let loads = self.drawn.loads.as_ref().filter(|_| self.steps.is_empty() && self.shares.is_some())?;
        self.drawn.levelling?;
        let nodes = NodeLoads::of(&self.layout, loads)?;
        let copies = self.layout.copies[self.shard].iter().map(|copy| copy.node);
        let hottest = copies
            .filter(|node| counts(&self.layout.problem.nodes[*node]))
            .max_by_key(|node| nodes.factor(*node))?;
        let factor = Thousandths(nodes.factor(hottest));
        if factor <= self.words.policy.start_imbalance {
            return None;
        }
        let carries = format!("{} carries {factor} times its share of the load", self.words.name(hottest));
        let (code, rest) = match self.load {
            LoadMoves::Watched => {
                let after = SUSTAINED_MS / 1_000;
                (
                    "load_watched",
                    format!(
                        "load is levelled once that has lasted for {after} s, after copies and primaries"
                    ),
                )
            }
            LoadMoves::Settled if loads.rests[self.shard] => {
                let ago = COOL_DOWN_MS / 1_000;
                (
                    "load_cool_down",
                    format!("but this shard moved less than {ago} s ago and is left alone until then"),
                )
            }
            LoadMoves::Settled | LoadMoves::All => return None,
        };
        Some(Reason { code: code.to_owned(), detail: format!("{carries}; {rest}") })
    }
}
