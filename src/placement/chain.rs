//! Levelling where nothing fits directly: the cheapest chain of moves, found by a search over the nodes.
//!
//! From a node each of its copies leads to the nodes that may take it. That costs one where the copy had stood there before the
//! plan and comes to where none stood; else nothing. Nodes with slack are joined by a hub: one of them takes a copy more, another gives
//! one. Among the cheapest chains the shortest is taken.
//!
//! A search costs at most one look at every copy and rack; it ends at the first node that it is looking for. Caveat: it looks at
//! links one by one, so that two moves of one shard in a chain may not fit together. Then it is made anew without one of them, and
//! not more often than [`MAX_RETRIES`]: a chain that is there may be missed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::layout::Counting;
use super::level::Level;
use super::problem::NodeIndex;

/// Most searches of one levelling that are made anew since a chain did not fit together. Each may look at every copy.
const MAX_RETRIES: u32 = 64;

/// Copies that a chain costs, and its moves.
type Cost = (u32, u32);

/// How a node was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    /// The search began here.
    Start,
    /// By a copy from another node.
    Move { shard: usize, from: NodeIndex },
    /// It gives one, since another node took one.
    Hub,
}

/// A move of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    shard: usize,
    from: NodeIndex,
    to: NodeIndex,
}

/// What a search found.
enum Found {
    /// Its moves, from the start.
    Chain(Vec<Link>),
    /// No chain leads anywhere from these.
    Nothing(Vec<NodeIndex>),
}

/// Takes copies from whoever has too many, then gives copies to whoever has too few, by chains that cost at most `most` copies.
/// What costs nothing only sends elsewhere what the plan changes anyway.
pub(crate) fn level_by_chains(level: &mut Level<'_, '_, '_>, most: u32) {
    let mut chains = Chains { closed: vec![false; level.layout.count.len()], most, retries: MAX_RETRIES };
    for start in level.too_full() {
        while level.is_over(start) && !chains.closed[start] && chains.follow(level, Some(start)) {}
    }
    while level.too_few > 0 && chains.follow(level, None) {}
}

/// What the searches of one levelling have in common.
struct Chains {
    /// No chain leads on from these.
    closed: Vec<bool>,
    most: u32,
    /// Searches that may still be made anew.
    retries: u32,
}

impl Chains {
    /// One chain, from `start`, or from wherever a copy can be spared. Answers whether it was found.
    ///
    /// A search looks at each link by itself. Where a chain moves a shard twice, the two may not fit together: then nothing is
    /// moved, and another chain is looked for without the link that did not fit.
    fn follow(&mut self, level: &mut Level<'_, '_, '_>, start: Option<NodeIndex>) -> bool {
        let mut barred = Vec::new();
        loop {
            match Search::new(level, &self.closed, &barred, self.most).run(start) {
                Found::Chain(links) => match shift_along(level, &links) {
                    Ok(()) => return true,
                    Err(link) if self.retries > 0 => {
                        self.retries -= 1;
                        barred.push(link);
                    }
                    Err(_) => {
                        start.into_iter().for_each(|start| self.closed[start] = true);
                        return false;
                    }
                },
                Found::Nothing(reached) => {
                    // What was not reached can't be reached later either; unless the search was cut short.
                    let is_whole = (self.most == 0 || self.most == u32::MAX) && barred.is_empty();
                    let reached = reached.into_iter().filter(|node| is_whole || Some(*node) == start);
                    reached.for_each(|node| self.closed[node] = true);
                    return false;
                }
            }
        }
    }
}

/// Moves along the chain; or nothing, and answers the link that does not fit.
fn shift_along(level: &mut Level<'_, '_, '_>, links: &[Link]) -> Result<(), Link> {
    let fits = |level: &Level<'_, '_, '_>, link: &Link| {
        (level.layout.may_take(link.shard, link.to) || level.layout.may_keep(link.shard, link.to))
            && level.layout.may_inherit(link.shard, link.from, link.to)
            && level.layout.is_spread(link.shard, link.to, Some(link.from), Counting::All)
    };
    // From the end, so that each finds its place free.
    for (place, link) in links.iter().enumerate().rev() {
        if !fits(level, link) {
            let moved = &links[place + 1..];
            moved.iter().for_each(|link| level.shift_shard(link.shard, link.to, link.from));
            return Err(*link);
        }
        level.shift_shard(link.shard, link.from, link.to);
    }
    Ok(())
}

struct Search<'c, 'v, 'l, 'a, 's> {
    level: &'v Level<'l, 'a, 's>,
    closed: &'c [bool],
    /// Links that no chain may have.
    barred: &'c [Link],
    most: u32,
    label: Vec<Option<(Cost, Via)>>,
    /// The cheapest node at which a chain may end, of those that were reached.
    found: Option<(Cost, NodeIndex)>,
    /// Who took the copy that the hub passes on.
    hub: Option<NodeIndex>,
    is_hub_reached: bool,
    queue: BinaryHeap<Reverse<(Cost, NodeIndex)>>,
    /// Takers by rack that were not reached at no more cost than the node from which one looks.
    free: Vec<Vec<NodeIndex>>,
    /// Takers by rack that were not reached at all.
    fresh: Vec<Vec<NodeIndex>>,
}

