//! For the author of a data node who brings a replication of his own, or only wants to be told: assignments as calls.
//!
//! A [`ShardHandler`] is told what the coordinator wants of each shard, one call for each part of the protocol that this node
//! plays (API.md, "What a node reports, by phase"). [`HandlerHost`] is the [`ShardHost`](crate::agent::ShardHost) over one: it
//! turns assignments into calls, cancels those that newer assignments made moot, and reports what came of the others. Every
//! method has a default that acknowledges at once. Who would rather not write a replication takes [`copies`](crate::copies).
//!
//! What holds of every call:
//! 1. It may be made again with the same arguments: after a failure, after a restart of the process, after a new
//!    registration. Made twice it must come to the same as once, so a handler first looks what is there already.
//! 2. What a method's contract calls durable is on disk before it returns `Ok`, since that is told to the coordinator at once.
//! 3. Of one shard at most one of the *duties* (the methods that take a [`Duty`]) runs at a time, also where one that was cancelled takes long to
//!    end. [`assigned`](ShardHandler::assigned) and [`unassigned`](ShardHandler::unassigned) don't wait for it: they come in beside it.
//! 4. A duty's [`cancel`](Duty::cancel) says that nobody wants its result any more: it should end soon, and may leave what
//!    it made, since whatever comes next finds it. It is never dropped half way: the driver waits for its end.
//! 5. Of all shards at most [`HandlerOptions::max_duties`] run at once, of those that move or delete data at most
//!    [`HandlerOptions::max_long_duties`]; others wait in the order of their coming.
//!
//! **Fencing is the handler's.** A primary answers only while [`LeaseWatch::runs`], asked after the answer was worked out and
//! right before it is sent, and only under the epoch of the assignment in force ([`assigned`](ShardHandler::assigned)). The driver can't check
//! that: it never sees a request. Between [`session_ended`](ShardHandler::session_ended) and the next `assigned` of a shard the lease does not run.
//!
//! Caveat: duties are carried out where assignments say so, hence after the lease ran out too. None of them answers clients.

mod driver;
mod host;
mod reports;
mod shard;
#[cfg(test)]
mod tests;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::agent::{HostError, LeaseWatch};
use crate::ids::{Epoch, Incarnation, NodeId, ShardId};
use crate::wire::{AssignedMigration, Assignment, CopyInfo, HeldShard, NodeAddr};
pub use driver::{HandlerHost, HandlerOptions};

/// Why a duty was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DutyError {
    /// Writes that were forwarded to the migration's target did not reach it in sequence: it begins again with `preparing`.
    #[error("gap")]
    Gap,
    /// The migration's target did not answer for 1 s: it begins again with `preparing`.
    #[error("no_answer")]
    NoAnswer,
    /// It can't be done. A migration is aborted with these words; anything else is tried again.
    #[error("{0}")]
    Failed(String),
    /// Not now: the same call is made again, later and later. The coordinator is not told.
    #[error("not now: {0}")]
    Later(String),
}

/// One thing to do for a shard, and what is known about it.
#[derive(Clone)]
pub struct Duty {
    /// The assignment by which it is due. A newer one that leaves the duty as it is doesn't begin it anew.
    pub assignment: Arc<Assignment>,
    /// The session's run of this node.
    pub incarnation: Incarnation,
    /// The node's lease.
    pub lease: LeaseWatch,
    /// Nobody wants the result any more.
    pub cancel: CancellationToken,
}

impl Duty {
    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.assignment.shard
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.assignment.epoch
    }

    /// The migration of which this is a part.
    pub fn migration(&self) -> Option<&AssignedMigration> {
        self.assignment.migration.as_ref()
    }

    /// Whom to copy from.
    pub fn source(&self) -> Option<&NodeAddr> {
        self.migration()?.source.as_ref()
    }

    /// Who takes the copy or the primaryship.
    pub fn target(&self) -> Option<&NodeAddr> {
        self.migration()?.target.as_ref()
    }

    /// The shard's copies on other nodes than `node`.
    pub fn others<'a>(&'a self, node: &'a NodeId) -> impl Iterator<Item = &'a CopyInfo> {
        self.assignment.copies.iter().filter(move |copy| copy.node != *node)
    }
}

