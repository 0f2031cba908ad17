//! Why a shard's copies are where they are, and for every node why it may or may not take one.
//!
//! All of it is read from one plan, made as the coordinator makes its own, and from the problem that this plan solves, by the
//! rules that it was made under ([`super::standing`], the shares): so it can't contradict what the coordinator does. What keeps a
//! planned move from starting is not placement's and is added by the coordinator.
//!
//! Costs one plan, and a look at every node.

mod copies;
mod on_load;

use ruvector_cluster_client::ids::{NodeId, ShardId};
use ruvector_cluster_client::wire::{
    CopyExplained, Infeasible, Move, NodeExplained, Reason, RebalancePolicy, Strategy,
};

use super::layout::{Counting, Crowd, Layout};
use super::plan::{Drawn, LoadMoves, PlanOptions, Planned};
use super::problem::{Action, NodeIndex, Step};
use super::shares::Shares;
use super::standing::{Places, Standing, standing};
use super::words::{HEARD_BY_OTHERS, Said, Words, at, counted, held_until_ms};
use crate::metadata::{Metadata, ShardRow};
use crate::soft::Soft;

/// What placement says of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The plan that it is read from.
    pub planned: Planned,
    /// Every copy, and why it is there.
    pub copies: Vec<CopyExplained>,
    /// Every node, ascending, and why it may or may not take a copy.
    pub nodes: Vec<NodeExplained>,
    /// The plan's moves of this shard.
    pub next: Vec<Move>,
    /// Where the plan puts a shard that has no copies, the primary first.
    pub assigned: Vec<NodeId>,
    /// Why no move, or none more, is planned.
    pub waits: Vec<Reason>,
}

/// Explains `shard` by the plan that `options` ask for; none where there is no such shard.
pub fn explain(
    metadata: &Metadata,
    soft: &Soft,
    policy: &RebalancePolicy,
    options: &PlanOptions,
    shard: ShardId,
) -> Option<Explained> {
    let row = metadata.shard(shard)?;
    let drawn = Drawn::of(metadata, soft, policy, options);
    let place = drawn.built.shards.binary_search(&shard).ok()?;
    let planned = drawn.told(metadata, soft, policy, options);
    let case = Case::of(metadata, soft, policy, options, &drawn, (place, row));
    let assigned = planned.assigned.iter().find(|(of, _)| *of == shard).map(|(_, copies)| copies.clone());
    let unplaced = drawn.solution.unplaced.iter().find(|(of, _)| *of == place);
    let infeasible =
        case.words.stuck(&drawn.solution, unplaced.map(std::slice::from_ref).unwrap_or_default()).pop();
    let copies = case.copies(infeasible.as_ref());
    Some(Explained {
        nodes: (0..drawn.built.nodes.len()).map(|node| case.node(node)).collect(),
        next: case.steps.iter().map(|step| drawn.built.told(step)).collect(),
        assigned: assigned.unwrap_or_default(),
        waits: case.waits(&copies, infeasible.as_ref()),
        copies,
        planned,
    })
}

/// One shard under one plan.
struct Case<'a> {
    words: Words<'a>,
    drawn: &'a Drawn,
    /// Copies as they stand, or will once the migrations under way have ended.
    layout: Layout<'a>,
    shard: usize,
    row: &'a ShardRow,
    /// The plan's steps of this shard.
    steps: Vec<Step>,
    /// Shares of copies; none where the strategy has none.
    shares: Option<Shares>,
    /// What the plan does about load.
    load: LoadMoves,
}

