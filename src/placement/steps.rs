//! From where copies stood and where they stand in the end to the steps between, in an order that keeps the rules on the way.
//!
//! Who leaves and who comes are paired inside a rack first, then inside a zone, then across. So a rack in which some leave and
//! some come never holds more than the larger of before and after, whichever pairs go first; and since each copy comes before
//! the one that it replaces leaves, no step has fewer in-sync copies than the one before it.
//!
//! Order: what restores a rule, shards in danger first; then levelling, the fullest givers and the emptiest takers first; then
//! hand-overs that only even out primaries; then what evens out load, and then bytes, in the order in which it was decided.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::caps::Caps;
use super::forced::safety;
use super::layout::Layout;
use super::problem::{Action, Copy, NodeIndex, NodeUse, Problem, ShardSpec, Step, Why};
use super::shares::Shares;

/// Some of a shard's nodes.
type Nodes = SmallVec<[NodeIndex; 4]>;

/// How one shard's copies change.
#[derive(Debug, Default)]
struct Change {
    /// Who leaves, and who comes instead.
    pairs: SmallVec<[(NodeIndex, NodeIndex); 2]>,
    /// Who comes besides.
    added: Nodes,
    /// Who leaves besides.
    removed: Nodes,
}

impl Change {
    /// Of a shard from what it has to `after`. An idle copy is filled again where it is, and never moved onto.
    fn of(problem: &Problem, spec: &ShardSpec, after: &[Copy]) -> Self {
        let before = &spec.copies;
        let beyond = |these: &[Copy], others: &[Copy]| -> Nodes {
            let is_other = |node: NodeIndex| others.iter().any(|copy| copy.node == node);
            let mut nodes: Nodes =
                these.iter().map(|copy| copy.node).filter(|node| !is_other(*node)).collect();
            nodes.sort_unstable();
            nodes
        };
        let (filled, added): (Nodes, Nodes) =
            beyond(after, before).into_iter().partition(|node| spec.idle.contains(node));
        let mut change = Self { pairs: SmallVec::new(), added, removed: beyond(before, after) };
        let rack = |node: NodeIndex| problem.nodes[node].rack;
        let zone = |node: NodeIndex| problem.zone_of_rack[rack(node)];
        // What stands on nodes that are emptied or dead counts in no rack, so it takes what the others leave.
        for keeps in [true, false] {
            let stays = |node: NodeIndex| problem.nodes[node].usage.keeps() == keeps;
            let emptied: Nodes = change.removed.iter().copied().filter(|node| !stays(*node)).collect();
            change.pair(|from, to| stays(from) && rack(from) == rack(to));
            change.pair(|from, to| stays(from) && zone(from) == zone(to));
            change.pair(|from, to| stays(from) && emptied.iter().all(|other| rack(*other) != rack(to)));
            change.pair(|from, _| stays(from));
        }
        change.added.extend(filled);
        change
    }

    fn pair(&mut self, fits: impl Fn(NodeIndex, NodeIndex) -> bool) {
        let mut left = Nodes::new();
        for from in std::mem::take(&mut self.removed) {
            match self.added.iter().position(|to| fits(from, *to)) {
                Some(place) => self.pairs.push((from, self.added.remove(place))),
                None => left.push(from),
            }
        }
        self.removed = left;
    }

    /// Where the copy of `node` goes, if it does.
    fn heir(&self, node: NodeIndex) -> Option<NodeIndex> {
        self.pairs.iter().find(|(from, _)| *from == node).map(|(_, to)| *to)
    }
}

/// The primaryship of a copy that leaves goes to the copy that comes for it, whatever the plan's way there was.
pub(crate) fn settle_primaries(layout: &mut Layout<'_>) {
    for place in 0..layout.touched().len() {
        let shard = layout.touched()[place];
        let spec = &layout.problem.shards[shard];
        let Some(primary) = spec.copies.first().filter(|_| spec.has_primary) else { continue };
        let change = Change::of(layout.problem, spec, &layout.copies[shard]);
        let wanted = if !change.removed.contains(&primary.node) {
            change.heir(primary.node).unwrap_or(primary.node)
        } else if let Some(heir) = heir_of_removed(layout, shard) {
            heir
        } else {
            continue;
        };
        if !layout.leads(shard, wanted) {
            layout.promote(shard, wanted);
        }
    }
}

/// Who leads where the primary's copy goes and none comes for it: a copy that has been in sync all along, the present one first.
fn heir_of_removed(layout: &Layout<'_>, shard: usize) -> Option<NodeIndex> {
    let may_lead = |copy: &&Copy| {
        let was = layout.problem.shards[shard].copies.iter().any(|before| before == *copy);
        was && copy.in_sync && layout.problem.nodes[copy.node].usage.leads()
    };
    layout.copies[shard].iter().find(may_lead).map(|copy| copy.node)
}

/// A step and its place in the plan.
type Ranked = ((u8, i128, usize, usize), Step);

