//! All machines of a run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ruvector_cluster::client::ids::NodeId;
use ruvector_cluster::metadata::Metadata;
use tokio::time::Instant;

use crate::api::{Api, Ask, Reply};
use crate::control::{ControlNode, End, World, address};
use crate::data::clock::SimClock;
use crate::data::failures::Failures;
use crate::data::node::{AgentState, DataMachine, DataNode};
use crate::data::store::DataDisk;
use crate::host::Host;
use crate::plan::Plan;

/// Control nodes that may be replaced in a run.
const REPLACEMENTS: usize = 4;

/// The machines, and an operator's way to them.
pub struct Cluster {
    /// What all parts share.
    pub world: World,
    /// `host:port` of the control nodes' client APIs.
    pub addrs: Arc<Mutex<Vec<String>>>,
    /// Those of them that are told late what is committed.
    pub late: Arc<Mutex<Vec<String>>>,
    /// Where data nodes' panics and bad ends are written down.
    pub failures: Failures,
    control: Mutex<Vec<Arc<ControlNode>>>,
    data: Mutex<Vec<DataNode>>,
    operator: Api,
    numbers: Mutex<usize>,
    /// Control nodes whose disks fail, and until when after that: that they stop is right.
    failing: Mutex<BTreeMap<String, Option<Instant>>>,
}

/// So long after a disk's failures were lifted they may still stop a node.
const FAILURES_LAST: Duration = Duration::from_secs(5);

