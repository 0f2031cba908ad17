use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::control::ControlOptions;
use crate::control::scripted::{Asked, Say, Scripted, problem};
use crate::ids::{Epoch, Thousandths};
use crate::wire::{AssignmentsResponse, HeartbeatRequest, HeartbeatResponse, ReportsRequest, Role};

/// A boot clock that stands still unless told.
#[derive(Default)]
struct ManualClock(AtomicU64);

impl Clock for ManualClock {
    fn boot_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn wall_ms(&self) -> u64 {
        0
    }
}

/// What the scripted control node knows.
#[derive(Default)]
struct Control {
    incarnation: AtomicU64,
    generation: AtomicU64,
    /// Named by grants.
    assigned: AtomicU64,
    /// Of the assignments that it gives out.
    published: AtomicU64,
    /// Registrations that get no answer but 503, then one that is refused.
    failing: AtomicU64,
    /// Heartbeats get no answer but 503 while it is not 0.
    deaf: AtomicU64,
}

#[derive(Default)]
struct Host {
    generation: AtomicU64,
    /// Thousandths a second of its one copy.
    reads: AtomicU64,
    begun: Mutex<Vec<u64>>,
    installed: Mutex<Vec<AssignmentUpdate>>,
    results: Mutex<Vec<(Report, ReportResult)>>,
    /// Has something to report as soon as a session begins.
    reporter: Mutex<Option<Reporter>>,
}

#[async_trait]
impl ShardHost for Host {
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
    async fn save_generation(&self, generation: u64) -> Result<(), HostError> {
        self.generation.store(generation, Ordering::SeqCst);
        Ok(())
    }
    async fn pause(&self) {}
    async fn begin(&self, incarnation: Incarnation) {
        self.begun.lock().unwrap().push(incarnation.0);
        if let Some(reporter) = self.reporter.lock().unwrap().as_ref() {
            assert!(reporter.send(incarnation, 0, Report::new(ShardId(7), Epoch(1))));
        }
    }
    async fn install(&self, update: &AssignmentUpdate) -> Result<(), HostError> {
        self.installed.lock().unwrap().push(update.clone());
        Ok(())
    }
    fn held(&self) -> Vec<HeldShard> {
        let reads_per_s = Thousandths(self.reads.load(Ordering::SeqCst));
        vec![HeldShard { id: ShardId(3), epoch: Epoch(1), position: 9, reads_per_s, ..HeldShard::default() }]
    }
    fn disk_free_bytes(&self) -> Option<u64> {
        None
    }
    async fn reported(&self, _: u64, report: &Report, result: &ReportResult) {
        self.results.lock().unwrap().push((report.clone(), result.clone()));
    }
}

