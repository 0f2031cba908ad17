//! A control node: the server as it ships, over a simulated disk, network and clock.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ruvector_cluster::backup::Backup;
use ruvector_cluster::client::ids::NodeId;
use ruvector_cluster::config::{Config, LogFormat};
use ruvector_cluster::metadata::Metadata;
use ruvector_cluster::restore::{Target, restore_into};
use ruvector_cluster::server::{self, Parts, Running};
use ruvector_cluster_raft::{Node, Phase, Timing};
use ruvector_cluster_storage::{MemRows, OpenOptions, SimDisk};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::data::clock::SimClock;
use crate::host::Host;
use crate::net::Net;
use crate::plan::Plan;
use crate::record::Recorder;
use crate::reference::Reference;
use crate::trace::Trace;
use ruvector_cluster_check::history::Seen;

/// Segments of the log: small, so that runs have many.
const SEGMENT_BYTES: u64 = 64 << 10;
/// Records kept in memory: few, so that some are read from the disk.
const CACHE_BYTES: u64 = 16 << 10;

/// A process that ended by itself is started again after so long.
const SUPERVISOR: Duration = Duration::from_millis(500);

/// What a control node's parts share with the rest of the run.
#[derive(Clone)]
pub struct World {
    /// The network.
    pub net: Net,
    /// For everything that is drawn.
    pub chance: Chance,
    /// Where everything is taken down.
    pub recorder: Recorder,
    /// What happened.
    pub trace: Trace,
    /// The run.
    pub plan: Arc<Plan>,
    /// The state as it has to be.
    pub reference: Reference,
}

impl World {
    /// Snapshots that a control node sent to another, so far.
    #[must_use]
    pub fn installs(&self) -> u64 {
        self.net.counts().snapshots
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGKILL: what was written is there.
    Kill,
    /// Power loss: what was not synced is there in parts, or not.
    PowerLoss,
}

/// One control node, alive or not.
pub struct ControlNode {
    world: World,
    /// Its name.
    pub name: String,
    listen: SocketAddr,
    clock: Arc<SimClock>,
    seeds: Vec<String>,
    state: Mutex<State>,
}

struct State {
    disk: SimDisk,
    rows: MemRows,
    host: Option<Host>,
    running: Option<Arc<Running>>,
    runs: u32,
    /// Why it does not run, where it ended by itself, and since when.
    stopped: Option<(String, Instant)>,
}

/// A node's handles while it runs.
#[derive(Clone)]
pub struct Live {
    /// Consensus.
    pub node: Node,
    /// The replicated state as published.
    pub state: watch::Receiver<Arc<Metadata>>,
    /// The stored rows.
    pub rows: MemRows,
    /// Counts the starts of its process.
    pub run: u32,
}

/// Where the client API of the control node with this number is.
#[must_use]
pub fn address(number: usize) -> SocketAddr {
    let last = u8::try_from(number).unwrap_or(u8::MAX);
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, last), 7_000))
}

impl ControlNode {
    /// The node with this number, on an empty disk, not started; it looks for its cluster at `seeds`.
    #[must_use]
    pub fn new(world: World, number: usize, seeds: Vec<String>) -> Self {
        let clock =
            Arc::new(SimClock::new(world.chance.between(976, 1_024), world.chance.between(0, 1 << 30)));
        let state = State {
            disk: SimDisk::new(),
            rows: MemRows::new(),
            host: None,
            running: None,
            runs: 0,
            stopped: None,
        };
        Self {
            name: format!("n{number}"),
            listen: address(number),
            clock,
            seeds,
            state: Mutex::new(state),
            world,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `host:port` of its client API.
    #[must_use]
    pub fn addr(&self) -> String {
        self.listen.to_string()
    }

    /// Where other control nodes reach it.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        SocketAddr::new(self.listen.ip(), self.listen.port() + 1_000)
    }

    /// Its clocks.
    #[must_use]
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// Its disk, as the present process has it.
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        self.state().disk.clone()
    }

