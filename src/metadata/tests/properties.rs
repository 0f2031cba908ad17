//! Any sequence of commands keeps the invariants; rows tell the whole state; a command done twice changes nothing more.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ruvector_cluster_client::ids::{Epoch, Incarnation, MigrationId, NodeId, Revision, ShardId};
use ruvector_cluster_client::wire::{
    Assignment, InSyncMember, InSyncProposal, Intent, MigrationKind, PatchNodeRequest, Phase, Report,
};

use super::super::check::{check, check_step};
use super::super::*;

const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];
const SHARDS: u32 = 3;

/// Choices, taken from a list that proptest shrinks.
struct Dice(std::vec::IntoIter<u16>);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.0.next().unwrap_or(0)) % bound.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    fn node(&mut self) -> NodeId {
        NodeId::new(NODES[self.below(NODES.len())]).unwrap()
    }

    fn of<T: Clone>(&mut self, all: Vec<T>) -> Option<T> {
        let at = self.below(all.len());
        all.get(at).cloned()
    }
}

fn run_of(state: &Metadata, node: &NodeId) -> Incarnation {
    state.node(node).map_or(Incarnation(1), |row| row.incarnation)
}

fn register(state: &Metadata, dice: &mut Dice) -> Command {
    let node = dice.node();
    let other_store = dice.one_in(4);
    let known = state.node(&node).map_or("s1".to_owned(), |row| row.store_id.clone());
    Command::Register(Register {
        addr: format!("{node}:{}", dice.below(2)),
        store_id: if other_store { format!("s{}", dice.below(4)) } else { known },
        zone: None,
        rack: None,
        labels: BTreeMap::new(),
        capacity: None,
        capacity_bytes: None,
        accept_data_loss: dice.one_in(3),
        lease_over_of: (!dice.one_in(3)).then(|| run_of(state, &node)),
        if_match: None,
        node,
    })
}

fn proposal(state: &Metadata, row: &ShardRow, dice: &mut Dice) -> InSyncProposal {
    let target = row.migration.and_then(|id| state.migration(id)).and_then(|m| m.to.clone());
    let mut members: Vec<NodeId> = row.in_sync.clone();
    members.extend(row.replicas.iter().chain(&target).cloned());
    members.sort();
    members.dedup();
    members.retain(|node| row.primary.as_ref() == Some(node) || !dice.one_in(9));
    let member = |node: NodeId| InSyncMember { incarnation: run_of(state, &node), node };
    InSyncProposal { if_version: row.in_sync_version, members: members.into_iter().map(member).collect() }
}

/// A report that the shard's state makes likely.
fn report(state: &Metadata, dice: &mut Dice) -> Command {
    let id = ShardId(dice.below(SHARDS as usize) as u32);
    let row = state.shard(id).unwrap().clone();
    let mut report = Report::new(id, Epoch(row.epoch.0 - u64::from(dice.one_in(12) && row.epoch.0 > 0)));
    let migration = row.migration.and_then(|id| state.migration(id));
    let retiring: Vec<_> = state.retiring_in(id).map(|row| row.node.clone()).collect();
    let mut node = row.primary.clone().unwrap_or_else(|| dice.node());
    match (dice.below(8), migration) {
        (0, _) if dice.one_in(3) => {
            report.lost = true;
            node = dice.node();
        }
        (1, _) if !retiring.is_empty() => {
            report.retired = true;
            node = dice.of(retiring).unwrap();
        }
        (2..=6, Some(m)) if m.phase != Phase::Admitting || dice.one_in(4) => {
            report.migration = Some(m.id);
            report.phase = Some(m.phase);
            report.done = true;
            report.error = dice.one_in(8).then(|| ["gap", "no_answer", "disk"][dice.below(3)].to_owned());
            if dice.one_in(2) || m.phase == Phase::Copying {
                node = m.to.clone().unwrap_or(node);
            }
        }
        _ => report.in_sync_set = Some(proposal(state, &row, dice)),
    }
    let incarnation = Incarnation(run_of(state, &node).0 - u64::from(dice.one_in(15)));
    Command::Reports { node, incarnation, reports: vec![report] }
}

