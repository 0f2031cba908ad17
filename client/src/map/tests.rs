use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::{Epoch, Incarnation, NodeId, Thousandths};
use crate::wire::{Intent, MapNode, MapShard, Node, NodeStatus, Shard, ShardStatus, WatchChange, WatchEvent};

fn node(id: &str) -> NodeId {
    NodeId::new(id).unwrap()
}

fn place(addr: &str) -> MapNode {
    MapNode { addr: addr.to_owned(), zone: None, rack: None, status: NodeStatus::Alive }
}

fn map(generation: u64, revision: u64) -> ShardMap {
    let row = MapShard {
        epoch: Epoch(1),
        primary: Some(node("d1")),
        replicas: vec![node("d2")],
        in_sync: vec![node("d1")],
    };
    ShardMap {
        generation,
        revision: Revision(revision),
        cluster_id: "c".to_owned(),
        key_hash: "xxh64".to_owned(),
        shard_hash: "jump".to_owned(),
        num_shards: 4,
        replication_factor: 2,
        nodes: [(node("d1"), place("h:1")), (node("d2"), place("h:2"))].into(),
        shards: vec![row; 4],
    }
}

fn shard(id: u32, row: MapShard) -> WatchChange {
    WatchChange::Shard(Shard {
        id: ShardId(id),
        epoch: row.epoch,
        primary: row.primary,
        replicas: row.replicas,
        learners: vec![],
        in_sync: row.in_sync,
        in_sync_version: 3,
        status: ShardStatus::Active,
        size_bytes: None,
        vectors: None,
        revision: Revision(11),
    })
}

fn moved(id: u32, primary: &str) -> WatchChange {
    let (primary, replica) = (node(primary), node("d1"));
    shard(
        id,
        MapShard {
            epoch: Epoch(2),
            primary: Some(primary.clone()),
            replicas: vec![replica],
            in_sync: vec![primary],
        },
    )
}

fn registered(id: &NodeId, at: &MapNode) -> WatchChange {
    WatchChange::Node(Node {
        id: id.clone(),
        addr: at.addr.clone(),
        store_id: "s".to_owned(),
        zone: at.zone.clone(),
        rack: at.rack.clone(),
        labels: BTreeMap::new(),
        capacity: Thousandths::ONE,
        capacity_bytes: None,
        status: at.status,
        intent: Intent::Schedulable,
        incarnation: Incarnation(1),
        shards: vec![],
        primaries: 0,
        size_bytes: None,
        last_heartbeat: None,
        heard_by_gossip: None,
        revision: Revision(11),
    })
}

#[test]
fn an_older_map_is_ignored_and_a_higher_generation_wins_over_revisions() {
    let cache = MapCache::new();
    assert!(cache.install(map(1, 10)));
    assert!(!cache.install(map(1, 9)));
    assert!(!cache.install(map(1, 10)));
    assert!(cache.install(map(2, 3)));
    assert!(!cache.install(map(1, 99)));
    assert_eq!(cache.get().unwrap().generation, 2);
}

#[test]
fn a_change_moves_the_route_and_is_applied_once() {
    let cache = MapCache::new();
    let event = WatchEvent { revision: Revision(11), changes: (0..4).map(|id| moved(id, "d2")).collect() };
    assert!(!cache.apply(&event), "there is no map to apply it to");
    assert!(cache.route("k").is_none() && cache.version().is_none());
    cache.install(map(1, 10));
    let before = cache.get().unwrap();
    assert_eq!(cache.route("k").unwrap().primary().unwrap().addr(), Some("h:1"));
    assert!(cache.apply(&event));
    assert!(!cache.apply(&event));
    let route = cache.route("k").unwrap();
    assert_eq!(
        (route.primary().unwrap().addr(), route.epoch(), route.revision()),
        (Some("h:2"), Epoch(2), Revision(11))
    );
    assert_eq!(before.revision, Revision(10), "whoever reads the old map sees one state");
    assert_eq!(before.shard(ShardId(0)).unwrap().primary().unwrap().id, &node("d1"));
}

