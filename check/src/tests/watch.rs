//! The rules of watches, each broken once.

use ruvector_cluster_client::ids::Revision;

use super::super::Violation;
use super::super::history::{Change, WatchItem, WatchRecord};
use super::super::watch::{GAP, NO_START, ORDER, UNTRUE, check};
use super::{assert_broken, assert_kept};

fn change(revision: u64) -> Change {
    Change { revision: Revision(revision), digests: vec![revision * 100] }
}

fn from(revision: u64) -> WatchItem {
    WatchItem::From(Revision(revision))
}

fn told(revision: u64) -> WatchItem {
    WatchItem::Change(change(revision))
}

fn bookmark(revision: u64) -> WatchItem {
    WatchItem::Bookmark(Revision(revision))
}

fn snapshot(revision: u64) -> WatchItem {
    WatchItem::Snapshot(Revision(revision))
}

/// Committed are 2, 4, 6 and 9.
fn judge(items: &[WatchItem]) -> Vec<Violation> {
    let record = WatchRecord { stream: 1, generation: 1, items: items.to_vec() };
    check(&[record], 1, &[change(2), change(4), change(6), change(9)])
}

#[test]
fn a_complete_watch_is_accepted() {
    assert_kept(&judge(&[from(2), told(4), told(6), bookmark(8), told(9), bookmark(20)]));
    assert_kept(&judge(&[from(3), told(4)]));
    assert_kept(&judge(&[snapshot(4), told(6), from(6), told(9)]));
    assert_kept(&judge(&[from(0), WatchItem::Compacted, snapshot(6), told(9)]));
    assert_kept(&judge(&[]));
}

#[test]
fn a_gap_is_refused() {
    assert_broken(&judge(&[from(2), told(6)]), &[GAP]);
    assert_broken(&judge(&[from(0), told(4)]), &[GAP]);
    assert_broken(&judge(&[snapshot(4), told(9)]), &[GAP]);
    assert_broken(&judge(&[from(2), told(4), from(4), told(9)]), &[GAP]);
}

#[test]
fn a_bookmark_past_what_was_told_is_refused() {
    assert_broken(&judge(&[from(2), told(4), bookmark(6)]), &[GAP]);
    assert_kept(&judge(&[from(2), told(4), bookmark(5)]));
}

#[test]
fn duplicates_and_reordering_are_refused() {
    assert_broken(&judge(&[from(2), told(4), told(4)]), &[ORDER]);
    assert_broken(&judge(&[from(4), told(4)]), &[ORDER]);
    assert_broken(&judge(&[from(2), told(6), told(4)]), &[GAP, ORDER]);
    assert_broken(&judge(&[from(6), bookmark(5)]), &[ORDER]);
    assert_broken(&judge(&[from(6), snapshot(4)]), &[ORDER]);
    let committed = [change(4), change(4)];
    assert_broken(&check(&[], 1, &committed), &[ORDER]);
}

#[test]
fn what_was_not_committed_is_refused() {
    assert_broken(&judge(&[from(2), told(4), told(5)]), &[UNTRUE]);
    let mut altered = change(4);
    altered.digests.push(7);
    assert_broken(&judge(&[from(2), WatchItem::Change(altered)]), &[UNTRUE]);
}

#[test]
fn a_watch_without_a_starting_point_is_refused() {
    assert_broken(&judge(&[told(4)]), &[NO_START]);
    assert_broken(&judge(&[bookmark(4)]), &[NO_START]);
    assert_broken(&judge(&[from(0), WatchItem::Compacted, told(2)]), &[NO_START]);
}

#[test]
fn another_generation_is_judged_apart() {
    let record = WatchRecord { stream: 1, generation: 2, items: vec![from(2), told(6)] };
    assert_kept(&check(std::slice::from_ref(&record), 1, &[change(4), change(6)]));
    assert_broken(&check(&[record], 2, &[change(4), change(6)]), &[GAP]);
}
