//! What routing by the cached map costs: one command prints every figure.
//!
//! `cargo bench -p ruvector-cluster-client --bench route` builds the map of 1,000,000 shards with 3 copies on 10,000 nodes and
//! prints its memory (measured and computed), the time to build it, the time to apply a change, and the time of `route(key)`, alone
//! and while another thread changes the map without pause. `-- --table` leaves criterion's own measurement out.
//! `-- --shards N --nodes N` take other sizes.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark reads the clock"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ruvector_cluster_client::hashing;
use ruvector_cluster_client::ids::{Epoch, NodeId, Revision, ShardId};
use ruvector_cluster_client::map::{CompactMap, MapCache};
use ruvector_cluster_client::wire::{
    MapNode, MapShard, NodeStatus, Shard, ShardMap, ShardStatus, WatchChange, WatchEvent,
};

/// Keys that are asked for in turn, so that rows and nodes are not in the nearest cache.
const KEYS: usize = 200_000;

/// Keys whose rows and nodes stay in the processor's own cache.
const FEW_KEYS: usize = 2_048;

/// Keys that are timed together: the clock itself takes some 25 ns.
const BATCH: usize = 64;

fn argument(name: &str, default: usize) -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(default, |value| value.parse().unwrap())
}

fn wire_map(shards: usize, nodes: usize) -> ShardMap {
    let mut random = StdRng::seed_from_u64(1);
    let ids: Vec<NodeId> = (0..nodes).map(|n| NodeId::new(&format!("data-node-{n:05}")).unwrap()).collect();
    let at = |n: usize| MapNode {
        addr: format!("10.{}.{}.{}:7100", n >> 16 & 255, n >> 8 & 255, n & 255),
        zone: Some(format!("zone-{}", n % 3)),
        rack: Some(format!("rack-{}", n % 300)),
        status: NodeStatus::Alive,
    };
    let mut row = || {
        let mut copies: Vec<usize> = Vec::new();
        while copies.len() < 3 {
            let node = random.random_range(0..nodes);
            if !copies.contains(&node) {
                copies.push(node);
            }
        }
        let id = |at: &usize| ids[*at].clone();
        let mut in_sync: Vec<NodeId> = copies.iter().map(id).collect();
        in_sync.sort_unstable();
        let (primary, replicas) = (Some(id(&copies[0])), copies[1..].iter().map(id).collect());
        MapShard { epoch: Epoch(random.random_range(1..1_000)), primary, replicas, in_sync }
    };
    let rows = (0..shards).map(|_| row()).collect();
    ShardMap {
        generation: 1,
        revision: Revision(1),
        cluster_id: "bench".to_owned(),
        key_hash: "xxh64".to_owned(),
        shard_hash: "jump".to_owned(),
        num_shards: u32::try_from(shards).unwrap(),
        replication_factor: 3,
        nodes: ids.iter().cloned().zip((0..nodes).map(at)).collect(),
        shards: rows,
    }
}

/// Keys of 8 to 64 bytes.
fn keys() -> Vec<String> {
    let mut random = StdRng::seed_from_u64(2);
    let mut key = || {
        let length = random.random_range(8..=64);
        (0..length).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
    };
    (0..KEYS).map(|_| key()).collect()
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}

