//! "Why is shard 7 on n3, and why does it not move?", answered for each thing that can be the reason.

use ruvector_cluster::client::ids::{Epoch, NodeId, ShardId, Thousandths};
use ruvector_cluster::client::wire::{
    CopyExplained, Explanation, MigrationKind, NodeExplained, RebalancePolicy, Role, Strategy,
};
use ruvector_cluster::coordinator::explain;
use ruvector_cluster::metadata::{
    COMMAND_VERSION, Change, Command, Envelope, Metadata, NewMigration, Step, apply,
};
use ruvector_cluster::soft::{Now, Soft};

use super::cluster::{Cluster, Condition, NOW_MS, Node, Shard};

/// When a node that went down at [`NOW_MS`] is taken as lost for good.
const LATER_MS: u64 = NOW_MS + 3_600_000;

fn now(wall_ms: u64) -> Now {
    Now { boot_ms: wall_ms, wall_ms }
}

/// A state that more commands are applied to.
struct World {
    metadata: Metadata,
    soft: Soft,
}

impl World {
    fn of(cluster: &Cluster) -> Self {
        let (metadata, soft) = cluster.state();
        Self { metadata, soft }
    }

    fn apply(&mut self, command: Command) {
        let index = self.metadata.revision().0 + 1;
        let envelope = Envelope { version: COMMAND_VERSION, actor: "test".to_owned(), key: None, command };
        apply(&mut self.metadata, index, NOW_MS, &envelope).outcome.result.unwrap();
    }

    fn policy(&mut self, change: impl FnOnce(&mut RebalancePolicy)) {
        let mut policy = self.metadata.policy().clone();
        change(&mut policy);
        self.apply(Command::SetPolicy { policy, if_match: None });
    }

    /// Queues what the coordinator's plan has first for the shard.
    fn queue_next(&mut self, shard: u32) {
        let step = self.at(NOW_MS, shard).next[0].clone();
        let new = NewMigration {
            shard: step.shard,
            kind: Some(step.kind),
            from: step.from,
            to: step.to,
            if_epoch: None,
            reason: step.reason,
        };
        self.apply(Command::Coordinate { changes: vec![Change::Migrate(new)] });
    }

    fn at(&self, now_ms: u64, shard: u32) -> Explanation {
        explain(&self.metadata, Some(&self.soft), now(now_ms), ShardId(shard)).unwrap()
    }

    fn later(&self, shard: u32) -> Explanation {
        self.at(LATER_MS, shard)
    }
}

fn of<'e>(told: &'e Explanation, name: &str) -> &'e NodeExplained {
    told.nodes.iter().find(|node| node.node.as_str() == name).unwrap()
}

fn copy<'e>(told: &'e Explanation, name: &str) -> &'e CopyExplained {
    told.copies.iter().find(|copy| copy.node.as_str() == name).unwrap()
}

/// The reason with this code, in words.
fn wait<'e>(told: &'e Explanation, code: &str) -> &'e str {
    let found = told.waits.iter().find(|reason| reason.code == code);
    &found.unwrap_or_else(|| panic!("no {code} in {:?}", told.waits)).detail
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// Nodes `a`, `b` and so on in the racks named, and shards on nodes by their places.
fn cluster(racks: &[&str], shards: &[&[usize]]) -> Cluster {
    let names = ('a'..='z').map(|name| name.to_string());
    let shard = |copies: &&[usize]| Shard { copies: copies.to_vec(), ..Shard::default() };
    Cluster {
        nodes: names.zip(racks).map(|(name, rack)| Node::new(&name, rack)).collect(),
        shards: shards.iter().map(shard).collect(),
        replication_factor: u32::try_from(shards.iter().map(|copies| copies.len()).max().unwrap_or(1))
            .unwrap(),
    }
}

