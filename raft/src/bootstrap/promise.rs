//! The durable promise of a fresh node to one proposer of a first membership.
//!
//! Invariants: at any time a node is promised to one proposer at most, and never to another one afterwards; it promises
//! nothing once it belongs to a cluster. So of all proposals only one can be promised by all of its members, and two clusters
//! can't begin with a common node. The proposer's newer proposals replace older ones until it starts, since only it can
//! start one.

use bytes::Bytes;
use ruvector_cluster_storage::{IdentityFile, Slots};
use tokio::sync::Mutex;

use super::messages::Proposal;
use crate::codec;
use crate::config::SettingsDiff;

/// Why a promise was not given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PromiseError {
    #[error("it belongs to cluster {0}")]
    Member(String),
    #[error("it is promised to the control node with raft id {0}")]
    Promised(u64),
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
    promise: Mutex<(Slots, Option<Proposal>)>,
}

impl Founding {
    pub(crate) async fn open(
        raft_id: u64,
        settings: Bytes,
        settings_diff: SettingsDiff,
        identity: IdentityFile,
        slots: Slots,
    ) -> Result<Self, codec::CodecError> {
        let promise = slots.load().await.map(|bytes| codec::decode("promise", &bytes)).transpose()?;
        Ok(Self { raft_id, settings, settings_diff, identity, promise: Mutex::new((slots, promise)) })
    }

    pub(crate) fn cluster_id(&self) -> Option<String> {
        self.identity.get().cluster_id
    }

    /// The newest promise.
    pub(crate) async fn promised(&self) -> Option<Proposal> {
        self.promise.lock().await.1.clone()
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
        let mut promise = self.promise.lock().await;
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
        match &promise.1 {
            Some(earlier) if *earlier == proposal => return Ok(()),
            Some(earlier) if earlier.proposer != proposal.proposer => {
                return Err(PromiseError::Promised(earlier.proposer));
            }
            Some(_) | None => {}
        }
        let bytes =
            codec::encode("promise", &proposal).map_err(|error| PromiseError::Storage(error.to_string()))?;
        promise.0.save(bytes).await.map_err(|error| PromiseError::Storage(error.to_string()))?;
        promise.1 = Some(proposal);
        Ok(())
    }

    /// Binds the directory to the cluster that this node promised itself to, if that is the one named; tells whether it is
    /// bound to that one now.
    pub(crate) async fn adopt(&self, cluster_id: &str) -> Result<bool, PromiseError> {
        let promise = self.promise.lock().await;
        if let Some(bound) = self.cluster_id() {
            return Ok(bound == cluster_id);
        }
        if promise.1.as_ref().is_none_or(|promised| promised.cluster_id != cluster_id) {
            return Ok(false);
        }
        self.bind(cluster_id).await?;
        Ok(true)
    }

    /// Binds the directory to a cluster that took this node as a member. What it was promised to may still start and will not
    /// be answered by this node, which then speaks for another cluster.
    pub(crate) async fn join(&self, cluster_id: &str) -> Result<(), PromiseError> {
        let _promise = self.promise.lock().await;
        self.bind(cluster_id).await
    }

    async fn bind(&self, cluster_id: &str) -> Result<(), PromiseError> {
        self.identity.bind(cluster_id).await.map_err(|error| PromiseError::Storage(error.to_string()))
    }
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
        let founding = Founding::open(3, settings, diff, storage.identity.clone(), storage.promise.clone());
        (founding.await.unwrap(), storage)
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
}
