//! Restored from a backup, suspended, and resumed by what the data nodes hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ruvector_cluster_client::ids::{Epoch, Incarnation, NodeId, ShardId};
use ruvector_cluster_client::wire::{HeldShard, ShardStatus};

use super::super::{ResumePlan, explain, plan_resume};
use super::settled;
use super::world::{World, id};
use crate::metadata::{
    COMMAND_VERSION, Choice, Command, Envelope, HeardNode, Metadata, RESTORE_STEP, RejectionCode, RequestKey,
    Resume, Wish,
};
use crate::soft::{Soft, SoftNode};

fn resume(world: &mut World, without: &[&str]) {
    let without: BTreeSet<NodeId> = without.iter().map(|name| id(name)).collect();
    let plan = plan_resume(&world.metadata, &world.soft, &without);
    assert_eq!((plan.missing.len(), plan.unheld.len()), (0, 0), "{plan:?}");
    let ResumePlan { heard, without, choices, .. } = plan;
    world.apply(Command::Resume(Resume { heard, without, accept_data_loss: false, choices, last: true }));
}

#[test]
fn copies_that_moved_after_the_backup_are_found_where_they_are_and_nothing_is_copied_again() {
    let mut world = settled();
    let backup = world.metadata.clone();
    world.join("d7", "r1");
    world.wish("d1", Wish::Drain);
    world.settle();
    let held: BTreeMap<NodeId, BTreeSet<ShardId>> =
        world.nodes.iter().map(|(node, data)| (node.clone(), data.held.clone())).collect();
    assert!(held[&id("d1")].is_empty() && !held[&id("d7")].is_empty());
    world.restore(&backup);
    world.decided.clear();
    world.run_ms(60_000);
    assert_eq!(world.decided, [], "nothing is decided, however long it takes");
    let told = explain(&world.metadata, Some(&world.soft), world.now(), ShardId(0)).unwrap();
    assert_eq!(told.waits.first().map(|wait| wait.code.as_str()), Some("suspended"), "{told:?}");
    let now = world.nodes.iter().map(|(node, data)| (node.clone(), data.held.clone()));
    assert_eq!(now.collect::<BTreeMap<_, _>>(), held, "and nothing is deleted or made");
    // That d1 was drained is forgotten: it would get copies again.
    world.apply(Command::SetPaused { paused: true });
    resume(&mut world, &[]);
    assert!(world.metadata.shards().all(|row| row.in_sync.len() == 1 && row.replicas.len() == 2));
    world.settle();
    world.assert_whole();
    for row in world.metadata.shards() {
        assert!(row.full_copies().all(|node| held[node].contains(&row.id)), "{row:?}");
    }
}

#[test]
fn a_node_that_is_given_up_is_down_and_its_copies_are_rebuilt() {
    let mut world = settled();
    let backup = world.metadata.clone();
    world.kill("d2");
    world.restore(&backup);
    world.run_ms(2_000);
    let plan = plan_resume(&world.metadata, &world.soft, &BTreeSet::new());
    assert_eq!(plan.missing, [id("d2")]);
    resume(&mut world, &["d2"]);
    assert!(!world.metadata.is_alive(&id("d2")));
    assert!(world.metadata.shards().all(|row| row.primary != Some(id("d2"))));
    world.settle();
    let counts = world.metadata.shard_counts();
    assert_eq!(counts.active, counts.total, "{counts:?}");
    // It comes back after all: as a node like any other.
    world.join("d2", "r2");
    world.run_ms(2_000);
    assert!(world.metadata.is_alive(&id("d2")));
    world.settle();
}

