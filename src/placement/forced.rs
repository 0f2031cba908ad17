//! Changes that restore a rule: what is surplus goes, what stands on nodes that are emptied or dead is replaced, what is missing
//! is added, what shares a rack without need is spread.
//!
//! Costs what is to be restored: a shard at which nothing is wrong is looked at once.

use super::layout::{Counting, Layout};
use super::problem::{Blocked, Copy, NodeIndex, NodeUse, ShardUse};
use super::takers::{Takers, load, primary_load};

/// What could not be restored.
pub(crate) type Unplaced = Vec<(usize, Blocked)>;

/// Copies in sync that answer: the fewer, the more a shard is in danger.
pub(crate) fn safety(layout: &Layout<'_>, shard: usize) -> usize {
    let spec = &layout.problem.shards[shard];
    let answers = |copy: &&Copy| copy.in_sync && layout.problem.nodes[copy.node].usage.is_up();
    spec.copies.iter().filter(answers).count()
}

/// Restores the rules, shards with the fewest in-sync copies that answer first.
pub(crate) fn force(layout: &mut Layout<'_>) -> Unplaced {
    let wrong = (0..layout.problem.shards.len()).filter(|shard| is_wrong(layout, *shard)).collect();
    force_these(layout, wrong)
}

/// The same for these shards alone.
pub(crate) fn force_these(layout: &mut Layout<'_>, mut shards: Vec<usize>) -> Unplaced {
    let mut unplaced = Vec::new();
    if shards.is_empty() {
        return unplaced;
    }
    shards.sort_by_cached_key(|shard| (safety(layout, *shard), *shard));
    let mut takers = Takers::of(layout);
    for shard in shards {
        let mut force = Force { layout, takers: &mut takers, shard };
        let blocked = match force.layout.problem.shards[shard].usage {
            ShardUse::Pinned => None,
            ShardUse::Unavailable => Some(Blocked::Unavailable),
            ShardUse::Unassigned => {
                let added = force.add_missing();
                force.lead();
                added
            }
            ShardUse::Open => {
                force.remove_surplus();
                let replaced = force.replace_bad();
                let added = force.add_missing();
                let spread = force.spread();
                replaced.or(added).or(spread)
            }
        };
        unplaced.extend(blocked.map(|why| (shard, why)));
    }
    unplaced
}

/// Whether there is anything to restore.
fn is_wrong(layout: &Layout<'_>, shard: usize) -> bool {
    let spec = &layout.problem.shards[shard];
    match spec.usage {
        ShardUse::Pinned => return false,
        ShardUse::Unavailable | ShardUse::Unassigned => return true,
        ShardUse::Open => {}
    }
    if spec.copies.len() != layout.problem.replication_factor || !spec.idle.is_empty() {
        return true;
    }
    let is_bad = |copy: &Copy| !layout.problem.nodes[copy.node].usage.keeps();
    let is_crowded = || spec.copies.iter().any(|copy| is_crowded(layout, shard, copy.node));
    spec.copies.iter().any(is_bad) || (layout.may_be_crowded(shard) && is_crowded())
}

/// Whether the zone or rack of this copy holds more than it may.
fn is_crowded(layout: &Layout<'_>, shard: usize, node: NodeIndex) -> bool {
    let usage = layout.problem.nodes[node].usage;
    usage.gives() && layout.crowding(shard, node) > 0
}

/// Idle copies go once the shard has all that it wants, or where they can't be filled. Once all copies have their place, since
/// levelling may send elsewhere what was to fill one.
pub(crate) fn remove_idle(layout: &mut Layout<'_>) {
    let problem = layout.problem;
    for (shard, spec) in problem.shards.iter().enumerate() {
        let has_all = layout.copies[shard].len() >= problem.replication_factor;
        for node in spec.idle.iter().copied().filter(|_| spec.usage == ShardUse::Open) {
            let may_go = has_all || !problem.nodes[node].usage.keeps();
            if may_go && !layout.stands_on(shard, node) {
                layout.drop_idle(shard, node);
            }
        }
    }
}