/// How far a copying is; cloning is cheap and shares it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    held: Arc<(AtomicU64, AtomicU64)>,
}

impl Progress {
    /// Says how many bytes are copied, of how many. The coordinator is told now and then.
    pub fn set(&self, bytes_done: u64, bytes_total: u64) {
        self.held.0.store(bytes_done, Ordering::Relaxed);
        self.held.1.store(bytes_total, Ordering::Relaxed);
    }

    /// What was said last: bytes copied, of how many; both 0 before.
    pub fn get(&self) -> (u64, u64) {
        (self.held.0.load(Ordering::Relaxed), self.held.1.load(Ordering::Relaxed))
    }
}

/// What a handler has to say of a shard of its own accord.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The copy is missing or unreadable. Told where this node is primary or replica, or in sync.
    pub lost: bool,
    /// What stands in the way of the migration at hand, of which this node is the target or the primary: for instance that
    /// forwarding, which [`forward`](ShardHandler::forward) began, broke off. Told while it is copying or admitting.
    pub broken: Option<DutyError>,
    /// The in-sync set that this primary wants, itself included; `None`: as it stands. It is proposed where it is another.
    ///
    /// To ensure correctness, a primary takes a member out of its quorum, or a new one into it, by this rule: from the
    /// moment at which it first asks here for another set, a write needs every copy of both sets, until an assignment with a higher
    /// `in_sync_version` says which of them stands. A proposal's outcome may be unknown for long. Whoever no longer
    /// wants what was asked asks for the standing set, which is then proposed, so that older proposals are out of date.
    pub in_sync: Option<Vec<NodeId>>,
}