#[test]
fn a_rack_that_has_its_copy_takes_another_only_in_its_place() {
    let mut cluster = cluster(&["r1", "r2", "r3", "r3"], &[&[0, 1, 2], &[1, 0, 3]]);
    let told = World::of(&cluster).later(0);
    let d = of(&told, "d");
    assert_eq!((d.may_take, d.code.as_str(), &d.in_place_of[..]), (true, "enough_copies", &[id("c")][..]));
    assert_says(&d.detail, &["no copy but that of c", "rack r3 has the 1 copy that it may have, on c"]);
    assert_says(&d.detail, &["it holds 1 copy, and its share is 1: it needs none"]);
    assert_eq!((copy(&told, "c").code.as_str(), copy(&told, "c").role), ("even", Role::Replica));
    assert_says(&copy(&told, "c").detail, &["it holds 1 copy, and its share is 1: nothing to level"]);
    assert_says(&copy(&told, "a").detail, &["it leads 1 shard, and its share is 0 to 1"]);
    assert_eq!(of(&told, "a").code, "holds_copy");
    assert_says(&told.summary, &["Shard 0 has 3 of 3 copies in sync and alive: a leads, b and c follow."]);

    cluster.set_condition(2, Condition::Maintenance);
    let told = World::of(&cluster).at(NOW_MS + 1, 0);
    let d = of(&told, "d");
    assert_eq!((d.may_take, d.code.as_str()), (false, "rack_taken"));
    assert_eq!(copy(&told, "c").code, "away");
    assert_says(&copy(&told, "c").detail, &["c is in maintenance until "]);
    assert_says(&told.summary, &["Nothing moves: c is in maintenance until "]);
}

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

#[test]
fn a_zone_that_has_its_copy_is_named() {
    let mut cluster = cluster(&["r1", "r2", "r3"], &[&[0, 1]]);
    for (node, zone) in cluster.nodes.iter_mut().zip(["z1", "z2", "z2"]) {
        node.zone = Some(zone.to_owned());
    }
    cluster.set_condition(1, Condition::Maintenance);
    let told = World::of(&cluster).at(NOW_MS + 1, 0);
    assert_eq!(of(&told, "c").code, "zone_taken");
    assert_says(&of(&told, "c").detail, &["zone z2 has the 1 copy that it may have, on b"]);
}

#[test]
fn a_drain_without_a_way_out_names_what_each_other_node_lacks() {
    let mut cluster = cluster(&["r1", "r2", "r3", "r3", "r3", "r3"], &[&[0, 1, 2], &[4]]);
    cluster.replication_factor = 3;
    cluster.shards.truncate(1);
    cluster.shards[0].size_bytes = 500;
    cluster.nodes[3].capacity_bytes = Some(100);
    cluster.nodes[4].capacity = Thousandths(0);
    cluster.set_condition(5, Condition::Maintenance);
    cluster.set_condition(2, Condition::Draining);
    let told = World::of(&cluster).at(NOW_MS + 1, 0);
    let c = copy(&told, "c");
    assert_eq!(c.code, "stuck");
    assert_says(
        &c.detail,
        &["c is being drained, but the copy has no other place", "f is in maintenance until"],
    );
    assert_says(&c.detail, &["d has 90 bytes left and the copy needs 500", "e has capacity 0"]);
    assert_eq!(wait(&told, "no_room"), c.detail);
    let codes: Vec<_> = told.nodes.iter().map(|node| node.code.as_str()).collect();
    assert_eq!(codes, ["holds_copy", "holds_copy", "holds_copy", "no_room", "no_capacity", "away"]);
    assert!(told.nodes.iter().all(|node| !node.may_take));
    assert_eq!(told.next, []);
    assert_says(&told.summary, &["Nothing moves: c is being drained"]);
}

#[test]
fn a_full_node_says_how_full_it_is() {
    let mut cluster = cluster(&["r1", "r2"], &[&[0], &[1]]);
    cluster.nodes[1].capacity_bytes = Some(1_000);
    cluster.shards[1].size_bytes = 950;
    cluster.set_condition(0, Condition::Draining);
    let told = World::of(&cluster).later(0);
    assert_eq!(of(&told, "b").code, "full");
    assert_says(
        &of(&told, "b").detail,
        &["b holds 950 of its 1000 bytes", "0.900 of them", "disk_watermark"],
    );
    assert_says(wait(&told, "no_room"), &["b holds 950 of its 1000 bytes"]);
}

