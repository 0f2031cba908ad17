//! What a restore makes of any state, and what a suspended cluster does and refuses.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::{Epoch, Incarnation, NodeId};
use ruvector_cluster_client::wire::{Phase, ShardStatus};

use super::super::check::{check, check_step};
use super::super::*;
use super::states_of;

fn rows_of(state: &Metadata) -> Vec<(Vec<u8>, Vec<u8>)> {
    state.to_rows().collect()
}

fn enveloped(command: Command) -> Envelope {
    Envelope { version: COMMAND_VERSION, actor: "client".to_owned(), key: None, command }
}

fn run(state: &mut Metadata, command: Command) -> Result<Answer, Rejection> {
    let (before, index) = (state.clone(), state.revision().0 + 1);
    let envelope = enveloped(command);
    let result = apply(state, index, index, &envelope).outcome.result;
    assert_eq!(check(state), [], "after {envelope:?}");
    assert_eq!(check_step(&before, state, &envelope.command), [], "after {envelope:?}");
    assert_eq!(rows_of(&Metadata::from_rows(rows_of(state)).unwrap()), rows_of(state));
    result
}

/// As the data nodes' processes do: each registers, with its own store.
fn register_all(state: &mut Metadata) {
    let rows: Vec<NodeRow> = state.nodes().cloned().collect();
    for row in rows {
        run(state, registration(&row, &row.store_id.clone())).unwrap();
    }
}

fn registration(row: &NodeRow, store_id: &str) -> Command {
    Command::Register(Register {
        node: row.id.clone(),
        addr: row.addr.clone(),
        store_id: store_id.to_owned(),
        zone: None,
        rack: None,
        labels: BTreeMap::new(),
        capacity: None,
        capacity_bytes: None,
        accept_data_loss: false,
        lease_over_of: Some(row.incarnation),
        if_match: None,
    })
}

fn heard(state: &Metadata) -> Vec<HeardNode> {
    state.nodes().map(|row| HeardNode { node: row.id.clone(), incarnation: row.incarnation }).collect()
}

/// Everybody was heard; each assigned shard is led by its first copy.
fn resume(state: &Metadata) -> Resume {
    let choices = state.shards().filter_map(|row| {
        Some(Choice::Lead {
            shard: row.id,
            if_epoch: row.epoch,
            primary: row.primary.clone()?,
            replicas: row.replicas.iter().take(state.replication_factor() - 1).cloned().collect(),
        })
    });
    Resume {
        heard: heard(state),
        without: Vec::new(),
        accept_data_loss: false,
        choices: choices.collect(),
        last: true,
    }
}

/// A state in which shards are opened.
fn opened() -> Metadata {
    let states = states_of(3, 600, 1);
    let most = states.iter().max_by_key(|state| state.shards().filter(|row| row.was_opened()).count());
    let restored = most.unwrap().restored_as("c2").unwrap().unwrap();
    assert!(restored.shards().any(|row| row.was_opened()));
    restored
}