/// It may have come back after the backup, and have acknowledged what nobody else has.
#[test]
fn a_node_that_was_down_and_empty_in_the_backup_is_waited_for_too() {
    let mut world = settled();
    world.apply(Command::SetPaused { paused: true });
    world.join("d7", "r1");
    world.kill("d7");
    world.run_ms(60_000);
    let backup = world.metadata.clone();
    let row = backup.node(&id("d7")).unwrap();
    assert!(row.is_down() && backup.roles_of(&id("d7")).next().is_none(), "{row:?}");
    // It comes back, takes copies over, and is not there when the cluster was restored.
    world.apply(Command::SetPaused { paused: false });
    world.join("d7", "r1");
    world.wish("d1", Wish::Drain);
    world.settle();
    assert!(world.metadata.primaries_of(&id("d7")) > 0);
    world.kill("d7");
    world.restore(&backup);
    world.run_ms(2_000);
    let plan = plan_resume(&world.metadata, &world.soft, &BTreeSet::new());
    assert_eq!(plan.missing, [id("d7")]);
    let ResumePlan { heard, choices, .. } = plan;
    let alone = Resume { heard, without: Vec::new(), accept_data_loss: false, choices, last: true };
    let refused = world.refuses(Command::Resume(alone));
    assert_eq!(refused.code, RejectionCode::NodesMissing, "{refused}");
    let plan = plan_resume(&world.metadata, &world.soft, &BTreeSet::from([id("d7"), id("unknown")]));
    assert_eq!((plan.missing, plan.without), (vec![], vec![id("d7")]));
}

#[test]
fn a_command_of_a_resume_is_256_kib_long_at_most() {
    let name = |n: u32| NodeId::new(&format!("{n:0>64}")).unwrap();
    let lead = |shard| Choice::Lead {
        shard: ShardId(shard),
        if_epoch: Epoch(u64::MAX),
        primary: name(shard),
        replicas: (0..6).map(name).collect(),
    };
    let mut plan = ResumePlan {
        heard: (0..900).map(|n| HeardNode { node: name(n), incarnation: Incarnation(u64::MAX) }).collect(),
        without: (900..1_000).map(name).collect(),
        choices: (0..3_000).map(|n| lead(u32::MAX - n)).collect(),
        ..ResumePlan::default()
    };
    let bytes = |plan: &ResumePlan, choices: &[Choice]| {
        let (heard, without, choices) = (plan.heard.clone(), plan.without.clone(), choices.to_vec());
        let command =
            Command::Resume(Resume { heard, without, accept_data_loss: false, choices, last: false });
        let key = Some(RequestKey { key: "k".repeat(256), fingerprint: "f".repeat(16) });
        let envelope = Envelope { version: COMMAND_VERSION, actor: "client".to_owned(), key, command };
        serde_json::to_vec(&envelope).unwrap().len()
    };
    let batches = plan.batches();
    assert_eq!(batches.concat(), plan.choices);
    let sizes: Vec<usize> = batches.iter().map(|choices| bytes(&plan, choices)).collect();
    assert!(sizes.iter().all(|size| *size <= 256 * 1024), "{sizes:?}");
    assert!(sizes.len() > 3 && sizes[0] > 200 * 1024, "{sizes:?}");
    // Small ones are cut by their number.
    plan.choices = (0..1_500).map(|n| Choice::Found { shard: ShardId(n), if_epoch: Epoch(1) }).collect();
    plan.heard.clear();
    assert_eq!(plan.batches().iter().map(|choices| choices.len()).collect::<Vec<_>>(), [1_000, 500]);
    plan.choices.clear();
    assert_eq!(plan.batches(), [&[]], "also with nothing to choose there is a last command");
}

#[test]
fn shards_that_were_never_opened_are_assigned_after_the_resume_as_ever() {
    let mut world = World::founded(8, 2);
    let backup = world.metadata.clone();
    world.restore(&backup);
    for name in ["d1", "d2"] {
        world.join(name, "");
    }
    world.run_ms(15_000);
    assert_eq!(world.metadata.shard_counts().unassigned, 8);
    resume(&mut world, &[]);
    world.settle();
    world.assert_whole();
    assert!(world.metadata.shards().all(|row| row.epoch > Epoch(RESTORE_STEP)));
}

/// A restored cluster of three shards on a, b and c, and what the nodes say.
struct Told {
    metadata: Metadata,
    soft: Soft,
}

