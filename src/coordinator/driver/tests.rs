//! The driver over a control cluster of one that applies at once, and can be told to confirm nothing.

use std::collections::BTreeMap;

use ruvector_cluster_client::clock::SystemClock;
use ruvector_cluster_client::ids::Revision;

use super::*;
use crate::metadata::{NodeRow, Register, Rejection, Settings, apply};

/// Long enough for two busy cores; waits end as soon as their condition holds.
const PATIENCE: Duration = Duration::from_secs(20);

struct Alone {
    leadership: watch::Sender<LeadershipState>,
    published: watch::Sender<Arc<Metadata>>,
    /// Index of the last entry.
    index: Mutex<u64>,
    confirms: watch::Sender<bool>,
}

impl Alone {
    fn start(lease_ms: u64) -> (Arc<Self>, Coordinator, CancellationToken) {
        let alone = Arc::new(Self {
            leadership: watch::Sender::new(LeadershipState::default()),
            published: watch::Sender::new(Arc::new(Metadata::new())),
            index: Mutex::new(0),
            confirms: watch::Sender::new(true),
        });
        let shutdown = CancellationToken::new();
        let clock = Arc::new(SystemClock);
        let published = alone.published.subscribe();
        let (coordinator, task) = Coordinator::new(alone.clone(), published, clock, shutdown.clone());
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