#[test]
fn a_route_borrows_what_it_says_and_has_an_owned_form() {
    let cache = MapCache::new();
    cache.install(map(1, 10));
    // The types say it: names and addresses are borrowed from the map, not copied.
    let routed: Routed = cache.route("k").unwrap();
    let (id, addr): (&NodeId, Option<&str>) = {
        let primary = routed.primary().unwrap();
        (primary.id, primary.addr())
    };
    assert_eq!((id.as_str(), addr), ("d1", Some("h:1")));
    let owned = routed.to_wire("k");
    assert_eq!((owned.shard, owned.generation, owned.revision), (routed.shard(), 1, Revision(10)));
    assert_eq!(owned.primary.unwrap().addr, "h:1");
    assert_eq!(owned.replicas.len(), 1);
    assert_eq!(routed.in_sync().map(|node| node.id.as_str()).collect::<Vec<_>>(), ["d1"]);
}

#[test]
fn a_change_of_an_unknown_kind_is_let_pass() {
    let text = r#"{"revision":12,"changes":[{"type":"balloon","x":1},{"type":"node_removed","id":"d2"}]}"#;
    let event: WatchEvent = serde_json::from_str(text).unwrap();
    assert_eq!(event.changes[0], WatchChange::Other);
    let cache = MapCache::new();
    cache.install(map(1, 10));
    cache.apply(&event);
    assert_eq!(cache.get().unwrap().node_count(), 1);
    let routed = cache.route("k").unwrap();
    assert_eq!(routed.replicas().count(), 0, "nobody can be sent to a node without an address");
    let row = cache.get().unwrap().to_wire().shards.remove(0);
    assert_eq!(row.replicas, [node("d2")], "but it stays in the row until that changes");
    cache.bookmark(Revision(15));
    assert_eq!(cache.get().unwrap().revision, Revision(15));
}