#[test]
fn what_a_plan_can_not_place_is_told_with_what_is_missing() {
    let too_few = {
        let mut cluster = cluster(&["r1", "r2", "r3"], &[&[0, 1, 2]]);
        cluster.set_condition(2, Condition::Draining);
        World::of(&cluster).later(0)
    };
    let text = wait(&too_few, "too_few_nodes");
    assert_says(text, &["3 copies are wanted, and 2 of 3 nodes can hold one: c is being drained"]);
    let crowded = {
        let mut cluster = cluster(&["r1", "r1", "r2", "r3"], &[&[0, 2]]);
        cluster.set_condition(2, Condition::Draining);
        cluster.set_condition(3, Condition::Maintenance);
        World::of(&cluster).at(NOW_MS + 1, 0)
    };
    let text = wait(&crowded, "spread_rule");
    assert_says(text, &["b could take the copy, but rack r1 has the 1 copy that it may have, on a"]);
    assert_says(text, &["Elsewhere d is in maintenance until"]);
    let gone = {
        let mut cluster = cluster(&["r1", "r2"], &[&[0]]);
        cluster.set_condition(0, Condition::Down);
        World::of(&cluster).later(0)
    };
    assert_says(wait(&gone, "unavailable"), &["no copy in sync answers", "a is down since"]);
    assert_says(&gone.summary, &["Shard 0 is unavailable: a led"]);
}

#[test]
fn a_planned_move_tells_why_it_does_not_start() {
    let mut cluster = cluster(&["", "", ""], &[&[0], &[0]]);
    cluster.set_condition(0, Condition::Draining);
    let mut world = World::of(&cluster);
    let told = world.later(0);
    assert_eq!(told.waits, [], "it starts");
    let to = told.next[0].to.clone().unwrap();
    assert_eq!(copy(&told, "a").code, "moves_next");
    assert_eq!(of(&told, to.as_str()).code, "takes_next");
    assert_says(&told.summary, &["The plan moves a copy from a to", "its node is being drained."]);

    world.policy(|policy| policy.max_migrations = 1);
    assert_says(wait(&world.later(1), "moves_first"), &["1 planned moves come before it"]);
    world.queue_next(0);
    assert_says(wait(&world.later(1), "no_free_slot"), &["1 migrations", "max_migrations"]);
    let told = world.later(0);
    let pending = told.pending.as_ref().unwrap();
    assert_eq!((pending.from.as_ref(), pending.id.0), (Some(&id("a")), 1));
    assert_says(&copy(&told, "a").detail, &["migration 1 (queued) moves it to"]);
    assert_eq!(of(&told, pending.to.as_ref().unwrap().as_str()).code, "being_filled");
    world.policy(|policy| (policy.max_migrations, policy.max_out_per_node) = (16, 1));
    assert_says(wait(&world.later(1), "giver_busy"), &["a gives 1 copies already"]);
    world.policy(|policy| policy.max_out_per_node = 16);
    world.apply(Command::SetPaused { paused: true });
    assert_says(wait(&world.later(1), "paused"), &["POST /v1/rebalance/resume"]);
    assert_says(&world.later(1).summary, &["What waits: automatic migrations are paused"]);
}

#[test]
fn a_copy_that_waits_for_the_throttle_says_until_about_when() {
    let mut cluster = cluster(&["", "", ""], &[&[0], &[0], &[0]]);
    cluster.shards.iter_mut().for_each(|shard| shard.size_bytes = 10_000);
    cluster.set_condition(0, Condition::Draining);
    let mut world = World::of(&cluster);
    world.policy(|policy| (policy.max_bytes_per_s, policy.max_out_per_node) = (1_000, 16));
    world.queue_next(0);
    let row = world.metadata.active_migrations().next().unwrap();
    let start =
        Change::Step { migration: row.id, if_epoch: row.epoch, if_phase: row.phase, step: Step::Start };
    world.apply(Command::Coordinate { changes: vec![start] });
    assert_eq!(world.at(NOW_MS, 1).waits, [], "one waits in the queue");
    world.queue_next(1);
    let told = world.at(NOW_MS, 1);
    assert_says(wait(&told, "throttled"), &["1000 bytes a second", "at about 1970-01-12T13:46:49Z"]);
    assert_says(&told.summary, &["What waits: copies begin at 1000 bytes a second"]);
    let told = world.at(NOW_MS, 2);
    assert_says(wait(&told, "throttled"), &["max_bytes_per_s", "at about 1970-01-12T13:46:59Z"]);
    world.soft = Soft::default();
    assert_says(wait(&world.at(NOW_MS, 1), "throttled"), &["the sizes", "are waited for"]);
}