impl Told {
    fn new() -> Self {
        let mut world = World::founded(3, 3);
        for name in ["a", "b", "c"] {
            world.join(name, "");
        }
        world.settle();
        let backup = world.metadata.clone();
        world.restore(&backup);
        Self { metadata: world.metadata, soft: Soft::default() }
    }

    fn say(&mut self, node: &str, held: &[(u32, u64, u64, bool)]) {
        let held = held.iter().map(|&(shard, epoch, position, filling)| {
            let (id, epoch) = (ShardId(shard), Epoch(epoch));
            (id, HeldShard { id, epoch, position, filling, ..HeldShard::default() })
        });
        let said = SoftNode {
            load: Default::default(),
            incarnation: self.metadata.node(&id(node)).unwrap().incarnation,
            last_heartbeat_wall_ms: 0,
            disk_free_bytes: None,
            held: held.collect(),
            complete: true,
        };
        self.soft.nodes.insert(id(node), Arc::new(said));
    }

    fn leader(&self, shard: u32) -> (NodeId, Vec<NodeId>) {
        let plan = plan_resume(&self.metadata, &self.soft, &BTreeSet::new());
        let choice = plan.choices.into_iter().find(|choice| choice.shard() == ShardId(shard)).unwrap();
        let Choice::Lead { primary, replicas, .. } = choice else { panic!("{choice:?}") };
        (primary, replicas)
    }
}

#[test]
fn the_highest_epoch_leads_then_the_highest_position_and_a_copy_that_is_being_filled_never() {
    let mut told = Told::new();
    told.say("a", &[(0, 5, 900, false), (1, 5, 100, false), (2, 0, 0, true)]);
    told.say("b", &[(0, 6, 10, false), (1, 5, 101, false), (2, 0, 0, false)]);
    told.say("c", &[(0, 6, 9, false), (1, 5, 101, true), (2, 0, 0, true)]);
    assert_eq!(told.leader(0), (id("b"), vec![id("c"), id("a")]));
    assert_eq!(told.leader(1), (id("b"), vec![id("a"), id("c")]));
    assert_eq!(told.leader(2).0, id("b"));
}

#[test]
fn what_was_said_in_an_earlier_run_or_in_part_counts_for_nothing() {
    let mut told = Told::new();
    for node in ["a", "b", "c"] {
        told.say(node, &[(0, 5, 1, false), (1, 5, 1, false), (2, 5, 1, false)]);
    }
    let missing = |told: &Told| plan_resume(&told.metadata, &told.soft, &BTreeSet::new()).missing;
    assert_eq!(missing(&told), []);
    let change = |told: &mut Told, change: fn(&mut SoftNode)| {
        change(Arc::make_mut(told.soft.nodes.get_mut(&id("b")).unwrap()));
    };
    change(&mut told, |said| said.incarnation.0 -= 1);
    assert_eq!(missing(&told), [id("b")]);
    change(&mut told, |said| said.incarnation.0 += 1);
    change(&mut told, |said| said.complete = false);
    assert_eq!(missing(&told), [id("b")]);
}

#[test]
fn a_shard_that_nobody_holds_in_full_is_told_and_begins_anew_only_with_leave() {
    let mut told = Told::new();
    told.say("a", &[(0, 5, 1, false), (2, 0, 0, true)]);
    told.say("b", &[(0, 5, 1, false)]);
    told.say("c", &[(0, 5, 1, false)]);
    let plan = plan_resume(&told.metadata, &told.soft, &BTreeSet::new());
    assert_eq!(plan.unheld, [ShardId(1), ShardId(2)]);
    assert!(matches!(plan.choices[1], Choice::Found { .. }));
    // Half a copy is more than none, for whoever accepts that.
    assert_eq!(told.leader(2).0, id("a"));
    let shard = told.metadata.shard(ShardId(1)).unwrap();
    assert_eq!(told.metadata.shard_status(shard), ShardStatus::Unavailable);
}