/// What a data node does when the coordinator wants something of a shard. See the [module](self) for what holds of every
/// call, repeats and cancellation above all.
#[async_trait]
pub trait ShardHandler: Send + Sync + 'static {
    /// Called once, before anything else: the lease that a primary checks when it answers. Once for each start, where a handler is
    /// started again: the new lease counts from then on.
    fn attach(&self, _lease: LeaseWatch) {}

    /// Puts an assignment in force: role, epoch, in-sync set, addresses. Quick: the lease waits for it, and so do all other shards.
    ///
    /// From its return nothing is answered under an older assignment of the shard, and nothing is accepted from nodes
    /// under a lower epoch. Where this node holds a copy, the epoch is durable before it returns. Also called where only the migration's phase
    /// changed; in `handing_over` an old primary's lease for the shard is that which it has now, and no longer.
    ///
    /// # Errors
    /// When it is not in force. Meanwhile nothing is answered for the shard, and it is called again.
    async fn assigned(&self, _assignment: &Assignment) -> Result<(), HostError> {
        Ok(())
    }

    /// The shard is no longer assigned here. From its return nothing is answered for it. The copy, if there is one, is kept
    /// and listed: only [`delete`](ShardHandler::delete) deletes. Quick; nothing need be durable.
    ///
    /// # Errors
    /// When that is not in force; it is called again.
    async fn unassigned(&self, _shard: ShardId) -> Result<(), HostError> {
        Ok(())
    }

    /// The session is over, or its node is about to register again: from its return nothing is answered under any
    /// assignment, until the shard is assigned anew. Quick.
    async fn session_ended(&self) {}

    /// Makes an empty copy at this epoch, or leaves the one that is there: a replica of a founding shard, and a migration's
    /// target in `preparing`. It takes forwarded writes from its return.
    ///
    /// Durable before it returns: the copy, empty or as it was, and its epoch. A target's copy that was in the middle of being filled is kept, so that
    /// copying resumes.
    ///
    /// # Errors
    /// As [`DutyError`] says.
    async fn create(&self, _duty: &Duty) -> Result<(), DutyError> {
        Ok(())
    }

    /// The primary of a founding shard makes its own empty copy and looks which others are there: those are returned, this
    /// node among them. They are proposed as the first in-sync set; before that is accepted the shard answers nothing. It
    /// should wait for all of [`Duty::assignment`]'s copies that are not down.
    ///
    /// Durable before it returns: this node's copy, and that each of the others has one at this epoch. The default takes all that are not
    /// down at their word.
    ///
    /// # Errors
    /// As [`DutyError`] says; it is called again.
    async fn found(&self, duty: &Duty) -> Result<Vec<NodeId>, DutyError> {
        Ok(duty.assignment.copies.iter().filter(|copy| !copy.down).map(|copy| copy.node.clone()).collect())
    }

    /// The primary in `preparing`: from its return each write is forwarded to the target too, gapless from a position that the target
    /// was told. Writes don't wait for it yet. Where forwarding is under way already, with a target of the same incarnation, it goes on.
    ///
    /// Nothing need be durable: a restart of either begins this again.
    ///
    /// # Errors
    /// As [`DutyError`] says.
    async fn forward(&self, _duty: &Duty) -> Result<(), DutyError> {
        Ok(())
    }

    /// The target in `copying`: becomes equal to the source, except for what was forwarded in this epoch, which is newer. May
    /// take long, and says meanwhile how far it is. Called again it goes on where it was: another source is as good.
    ///
    /// Durable before it returns: all that was copied, and every write forwarded until then.
    ///
    /// # Errors
    /// As [`DutyError`] says: [`DutyError::Gap`] where forwards are missing.
    async fn copy(&self, _duty: &Duty, _progress: &Progress) -> Result<(), DutyError> {
        Ok(())
    }

    /// The primary in `admitting`: from its return every write waits for the target, and all older ones are on it, on disk.
    /// The driver then proposes the in-sync set with it. The rule of [`Standing::in_sync`] holds from then on.
    ///
    /// # Errors
    /// As [`DutyError`] says.
    async fn admit(&self, _duty: &Duty) -> Result<(), DutyError> {
        Ok(())
    }

    /// The primary in `handing_over`: holds new requests, or sends them to the target once that leads, answers older ones
    /// while the lease that it had lasts, and returns once none is left. From its return it answers nothing under this epoch.
    ///
    /// Nothing need be durable; after a restart the epoch is another.
    ///
    /// # Errors
    /// An error takes the primaryship back: this node goes on, at a higher epoch.
    async fn hand_over(&self, _duty: &Duty) -> Result<(), DutyError> {
        Ok(())
    }

    /// Deletes a retiring copy, unless it has a higher epoch than the assignment: that one is kept.
    ///
    /// Durable before it returns: that it is gone.
    ///
    /// # Errors
    /// As [`DutyError`] says; it is called again.
    async fn delete(&self, _duty: &Duty) -> Result<(), DutyError> {
        Ok(())
    }

    /// What there is to say of an assigned shard. Quick: asked with each look at the shard, several times a second.
    fn standing(&self, _assignment: &Assignment) -> Standing {
        Standing::default()
    }

    /// All copies held, ascending by shard, assigned or not. Quick: asked for each heartbeat.
    fn held(&self) -> Vec<HeldShard> {
        Vec::new()
    }

    /// Free bytes where the copies are.
    fn disk_free_bytes(&self) -> Option<u64> {
        None
    }

    /// The highest generation that [`save_generation`](ShardHandler::save_generation) kept; 0 for none.
    fn generation(&self) -> u64 {
        0
    }

    /// Keeps a generation that is higher than the one kept. Durable before it returns. The default keeps it for as long as
    /// the process lives, which will do for who holds no data.
    ///
    /// # Errors
    /// When it is not durable.
    async fn save_generation(&self, _generation: u64) -> Result<(), HostError> {
        Ok(())
    }
}
