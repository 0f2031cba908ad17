//! A data node's process: the shipped agent and replicas, on a disk that outlives it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use ruvector_cluster_client::agent::{Agent, AgentConfig, AgentError, LeaseWatch, Outbox, Reporter};
use ruvector_cluster_client::chance::seeded;
use ruvector_cluster_client::clock::Clock;
use ruvector_cluster_client::control::{ControlClient, ControlOptions};
use ruvector_cluster_client::copies::{Copies, Parts};
use ruvector_cluster_client::ids::{Incarnation, NodeId, ShardId};
use ruvector_cluster_client::replica::Status;
use ruvector_cluster_client::wire::RegisterRequest;
use tokio_util::sync::CancellationToken;

use super::clock::SimClock;
use super::failures::Failures;
use super::service::{HostSpawn, Service, Shards, Wire};
use super::store::{DataDisk, OpenDisk};
use crate::chance::Chance;
use crate::host::Host;
use crate::net::Net;

/// A machine, and how a data node is started on it.
#[derive(Clone)]
pub struct DataMachine {
    /// The node's name.
    pub node: NodeId,
    /// Where it answers.
    pub addr: String,
    /// Failure domain above racks.
    pub zone: Option<String>,
    /// Failure domain above nodes.
    pub rack: Option<String>,
    /// What it reaches others through.
    pub net: Net,
    /// Its disk.
    pub disk: DataDisk,
    /// Its clocks.
    pub clock: Arc<SimClock>,
    /// `host:port` of control nodes' client APIs.
    pub control: Vec<String>,
    /// What its processes draw.
    pub chance: Chance,
    /// Where panics and bad ends are written down.
    pub failures: Failures,
    /// Registers a new store although last copies are lost with the old one.
    pub accept_data_loss: bool,
}

/// How a node's agent ended, as long as it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// It has not.
    Runs,
    /// A new store was refused, since the last copy of a shard would be lost with the old one.
    RefusedLastCopy,
}

/// A process of a data node, running or not.
pub struct DataNode {
    machine: DataMachine,
    host: Host,
    shards: Arc<Shards>,
    lease: LeaseWatch,
    agent: Arc<Mutex<AgentState>>,
}

impl DataNode {
    /// Starts a process, which registers and serves.
    #[must_use]
    pub fn start(machine: &DataMachine) -> Self {
        let machine = machine.clone();
        let host = Host::new(machine.node.as_str());
        let clock: Arc<dyn Clock> = machine.clock.clone();
        let lease = LeaseWatch::new(clock.clone());
        let (reporter, outbox) = Outbox::new();
        let shards = machine.open(&host, lease.clone(), reporter);
        let service = Service {
            who: format!("{}: answering", machine.node),
            shards: shards.clone(),
            failures: machine.failures.clone(),
        };
        machine.net.listen_data(&machine.addr, &host, Arc::new(service));
        let state = Arc::new(Mutex::new(AgentState::Runs));
        let parts = (shards.clone(), clock, lease.clone(), outbox);
        let running = run(parts, machine.clone(), host.clone(), state.clone());
        machine.failures.spawn(&host, "the agent", seeded(machine.chance.bits(), running));
        Self { machine, host, shards, lease, agent: state }
    }

    /// The process.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where it runs.
    #[must_use]
    pub fn machine(&self) -> &DataMachine {
        &self.machine
    }

    /// Ends the process, as SIGKILL or a loss of power does.
    pub fn kill(&self) {
        self.host.kill();
        self.machine.disk.crash();
    }

    /// Whether it runs, paused or not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.host.is_killed()
    }

    /// Stops everything where it is, or lets it go on.
    pub fn set_paused(&self, paused: bool) {
        self.host.set_paused(paused);
    }

    /// Another process on the same machine; this one is ended first if it runs.
    #[must_use]
    pub fn restart(&self) -> Self {
        self.kill();
        Self::start(&self.machine)
    }

    /// Loses the disk, with the process that uses it, and starts another.
    #[must_use]
    pub fn restart_wiped(&self) -> Self {
        self.kill();
        self.machine.disk.wipe();
        Self::start(&self.machine)
    }

    /// Each replica's standing as of its last event; nothing of a process that has ended.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<ShardId, Status> {
        if self.is_running() { self.shards.statuses().into_iter().collect() } else { BTreeMap::new() }
    }

    /// The session's incarnation; 0 while there is none.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.lease.incarnation()
    }

    /// Whether its lease runs, by its own clock.
    #[must_use]
    pub fn lease_runs(&self) -> bool {
        self.is_running() && self.lease.runs()
    }

    /// How its agent does.
    #[must_use]
    pub fn agent(&self) -> AgentState {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl DataMachine {
    /// A process's copies, as its disk has them.
    fn open(&self, host: &Host, lease: LeaseWatch, reporter: Reporter) -> Arc<Shards> {
        let parts = Parts {
            node: self.node.clone(),
            clock: self.clock.clone(),
            lease,
            reporter,
            messenger: Arc::new(Wire { net: self.net.clone(), host: host.clone() }),
            spawn: Arc::new(HostSpawn { host: host.clone(), failures: self.failures.clone() }),
        };
        // Opening takes no time here, and so needs no task that could be in the way of the process's end.
        let opened = Copies::open(parts, OpenDisk::new(self.disk.clone())).now_or_never();
        opened.and_then(Result::ok).expect("a simulated disk is opened at once")
    }

    fn registration(&self) -> RegisterRequest {
        RegisterRequest {
            addr: self.addr.clone(),
            store_id: self.disk.store_id(),
            zone: self.zone.clone(),
            rack: self.rack.clone(),
            labels: BTreeMap::new(),
            capacity: None,
            capacity_bytes: None,
            accept_data_loss: self.accept_data_loss,
        }
    }
}

type AgentParts = (Arc<Shards>, Arc<dyn Clock>, LeaseWatch, Outbox);

/// Runs the agent to its end; with it ends the process, as the reference node's does.
async fn run(parts: AgentParts, machine: DataMachine, host: Host, state: Arc<Mutex<AgentState>>) {
    let ended = serve(parts, &machine, &host).await;
    let failed = |error: &dyn std::error::Error| {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        machine.failures.add(format!("{}: {error}: {cause}", machine.node));
    };
    match ended {
        Err(AgentError::Refused(error)) if error.code() == Some("last_copy") => {
            *state.lock().unwrap_or_else(PoisonError::into_inner) = AgentState::RefusedLastCopy;
        }
        Err(error) => failed(&error),
        Ok(()) => machine.failures.add(format!("{}: its agent ended by itself", machine.node)),
    }
    host.kill();
    machine.disk.crash();
}

async fn serve(
    (shards, clock, lease, outbox): AgentParts,
    machine: &DataMachine,
    host: &Host,
) -> Result<(), AgentError> {
    // In here, since whom it asks first is drawn from the seed only inside of the seeded task.
    let options = ControlOptions::new(machine.control.clone());
    let control = ControlClient::over(options, machine.net.exchange(host)).map_err(AgentError::Refused)?;
    let config = AgentConfig::new(machine.node.clone(), machine.registration());
    Agent::new(config, control, shards, clock, lease, outbox).run(CancellationToken::new()).await
}