/// Where control nodes are, and where those are that take their place: data nodes are told once.
#[must_use]
pub fn control_addresses(plan: &Plan) -> Vec<String> {
    (1..=plan.control_nodes + REPLACEMENTS).map(|number| address(number).to_string()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// The machines of the plan, none of them started.
    #[must_use]
    pub fn new(world: World) -> Arc<Self> {
        let plan = world.plan.clone();
        let seeds: Vec<String> = (1..=plan.control_nodes).map(|n| address(n).to_string()).collect();
        let node = |n| {
            let mut seeds = seeds.clone();
            // All know the first one, or they might found two clusters, as they would have been told to.
            if plan.rough_founding && plan.expects.is_none() && world.chance.per_mille(500) {
                seeds.remove(world.chance.between(1, seeds.len() as u64 - 1) as usize);
            }
            Arc::new(ControlNode::new(world.clone(), n, seeds))
        };
        let control: Vec<Arc<ControlNode>> = (1..=plan.control_nodes).map(node).collect();
        let addrs = Arc::new(Mutex::new(control.iter().map(|node| node.addr()).collect()));
        Arc::new(Self {
            operator: Api::new(&world.net, &Host::new("operator")),
            addrs,
            late: Arc::default(),
            failures: Failures::default(),
            control: Mutex::new(control),
            data: Mutex::new(Vec::new()),
            numbers: Mutex::new(plan.control_nodes),
            failing: Mutex::new(BTreeMap::new()),
            world,
        })
    }

    /// Starts everything, in an order by chance.
    pub fn start(&self) {
        if self.world.plan.rough_founding {
            self.add_control();
        }
        let mut control = self.control();
        while !control.is_empty() {
            let at = self.world.chance.between(0, control.len() as u64 - 1);
            control.remove(usize::try_from(at).unwrap_or(0)).start();
        }
        let machines = (1..=self.world.plan.data_nodes).map(|n| self.machine(n));
        lock(&self.data).extend(machines.map(|machine| DataNode::start(&machine)));
    }

    fn machine(&self, number: usize) -> DataMachine {
        let chance = &self.world.chance;
        let clock = SimClock::new(chance.between(976, 1_024), chance.between(0, 1 << 30));
        DataMachine {
            node: NodeId::new(&format!("d{number}")).expect("simulated nodes have legal names"),
            addr: format!("10.0.1.{number}:7100"),
            zone: None,
            rack: Some(format!("r{}", number % 3)),
            net: self.world.net.clone(),
            disk: DataDisk::new(chance.fork()),
            clock: Arc::new(clock),
            control: control_addresses(&self.world.plan),
            chance: chance.fork(),
            failures: self.failures.clone(),
            accept_data_loss: false,
        }
    }

    /// The control nodes at present.
    #[must_use]
    pub fn control(&self) -> Vec<Arc<ControlNode>> {
        lock(&self.control).clone()
    }

    /// The names of all machines.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let control = self.control().into_iter().map(|node| node.name.clone());
        control.chain(self.data_names()).collect()
    }

    /// The names of the data nodes.
    #[must_use]
    pub fn data_names(&self) -> Vec<String> {
        lock(&self.data).iter().map(|node| node.machine().node.to_string()).collect()
    }

    /// How many data nodes there are.
    #[must_use]
    pub fn data_nodes(&self) -> usize {
        lock(&self.data).len()
    }

    /// Which of them has this name.
    #[must_use]
    pub fn data_at(&self, node: &NodeId) -> Option<usize> {
        lock(&self.data).iter().position(|data| data.machine().node == *node)
    }

    /// Whoever leads in the highest term, and is not paused.
    #[must_use]
    pub fn leader(&self) -> Option<Arc<ControlNode>> {
        let term = |node: &Arc<ControlNode>| Some(node.live()?.node.leadership().borrow().mine?.term);
        let running = self.control().into_iter().filter(|node| !node.is_paused());
        let leading = running.filter_map(|node| Some((term(&node)?, node)));
        leading.max_by_key(|(term, _)| *term).map(|(_, node)| node)
    }

    /// Does something with a data node.
    pub fn with_data<T>(&self, at: usize, act: impl FnOnce(&mut DataNode) -> T) -> Option<T> {
        lock(&self.data).get_mut(at).map(act)
    }

    /// Whether one more control node may be replaced.
    #[must_use]
    pub fn may_replace(&self) -> bool {
        *lock(&self.numbers) < self.world.plan.control_nodes + REPLACEMENTS
    }

    /// A control node that takes the place of `old`, on an empty disk, under a new name.
    pub fn replace_control(&self, old: &ControlNode) -> Arc<ControlNode> {
        self.forget_control(old);
        self.add_control()
    }

    /// A control node beside the others, on an empty disk, not started; it looks for them.
    pub fn add_control(&self) -> Arc<ControlNode> {
        let number = {
            let mut numbers = lock(&self.numbers);
            *numbers += 1;
            *numbers
        };
        let seeds = lock(&self.addrs).clone();
        let node = Arc::new(ControlNode::new(self.world.clone(), number, seeds));
        lock(&self.control).push(node.clone());
        lock(&self.addrs).push(node.addr());
        node
    }

    /// A control node is gone for good.
    pub fn forget_control(&self, old: &ControlNode) {
        lock(&self.control).retain(|known| known.name != old.name);
        lock(&self.addrs).retain(|known| *known != old.addr());
    }

    /// All control nodes are gone with their disks: new ones stand where the first ones stood, not started.
    pub fn renew_control(&self) -> Vec<Arc<ControlNode>> {
        let mut control = lock(&self.control);
        for node in control.iter() {
            node.kill(End::PowerLoss);
        }
        let first = address(1).to_string();
        let node = |n| {
            // The first one founds a cluster of its own; the others join it.
            let seeds = if n == 1 { Vec::new() } else { vec![first.clone()] };
            Arc::new(ControlNode::new(self.world.clone(), n, seeds))
        };
        *control = (1..=self.world.plan.control_nodes).map(node).collect();
        *lock(&self.addrs) = control.iter().map(|node| node.addr()).collect();
        control.clone()
    }

    /// The newest state that any live control node has published.
    #[must_use]
    pub fn newest_state(&self) -> Option<Arc<Metadata>> {
        let live = self.control().into_iter().filter_map(|node| node.live());
        live.map(|live| live.state.borrow().clone()).max_by_key(|state| state.revision())
    }

    /// Asks one control node by chance.
    pub async fn operate(&self, ask: &Ask) -> Option<Reply> {
        let addrs = lock(&self.addrs).clone();
        let addr = self.world.chance.pick(&addrs).cloned()?;
        self.operator.ask(&addr, ask).await.ok()
    }

    /// As [`Cluster::insist`], for at most `bound`.
    pub async fn insist_for(
        &self,
        ask: &Ask,
        bound: Duration,
        fine: impl Fn(&Reply) -> bool,
    ) -> Option<Reply> {
        tokio::time::timeout(bound, self.insist(ask, u32::MAX, fine)).await.ok().flatten()
    }

    /// Asks until the answer is fine, or `tries` are used up.
    pub async fn insist(&self, ask: &Ask, tries: u32, fine: impl Fn(&Reply) -> bool) -> Option<Reply> {
        for _ in 0..tries {
            if let Some(reply) = self.operate(ask).await.filter(|reply| fine(reply)) {
                return Some(reply);
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        None
    }

    /// The disk of a control node begins to fail, or no longer does.
    pub fn set_failing(&self, name: &str, fails: bool) {
        let until = (!fails).then(|| Instant::now() + FAILURES_LAST);
        lock(&self.failing).insert(name.to_owned(), until);
    }

    /// Starts again what ended by itself. A control node may end by itself only when its disk failed.
    pub fn revive(&self) {
        for node in self.control() {
            if let Some(why) = node.stopped() {
                let known = lock(&self.failing).get(&node.name).copied();
                if known.is_none_or(|until| until.is_some_and(|until| until < Instant::now())) {
                    self.world.recorder.violation("node-stopped", format!("{}: {why}", node.name));
                }
                node.start();
            }
        }
    }

    /// The run is over: what it took is freed.
    pub fn end(&self) {
        for node in lock(&self.control).drain(..) {
            node.kill(End::Kill);
        }
        lock(&self.data).drain(..).for_each(|node| node.kill());
        self.world.net.end();
    }

    /// Everything runs again, on disks and links without faults. Whose last copy is gone is let in without it.
    pub fn heal(&self) {
        self.world.net.heal();
        self.world.net.set_quality(crate::net::Quality::GOOD);
        for node in self.control() {
            node.heal_disk();
            node.set_paused(false);
            node.start();
        }
        for node in lock(&self.data).iter_mut() {
            let machine = node.machine().clone();
            machine.disk.set_full(false);
            machine.disk.set_sync_us((50, 500));
            machine.disk.fail_next(0);
            node.set_paused(false);
            if !node.is_running() {
                let accept_data_loss = node.agent() == AgentState::RefusedLastCopy;
                *node = DataNode::start(&DataMachine { accept_data_loss, ..machine });
            }
        }
    }
}