fn print_from_wire(shards: usize, nodes: usize) {
    let wire = wire_map(shards, nodes);
    let begun = Instant::now();
    let map = CompactMap::from_wire(wire);
    println!("from_wire of {shards} shards: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    println!("map, computed: {:.1} MiB", mib(map.bytes() as u64));
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Builds the map row by row from a small one, so that no wire form of it is ever in memory.
fn print_resident(shards: usize, nodes: usize) {
    let before = resident();
    let mut small = wire_map(1, nodes);
    small.num_shards = u32::try_from(shards).unwrap();
    let ids: Vec<NodeId> = small.nodes.keys().cloned().collect();
    // Rows of no copies: what is freed of them is one large piece, which goes back to the kernel at once.
    let empty = MapShard { epoch: Epoch(1), primary: None, replicas: vec![], in_sync: vec![] };
    small.shards = vec![empty; shards];
    let cache = MapCache::new();
    cache.install(small);
    let mut random = StdRng::seed_from_u64(3);
    for first in (0..shards).step_by(1_000) {
        let revision = Revision(2 + first as u64);
        let shards = first..shards.min(first + 1_000);
        let changes = shards.map(|shard| change(shard, &ids, &mut random, revision)).collect();
        cache.apply(&WatchEvent { revision, changes });
    }
    let after = resident();
    println!(
        "map, measured (VmRSS of a process that applied {shards} changes to an empty map): {:.1} MiB",
        mib(after.saturating_sub(before))
    );
    black_box(cache);
}

fn change(shard: usize, ids: &[NodeId], random: &mut StdRng, revision: Revision) -> WatchChange {
    let first = random.random_range(0..ids.len());
    let id = |n: usize| ids[(first + n * 7) % ids.len()].clone();
    WatchChange::Shard(Shard {
        id: ShardId(u32::try_from(shard).unwrap()),
        epoch: Epoch(2),
        primary: Some(id(0)),
        replicas: vec![id(1), id(2)],
        learners: vec![],
        in_sync: vec![id(0), id(1), id(2)],
        in_sync_version: 1,
        status: ShardStatus::Active,
        size_bytes: None,
        vectors: None,
        revision,
    })
}

/// Whoever routes a key has just read it.
fn warm(keys: &[String]) {
    for key in keys {
        black_box(key.bytes().fold(0_u8, u8::wrapping_add));
    }
}

/// Nanoseconds a call of `route`, by batches: p50 and p99 of the batches' means.
fn route_ns(cache: &MapCache, keys: &[String], rounds: usize) -> (f64, f64) {
    let mut means = Vec::new();
    for _ in 0..rounds {
        for batch in keys.chunks_exact(BATCH) {
            warm(batch);
            let begun = Instant::now();
            for key in batch {
                let routed = cache.route(black_box(key)).unwrap();
                black_box((routed.epoch(), routed.primary().and_then(|primary| primary.addr())));
            }
            means.push(begun.elapsed().as_nanos() as f64 / BATCH as f64);
        }
    }
    means.sort_by(f64::total_cmp);
    (means[means.len() / 2], means[means.len() * 99 / 100])
}

fn hash_ns(keys: &[String], shards: u32) -> f64 {
    let mut means = Vec::new();
    for batch in keys.chunks_exact(BATCH) {
        warm(batch);
        let begun = Instant::now();
        for key in batch {
            black_box(hashing::shard_of_key(black_box(key), shards));
        }
        means.push(begun.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    means.sort_by(f64::total_cmp);
    means[means.len() / 2]
}

fn print_changes(cache: &MapCache, ids: &[NodeId], shards: usize) {
    let mut random = StdRng::seed_from_u64(4);
    let mut took = Vec::new();
    for _ in 0..2_000 {
        let revision = Revision(cache.version().unwrap().revision.0 + 1);
        let changes = vec![change(random.random_range(0..shards), ids, &mut random, revision)];
        let event = WatchEvent { revision, changes };
        let begun = Instant::now();
        cache.apply(&event);
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    println!(
        "apply a change of one shard: p50 {:?}, p99 {:?}",
        took[took.len() / 2],
        took[took.len() * 99 / 100]
    );
}

fn main() {
    let (shards, nodes) = (argument("--shards", 1_000_000), argument("--nodes", 10_000));
    if std::env::args().any(|argument| argument == "--resident") {
        return print_resident(shards, nodes);
    }
    // In a process of its own, whose memory nothing else has touched.
    let own = std::env::current_exe().unwrap();
    let sizes = ["--shards", &shards.to_string(), "--nodes", &nodes.to_string()].map(str::to_owned);
    std::process::Command::new(own).arg("--resident").args(sizes).status().unwrap();
    print_from_wire(shards, nodes);

    let (cache, keys) = (MapCache::new(), keys());
    cache.install(wire_map(shards, nodes));
    let ids: Vec<NodeId> = cache.get().unwrap().nodes().map(|node| node.id.clone()).collect();
    print_changes(&cache, &ids, shards);
    println!("key to shard alone: p50 {:.0} ns", hash_ns(&keys, u32::try_from(shards).unwrap()));
    let (p50, p99) = route_ns(&cache, &keys, 5);
    println!("route(key) with the primary's address: p50 {p50:.0} ns, p99 of batches {p99:.0} ns");
    let (p50, p99) = route_ns(&cache, &keys[..FEW_KEYS], 200);
    println!("route(key) of {FEW_KEYS} keys again and again: p50 {p50:.0} ns, p99 of batches {p99:.0} ns");

    let (done, applied) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = StdRng::seed_from_u64(5);
            while !done.load(Ordering::Relaxed) {
                let revision = Revision(cache.version().unwrap().revision.0 + 1);
                let changes = vec![change(random.random_range(0..shards), &ids, &mut random, revision)];
                cache.apply(&WatchEvent { revision, changes });
                applied.fetch_add(1, Ordering::Relaxed);
            }
        });
        let begun = Instant::now();
        let (p50, p99) = route_ns(&cache, &keys, 5);
        let rate = applied.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
        println!("route(key) under {rate:.0} changes/s: p50 {p50:.0} ns, p99 of batches {p99:.0} ns");
        done.store(true, Ordering::Relaxed);
    });

    if !std::env::args().any(|argument| argument == "--table") {
        let mut criterion = Criterion::default().measurement_time(Duration::from_secs(5));
        let mut next = keys.iter().cycle();
        criterion.bench_function("route", |bencher| {
            bencher.iter(|| {
                let routed = cache.route(next.next().unwrap()).unwrap();
                black_box(routed.primary().and_then(|primary| primary.addr().map(str::len)))
            });
        });
    }
}
