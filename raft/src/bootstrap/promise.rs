//! The durable promise of a fresh node to one proposer of a first membership.
//!
//! Invariants
//! 1. A cluster id stands for one proposal: its members are never others.
//! 2. A node is promised to one proposal at most. Only its proposer ends that, by saying that it gave the proposal up.
//! 3. What was given up is never started: the proposer promises itself last of all, and only to what it has not given up.
//! 4. A node that asks a running cluster to take it in is promised to nobody, and promises nothing meanwhile. Nor does one
//!    that belongs to a cluster.
//!
//! So of all proposals only one can be promised by all of its members, and two clusters can't begin with a common node.
//!
//! Two proposers that each hold a node which the other one needs would wait for ever. Therefore a promised node asks its
//! proposer again and again to be released. The proposer gives up what it cannot start any more, since it is promised to
//! another one or belongs to a cluster; and what stands in the way of a proposer with a lower id, or of a member that found
//! a running cluster. Of the proposers that wait for each other the lowest never gives up, and the others let it go first,
//! each time for twice as long.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ruvector_cluster_storage::{IdentityFile, Slots};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::messages::{Opaque, Proposal, ReleaseRequest};
use crate::codec;
use crate::config::SettingsDiff;
use crate::types::Peer;

/// Why a promise was not given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PromiseError {
    #[error("it belongs to cluster {0}")]
    Member(String),
    #[error("it is promised to the control node with raft id {0}")]
    Promised(u64),
    #[error("it gave this proposal up for another one")]
    GivenUp,
    #[error("it is asking a running cluster to take it in")]
    Joining,
    #[error("it is not among the proposed members")]
    NotMentioned,
    #[error("its flags disagree: {}", .0.join(", "))]
    Settings(Vec<String>),
    #[error("its directory cannot be written: {0}")]
    Storage(String),
}

/// The promise and the cluster that this directory is bound to.
pub(crate) struct Founding {
    raft_id: u64,
    settings: Bytes,
    settings_diff: SettingsDiff,
    identity: IdentityFile,
    state: Mutex<State>,
}

struct State {
    slots: Slots,
    promise: Option<Proposal>,
    /// The lowest id of a proposer that was refused because of the promise.
    rival: Option<u64>,
    /// It asks a running cluster to take it in.
    is_joining: bool,
    draft: Draft,
}

/// What this node would propose.
struct Draft {
    /// Drawn anew in each run, so that what an earlier run proposed is given up.
    cluster_id: u128,
    /// Who was asked to promise themselves to it.
    members: Option<BTreeMap<u64, Peer>>,
    /// Until then another proposer goes first.
    gives_way_until: Option<Instant>,
    /// For how long it will the next time.
    give_way: Duration,
}

const FIRST_GIVE_WAY: Duration = Duration::from_secs(1);
const LAST_GIVE_WAY: Duration = Duration::from_secs(60);

impl Draft {
    fn new(cluster_id: u128) -> Self {
        Self { cluster_id, members: None, gives_way_until: None, give_way: FIRST_GIVE_WAY }
    }

    fn cluster_id(&self) -> String {
        format!("{:032x}", self.cluster_id)
    }

    /// What was proposed is never proposed again.
    fn replace(&mut self) {
        self.cluster_id = self.cluster_id.wrapping_add(1);
        self.members = None;
    }

    fn give_up(&mut self) {
        self.replace();
        self.gives_way_until = Some(Instant::now() + self.give_way);
        self.give_way = (self.give_way * 2).min(LAST_GIVE_WAY);
    }

    fn gives_way(&self) -> bool {
        self.gives_way_until.is_some_and(|until| Instant::now() < until)
    }
}

impl Founding {
    pub(crate) async fn open(
        raft_id: u64,
        settings: Bytes,
        settings_diff: SettingsDiff,
        identity: IdentityFile,
        slots: Slots,
        draft: u128,
    ) -> Result<Self, codec::CodecError> {
        let promise = slots.load().await.map(|bytes| codec::decode("promise", &bytes)).transpose()?;
        let state = State { slots, promise, rival: None, is_joining: false, draft: Draft::new(draft) };
        let state = Mutex::new(state);
        Ok(Self { raft_id, settings, settings_diff, identity, state })
    }

    pub(crate) fn cluster_id(&self) -> Option<String> {
        self.identity.get().cluster_id
    }

    /// The newest promise.
    pub(crate) async fn promised(&self) -> Option<Proposal> {
        self.state.lock().await.promise.clone()
    }

    /// What this node may propose to found with these members now; None while it lets another proposer go first.
    pub(crate) async fn draft(&self, members: BTreeMap<u64, Peer>) -> Option<Proposal> {
        let mut state = self.state.lock().await;
        let draft = &mut state.draft;
        if draft.members.as_ref().is_some_and(|proposed| *proposed != members) {
            draft.replace();
        }
        draft.members = Some(members.clone());
        (!draft.gives_way()).then(|| Proposal {
            cluster_id: draft.cluster_id(),
            proposer: self.raft_id,
            members,
            settings: Opaque(self.settings.clone()),
        })
    }