#[test]
fn a_shard_whose_migration_failed_is_left_alone_until_a_time() {
    let mut cluster = cluster(&["", ""], &[&[0]]);
    cluster.set_condition(0, Condition::Draining);
    let mut world = World::of(&cluster);
    world.queue_next(0);
    let row = world.metadata.active_migrations().next().unwrap();
    let step = Step::Abort { error: "no progress for 60000 ms".to_owned() };
    let change = Change::Step { migration: row.id, if_epoch: row.epoch, if_phase: row.phase, step };
    world.apply(Command::Coordinate { changes: vec![change] });
    let told = world.at(NOW_MS, 0);
    assert_says(wait(&told, "failed_lately"), &["until 1970-01-12T13:46:41Z", "no progress for 60000 ms"]);
    assert_eq!(world.later(0).waits, []);
}

#[test]
fn nodes_that_are_down_say_from_when_on_they_are_replaced() {
    let mut cluster = cluster(&["", "", "", "", "", ""], &[&[0, 1, 2]]);
    cluster.set_condition(1, Condition::Down);
    let told = World::of(&cluster).at(NOW_MS + 1, 0);
    assert_eq!((copy(&told, "b").code.as_str(), of(&told, "b").code.as_str()), ("down", "holds_copy"));
    let text = wait(&told, "down");
    assert_says(
        text,
        &["b is down since 1970-01-12T13:46:40Z; its copies are rebuilt from 1970-01-12T13:47:10Z on"],
    );
    let told = World::of(&cluster).later(0);
    assert_eq!(copy(&told, "b").code, "moves_next");
    assert_says(&told.summary, &["its node is down for good."]);

    cluster.set_condition(2, Condition::Down);
    cluster.set_condition(3, Condition::Down);
    let told = World::of(&cluster).at(NOW_MS + 60_000, 0);
    assert_says(wait(&told, "mass_failure"), &["rebuilding waits until 1970-01-12T13:51:40Z"]);
    assert_eq!((of(&told, "d").code.as_str(), of(&told, "d").may_take), ("down", false));
    assert!(!World::of(&cluster).at(NOW_MS + 300_000, 0).next.is_empty());
}

#[test]
fn a_node_that_is_down_while_others_hear_it_says_that_it_is_waited_for_and_what_ends_that() {
    let mut cluster = cluster(&["", "", "", "", "", ""], &[&[0, 1, 2]]);
    cluster.set_condition(1, Condition::Down);
    cluster.nodes[1].heard = true;
    let told = World::of(&cluster).later(0);
    assert_eq!((&told.next[..], copy(&told, "b").code.as_str()), (&[][..], "heard_by_others"));
    let text = "b is down since 1970-01-12T13:46:40Z, but other nodes hear it: its copies are not rebuilt while that lasts; \
                drain or delete it to rebuild them";
    assert_eq!(wait(&told, "heard_by_others"), text);
    assert_says(&told.summary, &["Nothing moves: b is down since", "but other nodes hear it"]);

    cluster.set_condition(1, Condition::DownAndDraining);
    let told = World::of(&cluster).later(0);
    assert_eq!(copy(&told, "b").code, "moves_next");
    cluster.set_condition(1, Condition::Down);
    cluster.nodes[1].heard = false;
    assert_eq!(copy(&World::of(&cluster).later(0), "b").code, "moves_next");
}

#[test]
fn an_uneven_node_says_what_keeps_its_copies() {
    let on = |node: usize, count: usize| vec![Shard { copies: vec![node], ..Shard::default() }; count];
    let uneven = |a: usize, b: usize| {
        let cluster = cluster(&["", ""], &[&[0]]);
        World::of(&Cluster { shards: [on(0, a), on(1, b)].concat(), ..cluster })
    };
    let told = uneven(21, 19).later(0);
    let text = wait(&told, "within_thresholds");
    assert_says(
        text,
        &["a: it holds 21 copies, and its share is 20; up to 22 are left alone", "start_imbalance"],
    );
    let mut world = uneven(30, 10);
    let codes: Vec<String> = (0..30).map(|shard| world.later(shard).copies[0].code.clone()).collect();
    let count = |code: &str| codes.iter().filter(|of| *of == code).count();
    // Levelling goes on to 21, which is within 5 % of the share.
    assert_eq!((count("moves_next"), count("within_thresholds") + count("others_first")), (9, 21));
    let still = codes.iter().position(|code| code == "others_first").unwrap();
    let told = world.later(u32::try_from(still).unwrap());
    assert_eq!((of(&told, "b").code.as_str(), of(&told, "b").may_take), ("may_take", true));
    assert_says(wait(&told, "others_first"), &["it holds 30 copies", "the plan moves 9 other copies away"]);
    world.policy(|policy| policy.enabled = false);
    assert_says(
        wait(&world.later(0), "levelling_off"),
        &["it holds 30 copies, and its share is 20, but levelling is off"],
    );
    world.policy(|policy| (policy.enabled, policy.strategy) = (true, Strategy::Jump));
    let ordered = (0..40).filter(|shard| world.later(*shard).copies[0].code == "ordered").count();
    assert!(ordered > 0, "none stands where its order wants it");
}

