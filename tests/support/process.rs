//! A process under test: started with its output in a file, signalled, and killed when dropped.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::wait::wait_for;

/// Lines of each log that a failed test prints.
const TAIL_LINES: usize = 60;

/// The built binary `name`: beside our own, or in the folder that RUVECTOR_CLUSTER_TEST_BIN_DIR names (a release build, say).
pub fn program(name: &str) -> PathBuf {
    let ours = Path::new(env!("CARGO_BIN_EXE_ruvector-cluster")).with_file_name(name);
    let program =
        std::env::var_os("RUVECTOR_CLUSTER_TEST_BIN_DIR").map_or(ours, |dir| Path::new(&dir).join(name));
    assert!(
        program.exists(),
        "{} is missing: run `cargo test --workspace`, or `cargo build --workspace` before",
        program.display()
    );
    program
}

/// A running (or stopped, or ended) child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it prints is appended to `log`.
    pub fn spawn(name: &str, program: &Path, args: &[String], log: &Path) -> Self {
        let out = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        command.env("RUVECTOR_CLUSTER_FAIL_POINTS", Self::points(log));
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", program.display()));
        Self { name: name.to_owned(), child, log: log.to_path_buf() }
    }

    /// Where fail points of the process that logs to `log` are armed; the next run of it is under them too.
    fn points(log: &Path) -> PathBuf {
        log.with_extension("points")
    }

    /// Arms a fail point: `kill.NAME` or `hold.NAME`.
    pub fn arm(&self, point: &str) {
        let folder = Self::points(&self.log);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(point), "").unwrap();
    }

    /// Takes that back.
    pub fn disarm(&self, point: &str) {
        std::fs::remove_file(Self::points(&self.log).join(point)).unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|e| panic!("cannot signal {}: {e}", self.name));
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGSTOP: the process keeps its connections and answers nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, and waits for the exit.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.exit_status(deadline).await
    }

    /// Waits until the process ends by itself.
    pub async fn exit_status(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} to exit", self.name);
        wait_for(&what, deadline, async || match self.child.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err("still running".to_owned()),
        })
        .await
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// All that it (and its earlier runs) printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn end(&mut self) {
        // Fails only when it is gone already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(TAIL_LINES);
            eprintln!("---- the end of what {} logged ----\n{}", self.name, lines[from..].join("\n"));
        }
    }
}