#[test]
fn a_change_round_trips_with_its_type() {
    let text = serde_json::to_string(&moved(1, "d2")).unwrap();
    assert!(text.starts_with(r#"{"type":"shard","id":1"#), "{text}");
    assert_eq!(serde_json::from_str::<WatchChange>(&text).unwrap(), moved(1, "d2"));
}

#[test]
fn a_change_of_one_shard_shares_all_other_chunks_with_the_map_before() {
    let mut wire = map(1, 10);
    wire.num_shards = 10_000;
    wire.shards = vec![wire.shards[0].clone(); 10_000];
    let cache = MapCache::new();
    cache.install(wire);
    let before = cache.get().unwrap();
    cache.apply(&WatchEvent { revision: Revision(11), changes: vec![moved(5_000, "d2")] });
    assert_eq!(cache.get().unwrap().unshared(&before), 1);
    cache.bookmark(Revision(12));
    assert_eq!(cache.get().unwrap().unshared(&before), 1);
}

#[test]
fn names_that_come_and_go_do_not_make_the_map_grow_for_ever() {
    let cache = MapCache::new();
    cache.install(map(1, 10));
    for turn in 0..5_000_u64 {
        let id = node(&format!("guest-{turn}"));
        let changes = vec![registered(&id, &place("h:3")), WatchChange::NodeRemoved { id }];
        cache.apply(&WatchEvent { revision: Revision(11 + turn), changes });
    }
    let held = cache.get().unwrap();
    assert!(held.bytes() < 1 << 20, "{} bytes", held.bytes());
    assert_eq!(held.to_wire().shards, map(1, 10).shards);
    assert_eq!(held.revision, Revision(5_010));
}

#[test]
fn a_reader_goes_on_while_whoever_changes_the_map_holds_its_lock() {
    let cache = MapCache::new();
    cache.install(map(1, 10));
    let changing = cache.inner.changing.lock().unwrap();
    let noting = cache.inner.noted.lock().unwrap();
    let reader = cache.clone();
    let read = std::thread::spawn(move || {
        (reader.route("k").unwrap().shard(), reader.get().unwrap().revision, reader.version().unwrap())
    });
    // It would never end if it waited for either lock.
    let (_, revision, version) = read.join().unwrap();
    assert_eq!((revision, version.revision), (Revision(10), Revision(10)));
    drop((changing, noting));
}

#[test]
fn readers_see_every_map_whole_while_it_changes_under_them() {
    let cache = MapCache::new();
    cache.install(map(1, 10));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..3_000_u64 {
                let primary = if turn % 2 == 0 { "d2" } else { "d1" };
                let changes = (0..4).map(|id| moved(id, primary)).collect();
                cache.apply(&WatchEvent { revision: Revision(11 + turn), changes });
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        let mut last = Revision(0);
        while !done.load(std::sync::atomic::Ordering::Acquire) {
            let map = cache.load().unwrap();
            assert!(map.revision >= last, "never an older one");
            last = map.revision;
            if map.revision > Revision(10) {
                let expected = if map.revision.0 % 2 == 1 { "d2" } else { "d1" };
                assert!(map.shards().all(|shard| shard.primary().unwrap().id.as_str() == expected));
            }
        }
    });
}

/// One of few nodes, so that changes meet.
fn some_node() -> impl Strategy<Value = NodeId> {
    (0..9_u32).prop_map(|n| node(&format!("d{n}")))
}

fn some_row() -> impl Strategy<Value = MapShard> {
    let ids = proptest::collection::vec(some_node(), 0..9);
    (0..5_u64, any::<bool>(), ids, any::<u16>()).prop_map(|(epoch, has_primary, ids, picks)| {
        let mut ids = ids;
        ids.sort();
        ids.dedup();
        let mut in_sync: Vec<NodeId> = ids.to_vec();
        let mut at = 0;
        in_sync.retain(|_| {
            at += 1;
            picks >> at & 1 == 1
        });
        // Somebody may be in sync without being a replica: the target of a move that ends.
        let outside = picks & 1 == 1 && ids.len() > 1;
        let (mut replicas, mut primary) = (ids, None);
        if outside {
            let id = replicas.remove(0);
            in_sync.retain(|other| *other != id);
            in_sync.insert(0, id);
        }
        if has_primary && !replicas.is_empty() {
            primary = Some(replicas.remove(usize::from(picks) % replicas.len()));
        }
        replicas.reverse();
        MapShard { epoch: Epoch(epoch), primary, replicas, in_sync }
    })
}

#[derive(Clone, Debug)]
enum Change {
    Row(u32, MapShard),
    Node(NodeId, MapNode),
    Gone(NodeId),
}

fn some_change(shards: u32) -> impl Strategy<Value = Change> {
    let at = (0..4_u32, any::<bool>(), proptest::option::of("[a-c]")).prop_map(|(port, down, zone)| {
        let status = if down { NodeStatus::Down } else { NodeStatus::Alive };
        MapNode { addr: format!("h:{port}"), rack: zone.clone(), zone, status }
    });
    prop_oneof![
        4 => (0..shards + 2, some_row()).prop_map(|(id, row)| Change::Row(id, row)),
        2 => (some_node(), at).prop_map(|(id, at)| Change::Node(id, at)),
        1 => some_node().prop_map(Change::Gone),
    ]
}

proptest! {
    #[test]
    fn applied_changes_equal_the_map_read_whole(
        rows in proptest::collection::vec(some_row(), 1..7),
        events in proptest::collection::vec(proptest::collection::vec(some_change(7), 0..5), 0..12),
        together in any::<bool>(),
    ) {
        let mut whole = map(1, 10);
        whole.num_shards = u32::try_from(rows.len()).unwrap();
        whole.shards = rows;
        let cache = MapCache::new();
        cache.install(whole.clone());
        prop_assert_eq!(&cache.get().unwrap().to_wire(), &whole);
        let mut told = Vec::new();
        for changes in events {
            whole.revision.0 += 1;
            let mut event = WatchEvent { revision: whole.revision, changes: Vec::new() };
            for change in changes {
                match change {
                    Change::Row(id, row) => {
                        if let Some(held) = whole.shards.get_mut(id as usize) {
                            *held = row.clone();
                        }
                        event.changes.push(shard(id, row));
                    }
                    Change::Node(id, at) => {
                        event.changes.push(registered(&id, &at));
                        whole.nodes.insert(id, at);
                    }
                    Change::Gone(id) => {
                        whole.nodes.remove(&id);
                        event.changes.push(WatchChange::NodeRemoved { id });
                    }
                }
            }
            if !together {
                cache.apply(&event);
            }
            told.push(event);
        }
        // As a long poll answers: what was applied already is told again, which changes nothing.
        cache.apply_all(&told, whole.revision);
        prop_assert_eq!(&cache.get().unwrap().to_wire(), &whole);
        prop_assert_eq!(&CompactMap::from_wire(whole.clone()).to_wire(), &whole);
    }
}