#[test]
fn a_node_that_still_deletes_a_copy_takes_no_other() {
    let mut cluster = cluster(&["", "", ""], &[&[0], &[1]]);
    cluster.set_condition(0, Condition::Draining);
    let mut world = World::of(&cluster);
    let retire = Change::Retire { shard: ShardId(0), node: id("c"), if_epoch: Epoch(1) };
    world.apply(Command::Coordinate { changes: vec![retire] });
    let told = world.later(0);
    assert_eq!((of(&told, "c").code.as_str(), of(&told, "c").may_take), ("deleting_copy", false));
    assert_eq!((copy(&told, "c").role, copy(&told, "c").code.as_str()), (Role::Retiring, "deleting"));
    assert_eq!(told.next[0].to, Some(id("b")));
}

#[test]
fn a_shard_without_copies_says_where_they_will_be() {
    let mut cluster = cluster(&["r1", "r2"], &[&[]]);
    cluster.replication_factor = 2;
    let world = World::of(&cluster);
    let told = world.at(NOW_MS, 0);
    assert_says(&told.summary, &["Shard 0 has no copies yet.", "The plan puts its first copies on"]);
    assert_says(wait(&told, "settling"), &["heartbeat intervals"]);
    assert!(told.nodes.iter().all(|node| node.may_take && node.code == "may_take"), "{:?}", told.nodes);
    assert_eq!(world.later(0).waits, []);
    assert!(explain(&world.metadata, None, now(NOW_MS), ShardId(1)).is_none(), "there is no such shard");
    let deaf = explain(&world.metadata, None, now(NOW_MS), ShardId(0)).unwrap();
    assert!(!deaf.from_leader && deaf.summary.contains("knows nothing of sizes"), "{}", deaf.summary);
}

/// Told as "stays; the plan hands its primaryship over" once: the hand-over comes first, and the copy goes after it.
#[test]
fn a_primary_that_leaves_is_not_said_to_stay_because_it_hands_over_first() {
    // What b and c lead is evened out by the hand-overs that the drain brings anyway.
    let mut cluster = cluster(&["r1", "r2", "r3"], &[&[0, 1], &[0, 1], &[2, 1], &[2, 1]]);
    cluster.set_condition(0, Condition::Draining);
    let told = World::of(&cluster).later(0);
    let kinds: Vec<MigrationKind> = told.next.iter().map(|step| step.kind).collect();
    assert_eq!(kinds, [MigrationKind::Promote, MigrationKind::Move]);
    assert_eq!(copy(&told, "a").code, "moves_next");
    assert_says(
        &told.summary,
        &["The plan hands primaryship from a to b", "The plan moves a copy from a to c"],
    );
}

#[test]
fn a_move_to_a_node_that_takes_enough_already_waits_for_it() {
    let mut cluster = cluster(&["", ""], &[&[0], &[0]]);
    cluster.set_condition(0, Condition::Draining);
    let mut world = World::of(&cluster);
    world.policy(|policy| (policy.max_in_per_node, policy.max_out_per_node) = (1, 16));
    world.queue_next(0);
    assert_says(wait(&world.later(1), "taker_busy"), &["b takes 1 copies already", "max_in_per_node"]);
}

#[test]
fn what_fell_out_of_a_shard_is_told_as_that() {
    let mut cluster = cluster(&["", "", "", ""], &[&[0, 1, 2]]);
    cluster.wipe(2);
    let told = World::of(&cluster).later(0);
    assert_eq!((copy(&told, "c").role, copy(&told, "c").code.as_str()), (Role::Learner, "filled_next"));
    // Drained it is not filled again, and another node gets the copy.
    cluster.set_condition(2, Condition::Draining);
    let told = World::of(&cluster).later(0);
    assert_eq!((of(&told, "c").code.as_str(), of(&told, "c").may_take), ("idle_copy", false));
    assert_eq!(copy(&told, "c").code, "leaves_next");
    assert!(told.next.iter().any(|step| step.to == Some(id("d"))), "{:?}", told.next);
}

