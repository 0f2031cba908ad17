use ruvector_cluster_check::history::{
    Change, Consistency, MetadataAct, MetadataOp, MetadataRead, NodeRecord, Seen, Span, WatchItem,
    WatchRecord, WriteOutcome,
};
use ruvector_cluster_client::ids::Revision;

use super::*;

fn write(call: u64, value: &str, revision: Option<u64>) -> MetadataOp {
    let outcome = revision.map_or(WriteOutcome::Unknown, |revision| WriteOutcome::Acknowledged {
        revision: Revision(revision),
    });
    let idempotency = Some(format!("key of {value}"));
    let act = MetadataAct::Write { value: value.into(), if_match: None, idempotency, outcome };
    MetadataOp { process: 1, span: Span::new(call, call + 1), key: "d1".into(), act }
}

fn read(call: u64, value: &str, row: u64, cluster: u64) -> MetadataOp {
    let answer = MetadataRead {
        value: Some(value.into()),
        row_revision: Revision(row),
        cluster_revision: Revision(cluster),
    };
    let act = MetadataAct::Read { consistency: Consistency::Linearizable, answer: Some(answer) };
    MetadataOp { process: 2, span: Span::new(call, call + 1), key: "d1".into(), act }
}

fn watched(revisions: &[u64]) -> WatchRecord {
    let change = |n: &u64| WatchItem::Change(Change { revision: Revision(*n), digests: vec![*n] });
    let items = [WatchItem::Snapshot(Revision(1))].into_iter().chain(revisions.iter().map(change));
    WatchRecord { stream: 1, generation: 1, items: items.collect() }
}

fn state(at: u64, raft_id: u64, hash: u64) -> NodeRecord {
    NodeRecord { at, raft_id, seen: Seen::State { index: 12, hash } }
}

/// Two writes, one of which had no answer and was read, and what all others saw of it.
fn sound() -> History {
    History {
        metadata: vec![write(1, "a", Some(10)), write(3, "b", None), read(5, "b", 12, 12)],
        watches: vec![watched(&[10, 12]), watched(&[10, 12])],
        nodes: vec![state(7, 1, 5), state(8, 2, 5)],
        ..History::default()
    }
}

#[track_caller]
fn assert_found(history: &History, rule: &str) {
    let found = judge(history);
    assert!(found.iter().any(|violation| violation.rule == rule), "{rule} not in {found:?}");
}

#[test]
fn a_sound_history_is_accepted() {
    assert_eq!(judge(&sound()), []);
}

#[test]
fn a_lost_write_is_found_with_and_without_revisions() {
    let mut history = sound();
    history.metadata.push(write(9, "c", Some(14)));
    history.metadata.push(read(11, "b", 12, 15));
    assert_found(&history, linearizable::VALUE);
    assert_found(&history, wgl::NOT_LINEARIZABLE);
}

#[test]
fn a_write_that_took_effect_twice_is_found() {
    let mut history = sound();
    history.metadata.push(write(9, "a", Some(14)));
    assert_found(&history, linearizable::REPEAT_DIFFERS);
}

#[test]
fn an_acknowledged_write_that_no_watch_told_is_found() {
    let mut history = sound();
    history.watches = vec![watched(&[12]), watched(&[12])];
    assert_found(&history, watch::GAP);
}

#[test]
fn states_that_differ_at_one_revision_are_found() {
    let mut history = sound();
    history.nodes.push(state(9, 3, 6));
    assert_found(&history, consensus::STATE_DIFFERS);
}
