//! What the machine itself does, in the same folder: small writes that are made durable one by one. And what machine it is.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;

const RECORD: [u8; 256] = [0x5a; 256];
const RECORDS: u32 = 2_000;

/// Appends of 256 bytes with fdatasync a second, into a file whose room is there already, as a log's is.
///
/// # Errors
/// When the file can't be written.
pub(crate) fn fdatasyncs_per_s(folder: &Path) -> Result<f64> {
    let path = folder.join("yardstick");
    let measured = append_all(&path).context("measuring the disk");
    fs::remove_file(&path).context("removing what was measured with")?;
    Ok(f64::from(RECORDS) / measured?.as_secs_f64())
}

fn append_all(path: &Path) -> Result<Duration> {
    use std::os::unix::fs::FileExt;
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    file.write_all_at(&vec![0; RECORD.len() * RECORDS as usize], 0)?;
    file.sync_all()?;
    let began = Instant::now();
    for n in 0..u64::from(RECORDS) {
        file.write_all_at(&RECORD, n * RECORD.len() as u64)?;
        file.sync_data()?;
    }
    Ok(began.elapsed())
}

/// The machine in one line, and its disk.
///
/// # Errors
/// When the disk can't be measured.
pub(crate) fn describe(folder: &Path) -> Result<String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    Ok(format!(
        "{cores} cores ({}), Linux {}; the disk does {:.0} appends of 256 bytes with fdatasync a second",
        cpu.unwrap_or("unknown"),
        kernel.trim().split('-').next().unwrap_or_default(),
        fdatasyncs_per_s(folder)?,
    ))
}

/// CPU time that a process has taken, user and system.
///
/// # Errors
/// When it is gone.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    // utime and stime are fields 14 and 15.
    ticks(&format!("/proc/{pid}/stat"), 14)
}

/// CPU time of all children that have ended.
///
/// # Errors
/// Where there is no `/proc`.
pub(crate) fn cpu_time_of_ended() -> Result<Duration> {
    // cutime and cstime.
    ticks("/proc/self/stat", 16)
}

/// The sum of field `first` and the next, which are in clock ticks.
fn ticks(path: &str, first: usize) -> Result<Duration> {
    let stat = fs::read_to_string(path).with_context(|| format!("{path} can't be read"))?;
    // Field 2, the name, may hold spaces; what comes behind its parenthesis does not.
    let (_, rest) = stat.rsplit_once(')').with_context(|| format!("{path} is not understood"))?;
    let numbers = rest.split_whitespace().skip(first - 3).take(2);
    let ticks: u64 = numbers.filter_map(|number| number.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Resident memory of a process, in bytes.
///
/// # Errors
/// When it is gone.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("a process is gone")?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("it tells no VmRSS")?;
    Ok(kib.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_and_memory_are_found() {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        let pid = std::process::id();
        assert!(cpu_time(pid).unwrap() >= Duration::from_millis(10));
        assert!(resident_bytes(pid).unwrap() > 1 << 20);
    }

    #[test]
    fn the_disk_syncs_something() {
        let folder = std::env::temp_dir();
        assert!(fdatasyncs_per_s(&folder).unwrap() > 0.0);
    }
}