impl Control {
    fn answer(&self, asked: &Asked) -> Say {
        let (incarnation, generation) =
            (self.incarnation.load(Ordering::SeqCst), self.generation.load(Ordering::SeqCst));
        let published = self.published.load(Ordering::SeqCst);
        if asked.method == "PUT" {
            match self.failing.load(Ordering::SeqCst) {
                0 => {}
                left => {
                    self.failing.fetch_sub(1, Ordering::SeqCst);
                    return if left > 1 { problem(503, "no_leader") } else { problem(409, "node_alive") };
                }
            }
            let incarnation = self.incarnation.fetch_add(1, Ordering::SeqCst) + 1;
            let node = r#"{"id":"d1","addr":"h:1","store_id":"s","zone":null,"rack":null,"labels":{},"capacity":1,
                "capacity_bytes":null,"status":"alive","intent":"schedulable","incarnation":1,"shards":[],"primaries":0,
                "size_bytes":null,"last_heartbeat":null,"revision":1}"#;
            return Say::Json(
                200,
                format!(
                    r#"{{"node":{node},"incarnation":{incarnation},"lease_ms":1000,"heartbeat_interval_ms":20,
                    "generation":{generation},"revision":1,"assigned_revision":1}}"#
                ),
            );
        }
        if asked.target.contains("/assignments") {
            if asked.target.contains(&format!("since={published}&")) && !asked.target.contains("wait_ms=0") {
                return Say::Silence;
            }
            let answer = AssignmentsResponse {
                generation,
                revision: Revision(published),
                node: NodeId::new("d1").unwrap(),
                incarnation: Incarnation(incarnation),
                full: true,
                assignments: vec![assignment(published)],
                removed: vec![],
            };
            return Say::Json(200, serde_json::to_string(&answer).unwrap());
        }
        if asked.target.ends_with("/reports") {
            let request: ReportsRequest = serde_json::from_str(&asked.body).unwrap();
            let results = vec![r#"{"accepted":true}"#; request.reports.len()].join(",");
            return Say::Json(200, format!(r#"{{"revision":1,"results":[{results}]}}"#));
        }
        let request: HeartbeatRequest = serde_json::from_str(&asked.body).unwrap();
        if request.incarnation != Incarnation(incarnation) {
            return problem(409, "stale_incarnation");
        }
        if self.deaf.load(Ordering::SeqCst) > 0 {
            return problem(503, "no_leader");
        }
        let answer = HeartbeatResponse {
            lease_ms: 1_000,
            assigned_revision: Revision(self.assigned.load(Ordering::SeqCst)),
            generation,
            revision: Revision(published),
            want_all: false,
        };
        Say::Json(200, serde_json::to_string(&answer).unwrap())
    }
}

fn assignment(epoch: u64) -> Assignment {
    Assignment {
        shard: ShardId(3),
        epoch: Epoch(epoch),
        founding: false,
        role: Role::Primary,
        in_sync_version: 1,
        in_sync: vec![],
        copies: vec![],
        migration: None,
    }
}

struct Rig {
    control: Arc<Control>,
    node: Scripted,
    host: Arc<Host>,
    clock: Arc<ManualClock>,
    lease: LeaseWatch,
    reporter: Reporter,
    _agent: tokio_util::task::AbortOnDropHandle<Result<(), AgentError>>,
}

async fn rig() -> Rig {
    rig_with(0, 15_000).await
}

/// `failing` as in [`Control`]; calls are given up after `deadline_ms`.
async fn rig_with(failing: u64, deadline_ms: u64) -> Rig {
    let control = Arc::new(Control::default());
    for field in [&control.generation, &control.assigned, &control.published] {
        field.store(1, Ordering::SeqCst);
    }
    control.failing.store(failing, Ordering::SeqCst);
    let script = control.clone();
    let node = Scripted::start(move |asked| script.answer(asked)).await;
    let (host, clock) = (Arc::new(Host::default()), Arc::new(ManualClock(AtomicU64::new(5_000))));
    let lease = LeaseWatch::new(clock.clone());
    let (reporter, outbox) = Outbox::new();
    let registration =
        serde_json::from_str(r#"{"addr":"h:1","store_id":"s"}"#).expect("the required fields are there");
    let config = AgentConfig::new(NodeId::new("d1").unwrap(), registration);
    *host.reporter.lock().unwrap() = Some(reporter.clone()).filter(|_| failing > 0);
    let options = ControlOptions { deadline_ms, ..ControlOptions::new(vec![node.addr.to_string()]) };
    let client = ControlClient::new(options).unwrap();
    let agent = Agent::new(config, client, host.clone(), clock.clone(), lease.clone(), outbox);
    let agent = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(agent.run(CancellationToken::new())));
    Rig { control, node, host, clock, lease, reporter, _agent: agent }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("in vain: {what}");
}

#[tokio::test]
async fn the_lease_begins_with_the_first_answered_heartbeat_and_runs_out_by_itself() {
    let rig = rig().await;
    until("a lease", || rig.lease.runs()).await;
    assert_eq!(rig.lease.until_ms(), 6_000);
    rig.clock.0.store(5_700, Ordering::SeqCst);
    until("an extension", || rig.lease.until_ms() == 6_700).await;
    // From here the control node grants nothing that counts: it names assignments that nobody publishes.
    rig.control.assigned.store(50, Ordering::SeqCst);
    let beats = rig.node.asked().len();
    until("two more requests", || rig.node.asked().len() > beats + 1).await;
    rig.clock.0.store(6_699, Ordering::SeqCst);
    assert!(rig.lease.runs());
    rig.clock.0.store(6_700, Ordering::SeqCst);
    assert!(!rig.lease.runs());
}

#[tokio::test]
async fn a_node_that_is_behind_fetches_and_says_so_with_its_next_heartbeat() {
    let rig = rig().await;
    until("a lease", || rig.lease.runs()).await;
    rig.control.published.store(9, Ordering::SeqCst);
    rig.control.assigned.store(9, Ordering::SeqCst);
    until("an installation", || rig.host.installed.lock().unwrap().last().is_some_and(|u| u.revision.0 == 9))
        .await;
    let told = |asked: &Asked| {
        asked.target.ends_with("/heartbeat") && asked.body.contains(r#""installed_revision":9"#)
    };
    until("a heartbeat that says so", || rig.node.asked().iter().any(told)).await;
    let installed = rig.host.installed.lock().unwrap();
    assert_eq!(installed.last().unwrap().changed, vec![ShardId(3)]);
    assert!(installed.windows(2).all(|pair| pair[0].revision < pair[1].revision));
}

#[tokio::test]
async fn heartbeats_after_the_first_name_only_what_changed() {
    let rig = rig().await;
    let beats = || -> Vec<HeartbeatRequest> {
        let asked = rig.node.asked();
        let beats = asked.iter().filter(|asked| asked.target.ends_with("/heartbeat"));
        beats.map(|asked| serde_json::from_str(&asked.body).unwrap()).collect()
    };
    until("three heartbeats", || beats().len() >= 3).await;
    assert!(!beats()[0].partial);
    assert_eq!(beats()[0].shards.len(), 1);
    assert!(beats()[2].partial && beats()[2].shards.is_empty());
}

/// A control node may have taken in a heartbeat whose answer was lost. The rate that it told stayed for up to a minute, since the one
/// before was taken for what the control nodes know.
#[tokio::test]
async fn what_a_heartbeat_without_an_answer_said_is_taken_back() {
    let rig = rig().await;
    until("a lease", || rig.lease.runs()).await;
    let told = || -> Vec<u64> {
        let asked = rig.node.asked();
        let beats = asked.iter().filter(|asked| asked.target.ends_with("/heartbeat"));
        let beats = beats.map(|asked| serde_json::from_str::<HeartbeatRequest>(&asked.body).unwrap());
        beats.flat_map(|beat| beat.shards).map(|held| held.reads_per_s.0).collect()
    };
    until("the first list", || told() == [0]).await;
    rig.control.deaf.store(1, Ordering::SeqCst);
    rig.host.reads.store(5_000, Ordering::SeqCst);
    until("a rate", || told().last() == Some(&5_000)).await;
    rig.host.reads.store(0, Ordering::SeqCst);
    until("its fall", || told().last() == Some(&0)).await;
    rig.control.deaf.store(0, Ordering::SeqCst);
    let beats = rig.node.asked().len();
    until("more heartbeats", || rig.node.asked().len() > beats + 4).await;
    assert_eq!(told().last(), Some(&0));
}

#[tokio::test]
async fn an_incarnation_that_is_no_longer_known_ends_the_lease_and_registers_again() {
    let rig = rig().await;
    until("a lease", || rig.lease.runs()).await;
    rig.control.incarnation.store(7, Ordering::SeqCst);
    until("another session", || rig.lease.incarnation() == Incarnation(8) && rig.lease.runs()).await;
    assert_eq!(*rig.host.begun.lock().unwrap(), vec![1, 8]);
}

#[tokio::test]
async fn a_lower_generation_grants_nothing_and_a_higher_one_is_saved_first() {
    let rig = rig().await;
    until("a lease", || rig.lease.runs()).await;
    assert_eq!(rig.host.generation(), 1);
    rig.control.generation.store(0, Ordering::SeqCst);
    let beats = rig.node.asked().len();
    until("heartbeats", || rig.node.asked().len() > beats + 3).await;
    rig.clock.0.store(5_900, Ordering::SeqCst);
    let beats = rig.node.asked().len();
    until("heartbeats", || rig.node.asked().len() > beats + 3).await;
    assert_eq!(rig.lease.until_ms(), 6_000, "not extended");
    rig.control.generation.store(4, Ordering::SeqCst);
    until("an extension", || rig.lease.until_ms() == 6_900).await;
    assert_eq!(rig.host.generation(), 4);
}

#[tokio::test]
async fn reports_are_sent_in_order_and_those_of_an_older_session_are_not() {
    let rig = rig().await;
    until("a session", || rig.lease.incarnation() == Incarnation(1)).await;
    assert!(rig.reporter.send(Incarnation(0), 0, Report::new(ShardId(1), Epoch(1))));
    for shard in 2..5 {
        assert!(rig.reporter.send(Incarnation(1), 0, Report::new(ShardId(shard), Epoch(1))));
    }
    until("results", || rig.host.results.lock().unwrap().len() == 3).await;
    let shards: Vec<u32> =
        rig.host.results.lock().unwrap().iter().map(|(report, _)| report.shard.0).collect();
    assert_eq!(shards, vec![2, 3, 4]);
}

#[tokio::test]
async fn a_registration_without_an_answer_is_repeated_under_its_key_and_a_refused_one_is_not() {
    let rig = rig_with(4, 60).await;
    until("a session", || rig.lease.incarnation() == Incarnation(1)).await;
    let asked = rig.node.asked();
    let keys: Vec<Option<&str>> =
        asked.iter().filter(|asked| asked.method == "PUT").map(|asked| asked.key.as_deref()).collect();
    assert_eq!(keys.len(), 5);
    assert!(keys[..4].iter().all(|key| key.is_some() && *key == keys[0]), "{keys:?}");
    assert_ne!(keys[4], keys[0]);
}

#[tokio::test]
async fn what_is_reported_as_a_session_begins_is_answered() {
    let rig = rig_with(1, 15_000).await;
    until("a result", || !rig.host.results.lock().unwrap().is_empty()).await;
    assert_eq!(rig.host.results.lock().unwrap()[0].0.shard, ShardId(7));
}