impl<'a> Case<'a> {
    fn of(
        metadata: &'a Metadata,
        soft: &'a Soft,
        policy: &'a RebalancePolicy,
        options: &PlanOptions,
        drawn: &'a Drawn,
        (shard, row): (usize, &'a ShardRow),
    ) -> Self {
        let Drawn { built, solution, .. } = drawn;
        let layout = Layout::with_room(&built.problem, &solution.left_bytes);
        // Where nothing is levelled the shares decide nothing, and tell how uneven nodes are.
        let unused = || Shares::of_copies(&built.problem, &layout.caps, &layout.count);
        let measured = solution.measure.as_ref().map(|measure| measure.copies.clone());
        let shares = (options.strategy == Strategy::Balanced).then(|| measured.unwrap_or_else(unused));
        Self {
            words: Words { metadata, soft, policy, now_ms: options.now_ms, built },
            drawn,
            layout,
            shard,
            row,
            steps: solution.steps.iter().filter(|step| step.shard == shard).copied().collect(),
            shares,
            load: options.load,
        }
    }

    /// Copies on the node, and its share of them.
    fn share(&self, node: NodeIndex) -> String {
        let held = counted(self.layout.count[node], "copy", "copies");
        let Some(shares) = &self.shares else { return format!("it holds {held}") };
        let (floor, ceil) = (shares.floor(node), shares.ceil(node));
        let share = if floor == ceil { format!("{floor}") } else { format!("{floor} to {ceil}") };
        format!("it holds {held}, and its share is {share}")
    }

    fn node(&self, node: NodeIndex) -> NodeExplained {
        let told = |may_take: bool, places: Places, (code, detail): Said| NodeExplained {
            node: self.words.name(node).clone(),
            may_take,
            in_place_of: places.instead_of.iter().map(|from| self.words.name(*from).clone()).collect(),
            code: code.to_owned(),
            detail,
        };
        let name = self.words.name(node);
        if let Some(coming) = self.coming(node) {
            let from = coming.0.into_iter().collect();
            return told(true, Places { instead_of: from, is_missing: false }, ("takes_next", coming.1));
        }
        let closed = |(code, text): Said| (code, format!("{name} {text}"));
        let said: Said = match standing(&self.layout, self.shard, node) {
            Standing::Fits(places) => {
                let said = self.fits(node, &places);
                return told(true, places, said);
            }
            Standing::Holds | Standing::Idle => self.holds(node),
            Standing::Closed | Standing::Deleting | Standing::NoRoom => {
                let why = self.words.closed(&self.layout, self.shard, node);
                why.map_or_else(|| ("closed", format!("{name} takes no copies")), closed)
            }
            Standing::Crowded(crowd) => {
                let code = match crowd {
                    Crowd::Rack => "rack_taken",
                    Crowd::Zone => "zone_taken",
                };
                (code, self.words.crowd(&self.layout, self.shard, node, (crowd, None)))
            }
            Standing::NoGiver => {
                let detail =
                    "no copy is missing, and none may leave its node now: it is down, or in maintenance";
                ("no_giver", detail.to_owned())
            }
        };
        told(false, Places::default(), said)
    }

    /// Whose copy the plan moves here, if it does, in words.
    fn coming(&self, node: NodeIndex) -> Option<(Option<NodeIndex>, String)> {
        self.steps.iter().find_map(|step| {
            let reason = step.why.sentence();
            match step.action {
                Action::Move { from, to } if to == node => Some((
                    Some(from),
                    format!("the plan moves the copy of {} here: {reason}", self.words.name(from)),
                )),
                Action::Add { to } if to == node => {
                    Some((None, format!("the plan adds a copy here: {reason}")))
                }
                Action::Move { .. } | Action::Add { .. } | Action::Remove { .. } | Action::Promote { .. } => {
                    None
                }
            }
        })
    }

    fn fits(&self, node: NodeIndex, places: &Places) -> Said {
        let all = self.layout.copies[self.shard].len();
        let whose = match (&places.instead_of[..], places.is_missing) {
            (_, true) => "a copy that is missing".to_owned(),
            (some, false) if some.len() == all => "any of its copies".to_owned(),
            (some, false) => {
                let rack = self.layout.problem.nodes[node].rack;
                let crowd = self.layout.crowd_in(self.shard, rack, None, Counting::All);
                let why = crowd.map(|crowd| self.words.crowd(&self.layout, self.shard, node, (crowd, None)));
                let why = why.map_or(String::new(), |why| format!(" ({why})"));
                format!("no copy but that of {}{why}", self.words.names(some))
            }
        };
        let has_enough =
            self.shares.as_ref().is_some_and(|shares| self.layout.count[node] >= shares.ceil(node));
        let code = match (has_enough, places.is_missing) {
            (true, false) => "enough_copies",
            _ => "may_take",
        };
        let wants = if code == "enough_copies" { ": it needs none" } else { "" };
        (code, format!("the rules let it take {whose}; {}{wants}", self.share(node)))
    }

    /// A node that has a copy already.
    fn holds(&self, node: NodeIndex) -> Said {
        let name = self.words.name(node);
        let pending = self.row.migration.and_then(|id| self.words.metadata.migration(id));
        match pending.filter(|migration| migration.to.as_ref() == Some(name)) {
            Some(migration) if !self.row.full_copies().any(|copy| copy == name) => {
                ("being_filled", format!("migration {} is bringing a copy to {name}", migration.id))
            }
            _ if self.layout.stands_on(self.shard, node) => {
                ("holds_copy", format!("{name} holds a copy: one a node"))
            }
            _ => {
                let detail =
                    format!("{name} holds a copy that fell out of the shard: it is filled again, or removed");
                ("idle_copy", detail)
            }
        }
    }

    /// Why no move of this shard is planned, or none more.
    fn waits(&self, copies: &[CopyExplained], infeasible: Option<&Infeasible>) -> Vec<Reason> {
        let stuck = copies.iter().find(|copy| copy.code == "stuck").map(|copy| &copy.detail);
        let stuck = infeasible.map(|why| (&why.code, stuck.unwrap_or(&why.detail)));
        let others = copies.iter().filter(|copy| keeps_still(&copy.code));
        let mut waits: Vec<Reason> = Vec::new();
        for (code, detail) in stuck.into_iter().chain(others.map(|copy| (&copy.code, &copy.detail))) {
            // What holds for all copies alike is told once.
            if waits.iter().all(|told| told.detail != *detail) {
                waits.push(Reason { code: code.clone(), detail: detail.clone() });
            }
        }
        let words = &self.words;
        let until_ms = held_until_ms(words.metadata, words.policy, words.now_ms);
        let is_held = waits.iter().any(|told| told.code == "down");
        waits.extend(until_ms.filter(|_| is_held).map(|until_ms| Reason {
            code: "mass_failure".to_owned(),
            detail: format!(
                "so many nodes went down at once that it looks like a partition: rebuilding waits until {} \
                 (mass_failure_hold_ms)",
                at(until_ms)
            ),
        }));
        waits.extend(self.on_load());
        waits
    }
}

/// Whether a copy's code says why it does not move although something is amiss.
fn keeps_still(code: &str) -> bool {
    matches!(
        code,
        "levelling_off"
            | "within_thresholds"
            | "no_taker"
            | "others_first"
            | "down"
            | HEARD_BY_OTHERS
            | "away"
            | "pinned"
    )
}