fn new_migration(state: &Metadata, dice: &mut Dice) -> NewMigration {
    let shard = ShardId(dice.below(SHARDS as usize) as u32);
    let row = state.shard(shard).unwrap();
    let kinds = [
        MigrationKind::Add,
        MigrationKind::Move,
        MigrationKind::Add,
        MigrationKind::Promote,
        MigrationKind::Remove,
    ];
    let kind = if dice.one_in(3) { None } else { Some(kinds[dice.below(5)]) };
    let copies: Vec<NodeId> = row.copies().cloned().collect();
    let (mut from, mut to) = (dice.of(copies).filter(|_| dice.one_in(2)), Some(dice.node()));
    match kind {
        Some(MigrationKind::Add) => from = None,
        Some(MigrationKind::Remove) => to = None,
        Some(MigrationKind::Move | MigrationKind::Promote) | None => {}
    }
    NewMigration { shard, kind, from, to, if_epoch: None, reason: "why not".to_owned() }
}

fn change(state: &Metadata, dice: &mut Dice) -> Change {
    let shard = ShardId(dice.below(SHARDS as usize) as u32);
    let row = state.shard(shard).unwrap();
    let node = dice.node();
    let incarnation = run_of(state, &node);
    match dice.below(12) {
        0 if dice.one_in(2) => Change::Down { node, incarnation },
        0..=2 => Change::Alive { node, incarnation },
        3 => Change::Failover { shard, if_epoch: row.epoch, to: node },
        4 => {
            let replicas = vec![dice.node(), dice.node()];
            Change::Assign { shard, if_epoch: row.epoch, primary: node, replicas }
        }
        5 | 6 => Change::Migrate(new_migration(state, dice)),
        7 => Change::Retire { shard, node, if_epoch: row.epoch },
        8 => Change::Drained { node },
        9 if dice.one_in(2) => Change::MaintenanceOver { node },
        _ => {
            let active: Vec<&MigrationRow> = state.active_migrations().collect();
            let Some(m) = dice.of(active) else { return Change::Alive { node, incarnation } };
            let error = || "so it was decided".to_owned();
            let step = match (m.phase, dice.below(6)) {
                (Phase::Queued, 0..=4) => Step::Start,
                (Phase::HandingOver, 0..=2) => Step::CutOver,
                (_, 5) => Step::Abort { error: error() },
                (_, _) => Step::TakeBack { error: error() },
            };
            Change::Step { migration: m.id, if_epoch: m.epoch, if_phase: m.phase, step }
        }
    }
}

fn operator(state: &Metadata, dice: &mut Dice) -> Command {
    let node = dice.node();
    let wish = |wish: Wish| Command::SetIntent { node: node.clone(), if_match: None, wish };
    match dice.below(9) {
        0 => {
            let migrations = vec![new_migration(state, dice), new_migration(state, dice)];
            Command::Migrate { migrations, plan: None }
        }
        1 => Command::CancelMigration { migration: MigrationId(dice.below(9) as u64), if_match: None },
        2 => Command::ForcePrimary { shard: ShardId(dice.below(SHARDS as usize) as u32), node },
        3 => wish(Wish::Drain),
        4 | 5 if state.node(&node).is_some_and(|row| row.intent == Intent::Maintenance) => {
            wish(Wish::EndMaintenance)
        }
        4 | 5 => wish(Wish::EndDrain),
        6 => wish(Wish::Maintain { duration_ms: 50 }),
        7 => Command::DeleteNode { node, if_match: None },
        _ => {
            let patch = PatchNodeRequest { rack: Some(format!("r{}", dice.below(3))), ..Default::default() };
            Command::PatchNode { node, if_match: None, patch }
        }
    }
}

