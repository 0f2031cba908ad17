//! The driver over a control cluster of one that applies at once, and can be told to confirm nothing.

use std::collections::BTreeMap;
use std::sync::Condvar;
use std::time::Duration;

use ruvector_cluster_client::clock::SystemClock;
use ruvector_cluster_client::ids::Revision;

use super::*;
use crate::metadata::{
    Answer, COMMAND_VERSION, Change, Command, NodeRow, Register, Rejection, Settings, apply,
};

/// Long enough for two busy cores; waits end as soon as their condition holds.
const PATIENCE: Duration = Duration::from_secs(20);

struct Alone {
    leadership: watch::Sender<LeadershipState>,
    published: watch::Sender<Arc<Metadata>>,
    /// Index of the last entry.
    index: Mutex<u64>,
    confirms: watch::Sender<bool>,
    proposed: Mutex<Vec<Command>>,
}

impl Alone {
    fn start(lease_ms: u64) -> (Arc<Self>, Coordinator, CancellationToken) {
        let planner: Planner = Arc::new(|metadata, soft, now| decide(metadata, soft, now, Scope::Patient));
        Self::start_with(lease_ms, planner)
    }

    fn start_with(lease_ms: u64, planner: Planner) -> (Arc<Self>, Coordinator, CancellationToken) {
        let alone = Arc::new(Self {
            leadership: watch::Sender::new(LeadershipState::default()),
            published: watch::Sender::new(Arc::new(Metadata::new())),
            index: Mutex::new(0),
            confirms: watch::Sender::new(true),
            proposed: Mutex::default(),
        });
        let shutdown = CancellationToken::new();
        let clock = Arc::new(SystemClock);
        let published = alone.published.subscribe();
        let (coordinator, task) =
            Coordinator::with_planner(alone.clone(), published, clock, shutdown.clone(), planner);
        tokio::spawn(task);
        let settings = Settings {
            num_shards: 8,
            replication_factor: 2,
            failure_timeout_ms: lease_ms * 5 / 4,
            lease_ms,
            heartbeat_interval_ms: lease_ms / 4,
        };
        alone.apply(Command::Found { cluster_id: "c".to_owned(), settings }).unwrap();
        (alone, coordinator, shutdown)
    }

    fn apply(&self, command: Command) -> Result<Answer, Rejection> {
        let mut index = self.index.lock().unwrap();
        *index += 1;
        let mut metadata = Metadata::clone(&self.published.borrow());
        let envelope = Envelope { version: COMMAND_VERSION, actor: "test".to_owned(), key: None, command };
        let outcome = apply(&mut metadata, *index, SystemClock.wall_ms(), &envelope).outcome;
        self.published.send_replace(Arc::new(metadata));
        outcome.result
    }

    fn lead(&self, term: Option<u64>) {
        let mine = term.map(|term| Leadership { term });
        self.leadership.send_replace(LeadershipState { term: term.unwrap_or(0), leader: None, mine });
    }

    fn register(&self, name: &str) -> NodeId {
        let node = NodeId::new(name).unwrap();
        let register = Register {
            node: node.clone(),
            addr: format!("{name}:1"),
            store_id: format!("store-{name}"),
            zone: None,
            rack: None,
            labels: BTreeMap::new(),
            capacity: None,
            capacity_bytes: None,
            accept_data_loss: false,
            lease_over_of: None,
            if_match: None,
        };
        self.apply(Command::Register(register)).unwrap();
        node
    }

    async fn until(&self, what: &str, holds: impl FnMut(&Arc<Metadata>) -> bool) {
        let mut published = self.published.subscribe();
        let waited = tokio::time::timeout(PATIENCE, published.wait_for(holds)).await;
        waited.unwrap_or_else(|_| panic!("never: {what}")).unwrap();
    }
}

#[async_trait]
impl Control for Alone {
    fn leadership(&self) -> watch::Receiver<LeadershipState> {
        self.leadership.subscribe()
    }

    async fn propose_fenced(
        &self,
        leadership: Leadership,
        envelope: &Envelope,
    ) -> Result<Outcome, ProposeError> {
        if self.leadership.borrow().mine != Some(leadership) {
            return Err(ProposeError::NotLeader { leader: None });
        }
        self.proposed.lock().unwrap().push(envelope.command.clone());
        let result = self.apply(envelope.command.clone());
        Ok(Outcome { revision: self.published.borrow().revision(), result })
    }

    async fn confirm(&self, _leadership: Leadership) -> Result<(), ReadError> {
        self.confirms.subscribe().wait_for(|confirms| *confirms).await.map_err(|_| ReadError::Stopped)?;
        Ok(())
    }
}

