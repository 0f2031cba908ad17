//! The rules of data operations, each broken once.

use ruvector_cluster_client::ids::{Epoch, NodeId, Position, ShardId};

use super::super::data::{
    LOST, MALFORMED, NOT_READ_BACK, OLD_EPOCH, ORDER, PHANTOM, POSITIONS, TWO_PRIMARIES, WRITE_ORDER, check,
    check_read_back,
};
use super::super::history::{DataAct, DataOp, DataRead, DataWriteOutcome, Span};
use super::super::wgl;
use super::{assert_broken, assert_kept};

fn at(epoch: u64, n: u64) -> Position {
    Position { epoch: Epoch(epoch), n }
}

/// Unless it says otherwise, `d<epoch>` is the primary.
fn primary(epoch: u64) -> NodeId {
    NodeId::new(&format!("d{epoch}")).unwrap()
}

fn op(call: u64, returned: u64, key: &str, act: DataAct) -> DataOp {
    DataOp { process: 1, span: Span::new(call, returned), shard: ShardId(0), key: String::from(key), act }
}

fn write(call: u64, returned: u64, key: &str, value: &str, outcome: DataWriteOutcome) -> DataOp {
    op(call, returned, key, DataAct::Write { value: String::from(value), outcome })
}

fn acked(call: u64, returned: u64, key: &str, value: &str, position: Position) -> DataOp {
    let by = primary(position.epoch.0);
    write(call, returned, key, value, DataWriteOutcome::Acknowledged { by, position })
}

fn read(call: u64, returned: u64, key: &str, value: Option<&str>, epoch: u64) -> DataOp {
    let value = value.map(String::from);
    let read = DataRead { by: primary(epoch), epoch: Epoch(epoch), value, position: None };
    op(call, returned, key, DataAct::Read(Some(read)))
}

fn placed(mut read: DataOp, position: Position) -> DataOp {
    if let DataAct::Read(Some(read)) = &mut read.act {
        read.position = Some(position);
    }
    read
}

fn assert_searched(ops: &[DataOp], linearizable: bool) {
    assert_eq!(wgl::check_data(ops, wgl::Bounds::default()).is_empty(), linearizable);
}

#[test]
fn writes_and_reads_across_epochs_are_accepted() {
    let ops = [
        read(1, 2, "k", None, 1),
        acked(3, 6, "k", "a", at(1, 2)),
        acked(4, 7, "l", "b", at(1, 1)),
        write(8, 9, "k", "c", DataWriteOutcome::Unknown),
        placed(read(10, 11, "k", Some("a"), 1), at(1, 2)),
        placed(read(12, 13, "k", Some("c"), 2), at(1, 3)),
        acked(14, 15, "k", "d", at(3, 4)),
        write(16, 17, "k", "e", DataWriteOutcome::NotDone),
        read(18, 19, "k", Some("d"), 3),
    ];
    assert_kept(&check(&ops));
    assert_searched(&ops, true);
}

#[test]
fn shards_are_judged_apart() {
    let mut other = acked(3, 4, "k", "b", at(1, 1));
    other.shard = ShardId(1);
    assert_kept(&check(&[acked(1, 2, "k", "a", at(2, 1)), other]));
}

#[test]
fn a_position_that_is_given_twice_is_refused() {
    assert_broken(&check(&[acked(1, 3, "k", "a", at(1, 1)), acked(2, 4, "l", "b", at(1, 1))]), &[POSITIONS]);
    // The number goes on counting across epochs.
    assert_broken(&check(&[acked(1, 3, "k", "a", at(1, 1)), acked(2, 4, "l", "b", at(2, 1))]), &[POSITIONS]);
    assert_broken(&check(&[acked(1, 3, "k", "a", at(2, 1)), acked(2, 4, "l", "b", at(1, 2))]), &[POSITIONS]);
}

#[test]
fn a_later_write_at_an_earlier_position_is_refused() {
    assert_broken(
        &check(&[acked(1, 2, "k", "a", at(1, 2)), acked(3, 4, "l", "b", at(1, 1))]),
        &[WRITE_ORDER],
    );
}