/// One shard whose rules are being restored.
struct Force<'f, 'a> {
    layout: &'f mut Layout<'a>,
    takers: &'f mut Takers,
    shard: usize,
}

impl Force<'_, '_> {
    fn usage(&self, node: NodeIndex) -> NodeUse {
        self.layout.problem.nodes[node].usage
    }

    fn copies(&self) -> impl Iterator<Item = NodeIndex> {
        self.layout.copies[self.shard].iter().map(|copy| copy.node)
    }

    fn relocate(&mut self, from: NodeIndex, to: NodeIndex) {
        self.layout.relocate(self.shard, from, to);
        self.takers.tell(self.layout, from);
        self.takers.tell(self.layout, to);
    }

    fn put(&mut self, to: NodeIndex) {
        self.layout.put(self.shard, to);
        self.takers.tell(self.layout, to);
    }

    /// Where a copy may go: by all copies that are there if possible, else by those that stay.
    fn taker(&self, leaving: Option<NodeIndex>) -> Option<NodeIndex> {
        let clean = self.takers.taker(self.layout, self.shard, leaving, Counting::All);
        clean.or_else(|| self.takers.taker(self.layout, self.shard, leaving, Counting::Staying))
    }

    /// Why no node takes a copy.
    fn why_not(&self, leaving: Option<NodeIndex>) -> Blocked {
        let (layout, shard) = (&*self.layout, self.shard);
        let is_free = |node: &NodeIndex| {
            let spec = &layout.problem.nodes[*node];
            spec.usage.keeps() && spec.weight > 0 && !layout.has(shard, *node)
        };
        let free: Vec<NodeIndex> = (0..layout.problem.nodes.len()).filter(is_free).collect();
        let is_full = |node: NodeIndex| self.usage(node) == NodeUse::Full || !layout.has_room(shard, node);
        let is_spread = |node: NodeIndex| layout.is_spread(shard, node, leaving, Counting::Staying);
        if free.iter().any(|node| is_spread(*node) && is_full(*node)) {
            return Blocked::NoRoom;
        }
        if free.iter().any(|node| layout.takes(*node)) {
            return Blocked::SpreadRule;
        }
        Blocked::TooFewNodes
    }

    fn remove_surplus(&mut self) {
        while self.layout.copies[self.shard].len() > self.layout.problem.replication_factor.max(1) {
            let worth = |copy: &Copy| {
                let usage = self.usage(copy.node);
                let is_crowded =
                    !self.layout.is_spread(self.shard, copy.node, Some(copy.node), Counting::Staying);
                let load = std::cmp::Reverse(load(self.layout, copy.node));
                (usage != NodeUse::Dead, usage.keeps(), copy.in_sync, !is_crowded, load)
            };
            let heir = self.heir();
            let may_go = |copy: &&Copy| !self.layout.leads(self.shard, copy.node) || heir.is_some();
            let copies = self.layout.copies[self.shard].iter().filter(may_go);
            let Some(worst) = copies.min_by_key(|copy| worth(copy)).map(|copy| copy.node) else { return };
            if let Some(heir) = heir.filter(|_| self.layout.leads(self.shard, worst)) {
                self.layout.promote(self.shard, heir);
            }
            self.layout.take(self.shard, worst);
            self.takers.tell(self.layout, worst);
        }
    }

    /// Who could lead at once, where the primary's copy has to go.
    fn heir(&self) -> Option<NodeIndex> {
        let (primary, others) = self.layout.copies[self.shard].split_first()?;
        let may_lead = |copy: &&Copy| copy.in_sync && self.usage(copy.node).leads();
        let heirs = others.iter().filter(may_lead).map(|copy| copy.node);
        let least = heirs.min_by_key(|node| (primary_load(self.layout, *node), *node));
        least.filter(|_| !self.usage(primary.node).keeps())
    }

