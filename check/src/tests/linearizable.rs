//! The rules of metadata operations, each broken once.

use ruvector_cluster_client::ids::Revision;

use super::super::history::{Consistency, MetadataAct, MetadataOp, MetadataRead, Span, WriteOutcome};
use super::super::linearizable::{
    CONDITION, MALFORMED, NOT_READ_BACK, PHANTOM, REPEAT_DIFFERS, REVISION_TWICE, STALE, VALUE, WRITE_ORDER,
    check, check_read_back,
};
use super::{assert_broken, assert_kept};

fn op(call: u64, returned: u64, act: MetadataAct) -> MetadataOp {
    MetadataOp { process: 1, span: Span::new(call, returned), key: String::from("k"), act }
}

fn write(call: u64, returned: u64, value: &str, outcome: WriteOutcome) -> MetadataOp {
    let act = MetadataAct::Write { value: String::from(value), if_match: None, idempotency: None, outcome };
    op(call, returned, act)
}

fn acked(call: u64, returned: u64, value: &str, revision: u64) -> MetadataOp {
    write(call, returned, value, done(revision))
}

fn done(revision: u64) -> WriteOutcome {
    WriteOutcome::Acknowledged { revision: Revision(revision) }
}

fn refused() -> WriteOutcome {
    WriteOutcome::Refused { code: String::from("precondition_failed") }
}

fn read(call: u64, returned: u64, value: Option<&str>, row: u64, cluster: u64) -> MetadataOp {
    let answer = MetadataRead {
        value: value.map(String::from),
        row_revision: Revision(row),
        cluster_revision: Revision(cluster),
    };
    op(call, returned, MetadataAct::Read { consistency: Consistency::Linearizable, answer: Some(answer) })
}

fn stale(mut read: MetadataOp) -> MetadataOp {
    if let MetadataAct::Read { consistency, .. } = &mut read.act {
        *consistency = Consistency::Stale;
    }
    read
}

fn keyed(mut write: MetadataOp, key: &str) -> MetadataOp {
    if let MetadataAct::Write { idempotency, .. } = &mut write.act {
        *idempotency = Some(String::from(key));
    }
    write
}

fn conditional(mut write: MetadataOp, seen: u64) -> MetadataOp {
    if let MetadataAct::Write { if_match, .. } = &mut write.act {
        *if_match = Some(Revision(seen));
    }
    write
}

#[test]
fn writes_and_reads_in_the_order_of_revisions_are_accepted() {
    assert_kept(&check(&[
        read(1, 2, None, 0, 3),
        acked(3, 6, "a", 5),
        acked(4, 7, "b", 4),
        read(8, 9, Some("a"), 5, 5),
        // The row changed in another respect, at 8.
        read(10, 11, Some("a"), 8, 9),
        stale(read(12, 13, Some("b"), 4, 4)),
        stale(read(14, 15, None, 0, 2)),
    ]));
}

#[test]
fn a_revision_that_two_writes_share_is_refused() {
    assert_broken(&check(&[acked(1, 3, "a", 5), acked(2, 4, "b", 5)]), &[REVISION_TWICE]);
}

#[test]
fn a_later_write_with_a_lower_revision_is_refused() {
    assert_broken(&check(&[acked(1, 2, "a", 5), acked(3, 4, "b", 4)]), &[WRITE_ORDER]);
    let read_first = [read(1, 2, None, 0, 7), acked(3, 4, "b", 6)];
    assert_broken(&check(&read_first), &[WRITE_ORDER, VALUE]);
}

#[test]
fn a_linearizable_read_that_misses_an_acknowledged_write_is_refused() {
    let writes = [acked(1, 2, "a", 4), acked(3, 4, "b", 5)];
    let old = read(5, 6, Some("a"), 4, 4);
    let then = |read: MetadataOp| check(&[&writes[..], &[read]].concat());
    assert_broken(&then(old.clone()), &[STALE]);
    assert_kept(&then(stale(old)));
}

#[test]
fn a_linearizable_read_behind_an_earlier_read_is_refused() {
    let early = acked(1, 10, "a", 4);
    let reads = [read(2, 3, Some("a"), 4, 4), read(4, 5, None, 0, 3)];
    assert_broken(&check(&[&[early][..], &reads].concat()), &[STALE]);
}

#[test]
fn a_value_that_its_revisions_do_not_have_is_refused() {
    let writes = [acked(1, 2, "a", 4), acked(3, 4, "b", 5)];
    for wrong in [
        read(5, 6, Some("a"), 4, 5),
        read(5, 6, Some("a"), 5, 5),
        read(5, 6, None, 0, 5),
        read(5, 6, Some("b"), 4, 5),
        read(5, 6, Some("b"), 6, 5),
        stale(read(5, 6, Some("b"), 4, 4)),
    ] {
        assert_broken(&check(&[&writes[..], &[wrong]].concat()), &[VALUE]);
    }
}

