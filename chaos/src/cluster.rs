//! Control nodes as processes, each behind the proxy of its peer listener, in a folder of the run.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use ruvector_cluster_client::wire::ClusterView;
use tokio::time::Instant;

use crate::api::{Api, Ask, Reply};
use crate::disk::SmallDisk;
use crate::links::{End, Links};
use crate::ports::PortPair;
use crate::process::{Log, Process};
use crate::record::{Recorder, Trace};

/// Shards of the map: enough that failovers and moves change something all the time.
pub(crate) const SHARDS: u32 = 8;
/// Of data nodes: shorter than by default, so that the longest pauses outlast leases.
const FLAGS: &[&str] = &["--failure-timeout", "2500ms", "--heartbeat-interval", "300ms"];
/// Within this time after everything was put right the cluster serves again, on a machine with much else to do.
const RECOVERY: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// What a control node logs when it does not start for want of room.
const NO_ROOM: &str = "error: cannot open the data directory: the rows in";
/// What it logs when it has opened its files.
const OPENED: &str = " listening node=";
/// The control node whose files are on the small disk, where there is one.
pub(crate) const ON_SMALL_DISK: usize = 1;

/// What others see of a control node.
#[derive(Clone)]
pub(crate) struct Face {
    pub(crate) name: String,
    pub(crate) addr: String,
    /// Counts the starts of its process.
    pub(crate) run: Arc<AtomicU32>,
}

struct Node {
    face: Face,
    ports: PortPair,
    /// The proxy listens on this port; the one 1,000 above it is not used.
    proxy: PortPair,
    log: Log,
    process: Option<Process>,
    is_member: bool,
}

/// What to start.
pub(crate) struct Plan {
    pub(crate) program: PathBuf,
    pub(crate) work: PathBuf,
    /// Control nodes that found the cluster.
    pub(crate) founders: usize,
    /// Names for others that may join later.
    pub(crate) spares: usize,
    /// More flags, for all of them.
    pub(crate) flags: Vec<String>,
}

/// The control cluster; its processes end with it.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    pub(crate) links: Links,
    plan: Plan,
    pub(crate) api: Api,
    pub(crate) recorder: Recorder,
    /// Addresses of those that are members, for clients.
    pub(crate) addrs: Arc<Mutex<Vec<String>>>,
    pub(crate) disk: Option<SmallDisk>,
    trace: Trace,
}

impl Cluster {
    /// Names, ports and links; nothing runs yet.
    pub(crate) async fn prepare(plan: Plan, recorder: Recorder) -> Result<Self> {
        let count = plan.founders + plan.spares;
        let nodes: Vec<Node> = (0..count)
            .map(|n| {
                let (name, ports) = (format!("n{}", n + 1), PortPair::reserve());
                let log = Log::new(plan.work.join(format!("{name}.log")));
                let face = Face { name, addr: ports.addr(), run: Arc::default() };
                let is_member = n < plan.founders;
                Node { face, ports, proxy: PortPair::reserve(), log, process: None, is_member }
            })
            .collect();
        let end = |node: &Node| End {
            peer_port: node.ports.port + 1_000,
            proxy_port: node.proxy.port,
            pid: AtomicU32::new(0),
        };
        let links = Links::listen(nodes.iter().map(end).collect(), recorder.trace()).await?;
        let (api, addrs) = (Api::new()?, Arc::default());
        let trace = recorder.trace();
        let cluster = Self { nodes, links, plan, api, recorder, addrs, disk: None, trace };
        cluster.publish();
        Ok(cluster)
    }

    /// Writes down what is done to the cluster, for whoever looks for the cause of something.
    pub(crate) fn note(&self, what: &str) {
        self.trace.note(what);
    }

    pub(crate) fn faces(&self) -> Vec<Face> {
        self.nodes.iter().map(|node| node.face.clone()).collect()
    }

    pub(crate) fn name(&self, node: usize) -> String {
        self.nodes[node].face.name.clone()
    }

    pub(crate) fn addr(&self, node: usize) -> String {
        self.nodes[node].face.addr.clone()
    }