    /// Its handles, while it runs.
    #[must_use]
    pub fn live(&self) -> Option<Live> {
        let state = self.state();
        let running = state.running.as_ref()?;
        Some(Live {
            node: running.node.clone(),
            state: running.state.clone(),
            rows: state.rows.clone(),
            run: state.runs,
        })
    }

    /// Whether it believes to have been taken in by its cluster at some time.
    #[must_use]
    pub fn was_member(&self) -> bool {
        let running = |live: Live| *live.node.phase().borrow() == Phase::Running;
        self.live().is_some_and(running)
    }

    /// Whether there is a process, be it paused or starting.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state().host.is_some()
    }

    /// Whether its process stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.state().host.as_ref().is_some_and(Host::is_paused)
    }

    /// Why it ended by itself, if it did, once a supervisor would start it again.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        let state = self.state();
        let (why, since) = state.stopped.as_ref()?;
        (since.elapsed() >= SUPERVISOR).then(|| why.clone())
    }

    /// Makes its empty disk what a backup restores to.
    ///
    /// # Errors
    /// What was wrong with the backup or the disk.
    pub async fn restore(&self, backup: Backup) -> Result<(), String> {
        let (disk, rows) = {
            let state = self.state();
            (state.disk.clone(), state.rows.clone())
        };
        let raft_id = (self.world.chance.bits() >> 11).max(1);
        let options = OpenOptions { raft_id: Some(raft_id), ..self.open_options() };
        let target = Target { disk: Arc::new(disk), rows: Arc::new(rows), options };
        let cluster_id = format!("{:032x}", self.world.chance.bits());
        if let Ok(Some(state)) = backup.state.restored_as(&cluster_id) {
            self.world.reference.restart(state);
        }
        let restored = restore_into(target, backup, &self.config(), cluster_id).await;
        restored.map(drop).map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        // The command that restored has ended; its locks and what it had not synced are gone.
        let mut state = self.state();
        state.disk = state.disk.crash(self.world.chance.bits());
        state.rows = state.rows.crash(self.world.chance.bits());
        Ok(())
    }

    fn open_options(&self) -> OpenOptions {
        OpenOptions { segment_bytes: SEGMENT_BYTES, cache_bytes: CACHE_BYTES, ..OpenOptions::new(&self.name) }
    }

    fn config(&self) -> Config {
        Config {
            node_id: NodeId::new(&self.name).expect("simulated nodes have legal names"),
            data_dir: "/simulated".into(),
            listen: self.listen,
            peer_listen: self.peer_addr(),
            advertise: None,
            peer_advertise: None,
            seeds: self.seeds.clone(),
            bootstrap_expect: self.world.plan.expects,
            settings: self.world.plan.settings.clone(),
            max_voters: self.world.plan.control_nodes,
            timing: Timing::default(),
            gossip: false,
            log: String::new(),
            log_format: LogFormat::Text,
        }
    }

    fn parts(&self, host: &Host, state: &State) -> Parts {
        let chance = &self.world.chance;
        let (recorder, reference) = (self.world.recorder.clone(), self.world.reference.clone());
        // Known once the directory is open; entries are applied only after that.
        let raft_id = (chance.bits() >> 11).max(1);
        let open = OpenOptions { raft_id: Some(raft_id), ..self.open_options() };
        let own = hash_of(&[self.name.as_bytes()]);
        Parts {
            disk: Arc::new(state.disk.clone()),
            rows: Arc::new(state.rows.clone()),
            transport: self.world.net.transport(host),
            clock: self.clock.clone(),
            // It would be told who is alive past the simulated network.
            gossip: None,
            open,
            compaction: self.world.plan.compaction,
            seed: Some(chance.bits()),
            request_prefix: chance.bits(),
            observer: Some(Arc::new(move |index, time_ms, command| {
                let digest = hash_of(&[&time_ms.to_le_bytes(), command]);
                // Entries have no say in whose log they are in: the name will do for telling logs apart.
                recorder.node(own, Seen::Applied { index, digest });
                if let Some((revision, hash)) = reference.take(index, time_ms, command) {
                    recorder.node(0, Seen::State { index: revision, hash });
                }
            })),
        }
    }

    /// Starts its process, unless there is one.
    pub fn start(self: &Arc<Self>) {
        let (host, parts) = {
            let mut state = self.state();
            if state.host.is_some() {
                return;
            }
            let host = Host::new(&self.name);
            state.runs += 1;
            state.stopped = None;
            state.host = Some(host.clone());
            let parts = self.parts(&host, &state);
            (host, parts)
        };
        self.world.trace.note(&[&self.name, "starts"]);
        let (this, own) = (self.clone(), host.clone());
        drop(host.spawn(async move {
            let why = match server::start(&this.config(), this.listen, parts).await {
                Err(error) => format!("{:#}", anyhow::Error::from(error)),
                Ok(running) => {
                    let running = Arc::new(running);
                    this.world.net.listen_http(&this.addr(), &own, running.router.clone());
                    let node = running.node.clone();
                    this.state().running = Some(running);
                    node.fatal().await.to_string()
                }
            };
            this.ended(&own, why);
        }));
    }

    /// The process ended by itself.
    fn ended(&self, host: &Host, why: String) {
        self.world.trace.note(&[&self.name, "stopped:", &why]);
        let mut state = self.state();
        if state.host.as_ref().is_some_and(|now| !now.is_killed() && std::ptr::eq(now.name(), host.name())) {
            state.stopped = Some((why, Instant::now()));
            self.end(&mut state, End::Kill);
        }
    }

    /// Ends its process; false where there is none.
    pub fn kill(&self, how: End) -> bool {
        let mut state = self.state();
        let is_up = state.host.is_some();
        if is_up {
            self.world.trace.note(&[&self.name, &format!("{how:?}")]);
            self.end(&mut state, how);
        }
        is_up
    }

    fn end(&self, state: &mut State, how: End) {
        let Some(host) = state.host.take() else { return };
        // The disk first: from here on nothing of the old process reaches it.
        state.disk = match how {
            End::Kill => state.disk.kill(),
            End::PowerLoss => state.disk.crash(self.world.chance.bits()),
        };
        // What sled has not written itself dies with its process, too.
        state.rows = state.rows.crash(self.world.chance.bits());
        if let Some(running) = state.running.take() {
            running.abort();
        }
        host.kill();
    }

    /// Stops the process where it is, or lets it go on; false where there is none.
    pub fn set_paused(&self, paused: bool) -> bool {
        let state = self.state();
        if let Some(host) = &state.host {
            self.world.trace.note(&[&self.name, if paused { "paused" } else { "goes on" }]);
            state.disk.set_stalled(paused);
            if let Some(running) = &state.running {
                running.node.set_paused(paused);
            }
            host.set_paused(paused);
        }
        state.host.is_some()
    }

    /// How its disk behaves from now on.
    pub fn with_disk(&self, set: impl FnOnce(&SimDisk)) {
        set(&self.state().disk);
    }

    /// Leaves no room on its disk, for the log and for the stored rows.
    pub fn fill_disk(&self) {
        let state = self.state();
        state.disk.set_capacity(Some(0));
        state.rows.set_full(true);
    }

    /// Lifts every fault of its disk.
    pub fn heal_disk(&self) {
        self.state().rows.set_full(false);
        self.with_disk(|disk| {
            disk.lift_failures();
            disk.set_capacity(None);
            disk.set_stalled(false);
            disk.set_sync_time(Some(Duration::from_micros(200)));
        });
    }
}

/// XXH64 of `parts`, one after the other.
#[must_use]
pub fn hash_of(parts: &[&[u8]]) -> u64 {
    use std::hash::Hasher;
    let mut hash = twox_hash::XxHash64::with_seed(0);
    parts.iter().for_each(|part| hash.write(part));
    hash.finish()
}
