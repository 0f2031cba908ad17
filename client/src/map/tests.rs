use super::*;
use crate::ids::Epoch;
use crate::wire::{ShardStatus, WatchChange};

fn node(id: &str) -> NodeId {
    NodeId::new(id).unwrap()
}

fn map(generation: u64, revision: u64) -> ShardMap {
    let place =
        |addr: &str| MapNode { addr: addr.to_owned(), zone: None, rack: None, status: NodeStatus::Alive };
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

fn moved(id: u32, primary: &str) -> WatchChange {
    WatchChange::Shard(Shard {
        id: ShardId(id),
        epoch: Epoch(2),
        primary: Some(node(primary)),
        replicas: vec![node("d1")],
        learners: vec![],
        in_sync: vec![node(primary)],
        in_sync_version: 3,
        status: ShardStatus::Active,
        size_bytes: None,
        vectors: None,
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
    cache.install(map(1, 10));
    let before = cache.get().unwrap();
    assert_eq!(cache.route("k").unwrap().primary.unwrap().addr, "h:1");
    assert!(cache.apply(&event));
    assert!(!cache.apply(&event));
    let route = cache.route("k").unwrap();
    assert_eq!(
        (route.primary.unwrap().addr.as_str(), route.epoch, route.revision),
        ("h:2", Epoch(2), Revision(11))
    );
    assert_eq!(before.revision, Revision(10), "whoever reads the old map sees one state");
}

#[test]
fn a_change_of_an_unknown_kind_is_let_pass() {
    let text = r#"{"revision":12,"changes":[{"type":"balloon","x":1},{"type":"node_removed","id":"d2"}]}"#;
    let event: WatchEvent = serde_json::from_str(text).unwrap();
    assert_eq!(event.changes[0], WatchChange::Other);
    let cache = MapCache::new();
    cache.install(map(1, 10));
    cache.apply(&event);
    assert_eq!(cache.get().unwrap().nodes.len(), 1);
    cache.bookmark(Revision(15));
    assert_eq!(cache.get().unwrap().revision, Revision(15));
}

#[test]
fn a_change_round_trips_with_its_type() {
    let text = serde_json::to_string(&moved(1, "d2")).unwrap();
    assert!(text.starts_with(r#"{"type":"shard","id":1"#), "{text}");
    assert_eq!(serde_json::from_str::<WatchChange>(&text).unwrap(), moved(1, "d2"));
}
