//! The fewest copyings that any plan needs, so that what a plan costs can be told as a share of it.
//!
//! Let a plan end with `F` copies of the shards that it may touch, of which `K` stood there before: it copies `F - K` times.
//! `K` is bounded from three sides.
//!
//! 1. A node ends with at most its high mark, and keeps no more than it has: `K <= sum over nodes of min(has, high)`.
//! 2. A node ends with at least its low mark, and what it lacks must come: `F - K >= sum over nodes of (low - has)`.
//! 3. A shard keeps no copy on a node that is emptied or dead, and in a zone or rack no more than the caps allow:
//!    `K <= sum over shards of what it can keep`.
//!
//! Hand-overs and removals copy nothing and are not counted; nor are the first copies of a shard. Marks are those that levelling
//! has to reach; where it may not begin, or can't reach them, only the third side holds.

use smallvec::SmallVec;

use super::layout::Layout;
use super::problem::Copy;

/// What a node has to hold in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// At least.
    pub(crate) low: u64,
    /// At most.
    pub(crate) high: u64,
}

/// The fewest copyings that lead from `has` (by node) to as many copies of each shard as `layout` has, with `marks` kept (by
/// node) if given.
pub(crate) fn lower_bound(layout: &Layout<'_>, has: &[u64], marks: Option<&[Marks]>) -> u64 {
    let touched = || layout.touched().iter().copied().filter(|shard| !layout.is_new(*shard));
    // A shard that was not touched ends with what it had.
    let came = |shard: usize| layout.copies[shard].len().saturating_sub(kept(layout, shard)) as u64;
    let by_shards = touched().map(came).sum();
    let Some(marks) = marks else { return by_shards };
    let nodes = || has.iter().zip(marks);
    let in_the_end = touched().fold(has.iter().sum::<u64>(), |sum, shard| {
        (sum + layout.copies[shard].len() as u64)
            .saturating_sub(layout.problem.shards[shard].copies.len() as u64)
    });
    let by_high = in_the_end.saturating_sub(nodes().map(|(has, marks)| marks.high.min(*has)).sum());
    let by_low: u64 = nodes().map(|(has, marks)| marks.low.saturating_sub(*has)).sum();
    // What a node lacks may also come from first copies, which cost nothing.
    let has_new = layout.touched().iter().any(|shard| layout.is_new(*shard));
    by_shards.max(by_high).max(if has_new { 0 } else { by_low })
}

/// How many of its copies a shard can keep: those on nodes that keep theirs, in a zone and rack no more than the caps allow;
/// and what could not be placed elsewhere.
fn kept(layout: &Layout<'_>, shard: usize) -> usize {
    let problem = layout.problem;
    let is_still_there = |copy: &Copy| layout.copies[shard].iter().any(|now| now.node == copy.node);
    // By zone and rack: copies that may stay, and those that do.
    let mut places: SmallVec<[(usize, usize, usize, usize); 4]> = SmallVec::new();
    let mut stuck = 0;
    for copy in &problem.shards[shard].copies {
        let spec = &problem.nodes[copy.node];
        let still = usize::from(is_still_there(copy));
        if !spec.usage.keeps() {
            stuck += still;
            continue;
        }
        match places.iter_mut().find(|(_, rack, _, _)| *rack == spec.rack) {
            Some((_, _, may, do_stay)) => (*may, *do_stay) = (*may + 1, *do_stay + still),
            None => places.push((problem.zone_of_rack[spec.rack], spec.rack, 1, still)),
        }
    }
    let mut zones: SmallVec<[(usize, usize, usize); 4]> = SmallVec::new();
    for (zone, _, may, do_stay) in places {
        let in_rack = may.min(layout.caps.rack.max(do_stay));
        match zones.iter_mut().find(|(of, _, _)| *of == zone) {
            Some((_, may, still)) => (*may, *still) = (*may + in_rack, *still + do_stay),
            None => zones.push((zone, in_rack, do_stay)),
        }
    }
    let in_zones = zones.iter().map(|(_, may, still)| may.min(&layout.caps.zone.max(*still)).to_owned());
    stuck + in_zones.sum::<usize>()
}
