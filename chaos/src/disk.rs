//! A small disk for one control node, which can be filled: a tmpfs, where mounting one is permitted.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Room for two log segments (64 MiB each) and the rows.
const SIZE: &str = "size=176m";
/// Takes what is left.
const BALLAST: &str = "ballast";
static PIECE: [u8; 64 << 10] = [0; 64 << 10];

/// A mounted tmpfs; unmounted when it is dropped.
pub(crate) struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts one on `dir`, or says why not.
    pub(crate) fn mount(dir: &Path) -> Result<Self, String> {
        fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(dir).stdin(Stdio::null());
        let done = command.output().map_err(|e| format!("mount: {e}"))?;
        if done.status.success() {
            Ok(Self { dir: dir.to_path_buf() })
        } else {
            Err(String::from_utf8_lossy(&done.stderr).trim().to_owned())
        }
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Fills it but for some bytes; whether it was.
    pub(crate) fn fill(&self, left: u64) -> bool {
        let path = self.dir.join(BALLAST);
        let Ok(mut file) = File::create(&path) else { return false };
        while file.write_all(&PIECE).is_ok() {}
        let size = file.metadata().map(|data| data.len()).unwrap_or(0);
        file.set_len(size.saturating_sub(left)).is_ok()
    }

    /// Gives the room back.
    pub(crate) fn empty(&self) {
        // There is none unless it was filled.
        fs::remove_file(self.dir.join(BALLAST)).ok();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What can't be unmounted is left to the script that started us.
        Command::new("umount").arg("-l").arg(&self.dir).status().ok();
    }
}
