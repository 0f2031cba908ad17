//! An in-memory coordinator for tests of data nodes, with the API's own wire types and the test's hand on every decision.
//!
//! A [`Coordinator`] is an [`Exchange`]: a [`ControlClient`] over it talks to it in process, and so does all that is built on
//! one, [agents](crate::agent) and [routers](crate::router) included ([`Coordinator::client`]). It registers nodes, grants leases as DESIGN.md, section 5 says,
//! takes heartbeats and reports with the checks of the real one, drives migrations by the reports, and answers long polls and
//! watches.
//!
//! What the real one decides of its own accord, the test decides: which nodes a shard is founded on ([`Coordinator::found`]), who is down
//! ([`Coordinator::expire`]), what migrates. And it can be told to fail: [`Faults`].
//!
//! Caveats: one process is all of the control cluster, so there is no leader to lose and nothing outlives it. Nothing is throttled or timed out,
//! a migration starts at once, a lost copy is readmitted only by [`Coordinator::migrate`], and where nodes may be placed is not
//! checked. Each change looks at all rows: meant for some hundred shards.

mod answer;
mod faults;
mod leases;
mod migrate;
mod places;
mod reports;
mod rows;
#[cfg(test)]
mod tests;
mod views;
mod watching;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

#[cfg(doc)]
use crate::control::Exchange;
use crate::control::{ControlClient, ControlError, ControlOptions};
use crate::ids::{Incarnation, MigrationId, NodeId, Revision, ShardId};
use crate::wire::{Assignment, HeldShard, Migration, Node, Problem, Report, ReportResult, Shard};
pub use faults::{Faults, Lost};
use rows::Rows;

/// How long [`Coordinator::until`] waits: far beyond what any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// The wait between two looks of it: much of what tests wait for is no committed change.
const LOOK: Duration = Duration::from_millis(5);

/// What a cluster is founded with.
#[derive(Clone, Debug)]
pub struct CoordinatorOptions {
    /// Shards.
    pub num_shards: u32,
    /// Copies of each.
    pub replication_factor: u32,
    /// Length of a lease, in milliseconds.
    pub lease_ms: u64,
    /// How often nodes are to send heartbeats, in milliseconds.
    pub heartbeat_interval_ms: u64,
}

impl Default for CoordinatorOptions {
    /// 4 shards of 2 copies; leases of 800 ms, heartbeats each 100 ms.
    fn default() -> Self {
        Self { num_shards: 4, replication_factor: 2, lease_ms: 800, heartbeat_interval_ms: 100 }
    }
}

/// A report as it was taken or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Who reported.
    pub node: NodeId,
    /// In which run.
    pub incarnation: Incarnation,
    /// What.
    pub report: Report,
    /// What came of it.
    pub result: ReportResult,
}

/// The coordinator; cloning is cheap and shares it.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

struct Inner {
    rows: Mutex<Rows>,
    published: watch::Sender<Revision>,
    faults: watch::Sender<Faults>,
}

impl Coordinator {
    /// A cluster without nodes.
    pub fn new(options: CoordinatorOptions) -> Self {
        let rows = Rows::new(&options);
        let published = watch::channel(rows.revision).0;
        let faults = watch::channel(Faults::default()).0;
        Self { inner: Arc::new(Inner { rows: Mutex::new(rows), published, faults }) }
    }

    /// A client that talks to it.
    ///
    /// # Errors
    /// As [`ControlClient::over`].
    pub fn client(&self) -> Result<ControlClient, ControlError> {
        let options = ControlOptions::new(vec!["coordinator.test:7000".to_owned()]);
        ControlClient::over(options, Arc::new(self.clone()))
    }

    /// Founds all shards over the nodes that are registered, in turn: shard 0 on the first ones by name, led by the first.
    /// Those that are assigned already stay as they are.
    pub fn found(&self) {
        self.change(Rows::found);
    }

