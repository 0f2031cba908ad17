//! A control node's process: started with its output in a file, signalled, and ended with us, whatever ends us.
//!
//! A process is started through this very binary (`chaos as-child PID PROGRAM ..`), which asks the kernel to be killed with its
//! parent and then becomes PROGRAM. Caveat: the kernel means the parent's *thread*, so processes are started on the main one.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

/// The first argument of a process that becomes another one.
pub(crate) const AS_CHILD: &str = "as-child";

/// Becomes the program that `args` name (parent's id, program, its arguments).
pub(crate) fn become_child(args: &[String]) -> ExitCode {
    let [parent, program, rest @ ..] = args else { return ExitCode::from(2) };
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    let is_alive = getppid().is_some_and(|pid| pid.as_raw_nonzero().to_string() == *parent);
    if bound.is_err() || !is_alive {
        return ExitCode::FAILURE;
    }
    let error = Command::new(program).args(rest).exec();
    eprintln!("cannot start {program}: {error}");
    ExitCode::FAILURE
}

/// A running, stopped or ended child.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `program` with what it prints appended to `log`.
    pub(crate) fn spawn(program: &Path, args: &[String], log: &Path) -> Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(AS_CHILD).arg(std::process::id().to_string()).arg(program).args(args);
        // In a group of its own, so that Ctrl-C reaches only us.
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGSTOP or SIGCONT. One that is gone needs no signal: its end is noticed elsewhere.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).ok();
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // Fails only when it is gone already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A log, of which each line is read once.
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    read: usize,
    /// Where the running process's part begins.
    begun: usize,
}

impl Log {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, read: 0, begun: 0 }
    }

    /// Lines since the last call that tell of a panic.
    pub(crate) fn new_panics(&mut self) -> Vec<String> {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes.get(self.read..).unwrap_or_default()).into_owned();
        self.read = bytes.len();
        text.lines().filter(|line| line.contains("panicked at")).map(str::to_owned).collect()
    }

    /// A process is started.
    pub(crate) fn begin(&mut self) {
        self.begun = std::fs::metadata(&self.path).map_or(0, |data| data.len() as usize);
    }

    /// Whether the process that was started last has said this.
    pub(crate) fn says(&self, text: &str) -> bool {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.begun..).unwrap_or_default()).contains(text)
    }

    /// Its last lines.
    pub(crate) fn tail(&self) -> String {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(6)..].join("\n")
    }
}