fn command(state: &Metadata, dice: &mut Dice) -> Command {
    match dice.below(16) {
        0 | 1 => register(state, dice),
        2..=8 => report(state, dice),
        9 => operator(state, dice),
        _ => Command::Coordinate { changes: (0..=dice.below(3)).map(|_| change(state, dice)).collect() },
    }
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The rows, without the head: log time goes on with each entry.
fn rows_of(state: &Metadata) -> Rows {
    state.to_rows().filter(|(key, _)| key != b"head").collect()
}

fn assignments_of(state: &Metadata, node: &NodeId) -> Option<(Incarnation, Vec<Assignment>)> {
    view::assignments(state, node).map(|all| (all.incarnation, all.assignments))
}

/// The node's revisions of assignments and its deltas say what really differs.
fn check_assignments(before: &Metadata, after: &Metadata, envelope: &Envelope) {
    for id in NODES.map(|node| NodeId::new(node).unwrap()) {
        let (Some(was), Some(now)) = (assignments_of(before, &id), assignments_of(after, &id)) else {
            continue;
        };
        if before.node(&id).unwrap().joined_ms != after.node(&id).unwrap().joined_ms {
            continue;
        }
        let changed = after.assignments_changed(&id, before.revision());
        assert_eq!(changed, was != now, "{id} after {envelope:?}: {was:?} became {now:?}");
        let delta = view::assignments_since(after, &id, before.revision()).unwrap().unwrap();
        let mut patched: BTreeMap<ShardId, Assignment> = was.1.into_iter().map(|a| (a.shard, a)).collect();
        for gone in &delta.removed {
            patched.remove(gone);
        }
        patched.extend(delta.assignments.into_iter().map(|a| (a.shard, a)));
        assert_eq!(patched.into_values().collect::<Vec<_>>(), now.1, "delta for {id}");
    }
}

fn check_reload(state: &Metadata, stored: &Rows) {
    let all: Rows = state.to_rows().collect();
    assert_eq!(&all, stored, "rows stored by and by");
    let again = Metadata::from_rows(all.clone()).unwrap();
    assert_eq!(again.to_rows().collect::<Rows>(), all);
    assert_eq!(check(&again), []);
    assert_eq!(again.shard_counts(), state.shard_counts());
    for id in NODES.map(|node| NodeId::new(node).unwrap()) {
        assert_eq!(assignments_of(&again, &id), assignments_of(state, &id));
    }
}

fn found() -> Command {
    let settings = Settings {
        num_shards: SHARDS,
        replication_factor: 3,
        failure_timeout_ms: 5_000,
        lease_ms: 4_000,
        heartbeat_interval_ms: 1_000,
    };
    Command::Found { cluster_id: "c1".to_owned(), settings }
}

fn enveloped(command: Command, key: Option<RequestKey>) -> Envelope {
    Envelope { version: COMMAND_VERSION, actor: "client".to_owned(), key, command }
}

/// Applies a command, then again, and checks all that can be said of it.
fn apply_checked(state: &mut Metadata, index: &mut u64, envelope: &Envelope, stored: &mut Rows) {
    let before = state.clone();
    *index += 1;
    let applied = apply(state, *index, *index * 10, envelope);
    assert_eq!(check(state), [], "after {envelope:?}");
    assert_eq!(check_step(&before, state, &envelope.command), [], "after {envelope:?}");
    check_assignments(&before, state, envelope);
    let changed = state.revision() != before.revision();
    assert_eq!(applied.outcome.revision, state.revision());
    assert_eq!(changed, !applied.changes.is_empty());
    if envelope.key.is_none() {
        assert_eq!(changed, rows_of(&before) != rows_of(state), "after {envelope:?}");
    }
    for row in applied.rows {
        match row.value {
            Some(value) => drop(stored.insert(row.key, value)),
            None => drop(stored.remove(&row.key)),
        }
    }
    check_reload(state, stored);
    // Another registration is another run; of several changes, an earlier one may be refused before a later one takes effect.
    let repeatable = match &envelope.command {
        Command::Register(_) => false,
        Command::Coordinate { changes } => changes.len() == 1,
        _ => true,
    };
    if !repeatable && envelope.key.is_none() {
        return;
    }
    let mut again = state.clone();
    let repeated = apply(&mut again, *index + 1, *index * 10, envelope);
    assert_eq!(again.revision(), state.revision(), "twice: {envelope:?} {:?}", repeated.outcome);
    assert_eq!(rows_of(&again), rows_of(state), "twice: {envelope:?}");
    if envelope.key.is_some() {
        assert_eq!(repeated.outcome, applied.outcome);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_commands_keeps_the_invariants(choices in prop::collection::vec(any::<u16>(), 100..1_500)) {
        let mut dice = Dice(choices.into_iter());
        let (mut state, mut index, mut stored) = (Metadata::new(), 0, Rows::new());
        apply_checked(&mut state, &mut index, &enveloped(found(), None), &mut stored);
        while dice.0.len() > 0 {
            let key = dice.one_in(6).then(|| RequestKey {
                key: format!("k{index}"),
                fingerprint: "f".to_owned(),
            });
            let envelope = enveloped(command(&state, &mut dice), key);
            apply_checked(&mut state, &mut index, &envelope, &mut stored);
        }
    }
}

/// States that random commands lead to, one in `every`: for tests of what begins from any state.
pub(crate) fn states_of(mut seed: u64, commands: usize, every: u64) -> Vec<Metadata> {
    let mut choices = Vec::new();
    for _ in 0..commands * 12 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        choices.push((seed >> 40) as u16);
    }
    let mut dice = Dice(choices.into_iter());
    let (mut state, mut index, mut states) = (Metadata::new(), 1, Vec::new());
    apply(&mut state, index, 10, &enveloped(found(), None));
    while dice.0.len() > 0 {
        index += 1;
        let key =
            dice.one_in(6).then(|| RequestKey { key: format!("k{index}"), fingerprint: "f".to_owned() });
        let envelope = enveloped(command(&state, &mut dice), key);
        apply(&mut state, index, index * 10, &envelope);
        if index % every == 0 {
            states.push(state.clone());
        }
    }
    states
}

#[test]
fn random_commands_reach_every_phase_and_status() {
    let mut seen = std::collections::BTreeSet::new();
    let mut seed = 7_u64;
    let mut choices = Vec::new();
    for _ in 0..60_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        choices.push((seed >> 40) as u16);
    }
    let mut dice = Dice(choices.into_iter());
    let (mut state, mut index) = (Metadata::new(), 1);
    apply(&mut state, index, 10, &enveloped(found(), None));
    while dice.0.len() > 0 {
        index += 1;
        let envelope = enveloped(command(&state, &mut dice), None);
        apply(&mut state, index, index * 10, &envelope);
        seen.extend(state.active_migrations().map(|row| format!("{:?} {:?}", row.kind, row.phase)));
        seen.extend(state.shards().map(|row| format!("{:?}", state.shard_status(row))));
        seen.extend(state.shards().filter(|row| row.lost).map(|_| "lost".to_owned()));
    }
    let ended = |kind, phase| state.migrations().any(|m| m.kind == kind && m.phase == phase);
    for kind in [MigrationKind::Move, MigrationKind::Add, MigrationKind::Promote, MigrationKind::Remove] {
        assert!(ended(kind, Phase::Done), "no {kind:?} was done");
        assert!(ended(kind, Phase::Aborted), "no {kind:?} was aborted");
    }
    let wanted = [
        "Active",
        "Degraded",
        "Migrating",
        "Unavailable",
        "Unassigned",
        "lost",
        "Move Copying",
        "Move Admitting",
        "Move HandingOver",
        "Promote HandingOver",
        "Add Admitting",
    ];
    for wanted in wanted {
        assert!(seen.contains(wanted), "{wanted} was never reached: {seen:?}");
    }
    assert!(state.revision() > Revision(100));
}