    fn replace_bad(&mut self) -> Option<Blocked> {
        let bad: Vec<NodeIndex> = self.copies().filter(|node| !self.usage(*node).keeps()).collect();
        let mut blocked = None;
        for from in bad {
            match self.taker(Some(from)) {
                Some(to) => self.relocate(from, to),
                None => blocked = Some(self.why_not(Some(from))),
            }
        }
        blocked
    }

    fn add_missing(&mut self) -> Option<Blocked> {
        while self.layout.copies[self.shard].len() < self.layout.problem.replication_factor {
            let may_be_filled = |node: &&NodeIndex| {
                let usage = self.usage(**node);
                let is_full_copy = self.copies().any(|copy| copy == **node);
                let is_spread = self.layout.is_spread(self.shard, **node, None, Counting::Staying);
                usage.keeps() && usage.is_up() && !is_full_copy && is_spread
            };
            let idle = self.layout.problem.shards[self.shard].idle.iter().find(may_be_filled).copied();
            let Some(to) = idle.or_else(|| self.taker(None)) else { return Some(self.why_not(None)) };
            self.put(to);
        }
        None
    }

    /// Moves copies out of zones and racks that hold more than the caps allow.
    fn spread(&mut self) -> Option<Blocked> {
        for _ in 0..self.layout.copies[self.shard].len() {
            let mut crowd: Vec<NodeIndex> =
                self.copies().filter(|node| is_crowded(self.layout, self.shard, *node)).collect();
            if crowd.is_empty() {
                return None;
            }
            // A copy that is too many in its rack and its zone relieves both. Replicas cost no hand-over; of them the one on
            // the fullest node.
            let rank = |node: &NodeIndex| {
                let leads = self.layout.leads(self.shard, *node);
                (self.layout.crowding(self.shard, *node), !leads, load(self.layout, *node), *node)
            };
            crowd.sort_by_key(|node| std::cmp::Reverse(rank(node)));
            let to = |from: &NodeIndex| {
                let taker = self.takers.taker(self.layout, self.shard, Some(*from), Counting::Staying);
                taker.map(|to| (*from, to))
            };
            let Some((from, to)) = crowd.iter().find_map(to) else {
                return Some(self.why_not(crowd.first().copied()));
            };
            self.relocate(from, to);
        }
        None
    }

    /// Of the first copies of a shard that one leads whose node leads the least.
    fn lead(&mut self) {
        let leads = |node: &NodeIndex| self.usage(*node).leads();
        let least = self.copies().filter(leads).min_by_key(|node| (primary_load(self.layout, *node), *node));
        if let Some(node) = least.filter(|node| !self.layout.leads(self.shard, *node)) {
            self.layout.promote(self.shard, node);
        }
    }
}

/// Primaryship leaves a node that will be away, where an in-sync copy elsewhere can lead.
pub(crate) fn leave_maintenance(layout: &mut Layout<'_>) {
    let is_away = |node: NodeIndex| layout.problem.nodes[node].usage == NodeUse::Maintenance;
    if !(0..layout.count.len()).any(is_away) {
        return;
    }
    for shard in 0..layout.copies.len() {
        let Some(primary) = layout.copies[shard].first().map(|copy| copy.node) else { continue };
        if layout.problem.shards[shard].usage != ShardUse::Open
            || layout.problem.nodes[primary].usage != NodeUse::Maintenance
        {
            continue;
        }
        let may_lead = |copy: &&Copy| copy.in_sync && layout.problem.nodes[copy.node].usage.leads();
        let heirs = layout.copies[shard].iter().filter(may_lead).map(|copy| copy.node);
        if let Some(to) = heirs.min_by_key(|node| (primary_load(layout, *node), *node)) {
            layout.promote(shard, to);
        }
    }
}
