//! The table's own rules: that it is complete, and that what the witness looks for is found when it is there.

use ruvector_cluster::client::ids::{Epoch, Incarnation, MigrationId, NodeId, Revision, ShardId};
use ruvector_cluster::client::wire::{MigrationKind, Phase};
use ruvector_cluster::metadata::{Metadata, MigrationRow, ShardRow};

use super::expected::expected;
use super::witness::{Watched, wrong_end, wrong_shard, wrong_step};
use super::*;

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn row(phase: Phase) -> MigrationRow {
    MigrationRow {
        id: MigrationId(1),
        shard: ShardId(0),
        kind: MigrationKind::Move,
        from: Some(node("a")),
        to: Some(node("d")),
        epoch: Epoch(1),
        phase,
        target_ready: false,
        primary_ready: false,
        target_incarnation: Some(Incarnation(1)),
        taken_revision: None,
        attempts: 0,
        reason: String::new(),
        by_operator: true,
        error: None,
        created_ms: 0,
        started_ms: None,
        updated_ms: 0,
        revision: Revision(1),
    }
}

fn shard(epoch: u64, primary: &str) -> ShardRow {
    ShardRow {
        epoch: Epoch(epoch),
        primary: Some(node(primary)),
        in_sync: vec![node(primary)],
        ..ShardRow::unassigned(ShardId(0))
    }
}

#[test]
fn every_cell_has_its_place_and_its_right_ends() {
    let cells = Cell::all();
    assert_eq!(cells.len(), 526);
    for fault in Fault::ALL {
        assert!(cells.iter().any(|cell| cell.fault == *fault), "{fault:?}");
    }
    for kind in Kind::ALL {
        for stage in kind.stages() {
            let of_stage = cells.iter().filter(|cell| cell.kind == *kind && cell.stage == *stage);
            assert!(of_stage.count() >= 13, "{kind:?} {stage:?}");
        }
    }
    assert!(cells.iter().all(|cell| !expected(*cell).is_empty()));
    let names: std::collections::BTreeSet<String> = cells.iter().map(Cell::to_string).collect();
    assert_eq!(names.len(), cells.len());
}

#[test]
fn phases_out_of_order_are_found() {
    let step = |before: Phase, now: Phase| wrong_step(&row(before), &row(now)).is_some();
    assert!(!step(Phase::Queued, Phase::Preparing));
    assert!(!step(Phase::Preparing, Phase::Copying));
    assert!(step(Phase::Preparing, Phase::Admitting));
    assert!(step(Phase::Copying, Phase::HandingOver));
    assert!(step(Phase::Done, Phase::Aborted));
    assert!(step(Phase::Copying, Phase::Preparing), "not counted");
    let counted = MigrationRow { attempts: 1, ..row(Phase::Preparing) };
    assert_eq!(wrong_step(&row(Phase::Copying), &counted), None);
    assert!(wrong_step(&counted, &row(Phase::Copying)).is_some(), "the count fell");
}

#[test]
fn an_epoch_that_stays_or_falls_and_a_kept_slot_are_found() {
    let state = Metadata::new();
    let rules = |before: &ShardRow, row: &ShardRow| -> Vec<&'static str> {
        wrong_shard(Some(before), row, &state).into_iter().map(|violation| violation.rule).collect()
    };
    assert_eq!(rules(&shard(1, "a"), &shard(2, "b")), Vec::<&str>::new());
    assert_eq!(rules(&shard(1, "a"), &shard(1, "b")), ["epochs"]);
    assert_eq!(rules(&shard(2, "a"), &shard(1, "a")), ["epochs"]);
    let empty = ShardRow { in_sync: Vec::new(), ..shard(1, "a") };
    assert_eq!(rules(&shard(1, "a"), &empty), ["a copy is left"]);
    let taken = ShardRow { migration: Some(MigrationId(7)), ..shard(1, "a") };
    assert_eq!(rules(&shard(1, "a"), &taken), ["slot freed"]);
}

#[test]
fn a_migration_that_is_called_done_and_is_not_and_one_aborted_without_a_word_are_found() {
    // A founded cluster whose shard has no copies: nobody took anything.
    let mut state = Metadata::new();
    let settings = ruvector_cluster::metadata::Settings {
        num_shards: 1,
        replication_factor: 3,
        failure_timeout_ms: 1_000,
        lease_ms: 800,
        heartbeat_interval_ms: 150,
    };
    let command = ruvector_cluster::metadata::Command::Found { cluster_id: "c".to_owned(), settings };
    let version = ruvector_cluster::metadata::COMMAND_VERSION;
    let envelope =
        ruvector_cluster::metadata::Envelope { version, actor: "client".to_owned(), key: None, command };
    ruvector_cluster::metadata::apply(&mut state, 1, 1, &envelope);
    let watched = Watched { id: MigrationId(1), kind: Kind::MovePrimary, epoch: Epoch(1) };
    assert_eq!(wrong_end(&watched, &row(Phase::Done), &state).len(), 1);
    assert_eq!(wrong_end(&watched, &row(Phase::Aborted), &state).len(), 1);
    let told = MigrationRow { error: Some("the target is down".to_owned()), ..row(Phase::Aborted) };
    assert_eq!(wrong_end(&watched, &told, &state), []);
}

/// The whole table is run by scripts/simulate.sh, on a faster build; of each kind one cell is run here.
#[test]
fn some_cells_end_as_they_may() {
    let cells = [
        (Kind::MovePrimary, Stage::HandingOver, Fault::PrimaryGone),
        (Kind::MoveReplica, Stage::Copying, Fault::TargetRestarts),
        (Kind::Promote, Stage::Queued, Fault::Cancelled),
        (Kind::Add, Stage::Admitting, Fault::TargetRestarts),
        (Kind::Remove, Stage::CleaningDone, Fault::LeaderKilled),
    ];
    for (kind, stage, fault) in cells {
        let report = run(Cell { kind, stage, fault }, 0, false);
        assert!(report.is_right(), "{report:#?}");
    }
}
