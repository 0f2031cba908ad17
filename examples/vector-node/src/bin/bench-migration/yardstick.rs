//! What the machine itself does, measured beside the cluster, in the same folder: sequential writes that are made durable, and
//! a plain TCP stream on loopback. And what machine it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;

/// Bytes of each piece.
const PIECE: usize = 1 << 20;
/// Pieces written to disk.
const DISK_PIECES: usize = 64;
/// Pieces sent over loopback.
const LOOPBACK_PIECES: usize = 1_024;

/// Bytes a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Throughput(pub(crate) f64);

impl Throughput {
    /// So many in that time.
    pub(crate) fn of(bytes: u64, time: Duration) -> Self {
        Self(bytes as f64 / time.as_secs_f64().max(1e-9))
    }

    /// In words.
    pub(crate) fn spell(self) -> String {
        format!("{:.1} MiB/s", self.0 / f64::from(1 << 20))
    }
}

/// Writes of 1 MiB, one after the other, each made durable before the next.
pub(crate) fn disk(folder: &Path) -> Result<Throughput> {
    let path = folder.join("yardstick");
    let written = write_pieces(&path).context("measuring the disk");
    fs::remove_file(&path).context("removing what was measured with")?;
    written
}

fn write_pieces(path: &Path) -> Result<Throughput> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    let piece = vec![0x5a; PIECE];
    let began = Instant::now();
    for _ in 0..DISK_PIECES {
        file.write_all(&piece)?;
        File::sync_data(&file)?;
    }
    Ok(Throughput::of((DISK_PIECES * PIECE) as u64, began.elapsed()))
}

/// One connection, read as it comes.
pub(crate) fn loopback() -> Result<Throughput> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let sender = std::thread::spawn(move || -> io::Result<()> {
        let mut stream = TcpStream::connect(addr)?;
        let piece = vec![0x5a; PIECE];
        (0..LOOPBACK_PIECES).try_for_each(|_| stream.write_all(&piece))
    });
    let (mut stream, _) = listener.accept()?;
    let (mut room, mut received) = (vec![0; PIECE], 0);
    let began = Instant::now();
    loop {
        match stream.read(&mut room)? {
            0 => break,
            count => received += count as u64,
        }
    }
    let took = began.elapsed();
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    Ok(Throughput::of(received, took))
}

/// The machine in one line: cores, kernel, and what `folder` is on.
pub(crate) fn machine(folder: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    format!(
        "{cores} cores ({}), Linux {}, files on {}",
        cpu.unwrap_or("unknown"),
        kernel.trim().split('-').next().unwrap_or_default(),
        disk_kind(&mounts, folder)
    )
}

/// File system of the longest mount point above `folder`.
fn disk_kind(mounts: &str, folder: &Path) -> String {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<&str>>());
    let above = fields.filter(|fields| fields.len() > 2 && folder.starts_with(fields[1]));
    let nearest = above.max_by_key(|fields| fields[1].len());
    nearest.map_or_else(|| "unknown".to_owned(), |fields| fields[2].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_on_the_nearest_mount_above_it() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmpfiles xfs rw 0 0\n";
        assert_eq!(disk_kind(mounts, Path::new("/tmp/x")), "tmpfs");
        assert_eq!(disk_kind(mounts, Path::new("/var/x")), "ext4");
    }

    #[test]
    fn both_yardsticks_measure_something() {
        let folder = tempfile::tempdir().unwrap();
        assert!(disk(folder.path()).unwrap().0 > 0.0);
        assert!(loopback().unwrap().0 > 0.0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