    /// Starts a migration as `POST /v1/migrations` does; `from` absent: the primary gives.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn migrate(
        &self,
        shard: ShardId,
        to: &NodeId,
        from: Option<&NodeId>,
    ) -> Result<MigrationId, Box<Problem>> {
        self.change(|rows| rows.migrate(shard, to, from, None)).map_err(|refusal| Box::new(refusal.problem()))
    }

    /// Takes a replica away.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn remove(&self, shard: ShardId, from: &NodeId) -> Result<MigrationId, Box<Problem>> {
        self.change(|rows| rows.remove(shard, from)).map_err(|refusal| Box::new(refusal.problem()))
    }

    /// Cancels a migration.
    ///
    /// # Errors
    /// `too_late` from handing_over on; nothing has changed then.
    pub fn cancel(&self, migration: MigrationId) -> Result<(), Box<Problem>> {
        self.change(|rows| rows.cancel(migration)).map_err(|refusal| Box::new(refusal.problem()))
    }

    /// Grants the node nothing more, waits its lease out (1.05 times, from the last grant) and then says that it is down, with all
    /// failovers: as the real one does with a node that is silent.
    pub async fn expire(&self, node: &NodeId) {
        let until = self.rows().stop_granting(node);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
        self.declare_down(node);
    }

    /// Says at once that the node is down, with all failovers. Correct only where its lease has run out, or its process is
    /// gone.
    pub fn declare_down(&self, node: &NodeId) {
        self.change(|rows| rows.declare_down(node));
    }

    /// Says that the node is alive, and grants it leases again.
    pub fn declare_alive(&self, node: &NodeId) {
        self.change(|rows| rows.declare_alive(node));
    }

    /// Takes all copies of the node for lost, as if it had reported so, or another store had registered under its name.
    pub fn wipe(&self, node: &NodeId) {
        self.change(|rows| rows.wipe(node));
    }

    /// Knows the node's run no longer: whatever it sends next is told to register again.
    pub fn forget_run(&self, node: &NodeId) {
        self.change(|rows| rows.forget_run(node));
    }

    /// Forgets all changes before now: whoever asks for what came after an earlier one is told 410.
    pub fn compact(&self) {
        self.rows().compact();
    }

    /// Changes what goes wrong from now on.
    pub fn fault(&self, change: impl FnOnce(&mut Faults)) {
        self.inner.faults.send_modify(change);
    }

    /// A shard.
    pub fn shard(&self, shard: ShardId) -> Option<Shard> {
        self.rows().shard_view(shard)
    }

    /// A node.
    pub fn node(&self, node: &NodeId) -> Option<Node> {
        self.rows().node_view(node)
    }

    /// A migration.
    pub fn migration(&self, migration: MigrationId) -> Option<Migration> {
        self.rows().migration_view(migration)
    }

    /// What is assigned to a node, ascending by shard.
    pub fn assignments(&self, node: &NodeId) -> Vec<Assignment> {
        self.rows().assignments_of(node)
    }

    /// What the node said in heartbeats that it holds, ascending by shard.
    pub fn held(&self, node: &NodeId) -> Vec<HeldShard> {
        self.rows().held_by(node)
    }

    /// The revision that the node's last heartbeat said is in force there.
    pub fn installed(&self, node: &NodeId) -> Revision {
        self.rows().installed_at(node)
    }

    /// All reports so far, in the order in which they were taken or refused; those of bytes alone too.
    pub fn reports(&self) -> Vec<Taken> {
        self.rows().taken.clone()
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// When it doesn't within a minute; `what` says what was waited for.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !condition(self) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "in vain: {what}; the reports: {:#?}", self.reports());
    }

    /// Waits until every shard is opened by its primary.
    ///
    /// # Panics
    /// As [`Coordinator::until`].
    pub async fn until_opened(&self) {
        self.until("open shards", |coordinator| coordinator.rows().is_opened()).await;
    }

    /// Waits until a migration has ended, and gives it back.
    ///
    /// # Panics
    /// As [`Coordinator::until`]; also without such a migration.
    pub async fn until_ended(&self, migration: MigrationId) -> Migration {
        let ended = |coordinator: &Self| coordinator.migration(migration).filter(|m| m.phase.is_ended());
        self.until(&format!("the end of migration {migration}"), |coordinator| ended(coordinator).is_some())
            .await;
        match ended(self) {
            Some(migration) => migration,
            None => unreachable!("an ended migration is kept"),
        }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        // A test that panicked has failed; what it shares is of no more use than that.
        self.inner.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One command: what it changes is of one revision.
    fn change<T>(&self, f: impl FnOnce(&mut Rows) -> T) -> T {
        let mut rows = self.rows();
        let result = rows.commit(f);
        let revision = rows.revision;
        drop(rows);
        self.inner.published.send_if_modified(|published| {
            let is_newer = *published < revision;
            *published = (*published).max(revision);
            is_newer
        });
        result
    }
}
