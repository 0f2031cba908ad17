//! Disk use stays bounded however often the same few rows are overwritten.
//!
//! `RUVECTOR_OVERWRITES` sets how often; a million takes some 25 s, and docs/durability.md has the figures of one run.

use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::Instant;

use super::*;
use crate::config::Compaction;

const OVERWRITES: u64 = 1_000_000;
const KEYS: u64 = 64;
const VALUE_BYTES: usize = 100;
const IN_FLIGHT: usize = 4_000;
/// What all files together may take, in bytes: two snapshots and a log tail are small here, so that nearly all of it is
/// allocated segments (4 MiB each) and sled's own.
const MOST_BYTES: u64 = 48 << 20;

#[derive(Debug, Default, Clone, Copy)]
struct Use {
    log: u64,
    snapshots: u64,
    rows: u64,
}

impl Use {
    fn of(dir: &Path) -> Self {
        let mut all = Self::default();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match name.as_str() {
                "rows" => all.rows += bytes_under(&path),
                name if name.starts_with("snapshot-") => all.snapshots += len(&path),
                _ => all.log += len(&path),
            }
        }
        all
    }

    fn total(self) -> u64 {
        self.log + self.snapshots + self.rows
    }
}

/// Files come and go while they are counted.
fn len(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn bytes_under(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |path: std::path::PathBuf| if path.is_dir() { bytes_under(&path) } else { len(&path) };
    entries.filter_map(|entry| Some(of(entry.ok()?.path()))).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_use_is_bounded_however_often_rows_are_overwritten() {
    let overwrites = std::env::var("RUVECTOR_OVERWRITES").ok().and_then(|text| text.parse().ok());
    let overwrites: u64 = overwrites.unwrap_or(OVERWRITES);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("n0");
    let mut cluster = Cluster::in_memory(1);
    cluster.adjust = |_, config| {
        config.seeds.clear();
        config.compaction = Compaction { snapshot_every_entries: 10_000, keep_entries: 4_000 };
    };
    cluster.segment_bytes = 4 << 20;
    cluster.real.insert(0, dir.clone());
    cluster.start(0).await;
    cluster.put("first", "1").await;
    let node = cluster.node(0).clone();
    let begun = Instant::now();
    let mut most = Use::default();
    let command = |n: u64| Bytes::from(format!("k{:02}={n:010}{}", n % KEYS, "x".repeat(VALUE_BYTES - 10)));
    let written: u64 = (0..overwrites).map(|n| command(n).len() as u64).sum();
    let mut answers = futures::stream::iter(0..overwrites)
        .map(|n| {
            let (node, command) = (node.clone(), command(n));
            async move { node.propose(command).await }
        })
        .buffer_unordered(IN_FLIGHT);
    let mut done = 0_u64;
    while let Some(answer) = answers.next().await {
        answer.unwrap();
        done += 1;
        if done.is_multiple_of(2_000) {
            let now = Use::of(&dir);
            if now.total() > most.total() {
                most = now;
            }
        }
    }
    drop(answers);
    drop(node);
    let logical = KEYS * (VALUE_BYTES as u64 + 3);
    println!(
        "{overwrites} overwrites of {KEYS} rows ({logical} bytes of rows, {written} bytes of commands) in {:.1} s; most on \
         disk: {} bytes, of these log {}, snapshots {}, rows {}; {:.1} % of what was written",
        begun.elapsed().as_secs_f64(),
        most.total(),
        most.log,
        most.snapshots,
        most.rows,
        100.0 * most.total() as f64 / written as f64
    );
    assert!(most.total() > 0 && most.total() < MOST_BYTES, "{most:?}");
    if overwrites >= 1_000_000 {
        assert!(most.total() < written, "{most:?} for {written} bytes of commands");
    }
}
