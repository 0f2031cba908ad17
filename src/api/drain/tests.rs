//! What an operator reads when a drain can't finish.

use std::collections::BTreeMap;

use ruvector_cluster_client::ids::{Incarnation, Thousandths};
use ruvector_cluster_client::wire::{
    HeartbeatRequest, HeldShard, InSyncMember, InSyncProposal, PatchNodeRequest, Report,
};

use super::*;
use crate::metadata::{Answer, COMMAND_VERSION, Change, Command, Envelope, Register, Settings, Wish, apply};

const NOW_MS: u64 = 1_000_000;

/// Shards of 100 bytes.
struct Cluster {
    state: Metadata,
    soft: Soft,
    index: u64,
}

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

impl Cluster {
    /// Nodes, their racks and the bytes that they may hold; `copies` are of shard 0, 1 and so on, the primary first.
    fn of(nodes: &[(&str, &str, Option<u64>)], copies: &[&[&str]]) -> Self {
        let mut cluster = Self { state: Metadata::new(), soft: Soft::default(), index: 0 };
        let replication_factor = copies[0].len() as u32;
        let settings = Settings {
            num_shards: copies.len() as u32,
            replication_factor,
            failure_timeout_ms: 5_000,
            lease_ms: 4_000,
            heartbeat_interval_ms: 1_000,
        };
        cluster.apply(Command::Found { cluster_id: "c".to_owned(), settings });
        for (name, rack, capacity_bytes) in nodes {
            cluster.apply(Command::Register(Register {
                node: id(name),
                addr: format!("{name}:1"),
                store_id: format!("store-{name}"),
                zone: None,
                rack: Some((*rack).to_owned()),
                labels: BTreeMap::new(),
                capacity: None,
                capacity_bytes: *capacity_bytes,
                accept_data_loss: false,
                lease_over_of: None,
                if_match: None,
            }));
        }
        for (shard, held) in (0..).map(ShardId).zip(copies) {
            let if_epoch = cluster.state.shard(shard).unwrap().epoch;
            let (primary, replicas) = held.split_first().unwrap();
            let replicas = replicas.iter().map(|name| id(name)).collect();
            let assign = Change::Assign { shard, if_epoch, primary: id(primary), replicas };
            cluster.apply(Command::Coordinate { changes: vec![assign] });
            let row = cluster.state.shard(shard).unwrap();
            let member = |name: &&str| InSyncMember { node: id(name), incarnation: Incarnation(1) };
            let members = held.iter().map(member).collect();
            let set = InSyncProposal { if_version: row.in_sync_version, members };
            let report = Report { in_sync_set: Some(set), ..Report::new(shard, row.epoch) };
            let (node, incarnation) = (id(primary), Incarnation(1));
            let answer = cluster.apply(Command::Reports { node, incarnation, reports: vec![report] });
            let Answer::Reported { results } = answer else { panic!("answered so") };
            assert!(results[0].accepted, "{results:?}");
        }
        let names: Vec<NodeId> = cluster.state.nodes().map(|row| row.id.clone()).collect();
        for node in names {
            let held = cluster.state.shards_of(&node);
            let held = held.map(|id| HeldShard { id, size_bytes: 100, ..HeldShard::default() });
            let beat = HeartbeatRequest {
                incarnation: Incarnation(1),
                installed_revision: cluster.state.revision(),
                partial: false,
                shards: held.collect(),
                disk_free_bytes: None,
            };
            cluster.soft.observe_heartbeat(&node, &beat, NOW_MS);
        }
        cluster
    }

    fn apply(&mut self, command: Command) -> Answer {
        self.index += 1;
        let envelope = Envelope { version: COMMAND_VERSION, actor: "test".to_owned(), key: None, command };
        apply(&mut self.state, self.index, NOW_MS, &envelope).outcome.result.unwrap()
    }

    fn drain(&self, name: &str) -> Result<Plan, Rejection> {
        plan(&self.state, &self.soft, &id(name), NOW_MS)
    }

    /// What is said of a drain that can't finish.
    fn refusal(&self, name: &str) -> String {
        let refused = self.drain(name).expect_err("the drain can't finish");
        assert_eq!(refused.code, RejectionCode::Invalid);
        refused.detail
    }
}

fn assert_says(detail: &str, parts: &[&str]) {
    for part in parts {
        assert!(detail.contains(part), "{part:?} is missing in: {detail}");
    }
}

