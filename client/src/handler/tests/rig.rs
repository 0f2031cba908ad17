//! A host over a handler that notes its calls and does as the test wants; the test is the agent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::agent::{AssignmentUpdate, HostError, LeaseWatch, Outbox, ShardHost};
use crate::clock::Clock;
use crate::copies::TokioSpawn;
use crate::handler::{Duty, DutyError, HandlerHost, HandlerOptions, Progress, ShardHandler, Standing};
use crate::ids::{Epoch, Incarnation, MigrationId, NodeId, Revision, ShardId};
use crate::wire::{
    AssignedMigration, Assignment, CopyInfo, MigrationKind, NodeAddr, Phase, Report, ReportResult, Role,
};

/// What a call does.
#[derive(Clone, Debug, Default)]
pub(super) enum Does {
    #[default]
    Nothing,
    Fail(DutyError),
    WaitForCancel,
    /// Also where it is cancelled.
    WaitForRelease,
    Panic,
    /// Says how far it is, that often.
    Progress(Vec<(u64, u64)>, u64),
}

#[derive(Default)]
pub(super) struct Recorder {
    calls: Mutex<Vec<String>>,
    script: Mutex<BTreeMap<String, VecDeque<Does>>>,
    standing: Mutex<Standing>,
    running: Mutex<(usize, usize)>,
    released: Released,
}

struct Released(Semaphore);

impl Default for Released {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Recorder {
    /// The next calls of that name do this, one after the other, and then nothing.
    pub(super) fn does(&self, call: &str, does: Does) {
        self.script.lock().unwrap().entry(call.to_owned()).or_default().push_back(does);
    }
    pub(super) fn stands(&self, standing: Standing) {
        *self.standing.lock().unwrap() = standing;
    }
    /// One call that waits for it.
    pub(super) fn release(&self) {
        self.released.0.add_permits(1);
    }
    pub(super) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
    pub(super) fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|noted| *noted == call).count()
    }
    pub(super) fn most_at_once(&self) -> usize {
        self.running.lock().unwrap().1
    }
    pub(super) async fn until(&self, call: &str) {
        while self.count(call) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    fn note(&self, call: &str, shard: ShardId) -> Does {
        self.calls.lock().unwrap().push(format!("{call} {shard}"));
        let mut script = self.script.lock().unwrap();
        script.get_mut(call).and_then(VecDeque::pop_front).unwrap_or_default()
    }
    async fn carry_out(&self, call: &str, duty: &Duty, progress: &Progress) -> Result<(), DutyError> {
        let does = self.note(call, duty.shard());
        {
            let mut running = self.running.lock().unwrap();
            running.0 += 1;
            running.1 = running.1.max(running.0);
        }
        let waits = matches!(does, Does::WaitForCancel | Does::WaitForRelease);
        let result = match does {
            Does::Nothing => Ok(()),
            Does::Fail(error) => Err(error),
            Does::WaitForCancel => {
                duty.cancel.cancelled().await;
                Ok(())
            }
            Does::WaitForRelease => {
                self.released.0.acquire().await.unwrap().forget();
                Ok(())
            }
            Does::Panic => {
                self.running.lock().unwrap().0 -= 1;
                panic!("as the test wants it")
            }
            Does::Progress(steps, wait_ms) => {
                for (bytes_done, bytes_total) in steps {
                    progress.set(bytes_done, bytes_total);
                    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                }
                tokio::time::sleep(Duration::from_millis(2_000)).await;
                Ok(())
            }
        };
        self.running.lock().unwrap().0 -= 1;
        if waits {
            self.calls.lock().unwrap().push(format!("{call} {} ends", duty.shard()));
        }
        result
    }
}

#[async_trait]
impl ShardHandler for Recorder {
    async fn assigned(&self, assignment: &Assignment) -> Result<(), HostError> {
        match self.note("assigned", assignment.shard) {
            Does::Fail(error) => Err(HostError(error.to_string())),
            _ => Ok(()),
        }
    }
    async fn unassigned(&self, shard: ShardId) -> Result<(), HostError> {
        self.note("unassigned", shard);
        Ok(())
    }
    async fn session_ended(&self) {
        self.calls.lock().unwrap().push("session_ended".to_owned());
    }
    async fn create(&self, duty: &Duty) -> Result<(), DutyError> {
        self.carry_out("create", duty, &Progress::default()).await
    }
    async fn found(&self, duty: &Duty) -> Result<Vec<NodeId>, DutyError> {
        self.carry_out("found", duty, &Progress::default()).await?;
        Ok(duty.others(&me()).map(|copy| copy.node.clone()).chain([me()]).collect())
    }
    async fn forward(&self, duty: &Duty) -> Result<(), DutyError> {
        self.carry_out("forward", duty, &Progress::default()).await
    }
    async fn copy(&self, duty: &Duty, progress: &Progress) -> Result<(), DutyError> {
        self.carry_out("copy", duty, progress).await
    }
    async fn admit(&self, duty: &Duty) -> Result<(), DutyError> {
        self.carry_out("admit", duty, &Progress::default()).await
    }
    async fn hand_over(&self, duty: &Duty) -> Result<(), DutyError> {
        self.carry_out("hand_over", duty, &Progress::default()).await
    }
    async fn delete(&self, duty: &Duty) -> Result<(), DutyError> {
        self.carry_out("delete", duty, &Progress::default()).await
    }
    fn standing(&self, _: &Assignment) -> Standing {
        self.standing.lock().unwrap().clone()
    }
}