#[test]
fn any_state_is_restored_to_one_that_keeps_the_invariants_and_counts_on_above() {
    let mut seen = (0, 0, 0);
    for state in (0..6).flat_map(|seed| states_of(seed, 500, 7)) {
        let restored = state.restored_as("c2").unwrap().unwrap();
        assert_eq!(check(&restored), []);
        assert_eq!(rows_of(&Metadata::from_rows(rows_of(&restored)).unwrap()), rows_of(&restored));
        let (was, now) = (state.founded().unwrap(), restored.founded().unwrap());
        assert_eq!((now.cluster_id.as_str(), now.generation), ("c2", was.generation + 1));
        assert_eq!(now.settings, was.settings);
        assert!(restored.revision().0 > state.revision().0 + RESTORE_STEP);
        assert!(restored.is_suspended() && restored.retiring().count() == 0);
        assert_eq!(restored.active_migrations().count(), 0);
        let aborted = |row: &MigrationRow| restored.migration(row.id).unwrap().phase == Phase::Aborted;
        assert!(state.active_migrations().all(aborted));
        for (was, now) in state.nodes().zip(restored.nodes()) {
            assert_eq!((&now.id, &now.store_id), (&was.id, &was.store_id));
            assert!(now.incarnation.0 >= was.incarnation.0 + RESTORE_STEP);
            assert_eq!(view::assignments(&restored, &now.id).unwrap().assignments, []);
        }
        for (was, now) in state.shards().zip(restored.shards()) {
            assert!(was.primary.is_none() || now.epoch.0 >= was.epoch.0 + RESTORE_STEP);
            let served = [ShardStatus::Unavailable, ShardStatus::Unassigned];
            assert!(served.contains(&restored.shard_status(now)), "{now:?}");
        }
        seen.0 += state.active_migrations().count();
        seen.1 += state.retiring().count();
        seen.2 += state.shards().filter(|row| row.was_opened()).count();
    }
    assert!(seen.0 > 50 && seen.1 > 50 && seen.2 > 50, "{seen:?}");
}

#[test]
fn a_restored_cluster_serves_once_it_is_resumed_and_can_be_restored_again() {
    let mut resumed = 0;
    for state in (0..4).flat_map(|seed| states_of(seed, 400, 23)) {
        let mut restored = state.restored_as("c2").unwrap().unwrap();
        register_all(&mut restored);
        let before = restored.clone();
        let ask = resume(&restored);
        let led = ask.choices.len();
        run(&mut restored, Command::Resume(ask)).unwrap();
        assert!(!restored.is_suspended());
        for row in restored.shards().filter(|row| row.primary.is_some()) {
            assert_eq!(Some(&row.in_sync), row.primary.clone().map(|primary| vec![primary]).as_ref());
            assert!(row.epoch > before.shard(row.id).unwrap().epoch && !row.lost);
        }
        for node in restored.nodes() {
            // Whoever was told that nothing is assigned is not told by a delta.
            assert!(restored.assignments_changed(&node.id, before.revision()));
            view::assignments_since(&restored, &node.id, before.revision()).unwrap_err();
            let assigned = view::assignments(&restored, &node.id).unwrap().assignments.len();
            assert_eq!(assigned, restored.shards_of(&node.id).count());
        }
        resumed += led;
        let again = restored.restored_as("c3").unwrap().unwrap();
        assert_eq!(check(&again), []);
        assert_eq!(again.founded().unwrap().generation, 3);
        assert_eq!(again.epoch_floor(), Epoch(2 * RESTORE_STEP));
        // Twice is harmless.
        let revision = restored.revision();
        let ask = resume(&restored);
        run(&mut restored, Command::Resume(ask)).unwrap();
        assert_eq!(restored.revision(), revision);
    }
    assert!(resumed > 20, "{resumed}");
}

#[test]
fn while_suspended_nothing_is_decided_and_data_nodes_come_back() {
    let mut state = opened();
    let node = state.nodes().next().unwrap().clone();
    let shard = state.shards().find(|row| row.was_opened()).unwrap().clone();
    let changes = vec![Change::Down { node: node.id.clone(), incarnation: node.incarnation }];
    for refused in [
        Command::Coordinate { changes },
        Command::DeleteNode { node: node.id.clone(), if_match: None },
        Command::ForcePrimary { shard: shard.id, node: node.id.clone() },
        Command::Migrate { migrations: Vec::new(), plan: None },
        Command::Reports { node: node.id.clone(), incarnation: node.incarnation, reports: Vec::new() },
    ] {
        assert_eq!(run(&mut state, refused).unwrap_err().code, RejectionCode::Suspended);
    }
    register_all(&mut state);
    assert_eq!(state.shard(shard.id), Some(&shard), "what it holds is decided when all are back");
    // A disk that was lost meanwhile: another store takes the name, and nothing is decided by that either.
    let node = state.node(&node.id).unwrap().clone();
    run(&mut state, registration(&node, "another")).unwrap();
    assert_eq!(state.node(&node.id).unwrap().incarnation, Incarnation(node.incarnation.0 + 1));
    assert_eq!(state.shard(shard.id), Some(&shard));
    run(&mut state, Command::SetPaused { paused: true }).unwrap();
}

