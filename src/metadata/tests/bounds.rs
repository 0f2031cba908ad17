//! What is bounded stays so, and what can't be read is refused.

use ruvector_cluster_client::ids::{Epoch, NodeId, Revision, ShardId};

use super::super::*;

fn enveloped(command: Command, key: Option<&str>) -> Envelope {
    let key = key.map(|key| RequestKey { key: key.to_owned(), fingerprint: "f".to_owned() });
    Envelope { version: COMMAND_VERSION, actor: "client".to_owned(), key, command }
}

fn founded(num_shards: u32) -> Metadata {
    let settings = Settings {
        num_shards,
        replication_factor: 1,
        failure_timeout_ms: 5_000,
        lease_ms: 4_000,
        heartbeat_interval_ms: 1_000,
    };
    let mut state = Metadata::new();
    let found = Command::Found { cluster_id: "c1".to_owned(), settings };
    apply(&mut state, 1, 1, &enveloped(found, None));
    state
}

fn registration(node: &str) -> Register {
    Register {
        node: NodeId::new(node).unwrap(),
        addr: "127.0.0.1:1".to_owned(),
        store_id: "s1".to_owned(),
        zone: None,
        rack: None,
        labels: std::collections::BTreeMap::new(),
        capacity: None,
        capacity_bytes: None,
        accept_data_loss: false,
        lease_over_of: None,
        if_match: None,
    }
}

fn register(state: &mut Metadata, index: u64, node: &str) {
    apply(state, index, index, &enveloped(Command::Register(registration(node)), None));
}

fn assign(shard: u32, epoch: u64, node: &str) -> Change {
    let primary = NodeId::new(node).unwrap();
    Change::Assign { shard: ShardId(shard), if_epoch: Epoch(epoch), primary, replicas: Vec::new() }
}

#[test]
fn a_registration_of_a_row_that_moved_on_is_refused_and_a_repeated_one_is_answered_again() {
    let mut state = founded(1);
    register(&mut state, 2, "a");
    let seen = Command::Register(Register { if_match: Some(Revision(2)), ..registration("a") });
    let first = apply(&mut state, 3, 3, &enveloped(seen.clone(), Some("k")));
    assert!(first.outcome.result.is_ok());
    assert_eq!(apply(&mut state, 4, 4, &enveloped(seen.clone(), Some("k"))).outcome, first.outcome);
    let late = apply(&mut state, 5, 5, &enveloped(seen, Some("other")));
    assert_eq!(late.outcome.result.unwrap_err().code, RejectionCode::PreconditionFailed);
}

/// A data node that registered a moment before the cluster was founded was told so for as long as it repeated its request:
/// for ever, since it repeats one that was not answered with a final refusal.
#[test]
fn a_registration_before_the_founding_is_not_refused_again_after_it() {
    let mut state = Metadata::new();
    let early = enveloped(Command::Register(registration("a")), Some("k"));
    let refused = apply(&mut state, 1, 1, &early).outcome.result.unwrap_err();
    assert_eq!(refused.code, RejectionCode::Founding);
    let settings = founded(1).founded().unwrap().settings.clone();
    let found = Command::Found { cluster_id: "c1".to_owned(), settings };
    apply(&mut state, 2, 2, &enveloped(found, None));
    assert!(apply(&mut state, 3, 3, &early).outcome.result.is_ok());
}

#[test]
fn a_command_has_at_most_a_thousand_changes() {
    let mut state = founded(2_000);
    register(&mut state, 2, "a");
    let all =
        |count| Command::Coordinate { changes: (0..count).map(|shard| assign(shard, 0, "a")).collect() };
    let refused = apply(&mut state, 3, 3, &enveloped(all(1_001), None));
    assert_eq!(refused.outcome.result.unwrap_err().code, RejectionCode::Invalid);
    assert_eq!((refused.outcome.revision, refused.changes), (Revision(2), Vec::new()));
    apply(&mut state, 4, 4, &enveloped(all(1_000), None));
    assert_eq!(state.primaries_of(&NodeId::new("a").unwrap()), 1_000);
}