/// The boot clock follows the paused runtime.
pub(super) struct TestClock(pub(super) Instant);

impl Clock for TestClock {
    fn boot_ms(&self) -> u64 {
        1_000 + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
    fn wall_ms(&self) -> u64 {
        0
    }
}

pub(super) struct Rig {
    pub(super) handler: Arc<Recorder>,
    pub(super) host: Arc<HandlerHost>,
    outbox: Outbox,
    revision: u64,
    installed: BTreeMap<ShardId, Assignment>,
}

pub(super) fn node(n: u64) -> NodeId {
    NodeId::new(&format!("d{n}")).unwrap()
}

pub(super) fn me() -> NodeId {
    node(1)
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(HandlerOptions::default())
    }

    /// In the session of this node's incarnation 11.
    pub(super) fn with(options: HandlerOptions) -> Self {
        let handler = Arc::new(Recorder::default());
        let (reporter, outbox) = Outbox::new();
        let lease = LeaseWatch::new(Arc::new(TestClock(Instant::now())));
        let host = HandlerHost::start(me(), handler.clone(), lease, reporter, Arc::new(TokioSpawn), options);
        host.state().incarnation = Incarnation(11);
        Self { handler, host, outbox, revision: 0, installed: BTreeMap::new() }
    }

    pub(super) async fn try_install(&mut self, all: &[Assignment]) -> Result<(), HostError> {
        self.revision += 1;
        let all: BTreeMap<ShardId, Assignment> = all.iter().map(|a| (a.shard, a.clone())).collect();
        let changed = all.iter().filter(|(shard, a)| self.installed.get(shard) != Some(a));
        let update = AssignmentUpdate {
            revision: Revision(self.revision),
            changed: changed.map(|(shard, _)| *shard).collect(),
            removed: self.installed.keys().filter(|shard| !all.contains_key(shard)).copied().collect(),
            all: Arc::new(all.clone()),
        };
        self.installed = all;
        self.host.install(&update).await
    }

    pub(super) async fn install(&mut self, all: &[Assignment]) {
        self.try_install(all).await.unwrap();
    }

    /// As a new session, or a repeated install, does: everything is news.
    pub(super) async fn install_anew(&mut self, all: &[Assignment]) {
        self.installed.clear();
        self.install(all).await;
    }

    pub(super) async fn passes(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// What is reported next.
    pub(super) async fn report(&mut self) -> (Incarnation, u64, Report) {
        for _ in 0..100_000 {
            if let Some(report) = self.outbox.take() {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("nothing is reported; the calls: {:?}", self.handler.calls());
    }

    /// What was reported meanwhile, without an answer.
    pub(super) fn reports(&mut self) -> Vec<Report> {
        std::iter::from_fn(|| self.outbox.take()).map(|(_, _, report)| report).collect()
    }

    pub(super) async fn accept(&self, (_, tag, report): &(Incarnation, u64, Report)) {
        self.host.reported(*tag, report, &ReportResult { accepted: true, code: None }).await;
    }

    pub(super) async fn refuse(&self, (_, tag, report): &(Incarnation, u64, Report), code: &str) {
        let result = ReportResult { accepted: false, code: Some(code.to_owned()) };
        self.host.reported(*tag, report, &result).await;
    }
}

/// Shard 0 as this node has it: led by d1 with d2 as replica, or the other way round.
pub(super) fn assigned(role: Role) -> Assignment {
    let leads = role == Role::Primary;
    let copy = |n, role| CopyInfo {
        node: node(n),
        addr: format!("d{n}:1"),
        incarnation: Incarnation(10 + n),
        role,
        down: false,
    };
    let (first, other) = if leads { (role, Role::Replica) } else { (Role::Primary, role) };
    let copies =
        if leads { vec![copy(1, first), copy(2, other)] } else { vec![copy(2, first), copy(1, other)] };
    Assignment {
        shard: ShardId(0),
        epoch: Epoch(5),
        founding: false,
        role,
        in_sync_version: 1,
        in_sync: if role == Role::Learner { vec![node(2)] } else { vec![node(1), node(2)] },
        copies,
        migration: None,
    }
}

/// The same in a migration: to this node where it is a learner copy, else to d3.
pub(super) fn in_phase(role: Role, phase: Phase) -> Assignment {
    let mut assignment = assigned(role);
    let at = |n| Some(NodeAddr { node: node(n), addr: format!("d{n}:1") });
    let (source, target) = if role == Role::Learner { (at(2), at(1)) } else { (at(1), at(3)) };
    if role != Role::Learner {
        let copy = CopyInfo {
            node: node(3),
            addr: "d3:1".to_owned(),
            role: Role::Learner,
            ..assignment.copies[0].clone()
        };
        assignment.copies.push(CopyInfo { incarnation: Incarnation(13), ..copy });
    }
    let (id, kind) = (MigrationId(1), MigrationKind::Move);
    assignment.migration = Some(AssignedMigration { id, phase, kind, source, target });
    assignment
}