#[test]
fn a_resume_is_refused_that_leaves_out_a_node_a_run_or_a_shard() {
    let mut state = opened();
    register_all(&mut state);
    let untouched = rows_of(&state);
    let whole = resume(&state);
    let refuse = |change: &dyn Fn(&mut Resume), code| {
        let mut ask = whole.clone();
        change(&mut ask);
        let mut state = state.clone();
        assert_eq!(run(&mut state, Command::Resume(ask)).unwrap_err().code, code);
        let heads = |(key, _): &(Vec<u8>, Vec<u8>)| key != b"head";
        assert!(rows_of(&state).into_iter().filter(heads).eq(untouched.clone().into_iter().filter(heads)));
    };
    refuse(&|ask| drop(ask.heard.remove(0)), RejectionCode::NodesMissing);
    refuse(&|ask| ask.heard[0].incarnation = Incarnation(1), RejectionCode::StaleIncarnation);
    refuse(
        &|ask| ask.choices.retain(|choice| !matches!(state.shard(choice.shard()), Some(row) if row.lost)),
        RejectionCode::Conflict,
    );
    refuse(&|ask| ask.choices.push(ask.choices[0].clone()), RejectionCode::Invalid);
    let opened = state.shards().find(|row| row.lost).unwrap();
    let found = Choice::Found { shard: opened.id, if_epoch: opened.epoch };
    let instead = |ask: &mut Resume| {
        ask.choices.retain(|choice| choice.shard() != opened.id);
        ask.choices.push(found.clone());
    };
    refuse(&instead, RejectionCode::LastCopy);
    // With leave the shard begins anew.
    let mut ask = whole.clone();
    instead(&mut ask);
    ask.accept_data_loss = true;
    let mut forced = state.clone();
    run(&mut forced, Command::Resume(ask)).unwrap();
    assert!(forced.shard(opened.id).unwrap().founding);
    // A node that is given up need not be heard, and is down.
    let mut ask = whole.clone();
    let gone = ask.heard.remove(0).node;
    ask.choices.retain(|choice| match choice {
        Choice::Lead { primary, .. } => *primary != gone,
        Choice::Found { .. } => true,
    });
    ask.without.push(gone.clone());
    ask.last = false;
    let mut without = state.clone();
    run(&mut without, Command::Resume(ask)).unwrap();
    assert!(!without.is_alive(&gone) && without.is_suspended());
}

/// What was not heard yet may be heard when the same request comes again.
#[test]
fn a_resume_that_was_refused_is_not_refused_again_under_its_key_once_all_were_heard() {
    let mut state = opened();
    register_all(&mut state);
    let key = Some(RequestKey { key: "k".to_owned(), fingerprint: "f".to_owned() });
    let ask = |state: &mut Metadata, ask: Resume| {
        let index = state.revision().0 + 1;
        let envelope = Envelope { key: key.clone(), ..enveloped(Command::Resume(ask)) };
        apply(state, index, index, &envelope).outcome
    };
    let whole = resume(&state);
    let early = Resume { heard: whole.heard[1..].to_vec(), ..whole.clone() };
    let refused = ask(&mut state, early.clone());
    assert_eq!(refused.result.unwrap_err().code, RejectionCode::NodesMissing);
    assert_eq!(state.earlier_outcome(key.as_ref().unwrap()), None);
    let done = ask(&mut state, whole);
    assert_eq!(done.result, Ok(Answer::Done));
    run(&mut state, Command::SetPaused { paused: true }).unwrap();
    assert_eq!(ask(&mut state, early), done, "and what was carried out is remembered");
    assert!(state.revision() > done.revision);
}