#[test]
fn a_value_that_was_not_written_is_refused() {
    let early = [write(7, 8, "a", WriteOutcome::Unknown), read(5, 6, Some("a"), 4, 4)];
    assert_broken(&check(&early), &[PHANTOM, WRITE_ORDER]);
    let absent = |write: MetadataOp| {
        assert_broken(&check(&[write, read(5, 6, Some("a"), 4, 4)]), &[PHANTOM, VALUE]);
    };
    absent(write(1, 2, "a", refused()));
    absent(write(1, 2, "a", WriteOutcome::NotDone));
    absent(write(1, 2, "b", WriteOutcome::Unknown));
}

#[test]
fn a_write_of_unknown_outcome_takes_effect_once_or_never() {
    let unknown = write(1, 2, "a", WriteOutcome::Unknown);
    assert_kept(&check(&[unknown.clone(), read(3, 4, None, 0, 3)]));
    let late = [unknown.clone(), read(3, 4, None, 0, 3), read(5, 6, Some("a"), 5, 5)];
    assert_kept(&check(&late));
    let twice = [&late[..], &[acked(7, 8, "b", 6), read(9, 10, Some("a"), 7, 7)]].concat();
    assert_broken(&check(&twice), &[VALUE]);
    let vanished = [&late[..], &[read(7, 8, None, 0, 6)]].concat();
    assert_broken(&check(&vanished), &[VALUE]);
}

#[test]
fn a_repetition_takes_effect_once_and_gets_the_same_answer() {
    let first = keyed(write(1, 2, "a", WriteOutcome::Unknown), "i");
    let again = |outcome| keyed(write(3, 4, "a", outcome), "i");
    let third = |outcome| keyed(write(7, 8, "a", outcome), "i");
    let read_between = read(5, 6, Some("a"), 4, 4);
    assert_kept(&check(&[first.clone(), again(done(4)), read_between.clone(), third(done(4))]));
    assert_broken(&check(&[first.clone(), again(done(4)), third(done(9))]), &[REPEAT_DIFFERS]);
    assert_broken(&check(&[first.clone(), again(done(4)), third(refused())]), &[REPEAT_DIFFERS]);
    assert_broken(&check(&[first.clone(), again(refused()), third(done(4))]), &[REPEAT_DIFFERS]);
    let code = WriteOutcome::Refused { code: String::from("not_found") };
    assert_broken(&check(&[first.clone(), again(refused()), third(code)]), &[REPEAT_DIFFERS]);
    // Refused for good, whichever of its requests was said to be unknown.
    assert_broken(&check(&[again(refused()), first, read_between]), &[PHANTOM, VALUE]);
}

#[test]
fn a_history_in_which_a_value_names_two_writes_is_refused() {
    assert_broken(&check(&[acked(1, 2, "a", 4), acked(3, 4, "a", 5)]), &[MALFORMED]);
    let bodies = [keyed(acked(1, 2, "a", 4), "i"), keyed(acked(3, 4, "b", 4), "i")];
    assert_broken(&check(&bodies), &[MALFORMED]);
}

#[test]
fn a_condition_holds_until_its_write() {
    let first = acked(1, 2, "a", 4);
    assert_kept(&check(&[first.clone(), conditional(acked(3, 4, "b", 6), 4)]));
    let between = [first.clone(), acked(3, 4, "b", 5), conditional(acked(5, 6, "c", 6), 4)];
    assert_broken(&check(&between), &[CONDITION]);
    assert_broken(&check(&[first, conditional(acked(3, 4, "b", 6), 7)]), &[CONDITION]);
}

#[test]
fn a_condition_that_held_is_not_refused() {
    let lost = conditional(write(5, 6, "b", refused()), 4);
    let stood = [acked(1, 2, "a", 4), read(3, 4, Some("a"), 4, 4), lost];
    assert_kept(&check(&stood));
    assert_broken(&check(&[&stood[..], &[read(7, 8, Some("a"), 4, 5)]].concat()), &[CONDITION]);
    assert_kept(&check(&[&stood[..], &[read(7, 8, Some("a"), 5, 5)]].concat()));
}

#[test]
fn a_register_that_is_not_read_again_is_named() {
    let ops = [acked(1, 4, "a", 4), read(3, 5, Some("a"), 4, 4)];
    assert_broken(&check_read_back(&ops), &[NOT_READ_BACK]);
    let reread = |read: MetadataOp| [&ops[..], &[read]].concat();
    assert_broken(&check_read_back(&reread(stale(read(6, 7, Some("a"), 4, 4)))), &[NOT_READ_BACK]);
    assert_kept(&check_read_back(&reread(read(6, 7, Some("a"), 4, 4))));
}
