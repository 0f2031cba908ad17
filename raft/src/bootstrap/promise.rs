//! The durable promise of a fresh node to one proposer of a first membership.
//!
//! Invariants: at any time a node is promised to one proposer at most, and to another one afterwards only when the first
//! has given its proposal up; it promises nothing once it belongs to a cluster. So of all proposals only one can be promised
//! by all of its members, and two clusters can't begin with a common node. The proposer's newer proposals replace older ones
//! until it starts, since only it can start one.
//!
//! Whose nodes each hold some of the other's members would wait for ever. Therefore a promised node asks its proposer now and
//! then to be released. The proposer gives its proposal up when it cannot start it any more, being promised to another one,
//! and when it knows by this question of a proposer with a lower id that asked in vain: of those that wait for each other in
//! a circle at least one does. It promises itself last of all, so until then it can: it never starts a proposal under that
//! cluster id again, whatever answers to it still come.

use std::time::Duration;

use bytes::Bytes;
use ruvector_cluster_storage::{IdentityFile, Slots};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::messages::{Proposal, ReleaseRequest};
use crate::codec;
use crate::config::SettingsDiff;

/// Why a promise was not given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PromiseError {
    #[error("it belongs to cluster {0}")]
    Member(String),
    #[error("it is promised to the control node with raft id {0}")]
    Promised(u64),
    #[error("it gave this proposal up for another one")]
    GivenUp,
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
    /// Under which cluster id this node would propose. New in each run, so that repeating a proposal writes nothing and what
    /// an earlier run proposed is given up.
    draft: u128,
    given_up: Option<Instant>,
}

/// For how long a proposer lets another one go first.
const GIVE_WAY: Duration = Duration::from_secs(1);

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
        let state = Mutex::new(State { slots, promise, rival: None, draft, given_up: None });
        Ok(Self { raft_id, settings, settings_diff, identity, state })
    }

    pub(crate) fn cluster_id(&self) -> Option<String> {
        self.identity.get().cluster_id
    }

    /// The newest promise.
    pub(crate) async fn promised(&self) -> Option<Proposal> {
        self.state.lock().await.promise.clone()
    }

    /// Under which cluster id this node may propose now; None while it lets another one go first.
    pub(crate) async fn draft(&self) -> Option<String> {
        let state = self.state.lock().await;
        let gives_way = state.given_up.is_some_and(|since| since.elapsed() < GIVE_WAY);
        (!gives_way).then(|| cluster_id_of(state.draft))
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
            Some((proposer, false)) if proposer != proposal.proposer => {
                let asked = proposal.proposer;
                state.rival = Some(state.rival.map_or(asked, |rival| rival.min(asked)));
                return Err(PromiseError::Promised(proposer));
            }
            Some(_) | None => {}
        }
        if proposal.proposer == self.raft_id && proposal.cluster_id != cluster_id_of(state.draft) {
            return Err(PromiseError::GivenUp);
        }
        let bytes =
            codec::encode("promise", &proposal).map_err(|error| PromiseError::Storage(error.to_string()))?;
        state.slots.save(bytes).await.map_err(|error| PromiseError::Storage(error.to_string()))?;
        state.promise = Some(proposal);
        Ok(())
    }

    /// What a promised node asks its proposer: whether it is free again, and on behalf of whom.
    pub(crate) async fn plea(&self) -> Option<(Proposal, ReleaseRequest)> {
        let state = self.state.lock().await;
        let promise = state.promise.clone().filter(|_| self.cluster_id().is_none())?;
        let request = ReleaseRequest { cluster_id: promise.cluster_id.clone(), rival: state.rival };
        Some((promise, request))
    }

    /// The proposer's answer to a member of its proposal: true when it will never start that one, and then it won't.
    pub(crate) async fn give_up(&self, request: &ReleaseRequest) -> bool {
        let mut state = self.state.lock().await;
        if self.cluster_id().as_ref() == Some(&request.cluster_id) {
            return false;
        }
        if request.cluster_id != cluster_id_of(state.draft) {
            return true;
        }
        let must = match state.promise.as_ref().map(|promise| promise.proposer) {
            Some(proposer) => proposer != self.raft_id,
            None => request.rival.is_some_and(|rival| rival < self.raft_id),
        };
        if must {
            state.draft = state.draft.wrapping_add(1);
            state.given_up = Some(Instant::now());
        }
        must
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

    /// Binds the directory to a cluster that took this node as a member. What it was promised to may still start and will not
    /// be answered by this node, which then speaks for another cluster.
    pub(crate) async fn join(&self, cluster_id: &str) -> Result<(), PromiseError> {
        let _state = self.state.lock().await;
        self.bind(cluster_id).await
    }

    async fn bind(&self, cluster_id: &str) -> Result<(), PromiseError> {
        self.identity.bind(cluster_id).await.map_err(|error| PromiseError::Storage(error.to_string()))
    }
}

