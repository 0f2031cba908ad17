//! The nodes as child processes, each in a group of its own, so that Ctrl-C reaches only whoever started them, who then ends them.
//!
//! Their ids stand in `pids`, so that a script can end what is left behind by a starter that was itself killed.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

/// Control nodes.
pub const CONTROL_NODES: u16 = 3;
/// How much of a log is shown when something fails.
const LAST_LINES: usize = 12;

/// What is to be started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Vector nodes at most, those that join later included.
    pub vector_nodes: u16,
    /// Components of each vector.
    pub dimensions: usize,
    /// Given to each control node, besides its name, address, folder and seeds.
    pub control_args: Vec<String>,
}

struct Node {
    name: String,
    addr: String,
    program: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

/// All of them.
pub struct Processes {
    bin_dir: PathBuf,
    work_dir: PathBuf,
    /// Control nodes listen on this + 1 and so on; vector nodes on this + 101 and so on.
    base_port: u16,
    setup: Setup,
    nodes: Vec<Node>,
}

impl Processes {
    /// Nothing runs yet.
    ///
    /// # Errors
    /// When the folder can't be made, or no ports are free.
    pub fn new(bin_dir: &Path, work_dir: &Path, setup: Setup) -> Result<Self> {
        fs::create_dir_all(work_dir).with_context(|| format!("can't make {}", work_dir.display()))?;
        let (bin_dir, work_dir) = (bin_dir.to_path_buf(), work_dir.canonicalize()?);
        let base_port = free_base_port(setup.vector_nodes)?;
        Ok(Self { bin_dir, work_dir, base_port, setup, nodes: Vec::new() })
    }

    /// Other flags for the control nodes that are started from now on.
    pub fn set_control_args(&mut self, control_args: Vec<String>) {
        self.setup.control_args = control_args;
    }

    /// Addresses of all control nodes, started or not.
    pub fn coordinators(&self) -> Vec<String> {
        (1..=CONTROL_NODES).map(|n| self.control_addr(n)).collect()
    }

    /// Where control node `n` listens, started or not.
    pub fn control_addr(&self, n: u16) -> String {
        format!("127.0.0.1:{}", self.base_port + n)
    }

    /// Starts control node `n`, from 1.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_control(&mut self, n: u16) -> Result<()> {
        let name = format!("n{n}");
        let seeds = self.coordinators().join(",");
        let addr = self.control_addr(n);
        let folder = self.folder(&name);
        let args =
            ["server", "--node-id", &name, "--listen", &addr, "--data-dir", &folder, "--seeds", &seeds];
        let own = args.map(str::to_owned).into_iter();
        let args = own.chain(self.setup.control_args.iter().cloned()).collect();
        self.start(Node { name, addr, program: self.bin_dir.join("ruvector-cluster"), args, child: None })
    }