impl<'c, 'v, 'l, 'a, 's> Search<'c, 'v, 'l, 'a, 's> {
    fn new(level: &'v Level<'l, 'a, 's>, closed: &'c [bool], barred: &'c [Link], most: u32) -> Self {
        let nodes = level.layout.count.len();
        let mut takers = vec![Vec::new(); level.layout.problem.zone_of_rack.len()];
        for node in (0..nodes).filter(|node| level.layout.takes(*node) && !closed[*node]) {
            takers[level.layout.problem.nodes[node].rack].push(node);
        }
        Self {
            level,
            closed,
            barred,
            most,
            label: vec![None; nodes],
            found: None,
            hub: None,
            is_hub_reached: false,
            queue: BinaryHeap::new(),
            free: takers.clone(),
            fresh: takers,
        }
    }

    fn run(mut self, start: Option<NodeIndex>) -> Found {
        match start {
            Some(start) => self.reach(start, (0, 0), Via::Start),
            None => self.reach_by_hub((0, 0), None),
        }
        while let Some(Reverse((cost, node))) = self.queue.pop() {
            if self.label[node].is_none_or(|(best, _)| best != cost) {
                continue;
            }
            if let Some((_, end)) = self.found.filter(|(found, _)| *found <= cost) {
                return Found::Chain(self.chain(end));
            }
            if self.level.has_slack(node) && !self.is_hub_reached {
                // Where those that have too few can take all that others have too many of, slack is the second choice.
                if start.is_some() && self.level.too_many > self.level.too_few {
                    return Found::Chain(self.chain(node));
                }
                self.reach_by_hub(cost, Some(node));
            }
            self.expand(node, cost);
        }
        if let Some((_, end)) = self.found {
            return Found::Chain(self.chain(end));
        }
        if let Some(taker) = self.hub.filter(|_| start.is_some()) {
            return Found::Chain(self.chain(taker));
        }
        let reached = (0..self.label.len()).filter(|node| self.label[*node].is_some());
        Found::Nothing(reached.collect())
    }

    /// The node can be reached at that cost.
    fn reach(&mut self, node: NodeIndex, cost: Cost, via: Via) {
        if cost.0 <= self.most && self.label[node].is_none_or(|(best, _)| cost < best) {
            self.label[node] = Some((cost, via));
            if self.level.is_under(node) && self.found.is_none_or(|(found, _)| cost < found) {
                self.found = Some((cost, node));
            }
            self.queue.push(Reverse((cost, node)));
        }
    }

    fn reach_by_hub(&mut self, cost: Cost, taker: Option<NodeIndex>) {
        self.is_hub_reached = true;
        self.hub = taker;
        for node in (0..self.label.len()).filter(|node| Some(*node) != taker && !self.closed[*node]) {
            if self.level.is_spare(node) {
                self.reach(node, cost, Via::Hub);
            }
        }
    }

    /// Follows every copy of `node` to wherever it may go.
    fn expand(&mut self, node: NodeIndex, (cost, moves): Cost) {
        let level = self.level;
        let layout = &*level.layout;
        if !layout.problem.nodes[node].usage.gives() {
            return;
        }
        // What costs more than what was found is no news.
        let most = self.found.map_or(self.most, |(found, _)| self.most.min(found.0.saturating_sub(1)));
        let held = if cost < most { &level.held } else { &level.changed };
        for shard in held[node].iter().copied().filter(|shard| layout.stands_on(*shard, node)) {
            let spec = &layout.problem.shards[shard];
            let is_free = layout.is_new(shard) || layout.is_fresh(shard, node);
            let price = if is_free { cost } else { cost + 1 };
            let racks = if price > self.most { 0 } else { self.free.len() };
            for rack in 0..racks {
                let open = if is_free { &self.free[rack] } else { &self.fresh[rack] };
                if open.is_empty() || !layout.is_spread_in(shard, rack, Some(node), Counting::All) {
                    continue;
                }
                let fits = |to: NodeIndex| {
                    layout.may_take(shard, to)
                        && layout.may_inherit(shard, node, to)
                        && !self.barred.contains(&Link { shard, from: node, to })
                };
                let open = if is_free { &mut self.free[rack] } else { &mut self.fresh[rack] };
                let reached: Vec<NodeIndex> = open.extract_if(.., |to| fits(*to)).collect();
                for to in reached {
                    self.reach(to, (price, moves + 1), Via::Move { shard, from: node });
                }
            }
            // Back to where a copy stood before: kept after all, whichever other copy of the shard goes.
            for to in spec.copies.iter().map(|copy| copy.node).filter(|_| !is_free) {
                if layout.may_keep(shard, to)
                    && layout.may_inherit(shard, node, to)
                    && !self.closed[to]
                    && !self.barred.contains(&Link { shard, from: node, to })
                    && layout.is_spread(shard, to, Some(node), Counting::All)
                {
                    self.reach(to, (cost, moves + 1), Via::Move { shard, from: node });
                }
            }
        }
    }

    /// The moves that lead to `end`, from the start.
    fn chain(&self, end: NodeIndex) -> Vec<Link> {
        let mut links = Vec::new();
        let mut node = end;
        while let Some((_, via)) = self.label[node] {
            match via {
                Via::Start => break,
                Via::Move { shard, from } => {
                    links.push(Link { shard, from, to: node });
                    node = from;
                }
                Via::Hub => match self.hub {
                    Some(taker) => node = taker,
                    None => break,
                },
            }
        }
        links.reverse();
        links
    }
}