fn cluster_id_of(draft: u128) -> String {
    format!("{draft:032x}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use ruvector_cluster_storage::{MemRows, OpenOptions, SimDisk, Storage};

    use super::super::messages::Opaque;
    use super::*;
    use crate::types::Peer;

    async fn fresh(disk: &SimDisk) -> (Founding, Storage) {
        let options = OpenOptions { raft_id: Some(3), ..OpenOptions::new("n3") };
        let storage = Storage::open(Arc::new(disk.clone()), Arc::new(MemRows::new()), options).await.unwrap();
        let diff: SettingsDiff = Arc::new(|mine, theirs| {
            if mine == theirs { Vec::new() } else { vec!["num-shards 64 here, 65 there".to_owned()] }
        });
        let settings = Bytes::from_static(b"64");
        let (identity, slots) = (storage.identity.clone(), storage.promise.clone());
        let founding = Founding::open(3, settings, diff, identity, slots, 0xd).await;
        (founding.unwrap(), storage)
    }

    fn plea(cluster_id: &str, rival: Option<u64>) -> ReleaseRequest {
        ReleaseRequest { cluster_id: cluster_id.to_owned(), rival }
    }

    fn proposal(proposer: u64, cluster_id: &str, settings: &'static [u8]) -> Proposal {
        let members: BTreeMap<_, _> = [proposer, 3].map(|id| (id, Peer::default())).into();
        Proposal {
            cluster_id: cluster_id.to_owned(),
            proposer,
            members,
            settings: Opaque(Bytes::from_static(settings)),
        }
    }

    #[tokio::test]
    async fn a_promise_binds_to_its_proposer_across_a_crash() {
        let disk = SimDisk::new();
        let (founding, storage) = fresh(&disk).await;
        founding.promise(proposal(1, "a", b"64")).await.unwrap();
        drop((founding, storage));
        let (founding, _storage) = fresh(&disk.crash(1)).await;
        assert!(matches!(founding.promise(proposal(2, "b", b"64")).await, Err(PromiseError::Promised(1))));
        founding.promise(proposal(1, "c", b"64")).await.unwrap();
        assert!(!founding.adopt("a").await.unwrap(), "the newer proposal replaced it");
        assert!(founding.adopt("c").await.unwrap());
        assert!(
            matches!(founding.promise(proposal(1, "d", b"64")).await, Err(PromiseError::Member(bound)) if bound == "c")
        );
    }

    #[tokio::test]
    async fn flags_that_disagree_are_refused_and_named() {
        let disk = SimDisk::new();
        let (founding, _storage) = fresh(&disk).await;
        let refused = founding.promise(proposal(1, "a", b"65")).await.unwrap_err();
        assert_eq!(refused.to_string(), "its flags disagree: num-shards 64 here, 65 there");
        assert_eq!(founding.promised().await, None);
    }

    #[tokio::test]
    async fn a_proposer_that_is_promised_to_another_never_starts_what_it_gave_up() {
        let (founding, _storage) = fresh(&SimDisk::new()).await;
        let draft = founding.draft().await.unwrap();
        assert!(!founding.give_up(&plea(&draft, None)).await, "it may still start");
        founding.promise(proposal(1, "a", b"64")).await.unwrap();
        assert!(founding.give_up(&plea(&draft, None)).await);
        // Released itself, it still holds promises under the old cluster id.
        founding.release(&plea("a", None)).await;
        let late = founding.promise(proposal(3, &draft, b"64")).await.unwrap_err();
        assert!(matches!(late, PromiseError::GivenUp), "{late}");
        assert!(!founding.adopt(&draft).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_proposers_that_wait_for_each_other_the_higher_one_gives_way() {
        let (founding, _storage) = fresh(&SimDisk::new()).await;
        let draft = founding.draft().await.unwrap();
        assert!(!founding.give_up(&plea(&draft, Some(4))).await);
        assert!(founding.give_up(&plea(&draft, Some(1))).await);
        assert_eq!(founding.draft().await, None, "the other one goes first");
        tokio::time::sleep(GIVE_WAY).await;
        let next = founding.draft().await.unwrap();
        assert_ne!(next, draft);
        founding.promise(proposal(3, &next, b"64")).await.unwrap();
        assert!(!founding.give_up(&plea(&next, Some(1))).await, "about to start");
        assert!(founding.adopt(&next).await.unwrap());
        assert!(!founding.give_up(&plea(&next, Some(1))).await, "started");
        assert!(founding.give_up(&plea(&draft, None)).await);
    }

    #[tokio::test]
    async fn a_released_node_promises_itself_to_the_one_that_asked_in_vain() {
        let (founding, _storage) = fresh(&SimDisk::new()).await;
        founding.promise(proposal(2, "b", b"64")).await.unwrap();
        assert!(founding.promise(proposal(1, "a", b"64")).await.is_err());
        let (promise, request) = founding.plea().await.unwrap();
        assert_eq!((promise.proposer, &request), (2, &plea("b", Some(1))));
        founding.promise(proposal(2, "c", b"64")).await.unwrap();
        founding.release(&request).await;
        assert_eq!(
            founding.promised().await.unwrap().cluster_id,
            "c",
            "the answer was about an older proposal"
        );
        founding.release(&plea("c", None)).await;
        founding.promise(proposal(1, "a", b"64")).await.unwrap();
    }

    #[tokio::test]
    async fn a_proposer_that_crashed_before_it_was_bound_gave_its_proposal_up() {
        let disk = SimDisk::new();
        let (founding, storage) = fresh(&disk).await;
        let earlier = founding.draft().await.unwrap();
        founding.promise(proposal(3, &earlier, b"64")).await.unwrap();
        drop((founding, storage));
        let (founding, _storage) = fresh(&disk.crash(1)).await;
        founding.state.lock().await.draft = 0xe;
        assert!(founding.give_up(&plea(&earlier, None)).await);
    }
}