#[test]
fn no_row_is_64_kib_long_even_where_a_thousand_refusals_are_remembered() {
    let mut state = founded(1_000);
    let ask = |shard| NewMigration {
        shard: ShardId(shard),
        kind: None,
        from: None,
        to: NodeId::new(&"n".repeat(64)).ok(),
        if_epoch: None,
        reason: "r".repeat(9_000),
    };
    let migrate = Command::Migrate { migrations: (0..1_000).map(ask).collect(), plan: None };
    let envelope = enveloped(migrate, Some("k1"));
    let applied = apply(&mut state, 2, 2, &envelope);
    assert!(applied.rows.len() > 2);
    assert!(state.to_rows().all(|(_, value)| value.len() < 64 * 1024));
    let mut again = Metadata::from_rows(state.to_rows()).unwrap();
    assert_eq!(apply(&mut again, 3, 3, &envelope).outcome, applied.outcome);
}

#[test]
fn events_are_kept_to_a_bound_and_the_rest_is_said_to_be_compacted() {
    let mut state = founded(1);
    for index in 2..12_002 {
        let paused = index % 2 == 0;
        apply(&mut state, index, index, &enveloped(Command::SetPaused { paused }, None));
    }
    assert_eq!(state.events(Revision(0), usize::MAX).count(), 10_000);
    assert_eq!(state.events_compacted_below(), Revision(2_001));
    assert_eq!(state.events(Revision(2_001), 1).next().unwrap().revision, Revision(2_002));
    assert_eq!(check::check(&state), []);
}

#[test]
fn a_delta_from_before_a_restart_is_refused_and_the_whole_is_told() {
    let mut state = founded(3);
    register(&mut state, 2, "a");
    let both = Command::Coordinate { changes: vec![assign(0, 0, "a"), assign(1, 0, "a")] };
    apply(&mut state, 3, 3, &enveloped(both, None));
    apply(&mut state, 4, 4, &enveloped(Command::Coordinate { changes: vec![assign(2, 0, "a")] }, None));
    let a = NodeId::new("a").unwrap();
    let delta = view::assignments_since(&state, &a, Revision(3)).unwrap().unwrap();
    assert_eq!(delta.assignments.iter().map(|a| a.shard).collect::<Vec<_>>(), [ShardId(2)]);
    let restarted = Metadata::from_rows(state.to_rows()).unwrap();
    let refused = view::assignments_since(&restarted, &a, Revision(3)).unwrap_err();
    assert_eq!(refused.known_since, Revision(4));
    let known = view::assignments_since(&restarted, &a, Revision(4)).unwrap().unwrap();
    assert_eq!(known.assignments, []);
    assert_eq!(view::assignments(&restarted, &a).unwrap().assignments.len(), 3);
}

#[test]
fn rows_that_are_not_of_this_format_are_refused_by_name() {
    let rows = |key: &str, value: &[u8]| vec![(key.as_bytes().to_vec(), value.to_vec())];
    for (key, value, wanted) in [
        ("head", &b"\x02{}"[..], "row head has format Some(2)"),
        ("head", b"", "row head has format None"),
        ("head", b"\x01{", "row head can't be read"),
        ("z/1", b"\x01{}", "row z/1 is of no kind"),
        ("k/1", b"\x01{}", "row k/1 is of no kind"),
    ] {
        let refused = Metadata::from_rows(rows(key, value)).unwrap_err().to_string();
        assert!(refused.starts_with(wanted), "{refused}");
    }
    let orphan = founded(1).to_rows().filter(|(key, _)| key == b"head");
    let json = serde_json::to_vec(&ShardRow::unassigned(ShardId(9))).unwrap();
    let shard = (b"s/9".to_vec(), [&[1], &json[..]].concat());
    let refused = Metadata::from_rows(orphan.chain([shard])).unwrap_err().to_string();
    assert!(refused.contains("belongs to nothing"), "{refused}");
}

#[test]
fn entries_from_before_conditions_and_plans_are_read() {
    let read = |json: &str| serde_json::from_str::<Command>(json).unwrap();
    let wished = Command::SetIntent { node: NodeId::new("a").unwrap(), if_match: None, wish: Wish::Drain };
    assert_eq!(read(r#"{"type": "set_intent", "node": "a", "wish": "drain"}"#), wished);
    let none = Command::Migrate { migrations: Vec::new(), plan: None };
    assert_eq!(read(r#"{"type": "migrate", "migrations": []}"#), none);
}