    /// In which settings `theirs` differ from this node's.
    pub(crate) fn differences(&self, theirs: &[u8]) -> Vec<String> {
        (self.settings_diff)(&self.settings, theirs)
    }

    /// Promises this node to a proposal; durable when this returns.
    ///
    /// # Errors
    /// [`PromiseError`]; an earlier promise then stands.
    pub(crate) async fn promise(&self, proposal: Proposal) -> Result<(), PromiseError> {
        let mut state = self.state.lock().await;
        if let Some(cluster_id) = self.cluster_id() {
            return Err(PromiseError::Member(cluster_id));
        }
        if !proposal.members.contains_key(&self.raft_id) {
            return Err(PromiseError::NotMentioned);
        }
        let differences = self.differences(&proposal.settings.0);
        if !differences.is_empty() {
            return Err(PromiseError::Settings(differences));
        }
        match state.promise.as_ref().map(|earlier| (earlier.proposer, *earlier == proposal)) {
            Some((_, true)) => return Ok(()),
            Some((proposer, false)) => {
                let asked = proposal.proposer;
                state.rival = Some(state.rival.map_or(asked, |rival| rival.min(asked)));
                return Err(PromiseError::Promised(proposer));
            }
            None if state.is_joining => return Err(PromiseError::Joining),
            None => {}
        }
        if proposal.proposer == self.raft_id && proposal.cluster_id != state.draft.cluster_id() {
            return Err(PromiseError::GivenUp);
        }
        let bytes =
            codec::encode("promise", &proposal).map_err(|error| PromiseError::Storage(error.to_string()))?;
        state.slots.save(bytes).await.map_err(|error| PromiseError::Storage(error.to_string()))?;
        state.promise = Some(proposal);
        Ok(())
    }

    /// What a promised node asks its proposer: whether it is free again, and on whose behalf.
    pub(crate) async fn plea(&self, joining: bool) -> Option<(Proposal, ReleaseRequest)> {
        let state = self.state.lock().await;
        let promise = state.promise.clone().filter(|_| self.cluster_id().is_none())?;
        let request = ReleaseRequest { cluster_id: promise.cluster_id.clone(), rival: state.rival, joining };
        Some((promise, request))
    }

    /// The proposer's answer to a member of its proposal: true when it will never start that one, and then it won't.
    pub(crate) async fn give_up(&self, request: &ReleaseRequest) -> bool {
        let mut state = self.state.lock().await;
        if let Some(bound) = self.cluster_id() {
            return bound != request.cluster_id;
        }
        if request.cluster_id != state.draft.cluster_id() {
            return true;
        }
        let gives_up = match state.promise.as_ref().map(|promise| promise.proposer) {
            Some(proposer) => proposer != self.raft_id,
            None => request.joining || request.rival.is_some_and(|rival| rival < self.raft_id),
        };
        if gives_up {
            state.draft.give_up();
        }
        gives_up
    }

    /// Forgets the promise to a proposal that its proposer has given up. Nothing is written: whoever reads the promise after
    /// a crash asks again.
    pub(crate) async fn release(&self, given_up: &ReleaseRequest) {
        let mut state = self.state.lock().await;
        if state.promise.take_if(|promise| promise.cluster_id == given_up.cluster_id).is_some() {
            state.rival = None;
        }
    }

    /// Binds the directory to the cluster that this node promised itself to, if that is the one named; tells whether it is
    /// bound to that one now.
    pub(crate) async fn adopt(&self, cluster_id: &str) -> Result<bool, PromiseError> {
        let state = self.state.lock().await;
        if let Some(bound) = self.cluster_id() {
            return Ok(bound == cluster_id);
        }
        if state.promise.as_ref().is_none_or(|promised| promised.cluster_id != cluster_id) {
            return Ok(false);
        }
        self.bind(cluster_id).await?;
        Ok(true)
    }

    /// Begins to ask a running cluster to take this node in: it promises nothing until [`Founding::stop_joining`]. Or tells what
    /// it is promised to, and that may still start.
    pub(crate) async fn begin_joining(&self) -> Option<Proposal> {
        let mut state = self.state.lock().await;
        let promise = state.promise.clone().filter(|_| self.cluster_id().is_none());
        state.is_joining = promise.is_none();
        promise
    }

    /// It was not taken in, or need not be.
    pub(crate) async fn stop_joining(&self) {
        self.state.lock().await.is_joining = false;
    }

    /// Binds the directory to a cluster that took this node as a member.
    pub(crate) async fn join(&self, cluster_id: &str) -> Result<(), PromiseError> {
        let _state = self.state.lock().await;
        self.bind(cluster_id).await
    }

    async fn bind(&self, cluster_id: &str) -> Result<(), PromiseError> {
        self.identity.bind(cluster_id).await.map_err(|error| PromiseError::Storage(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