/// Bounds hold before anything is looked at.
#[test]
fn a_resume_with_too_many_nodes_is_refused() {
    let mut state = opened();
    register_all(&mut state);
    let many = |node: &NodeId| vec![node.clone(); 10_001];
    let first = heard(&state).remove(0);
    let without = Resume { without: many(&first.node), ..resume(&state) };
    let heard = Resume { heard: vec![first; 10_001], ..resume(&state) };
    for ask in [without, heard] {
        let refused = run(&mut state, Command::Resume(ask)).unwrap_err();
        assert_eq!(refused.code, RejectionCode::Invalid, "{refused}");
        assert!(refused.detail.contains("too many for one command"), "{refused}");
    }
    assert!(state.is_suspended());
}

/// Positions of the old generation must stay below whatever the restored cluster assigns, also where it never had the shard.
#[test]
fn a_shard_that_the_backup_has_never_seen_assigned_begins_above_the_old_epochs() {
    let first = (0..9).flat_map(|seed| states_of(seed, 60, 1)).find(|state| {
        let never = state.shards().filter(|row| row.primary.is_none()).count();
        state.num_nodes() > 0 && never > 1
    });
    let first = first.expect("nodes, and shards that were never assigned");
    let mut state = first.restored_as("c2").unwrap().unwrap();
    register_all(&mut state);
    let never = state.shards().find(|row| row.primary.is_none()).expect("an unassigned shard").id;
    let held_since = state.nodes().next().unwrap().id.clone();
    let mut ask = resume(&state);
    ask.choices.push(Choice::Lead {
        shard: never,
        if_epoch: Epoch(0),
        primary: held_since.clone(),
        replicas: vec![],
    });
    run(&mut state, Command::Resume(ask)).unwrap();
    let row = state.shard(never).unwrap();
    assert_eq!((row.primary.as_ref(), row.epoch), (Some(&held_since), Epoch(RESTORE_STEP + 1)));
    // And so do those that are assigned later on.
    let other = state.shards().find(|row| row.primary.is_none()).unwrap().id;
    let wish = Wish::EndDrain;
    run(&mut state, Command::SetIntent { node: held_since.clone(), if_match: None, wish }).unwrap();
    let assign = Change::Assign { shard: other, if_epoch: Epoch(0), primary: held_since, replicas: vec![] };
    let answer = run(&mut state, Command::Coordinate { changes: vec![assign] }).unwrap();
    assert_eq!(answer, Answer::Coordinated { changes: vec![Ok(())] });
    assert_eq!(state.shard(other).unwrap().epoch, Epoch(RESTORE_STEP + 1));
}

/// What stands in logs, rows and backups is read by every later version.
#[test]
fn the_row_and_the_command_keep_their_bytes() {
    let state = states_of(1, 5, 1).remove(0).restored_as("c2").unwrap().unwrap();
    let row = state.to_rows().find(|(key, _)| key == b"restored").unwrap().1;
    let golden =
        r#"{"suspended":true,"epoch_floor":4294967296,"backup_cluster_id":"c1","backup_revision":REVISION}"#;
    let backup_revision = state.restored().unwrap().backup_revision.to_string();
    assert_eq!(row[0], 1);
    assert_eq!(String::from_utf8_lossy(&row[1..]), golden.replace("REVISION", &backup_revision));
    let golden = r#"{"version":1,"actor":"client","command":{"type":"resume","heard":[{"node":"a","incarnation":7}],"without":["b"],"accept_data_loss":false,"choices":[{"choice":"lead","shard":1,"if_epoch":4,"primary":"a","replicas":["c"]},{"choice":"found","shard":2,"if_epoch":0}],"last":true}}"#;
    let envelope: Envelope = serde_json::from_str(golden).unwrap();
    assert_eq!(serde_json::to_string(&envelope).unwrap(), golden);
}