#[test]
fn a_shard_whose_primary_is_down_moves_only_once_another_leads() {
    let mut cluster = cluster(&["", "", ""], &[&[0, 1]]);
    // Unlike `set_condition`, without what the coordinator does about it at once.
    cluster.nodes[0].condition = Condition::Down;
    let told = World::of(&cluster).later(0);
    assert_eq!((copy(&told, "b").code.as_str(), &told.next[..]), ("pinned", &[][..]));
    assert_says(wait(&told, "pinned"), &["the primary's node is down: another copy takes over"]);
}

#[test]
fn a_node_that_nobody_may_relieve_says_so() {
    let on = |node: usize| Shard { copies: vec![node], ..Shard::default() };
    let cluster = cluster(&["", ""], &[&[0]]);
    let shards = vec![on(0), on(0), on(0), on(1)];
    let mut world = World::of(&Cluster { shards, ..cluster });
    for shard in 0..3 {
        let retire = Change::Retire { shard: ShardId(shard), node: id("b"), if_epoch: Epoch(1) };
        world.apply(Command::Coordinate { changes: vec![retire] });
    }
    let told = world.later(0);
    assert_eq!((copy(&told, "a").code.as_str(), &told.next[..]), ("no_taker", &[][..]));
    assert_says(
        wait(&told, "no_taker"),
        &["it holds 3 copies, and its share is 2", "no node that has too few"],
    );
}

#[test]
fn primaries_are_evened_out_after_copies() {
    let shards: Vec<&[usize]> = vec![&[0, 1]; 12];
    let world = World::of(&cluster(&["", "", ""], &shards));
    let told: Vec<Explanation> = (0..12).map(|shard| world.later(shard)).collect();
    let is_promote =
        |told: &&Explanation| told.next.first().is_some_and(|step| step.kind == MigrationKind::Promote);
    let waiting = told.iter().find(is_promote).unwrap();
    assert_says(wait(waiting, "copies_first"), &["once no copy is on its way"]);
    assert!(told.iter().any(|told| told.next.first().is_some_and(|step| step.kind == MigrationKind::Move)));
}

/// It began at once, on a node that was to have room for it only once others had left.
#[test]
fn a_copy_waits_for_the_room_that_others_leave() {
    let mut cluster = cluster(&["", "", ""], &[&[0][..]; 9]);
    cluster.shards.iter_mut().for_each(|shard| shard.size_bytes = 100);
    cluster.nodes[0].capacity_bytes = Some(1_000);
    cluster.shards[8] = Shard { copies: vec![2], size_bytes: 350, ..Shard::default() };
    cluster.set_condition(2, Condition::Draining);
    let mut world = World::of(&cluster);
    // So that no other node takes it.
    let retire = Change::Retire { shard: ShardId(8), node: id("b"), if_epoch: Epoch(1) };
    world.apply(Command::Coordinate { changes: vec![retire] });
    let told = world.later(8);
    assert_eq!(told.next[0].to, Some(id("a")));
    assert_says(
        wait(&told, "room_first"),
        &["a has no room for its 350 bytes before other copies have left"],
    );
    assert!((0..8).any(|shard| !world.later(shard).next.is_empty() && world.later(shard).waits.is_empty()));
}

/// What was on its way to a node counted for nothing, so that more was sent there than it has room for.
#[test]
fn what_is_on_its_way_to_a_node_takes_its_room() {
    let mut cluster = cluster(&["", ""], &[&[0], &[0]]);
    cluster.shards.iter_mut().for_each(|shard| shard.size_bytes = 500);
    cluster.nodes[1].capacity_bytes = Some(1_000);
    cluster.set_condition(0, Condition::Draining);
    let mut world = World::of(&cluster);
    world.queue_next(0);
    let told = world.later(1);
    assert_eq!((copy(&told, "a").code.as_str(), &told.next[..]), ("stuck", &[][..]));
    assert_says(wait(&told, "no_room"), &["b has 400 bytes left and the copy needs 500"]);
}
