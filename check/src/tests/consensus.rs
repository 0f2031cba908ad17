//! The rules of what was seen at control nodes, each broken once.

use super::super::consensus::{
    APPLIED_UNCOMMITTED, APPLIED_WENT_BACK, COMMITTED_CHANGED, COMMITTED_WENT_BACK, LOG_LOST, ONE_LEADER,
    STATE_DIFFERS, TERM_WENT_BACK, VOTE_CHANGED, check,
};
use super::super::history::{NodeRecord, Seen, Standing};
use super::{assert_broken, assert_kept};

fn record(at: u64, raft_id: u64, seen: Seen) -> NodeRecord {
    NodeRecord { at, raft_id, seen }
}

/// Run 1, in term 3, having voted for node 7, at index 10.
const STANDING: Standing =
    Standing { run: 1, term: 3, vote: Some(7), committed: 10, applied: 10, durable: 10, caught_up: true };

/// One node, seen so at events 1 and 2.
fn judge(first: Standing, second: Standing) -> Vec<super::Violation> {
    check(&[record(2, 1, Seen::Standing(second)), record(1, 1, Seen::Standing(first))])
}

#[test]
fn what_only_rises_is_accepted() {
    assert_kept(&judge(STANDING, Standing { term: 4, vote: None, committed: 12, applied: 11, ..STANDING }));
    assert_kept(&judge(Standing { vote: None, ..STANDING }, STANDING));
    assert_kept(&judge(STANDING, Standing { run: 2, ..STANDING }));
    let other = record(2, 2, Seen::Standing(Standing { term: 1, committed: 0, applied: 0, ..STANDING }));
    assert_kept(&check(&[record(1, 1, Seen::Standing(STANDING)), other]));
}

#[test]
fn two_leaders_of_a_term_are_refused() {
    let leads = |at, node, term| record(at, node, Seen::Leads { term });
    assert_kept(&check(&[leads(1, 1, 3), leads(2, 1, 3), leads(3, 2, 4)]));
    assert_broken(&check(&[leads(1, 1, 3), leads(2, 2, 3)]), &[ONE_LEADER]);
}

#[test]
fn an_entry_that_changes_is_refused() {
    let applied = |at, node, digest| record(at, node, Seen::Applied { index: 5, digest });
    assert_kept(&check(&[applied(1, 1, 50), applied(2, 2, 50)]));
    assert_broken(&check(&[applied(1, 1, 50), applied(2, 2, 51)]), &[COMMITTED_CHANGED]);
    assert_broken(&check(&[applied(1, 1, 50), applied(2, 1, 51)]), &[COMMITTED_CHANGED]);
}

#[test]
fn states_that_differ_at_one_index_are_refused() {
    let state = |at, node, index, hash| record(at, node, Seen::State { index, hash });
    assert_kept(&check(&[state(1, 1, 5, 50), state(2, 2, 5, 50), state(3, 2, 6, 60)]));
    assert_broken(&check(&[state(1, 1, 5, 50), state(2, 2, 5, 51)]), &[STATE_DIFFERS]);
}

#[test]
fn a_term_or_a_vote_that_goes_back_is_refused() {
    for run in [1, 2] {
        assert_broken(&judge(STANDING, Standing { run, term: 2, ..STANDING }), &[TERM_WENT_BACK]);
        assert_broken(&judge(STANDING, Standing { run, vote: Some(8), ..STANDING }), &[VOTE_CHANGED]);
        // None: it follows the leader whom the term has.
        assert_kept(&judge(STANDING, Standing { run, vote: None, ..STANDING }));
    }
}

#[test]
fn indices_that_go_back_in_a_run_are_refused() {
    for caught_up in [false, true] {
        let now = Standing { caught_up, ..STANDING };
        assert_broken(&judge(STANDING, Standing { applied: 9, ..now }), &[APPLIED_WENT_BACK]);
        let both = Standing { committed: 9, applied: 9, ..now };
        assert_broken(&judge(STANDING, both), &[APPLIED_WENT_BACK, COMMITTED_WENT_BACK]);
    }
}

#[test]
fn indices_may_be_behind_after_a_restart_only_until_the_node_caught_up() {
    let restarted = Standing { run: 2, committed: 8, applied: 8, caught_up: false, ..STANDING };
    assert_kept(&judge(STANDING, restarted));
    let caught_up = Standing { caught_up: true, ..restarted };
    assert_broken(&judge(STANDING, caught_up), &[APPLIED_WENT_BACK, COMMITTED_WENT_BACK]);
    // What an earlier run knew is not forgotten over one that had not caught up.
    let seen = |at, standing| record(at, 1, Seen::Standing(standing));
    assert_broken(
        &check(&[seen(1, STANDING), seen(2, restarted), seen(3, caught_up)]),
        &[APPLIED_WENT_BACK, COMMITTED_WENT_BACK],
    );
}

#[test]
fn applying_what_is_not_committed_is_refused() {
    assert_broken(&judge(STANDING, Standing { applied: 11, ..STANDING }), &[APPLIED_UNCOMMITTED]);
}

#[test]
fn a_committed_entry_that_leaves_the_disk_is_refused() {
    let restarted = Standing { run: 2, committed: 8, applied: 8, durable: 9, caught_up: false, ..STANDING };
    assert_broken(&judge(STANDING, restarted), &[LOG_LOST]);
    // It was committed before it was on this node's disk.
    assert_kept(&judge(Standing { durable: 9, ..STANDING }, restarted));
}