#[test]
fn full_nodes_are_named_with_the_bytes_that_they_lack() {
    let nodes = [("a", "r1", None), ("b", "r2", None), ("c", "r3", Some(250))];
    let mut cluster = Cluster::of(&nodes, &[&["a", "b"], &["a", "b"], &["b", "a"]]);
    // Under the watermark of 0.9 there is room for 225 bytes, for two of three shards.
    let detail = cluster.refusal("a");
    assert_says(
        &detail,
        &[
            "draining a could not finish: 1 of its 3 copies would stay",
            "1 of them, of 100 bytes, have nowhere to go",
            "could take copies were they not full, below disk_watermark: c (lacks 75 bytes for 1 of them)",
            "have a copy already: b",
            "raise disk_watermark; or add a data node with room for 100 bytes",
        ],
    );
    let mut policy = cluster.state.policy().clone();
    policy.disk_watermark = Thousandths(1_000);
    cluster.apply(Command::SetPolicy { policy, if_match: None });
    assert_says(&cluster.refusal("a"), &["c (lacks 50 bytes"]);
}

#[test]
fn nodes_that_take_nothing_are_named_with_what_would_change_that() {
    let nodes = [
        ("a", "r", None),
        ("b", "r", None),
        ("c", "r", None),
        ("d", "r", None),
        ("e", "r", None),
        ("f", "r", None),
    ];
    let mut cluster = Cluster::of(&nodes, &[&["a", "b"]]);
    cluster.apply(Command::SetIntent { node: id("c"), if_match: None, wish: Wish::Drain });
    let away = Wish::Maintain { duration_ms: 60_000 };
    cluster.apply(Command::SetIntent { node: id("d"), if_match: None, wish: away });
    let down = Change::Down { node: id("e"), incarnation: Incarnation(1) };
    cluster.apply(Command::Coordinate { changes: vec![down] });
    let patch = PatchNodeRequest { capacity: Some(Thousandths(0)), ..PatchNodeRequest::default() };
    cluster.apply(Command::PatchNode { node: id("f"), if_match: None, patch });
    let detail = cluster.refusal("a");
    assert_says(
        &detail,
        &[
            "are being emptied: c",
            "are in maintenance: d",
            "are down: e",
            "have capacity 0: f",
            "have a copy already: b",
            "what helps: DELETE /v1/nodes/c/drain; or DELETE /v1/nodes/d/maintenance; or start e again; or PATCH /v1/nodes/f",
        ],
    );
    cluster.apply(Command::SetIntent { node: id("c"), if_match: None, wish: Wish::EndDrain });
    let plan = cluster.drain("a").unwrap();
    assert_eq!(plan.moves.len(), 1);
    assert_eq!(plan.moves[0].to, Some(id("c")));
}

#[test]
fn the_last_node_of_a_rack_may_go_where_another_rack_has_its_share_and_room() {
    let nodes = [("a", "r1", None), ("b", "r2", None), ("c", "r2", None)];
    let cluster = Cluster::of(&nodes, &[&["a", "b"], &["a", "c"]]);
    let plan = cluster.drain("a").unwrap();
    assert_eq!(plan.moves.iter().filter(|step| step.from == Some(id("a"))).count(), 2);
}

#[test]
fn racks_in_which_nodes_are_missing_are_named() {
    // c lacks room for a's copy, and the only other place is beside b.
    let nodes = [("a", "r1", None), ("b", "r2", None), ("b2", "r2", None), ("c", "r3", Some(50))];
    let cluster = Cluster::of(&nodes, &[&["a", "b"]]);
    assert_says(
        &cluster.refusal("a"),
        &[
            "could take copies were they not full, below disk_watermark: c (lacks 55 bytes for 1 of them)",
            "stand where enough copies are already: b2 (zone none, rack r2; 1 of them)",
            "add a data node in another rack than r2 with room for 100 bytes",
        ],
    );
}

#[test]
fn a_single_node_is_told_that_there_is_no_other() {
    let cluster = Cluster::of(&[("a", "r", None)], &[&["a"]]);
    assert_says(
        &cluster.refusal("a"),
        &["there is no other node", "add a data node with room for 100 bytes"],
    );
}

#[test]
fn shards_that_nobody_could_copy_are_told_apart() {
    let nodes = [("a", "r", None), ("b", "r", None), ("c", "r", None)];
    let mut cluster = Cluster::of(&nodes, &[&["a", "b"], &["b", "a"]]);
    let down = |name: &str| Change::Down { node: id(name), incarnation: Incarnation(1) };
    cluster.apply(Command::Coordinate { changes: vec![down("b")] });
    // Shard 1 is to be failed over; shard 0 can be copied.
    assert_says(&cluster.refusal("a"), &["1 of its 2 copies", "shard 1 is being opened or failed over"]);
    cluster.apply(Command::Coordinate { changes: vec![down("a")] });
    assert_says(&cluster.refusal("a"), &["no in-sync copy answers that shard 0, 1 could be copied from"]);
}