    pub(crate) fn peer_url(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.nodes[node].proxy.port)
    }

    /// Where a control node keeps its files.
    pub(crate) fn data_dir(&self, node: usize) -> PathBuf {
        let name = &self.nodes[node].face.name;
        match &self.disk {
            Some(disk) if node == ON_SMALL_DISK => disk.dir().join(name),
            _ => self.plan.work.join(name),
        }
    }

    /// Control nodes that belong to the cluster.
    pub(crate) fn members(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].is_member).collect()
    }

    /// All that could.
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// From now on a control node belongs to the cluster, or doesn't.
    pub(crate) fn set_member(&mut self, node: usize, is_member: bool) {
        self.nodes[node].is_member = is_member;
        self.publish();
    }

    fn publish(&self) {
        let addrs = self.members().iter().map(|node| self.addr(*node)).collect();
        *self.addrs.lock().unwrap_or_else(PoisonError::into_inner) = addrs;
    }

    fn args(&self, node: usize) -> Vec<String> {
        let seeds: Vec<String> = (0..self.plan.founders).map(|n| self.addr(n)).collect();
        let mut args: Vec<String> = vec!["server".to_owned()];
        let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
        flag("--node-id", self.name(node));
        flag("--listen", self.addr(node));
        flag("--peer-advertise", format!("127.0.0.1:{}", self.nodes[node].proxy.port));
        flag("--data-dir", self.data_dir(node).to_string_lossy().into_owned());
        flag("--seeds", seeds.join(","));
        flag("--num-shards", SHARDS.to_string());
        args.extend(FLAGS.iter().map(|flag| (*flag).to_owned()));
        args.extend(self.plan.flags.iter().cloned());
        args
    }

    /// Starts a control node, unless it runs.
    pub(crate) fn start(&mut self, node: usize) -> Result<()> {
        if self.nodes[node].process.is_some() {
            return Ok(());
        }
        let args = self.args(node);
        self.nodes[node].log.begin();
        let process = Process::spawn(&self.plan.program, &args, &self.nodes[node].log.path)?;
        self.note(&format!("start {}", self.name(node)));
        self.links.is_process(node, process.id());
        self.nodes[node].face.run.fetch_add(1, Ordering::Relaxed);
        self.nodes[node].process = Some(process);
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        self.check_process(node);
        self.note(&format!("kill {}", self.name(node)));
        self.links.is_process(node, 0);
        self.nodes[node].process = None;
    }

    /// Whether it has opened its files and answers.
    pub(crate) fn has_opened(&self, node: usize) -> bool {
        self.nodes[node].log.says(OPENED)
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].process.is_some()
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    pub(crate) fn pause(&self, node: usize) {
        if let Some(process) = &self.nodes[node].process {
            self.note(&format!("pause {}", self.name(node)));
            process.signal(Signal::STOP);
        }
    }

    /// SIGCONT.
    pub(crate) fn resume(&self, node: usize) {
        if let Some(process) = &self.nodes[node].process {
            process.signal(Signal::CONT);
        }
    }

    /// Notices a process that ended by itself; it is forgotten then.
    fn check_process(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if let Some(status) = node.process.as_mut().and_then(Process::ended) {
            let (name, tail) = (&node.face.name, node.log.tail());
            node.process = None;
            // docs/durability.md: what is started without any room says so and ends, to be started again.
            if !node.log.says(OPENED) && node.log.says(NO_ROOM) && tail.contains("No space left on device") {
                self.recorder.refused_start();
                self.trace.note(&format!("{name} ended: no room to start"));
            } else {
                let detail = format!("{name}: {status}; its log ends:\n{tail}");
                self.recorder.violation("no control node ends by itself", detail);
            }
        }
        for line in node.log.new_panics() {
            self.recorder.violation("no control node panics", format!("{}: {line}", node.face.name));
        }
    }

    /// Notices everything that ended or panicked by itself.
    pub(crate) fn check_processes(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.check_process(node));
    }

    /// Whom any member takes for the leader.
    pub(crate) async fn leader(&self) -> Option<usize> {
        for node in self.members() {
            if let Ok(view) = self.view(node).await
                && let Some(leader) = view.leader
            {
                let named = |node: &Node| node.face.name == leader.id.as_str();
                return self.nodes.iter().position(named).filter(|leader| self.is_up(*leader));
            }
        }
        None
    }

    /// What a control node says of the cluster, as far as it has applied.
    pub(crate) async fn view(&self, node: usize) -> Result<ClusterView, String> {
        let ask = Ask::get("/v1/cluster?consistency=stale");
        let reply = self.api.ask(&self.addr(node), &ask).await.map_err(|e| format!("{e:?}"))?;
        let text = reply.body.to_string();
        serde_json::from_value(reply.body).map_err(|_| text)
    }

    /// Asks one member after the other until an answer is as wanted, or `patience` is over.
    pub(crate) async fn insist(
        &self,
        ask: &Ask,
        patience: Duration,
        wanted: impl Fn(&Reply) -> bool,
    ) -> Result<Reply, String> {
        let addrs = self.addrs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        insist(&self.api, &addrs, ask, patience, wanted).await
    }

    /// Puts everything right: all links work, all members run, disks have room.
    pub(crate) fn heal(&mut self) -> Result<()> {
        self.note("heal");
        self.links.heal();
        if let Some(disk) = &self.disk {
            disk.empty();
        }
        self.check_processes();
        for node in self.members() {
            self.resume(node);
            self.start(node)?;
        }
        Ok(())
    }

    /// Waits until every member answers linearizably, in one term, with all members in their seats. Says what is missing when that
    /// takes too long.
    pub(crate) async fn wait_until_it_serves(&mut self) -> bool {
        let started = Instant::now();
        loop {
            let missing = match self.serves().await {
                Ok(()) => return true,
                Err(missing) => missing,
            };
            self.check_processes();
            // One that found no room to start.
            for node in self.members() {
                if self.start(node).is_err() {
                    return false;
                }
            }
            if started.elapsed() > RECOVERY {
                let detail = format!("{RECOVERY:?} after all was put right: {missing}");
                self.recorder.violation("a cluster that was put right serves again", detail);
                return false;
            }
            if self.recorder.is_broken() {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn serves(&self) -> Result<(), String> {
        let mut agreed = None;
        for node in self.members() {
            let name = self.name(node);
            let reply = self.api.ask(&self.addr(node), &Ask::get("/v1/cluster")).await;
            let reply = reply.map_err(|e| format!("{name}: {e:?}"))?;
            let text = reply.body.to_string();
            let view: ClusterView =
                serde_json::from_value(reply.body).map_err(|_| format!("{name}: {text}"))?;
            let seats =
                view.members.iter().map(|member| (member.id.to_string(), format!("{:?}", member.role)));
            let mut seats: Vec<_> = seats.collect();
            seats.sort();
            let mut wanted: Vec<_> =
                self.members().iter().map(|node| (self.name(*node), "Voter".to_owned())).collect();
            wanted.sort();
            let leader = view.leader.map(|leader| leader.id);
            if seats != wanted || leader.is_none() {
                return Err(format!("{name}: {text}"));
            }
            let told = (leader, view.term);
            if *agreed.get_or_insert_with(|| told.clone()) != told {
                return Err(format!("{name}: {told:?}, another one: {agreed:?}"));
            }
        }
        Ok(())
    }

    /// Deletes the files of a control node that does not run.
    pub(crate) fn wipe(&self, node: usize) -> Result<()> {
        let dir = self.data_dir(node);
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot delete {}", dir.display()))
    }
}

/// As [`Cluster::insist`], without the cluster.
pub(crate) async fn insist(
    api: &Api,
    addrs: &[String],
    ask: &Ask,
    patience: Duration,
    wanted: impl Fn(&Reply) -> bool,
) -> Result<Reply, String> {
    let started = Instant::now();
    let mut last = String::from("nobody was asked");
    while started.elapsed() < patience {
        for addr in addrs {
            match api.ask(addr, ask).await {
                Ok(reply) if wanted(&reply) => return Ok(reply),
                Ok(reply) => last = format!("{} {}", reply.status, reply.body),
                Err(error) => last = format!("{error:?}"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(format!("{} {}: {last}", ask.method, ask.path))
}

/// The binary of this name, in `dir`.
pub(crate) fn program(dir: &Path, name: &str) -> Result<PathBuf> {
    let program = dir.join(name);
    anyhow::ensure!(program.exists(), "{} is missing: build it, or name its folder", program.display());
    Ok(program.canonicalize()?)
}