    /// Starts another program, which listens on `addr`; a name that begins with `n` is stopped last.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_program(&mut self, name: &str, addr: &str, program: &Path, args: Vec<String>) -> Result<()> {
        let (name, addr, program) = (name.to_owned(), addr.to_owned(), program.to_path_buf());
        self.start(Node { name, addr, program, args, child: None })
    }

    /// The process id of a node that runs.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, name: &str) -> Result<u32> {
        let child = self.nodes[self.index(name)?].child.as_ref();
        Ok(child.with_context(|| format!("{name} does not run"))?.id())
    }

    /// Starts vector node `n`, from 1, in `rack`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_vector(&mut self, n: u16, rack: &str) -> Result<()> {
        let name = format!("d{n}");
        let coordinators = self.coordinators().join(",");
        let addr = self.vector_addr(n);
        let folder = self.folder(&name);
        let dimensions = self.setup.dimensions.to_string();
        let args =
            ["--node-id", &name, "--listen", &addr, "--coordinators", &coordinators, "--data-dir", &folder];
        let more = ["--dimensions", &dimensions, "--rack", rack];
        let args = args.iter().chain(&more).map(|arg| (*arg).to_owned()).collect();
        self.start(Node { name, addr, program: self.bin_dir.join("vector-node"), args, child: None })
    }

    /// Where vector node `n` listens, started or not.
    pub fn vector_addr(&self, n: u16) -> String {
        format!("127.0.0.1:{}", self.base_port + 100 + n)
    }

    /// Where a node keeps its files.
    pub fn folder(&self, name: &str) -> String {
        self.work_dir.join(name).to_string_lossy().into_owned()
    }

    fn start(&mut self, node: Node) -> Result<()> {
        self.nodes.retain(|known| known.name != node.name);
        self.nodes.push(node);
        let last = self.nodes.len() - 1;
        self.spawn(last)
    }

    /// Starts a killed node again, as it was.
    ///
    /// # Errors
    /// When there was none, or it can't be started.
    pub fn restart(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        self.spawn(index)
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let log = self.work_dir.join(format!("{}.log", self.nodes[index].name));
        let out = OpenOptions::new().create(true).append(true).open(&log)?;
        let node = &mut self.nodes[index];
        let mut command = Command::new(&node.program);
        command.args(&node.args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let child = command.spawn().with_context(|| format!("can't start {}", node.program.display()))?;
        node.child = Some(child);
        self.write_pids()
    }

    fn write_pids(&self) -> Result<()> {
        let ids: Vec<String> =
            self.nodes.iter().filter_map(|node| Some(node.child.as_ref()?.id().to_string())).collect();
        fs::write(self.work_dir.join("pids"), ids.join("\n") + "\n").context("can't write the pids")
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.nodes.iter().position(|node| node.name == name).with_context(|| format!("there is no {name}"))
    }

    /// SIGSTOP: it is there, and does nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::STOP)
    }

    /// SIGCONT: a paused node goes on where it was.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::CONT)
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let child = self.nodes[self.index(name)?].child.as_ref();
        let child = child.with_context(|| format!("{name} does not run"))?;
        kill_process(Pid::from_child(child), signal).with_context(|| format!("{name} can't be signalled"))
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        let mut child = self.nodes[index].child.take().with_context(|| format!("{name} does not run"))?;
        child.kill()?;
        child.wait()?;
        self.write_pids()
    }

    /// Fails when a node that should run has ended.
    ///
    /// # Errors
    /// Which one, and how.
    pub fn check(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child
                && let Some(status) = child.try_wait()?
            {
                bail!("{} ended by itself: {status}", node.name);
            }
        }
        Ok(())
    }

    /// SIGTERM to all, vector nodes first; SIGKILL to who is there `within` that time, whose names are returned.
    pub async fn stop_all(&mut self, within: Duration) -> Vec<String> {
        let mut slow = Vec::new();
        for prefix in ["d", "n"] {
            let deadline = Instant::now() + within;
            for node in self.nodes.iter().filter(|node| node.name.starts_with(prefix)) {
                if let Some(child) = &node.child {
                    // Whoever is gone needs no signal.
                    kill_process(Pid::from_child(child), Signal::TERM).ok();
                }
            }
            for node in self.nodes.iter_mut().filter(|node| node.name.starts_with(prefix)) {
                let Some(mut child) = node.child.take() else { continue };
                while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                if matches!(child.try_wait(), Ok(None)) {
                    slow.push(node.name.clone());
                }
                child.kill().ok();
                child.wait().ok();
            }
        }
        self.write_pids().ok();
        slow
    }

    /// Lets them run on when their starter ends.
    pub fn keep(&mut self) {
        for node in &mut self.nodes {
            node.child = None;
        }
    }

    /// For who wants to use the cluster that is kept.
    pub fn how_to_reach(&self) -> String {
        let mut out = String::from("\nthe cluster is left running:\n");
        for node in &self.nodes {
            let kind = if node.name.starts_with('n') { "control node" } else { "vector node" };
            writeln!(out, "  {kind} {}  http://{}", node.name, node.addr).ok();
        }
        let (control, folder) = (self.control_addr(1), self.work_dir.display());
        writeln!(out, "  try:  curl http://{control}/v1/health").ok();
        writeln!(out, "  end it:  kill $(cat {folder}/pids) && rm -r {folder}").ok();
        out
    }

    /// The end of each node's log.
    pub fn last_words(&self) -> String {
        let mut out = String::new();
        for node in &self.nodes {
            let path = self.work_dir.join(format!("{}.log", node.name));
            let log = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LAST_LINES);
            writeln!(out, "---- {}\n{}", path.display(), lines[from..].join("\n")).ok();
        }
        out
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A base where all ports are free: 7000, or a later round number.
fn free_base_port(vector_nodes: u16) -> Result<u16> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let ports = |base: u16| {
        let control = (1..=CONTROL_NODES).flat_map(move |n| [base + n, base + 1_000 + n]);
        control.chain((1..=vector_nodes).map(move |n| base + 100 + n))
    };
    let mut bases = (0..12).map(|n| 7_000 + 2_000 * n);
    bases.find(|base| ports(*base).all(is_free)).context("no free ports from 7001 to 30003 on 127.0.0.1")
}