fn request() -> HeartbeatRequest {
    HeartbeatRequest {
        incarnation: Incarnation(1),
        installed_revision: Revision(1_000_000),
        partial: false,
        shards: Vec::new(),
        disk_free_bytes: None,
    }
}

async fn until_leading(coordinator: &Coordinator) {
    let leading = async {
        while coordinator.soft().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, leading).await.expect("it begins to lead");
}

#[tokio::test]
async fn nodes_are_assigned_shards_and_silent_ones_lose_them() {
    let (alone, coordinator, shutdown) = Alone::start(1_000);
    alone.lead(Some(1));
    let (a, b) = (alone.register("a"), alone.register("b"));
    until_leading(&coordinator).await;
    let beating = |node: &NodeId| {
        let (coordinator, node) = (coordinator.clone(), node.clone());
        tokio::spawn(async move {
            loop {
                coordinator.heartbeat(&node, &request()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    };
    let (beating_a, beating_b) = (beating(&a), beating(&b));
    alone.until("assigned", |state| state.copies_of(&a) == 8 && state.copies_of(&b) == 8).await;
    beating_b.abort();
    alone.until("b is down", |state| !state.is_alive(&b)).await;
    alone.until("a leads all", |state| state.primaries_of(&a) == 8).await;
    assert!(alone.published.borrow().is_alive(&a));
    let returning = coordinator.heartbeat(&b, &request()).await.unwrap();
    assert_eq!(returning.lease_ms, 0, "a node that is down is granted nothing");
    alone.until("b is back", |state| state.is_alive(&b)).await;
    assert_eq!(coordinator.heartbeat(&b, &request()).await.unwrap().lease_ms, 1_000);
    beating_a.abort();
    shutdown.cancel();
}

#[tokio::test]
async fn a_leader_that_is_not_confirmed_or_was_deposed_meanwhile_grants_nothing() {
    let (alone, coordinator, shutdown) = Alone::start(60_000);
    let node = alone.register("a");
    let not_leading = coordinator.heartbeat(&node, &request()).await;
    assert!(matches!(not_leading, Err(HeartbeatError::NotLeader { .. })));
    alone.lead(Some(1));
    until_leading(&coordinator).await;
    assert_eq!(coordinator.heartbeat(&node, &request()).await.unwrap().lease_ms, 60_000);
    alone.confirms.send_replace(false);
    let beat = {
        let (coordinator, node) = (coordinator.clone(), node.clone());
        tokio::spawn(async move { coordinator.heartbeat(&node, &request()).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!beat.is_finished(), "it waits for the quorum");
    alone.lead(Some(2));
    let deposed = async {
        while coordinator.shared.leading().as_ref().is_none_or(|leading| leading.leadership.term != 2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, deposed).await.expect("it begins to lead again");
    alone.confirms.send_replace(true);
    assert!(matches!(beat.await.unwrap(), Err(HeartbeatError::NotLeader { .. })));
    shutdown.cancel();
}

#[tokio::test]
async fn unknown_nodes_and_older_runs_are_told_so() {
    let (alone, coordinator, shutdown) = Alone::start(60_000);
    alone.lead(Some(1));
    until_leading(&coordinator).await;
    let stranger = NodeId::new("z").unwrap();
    assert!(matches!(coordinator.heartbeat(&stranger, &request()).await, Err(HeartbeatError::NotFound)));
    let node = alone.register("a");
    alone.register("a");
    let stale = coordinator.heartbeat(&node, &request()).await;
    assert!(matches!(stale, Err(HeartbeatError::StaleIncarnation { current: Incarnation(2) })));
    assert_eq!(coordinator.lease_over(&node), None, "its lease may last");
    shutdown.cancel();
}

/// Found by review: a registration for another store that waited past its leader's term took the name under a lease that a
/// leader in between had granted. So the answer names the leadership that waited, and the registration is fenced by it.
#[tokio::test]
async fn a_lease_that_is_over_is_over_for_the_leadership_that_waited() {
    let (alone, coordinator, shutdown) = Alone::start(200);
    alone.lead(Some(1));
    until_leading(&coordinator).await;
    let node = alone.register("a");
    alone.until("the lease runs out", |metadata| metadata.node(&node).is_some_and(NodeRow::is_down)).await;
    let (leadership, run) = coordinator.lease_over(&node).unwrap();
    assert_eq!((leadership, run), (Leadership { term: 1 }, Incarnation(1)));
    shutdown.cancel();
}

/// Plans that take as long as the test wants.
#[derive(Default)]
struct Gate {
    state: Mutex<Plans>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Plans {
    held: bool,
    /// Begun and not made yet.
    running: usize,
    made: usize,
}

impl Gate {
    /// Holds the plans of `planner`.
    fn before(
        self: &Arc<Self>,
        planner: impl Fn(&Metadata, &Soft, Now) -> Decision + Send + Sync + 'static,
    ) -> Planner {
        let gate = self.clone();
        Arc::new(move |metadata, soft, now| {
            let decision = planner(metadata, soft, now);
            let mut state = gate.state.lock().unwrap();
            state.running += 1;
            while state.held {
                state = gate.changed.wait(state).unwrap();
            }
            state.running -= 1;
            state.made += 1;
            decision
        })
    }

    fn hold(&self, is_held: bool) {
        self.state.lock().unwrap().held = is_held;
        self.changed.notify_all();
    }

    async fn until(&self, what: &str, holds: impl Fn(Plans) -> bool) {
        let waited = async {
            while !holds(*self.state.lock().unwrap()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

/// Keeps the node's lease alive until it is aborted.
fn beating(coordinator: &Coordinator, node: &NodeId) -> tokio::task::JoinHandle<()> {
    let (coordinator, node) = (coordinator.clone(), node.clone());
    tokio::spawn(async move {
        loop {
            coordinator.heartbeat(&node, &request()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_waits_for_no_plan() {
    let gate = Arc::new(Gate::default());
    let planner = gate.before(|metadata, soft, now| decide(metadata, soft, now, Scope::Patient));
    let (alone, coordinator, shutdown) = Alone::start_with(1_000, planner);
    alone.lead(Some(1));
    let (a, b) = (alone.register("a"), alone.register("b"));
    until_leading(&coordinator).await;
    let (beating_a, beating_b) = (beating(&coordinator, &a), beating(&coordinator, &b));
    alone.until("assigned", |state| state.copies_of(&a) == 8 && state.copies_of(&b) == 8).await;
    gate.hold(true);
    gate.until("a plan is held", |plans| plans.running > 0).await;
    beating_b.abort();
    alone.until("a leads all", |state| !state.is_alive(&b) && state.primaries_of(&a) == 8).await;
    assert_eq!(gate.state.lock().unwrap().running, 1, "the plan is still being made, and no second one");
    gate.hold(false);
    beating_a.abort();
    shutdown.cancel();
}

/// What was decided under one leadership is proposed under no other, however long the deciding took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_outlasts_its_leadership_is_dropped() {
    let gate = Arc::new(Gate::default());
    // The first plan wants something that no other does.
    let is_first = Mutex::new(true);
    let wanted =
        || Command::Coordinate { changes: vec![Change::Drained { node: NodeId::new("x").unwrap() }] };
    let planner = gate.before(move |_, _, _| {
        let is_first = std::mem::replace(&mut *is_first.lock().unwrap(), false);
        Decision { commands: is_first.then(wanted).into_iter().collect(), ..Decision::default() }
    });
    gate.hold(true);
    let (alone, coordinator, shutdown) = Alone::start_with(60_000, planner);
    alone.lead(Some(1));
    until_leading(&coordinator).await;
    gate.until("a plan is held", |plans| plans.running == 1).await;
    alone.lead(Some(2));
    gate.until("the next leadership plans", |plans| plans.running == 2).await;
    gate.hold(false);
    gate.until("both are made, and more", |plans| plans.made > 2).await;
    let proposed = alone.proposed.lock().unwrap().clone();
    assert!(!proposed.contains(&wanted()), "{proposed:?}");
    shutdown.cancel();
}

/// The same plan under a leadership that lasts: the test above would see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_proposed_once_it_is_made() {
    let gate = Arc::new(Gate::default());
    let wanted =
        || Command::Coordinate { changes: vec![Change::Drained { node: NodeId::new("x").unwrap() }] };
    let planner = gate.before(move |_, _, _| Decision {
        commands: vec![wanted()],
        levelling: Some(true),
        ..Decision::default()
    });
    gate.hold(true);
    let (alone, coordinator, shutdown) = Alone::start_with(60_000, planner);
    alone.lead(Some(1));
    until_leading(&coordinator).await;
    gate.until("a plan is held", |plans| plans.running == 1).await;
    assert!(!alone.proposed.lock().unwrap().contains(&wanted()));
    gate.hold(false);
    let proposed = async {
        while !alone.proposed.lock().unwrap().contains(&wanted()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, proposed).await.expect("it is proposed");
    assert!(coordinator.soft().unwrap().levelling);
    shutdown.cancel();
}