#[test]
fn an_acknowledged_write_that_is_lost_is_refused() {
    let writes = [acked(1, 2, "k", "a", at(1, 1)), acked(3, 4, "k", "b", at(1, 2))];
    for value in [Some("a"), None] {
        let ops = [&writes[..], &[read(5, 6, "k", value, 2)]].concat();
        assert_broken(&check(&ops), &[LOST, ORDER]);
        assert_searched(&ops, false);
    }
}

#[test]
fn what_was_read_on_one_key_keeps_what_came_before_it_on_another() {
    // `l` was read at position 2 by 5; `k` at position 1 is not acknowledged yet, but is before it.
    let writes = [acked(1, 20, "k", "a", at(1, 1)), acked(2, 21, "l", "b", at(1, 2))];
    let ops = |value| [&writes[..], &[read(3, 5, "l", Some("b"), 1), read(6, 7, "k", value, 1)]].concat();
    assert_kept(&check(&ops(Some("a"))));
    assert_broken(&check(&ops(None)), &[LOST]);
}

#[test]
fn a_write_of_unknown_outcome_that_was_read_does_not_vanish() {
    let ops = [
        acked(1, 2, "k", "a", at(1, 1)),
        write(3, 4, "k", "b", DataWriteOutcome::Unknown),
        read(5, 6, "k", Some("b"), 1),
        read(7, 8, "k", Some("a"), 2),
    ];
    assert_broken(&check(&ops), &[ORDER]);
    assert_searched(&ops, false);
    let mut told = ops.clone();
    told[2] = placed(told[2].clone(), at(1, 2));
    assert_broken(&check(&told), &[ORDER, LOST]);
}

#[test]
fn a_value_that_was_not_written_is_refused() {
    let reading = |write: DataOp| check(&[write, read(5, 6, "k", Some("a"), 1)]);
    assert_broken(&reading(write(1, 2, "k", "a", DataWriteOutcome::NotDone)), &[PHANTOM, ORDER]);
    assert_broken(&reading(write(1, 2, "k", "b", DataWriteOutcome::Unknown)), &[PHANTOM, ORDER]);
    assert_broken(&reading(write(7, 8, "k", "a", DataWriteOutcome::Unknown)), &[ORDER]);
}

#[test]
fn a_value_under_another_position_than_its_write_has_is_refused() {
    let reading =
        |position| check(&[acked(1, 2, "k", "a", at(1, 1)), placed(read(3, 4, "k", Some("a"), 2), position)]);
    assert_kept(&reading(at(1, 1)));
    assert_broken(&reading(at(1, 2)), &[PHANTOM]);
    let early = placed(read(3, 4, "k", Some("a"), 1), at(2, 1));
    assert_broken(&check(&[write(1, 2, "k", "a", DataWriteOutcome::Unknown), early]), &[PHANTOM]);
}

#[test]
fn an_answer_under_an_epoch_that_ended_before_it_was_asked_is_refused() {
    let first = read(1, 2, "k", None, 2);
    assert_broken(&check(&[first.clone(), read(3, 4, "k", None, 1)]), &[OLD_EPOCH]);
    // Even on another key, and for writes.
    assert_broken(&check(&[first, acked(3, 4, "l", "a", at(1, 1))]), &[OLD_EPOCH]);
    // What was asked in time may be answered late.
    assert_kept(&check(&[read(1, 5, "k", None, 1), read(2, 3, "k", None, 2)]));
}

#[test]
fn two_primaries_of_one_epoch_are_refused() {
    let mut other = read(3, 4, "k", None, 1);
    if let DataAct::Read(Some(read)) = &mut other.act {
        read.by = primary(9);
    }
    assert_broken(&check(&[read(1, 2, "k", None, 1), other]), &[TWO_PRIMARIES]);
}

#[test]
fn a_history_in_which_a_value_names_two_writes_is_refused() {
    let again = write(3, 4, "k", "a", DataWriteOutcome::NotDone);
    assert_broken(&check(&[acked(1, 2, "k", "a", at(1, 1)), again]), &[MALFORMED]);
}

#[test]
fn a_key_that_is_not_read_again_is_named() {
    let ops = [acked(1, 4, "k", "a", at(1, 1)), read(3, 5, "k", Some("a"), 1)];
    assert_broken(&check_read_back(&ops), &[NOT_READ_BACK]);
    assert_kept(&check_read_back(&[&ops[..], &[read(6, 7, "k", Some("a"), 1)]].concat()));
}