/// All steps from the problem to the layout, in order. `before` are the copies on each node before, `shares` what they are
/// levelled to.
pub(crate) fn steps(layout: &Layout<'_>, before: &[u64], shares: Option<&Shares>) -> Vec<Step> {
    let mut shards = layout.touched().to_vec();
    shards.sort_unstable();
    let mut ranked: Vec<Ranked> = Vec::new();
    let mut count = before.to_vec();
    let mut dropped: Vec<(usize, NodeIndex)> = layout.dropped.clone();
    dropped.sort_unstable();
    let for_load: BTreeMap<usize, (Why, usize)> =
        layout.for_load.iter().enumerate().map(|(turn, (shard, why))| (*shard, (*why, turn))).collect();
    for shard in shards.into_iter().filter(|shard| !layout.is_new(*shard)) {
        let from = dropped.partition_point(|(of, _)| *of < shard);
        let dropped = dropped[from..].iter().take_while(|(of, _)| *of == shard).map(|(_, node)| *node);
        let mut least = (0, i128::MIN);
        for (place, (action, why)) in of_shard(layout, shard, dropped.collect()).into_iter().enumerate() {
            let (why, turn) = for_load.get(&shard).copied().unwrap_or((why, 0));
            let rank = match why {
                Why::LevelLoad | Why::LevelBytes => (3, turn as i128),
                Why::Level => (1, rank_of(&mut count, action, shares)),
                Why::LevelPrimaries => (2, 0),
                _ => (0, safety(layout, shard) as i128),
            };
            // A step never goes before one of the same shard that it builds on.
            least = least.max(rank);
            ranked.push(((least.0, least.1, shard, place), Step { shard, action, why }));
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, step)| step).collect()
}

/// The lower, the more the giver has beyond its share and the taker lacks; each move counts on those before it.
fn rank_of(count: &mut [u64], action: Action, shares: Option<&Shares>) -> i128 {
    let (Action::Move { from, to }, Some(shares)) = (action, shares) else { return 0 };
    let rank = shares.excess(to, count[to]) - shares.excess(from, count[from]);
    count[to] += 1;
    count[from] = count[from].saturating_sub(1);
    rank
}

/// The steps of one shard, in order.
fn of_shard(layout: &Layout<'_>, shard: usize, dropped: Nodes) -> Vec<(Action, Why)> {
    let problem = layout.problem;
    let spec = &problem.shards[shard];
    let after = &layout.copies[shard];
    let change = Change::of(problem, spec, after);
    let mut steps = Vec::new();
    let leads_to = after.first().map(|copy| copy.node);
    let mut primary = spec.copies.first().filter(|_| spec.has_primary).map(|copy| copy.node);
    let mut moves: SmallVec<[(Why, NodeIndex, NodeIndex); 2]> = SmallVec::new();
    for (from, to) in change.pairs.iter().copied() {
        moves.push((why_moved(problem, &layout.caps, &spec.copies, from), from, to));
    }
    moves.sort_unstable();
    let is_heir = |node: &NodeIndex| spec.copies.iter().any(|copy| copy.node == *node && copy.in_sync);
    let heir = leads_to.filter(is_heir);
    let is_removed = |node: Option<NodeIndex>| node.is_some_and(|node| change.removed.contains(&node));
    let hand_over = |from: &mut Option<NodeIndex>, to: Option<NodeIndex>, why: Why| {
        let action =
            from.zip(to).filter(|(from, to)| from != to).map(|(from, to)| Action::Promote { from, to });
        *from = if action.is_some() { to } else { *from };
        action.map(|action| (action, why))
    };
    if is_removed(primary) {
        steps.extend(hand_over(&mut primary, heir, Why::Surplus));
    }
    let is_away =
        |node: Option<NodeIndex>| node.is_some_and(|node| problem.nodes[node].usage == NodeUse::Maintenance);
    if is_away(primary) {
        // Who is there can lead at once: that waits for no copy which only evens something out.
        steps.extend(hand_over(
            &mut primary,
            heir.or_else(|| heir_of_removed(layout, shard)),
            Why::Maintenance,
        ));
    }
    for (why, from, to) in moves {
        // Where the heir is there already, primaryship need not wait for the copying.
        if primary == Some(from) && why.is_forced() {
            steps.extend(hand_over(&mut primary, heir, why));
        }
        steps.push((Action::Move { from, to }, why));
        if primary == Some(from) {
            primary = Some(to);
        }
    }
    for to in change.added.iter().copied() {
        let why = if spec.idle.contains(&to) { Why::Readmit } else { Why::Missing };
        steps.push((Action::Add { to }, why));
    }
    if is_removed(primary) {
        steps.extend(hand_over(&mut primary, leads_to, Why::Surplus));
    }
    let gone = change.removed.iter().copied().chain(dropped);
    steps.extend(gone.map(|from| (Action::Remove { from }, Why::Surplus)));
    let why = if is_away(primary) { Why::Maintenance } else { Why::LevelPrimaries };
    steps.extend(hand_over(&mut primary, leads_to, why));
    steps
}

/// Why a copy leaves `from`.
fn why_moved(problem: &Problem, caps: &Caps, before: &[Copy], from: NodeIndex) -> Why {
    match problem.nodes[from].usage {
        NodeUse::Dead => return Why::Replace,
        NodeUse::Draining => return Why::Drain,
        NodeUse::Open | NodeUse::Full | NodeUse::Maintenance | NodeUse::Away => {}
    }
    let rack = problem.nodes[from].rack;
    let staying = || before.iter().map(|copy| &problem.nodes[copy.node]).filter(|spec| spec.usage.keeps());
    let in_rack = staying().filter(|spec| spec.rack == rack).count();
    let zone = problem.zone_of_rack[rack];
    let in_zone = staying().filter(|spec| problem.zone_of_rack[spec.rack] == zone).count();
    if in_rack > caps.rack || in_zone > caps.zone { Why::Spread } else { Why::Level }
}
