//! Random damage to a stopped node's files: it is refused with the place and what to do, or repaired, or the node rejoins the
//! two others; it never ends in another state, and nothing panics.
//!
//! `RUVECTOR_DAMAGE_CASES` and `RUVECTOR_DAMAGE_SEED` run others than the fixed ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::*;
use crate::config::Compaction;

const CASES: u64 = 520;
/// Of these, how many must end in each way, for the run to count.
const LEAST_REFUSED: u64 = 100;
const LEAST_REJOINED: u64 = 80;
/// The node that is damaged.
const VICTIM: usize = 2;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts panics of our own code; sled's over its own damaged files are caught, and its rows built anew. openraft panics where a
/// call on a core that has failed is dropped while it waits for the core's end, and another follows: the node stops anyway.
fn count_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let ends =
            info.payload_as_str().is_some_and(|said| said.contains("RaftCore should have already quit"));
        let ours = !ends && info.location().is_some_and(|at| !at.file().contains("sled-"));
        // A thread of a test itself has the test's name: that one has failed and says so.
        let worker = std::thread::current().name().is_none_or(|name| name.starts_with("tokio"));
        if ours && worker {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        before(info);
    }));
}

fn files_under(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files_under(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let mut files = Vec::new();
    files_under(from, &mut files);
    for file in files {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
}

fn named<'a>(files: &'a [PathBuf], dir: &Path, start: &str) -> Vec<&'a PathBuf> {
    let is = |path: &&PathBuf| {
        path.parent() == Some(dir) && path.file_name().unwrap().to_string_lossy().starts_with(start)
    };
    files.iter().filter(is).collect()
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

/// Where the log's parts begin in the bytes of a segment.
fn parts(bytes: &[u8]) -> Vec<usize> {
    let mut at = 32;
    let mut found = Vec::new();
    while bytes.get(at..at + 4) == Some(b"RVWF".as_slice()) {
        found.push(at);
        at += 24 + u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
    }
    found
}

/// Cuts the log between two parts, and with it all segments behind; with or without the one that is allocated for later.
fn shorten_log(dir: &Path, files: &[PathBuf], random: &mut StdRng) -> String {
    let segments = named(files, dir, "wal-");
    let used: Vec<_> = segments.iter().filter(|file| !parts(&fs::read(file).unwrap()).is_empty()).collect();
    let chosen = random.random_range(0..used.len());
    let keep_unused = random.random_range(0..4) == 0;
    let behind = |file: &&&PathBuf| file.as_path() > used[chosen].as_path();
    for later in segments.iter().filter(behind) {
        if !keep_unused || used.contains(&later) {
            fs::remove_file(later).unwrap();
        }
    }
    let mut cut = 0;
    change(used[chosen], |bytes| {
        let parts = parts(bytes);
        cut = parts[random.random_range(0..parts.len())];
        bytes[cut..].fill(0);
    });
    format!(
        "{} shortened to {cut} bytes, {} later ones gone",
        used[chosen].display(),
        used.len() - chosen - 1
    )
}

/// What tells that a log was shortened, taken away: the end mark, the rows, or both.
fn take_witnesses(dir: &Path, files: &[PathBuf], random: &mut StdRng) -> String {
    let (marks, rows) = [(true, false), (false, true), (true, true)][random.random_range(0..3)];
    if marks {
        named(files, dir, "log-end").into_iter().for_each(|mark| fs::remove_file(mark).unwrap());
    }
    if rows {
        fs::remove_dir_all(dir.join("rows")).unwrap();
    }
    format!("without mark: {marks}, without rows: {rows}")
}

fn damage_one_file(file: &Path, random: &mut StdRng) -> String {
    let len = fs::metadata(file).unwrap().len() as usize;
    let name = file.display();
    let (from, size) = match len {
        0 => return format!("{name} is empty, nothing done"),
        len => (random.random_range(0..len), random.random_range(1..=len.min(2_000))),
    };
    let to = (from + size).min(len);
    match random.random_range(0..6) {
        0 | 1 => {
            let bit = random.random_range(0..8);
            // Where something was written, mostly: most of a log is allocated and unused.
            let mut at = from;
            change(file, |bytes| {
                let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
                if !written.is_empty() && random.random_range(0..5) > 0 {
                    at = written[random.random_range(0..written.len())];
                }
                bytes[at] ^= 1 << bit;
            });
            format!("bit {bit} of byte {at} of {name} flipped")
        }
        2 => {
            change(file, |bytes| bytes[from..to].fill(0));
            format!("bytes {from}..{to} of {name} zeroed")
        }
        3 => {
            change(file, |bytes| bytes.truncate(from));
            format!("{name} cut to {from} bytes")
        }
        4 => {
            let onto = random.random_range(0..len);
            change(file, |bytes| {
                let block = bytes[from..to].to_vec();
                let end = (onto + block.len()).min(len);
                bytes[onto..end].copy_from_slice(&block[..end - onto]);
            });
            format!("bytes {from}..{to} of {name} copied to {onto}")
        }
        _ => {
            fs::remove_file(file).unwrap();
            format!("{name} deleted")
        }
    }
}

/// One case's damage; says what it was.
fn damage(dir: &Path, random: &mut StdRng) -> String {
    let mut files = Vec::new();
    files_under(dir, &mut files);
    match random.random_range(0..20) {
        0..=2 => shorten_log(dir, &files, random),
        3..=5 => {
            let cut = shorten_log(dir, &files, random);
            files.clear();
            files_under(dir, &mut files);
            format!("{cut}; {}", take_witnesses(dir, &files, random))
        }
        6 => {
            let segments = named(&files, dir, "wal-");
            let (one, other) =
                (random.random_range(0..segments.len()), random.random_range(0..segments.len()));
            let (first, second) = (fs::read(segments[one]).unwrap(), fs::read(segments[other]).unwrap());
            fs::write(segments[one], second).unwrap();
            fs::write(segments[other], first).unwrap();
            format!("segments {one} and {other} swapped")
        }
        7 => {
            let slot = ["vote-", "identity-", "promise-", "log-end-"][random.random_range(0..4)];
            let twins = named(&files, dir, slot);
            twins.iter().map(|twin| damage_one_file(twin, random)).collect::<Vec<_>>().join("; ")
        }
        8 => {
            let kind = ["snapshot-", "vote-", "wal-"][random.random_range(0..3)];
            named(&files, dir, kind).into_iter().for_each(|file| fs::remove_file(file).unwrap());
            format!("all {kind} files deleted")
        }
        9 => {
            let snapshots = named(&files, dir, "snapshot-");
            damage_one_file(snapshots[random.random_range(0..snapshots.len())], random)
        }
        10..=13 => {
            let logs = named(&files, dir, "wal-");
            damage_one_file(logs[random.random_range(0..logs.len())], random)
        }
        14 => {
            let first = damage_one_file(&files[random.random_range(0..files.len())], random);
            files.clear();
            files_under(dir, &mut files);
            format!("{first}; {}", damage_one_file(&files[random.random_range(0..files.len())], random))
        }
        _ => damage_one_file(&files[random.random_range(0..files.len())], random),
    }
}

/// An error with its causes.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A cluster whose victim was stopped with several segments, snapshots and a vote, and is a little behind.
async fn stopped(base: &Path) -> Cluster {
    let mut cluster = Cluster::in_memory(3);
    cluster.adjust =
        |_, config| config.compaction = Compaction { snapshot_every_entries: 150, keep_entries: 120 };
    cluster.segment_bytes = 16 << 10;
    cluster.real.insert(VICTIM, base.to_path_buf());
    cluster.start_all(&[0, 1, 2]).await;
    for n in 0..420 {
        cluster.put(&format!("k{}", n % 40), &format!("{n} {}", "x".repeat(n % 200))).await;
    }
    cluster.converge("k19", &format!("419 {}", "x".repeat(19))).await;
    if cluster.leader().await == VICTIM {
        cluster.node(VICTIM).transfer(None).await.unwrap();
        eventually("another one leads", async || cluster.leader().await != VICTIM).await;
    }
    cluster.stop(VICTIM).await;
    for n in 0..20 {
        cluster.put(&format!("later{n}"), "1").await;
    }
    cluster
}

/// Moves leadership among the two others: openraft's leaders remember how far a follower was, and each case sets it back.
async fn forget_the_victim(cluster: &Cluster) {
    let leader = cluster.leader().await;
    let to = cluster.node(1 - leader).raft_id();
    cluster.node(leader).transfer(Some(to)).await.unwrap();
}

enum End {
    Refused(String),
    Rejoined,
}

async fn one_case(cluster: &mut Cluster, dir: &Path) -> End {
    cluster.real.insert(VICTIM, dir.to_path_buf());
    let storage = match cluster.open(VICTIM).await {
        Ok(storage) => storage,
        Err(error) => return End::Refused(told(&error)),
    };
    forget_the_victim(cluster).await;
    if let Err(error) = cluster.start_on(VICTIM, storage).await {
        return End::Refused(told(&error));
    }
    let begun = Instant::now();
    loop {
        let states = [0, 1, VICTIM].map(|at| cluster.members[&at].view.state());
        let [_, _, victim] = &states;
        for other in &states[..2] {
            let same = other.applied != victim.applied || other == victim;
            assert!(same, "another state at entry {}: {:?}", victim.applied, cluster.describe());
        }
        if states.windows(2).all(|pair| pair[0] == pair[1]) {
            break;
        }
        assert!(begun.elapsed() < cluster::PATIENCE, "it never caught up: {:?}", cluster.describe());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    cluster.members.get_mut(&VICTIM).unwrap().node.take().unwrap().abort();
    End::Rejoined
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_damage_is_refused_or_repaired_and_never_changes_the_state() {
    count_panics();
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let cases = setting("RUVECTOR_DAMAGE_CASES").unwrap_or(CASES);
    let first_seed = setting("RUVECTOR_DAMAGE_SEED").unwrap_or(1);
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    let mut cluster = stopped(&base).await;
    // Its files are let go of some time after it stopped.
    let mut refusals: BTreeMap<String, u64> = BTreeMap::new();
    let (mut refused, mut rejoined) = (0, 0);
    for seed in first_seed..first_seed + cases {
        let dir = folder.path().join(format!("case-{seed}"));
        copy(&base, &dir);
        let what = damage(&dir, &mut StdRng::seed_from_u64(seed));
        let ended = tokio::time::timeout(cluster::PATIENCE * 2, one_case(&mut cluster, &dir)).await;
        match ended.unwrap_or_else(|_| panic!("seed {seed}: {what}: it hangs")) {
            End::Refused(why) => {
                refused += 1;
                assert!(
                    why.contains(dir.to_str().unwrap()) && why.contains("; "),
                    "seed {seed}: {what}: refused without the file or what to do: {why}"
                );
                let kind = why.replace(|c: char| c.is_ascii_digit(), "").replace(dir.to_str().unwrap(), "");
                *refusals.entry(kind.chars().take(90).collect()).or_default() += 1;
            }
            End::Rejoined => rejoined += 1,
        }
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "seed {seed}: {what}: something panicked");
        fs::remove_dir_all(&dir).ok();
    }
    println!(
        "{cases} cases from seed {first_seed}: {refused} refused, {rejoined} rejoined with the equal state"
    );
    refusals.iter().for_each(|(kind, count)| println!("{count:5} {kind}"));
    if cases >= CASES {
        assert!(
            refused >= LEAST_REFUSED && rejoined >= LEAST_REJOINED,
            "{refused} refused, {rejoined} rejoined"
        );
    }
}
