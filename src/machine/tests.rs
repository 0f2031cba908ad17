use ruvector_cluster_client::ids::{NodeId, Revision};

use super::*;
use crate::metadata::{Command, Outcome, Register, Settings};

fn settings() -> Settings {
    Settings {
        num_shards: 4,
        replication_factor: 1,
        failure_timeout_ms: 5_000,
        lease_ms: 4_000,
        heartbeat_interval_ms: 1_000,
    }
}

fn encoded(command: Command) -> Bytes {
    let actor = "client".to_owned();
    encode(&Envelope { version: COMMAND_VERSION, actor, key: None, command }).unwrap()
}

fn register(node: &str) -> Bytes {
    encoded(Command::Register(Register {
        node: NodeId::new(node).unwrap(),
        addr: "127.0.0.1:1".into(),
        store_id: format!("s-{node}"),
        zone: None,
        rack: None,
        labels: Default::default(),
        capacity: None,
        capacity_bytes: None,
        accept_data_loss: false,
        lease_over_of: None,
        if_match: None,
    }))
}

fn founded() -> (Machine, watch::Receiver<Arc<Metadata>>, Arc<ChangeLog>) {
    let (mut machine, state, changes) = Machine::new(None);
    let found = encoded(Command::Found { cluster_id: "c".into(), settings: settings() });
    let outcome: Outcome = decode(&machine.apply(1, 10, &found).outcome).unwrap();
    outcome.result.unwrap();
    machine.publish(1, 10);
    (machine, state, changes)
}

#[test]
fn readers_see_nothing_before_it_is_published() {
    let (mut machine, state, _) = founded();
    machine.apply(2, 20, &register("a"));
    assert_eq!(state.borrow().num_nodes(), 0);
    machine.publish(2, 20);
    assert_eq!(state.borrow().num_nodes(), 1);
}

#[test]
fn changes_are_told_in_order_and_once() {
    let (mut machine, _, changes) = founded();
    machine.apply(2, 20, &register("a"));
    machine.apply(3, 30, &register("b"));
    let told = |since, until| -> Vec<u64> {
        let events = changes.after(Revision(since), Revision(until), 10).unwrap();
        events.iter().map(|e| e.revision().0).collect()
    };
    assert_eq!(told(1, 3), [2, 3]);
    assert_eq!(told(2, 3), [3]);
    assert_eq!(told(1, 2), [2], "what is not published is not told");
    let first = changes.after(Revision(1), Revision(2), 1).unwrap();
    assert!(first[0].json().contains(r#""type":"node","id":"a""#), "{}", first[0].json());
}

#[test]
fn what_led_to_a_restored_state_is_compacted() {
    let (mut machine, _, _) = founded();
    machine.apply(2, 20, &register("a"));
    let rows: Vec<_> = machine.rows().collect();
    let (mut other, state, changes) = Machine::new(None);
    other.restore(2, 20, rows.clone()).unwrap();
    other.publish(2, 20);
    assert_eq!(state.borrow().num_nodes(), 1);
    assert_eq!(other.rows().collect::<Vec<_>>(), rows);
    let compacted = changes.after(Revision(1), Revision(2), 10).unwrap_err();
    assert_eq!(compacted.known_since, Revision(2));
    assert!(changes.after(Revision(2), Revision(2), 10).unwrap().is_empty());
}

#[test]
#[should_panic(expected = "run a build whose `command_version` (GET /version) is at least 2")]
fn an_entry_of_a_newer_version_stops_the_process() {
    let (mut machine, _, _) = founded();
    let command = Command::SetPaused { paused: true };
    let newer = Envelope { version: COMMAND_VERSION + 1, actor: "client".into(), key: None, command };
    machine.apply(2, 20, &encode(&newer).unwrap());
}

/// It was told as not understood, without the version that would understand it.
#[test]
#[should_panic(expected = "command version 7")]
fn a_kind_of_command_that_only_a_newer_version_has_is_told_by_its_version() {
    let (mut machine, _, _) = founded();
    let newer = serde_json::json!({ "version": 7, "actor": "client", "command": { "type": "levitate" } });
    machine.apply(2, 20, &encode(&newer).unwrap());
}

#[test]
#[should_panic(expected = "not understood")]
fn an_unknown_kind_of_command_is_not_skipped() {
    let (mut machine, _, _) = founded();
    let unknown = serde_json::json!({ "version": 1, "actor": "client", "command": { "type": "levitate" } });
    machine.apply(2, 20, &encode(&unknown).unwrap());
}
